"""What goes on beside the calls: switches are read anew, the outbox is brought in, chains are anchored once a day."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from cds_service.state import audit, outbox, shown
from cds_service.state.engines import Engines, told_plainly
from cds_service.state.errors import StateError, StateUnavailable
from cds_service.state.records import AnswerRecord
from cds_service.state.tables import meta, upsert
from cds_service.state.writer import Writer

log = logging.getLogger("cds_service.state")
POLL_S = 0.25
KEEP_S = 0.5
HEARTBEAT_S = 5.0
ADOPT_S = 30.0
WRITE_S = 5.0


def now_utc() -> datetime:
    return datetime.now(UTC)


class Keeper:
    """Two threads: one only reads switches, so that a write that hangs never delays a kill-switch."""

    def __init__(
        self,
        engines: Engines,
        writer: Writer,
        folder: Path,
        box: outbox.Outbox | None,
        reload_switches: Callable[[], None],
    ) -> None:
        self._engines = engines
        self._writer = writer
        self._folder = folder
        self._box = box
        self._stopped = threading.Event()
        self._adopted_at = 0.0
        self._anchored = ""
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, every), name=f"state-{name}", daemon=True)
            for name, work, every in (("switches", reload_switches, POLL_S), ("keeper", self._keep, KEEP_S))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def join(self) -> None:
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2 * WRITE_S)

    def replay(self) -> int:
        """Bring what waits in the local files into the database. Raises StateUnavailable when it takes nothing."""
        count = self._box.replay(self._store) if self._box else 0
        return count + outbox.adopt(self._folder, self._store)

    def _repeat(self, work: Callable[[], None], every: float) -> None:
        failing = False
        while not self._stopped.wait(every):
            try:
                work()
            except StateError as error:
                if not failing:
                    log.warning("state is not reachable", extra={"fields": {"why": str(error)}})
                failing = True
            else:
                failing = False

    def _keep(self) -> None:
        now = time.monotonic()
        if self._writer.failing or now - self._writer.committed_at > HEARTBEAT_S:
            # Readiness asks for a write that went all the way to the disk, not for an open connection.
            beat = {"name": "heartbeat", "value": now_utc().isoformat()}
            self._writer.run(lambda conn: upsert(conn, meta, beat), WRITE_S)
        if self._box is None:
            return
        self._box.replay(self._store)
        if now - self._adopted_at > ADOPT_S:
            self._adopted_at = now
            outbox.adopt(self._folder, self._store)
        today = now_utc().date().isoformat()
        if self._anchored != today:
            with told_plainly(), self._engines.readers.connect() as conn:
                heads = audit.heads(conn)
            audit.write_anchors(self._folder / audit.ANCHORS, heads, now_utc())
            self._anchored = today

    def _store(self, records: list[bytes]) -> None:
        waiting = []
        for raw in records:
            try:
                record = msgspec.json.decode(raw, type=AnswerRecord)
            except msgspec.MsgspecError:
                self._refuse(raw)
                continue
            waiting.append((raw, self._writer.submit(partial(shown.store_answer, record=record))))
        for raw, future in waiting:
            try:
                future.result(12 * WRITE_S)
            except (StateUnavailable, TimeoutError):
                raise StateUnavailable("the database does not take the outbox yet") from None
            except StateError:
                self._refuse(raw)

    def _refuse(self, raw: bytes) -> None:
        """A record no retry will store is kept apart, so that those behind it get through."""
        with (self._folder / "outbox-refused.jsonl").open("ab") as file:
            file.write(raw + b"\n")
        log.error("outbox record refused", extra={"fields": {"bytes": len(raw)}})
