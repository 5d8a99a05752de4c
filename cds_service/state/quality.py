"""The queue of data and image quality: what clinicians said was wrong, and where model and final report disagree.

Nothing of its own is stored: feedback and audit hold it already, and that somebody has looked into an item is a row of
the installation's audit as well. Comments are health data and stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
import orjson
from sqlalchemy import Connection, and_, or_, select

from cds_service.state.answers import codes, latest_answers
from cds_service.state.store import Store
from cds_service.state.tables import audit, cards_shown, feedback

MOST = 200
"""Items of one look, newest first."""
Kind = Literal["finding-wrong", "cds-not-applicable", "disagrees"]
REASONS: Mapping[str, Kind] = {"finding-wrong": "finding-wrong", "cds-not-applicable": "cds-not-applicable"}
"""Override reasons that open an item: an image finding is wrong; the data shown is wrong or does not apply."""
CLOSED = "quality item closed"
DISAGREE = "model and final report disagree: "
"""How the cause of a decision of CX-04 begins; the finding follows."""


class Closing(msgspec.Struct, frozen=True):
    who: str
    why: str
    at: datetime


class QualityItem(msgspec.Struct, frozen=True):
    """One thing to look into. The EHR finds patient and film by `hook_instance`; nothing here names either.

    id     by which it is closed
    at     when it came: of several calls about one film and finding, the newest
    about  the rules of the card, or the finding that is disputed
    """

    id: str
    kind: Kind
    at: datetime
    tenant: str
    service: str
    about: str
    hook_instance: str
    model: str
    calls: int = 1
    closed: Closing | None = None


def queue(store: Store, since: datetime, until: datetime) -> tuple[QualityItem, ...]:
    """What came from `since` to before `until`: open items first, then closed ones, each newest first."""

    def study(conn: Connection) -> tuple[QualityItem, ...]:
        closed = _closings(conn, since)
        found = [*_said_wrong(conn, since, until), *_disputed(conn, since, until)]
        items = [msgspec.structs.replace(item, closed=closed.get(item.id)) for item in found]
        return tuple(sorted(items, key=lambda i: (i.closed is not None, -i.at.timestamp(), i.id))[:MOST])

    return store._reader.study(study)


def _said_wrong(conn: Connection, since: datetime, until: datetime) -> Iterator[QualityItem]:
    """Cards shown in this time whose newest answer is an override for one of REASONS; both reasons are two items."""
    # An answer arrives after its card was shown, by our own clock.
    latest = latest_answers(feedback.c.received_at >= since)
    query = (
        select(
            latest.c.tenant,
            latest.c.card,
            latest.c.reasons,
            latest.c.outcome_at,
            latest.c.received_at,
            cards_shown.c.shown_at,
            cards_shown.c.service,
            cards_shown.c.rules,
            audit.c.hook_instance,
            audit.c.model,
        )
        .join(cards_shown, and_(cards_shown.c.tenant == latest.c.tenant, cards_shown.c.card == latest.c.card))
        .outerjoin(audit, audit.c.id == cards_shown.c.audit_id)
        .where(cards_shown.c.shown_at >= since, cards_shown.c.shown_at < until, latest.c.outcome == "overridden")
        .where(or_(*(latest.c.reasons.contains(code) for code in REASONS)))
    )
    for row in conn.execute(query):
        for code in codes(row.reasons):
            if code in REASONS:
                yield QualityItem(
                    id=_id(row.tenant, row.card, code),
                    kind=REASONS[code],
                    # By the EHR's clock, which may be wrong: never before its card nor after its arrival.
                    at=max(row.shown_at, min(row.outcome_at, row.received_at)),
                    tenant=row.tenant,
                    service=row.service,
                    about=", ".join(orjson.loads(row.rules)),
                    hook_instance=row.hook_instance or "",
                    model=row.model or "",
                )


def _disputed(conn: Connection, since: datetime, until: datetime) -> list[QualityItem]:
    """Disagreements that calls have recorded; of one patient, finding and day they are one item."""
    query = (
        select(audit)
        .where(audit.c.kind == "answer", audit.c.at >= since, audit.c.at < until, audit.c.decisions.contains(DISAGREE))
        .order_by(audit.c.at, audit.c.seq)
    )
    items: dict[str, QualityItem] = {}
    for row in conn.execute(query):
        for finding in _findings(orjson.loads(row.decisions)):
            id_ = _id(row.tenant, row.patient_key, finding, row.at.date().isoformat())
            items[id_] = QualityItem(
                id=id_,
                kind="disagrees",
                at=row.at,
                tenant=row.tenant,
                service=row.service,
                about=finding,
                hook_instance=row.hook_instance,
                model=row.model,
                calls=items[id_].calls + 1 if id_ in items else 1,
            )
    return list(items.values())


def _findings(decisions: list[dict[str, Any]]) -> Iterator[str]:
    for decision in decisions:
        cause = str(decision.get("cause", ""))
        if cause.startswith(DISAGREE):
            yield cause.removeprefix(DISAGREE)


def _closings(conn: Connection, since: datetime) -> dict[str, Closing]:
    """Item -> who looked into it; what was said later counts."""
    query = (
        select(audit.c.at, audit.c.details)
        .where(audit.c.kind == "admin", audit.c.at >= since, audit.c.details.contains(CLOSED))
        .order_by(audit.c.at, audit.c.seq)
    )
    found = {}
    for row in conn.execute(query):
        details = orjson.loads(row.details)
        if details.get("did") == CLOSED:
            found[str(details.get("item"))] = Closing(str(details.get("who")), str(details.get("why")), row.at)
    return found


def _id(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
