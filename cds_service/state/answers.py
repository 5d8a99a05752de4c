"""The answers that count: of several about one card the newest, by the EHR's own time."""

from __future__ import annotations

import orjson
from sqlalchemy import ColumnElement, Subquery, func, select

from cds_service.state.tables import feedback


def latest_answers(*where: ColumnElement[bool]) -> Subquery:
    """Per card the outcome that counts: the newest by the EHR's own time."""
    newest = func.row_number().over(
        partition_by=(feedback.c.tenant, feedback.c.card), order_by=(feedback.c.outcome_at.desc(), feedback.c.id.desc())
    )
    inner = select(feedback, newest.label("age")).where(feedback.c.matched.is_(True), *where).subquery()
    return select(inner).where(inner.c.age == 1).subquery()


def codes(reasons: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reason["code"] or "other" for reason in orjson.loads(reasons)))
