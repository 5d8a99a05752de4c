"""CKD-EPI 2021, bedside Schwartz and KDIGO against their publications."""

from __future__ import annotations

from datetime import timedelta

import pytest
from records import coded, lab, person, problem, record

from cds_service.advice.packs.kidney import (
    Range,
    egfr_bedside_schwartz,
    egfr_ckd_epi_2021,
    kidney,
    raised,
    round_half_up,
)
from fhir_mappers.codes import lab_codes
from fhir_mappers.record import Lab

UMOL = lab_codes()["14682-9"].conversions["umol/L"]


@pytest.mark.parametrize(
    ("creatinine", "age", "sex", "published"),
    [
        (1.2, 55, "male", 71),  # National Kidney Foundation calculator
        (2.6, 67, "male", 26),  # vignette S01
        (1.7, 71, "male", 43),  # vignette S02
        (0.8, 47, "female", 91),  # vignette S03
        # by hand from Inker 2021, table 2: 142 x 0.9938^50 = 104.06; x 1.012 for a woman = 105.31
        (0.9, 50, "male", 104),
        (0.7, 50, "female", 105),
        # below kappa: 104.06 x (0.6/0.9)^-0.302 = 104.06 x 1.1303 = 117.6
        (0.6, 50, "male", 118),
    ],
)
def test_egfr_of_adults_is_that_of_ckd_epi_2021(creatinine: float, age: int, sex: str, published: int) -> None:
    assert round_half_up(egfr_ckd_epi_2021(creatinine, age, sex)) == published  # type: ignore[arg-type]


def test_egfr_of_children_is_height_times_0_413_over_creatinine() -> None:
    # Schwartz 2009: 0.413 x 120 cm / 0.8 mg/dL = 61.95
    assert egfr_bedside_schwartz(0.8, 120.0) == pytest.approx(61.95)


def test_egfr_is_compared_unrounded_and_shown_rounded() -> None:
    close = Range(29.6, 29.6)
    assert close.below(30.0) is True
    assert str(close) == "30"
    assert Range(30.0, 30.0).below(30.0) is False


def test_a_partial_birth_date_or_an_unknown_sex_gives_a_span_that_must_agree() -> None:
    both_ages = kidney(record(lab("creatinine", 2.6), who=person("male", (60, 67)))).egfr
    # by hand: 142 x (2.6/0.9)^-1.2 x 0.9938^67 = 26.2; at 60 years x 1/0.9938^7 = 27.3
    assert str(both_ages) == "26 to 27"
    either_sex = kidney(record(lab("creatinine", 2.1), who=person("unknown", 67))).egfr
    assert either_sex is not None
    assert either_sex.below(30.0) is None  # 34 as a man, 25 as a woman: no rule fires on this


def test_a_value_known_only_as_more_than_counts_with_every_value_it_allows() -> None:
    state = kidney(record(lab("creatinine", 15.0, comparator=">")))
    assert state.egfr is not None
    assert state.egfr.below(30.0) is True
    open_ended = kidney(record(lab("creatinine", 1.0, comparator=">")))
    assert open_ended.egfr is not None
    assert open_ended.egfr.below(30.0) is None


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([lab("creatinine", 2.6), problem("dialysis")], "dialysis"),
        ([lab("creatinine", 2.6), lab("creatinine", 1.3, 30)], "acute kidney injury"),
        ([lab("creatinine", 2.6), lab("creatinine", 3.2, 30)], "creatinine changing"),
        ([], "no creatinine"),
        ([lab("creatinine", 2.6, 60)], "no creatinine"),
    ],
)
def test_no_egfr_is_given_where_it_is_not_valid(items: list[Lab], why: str) -> None:
    state = kidney(record(*items))
    assert state.egfr is None
    assert state.why_no_egfr == why


def test_no_egfr_is_given_in_pregnancy_or_without_an_age() -> None:
    pregnant = record(lab("creatinine", 2.6), coded("pregnancy_status", "pregnant"), who=person("female", 30))
    assert kidney(pregnant).why_no_egfr == "pregnancy"
    assert kidney(record(lab("creatinine", 2.6), who=person(age=None))).why_no_egfr == "age not known"


def test_a_child_needs_a_height_of_the_last_ninety_days() -> None:
    boy = person("male", 10)
    assert kidney(record(lab("creatinine", 2.0), who=boy)).why_no_egfr == "no height in 90 days"
    tall = kidney(record(lab("creatinine", 2.0), lab("height", 140, timedelta(days=80)), who=boy)).egfr
    assert str(tall) == "29"  # 0.413 x 140 / 2.0 = 28.9


@pytest.mark.parametrize(
    ("now", "earlier", "hours", "stage"),
    [
        (1.3, 1.0, 40, 1),  # +0.3 within 48 h
        (1.29, 1.0, 40, None),
        (1.3, 1.0, 60, None),  # +0.3, but over more than 48 h and below 1.5 times
        (1.5, 1.0, 100, 1),  # 1.5 times within 7 days
        (1.9, 1.0, 100, 1),
        (2.0, 1.0, 100, 2),
        (2.9, 1.0, 100, 2),
        (3.0, 1.0, 100, 3),
        (4.0, 3.6, 40, 3),  # 4.0 mg/dL with an acute rise
        (4.0, 3.6, 100, None),  # 4.0 mg/dL without one
    ],
)
def test_acute_kidney_injury_is_staged_as_kdigo_2012_does(
    now: float, earlier: float, hours: float, stage: int | None
) -> None:
    aki = kidney(record(lab("creatinine", now, 1), lab("creatinine", earlier, 1 + hours))).aki
    assert (aki.stage if aki else None) == stage


def test_the_rise_of_26_5_umol_per_litre_counts_as_0_3_mg_per_decilitre() -> None:
    # KDIGO states both; 26.5 umol/L is 0.29976 mg/dL
    aki = kidney(record(lab("creatinine", UMOL(203.5), 1), lab("creatinine", UMOL(177.0), 30))).aki
    assert aki is not None
    assert aki.stage == 1


def test_the_baseline_is_the_median_of_the_year_only_without_a_result_in_the_last_week() -> None:
    year = [lab("creatinine", value, timedelta(days=days)) for value, days in ((0.9, 20), (1.0, 90), (2.0, 200))]
    aki = kidney(record(lab("creatinine", 1.6), *year)).aki
    assert aki is not None
    assert aki.baseline == 1.0
    assert aki.before is None
    week = lab("creatinine", 1.5, timedelta(days=4))
    assert kidney(record(lab("creatinine", 1.6), week, *year)).aki is None
    too_old = [lab("creatinine", 1.0, timedelta(days=400))]
    assert kidney(record(lab("creatinine", 1.6), *too_old)).aki is None


def test_a_child_below_35_with_an_acute_rise_is_stage_3() -> None:
    items = [lab("creatinine", 1.7, 1), lab("creatinine", 1.3, 30), lab("height", 140, 30)]
    aki = kidney(record(*items, who=person("male", 10))).aki  # 0.413 x 140 / 1.7 = 34.0
    assert aki is not None
    assert aki.stage == 3


def test_steadiness_is_unknown_without_an_earlier_result_in_the_week() -> None:
    assert kidney(record(lab("creatinine", 2.6))).steady is None
    assert kidney(record(lab("creatinine", 2.6), lab("creatinine", 2.5, 56))).steady is True
    assert kidney(record(lab("creatinine", 2.6), lab("creatinine", 3.0, 30))).steady is False


def test_a_contradicted_result_is_no_baseline() -> None:
    items = [lab("creatinine", 1.6, 1), lab("creatinine", 0.9, 50.0), lab("creatinine", 1.55, 50.2)]
    assert kidney(record(*items)).aki is None


def test_an_injury_that_fills_the_last_week_is_measured_against_the_time_before_it() -> None:
    """2.0 mg/dL is 1.05 times the week's lowest and twice the median of days 8 to 365; the lower baseline counts."""
    week = (lab("creatinine", 2.0, 8.0), lab("creatinine", 1.9, 24.0 * 4))
    found = raised(record(*week, lab("creatinine", 1.0, 24.0 * 150)))
    assert found is not None
    assert (found.baseline, found.times) == (1.0, pytest.approx(2.0))
    alone = raised(record(*week))
    assert alone is not None
    assert alone.times == pytest.approx(2.0 / 1.9)


def test_without_a_result_to_compare_or_on_dialysis_creatinine_is_not_said_to_be_raised() -> None:
    now, before = lab("creatinine", 2.0, 8.0), lab("creatinine", 1.0, 24.0 * 4)
    assert raised(record(now)) is None
    assert raised(record(now, before, problem("dialysis"))) is None
    assert raised(record(before)) is None  # four days old: none in time
