"""Processes that are kept: started again when they die, given up when they cannot start, killed when they hang."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cds_service.lifeline import MISCONFIGURED
from cds_service.workers import CANNOT_START, TRIES, Kept, watch_engine

STARTED = "import sys; open(sys.argv[1], 'a').write('.'); "
SPEAKS_ONCE = """
import socket, sys, time
from pathlib import Path
from cds_service.engine_wire import Here, asked, receive, send
path = Path(sys.argv[1])
path.unlink(missing_ok=True)
listening = socket.socket(socket.AF_UNIX)
listening.bind(str(path))
listening.listen()
connection, _ = listening.accept()
receive(connection, asked)
send(connection, Here((), 0.0))
time.sleep(600)
"""


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def kept(code: str, *arguments: str) -> Iterator[tuple[Kept, threading.Event]]:
    gave_up = threading.Event()
    process = Kept("part", (sys.executable, "-c", code, *arguments), os.environ, (), gave_up.set)
    try:
        yield process, gave_up
    finally:
        process.stop()
        process.join(60)


def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    with kept(STARTED + "import time; time.sleep(600)", str(starts)) as (process, gave_up):
        for n in range(1, 4):
            until(lambda n=n: starts.exists() and len(starts.read_text()) == n)
            process.kill()
        until(lambda: len(starts.read_text()) == 4)
        assert not gave_up.is_set()


def test_a_process_that_fails_again_and_again_is_given_up_with_its_status(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    with kept(STARTED + "sys.exit(3)", str(starts)) as (process, gave_up):
        assert gave_up.wait(60)
        assert process.status == 3
    assert len(starts.read_text()) == TRIES


def test_a_process_that_the_system_cannot_start_is_given_up_as_well(tmp_path: Path) -> None:
    gave_up = threading.Event()
    process = Kept("part", (str(tmp_path / "nowhere"),), os.environ, (), gave_up.set)
    assert gave_up.wait(60)
    assert process.status == CANNOT_START
    process.stop()
    process.join(60)


def test_a_process_whose_settings_are_wrong_is_started_once(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    with kept(STARTED + f"sys.exit({MISCONFIGURED})", str(starts)) as (process, gave_up):
        assert gave_up.wait(60)
        assert process.status == MISCONFIGURED
    assert starts.read_text() == "."


def test_a_process_that_does_not_end_when_it_is_told_to_is_ended(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STARTED + "time.sleep(600)"
    with kept(deaf, str(starts)) as (process, _):
        until(starts.exists)
        running = process.process
        process.stop()
        process.join(0.1)
        assert running is not None
        assert running.returncode == -signal.SIGKILL


def test_an_engine_that_says_nothing_more_is_killed_and_started_again(tmp_path: Path) -> None:
    path, ended = tmp_path / "engine.sock", threading.Event()
    with kept(SPEAKS_ONCE, str(path)) as (engine, gave_up):
        first = engine.started_at
        watching = threading.Thread(target=watch_engine, args=(engine, path, 0.5, ended))
        watching.start()
        until(lambda: engine.started_at > first)
        assert not gave_up.is_set()
        ended.set()
        watching.join()
