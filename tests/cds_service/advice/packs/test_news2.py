"""NEWS2 against the chart of the Royal College of Physicians (2017)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from records import coded, lab, record

from cds_service.advice.packs.news2 import (
    HEART_RATE,
    RESP_RATE,
    SBP,
    SPO2_SCALE_1,
    SPO2_SCALE_2_AIR,
    SPO2_SCALE_2_OXYGEN,
    TEMPERATURE,
    Bands,
    news2,
    points,
    rise,
)
from fhir_mappers.codes import lab_codes
from fhir_mappers.record import Coded, Lab

WINDOW = timedelta(hours=8)


@pytest.mark.parametrize(
    ("bands", "chart"),
    [
        (RESP_RATE, {8: 3, 9: 1, 11: 1, 12: 0, 20: 0, 21: 2, 24: 2, 25: 3}),
        (SPO2_SCALE_1, {91: 3, 92: 2, 93: 2, 94: 1, 95: 1, 96: 0}),
        (SPO2_SCALE_2_AIR, {83: 3, 84: 2, 85: 2, 86: 1, 87: 1, 88: 0, 92: 0, 93: 0, 99: 0}),
        (SPO2_SCALE_2_OXYGEN, {83: 3, 85: 2, 87: 1, 88: 0, 92: 0, 93: 1, 94: 1, 95: 2, 96: 2, 97: 3}),
        (SBP, {90: 3, 91: 2, 100: 2, 101: 1, 110: 1, 111: 0, 219: 0, 220: 3}),
        (HEART_RATE, {40: 3, 41: 1, 50: 1, 51: 0, 90: 0, 91: 1, 110: 1, 111: 2, 130: 2, 131: 3}),
    ],
)
def test_the_bands_are_those_of_the_chart(bands: Bands, chart: dict[int, int]) -> None:
    assert {value: points(bands, value) for value in chart} == chart


def test_temperature_is_banded_to_one_decimal() -> None:
    chart = {35.0: 3, 35.1: 1, 36.0: 1, 36.1: 0, 38.0: 0, 38.1: 1, 39.0: 1, 39.1: 2}
    assert {value: points(TEMPERATURE, value, 1) for value in chart} == chart
    assert points(TEMPERATURE, 38.04, 1) == 0
    assert points(TEMPERATURE, 38.05, 1) == 1


def test_100_4_fahrenheit_scores_as_38_0_celsius() -> None:
    fahrenheit = lab_codes()["8310-5"].conversions["[degF]"]
    assert points(TEMPERATURE, fahrenheit(100.4), 1) == points(TEMPERATURE, 38.0, 1) == 0
    assert points(TEMPERATURE, fahrenheit(100.6), 1) == 1  # 38.1 C


def whole_set(ago: float = 0.5, **changed: float) -> list[Lab | Coded]:
    normal = {"resp_rate": 16, "spo2": 97, "o2_flow": 0, "sbp": 120, "heart_rate": 70, "temperature": 37.0}
    return [coded("avpu", "alert", ago), *(lab(k, v, ago) for k, v in {**normal, **changed}.items())]


def test_a_normal_set_scores_nothing_and_misses_nothing() -> None:
    score = news2(record(*whole_set()), WINDOW)
    assert score is not None
    assert (score.total, score.missing) == (0, ())


def test_the_ward_patient_of_vignette_s11_scores_10() -> None:
    # 24/min 2, 93 % 2, oxygen 2, 104 mmHg 1, 116/min 2, alert 0, 38.6 C 1
    items = whole_set(resp_rate=24, spo2=93, o2_flow=4, sbp=104, heart_rate=116, temperature=38.6)
    score = news2(record(*items), WINDOW)
    assert score is not None
    assert score.total == 10
    assert score.items[0].points == 2


def test_a_missing_item_makes_the_score_a_minimum_and_is_named() -> None:
    items = [x for x in whole_set(resp_rate=26) if not (isinstance(x, Lab) and x.analyte == "temperature")]
    score = news2(record(*items), WINDOW)
    assert score is not None
    assert score.total == 3
    assert score.missing == ("temperature",)
    assert score.single_three


def test_only_what_was_measured_within_an_hour_of_the_newest_belongs_to_the_set() -> None:
    items = [*whole_set(3.0, heart_rate=135), lab("resp_rate", 22, 1.0)]
    score = news2(record(*items), WINDOW)
    assert score is not None
    assert score.total == 2
    assert "heart rate" in score.missing


def test_vital_signs_older_than_the_window_score_nothing() -> None:
    assert news2(record(*whole_set(8.1, resp_rate=30)), WINDOW) is None
    assert news2(record(*whole_set(7.9, resp_rate=30)), WINDOW) is not None


def test_scale_2_is_used_only_with_a_documented_target() -> None:
    items = whole_set(spo2=89, o2_flow=2)
    plain, target = news2(record(*items), WINDOW), news2(record(*items), WINDOW, hypercapnia_target=True)
    assert plain is not None
    assert target is not None
    assert plain.total == 5  # 89 % on scale 1: 3, oxygen: 2
    assert target.total == 2  # 89 % on scale 2: 0, oxygen: 2
    too_much = news2(record(*whole_set(spo2=97, o2_flow=2)), WINDOW, hypercapnia_target=True)
    assert too_much is not None
    assert too_much.total == 5


@pytest.mark.parametrize(("analyte", "value", "score"), [("fio2", 21, 0), ("fio2", 28, 2), ("o2_flow", 0, 0)])
def test_21_percent_or_no_flow_is_air(analyte: str, value: float, score: int) -> None:
    items = [x for x in whole_set() if not (isinstance(x, Lab) and x.analyte == "o2_flow")]
    found = news2(record(*items, lab(analyte, value, 0.5)), WINDOW)
    assert found is not None
    assert found.total == score


@pytest.mark.parametrize("meaning", ["confusion", "voice", "pain", "unresponsive"])
def test_anything_but_alert_scores_3(meaning: str) -> None:
    items = [x for x in whole_set() if isinstance(x, Lab)]
    found = news2(record(*items, coded("avpu", meaning, 0.5)), WINDOW)
    assert found is not None
    assert found.total == 3


def test_a_coma_score_below_15_scores_3_and_15_nothing() -> None:
    items = [x for x in whole_set() if isinstance(x, Lab)]
    for value, total in ((15, 0), (14, 3)):
        found = news2(record(*items, lab("gcs_total", value, 0.5)), WINDOW)
        assert found is not None
        assert found.total == total


def test_an_unknown_answer_on_consciousness_is_missing_and_not_alert() -> None:
    items = [x for x in whole_set() if isinstance(x, Lab)]
    found = news2(record(*items, coded("avpu", "", 0.5)), WINDOW)
    assert found is not None
    assert found.missing == ("consciousness",)


def test_a_comparator_that_leaves_the_band_open_makes_the_item_missing() -> None:
    items = [x for x in whole_set() if not (isinstance(x, Lab) and x.analyte == "spo2")]
    certain = news2(record(*items, lab("spo2", 70, 0.5, comparator="<")), WINDOW)
    assert certain is not None
    assert certain.total == 3
    unclear = news2(record(*items, lab("spo2", 94, 0.5, comparator="<")), WINDOW)
    assert unclear is not None
    assert unclear.missing == ("oxygen saturation",)


def test_a_rise_is_measured_from_the_lowest_complete_score_of_the_hours_before() -> None:
    now = whole_set(0.5, resp_rate=24, heart_rate=116)  # 2 + 2
    earlier = (*whole_set(3.0, resp_rate=22), *whole_set(5.0), *whole_set(7.0))
    held = record(*now, *earlier)
    score = news2(held, WINDOW)
    assert score is not None
    low = rise(held, score, timedelta(hours=6))
    assert low is not None
    assert (low.total, held.as_of - low.at) == (0, timedelta(hours=5))
    partial = [x for x in whole_set(5.0) if not (isinstance(x, Lab) and x.analyte == "temperature")]
    kept = record(*now, *whole_set(3.0, resp_rate=22), *partial)
    start = rise(kept, score, timedelta(hours=6))
    assert start is not None
    assert start.total == 2  # what was not measured five hours ago may have been abnormal
    assert rise(record(*now), score, timedelta(hours=6)) is None
