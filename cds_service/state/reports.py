"""What became of the cards: per rule shown, answered and left unsaid, and every row of feedback."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, and_, func, select

from cds_service.state.answers import codes, latest_answers
from cds_service.state.records import FeedbackReport, ReportRow
from cds_service.state.tables import audit as audit_rows
from cds_service.state.tables import cards_shown, feedback


def report(
    conn: Connection, tenant: str | None, since: datetime, until: datetime, service: str | None = None
) -> FeedbackReport:
    """Per service and rule: cards shown from `since` to before `until`, and what became of each, one vote a card.

    A card that rests on several rules counts for each of them. Beside them stands what was not shown, and why.
    """
    shown = [cards_shown.c.shown_at >= since, cards_shown.c.shown_at < until]
    parked = [feedback.c.matched.is_(False), feedback.c.received_at >= since, feedback.c.received_at < until]
    if tenant is not None:
        shown.append(cards_shown.c.tenant == tenant)
        parked.append(feedback.c.tenant == tenant)
    if service is not None:
        shown.append(cards_shown.c.service == service)
        parked.append(feedback.c.service == service)
    # An answer arrives after its card was shown, by our own clock.
    latest = latest_answers(feedback.c.received_at >= since)
    query = (
        select(
            cards_shown.c.service,
            cards_shown.c.rules,
            cards_shown.c.indicator,
            cards_shown.c.shown_at,
            cards_shown.c.shadow,
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
    asked = [audit_rows.c.kind == "answer", audit_rows.c.at >= since, audit_rows.c.at < until]
    asked += [audit_rows.c.tenant == tenant] if tenant is not None else []
    asked += [audit_rows.c.service == service] if service is not None else []
    unsaid = _unsaid(conn, asked)
    calls = select(audit_rows.c.hook, func.count().label("calls")).where(*asked, audit_rows.c.status == 200)
    interrupting = select(func.count()).where(
        *shown, cards_shown.c.shadow.is_(False), cards_shown.c.indicator != "info"
    )
    return FeedbackReport(
        tuple(_report_row(key, groups[key], unsaid[key]) for key in sorted(groups.keys() | unsaid.keys())),
        unmatched,
        {row.hook: row.calls for row in conn.execute(calls.group_by(audit_rows.c.hook))},
        conn.execute(interrupting).scalar_one(),
    )


def _unsaid(
    conn: Connection, asked: Sequence[ColumnElement[bool]]
) -> defaultdict[tuple[str, str, Any], Counter[tuple[str, str]]]:
    """Per service, rule and tier: how often it was not said, by outcome and cause."""
    found: defaultdict[tuple[str, str, Any], Counter[tuple[str, str]]] = defaultdict(Counter)
    query = select(audit_rows.c.service, audit_rows.c.decisions).where(*asked, audit_rows.c.decisions != "[]")
    for row in conn.execute(query):
        for said in orjson.loads(row.decisions):
            if said["outcome"] in ("silent", "capped") and said.get("tier"):
                found[row.service, said["rule"], said["tier"]][said["outcome"], said["cause"]] += 1
    return found


def _report_row(key: tuple[str, str, Any], all_rows: Sequence[Any], unsaid: Counter[tuple[str, str]]) -> ReportRow:
    rows = [row for row in all_rows if not row.shadow]
    outcomes = Counter(row.outcome for row in rows)
    waits = [(row.outcome_at - row.shown_at).total_seconds() for row in rows if row.outcome]
    overridden = (row for row in rows if row.outcome == "overridden")
    reasons = Counter(code for row in overridden for code in codes(row.reasons) or ("none given",))
    return ReportRow(
        *key,
        shown=len(rows),
        accepted=outcomes["accepted"],
        overridden=outcomes["overridden"],
        unanswered=outcomes[None],
        reasons=dict(sorted(reasons.items())),
        answer_s=statistics.median(waits) if waits else None,
        suppressed={cause: n for (outcome, cause), n in sorted(unsaid.items()) if outcome == "silent"},
        capped={cause: n for (outcome, cause), n in sorted(unsaid.items()) if outcome == "capped"},
        shadow=len(all_rows) - len(rows),
    )


def export(conn: Connection, tenant: str | None, *, comments: bool) -> Iterator[Mapping[str, Any]]:
    """Every feedback row in order of arrival; comments only when asked for: they are health data."""
    columns = [c for c in feedback.columns if comments or c.name != "comment"]
    query = select(*columns).order_by(feedback.c.id)
    if tenant is not None:
        query = query.where(feedback.c.tenant == tenant)
    for row in conn.execution_options(stream_results=True, yield_per=500).execute(query).mappings():
        yield {name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()}
