"""Observations become results in canonical units, or a Gap that says why not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from fhir_mappers import fhir
from fhir_mappers.codes import LOINC, UCUM
from fhir_mappers.labs import read_observation
from fhir_mappers.record import Coded, Gap, Lab, Person

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
MAN = Person("p1", "male", date(1959, 1, 1), date(1959, 1, 1))


def observation(code: str = "2160-0", value: Any = 1.0, unit: str | None = "mg/dL", **more: Any) -> dict[str, Any]:
    quantity: dict[str, Any] = {"value": value}
    if unit is not None:
        quantity |= {"unit": unit, "system": UCUM, "code": unit}
    return {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "category": [{"coding": [{"code": "laboratory"}]}],
        "code": {"coding": [{"system": LOINC, "code": code}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-10T06:10:00Z",
        "valueQuantity": quantity,
    } | more


def read(resource: dict[str, Any], person: Person = MAN, as_of: datetime = AS_OF) -> list[Lab | Coded | Gap]:
    return list(read_observation(resource, person, as_of))


def lab(resource: dict[str, Any], person: Person = MAN) -> Lab:
    (item,) = read(resource, person)
    assert isinstance(item, Lab), item
    return item


def gap(resource: dict[str, Any]) -> str:
    (item,) = read(resource)
    assert isinstance(item, Gap), item
    assert item.reference == "Observation/o1"
    return item.code


def test_a_creatinine_in_micromoles_is_read_in_milligrams_and_keeps_what_was_printed() -> None:
    read_ = lab(observation(value=180, unit="umol/L"))
    assert read_.value == pytest.approx(2.036, abs=1e-3)  # README of the tables
    assert (read_.analyte, read_.unit, read_.printed) == ("creatinine", "mg/dL", "180 umol/L")
    assert read_.at == datetime(2026, 3, 10, 6, 10, tzinfo=UTC)
    assert (read_.low, read_.high) == (0.74, 1.35)


def test_printed_shows_the_laboratory_s_own_unit_and_decimals() -> None:
    quantity = {"value": 3.0, "comparator": "<", "unit": "mg per litre", "system": UCUM, "code": "mg/L"}
    assert lab(observation("1988-5", valueQuantity=quantity)).printed == "<3.0 mg per litre"


@pytest.mark.parametrize("unit", ["[iU]/L", "IU/L", "U/L", "U/l"])
def test_enzyme_units_are_one_unit_in_all_their_spellings(unit: str) -> None:
    assert lab(observation("1742-6", 40, unit)).value == 40


def test_the_ucum_code_beats_a_printed_unit_we_do_not_know() -> None:
    quantity = {"value": 88.4, "unit": "Mikromol pro Liter", "system": UCUM, "code": "umol/L"}
    assert lab(observation(valueQuantity=quantity)).value == pytest.approx(1.0, abs=1e-3)


def test_a_ucum_code_that_contradicts_the_printed_unit_makes_the_value_unusable() -> None:
    quantity = {"value": 1.0, "unit": "mg/dL", "system": UCUM, "code": "umol/L"}
    assert gap(observation(valueQuantity=quantity)) == "conflicting-unit"


def test_a_code_of_a_system_that_is_not_ucum_is_no_unit() -> None:
    quantity = {"value": 1.0, "unit": "mg/dL", "system": "http://snomed.info/sct", "code": "258797006"}
    assert lab(observation(valueQuantity=quantity)).value == 1.0


def test_spellings_that_mean_the_same_unit_do_not_conflict() -> None:
    quantity = {"value": 140, "unit": "mEq/L", "system": UCUM, "code": "mmol/L"}
    assert lab(observation("2951-2", valueQuantity=quantity)).value == 140


def test_no_unit_means_no_creatinine_but_potassium_has_only_one_unit_in_use() -> None:
    assert gap(observation(unit=None)) == "no-unit"
    assert lab(observation("2823-3", 4.2, None)).value == 4.2


def test_an_unknown_unit_is_never_guessed_from_the_magnitude() -> None:
    assert gap(observation(value=1.0, unit="mg/mL")) == "unknown-unit"


@pytest.mark.parametrize(("value", "code"), [(0.01, "out-of-limits"), (60, "out-of-limits")])
def test_a_value_outside_physiology_is_dropped_and_not_clipped(value: float, code: str) -> None:
    assert gap(observation(value=value)) == code


def test_limits_hold_after_conversion() -> None:
    assert gap(observation(value=5000, unit="umol/L")) == "out-of-limits"  # 56.6 mg/dL, above 40


def test_a_possible_but_extreme_value_is_used_and_said() -> None:
    assert lab(observation(value=9.0)).extreme
    assert not lab(observation(value=1.0)).extreme


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-inf"])
def test_a_number_that_is_none_is_malformed(value: str) -> None:
    assert gap(observation(value=value)) == "malformed"


def test_a_number_written_as_text_is_read() -> None:
    assert lab(observation(value="1.2")).value == 1.2


@pytest.mark.parametrize("status", ["registered", "cancelled", "entered-in-error", "unknown", ""])
def test_a_result_that_is_not_final_amended_or_corrected_is_not_used(status: str) -> None:
    assert gap(observation(status=status)) == "bad-status"


def test_a_preliminary_result_is_marked() -> None:
    assert lab(observation(status="preliminary")).preliminary
    assert not lab(observation(status="corrected")).preliminary


def test_a_data_absent_reason_is_absence() -> None:
    assert gap(observation(dataAbsentReason={"coding": [{"code": "error"}]})) == "no-value"


def test_words_where_a_number_belongs_are_no_value() -> None:
    resource = observation()
    del resource["valueQuantity"]
    assert gap(resource | {"valueString": "GREATER THAN 10"}) == "no-value"


def test_a_code_no_table_knows_is_named() -> None:
    assert gap(observation("5778-6")) == "unknown-code"


@pytest.mark.parametrize("note", ["Sample haemolysed", "specimen was hemolyzed.", "diluted", "Wrong tube?"])
def test_a_spoilt_specimen_is_not_used(note: str) -> None:
    assert gap(observation("2823-3", 7.1, "mmol/L", note=[{"text": note}])) == "specimen-quality"


@pytest.mark.parametrize("note", ["not haemolysed", "No comment"])
def test_a_note_that_the_specimen_is_sound_does_not_spoil_it(note: str) -> None:
    assert lab(observation("2823-3", 4.1, "mmol/L", note=[{"text": note}])).value == 4.1


def test_a_failed_quality_control_spoils_the_result() -> None:
    assert gap(observation(interpretation=[{"coding": [{"code": "QCF"}]}])) == "specimen-quality"


def test_a_time_is_the_effective_one_else_the_end_of_the_period_else_issued() -> None:
    resource = observation()
    del resource["effectiveDateTime"]
    assert gap(resource) == "no-time"
    issued = resource | {"issued": "2026-03-10T07:00:00Z"}
    assert lab(issued).at.hour == 7
    assert (
        lab(issued | {"effectivePeriod": {"start": "2026-03-09T00:00:00Z", "end": "2026-03-10T05:00:00Z"}}).at.hour == 5
    )


def test_a_date_without_time_is_the_end_of_that_day_and_today_is_now() -> None:
    yesterday = lab(observation(effectiveDateTime="2026-03-09"))
    assert (yesterday.at, yesterday.has_time) == (datetime(2026, 3, 9, 23, 59, 59, tzinfo=UTC), False)
    assert lab(observation(effectiveDateTime="2026-03-10")).at == AS_OF


def test_a_time_without_an_offset_is_taken_as_utc() -> None:
    assert lab(observation(effectiveDateTime="2026-03-10T06:00:00")).at == datetime(2026, 3, 10, 6, tzinfo=UTC)


@pytest.mark.parametrize("time", ["2026", "2026-03", "yesterday", "2026-02-30", "2026-03-10T25:00:00Z", "9999-99-99"])
def test_a_month_or_a_wrong_date_is_no_time_for_a_result(time: str) -> None:
    assert gap(observation(effectiveDateTime=time)) == "no-time"


def test_ten_minutes_of_clock_skew_are_believed_and_eleven_are_not() -> None:
    assert lab(observation(effectiveDateTime="2026-03-10T14:09:00Z")).value == 1.0
    assert gap(observation(effectiveDateTime="2026-03-10T14:11:00Z")) == "future"


def test_a_result_that_was_issued_later_was_not_known_yet() -> None:
    assert gap(observation(issued="2026-03-11T00:00:00Z")) == "future"


def test_the_laboratory_s_own_range_wins_and_is_converted() -> None:
    ranges = [{"low": {"value": 62, "unit": "umol/L"}, "high": {"value": 106, "unit": "umol/L"}}]
    result = lab(observation(value=180, unit="umol/L", referenceRange=ranges))
    assert result.low == pytest.approx(0.701, abs=1e-3)  # 62 x 0.0113118
    assert result.high == pytest.approx(1.199, abs=1e-3)


def test_a_range_without_a_unit_is_in_the_unit_of_the_value() -> None:
    result = lab(observation(value=180, unit="umol/L", referenceRange=[{"high": {"value": 106}}]))
    assert result.low is None
    assert result.high == pytest.approx(1.199, abs=1e-3)


def test_of_several_printed_ranges_none_is_chosen() -> None:
    ranges = [{"high": {"value": 1.1, "unit": "mg/dL"}}, {"high": {"value": 0.9, "unit": "mg/dL"}}]
    assert lab(observation(referenceRange=ranges)).high == 1.35


def test_a_child_has_no_adult_range() -> None:
    child = Person("p1", "male", date(2020, 1, 1), date(2020, 1, 1))
    assert (lab(observation(), child).low, lab(observation(), child).high) == (None, None)


def test_a_blood_pressure_is_read_from_its_components() -> None:
    panel = observation("85354-9")
    del panel["valueQuantity"]
    part = {"system": UCUM, "code": "mm[Hg]", "unit": "mmHg"}
    panel["component"] = [
        {"code": {"coding": [{"system": LOINC, "code": "8480-6"}]}, "valueQuantity": {"value": 120, **part}},
        {"code": {"coding": [{"system": LOINC, "code": "8462-4"}]}, "valueQuantity": {"value": 70, **part}},
    ]
    values = {i.analyte: i.value for i in read(panel) if isinstance(i, Lab)}
    assert values == {"sbp": 120, "dbp": 70}
    assert not any(isinstance(i, Gap) for i in read(panel))


def test_pulse_oximetry_gives_saturation_and_oxygen_together() -> None:
    oximetry = observation("59408-5", 92, "%")
    oximetry["component"] = [
        {
            "code": {"coding": [{"system": LOINC, "code": "3151-8"}]},
            "valueQuantity": {"value": 4, "unit": "L/min", "system": UCUM, "code": "L/min"},
        },
        {"code": {"coding": [{"system": LOINC, "code": "3150-0"}]}, "dataAbsentReason": {"text": "not measured"}},
    ]
    items = read(oximetry)
    assert {i.analyte: i.value for i in items if isinstance(i, Lab)} == {"spo2": 92, "o2_flow": 4}
    assert [(g.code, g.subject) for g in items if isinstance(g, Gap)] == [("no-value", "fio2")]


def test_a_panel_nobody_knows_gives_the_components_we_know() -> None:
    panel = observation("55284-4")
    del panel["valueQuantity"]
    panel["component"] = [
        {
            "code": {"coding": [{"system": LOINC, "code": "8480-6"}]},
            "valueQuantity": {"value": 16, "unit": "kPa", "system": UCUM, "code": "kPa"},
        }
    ]
    assert lab(panel).value == pytest.approx(120, abs=0.1)  # 16 x 7.50062


@pytest.mark.parametrize(
    ("code", "answer", "meaning"),
    [
        ("82810-3", (LOINC, "LA15173-0"), "pregnant"),
        ("82810-3", ("http://snomed.info/sct", "60001007"), "not-pregnant"),
        ("67775-7", (LOINC, "LA6560-2"), "confusion"),
        ("2106-3", ("http://snomed.info/sct", "10828004"), "positive"),
        ("92142-9", (LOINC, "LA11883-8"), "negative"),
        ("82810-3", ("http://hospital.example", "yes"), ""),
    ],
)
def test_a_coded_answer_keeps_its_code_and_gets_our_word_where_a_table_knows_it(
    code: str, answer: tuple[str, str], meaning: str
) -> None:
    resource = observation(code)
    del resource["valueQuantity"]
    resource["valueCodeableConcept"] = {"coding": [{"system": answer[0], "code": answer[1]}], "text": "as said"}
    (item,) = read(resource)
    assert isinstance(item, Coded)
    assert (item.answer, item.meaning, item.text) == (answer, meaning, "as said")


@pytest.mark.parametrize(("word", "meaning"), [("Negative", "negative"), ("POSITIVE.", "positive"), ("equivocal", "")])
def test_a_pregnancy_test_may_answer_in_one_word(word: str, meaning: str) -> None:
    resource = observation("2106-3")
    del resource["valueQuantity"]
    (item,) = read(resource | {"valueString": word})
    assert isinstance(item, Coded)
    assert item.meaning == meaning


def test_a_due_date_is_kept_as_a_date() -> None:
    resource = observation("11778-8")
    del resource["valueQuantity"]
    (item,) = read(resource | {"valueDateTime": "2026-08-01"})
    assert isinstance(item, Coded)
    assert item.answer == ("date", "2026-08-01")


def test_a_resource_of_the_wrong_shape_is_malformed_and_says_nothing_of_its_content() -> None:
    with pytest.raises(fhir.Malformed) as error:
        read(observation(valueQuantity="SECRET 1.0 mg/dL"))
    assert "SECRET" not in str(error.value)
