"""`Desk`: what the administrator's console asks of durable state beyond what answering calls needs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
import orjson
from sqlalchemy import Connection, and_, case, func, select

from cds_service.state import audit as chain
from cds_service.state.answers import latest_answers
from cds_service.state.records import PER_USER_AND_WEEK
from cds_service.state.store import WAIT_S, Store
from cds_service.state.tables import as_dict, audit, cards_shown, dump, feedback

ORDER_HOOKS = ("order-select", "order-sign")


MOST = 200
"""Rows of one audit search."""


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """Audit rows from `since` to before `until`; what is "" is not asked for. Keys are `Store.key`'s."""

    since: datetime
    until: datetime
    hook_instance: str = ""
    service: str = ""
    kind: str = ""
    patient_key: str = ""
    user_key: str = ""


class ModelRow(msgspec.Struct, frozen=True):
    """`model_digest` is "" where no model took part."""

    service: str
    service_version: str
    model_digest: str
    shown: int
    accepted: int
    overridden: int


class Burden(msgspec.Struct, frozen=True):
    """Interruptions are warning and critical cards.

    orders         signings seen: the calls of the service that was asked most
    interruptions  at order-select and order-sign
    most, over     of one user in a week; how many users were above the budget
    """

    orders: int
    interruptions: int
    most: int
    over: int

    @property
    def share(self) -> float | None:
        """Interruptions per order; None before any order was seen."""
        return self.interruptions / self.orders if self.orders else None


class Desk:
    """Over an open store; every method raises StateUnavailable when the database does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, who: str, did: str, at: datetime, **details: Any) -> None:
        """A row of the installation's audit chain saying what an administrator did or tried."""
        said = dump({"who": who, "did": did, **details})
        self._store._writer.run(
            lambda conn: chain.append(conn, "", str(uuid.uuid4()), at, "admin", details=said), WAIT_S, ""
        )

    def by_model(self, since: datetime, until: datetime) -> tuple[ModelRow, ...]:
        """What became of the cards shown from `since` to before `until`, per service, its version and its model."""
        latest = latest_answers(feedback.c.received_at >= since)
        outcome = latest.c.outcome
        query = (
            select(
                cards_shown.c.service,
                cards_shown.c.service_version,
                cards_shown.c.model_digest,
                func.count(),
                func.sum(case((outcome == "accepted", 1), else_=0)),
                func.sum(case((outcome == "overridden", 1), else_=0)),
            )
            .select_from(cards_shown)
            .outerjoin(latest, and_(latest.c.tenant == cards_shown.c.tenant, latest.c.card == cards_shown.c.card))
            .where(cards_shown.c.shown_at >= since, cards_shown.c.shown_at < until, cards_shown.c.shadow.is_(False))
            .group_by(cards_shown.c.service, cards_shown.c.service_version, cards_shown.c.model_digest)
            .order_by(cards_shown.c.service, cards_shown.c.service_version, cards_shown.c.model_digest)
        )
        return self._store._reader.study(lambda conn: tuple(ModelRow(*row) for row in conn.execute(query)))

    def burden(self, since: datetime, until: datetime) -> Burden:
        """How often orders were interrupted, and the busiest user's last week before `until`."""
        week = until - timedelta(days=7)
        hook = audit.c.hook
        signed = (
            select(func.count().label("calls"))
            .where(audit.c.kind == "answer", hook == "order-sign", audit.c.at >= since, audit.c.at < until)
            .group_by(audit.c.tenant, audit.c.service)
            .subquery()
        )
        interrupting = (cards_shown.c.shadow.is_(False), cards_shown.c.indicator != "info")
        cards = (
            select(func.count())
            .select_from(cards_shown)
            .join(audit, audit.c.id == cards_shown.c.audit_id)
            .where(
                *interrupting, hook.in_(ORDER_HOOKS), cards_shown.c.shown_at >= since, cards_shown.c.shown_at < until
            )
        )
        users = (
            select(func.count().label("cards"))
            .where(*interrupting, cards_shown.c.shown_at >= week, cards_shown.c.shown_at < until)
            .group_by(cards_shown.c.tenant, cards_shown.c.user_key)
            .subquery()
        )

        def study(conn: Connection) -> Burden:
            return Burden(
                orders=conn.execute(select(func.max(signed.c.calls))).scalar() or 0,
                interruptions=conn.execute(cards).scalar_one(),
                most=conn.execute(select(func.max(users.c.cards))).scalar() or 0,
                over=conn.execute(select(func.count()).where(users.c.cards > PER_USER_AND_WEEK)).scalar_one(),
            )

        return self._store._reader.study(study)

    def search(self, wanted: Search) -> tuple[Mapping[str, Any], ...]:
        """The newest rows of the audit that fit, MOST at most; `decisions`, `details` and `ms` are read from JSON."""
        where = [audit.c.at >= wanted.since, audit.c.at < wanted.until]
        named = {
            audit.c.hook_instance: wanted.hook_instance,
            audit.c.service: wanted.service,
            audit.c.kind: wanted.kind,
            audit.c.patient_key: wanted.patient_key,
            audit.c.user_key: wanted.user_key,
        }
        where += [column == value for column, value in named.items() if value]
        query = select(audit).where(*where).order_by(audit.c.at.desc(), audit.c.seq.desc()).limit(MOST)

        def study(conn: Connection) -> tuple[Mapping[str, Any], ...]:
            rows = [as_dict(row) for row in conn.execute(query).mappings()]
            return tuple(
                row | {name: orjson.loads(row[name]) for name in ("decisions", "details", "ms")} for row in rows
            )

        return self._store._reader.study(study)
