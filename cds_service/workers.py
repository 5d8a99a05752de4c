"""`supervise`: one service as several processes, each started again when it ends before it should.

    web workers    share one listening socket; the kernel gives a connection to whichever is free
    engine         owns the models; while it is away the workers answer by rules alone

This process keeps the socket, so that a caller who connects while a worker starts anew waits and is not refused.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cds_service.engine_client import EngineLink
from cds_service.lifeline import MISCONFIGURED
from cds_service.settings import Settings

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
SETTLED_S = 30.0
"""A process that lived so long was well: what ends it then counts from the beginning."""
TRIES = 5
CANNOT_START = 1
HUNG_S = 30.0
"""An engine that says nothing for so long, or that takes so long for one batch, is ended and started again."""
LOADING_S = 300.0
LEAVE_S = 10.0
ENGINE = "engine.sock"


class Kept:
    """One process that is started again whenever it ends, until `stop`. Gives up on one that cannot start."""

    def __init__(
        self,
        part: str,
        command: tuple[str, ...],
        env: Mapping[str, str],
        fds: tuple[int, ...],
        gave_up: Callable[[], None],
    ) -> None:
        self.part = part
        self._command, self._env, self._fds, self._gave_up = command, dict(env), fds, gave_up
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = float("-inf")
        self.status = 0
        """Of a process that was given up on."""
        self._thread = threading.Thread(target=self._keep, name=f"keep-{part}", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        failures = 0
        while True:
            with self._lock:
                if self._stopping.is_set():
                    return
                self.started_at = time.monotonic()
                self.process = self._start()
            status = self.process.wait() if self.process is not None else CANNOT_START
            if self._stopping.is_set():
                return
            failures = 1 if time.monotonic() - self.started_at > SETTLED_S else failures + 1
            log.error("process ended", extra={"fields": {"part": self.part, "status": status, "failures": failures}})
            if status == MISCONFIGURED or (failures >= TRIES and status > 0):
                self.status = status
                self._gave_up()
                return
            self._stopping.wait(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (failures - 1)))

    def _start(self) -> subprocess.Popen[bytes] | None:
        try:
            # S603: the command is ours, word for word.
            return subprocess.Popen(self._command, env=self._env, pass_fds=self._fds)  # noqa: S603
        except OSError as error:  # no memory or no process number left
            log.error("process not started", extra={"fields": {"part": self.part, "why": error.strerror}})
            return None

    def kill(self) -> None:
        """End it at once; it is started again."""
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """Ask it to end, and start it no more."""
        with self._lock:
            self._stopping.set()
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()

    def join(self, seconds: float) -> None:
        """Wait until it has ended; after so long it is made to."""
        if self.process is not None:
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                log.error("process killed", extra={"fields": {"part": self.part}})
                self.process.kill()
                self.process.wait()
        self._thread.join()


def supervise(settings: Settings, listening: socket.socket, *, models: bool, hung_s: float = HUNG_S) -> int:
    """Serve on this socket until SIGTERM or SIGINT. For the main thread; returns the status to exit with.

    settings: with the port that was found. models: whether any service has one.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    lifeline, held = os.pipe()  # nobody writes: it is the end of `held` that is read, with this process
    env = {**os.environ, "ORDERSIGHT_HOST": settings.host, "ORDERSIGHT_PORT": str(settings.port)}
    os.set_inheritable(listening.fileno(), True)
    run = (sys.executable, "-P", "-m")
    with tempfile.TemporaryDirectory(prefix="ordersight-") as name:
        folder, engine = Path(name), None
        if models:
            command = (*run, "cds_service.engine_process", str(folder / ENGINE), str(lifeline))
            engine = Kept("engine", command, env, (lifeline,), ended.set)
        fds = (listening.fileno(), lifeline)
        workers = [
            Kept(
                f"web-{n}",
                (*run, "cds_service.web_worker", str(n), name, str(listening.fileno()), str(lifeline)),
                env,
                fds,
                ended.set,
            )
            for n in range(settings.workers)
        ]
        if engine is not None:
            threading.Thread(
                target=watch_engine, args=(engine, folder / ENGINE, hung_s, ended), name="watchdog", daemon=True
            ).start()
        ended.wait()
        listening.close()
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(settings.drain_s + LEAVE_S)
        if engine is not None:
            engine.stop()
            engine.join(LEAVE_S)
    os.close(held)
    os.close(lifeline)
    log.info("stopped")
    return max((kept.status for kept in (*workers, *([engine] if engine else []))), default=0)


def watch_engine(engine: Kept, path: Path, hung_s: float, ended: threading.Event) -> None:
    """End an engine that hangs in native code or was stopped: its thread cannot be, and nobody else would notice."""
    link = EngineLink(path)
    while not ended.wait(min(1.0, hung_s / 4)):
        now, started = time.monotonic(), engine.started_at
        heard = link.spoke_at > started
        silent = now - (link.spoke_at if heard else started) > (hung_s if heard else LOADING_S)
        if silent or (heard and link.busy_s > hung_s):
            log.error("engine hung", extra={"fields": {"busy_s": round(link.busy_s, 1)}})
            engine.kill()
            # Until it is started again its last words are not the next one's.
            while engine.started_at == started and not ended.wait(0.05):
                pass
    link.close()
