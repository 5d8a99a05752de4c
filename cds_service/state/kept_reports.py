"""Film reports between the card that offers them and the place they are written to, sealed, in the evidence table.

A row is an offer for a day. Once a clinician has accepted it, it waits to be written for a week, and is wiped when it
was; the audit says what became of it. Erasing a patient wipes it like all evidence.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import Connection, select, update

from cds_service.state import audit as chain
from cds_service.state.sealed import SealedEvidence
from cds_service.state.store import WAIT_S, Store
from cds_service.state.tables import dump, evidence, insert_new

OFFERED_FOR = timedelta(days=1)
WRITTEN_WITHIN = timedelta(days=7)
LEFT_FOR = timedelta(days=30)
"""How long an accepted report outlives its term where no process is there to give it up, and say so."""
_ACCEPTED = "accepted"
_OVER = "over"
Outcome = Literal["written", "given up"]


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted report that is not written yet; `opened_at` is when it was accepted."""

    id: str
    tenant: str
    card: str
    service: str
    patient_key: str
    opened_at: datetime
    expires: datetime
    page: bytes


class KeptReports:
    """Over an open store; every method raises StateUnavailable when the database does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def name_of(self, tenant: str, suggestion: str) -> str:
        """How the report behind a suggestion is known: only this installation can tell which it is."""
        return self._store.key("kept-report", tenant, suggestion)

    def key_of(self, tenant: str, id_: str) -> str:
        """What the report's sealing key is made from; the installation's secret, which no database holds, is in it."""
        return self._store.key("kept-report-key", tenant, id_)

    def offer(self, item: SealedEvidence, timeout: float = WAIT_S) -> None:
        """Keep an offer; durable when this returns. The same card shown again is the same offer, for a day more."""
        row = {name: getattr(item, name) for name in item.__struct_fields__}
        anew = {name: row[name] for name in ("made_at", "expires", "page", "patient_key")}

        def work(conn: Connection) -> None:
            if not insert_new(conn, evidence, row):
                unopened = (evidence.c.id == item.id, evidence.c.opened_at.is_(None))
                conn.execute(update(evidence).where(*unopened).values(anew))

        self._store._writer.run(work, timeout, item.tenant)

    def accept(self, tenant: str, id_: str, at: datetime) -> bool:
        """Make an offer wait to be written; False where there is none, it is over, or it was accepted before."""
        unopened = (evidence.c.id == id_, evidence.c.tenant == tenant, evidence.c.opened_at.is_(None))
        taken = (
            update(evidence)
            .where(*unopened, evidence.c.expires > at)
            .values(opened_at=at, visit=_ACCEPTED, expires=at + WRITTEN_WITHIN + LEFT_FOR)
        )
        return self._store._writer.run(lambda conn: conn.execute(taken).rowcount == 1, WAIT_S, tenant)

    def waiting(self) -> tuple[Waiting, ...]:
        """Everything accepted and not written, of all tenants, longest first."""
        columns = [evidence.c[name] for name in Waiting.__struct_fields__]
        query = (
            select(*columns)
            .where(evidence.c.visit == _ACCEPTED, evidence.c.page.is_not(None))
            .order_by(evidence.c.opened_at)
        )
        return self._store._reader.study(
            lambda conn: tuple(Waiting(**{str(n): v for n, v in row.items()}) for row in conn.execute(query).mappings())
        )

    def end(self, item: Waiting, outcome: Outcome, at: datetime, **details: str) -> None:
        """Wipe a report that was written, or that nobody will write any more, and say so in the tenant's audit."""

        def work(conn: Connection) -> None:
            mine = (evidence.c.id == item.id, evidence.c.visit == _ACCEPTED)
            wiped = update(evidence).where(*mine).values(page=None, patient_key="", visit=_OVER)
            if conn.execute(wiped).rowcount:
                chain.append(
                    conn,
                    item.tenant,
                    f"kept-report-{item.id}",
                    at,
                    "write-back",
                    service=item.service,
                    patient_key=item.patient_key,
                    status=200 if outcome == "written" else 500,
                    details=dump({"card": item.card, "outcome": outcome, **details}),
                )

        self._store._writer.run(work, WAIT_S, item.tenant)
