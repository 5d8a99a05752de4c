"""RECIST 1.1 (Eisenhauer 2009): 20 % and 5 mm above the smallest sum of the same tumours."""

from __future__ import annotations

from datetime import timedelta

import pytest
from records import NOW, source

from cds_service.advice.packs.recist import progression, sums
from fhir_mappers.record import Lesion


def at(days_ago: int, **diameters: float) -> list[Lesion]:
    return [Lesion(name, mm, NOW - timedelta(days=days_ago), source()) for name, mm in diameters.items()]


@pytest.mark.parametrize(
    ("before", "now", "progressed"),
    [
        (50.0, 60.0, True),  # +20 %, +10 mm
        (50.0, 59.9, False),
        (20.0, 24.5, False),  # +22.5 % but 4.5 mm
        (20.0, 25.0, True),
        (100.0, 119.0, False),
    ],
)
def test_both_the_share_and_the_millimetres_are_needed(before: float, now: float, progressed: bool) -> None:
    assert (progression([*at(60, t1=before), *at(1, t1=now)]) is not None) is progressed


def test_the_smallest_sum_counts_and_not_the_first() -> None:
    found = progression([*at(120, t1=60.0), *at(60, t1=40.0), *at(1, t1=50.0)])
    assert found is not None
    assert (found.nadir.total_mm, found.percent) == (40.0, 25)


def test_sums_of_different_tumours_are_not_compared() -> None:
    assert progression([*at(60, t1=20.0), *at(1, t1=20.0, t2=30.0)]) is None
    assert progression([*at(60, t1=20.0, t2=30.0), *at(1, t1=60.0)]) is None


def test_more_than_five_targets_give_no_sum() -> None:
    assert sums(at(1, a=10, b=10, c=10, d=10, e=10, f=10)) == ()


def test_the_order_of_measurements_means_nothing() -> None:
    given = [*at(60, t1=20.0, t2=10.0), *at(1, t1=30.0, t2=10.0)]
    assert progression(given) == progression(given[::-1])
