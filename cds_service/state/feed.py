"""`AuditFeed`: the audit on its way to the hospital's audit repository, as FHIR AuditEvents (IHE ATNA, ITI-20).

The audit itself is the queue: rows go in the order of their chain, and how far they got is kept beside them. A row is
sent at least once; its tag and `If-None-Exist` let a repository that knows conditional create keep it once.
"""

from __future__ import annotations

import fcntl
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
import requests
from sqlalchemy import Connection, func, select, text

from cds_service.state import audit
from cds_service.state.audit_event import ROW_TAG, audit_event
from cds_service.state.engines import Engines, maintenance_engine, told_plainly
from cds_service.state.errors import StateError
from cds_service.state.tables import audit as audit_rows
from cds_service.state.tables import audit_chain, audit_refused, audit_sent, insert_new, upsert
from cds_service.state.writer import Writer
from cds_service.trust.origins import Base

log = logging.getLogger("cds_service.state")
POLL_S = 1.0
SEND_S = 5.0
CHUNK = 50
"""Rows sent before it is noted how far they got: as many may come twice after a crash."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0
MOST_REFUSALS = 8
"""A row that was refused so often is set aside, so that those behind it get through."""
REFUSED = frozenset({400, 409, 413, 415, 422})
"""What a repository says of one event. Anything else is about itself, or our right to it, and is waited out."""
TURN = 0x66656564
"""PostgreSQL advisory lock: of all replicas one sends, or the order would be lost."""
Outcome = Literal["delivered", "retried", "refused"]


class Repository(NamedTuple):
    """Where the audit goes: the one address the settings name. A redirect is no answer."""

    base: Base
    token_file: Path | None = None
    ca_bundle: str | None = None


class _Held(NamedTuple):
    """A tenant's next attempt is not before `until` on the monotonic clock."""

    until: float
    failures: int
    refusals: int


class AuditFeed:
    """One thread; nothing here is on a call's path.

    counts   since the start: rows delivered, attempts that failed, rows set aside
    """

    def __init__(
        self,
        engines: Engines,
        care: Writer,
        folder: Path,
        repository: Repository,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engines = engines
        self._care = care
        self._folder = folder
        self._repository = repository
        self._jitter = jitter
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc: the address is the one that was written down
        self._session.verify = repository.ca_bundle or True
        self._held: dict[str, _Held] = {}
        self._oldest: datetime | None = None
        self._stopped = threading.Event()
        self.counts: Counter[Outcome] = Counter()
        self._thread = threading.Thread(target=self._loop, name="state-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is being sent may come again after the next start."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * SEND_S)
        self._session.close()

    @property
    def oldest_s(self) -> float:
        """How long the oldest row that is not delivered has waited."""
        oldest = self._oldest
        return max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0

    def _loop(self) -> None:
        failing = False
        while not self._stopped.wait(POLL_S):
            try:
                with self._turn() as ours:
                    while ours and not self._stopped.is_set() and self._send_some():
                        pass
                self._oldest = self._first_unsent()
                failing = False
            except Exception as error:  # noqa: BLE001 - whatever it is, what waits is sent later, by this thread
                if not failing:
                    why = str(error) if isinstance(error, StateError) else type(error).__name__
                    log.warning("audit not delivered", extra={"fields": {"why": why}})
                failing = True

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """True for one process of those that share this database. The system ends it with the process."""
        if self._engines.sqlite_file is not None:
            with (self._folder / "audit-feed.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield False
                else:
                    yield True
            return
        engine = maintenance_engine(self._engines.owner_url)
        try:
            with told_plainly(), engine.connect() as conn:
                yield bool(conn.execute(text("SELECT pg_try_advisory_lock(:turn)"), {"turn": TURN}).scalar())
        finally:
            engine.dispose()

    def _unsent(self) -> list[tuple[str, int, int]]:
        """Per tenant: the row it has been sent up to, and the row its chain ends in."""
        sent = func.coalesce(audit_sent.c.seq, 0)
        query = select(audit_chain.c.tenant, sent, audit_chain.c.start_seq, audit_chain.c.head_seq).select_from(
            audit_chain.outerjoin(audit_sent, audit_sent.c.tenant == audit_chain.c.tenant)
        )
        with told_plainly(), self._engines.overseers.connect() as conn:
            rows = conn.execute(query.order_by(audit_chain.c.tenant)).all()
        return [(tenant, max(upto, start), head) for tenant, upto, start, head in rows if head > max(upto, start)]

    def _first_unsent(self) -> datetime | None:
        found: list[datetime] = []
        for tenant, upto, _ in self._unsent():
            query = select(audit_rows.c.at).where(audit_rows.c.tenant == tenant, audit_rows.c.seq == upto + 1)
            with told_plainly(), self._engines.overseers.connect() as conn:
                found += conn.execute(query).scalars().all()
        return min(found, default=None)

    def _send_some(self) -> bool:
        """A chunk of every tenant that is not waiting; False when there is nothing to send now."""
        progress = False
        for tenant, upto, head in self._unsent():
            held = self._held.get(tenant)
            if held is None or time.monotonic() >= held.until:
                progress |= self._send_chunk(tenant, upto, head)
        return progress

    def _send_chunk(self, tenant: str, upto: int, head: int) -> bool:
        """Send on from `upto`; True if any row got through or was set aside."""
        reached, aside = upto, []
        for row in islice(audit.rows(self._engines.overseers, tenant, upto, min(head, upto + CHUNK)), CHUNK):
            if self._stopped.is_set():
                break
            status = self._post(row)
            held = self._held.get(tenant, _Held(0.0, 0, 0))
            # 412: it is there more than once already.
            if status is not None and (200 <= status < 300 or status == 412):
                self.counts["delivered"] += 1
            elif status in REFUSED and held.refusals + 1 >= MOST_REFUSALS:
                self.counts["refused"] += 1
                aside.append({"tenant": tenant, "seq": row["seq"], "status": status, "at": datetime.now(UTC)})
                log.error("audit row refused", extra={"fields": {"seq": row["seq"], "status": status}})
            else:
                self.counts["retried"] += 1
                wait_s = self._jitter() * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**held.failures)
                refusals = held.refusals + 1 if status in REFUSED else 0
                # Full jitter, and never given up: the audit waits where it is safe.
                self._held[tenant] = _Held(time.monotonic() + wait_s, min(held.failures + 1, 16), refusals)
                break
            self._held.pop(tenant, None)
            reached = row["seq"]
        if reached > upto:
            self._care.run(lambda conn: _note(conn, tenant, reached, aside), SEND_S)
        return reached > upto

    def _post(self, row: Mapping[str, Any]) -> int | None:
        """The status of the repository's answer; None where there was none in time."""
        headers = {
            "Content-Type": "application/fhir+json",
            "Accept": "application/fhir+json",
            "If-None-Exist": f"_tag={ROW_TAG}|{row['id']}",
        }
        try:
            if self._repository.token_file is not None:
                headers["Authorization"] = f"Bearer {self._repository.token_file.read_text().strip()}"
            url = self._repository.base.url("AuditEvent")
            body = orjson.dumps(audit_event(row))
            with self._session.post(
                url, data=body, headers=headers, timeout=SEND_S, allow_redirects=False, stream=True
            ) as answer:
                return answer.status_code
        except (requests.RequestException, OSError):
            return None


def _note(conn: Connection, tenant: str, seq: int, aside: list[dict[str, Any]]) -> None:
    upsert(conn, audit_sent, {"tenant": tenant, "seq": seq, "at": datetime.now(UTC)})
    for row in aside:
        insert_new(conn, audit_refused, row)
