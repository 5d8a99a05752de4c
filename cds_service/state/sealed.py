"""Sealed evidence: what a card rested on, for a quarter of an hour, unreadable to whoever holds only the database.

The key is in the card's link and nowhere else. Once the time is over the ciphertext goes at once; what is left for a
day says only that there was a link, so that a late visitor hears "expired" and not "never heard of it".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, Protocol

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from cds_service.state import audit as chain
from cds_service.state.engines import told_plainly
from cds_service.state.reader import Reader
from cds_service.state.tables import dump, evidence
from cds_service.state.tenancy import by_link
from cds_service.state.writer import Writer

REMEMBERED = timedelta(days=1)
WAIT_S = 5.0
Part = Literal["page", "films"]


class SealedEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """One card's evidence as it is kept.

    id      sha-256 of the link's identifier, hex
    page    ciphertext of the snapshot; `films` of its pictures, empty where there are none
    """

    id: str
    tenant: str
    card: str
    service: str
    patient_key: str
    made_at: datetime
    expires: datetime
    page: bytes
    films: bytes = b""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A row as a visitor's request meets it; `sealed` is the asked part, None once it is wiped."""

    tenant: str
    card: str
    service: str
    patient_key: str
    expires: datetime
    opened_at: datetime | None
    visit: str
    sealed: bytes | None


class EvidenceStore(Protocol):
    """Where sealed evidence is kept; every method raises StateUnavailable when the database does not answer."""

    def keep(self, item: SealedEvidence) -> None: ...

    def find(self, id_: str, part: Part = "page") -> Found | None: ...

    def open(self, id_: str, visit: str, at: datetime) -> bool:
        """Mark it opened by this visit, and audit that; False when another visit was first or it is over."""
        ...

    def sweep(self, now: datetime) -> int:
        """Wipe what has expired; how many were wiped."""
        ...

    def patient_key(self, tenant: str, patient: str) -> str: ...


class SealedRows:
    """EvidenceStore in the state database."""

    def __init__(
        self,
        writer: Writer,
        care: Writer,
        reader: Reader,
        key: Callable[[str, str, str], str],
    ) -> None:
        self._writer = writer
        self._care = care
        self._reader = reader
        self._key = key

    def keep(self, item: SealedEvidence) -> None:
        row = {name: getattr(item, name) for name in item.__struct_fields__}
        self._writer.run(lambda conn: conn.execute(insert(evidence), row), WAIT_S, item.tenant)

    def find(self, id_: str, part: Part = "page") -> Found | None:
        columns = [evidence.c[name] for name in Found.__struct_fields__ if name != "sealed"]
        query = select(*columns, evidence.c[part].label("sealed")).where(evidence.c.id == id_)

        def work(conn: Connection) -> Found | None:
            by_link(conn, id_)
            row = conn.execute(query).mappings().one_or_none()
            return None if row is None else Found(**{str(name): value for name, value in row.items()})

        with told_plainly():
            return self._reader.within(work, 1.0)

    def open(self, id_: str, visit: str, at: datetime) -> bool:
        found = self.find(id_)
        if found is None:
            return False

        def work(conn: Connection) -> bool:
            unopened = (evidence.c.id == id_, evidence.c.opened_at.is_(None), evidence.c.expires > at)
            taken = update(evidence).where(*unopened).values(opened_at=at, visit=visit)
            row = conn.execute(
                taken.returning(
                    evidence.c.tenant, evidence.c.card, evidence.c.service, evidence.c.patient_key, evidence.c.made_at
                )
            ).one_or_none()
            if row is None:
                return False
            details = dump({"card": row.card, "seconds_after_card": round((at - row.made_at).total_seconds())})
            chain.append(
                conn,
                row.tenant,
                f"evidence-{id_[:48]}",
                at,
                "evidence",
                service=row.service,
                patient_key=row.patient_key,
                details=details,
            )
            return True

        return self._writer.run(work, WAIT_S, found.tenant)

    def sweep(self, now: datetime) -> int:
        def work(conn: Connection) -> int:
            over = (evidence.c.expires <= now, evidence.c.page.is_not(None))
            wiped = conn.execute(update(evidence).where(*over).values(page=None, films=None, patient_key="")).rowcount
            conn.execute(delete(evidence).where(evidence.c.expires < now - REMEMBERED))
            return wiped

        return self._care.run(work, WAIT_S)

    def patient_key(self, tenant: str, patient: str) -> str:
        return self._key("patient", tenant, patient)
