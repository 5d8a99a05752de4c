"""Nephrotoxins in acute kidney injury: stage 2, or stage 1 with company; never without an injury."""

from __future__ import annotations

from typing import Any

import pytest
from records import NOW, drug, lab, problem, record, source

from cds_service.advice.packs.nephrotoxin import KidneyHarm, kidney_harm
from fhir_mappers.codes import RXNORM, drug_concepts
from fhir_mappers.record import Event, Order

IBUPROFEN, VANCOMYCIN, LISINOPRIL, FUROSEMIDE, GENTAMICIN = "5640", "11124", "29046", "4603", "1596450"
BASE = lab("creatinine", 1.0, 24 * 3)
STAGE_1, STAGE_2 = (lab("creatinine", 1.6), BASE), (lab("creatinine", 2.2), BASE)


def order(rxcui: str) -> Order:
    codes = ((RXNORM, rxcui),)
    return Order(
        "MedicationRequest/m1", True, "medication", codes, "", drug_concepts(codes), None, "routine", "draft", NOW,
        source("x"), {},
    )  # fmt: skip


def taking(rxcui: str) -> Event:
    codes = ((RXNORM, rxcui),)
    return Event("medication", drug_concepts(codes), codes, "", None, True, source("MedicationRequest"), "active")


def harm(rxcui: str, *items: Any) -> KidneyHarm | None:
    draft = order(rxcui)
    return kidney_harm(record(*items, orders=(draft,)), draft)


@pytest.mark.parametrize("rxcui", [IBUPROFEN, VANCOMYCIN, GENTAMICIN])
def test_stage_2_is_enough_for_any_direct_nephrotoxin(rxcui: str) -> None:
    found = harm(rxcui, *STAGE_2)
    assert found is not None
    assert found.aki.stage == 2


def test_no_injury_no_word() -> None:
    assert harm(IBUPROFEN, lab("creatinine", 1.0), BASE) is None
    assert harm(IBUPROFEN) is None
    assert harm(IBUPROFEN, *STAGE_2, problem("dialysis", code="Z99.2")) is None


def test_a_drug_that_only_changes_the_kidneys_blood_flow_is_no_direct_nephrotoxin() -> None:
    assert harm(LISINOPRIL, *STAGE_2) is None
    assert harm("161", *STAGE_2) is None


def test_stage_1_needs_a_second_nephrotoxin() -> None:
    assert harm(VANCOMYCIN, *STAGE_1) is None
    found = harm(VANCOMYCIN, *STAGE_1, taking(GENTAMICIN))
    assert found is not None
    assert found.beside == ("gentamicin",)
    assert harm(VANCOMYCIN, *STAGE_1, taking(LISINOPRIL), taking(FUROSEMIDE)) is None


def test_stage_1_with_an_nsaid_on_blocker_and_diuretic_is_the_triple_and_one_of_them_is_not() -> None:
    found = harm(IBUPROFEN, *STAGE_1, taking(LISINOPRIL), taking(FUROSEMIDE))
    assert found is not None
    assert (found.triple, found.beside) == (True, ("lisinopril", "furosemide"))
    assert harm(IBUPROFEN, *STAGE_1, taking(LISINOPRIL)) is None
    assert harm(IBUPROFEN, *STAGE_1, taking(FUROSEMIDE)) is None


def test_the_drug_already_taken_is_not_its_own_second() -> None:
    assert harm(IBUPROFEN, *STAGE_1, taking(IBUPROFEN)) is None
    assert harm(IBUPROFEN, *STAGE_1, drug("metformin")) is None
