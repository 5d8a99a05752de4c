"""What is promised while the database is locked, gone, full, replaced, or fails at any one statement."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import orjson
import psycopg
import pytest
from postgres_cluster import Cluster, cluster
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from state_cases import LATER, NOW, answer, card, item, until

from cds_service.state import schema
from cds_service.state.engines import WRITE_LOCK, read_url
from cds_service.state.errors import StateError, StateUnavailable
from cds_service.state.outbox import HEADER, Outbox
from cds_service.state.store import Store

HERE = Path(__file__).parent
DAY = timedelta(days=1)


def audited(store: Store) -> set[str]:
    return {orjson.loads(line)["id"] for line in store.export_audit()}


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Hold what another process's stuck write transaction would hold."""
    if url.startswith("sqlite"):
        conn: Any = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        conn.execute("BEGIN IMMEDIATE")
    else:
        conn = psycopg.connect(url.replace("+psycopg", ""))
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
    try:
        yield
    finally:
        conn.rollback()
        conn.close()


@pytest.mark.in_time
def test_while_the_database_is_locked_answers_go_to_the_outbox_and_nothing_else_is_acknowledged(
    url: str, store: Store
) -> None:
    store.record_answer(answer(card("c1")), timeout=30.0)
    late = [answer(card(f"late-{n}")) for n in range(5)]
    with locked(url):
        started = time.monotonic()
        store.record_answer(late[0])
        assert time.monotonic() - started < 0.5  # the least of the hooks' budgets
        for record in late[1:]:
            started = time.monotonic()
            store.record_answer(record)
            assert time.monotonic() - started < 0.3
        assert store.health().outbox == 5
        started = time.monotonic()
        with pytest.raises(StateUnavailable):
            store.record_feedback("north", [item("c1")])
        with pytest.raises(StateUnavailable):
            store.use_jti("https://ehr.example.org", "token", LATER, NOW, timeout=0.5)
        assert time.monotonic() - started < 3.5
        assert store.switches().state("north", "imaging-safety") == "on"
    until(lambda: store.health().outbox == 0)
    assert {record.id for record in late} <= audited(store)
    assert store.verify_audit().ok
    assert store.record_feedback("north", [item("c1"), item("late-3")]).unmatched == 0
    assert not store._writer.failing


def test_feedback_that_overtakes_its_answer_counts_once_the_answer_arrives(store: Store) -> None:
    """The answer waits in one process's outbox while another process takes the report."""
    assert store.record_feedback("north", [item("c1")], service="imaging-safety").unmatched == 1
    assert store.record_feedback("north", [item("c2")], service="deterioration").unmatched == 1
    store.record_answer(answer(card("c1"), card("c2"), service="imaging-safety"))
    report = store.feedback_report(NOW - DAY, NOW + 10_000 * DAY)
    assert [(row.shown, row.accepted) for row in report.rows] == [(2, 1)]
    assert report.unmatched == 1


def test_what_a_killed_process_left_in_its_outbox_comes_in_with_the_next_start(url: str, folder: Path) -> None:
    records = [answer(card(f"c{n}")) for n in range(3)]
    code = (
        "import sys, msgspec, os, signal\n"
        "from pathlib import Path\n"
        "from cds_service.state.outbox import Outbox\n"
        "box = Outbox.open(Path(sys.argv[1]), 1 << 20)\n"
        "for line in sys.stdin.buffer: box.append(line.rstrip())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    lines = b"".join(msgspec.json.encode(r) + b"\n" for r in records)
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], input=lines, check=False)
    assert killed.returncode == -signal.SIGKILL
    with Store.open(url, folder, outbox_bytes=1 << 20) as store:
        until(lambda: store.health().outbox == 0)
        assert audited(store) == {r.id for r in records}


@pytest.mark.in_time
def test_a_full_outbox_and_no_database_mean_no_answer(url: str, folder: Path) -> None:
    with Store.open(url, folder, outbox_bytes=4096) as store, locked(url):
        records = [answer(card()) for _ in range(20)]
        kept = []
        for record in records:
            with contextlib.suppress(StateUnavailable):
                store.record_answer(record)
                kept.append(record.id)
        assert 0 < len(kept) < 20
        with pytest.raises(StateUnavailable, match="outbox is full"):
            store.record_answer(answer(card()))
        assert store.health().outbox == len(kept)
    with Store.open(url, folder, outbox_bytes=4096) as store:
        until(lambda: store.health().outbox == 0)
        assert audited(store) == set(kept)


def test_a_record_cut_short_in_the_outbox_was_never_acknowledged_and_hides_nothing(tmp_path: Path) -> None:
    box = Outbox.open(tmp_path, 1 << 16)
    box.append(b"first")
    box.append(b"second")
    box.close()
    path = tmp_path / "outbox-0.log"
    raw = bytearray(path.read_bytes())
    raw[2 * HEADER.size + len(b"first")] ^= 1  # one bit of the second record
    path.write_bytes(raw)
    box = Outbox.open(tmp_path, 1 << 16)
    box.append(b"third")
    got: list[bytes] = []
    assert box.replay(got.extend) == 2
    assert got == [b"first", b"third"]
    assert box.replay(got.extend) == 0
    box.close()


def test_two_processes_never_share_an_outbox(tmp_path: Path) -> None:
    first, second = Outbox.open(tmp_path, 1 << 16), Outbox.open(tmp_path, 1 << 16)
    assert first.path != second.path
    first.close()
    second.close()


def test_a_disk_that_is_full_gives_no_false_acknowledgement_and_heals_without_restart(
    sqlite_url: str, folder: Path
) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "full_disk_child.py", sqlite_url, folder], capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["outboxed"] > 0  # the database could not grow; the reserved file had its space already
    assert told["refused_feedback"] > 0
    assert told["refused_answers"] > 0  # with no room at all, not even for the outbox
    with Store.open(sqlite_url, folder, outbox_bytes=1 << 16) as store:
        until(lambda: store.health().outbox == 0)
        assert set(told["answers"]) <= audited(store)
        stored = {row["card"] for row in store.export_feedback()}
        assert set(told["feedback"]) <= stored
        assert store.verify_audit().ok


class FailNth:
    """Fails the n-th statement (or commit) that reaches the writing connection, and counts them."""

    def __init__(self, store: Store, nth: int) -> None:
        self.count = 0
        self.nth = nth
        self._engine = store._engines.writer
        event.listen(self._engine, "before_cursor_execute", self._statement)
        event.listen(self._engine, "commit", self._commit)

    def _step(self) -> None:
        self.count += 1
        if self.count == self.nth:
            raise OperationalError("injected", {}, Exception("injected"))

    def _statement(self, *_: Any) -> None:
        self._step()

    def _commit(self, _: Any) -> None:
        self._step()

    def stop(self) -> bool:
        event.remove(self._engine, "before_cursor_execute", self._statement)
        event.remove(self._engine, "commit", self._commit)
        return self.count >= self.nth


def test_whichever_statement_fails_a_write_is_whole_or_absent_and_the_next_one_works(url: str, folder: Path) -> None:
    with Store.open(url, folder, outbox_bytes=0) as store:
        store._keeper.stop()  # its own writes would be counted
        store._keeper.join()
        store.record_answer(answer(card("base")))
        writes: list[Callable[[int], object]] = [
            lambda n: store.record_feedback("north", [item("base", minutes=n), item("base", minutes=n + 0.5)]),
            lambda n: store.record_answer(answer(card(f"c{n}"), card(f"d{n}"), hook_instance=f"n{n}")),
            lambda n: store.use_jti("iss", f"t{n}", LATER, NOW),
            lambda n: store.switch("service", "x", "off", who="w", why=f"n{n}"),
        ]
        counts: list[Callable[[], int]] = [
            lambda: len(list(store.export_feedback())),
            lambda: store.retention(NOW + 10_000 * DAY, dry_run=True)["cards_shown"],
            lambda: store.retention(LATER + DAY, dry_run=True)["jti"],
            lambda: len(store.switch_history()),
        ]
        for write, count, size in zip(writes, counts, (2, 2, 1, 1), strict=True):
            for n in range(1, 200):
                before = count()
                fault = FailNth(store, n)
                try:
                    write(n)
                    acknowledged = True
                except StateError:
                    acknowledged = False
                fired = fault.stop()
                added = count() - before
                assert added in (0, size), f"statement {n} left {added} of {size}"
                assert added == size or not acknowledged, f"statement {n}: acknowledged and lost"
                store._writer.failing = False
                assert store.verify_audit().ok, f"statement {n} broke the chain"
                if not fired:
                    break
            assert n > 3, "no statement was ever reached"
            assert acknowledged


def test_one_failing_write_never_takes_its_neighbours_with_it(url: str, store: Store) -> None:
    store._keeper.stop()
    store.record_answer(answer(card("c1")))
    hold: Future[Any] = store._writer.submit(lambda conn: time.sleep(0.3))

    def job(n: int) -> Callable[[Any], Any]:
        if n == 3:  # breaks a rule of the table
            return lambda conn: conn.execute(text("INSERT INTO meta (name, value) VALUES (NULL, NULL)"))
        if n == 6:  # takes the whole transaction down
            return lambda conn: conn.exec_driver_sql("ROLLBACK") and conn.exec_driver_sql("SELECT * FROM nowhere")
        return lambda conn: conn.execute(
            text("INSERT INTO meta (name, value) VALUES (:n, 'x')"), {"n": f"neighbour-{n}"}
        )

    time.sleep(0.05)
    commits = store._writer.commits
    futures = [store._writer.submit(job(n)) for n in range(10)]
    hold.result(5)
    failed = {n for n, future in enumerate(futures) if future.exception(10) is not None}
    assert failed == {3, 6}
    assert store._writer.commits - commits <= 3  # they did share transactions
    with store._engines.readers.connect() as conn:
        rows = set(conn.execute(text("SELECT name FROM meta WHERE name LIKE 'neighbour-%'")).scalars())
    assert rows == {f"neighbour-{n}" for n in range(10)} - {"neighbour-3", "neighbour-6"}


def test_a_database_file_moved_away_takes_no_writes_and_is_not_made_anew(sqlite_url: str, folder: Path) -> None:
    with Store.open(sqlite_url, folder, outbox_bytes=1 << 20) as store:
        store.record_answer(answer(card("c1")))
        path, aside = folder / "state.sqlite", folder / "aside"
        os.rename(path, aside)
        record = answer(card("c2"))
        store.record_answer(record)
        assert store.health().outbox == 1
        with pytest.raises(StateUnavailable):
            store.record_feedback("north", [item("c1")])
        assert not path.exists()
        os.rename(aside, path)
        until(lambda: store.health().outbox == 0)
        assert record.id in audited(store)


@pytest.fixture
def own_postgres() -> Iterator[Cluster]:
    with cluster() as started:
        yield started


def test_while_postgresql_is_down_answers_wait_and_come_in_when_it_is_back(own_postgres: Cluster, folder: Path) -> None:
    url = own_postgres.new_database()
    schema.upgrade(read_url(url))
    with Store.open(url, folder, outbox_bytes=1 << 20) as store:
        acknowledged = []
        for end in (own_postgres.stop, own_postgres.kill):
            before, during = answer(card()), answer(card())
            store.record_answer(before)
            end()
            store.record_answer(during)
            with pytest.raises(StateUnavailable):
                store.use_jti("iss", "t", LATER, NOW)
            assert store.health().outbox == 1
            own_postgres.start()
            until(lambda: store.health().outbox == 0, 20)
            acknowledged += [before.id, during.id]
        assert audited(store) >= set(acknowledged)
        assert store.use_jti("iss", "t", LATER, NOW)
        assert store.verify_audit().ok


@pytest.mark.in_time
def test_a_postgresql_that_hangs_costs_a_call_its_limit_and_no_more(own_postgres: Cluster, folder: Path) -> None:
    url = own_postgres.new_database()
    schema.upgrade(read_url(url))
    with Store.open(url, folder, outbox_bytes=1 << 20) as store:
        store.record_answer(answer(card("c1", fingerprint="f"), user_key="u"), timeout=30.0)
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(own_postgres.pid)], capture_output=True, text=True)
        pids = [own_postgres.pid, *(int(pid) for pid in children.stdout.split())]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            record = answer(card("c2"))
            store.record_answer(record)
            with pytest.raises(StateUnavailable):
                store.seen("north", ["f"], "u", NOW)
            assert time.monotonic() - started < 0.6
            with pytest.raises(StateUnavailable):
                store.record_feedback("north", [item("c1")])
            assert time.monotonic() - started < 3
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        until(lambda: store.health().outbox == 0, 20)
        assert record.id in audited(store)
