"""One thread writes: many callers' jobs in one transaction, each answered after the commit that holds its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from cds_service.state.engines import alone, file_identity, take_write_lock, told_plainly
from cds_service.state.errors import StateUnavailable
from cds_service.state.tenancy import as_tenant

T = TypeVar("T")
log = logging.getLogger("cds_service.state")
BATCH = 200
WAITING = 10_000


class _Job:
    """`work` leaves all it wrote or nothing, and possibly runs twice: its neighbour may have broken the transaction."""

    def __init__(self, work: Callable[[Connection], Any], tenant: str | None) -> None:
        self.work = work
        self.tenant = tenant
        self.future: Future[Any] = Future()


class _Lost(Exception):
    """The transaction broke at this job and took its neighbours' work with it; nothing was committed."""

    def __init__(self, at: int, cause: Exception) -> None:
        super().__init__()
        self.at = at
        self.cause = cause


class _OneFailed(Exception):
    """A job failed in a transaction without savepoints, which was rolled back."""


class Writer:
    """Group commit. A job that fails is rolled back alone; its neighbours are committed.

    failing      the last transaction could not begin or commit: what can go elsewhere should
    committed_at  monotonic second of the last commit
    """

    def __init__(self, engine: Engine, file: Path | None) -> None:
        """`file` is SQLite's; a write to another file in its place would be lost."""
        self._engine = engine
        self._file = file
        self._identity = file_identity(self._file) if self._file else None
        self._jobs: queue.Queue[_Job | None] = queue.Queue(WAITING)
        self._busy_since: float | None = None
        self._closed = False
        self.failing = False
        self.committed_at = time.monotonic()
        self.commits = 0
        self.took: Callable[[float], None] = lambda seconds: None
        """Told the seconds each transaction took, its commit included."""
        self._thread = threading.Thread(target=self._loop, name="state-writer", daemon=True)
        self._thread.start()

    def stuck(self, seconds: float) -> bool:
        """True while writing fails, or one transaction has already taken longer than `seconds`."""
        since = self._busy_since
        return self.failing or (since is not None and time.monotonic() - since > seconds)

    def submit(self, work: Callable[[Connection], T], tenant: str | None = None) -> Future[T]:
        """Queue `work`, which sees rows of `tenant` alone. Raises StateUnavailable when too much is waiting already."""
        job = _Job(work, tenant)
        try:
            if self._closed:
                raise StateUnavailable("the store is closed")
            self._jobs.put_nowait(job)
        except queue.Full:
            raise StateUnavailable("too many writes are waiting") from None
        return job.future

    def run(self, work: Callable[[Connection], T], timeout: float, tenant: str | None = None) -> T:
        """Do `work` in a transaction, on rows of `tenant` alone, and return once it is committed.

        Raises StateUnavailable after `timeout` seconds. Work not yet begun is then dropped; work under way may
        still be committed, so work must be such that doing it again does no harm.
        """
        future = self.submit(work, tenant)
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.cancel() or not future.done():
                raise StateUnavailable(f"the database took no write within {timeout:g} s") from None
            return future.result()

    def close(self) -> None:
        """Commit what is queued, then stop."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join(timeout=30)
        while not self._jobs.empty():
            late = self._jobs.get_nowait()
            if late is not None:
                late.future.set_exception(StateUnavailable("the store is closed"))

    def _loop(self) -> None:
        while True:
            first = self._jobs.get()
            if first is None:
                return
            batch = [first]
            stop = False
            while len(batch) < BATCH and not stop:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                stop = job is None
                if job is not None:
                    batch.append(job)
            self._busy_since = time.monotonic()
            self._write([job for job in batch if job.future.set_running_or_notify_cancel()])
            self._busy_since = None
            if stop:
                return

    def _write(self, jobs: list[_Job]) -> None:
        """Every future of `jobs` is answered when this returns. Each turn ends all of them, or one."""
        # Two statements a job, most of what writing it costs, and hardly any fails. PostgreSQL cannot go without: there
        # a failed statement ends the transaction, as a lost server does.
        apart = self._engine.dialect.name != "sqlite"
        while jobs:
            began = time.monotonic()
            try:
                with told_plainly():
                    done = self._transaction(jobs, apart)
            except _OneFailed:
                apart = True
                continue
            except _Lost as lost:
                jobs.pop(lost.at).future.set_exception(_plain(lost.cause))
                self.failing = True
                continue
            except Exception as error:  # noqa: BLE001 - the thread must outlive any failure; the callers get it
                self.failing = True
                log.warning("state write failed", extra={"fields": {"error": type(error).__name__}})
                for job in jobs:
                    job.future.set_exception(_plain(error))
                return
            self.failing = False
            self.commits += 1
            self.committed_at = time.monotonic()
            self.took(self.committed_at - began)
            for job, (value, failure) in zip(jobs, done, strict=True):
                if failure is None:
                    job.future.set_result(value)
                else:
                    job.future.set_exception(failure)
            return

    def _transaction(self, jobs: list[_Job], apart: bool) -> list[tuple[Any, Exception | None]]:
        """What each job gave. `apart`: each in a savepoint of its own; else the first that fails raises _OneFailed."""
        done: list[tuple[Any, Exception | None]] = []
        self._require_same_file()
        with alone(self._file), self._engine.connect() as conn:
            try:
                with conn.begin():
                    take_write_lock(conn)
                    bound: str | None = None
                    for index, job in enumerate(jobs):
                        if job.tenant != bound:
                            # Before the savepoint: going back to it leaves the transaction with this tenant.
                            as_tenant(conn, job.tenant)
                            bound = job.tenant
                        try:
                            with conn.begin_nested() if apart else nullcontext():
                                value = job.work(conn)
                        except Exception as error:  # noqa: BLE001 - handed to the job's own caller
                            if not _usable(conn):
                                raise _Lost(index, error) from None
                            if not apart:
                                raise _OneFailed from None
                            done.append((None, _plain(error)))
                        else:
                            done.append((value, None))
            except _OneFailed:
                raise
            except BaseException:
                # A connection that failed may hold a broken file or a dead socket: the next write opens a new one.
                conn.invalidate()
                raise
        return done

    def _require_same_file(self) -> None:
        """A file moved away or replaced would take writes that nobody finds again."""
        if self._file is not None and file_identity(self._file) != self._identity:
            raise StateUnavailable("the database file was replaced while in use; restart the service")


def _usable(conn: Connection) -> bool:
    """Whether the transaction still stands after a job failed (disk full and a lost server end it)."""
    try:
        conn.exec_driver_sql("SELECT 1")
    except Exception:  # noqa: BLE001 - whatever it is, the transaction is gone
        return False
    driver = conn.connection.dbapi_connection
    # SQLite may have rolled back by itself; then a later savepoint would be committed alone, at once.
    return conn.dialect.name != "sqlite" or bool(getattr(driver, "in_transaction", False))


def _plain(error: Exception) -> Exception:
    try:
        with told_plainly():
            raise error
    except Exception as plain:  # noqa: BLE001 - the same error in our words
        return plain
