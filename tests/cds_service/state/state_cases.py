"""Answers and feedback as the service would hand them over. Nothing of it is about a real person."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cds_service.state.records import AnswerRecord, Decision, FeedbackItem, Prediction, ShownCard

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
"""When a token expires that must not be forgotten in a test: the store forgets by the machine's own clock."""


def card(card_id: str | None = None, **changes: Any) -> ShownCard:
    fields: dict[str, Any] = {"card": card_id or str(uuid.uuid4()), "rules": ("IS-01",), "indicator": "warning"}
    return ShownCard(**(fields | changes))


def answer(*cards: ShownCard, **changes: Any) -> AnswerRecord:
    fields: dict[str, Any] = {
        "tenant": "north",
        "hook": "order-sign",
        "hook_instance": str(uuid.uuid4()),
        "service": "imaging-safety",
        "service_version": "3",
        "at": NOW,
        "status": 200,
        "model": "chest-open@1",
        "model_digest": "ab" * 32,
        "input_digest": "cd" * 32,
        "inputs": ("1f" * 16, "2e" * 16),
        "decisions": (Decision("IS-01", "fired"), Decision("IS-02", "silent", "eGFR is 88")),
        "predictions": (Prediction("pneumonia", 0.31, 0.22, 0.41), Prediction("effusion", None)),
        "cards": cards,
        "ms": {"evidence": 120, "model": 35},
    }
    return AnswerRecord(**(fields | changes))


def item(card_id: str, outcome: str = "accepted", minutes: float = 1, **changes: Any) -> FeedbackItem:
    fields: dict[str, Any] = {"card": card_id, "outcome": outcome, "outcome_at": NOW + timedelta(minutes=minutes)}
    return FeedbackItem(**(fields | changes))


def until(true: Callable[[], bool], seconds: float = 60.0) -> float:
    """Wait until it is true; how long that took. Fails after `seconds`."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"not true after {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started
