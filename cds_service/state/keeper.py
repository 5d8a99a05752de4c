"""What goes on beside the calls: switches are read anew, the outbox is brought in, chains are anchored once a day."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import msgspec
from sqlalchemy import Connection

from cds_service.state import audit, outbox, retention, shown
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
PRUNE_S = 3600.0
WRITE_S = 5.0
REPLAYED = 100
"""Answers per transaction when the outbox comes in."""


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
        self._adopted_at = float("-inf")
        self._pruned_at = time.monotonic()
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
            except Exception as error:  # noqa: BLE001 - were this thread to end, no kill-switch would be obeyed any more
                if not failing:
                    why = str(error) if isinstance(error, StateError) else type(error).__name__
                    log.warning("state is not reachable", extra={"fields": {"why": why}})
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
        if now - self._pruned_at > PRUNE_S:
            self._pruned_at = now
            retention.forget_tokens(self._writer, now_utc())
        today = now_utc().date().isoformat()
        if self._anchored != today:
            with told_plainly(), self._engines.overseers.connect() as conn:
                heads = audit.heads(conn)
            audit.write_anchors(self._folder / audit.ANCHORS, heads, now_utc())
            self._anchored = today

    def _store(self, raws: list[bytes]) -> None:
        for start in range(0, len(raws), REPLAYED):
            records = []
            for raw in raws[start : start + REPLAYED]:
                try:
                    records.append(msgspec.json.decode(raw, type=AnswerRecord))
                except msgspec.MsgspecError:
                    self._refuse(raw)
            records.sort(key=attrgetter("tenant"))  # stable: each tenant's keep their order
            for tenant, group in groupby(records, attrgetter("tenant")):
                of_tenant = list(group)
                try:
                    self._writer.run(partial(_store_all, records=of_tenant), WRITE_S, tenant)
                except StateUnavailable:
                    raise
                except StateError:
                    self._store_each(of_tenant)

    def _store_each(self, records: Sequence[AnswerRecord]) -> None:
        for record in records:
            try:
                self._writer.run(partial(shown.store_answer, record=record), WRITE_S, record.tenant)
            except StateUnavailable:
                raise
            except StateError:
                self._refuse(msgspec.json.encode(record))

    def _refuse(self, raw: bytes) -> None:
        """A record no retry will store is kept apart, so that those behind it get through."""
        with (self._folder / "outbox-refused.jsonl").open("ab") as file:
            file.write(raw + b"\n")
        log.error("outbox record refused", extra={"fields": {"bytes": len(raw)}})


def _store_all(conn: Connection, records: Sequence[AnswerRecord]) -> None:
    for record in records:
        shown.store_answer(conn, record)
