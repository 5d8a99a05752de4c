"""When an alarm is raised and when it is over, by the calls alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cds_service.advice.packs.sustained import Terms, alarm

START = datetime(2026, 3, 10, 8, tzinfo=UTC)
TERMS = Terms(0.30, timedelta(minutes=30), 0.20, timedelta(hours=2))
"""Below 0.24, 20 % under the threshold, counts as over."""


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([(0, 0.9)], False),  # one call
        ([(0, 0.3), (30, 0.3)], True),
        ([(0, 0.3), (29, 0.3)], False),
        ([(0, 0.3), (10, 0.4), (20, 0.4), (31, 0.4)], True),  # charts are opened in between
        ([(0, 0.3), (20, 0.29), (40, 0.4)], False),  # not consecutive
        ([(0, 0.3), (20, 0.29), (40, 0.4), (70, 0.4)], True),
        ([(0, 0.3), (20, None), (40, 0.4)], True),  # a call without an answer changes nothing
        ([(0, None), (40, 0.9)], False),
        # raised at 30: it stands above 0.24, and below it for less than two hours
        ([(0, 0.4), (30, 0.4), (60, 0.25), (300, 0.25)], True),
        ([(0, 0.4), (30, 0.4), (60, 0.1), (179, 0.1)], True),
        ([(0, 0.4), (30, 0.4), (60, 0.1), (180, 0.1)], False),
        ([(0, 0.4), (30, 0.4), (60, 0.1), (120, 0.25), (180, 0.1)], True),  # one call above 0.24 begins it again
        ([(0, 0.4), (30, 0.4), (60, 0.1), (180, 0.1), (190, 0.4)], False),  # over: it has to be raised again
        ([(0, 0.4), (30, 0.4), (60, 0.1), (180, 0.1), (190, 0.4), (220, 0.4)], True),
    ],
)
def test_an_alarm_needs_two_calls_half_an_hour_apart_and_ends_after_two_hours_well_below(
    calls: list[tuple[int, float | None]], expected: bool
) -> None:
    assert alarm([(START + timedelta(minutes=at), p) for at, p in calls], TERMS) is expected
