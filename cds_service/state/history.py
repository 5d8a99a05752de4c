"""What was said before: the cards of a fingerprint and their answers, silences, and what else is on the screen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
from msgspec import structs
from sqlalchemy import Connection, func, or_, select

from cds_service.state.answers import codes, latest_answers
from cds_service.state.records import AnswerRecord, Crowd, History, Rival, Shown, Silence, storable
from cds_service.state.tables import audit, cards_shown, feedback, suppression, upsert

MOST_CARDS = 500
EVENT = timedelta(seconds=5)
"""An EHR asks several services at once for one hook event; their calls share user, patient, hook and moment only."""
WEEK = timedelta(days=7)
ORDER_HOOKS = ("order-select", "order-sign")
LATELY = timedelta(days=28)
LATELY_ROWS = 20_000
"""What a site signed lately is counted in its newest rows of the audit: a call cannot wait for a month of them."""


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
    """For each fingerprint: its cards, their answers by anybody, and whether it is silenced now."""
    wanted = [f for f in dict.fromkeys(fingerprints) if f]
    newest_first = (
        select(cards_shown)
        .where(cards_shown.c.tenant == tenant, cards_shown.c.fingerprint.in_(wanted), cards_shown.c.shadow.is_(False))
        .order_by(cards_shown.c.shown_at.desc())
        .limit(MOST_CARDS)
    )
    rows = conn.execute(newest_first).all()
    latest = latest_answers(feedback.c.tenant == tenant, feedback.c.card.in_([row.card for row in rows]))
    answers = {row.card: row for row in conn.execute(select(latest))} if rows else {}
    mine: dict[str, Shown] = {}
    answered: defaultdict[str, list[Shown]] = defaultdict(list)
    for row in rows:
        card = _as_shown(row, answers.get(row.card))
        if row.user_key == user_key:
            mine.setdefault(row.fingerprint, card)
        if card.outcome is not None:
            answered[row.fingerprint].append(card)
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
    return {f: History(mine.get(f), silences.get(f), tuple(answered[f])) for f in wanted}


def _as_shown(row: Any, answer: Any | None) -> Shown:
    known = Shown(
        card=row.card,
        indicator=row.indicator,
        shown_at=row.shown_at,
        encounter_key=row.encounter_key,
        outcome=None,
        reasons=(),
        setting=row.setting,
        orders=tuple(orjson.loads(row.orders)),
        hook_instance=row.hook_instance,
    )
    if answer is None:
        return known
    # By the EHR's clock, which may be wrong: an answer is never earlier than its card nor later than its arrival.
    at = max(row.shown_at, min(answer.outcome_at, answer.received_at))
    return structs.replace(known, outcome=answer.outcome, reasons=codes(answer.reasons), answered_at=at)


def crowd(conn: Connection, record: AnswerRecord) -> Crowd:
    """What else this user was sent at this hook event, and how often interrupted in the week before."""
    mine = (
        cards_shown.c.tenant == record.tenant,
        cards_shown.c.user_key == record.user_key,
        cards_shown.c.shadow.is_(False),
    )
    side_by_side = select(cards_shown.c.service, cards_shown.c.indicator).where(
        *mine,
        cards_shown.c.latest_at >= record.at - EVENT,
        cards_shown.c.latest_at <= record.at + EVENT,
        cards_shown.c.event_key == record.event_key,
        cards_shown.c.service != record.service,
    )
    interrupting = select(func.count()).where(
        *mine,
        cards_shown.c.latest_at > record.at - WEEK,
        cards_shown.c.shown_at <= record.at,
        cards_shown.c.indicator != "info",
        cards_shown.c.card.not_in([card.card for card in record.cards]),
    )
    rivals = tuple(Rival(row.service, row.indicator) for row in conn.execute(side_by_side))
    known = Crowd(rivals, conn.execute(interrupting).scalar_one())
    warning = next((c for c in record.cards if c.indicator == "warning" and not c.shadow), None)
    if warning is None:
        return known
    quieter = select(cards_shown.c.orders).where(
        *mine,
        cards_shown.c.fingerprint == warning.fingerprint,
        cards_shown.c.fingerprint != "",
        cards_shown.c.indicator == "info",
        cards_shown.c.shown_at > record.at - WEEK,
    )
    told = [set(orjson.loads(row.orders)) for row in conn.execute(quieter)]
    known = structs.replace(known, told=bool(told) and not any(o.intersection(warning.orders) for o in told))
    return _with_orders(conn, record, known) if record.hook in ORDER_HOOKS else known


def _with_orders(conn: Connection, record: AnswerRecord, known: Crowd) -> Crowd:
    """With the site's signings, which are the calls of the service asked most, and how many were interrupted."""
    newest = select(func.max(audit.c.seq)).where(audit.c.tenant == record.tenant).scalar_subquery()
    calls = (
        select(audit.c.service, func.count().label("calls"), func.min(audit.c.at).label("since"))
        .where(
            audit.c.tenant == record.tenant,
            audit.c.seq > newest - LATELY_ROWS,
            audit.c.kind == "answer",
            audit.c.hook == "order-sign",
            audit.c.at > record.at - LATELY,
        )
        .group_by(audit.c.service)
    )
    rows = conn.execute(calls).all()
    if not rows:
        return known
    interrupting = (
        select(func.count())
        .select_from(cards_shown)
        .join(audit, audit.c.id == cards_shown.c.audit_id)
        .where(
            cards_shown.c.tenant == record.tenant,
            cards_shown.c.shadow.is_(False),
            cards_shown.c.indicator != "info",
            cards_shown.c.shown_at >= min(row.since for row in rows),
            cards_shown.c.card.not_in([card.card for card in record.cards]),
            audit.c.hook.in_(ORDER_HOOKS),
        )
    )
    orders = max(row.calls for row in rows)
    return structs.replace(known, orders=orders, order_interruptions=conn.execute(interrupting).scalar_one())
