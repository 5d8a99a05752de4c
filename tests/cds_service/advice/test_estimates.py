"""How a model's answer is worded, and when it is none."""

from __future__ import annotations

import dataclasses

import pytest

from cds_service.advice.estimates import answered, drivers, model_line
from models.contract import Assessment, Estimate, Target

TARGET = Target("icu_care", "Intensive care", ("imaging", "labs"), "test")
GIVEN = Estimate(TARGET, 0.72, (0.63, 0.80), {"labs": 0.75, "imaging": 0.71}, frozenset({"labs"}))


def line(estimate: Estimate) -> str:
    return model_line(Assessment("chest-open@1", "0" * 64, "open", {"icu_care": estimate}, frozenset()), estimate)


@pytest.mark.parametrize(
    ("interval", "spoken"),
    [
        ((0.50, 0.79), True),  # 0.29 wide across 0.60
        ((0.45, 0.80), False),  # 0.35 wide across 0.60
        ((0.61, 0.99), True),  # wide, but all of it above
        (None, True),
    ],
)
def test_an_interval_wider_than_0_30_across_the_threshold_is_no_answer(
    interval: tuple[float, float] | None, spoken: bool
) -> None:
    # CLINICAL 3.5, MX-2
    estimate = dataclasses.replace(GIVEN, interval=interval)
    assert (answered(estimate, 0.60) is not None) is spoken


def test_what_moved_the_estimate_is_in_points_the_largest_first() -> None:
    assert drivers(GIVEN) == "laboratory results -3 points, chest film +1 point"
    assert drivers(dataclasses.replace(GIVEN, probability=None)) == ""


def test_the_line_names_model_data_probability_and_interval() -> None:
    assert line(GIVEN) == (
        "Model chest-open@1 (trained on open data sets): Intensive care 0.72, 90% interval 0.63 to 0.80; "
        "moved by laboratory results -3 points, chest film +1 point. Model estimate, not a diagnosis."
    )
    bare = dataclasses.replace(GIVEN, interval=None, without={})
    assert line(bare).endswith(": Intensive care 0.72. Model estimate, not a diagnosis.")


def test_research_use_is_said_exactly_when_a_film_took_part() -> None:
    with_film = dataclasses.replace(GIVEN, rested_on=frozenset({"imaging"}))
    assert line(with_film).endswith("Research use: not cleared.")
    assert "Research use" not in line(GIVEN)


def test_an_abstention_says_why() -> None:
    silent = dataclasses.replace(GIVEN, probability=None, interval=None, abstained="no chest film")
    assert line(silent) == "Model chest-open@1 (trained on open data sets) gave no estimate: no chest film."
