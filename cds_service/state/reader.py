"""`Reader`: queries, on a call's path within its time, or for a report without hurry."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from sqlalchemy import Connection

from cds_service.state.engines import READERS, Engines, patiently, told_plainly
from cds_service.state.errors import StateUnavailable

T = TypeVar("T")


class Reader:
    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._reading = threading.Semaphore(2 * READERS)

    def within(self, query: Callable[[Connection], T], timeout: float) -> T:
        """A query on a call's path, of the tenant it names: a database that hangs costs `timeout`, never the call."""
        answer: Future[T] = Future()
        if not self._reading.acquire(blocking=False):
            raise StateUnavailable("too many reads are waiting for the database")

        def work() -> None:
            try:
                with told_plainly(), self._engines.readers.connect() as conn:
                    answer.set_result(query(conn))
            except Exception as error:  # noqa: BLE001 - raised again where the answer is awaited
                answer.set_exception(error)
            finally:
                self._reading.release()

        # A thread of its own, a daemon: no driver can be told to give up, and a hung read must not hold up the exit.
        threading.Thread(target=work, name="state-read", daemon=True).start()
        try:
            return answer.result(timeout)
        except TimeoutError:
            raise StateUnavailable(f"the database gave no answer within {timeout:g} s") from None

    def study(self, query: Callable[[Connection], T]) -> T:
        """A report over all tenants, which may take a minute."""
        with told_plainly(), self._engines.overseers.connect() as conn:
            return query(patiently(conn))
