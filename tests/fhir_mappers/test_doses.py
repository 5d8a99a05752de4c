"""The daily dose of an order, and where it acts: read when said beyond doubt, unread otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_mappers.doses import daily_dose, dose_in_words, is_local


@pytest.mark.parametrize(
    ("text", "milligrams"),
    [
        ("simvastatin 40 mg nightly", 40.0),
        ("clopidogrel 75 mg daily", 75.0),
        ("azithromycin 500 mg IV daily", 500.0),
        ("metformin 1000 mg twice daily", 2000.0),
        ("ceftriaxone 2 g IV daily", 2000.0),
        ("levothyroxine 50 mcg once daily", 0.05),
        ("ibuprofen 400 mg every 8 hours", 1200.0),
        ("warfarin 5 mg at bedtime", 5.0),
        ("methotrexate 15 mg once weekly", 15 / 7),
        ("codeine 30 mg q.i.d", 120.0),
    ],
)
def test_a_sentence_with_one_amount_and_one_frequency_is_a_daily_dose(text: str, milligrams: float) -> None:
    dose = dose_in_words(text)
    assert dose is not None
    assert dose.milligrams == pytest.approx(milligrams)


@pytest.mark.parametrize(
    "text",
    [
        "simvastatin",
        "simvastatin 40 mg",  # how often is not said
        "simvastatin nightly",
        "tacrolimus 0.1 mg/kg daily",
        "fluorouracil 400 mg/m2 daily",
        "codeine 30 mg or 60 mg daily",
        "amoxicillin 500 mg/125 mg twice daily",
        "prednisone 40 mg daily then 20 mg daily",
        "warfarin 5 mg daily or twice daily",
        "insulin 10 units daily",
        "ticagrelor 1 tablet twice daily",
    ],
)
def test_a_sentence_that_leaves_the_dose_open_is_not_read(text: str) -> None:
    assert dose_in_words(text) is None


def order(*dosages: dict[str, Any], text: str = "drug") -> dict[str, Any]:
    return {"medicationCodeableConcept": {"text": text}, "dosageInstruction": list(dosages)}


def dosage(value: Any, unit: str, **timing: Any) -> dict[str, Any]:
    return {"doseAndRate": [{"doseQuantity": {"value": value, "unit": unit}}], "timing": timing}


@pytest.mark.parametrize(
    ("given", "milligrams"),
    [
        (dosage(40, "mg", repeat={"frequency": 1, "period": 1, "periodUnit": "d"}), 40.0),
        (dosage(1, "g", repeat={"frequency": 2, "period": 1, "periodUnit": "d"}), 2000.0),
        (dosage(400, "mg", repeat={"frequency": 1, "period": 8, "periodUnit": "h"}), 1200.0),
        (dosage(250, "ug", repeat={"frequency": 1, "period": 1, "periodUnit": "d"}), 0.25),
        (dosage(75, "mg", code={"coding": [{"code": "QD"}]}), 75.0),
        (dosage(500, "mg", code={"coding": [{"code": "BID"}]}), 1000.0),
    ],
)
def test_structured_dosage_is_counted_up_to_a_day(given: dict[str, Any], milligrams: float) -> None:
    found = daily_dose(order(given))
    assert found is not None
    assert found.milligrams == pytest.approx(milligrams)


def test_two_instructions_are_two_doses_of_a_day_and_one_unread_leaves_both_unread() -> None:
    daily = {"frequency": 1, "period": 1, "periodUnit": "d"}
    found = daily_dose(order(dosage(20, "mg", repeat=daily), dosage(40, "mg", repeat=daily)))
    assert found is not None
    assert found.milligrams == 60.0
    assert daily_dose(order(dosage(20, "mg", repeat=daily), dosage(1, "tablet", repeat=daily))) is None


def test_the_structured_dose_counts_before_the_words_of_the_order() -> None:
    given = order(
        dosage(10, "mg", repeat={"frequency": 1, "period": 1, "periodUnit": "d"}), text="simvastatin 40 mg nightly"
    )
    found = daily_dose(given)
    assert found is not None
    assert found.milligrams == 10.0


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"dosageInstruction": None},
        {"dosageInstruction": ["x"]},
        {"dosageInstruction": [{"doseAndRate": "x", "timing": []}]},
        {"dosageInstruction": [dosage(True, "mg", code={"coding": [{"code": "QD"}]})]},
        {"dosageInstruction": [dosage(-5, "mg", code={"coding": [{"code": "QD"}]})]},
        {"dosageInstruction": [dosage(5, "mg", repeat={"frequency": 1, "period": 0, "periodUnit": "d"})]},
        {"dosageInstruction": [dosage(5, "mg", repeat={"frequency": "1", "period": 1, "periodUnit": "d"})]},
        {"dosageInstruction": [dosage(5, "mg", code={"coding": [{"code": "QD"}, {"code": "BID"}]})]},
    ],
)
def test_an_order_of_another_shape_has_no_dose(broken: dict[str, Any]) -> None:
    assert daily_dose(broken) is None


def route(**given: Any) -> dict[str, Any]:
    return {"dosageInstruction": [{"route": given}]}


def test_a_drug_for_skin_eye_or_spinal_fluid_is_local() -> None:
    snomed = "http://snomed.info/sct"
    assert is_local(route(coding=[{"system": snomed, "code": "6064005"}]))  # topical
    assert is_local(route(coding=[{"system": snomed, "code": "72607000"}]))  # intrathecal
    assert is_local(route(text="Topical"))
    assert not is_local(route(coding=[{"system": snomed, "code": "26643006"}]))  # oral
    assert not is_local(route(coding=[{"code": "26643006"}], text="topical"))
    assert not is_local({})
    assert not is_local({"dosageInstruction": [{"route": {"text": "topical"}}, {"route": {"text": "oral"}}]})
