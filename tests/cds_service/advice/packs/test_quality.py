"""DQ-1 to DQ-10: which result a rule may rest on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from records import lab, record

from cds_service.advice.packs.quality import above, before, below, certainly_within, interval, reading, window
from fhir_mappers.record import Gap


def test_the_window_of_creatinine_is_two_days_for_inpatients_and_thirty_for_outpatients() -> None:
    # labs.csv, 2160-0: stale_inpatient P2D, stale_outpatient P30D
    assert window(record(), "creatinine") == timedelta(days=2)
    assert window(record(setting="AMB"), "creatinine") == timedelta(days=30)
    assert window(record(setting=None), "creatinine") == timedelta(days=30)


def test_a_result_older_than_its_window_is_history_and_decides_nothing() -> None:
    old = lab("creatinine", 2.6, 49)
    found = reading(record(old), "creatinine")
    assert found.lab is None
    assert found.history == old
    fresh = lab("creatinine", 2.6, 47)
    assert reading(record(fresh), "creatinine").lab == fresh


def test_a_preliminary_result_counts_only_when_there_is_no_final_one_in_the_window() -> None:
    early = lab("creatinine", 2.0, 1, preliminary=True)
    final = lab("creatinine", 1.0, 30)
    assert reading(record(early, final), "creatinine").lab == final
    assert reading(record(early), "creatinine").lab == early


@pytest.mark.parametrize(
    ("value", "comparator", "limit", "is_below", "is_above"),
    [
        (5.0, None, 5.0, False, False),
        (5.0, "<", 5.0, True, False),
        (5.0, "<", 6.0, True, False),
        (5.0, "<", 4.0, None, None),
        (5.0, "<=", 5.0, None, False),
        (5.0, ">", 5.0, False, True),
        (5.0, ">", 6.0, None, None),
        (5.0, ">=", 5.0, False, None),
    ],
)
def test_a_comparator_decides_only_where_its_whole_interval_lies_on_one_side(
    value: float, comparator: str | None, limit: float, is_below: bool | None, is_above: bool | None
) -> None:
    printed = lab("lactate", value, comparator=comparator)
    assert below(printed, limit) is is_below
    assert above(printed, limit) is is_above


def test_less_than_is_an_interval_from_zero() -> None:
    assert interval(lab("creatinine", 0.3, comparator="<")) == (0.0, 0.3)


def test_two_results_within_half_an_hour_that_differ_by_more_than_a_quarter_drive_nothing() -> None:
    one, other = lab("creatinine", 2.6, 1.0), lab("creatinine", 2.0, 1.4)
    found = reading(record(one, other), "creatinine")
    assert found.lab is None
    assert found.conflict == (one, other)
    assert found.trend == ()


@pytest.mark.parametrize("other", [("creatinine", 2.1, 1.4), ("creatinine", 2.0, 1.6)])
def test_a_smaller_difference_or_a_longer_interval_is_no_conflict(other: tuple[str, float, float]) -> None:
    one = lab("creatinine", 2.6, 1.0)
    assert reading(record(one, lab(*other)), "creatinine").lab == one


def test_a_repeat_that_agrees_with_one_of_the_two_settles_the_conflict() -> None:
    newest, wrong, right = lab("creatinine", 1.05, 1), lab("creatinine", 2.6, 4.0), lab("creatinine", 1.0, 4.4)
    found = reading(record(newest, wrong, right), "creatinine")
    assert found.lab == newest
    assert wrong not in found.trend
    assert right in found.trend


def test_creatinine_that_doubles_within_six_hours_is_not_believed() -> None:
    now, earlier = lab("creatinine", 2.0, 1), lab("creatinine", 1.0, 6)
    assert reading(record(now, earlier), "creatinine").conflict == (now, earlier)
    slower = lab("creatinine", 1.0, 8)
    assert reading(record(now, slower), "creatinine").lab == now


def test_of_two_codes_in_one_draw_that_agree_the_preferred_one_is_taken() -> None:
    analyser = lab("creatinine", 2.5, 1.0, loinc="38483-4", preferred=False)
    laboratory = lab("creatinine", 2.6, 1.2)
    assert reading(record(analyser, laboratory), "creatinine").lab == laboratory


def test_a_date_without_a_time_is_not_ordered_within_its_day() -> None:
    # 2026-03-10 as a date is kept as the end of that day; a result of 13:00 may be older or newer.
    dated = lab("creatinine", 1.0, 0, has_time=False)
    timed = lab("creatinine", 1.5, 1)
    assert not before(timed, dated)
    assert not before(dated, timed)
    day_before = lab("creatinine", 1.0, 24.5)
    assert before(day_before, dated)
    assert not certainly_within(lab("creatinine", 1.0, 30, has_time=False), timed, timedelta(hours=48))
    assert certainly_within(lab("creatinine", 1.0, 24, has_time=False), timed, timedelta(hours=48))


def test_gaps_of_other_patients_are_not_counted_as_results_that_could_not_be_used() -> None:
    from cds_service.advice.packs.quality import unusable

    gaps = tuple(Gap(code, "creatinine", "Observation/1") for code in ("unknown-unit", "other-patient", "superseded"))
    assert unusable(record(gaps=gaps), "creatinine") == 1
