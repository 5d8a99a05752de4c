from __future__ import annotations

import pytest

from cds_service.deadline import Deadline


class Clock:
    """A monotonic clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_remains_shrinks_with_the_clock_and_never_goes_below_zero() -> None:
    clock = Clock()
    deadline = Deadline.after(0.5, clock)
    assert deadline.remaining() == pytest.approx(0.5)
    clock.now += 0.4
    assert deadline.remaining() == pytest.approx(0.1)
    assert not deadline.passed
    clock.now += 10.0
    assert deadline.remaining() == 0.0
    assert deadline.passed


def test_time_kept_for_thinking_is_taken_from_fetching() -> None:
    clock = Clock()
    whole = Deadline.after(0.5, clock)
    fetching = whole.leaving(0.15)
    assert fetching.remaining() == pytest.approx(0.35)
    clock.now += 0.36
    assert fetching.passed
    assert whole.remaining() == pytest.approx(0.14)


@pytest.mark.parametrize("seconds", [-1.0, 0.0])
def test_a_deadline_cannot_be_extended_by_leaving_less_than_nothing(seconds: float) -> None:
    whole = Deadline.after(0.5, Clock())
    assert whole.leaving(seconds).at == whole.at


def test_a_part_of_the_work_gets_no_more_time_than_the_whole() -> None:
    whole = Deadline.after(0.5, Clock())
    assert whole.within(2.0).at == whole.at
    assert whole.within(0.2).remaining() == pytest.approx(0.2)
    assert whole.within(-5.0).passed


def test_the_clock_is_monotonic_unless_a_test_brings_its_own() -> None:
    assert 0.0 < Deadline.after(60.0).remaining() <= 60.0
