"""What a model said of a patient in earlier calls, for advice that asks whether an estimate has lasted."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from cds_service.state.records import Earlier
from cds_service.state.store import Store
from cds_service.state.tables import predictions
from cds_service.state.tenancy import as_tenant

MOST = 500
"""Newest calls looked at: a chart is opened some dozens of times a day."""


def earlier(
    store: Store,
    tenant: str,
    patient_key: str,
    service: str,
    digest: str,
    since: datetime,
    until: datetime,
    *,
    timeout: float,
) -> tuple[Earlier, ...]:
    """Answers of the model of this digest in calls from `since` to before `until`, oldest first.

    Raises StateUnavailable after `timeout`.
    """
    query = (
        select(predictions.c.target, predictions.c.at, predictions.c.probability, predictions.c.low, predictions.c.high)
        .where(
            predictions.c.tenant == tenant,
            predictions.c.patient_key == patient_key,
            predictions.c.service == service,
            predictions.c.model_digest == digest,
            predictions.c.at >= since,
            predictions.c.at < until,
        )
        .order_by(predictions.c.at.desc(), predictions.c.audit_id)
        .limit(MOST)
    )

    def ask(conn: Connection) -> tuple[Earlier, ...]:
        as_tenant(conn, tenant)
        rows = conn.execute(query).all()
        return tuple(Earlier(r.target, r.at, r.probability, r.low, r.high) for r in reversed(rows))

    return store._reader.within(ask, timeout)
