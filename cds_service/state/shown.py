"""Cards shown, what clinicians did with them, and what stays unsaid for a while."""

from __future__ import annotations

import statistics
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Subquery, and_, func, insert, or_, select, update

from cds_service.state import audit
from cds_service.state.records import (
    COMMENT_LIMIT,
    ID_LIMIT,
    AnswerRecord,
    FeedbackItem,
    FeedbackReport,
    FeedbackResult,
    History,
    Reason,
    ReportRow,
    Shown,
    Silence,
    storable,
)
from cds_service.state.tables import cards_shown, dump, feedback, insert_new, predictions, suppression, upsert

REASONS = 10
REASON_LIMIT = 256
VARIABLES = 500
"""Values in one IN list: a batch is as long as its sender likes, a statement's parameters are not."""


def store_answer(conn: Connection, record: AnswerRecord) -> bool:
    """The audit row, the predictions and the cards of one answer; False when they are there already."""
    if not audit.append_answer(conn, record):
        return False
    if record.predictions:
        conn.execute(
            insert(predictions),
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
    # The same card again (the EHR's own retry, or order-sign after order-select) keeps its first row.
    for card in record.cards:
        insert_new(
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
            },
        )
    sent = [card.card for card in record.cards if not card.shadow]
    if sent:
        # Feedback may overtake an answer that waits in the outbox.
        conn.execute(
            update(feedback)
            .where(
                feedback.c.tenant == record.tenant,
                feedback.c.card.in_(sent),
                feedback.c.matched.is_(False),
                feedback.c.service.in_(("", record.service)),
            )
            .values(matched=True)
        )
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


def _codes(reasons: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reason["code"] or "other" for reason in orjson.loads(reasons)))


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


def _latest(*where: ColumnElement[bool]) -> Subquery:
    """Per card the outcome that counts: the newest by the EHR's own time."""
    newest = func.row_number().over(
        partition_by=(feedback.c.tenant, feedback.c.card), order_by=(feedback.c.outcome_at.desc(), feedback.c.id.desc())
    )
    inner = select(feedback, newest.label("age")).where(feedback.c.matched.is_(True), *where).subquery()
    return select(inner).where(inner.c.age == 1).subquery()


def report(
    conn: Connection, tenant: str | None, since: datetime, until: datetime, service: str | None = None
) -> FeedbackReport:
    """Per service and rule: cards shown from `since` to before `until`, and what became of each, one vote a card.

    A card that rests on several rules counts for each of them.
    """
    shown = [cards_shown.c.shown_at >= since, cards_shown.c.shown_at < until, cards_shown.c.shadow.is_(False)]
    parked = [feedback.c.matched.is_(False), feedback.c.received_at >= since, feedback.c.received_at < until]
    if tenant is not None:
        shown.append(cards_shown.c.tenant == tenant)
        parked.append(feedback.c.tenant == tenant)
    if service is not None:
        shown.append(cards_shown.c.service == service)
        parked.append(feedback.c.service == service)
    # An answer arrives after its card was shown, by our own clock.
    latest = _latest(feedback.c.received_at >= since)
    query = (
        select(
            cards_shown.c.service,
            cards_shown.c.rules,
            cards_shown.c.indicator,
            cards_shown.c.shown_at,
            latest.c.outcome,
            latest.c.outcome_at,
            latest.c.reasons,
        )
        .select_from(cards_shown)
        .outerjoin(latest, and_(latest.c.tenant == cards_shown.c.tenant, latest.c.card == cards_shown.c.card))
        .where(*shown)
    )
    groups: defaultdict[tuple[str, str, Any], list[Any]] = defaultdict(list)
    for row in conn.execute(query):
        for rule in orjson.loads(row.rules) or [""]:
            groups[row.service, rule, row.indicator].append(row)
    unmatched = conn.execute(select(func.count()).select_from(feedback).where(*parked)).scalar_one()
    return FeedbackReport(tuple(_report_row(key, groups[key]) for key in sorted(groups)), unmatched)


def _report_row(key: tuple[str, str, Any], rows: Sequence[Any]) -> ReportRow:
    outcomes = Counter(row.outcome for row in rows)
    waits = [(row.outcome_at - row.shown_at).total_seconds() for row in rows if row.outcome]
    overridden = (row for row in rows if row.outcome == "overridden")
    reasons = Counter(code for row in overridden for code in _codes(row.reasons) or ("none given",))
    return ReportRow(
        *key,
        shown=len(rows),
        accepted=outcomes["accepted"],
        overridden=outcomes["overridden"],
        unanswered=outcomes[None],
        reasons=dict(sorted(reasons.items())),
        answer_s=statistics.median(waits) if waits else None,
    )


def export(conn: Connection, tenant: str | None, *, comments: bool) -> Iterator[Mapping[str, Any]]:
    """Every feedback row in order of arrival; comments only when asked for: they are health data."""
    columns = [c for c in feedback.columns if comments or c.name != "comment"]
    query = select(*columns).order_by(feedback.c.id)
    if tenant is not None:
        query = query.where(feedback.c.tenant == tenant)
    for row in conn.execution_options(stream_results=True, yield_per=500).execute(query).mappings():
        yield {name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()}


def suppress(
    conn: Connection,
    tenant: str,
    fingerprint: str,
    until: datetime | None,
    cause: str,
    *,
    set_at: datetime,
    user_key: str,
    patient_key: str,
) -> None:
    """Keep a fingerprint unsaid until then (None: for good) for one user, or everybody. The newest word counts."""
    upsert(
        conn,
        suppression,
        {
            "tenant": tenant,
            "fingerprint": fingerprint,
            "user_key": user_key,
            "until": until,
            "cause": storable(cause, 64),
            "patient_key": patient_key,
            "set_at": set_at,
        },
    )


def seen(
    conn: Connection, tenant: str, fingerprints: Sequence[str], user_key: str, now: datetime
) -> dict[str, History]:
    """For each fingerprint: when it was last shown to this user and answered how, and whether it is silenced now."""
    wanted = [f for f in dict.fromkeys(fingerprints) if f]
    cards = (
        select(cards_shown)
        .where(
            cards_shown.c.tenant == tenant,
            cards_shown.c.fingerprint.in_(wanted),
            cards_shown.c.user_key == user_key,
            cards_shown.c.shadow.is_(False),
        )
        .order_by(cards_shown.c.shown_at)
    )
    newest = {row.fingerprint: row for row in conn.execute(cards)}
    latest = _latest(feedback.c.tenant == tenant, feedback.c.card.in_([row.card for row in newest.values()]))
    answers = {row.card: row for row in conn.execute(select(latest))} if newest else {}
    shown = {
        fingerprint: Shown(
            card=row.card,
            indicator=row.indicator,
            shown_at=row.shown_at,
            encounter_key=row.encounter_key,
            outcome=answers[row.card].outcome if row.card in answers else None,
            reasons=_codes(answers[row.card].reasons) if row.card in answers else (),
        )
        for fingerprint, row in newest.items()
    }
    silenced = select(suppression).where(
        suppression.c.tenant == tenant,
        suppression.c.fingerprint.in_(wanted),
        suppression.c.user_key.in_(("", user_key)),
        or_(suppression.c.until.is_(None), suppression.c.until > now),
    )
    silences: dict[str, Silence] = {}
    for row in conn.execute(silenced):
        known = silences.get(row.fingerprint)
        if known is None or (known.until is not None and (row.until is None or row.until > known.until)):
            silences[row.fingerprint] = Silence(row.user_key, row.until, row.cause)
    return {f: History(shown.get(f), silences.get(f)) for f in wanted}
