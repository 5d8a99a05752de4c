"""What became of the cards: per rule, service and model version, as a page and as CSV; and the burden of alerts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request

from cds_service.advice.writing import DEFAULT_REASONS
from cds_service.economy import FEWEST_ORDERS
from cds_service.pages.console_models import model_names
from cds_service.pages.console_page import Console, admin
from cds_service.pages.words import CAUSES
from cds_service.state.records import PER_ORDER, PER_USER_AND_WEEK, ReportRow

PERIODS = (7, 28, 91, 365)
ACCEPTANCE: Mapping[str, float] = {"critical": 0.60, "warning": 0.30, "info": 0.10}
"""Share of answered cards accepted that a tier should reach; below half of it the rule's owner should look."""
REASONS = {code: words.lower() for code, words in DEFAULT_REASONS}
"""The reasons every card offers, in the words of its buttons; a site's own code stands for itself."""
COLUMNS = (
    "service",
    "rule",
    "tier",
    "shown",
    "accepted",
    "overridden",
    "unanswered",
    "reasons",
    "suppressed",
    "capped",
    "shadow",
    "median_answer_s",
)


def add_feedback(blueprint: Blueprint, console: Console) -> None:
    house, desk = console.house, console.desk

    def period() -> tuple[int, datetime, datetime]:
        asked = request.args.get("days", "")
        days = int(asked) if asked.isascii() and asked.isdigit() and int(asked) in PERIODS else 28
        # Just beyond now: a card shown at this very moment counts.
        until = house.clock() + timedelta(seconds=1)
        return days, until - timedelta(days=days), until

    @blueprint.get("/feedback")
    def feedback() -> Response:
        days, since, until = period()
        services = [s.id for s in house.services.all]
        burden = desk.burden(since, until)
        service = request.args.get("service", "")
        service = service if service in services else ""
        return console.page(
            "feedback",
            days=days,
            periods=PERIODS,
            service=service,
            services=services,
            report=house.state.feedback_report(since, until, service=service or None),
            models=[row for row in desk.by_model(since, until) if row.service == service or not service],
            named=model_names(house.settings.models),
            burden=burden,
            fewest=FEWEST_ORDERS,
            allowed=PER_ORDER * max(FEWEST_ORDERS, burden.orders),
            per_order=PER_ORDER,
            per_week=PER_USER_AND_WEEK,
            acceptance=ACCEPTANCE,
            causes=CAUSES,
            reasons=REASONS,
        )

    @blueprint.get("/feedback/report.csv")
    def feedback_report() -> Response:
        days, since, until = period()
        desk.note(admin().name, "feedback report exported", house.clock(), days=days)
        rows = [_cells(row) for row in house.state.feedback_report(since, until).rows]
        return csv_of("feedback-report.csv", COLUMNS, iter(rows))

    @blueprint.get("/feedback/models.csv")
    def feedback_models() -> Response:
        days, since, until = period()
        desk.note(admin().name, "model report exported", house.clock(), days=days)
        columns = ("service", "service_version", "model_digest", "shown", "accepted", "overridden")
        rows = [tuple(getattr(row, name) for name in columns) for row in desk.by_model(since, until)]
        return csv_of("feedback-models.csv", columns, iter(rows))

    @blueprint.get("/feedback/rows.csv")
    def feedback_rows() -> Response:
        """Every report as the EHRs sent it, comments left out: they are health data, and the command line's."""
        desk.note(admin().name, "feedback rows exported", house.clock())
        rows = list(house.state.export_feedback())
        columns = tuple(rows[0]) if rows else ()
        return csv_of("feedback-rows.csv", columns, (tuple(row.values()) for row in rows))


def _cells(row: ReportRow) -> tuple[Any, ...]:
    counts = (row.shown, row.accepted, row.overridden, row.unanswered)
    unsaid = (_counted(row.reasons), _counted(row.suppressed), _counted(row.capped))
    median = "" if row.answer_s is None else f"{row.answer_s:.0f}"
    return (row.service, row.rule, row.indicator, *counts, *unsaid, row.shadow, median)


def _counted(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{name} {n}" for name, n in counts.items())


def csv_of(name: str, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> Response:
    """A CSV file that a browser saves under this name."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    response = Response(text.getvalue(), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def harmless(value: Any) -> Any:
    """A spreadsheet runs a cell that begins with one of these; callers' text must not (CSV injection, CWE-1236)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
