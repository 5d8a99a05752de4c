"""For whom the pneumonia guidelines speak, who is stable, what points to bacteria."""

from __future__ import annotations

from datetime import timedelta

import pytest
from records import NOW, coded, drug, lab, person, problem, record, source

from cds_service.advice.packs.pneumonia import bacteria, comorbidity, not_meant, sterile, virus
from fhir_mappers.record import Coded, Encounter, Event, Lab


@pytest.mark.parametrize(
    "item",
    [
        problem("immunosuppressed", code="D84.9"),
        problem("aids", code="B20"),
        problem("abscess_empyema", code="J86.9"),
        problem("tuberculosis", code="A15.0"),
        problem(code="J95.851"),
        drug("calcineurin_inhibitor"),
        drug("taxane"),
    ],
)
def test_the_guidelines_do_not_speak_of_the_immunosuppressed_or_of_complications(item: Event) -> None:
    assert not_meant(record()) is None
    assert not_meant(record(item)) is not None


@pytest.mark.parametrize(("age", "meant"), [(17, False), (18, True), ((17, 18), False), (None, False)])
def test_they_speak_of_adults_and_the_age_must_be_known(age: int | tuple[int, int] | None, meant: bool) -> None:
    assert (not_meant(record(who=person(age=age))) is None) is meant


@pytest.mark.parametrize(("admitted_h", "began_h", "meant"), [(72, 12, False), (72, 30, True), (24, 12, True)])
def test_pneumonia_that_begins_after_48_h_in_hospital_is_not_community_acquired(
    admitted_h: float, began_h: float, meant: bool
) -> None:
    """72 h in hospital, ill since 12 h: it began 60 h after admission."""
    visit = Encounter("IMP", "ward", NOW - timedelta(hours=admitted_h), source("Encounter"))
    given = record(problem("pneumonia", code="J18.9", ago=began_h), setting=None)
    assert (not_meant(type(given)(given.person, NOW, events=given.events, encounter=visit)) is None) is meant


def answer(name: str, code: str, meaning: str = "") -> Coded:
    return Coded(name, "", ("http://snomed.info/sct", code), "", NOW - timedelta(hours=5), source(), meaning)


@pytest.mark.parametrize(
    ("culture", "nothing"),
    [("264868006", True), ("264887000", True), ("260415000", True), ("3092008", False), ("", False)],
)
def test_only_a_coded_no_growth_is_a_sterile_culture(culture: str, nothing: bool) -> None:
    assert sterile(answer("culture_blood", culture)) is nothing


@pytest.mark.parametrize(
    ("item", "points"),
    [
        (answer("legionella_ag", "10828004", "positive"), True),
        (answer("legionella_ag", "260385009", "negative"), False),
        (answer("culture_blood", "3092008"), True),
        (answer("culture_blood", "264868006"), False),
        (lab("procalcitonin", 0.25), True),
        (lab("procalcitonin", 0.24), False),
    ],
)
def test_antigens_cultures_and_procalcitonin_point_to_bacteria(item: Coded | Lab, points: bool) -> None:
    assert (bacteria(record(item)) is not None) is points


def test_a_virus_counts_for_a_week_and_only_when_positive() -> None:
    assert virus(record(coded("rsv", "positive"))) is not None
    assert virus(record(coded("rsv", "negative"))) is None
    assert virus(record(coded("rsv", "positive", ago=24 * 8))) is None


@pytest.mark.parametrize(
    "group", ["copd", "heart_failure", "diabetes", "renal", "liver_disease", "alcohol", "any_cancer"]
)
def test_chronic_disease_is_comorbidity(group: str) -> None:
    assert comorbidity(record(problem(group))) is not None
    assert comorbidity(record(problem(group, active=False))) is None
