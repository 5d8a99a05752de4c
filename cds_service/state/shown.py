"""Answers and feedback as they are stored: each whole or not at all, and once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, update

from cds_service.state import audit, history
from cds_service.state.records import (
    COMMENT_LIMIT,
    ID_LIMIT,
    AnswerRecord,
    FeedbackItem,
    FeedbackResult,
    Reason,
    Settle,
    storable,
)
from cds_service.state.tables import cards_shown, dump, feedback, insert_new, predictions

REASONS = 10
REASON_LIMIT = 256
VARIABLES = 500
"""Values in one IN list: a batch is as long as its sender likes, a statement's parameters are not."""
# Built once: building a statement costs as much as running it, and every answer runs these.
_PREDICT = insert(predictions)
_MATCH = (
    update(feedback)
    .where(
        feedback.c.tenant == bindparam("owner"),
        feedback.c.card == bindparam("sent"),
        feedback.c.matched.is_(False),
        (feedback.c.service == "") | (feedback.c.service == bindparam("of")),
    )
    .values(matched=True)
)


def settle_answer(conn: Connection, record: AnswerRecord, settle: Settle | None) -> AnswerRecord:
    """Store what `settle` leaves of an answer, and return it. The write lock keeps two calls from deciding at once."""
    settled = settle(record, history.crowd(conn, record)) if settle is not None and record.cards else record
    store_answer(conn, settled)
    return settled


def store_answer(conn: Connection, record: AnswerRecord) -> bool:
    """The audit row, the predictions and the cards of one answer; False when they are there already."""
    if not audit.append_answer(conn, record):
        return False
    if record.predictions:
        conn.execute(
            _PREDICT,
            [
                {
                    "audit_id": record.id,
                    "target": storable(p.target, 128),
                    "tenant": record.tenant,
                    "at": record.at,
                    "service": record.service,
                    "model": record.model,
                    "model_digest": record.model_digest,
                    "input_digest": record.input_digest,
                    "patient_key": record.patient_key,
                    "probability": p.probability,
                    "low": p.low,
                    "high": p.high,
                }
                for p in record.predictions
            ],
        )
    for card in record.cards:
        instance = storable(record.hook_instance, ID_LIMIT // 2)
        latest = {"hook_instance": instance, "event_key": record.event_key, "latest_at": record.at}
        new = insert_new(
            conn,
            cards_shown,
            {
                "tenant": record.tenant,
                "card": card.card,
                "audit_id": record.id,
                "service": record.service,
                "service_version": record.service_version,
                "indicator": card.indicator,
                "rules": dump(card.rules),
                "suggestions": dump(card.suggestions),
                "model_digest": record.model_digest,
                "patient_key": record.patient_key,
                "user_key": record.user_key,
                "encounter_key": record.encounter_key,
                "fingerprint": card.fingerprint,
                "shadow": card.shadow,
                "shown_at": record.at,
                "orders": dump(card.orders),
                "setting": record.setting,
                **latest,
            },
        )
        if not new:
            # The same card again (the EHR's own retry, or order-sign after order-select) is one card, seen last now.
            again = (cards_shown.c.tenant == record.tenant, cards_shown.c.card == card.card)
            conn.execute(update(cards_shown).where(*again).values(latest))
    sent = [card.card for card in record.cards if not card.shadow]
    if sent:
        # Feedback may overtake an answer that waits in the outbox.
        conn.execute(_MATCH, [{"owner": record.tenant, "sent": card, "of": record.service} for card in sent])
    return True


def store_feedback(
    conn: Connection, tenant: str, service: str, items: Sequence[FeedbackItem], received_at: datetime
) -> FeedbackResult:
    """One batch, all or nothing. Natural key: tenant, card, suggestion, outcome, time of the outcome.

    A card this tenant was never sent by this service is parked: kept apart, never counted, matched if its answer
    arrives from the outbox.
    """
    stored = repeated = unmatched = 0
    ours = _sent(conn, tenant, service, {storable(item.card, ID_LIMIT) for item in items})
    for item in items:
        card = storable(item.card, ID_LIMIT)
        reasons = dump([_reason(reason) for reason in item.reasons[:REASONS]])
        for suggestion in item.suggestions or ("",):
            new = insert_new(
                conn,
                feedback,
                {
                    "tenant": tenant,
                    "card": card,
                    "suggestion": storable(suggestion, ID_LIMIT),
                    "outcome": item.outcome,
                    "outcome_at": item.outcome_at,
                    "service": storable(service, ID_LIMIT),
                    "reasons": reasons,
                    "comment": storable(item.comment, COMMENT_LIMIT),
                    "matched": card in ours,
                    "received_at": received_at,
                },
            )
            stored += new
            repeated += not new
            unmatched += new and card not in ours
    if stored:
        details = dump({"stored": stored, "unmatched": unmatched, "outcomes": [item.outcome for item in items]})
        cards = dump(sorted(ours))
        id_ = str(uuid.uuid4())
        audit.append(conn, tenant, id_, received_at, "feedback", service=service, cards=cards, details=details)
    return FeedbackResult(stored, repeated, unmatched)


def _reason(reason: Reason) -> dict[str, str]:
    return {name: storable(getattr(reason, name), REASON_LIMIT) for name in reason.__struct_fields__}


def _sent(conn: Connection, tenant: str, service: str, cards: set[str]) -> set[str]:
    found: set[str] = set()
    listed = sorted(cards)
    for start in range(0, len(listed), VARIABLES):
        query = select(cards_shown.c.card).where(
            cards_shown.c.tenant == tenant,
            cards_shown.c.card.in_(listed[start : start + VARIABLES]),
            cards_shown.c.shadow.is_(False),
        )
        if service:
            query = query.where(cards_shown.c.service == service)
        found |= set(conn.execute(query).scalars())
    return found
