"""Goals of care, setting and emergencies (CLINICAL 3.4)."""

from __future__ import annotations

import dataclasses

import pytest
from records import coded, lab, person, problem, record

from cds_service.advice.packs import care

SNOMED = "http://snomed.info/sct"


def test_comfort_measures_brain_death_and_death_silence_everything() -> None:
    comfort = coded("goal_of_care", "", answer=(SNOMED, "133918004"))
    assert care.silence(record(comfort)) == "comfort care"
    assert care.silence(record(problem("organ_donor_death"))) == "brain death"
    assert care.silence(record(who=dataclasses.replace(person(), deceased=True))) == "deceased"


def test_a_palliative_contact_or_do_not_resuscitate_alone_silences_nothing() -> None:
    given = record(problem("palliative", code="Z51.5"), problem("dnr", code="Z66"))
    assert care.silence(given) is None
    assert care.not_for_resuscitation(given)
    assert care.not_for_resuscitation(record(coded("goal_of_care", "", answer=(SNOMED, "304253006"))))
    assert not care.not_for_resuscitation(record(problem("dnr", active=False)))


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (lab("sbp", 89), "systolic pressure"),
        (lab("spo2", 84), "oxygen saturation"),
        (lab("gcs_total", 8), "coma score"),
        (problem(code="I46.9", ago=2), "emergency diagnosis"),
        (problem(code="I63.9", ago=2), "emergency diagnosis"),
    ],
)
def test_shock_hypoxia_coma_and_arrest_are_emergencies(item: object, why: str) -> None:
    assert care.emergency(record(item)) == why  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "item",
    [
        lab("sbp", 90),
        lab("spo2", 85),
        lab("gcs_total", 9),
        lab("sbp", 80, 9),  # more than eight hours old
        lab("sbp", 95, comparator="<"),  # may be 94
        problem(code="I63.9", ago=24 * 400),  # an old stroke on the problem list
        problem(code="I63.9"),  # undated, on a ward
        problem(code="I46.9", active=False, ago=2),
    ],
)
def test_the_limit_itself_old_values_and_old_diagnoses_are_no_emergency(item: object) -> None:
    assert care.emergency(record(item)) is None  # type: ignore[arg-type]


def test_an_undated_stroke_in_the_emergency_department_is_an_emergency() -> None:
    assert care.emergency(record(problem(code="I63.9"), setting="EMER", unit="ed")) == "emergency diagnosis"


def test_being_under_an_age_is_unknown_where_the_birth_date_does_not_tell() -> None:
    assert care.under(record(who=person(age=17)), 18) is True
    assert care.under(record(who=person(age=18)), 18) is False
    assert care.under(record(who=person(age=(17, 18))), 18) is None
    assert care.under(record(who=person(age=None)), 18) is None


def test_a_value_only_a_ventilator_gives_means_ventilated() -> None:
    assert care.ventilated(record(lab("fio2", 40, loinc="19996-8")))
    assert not care.ventilated(record(lab("fio2", 40)))
    assert not care.ventilated(record(lab("fio2", 40, 9, loinc="19996-8")))
