"""Who it is about: sex, age, and where the patient lies."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from fhir_mappers.people import SPCU, current_encounter, identifiers, read_person
from fhir_mappers.record import Encounter

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)


def patient(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": "p1", "gender": "male", "birthDate": "1959-03-11"} | more


def spcu(code: str) -> dict[str, Any]:
    return {"url": SPCU, "extension": [{"url": "value", "valueCodeableConcept": {"coding": [{"code": code}]}}]}


@pytest.mark.parametrize(
    ("birth", "ages"),
    [
        ("1959-03-11", (66, 66)),  # the 67th birthday is tomorrow
        ("1959-03-10", (67, 67)),
        ("1959-03", (66, 67)),
        ("1959", (66, 67)),
        ("1959-13", None),
        ("2027-01-01", None),
        ("1894-01-01", None),  # 132 years: a disguised date, not an age
    ],
)
def test_a_partial_birth_date_gives_the_youngest_and_the_oldest_age(birth: str, ages: tuple[int, int] | None) -> None:
    person, gaps = read_person(patient(birthDate=birth), AS_OF)
    assert person.ages(AS_OF) == ages
    assert bool(gaps) is (ages is None)


def test_no_birth_date_is_no_age_and_no_gap() -> None:
    resource = patient()
    del resource["birthDate"]
    person, gaps = read_person(resource, AS_OF)
    assert (person.ages(AS_OF), gaps) == (None, [])


@pytest.mark.parametrize(
    ("gender", "parameter", "sex"),
    [
        ("male", None, "male"),
        ("other", None, "unknown"),
        ("male", "female-typical", "female"),
        ("male", "specified", "unknown"),
        ("other", "male-typical", "male"),
    ],
)
def test_sex_for_clinical_use_comes_before_administrative_gender(gender: str, parameter: str | None, sex: str) -> None:
    extension = [spcu(parameter)] if parameter else [{"url": "http://other.example", "valueString": "x"}]
    assert read_person(patient(gender=gender, extension=extension), AS_OF)[0].sex == sex


def test_a_patient_who_died_after_the_moment_was_alive_at_it() -> None:
    assert read_person(patient(deceasedBoolean=True), AS_OF)[0].deceased
    assert read_person(patient(deceasedDateTime="2026-03-09"), AS_OF)[0].deceased
    assert not read_person(patient(deceasedDateTime="2026-03-12"), AS_OF)[0].deceased


def test_birth_dates_are_kept_as_the_days_they_allow() -> None:
    person, _ = read_person(patient(birthDate="1960-02"), AS_OF)
    assert (person.born_earliest, person.born_latest) == (date(1960, 2, 1), date(1960, 2, 29))


def test_identifiers_are_read_whatever_else_stands_there() -> None:
    assert identifiers(patient(identifier=[{"value": "MRN1"}, {"value": 2}, "x", {}])) == {"MRN1"}


def encounter(id_: str = "e1", class_: str = "IMP", status: str = "in-progress", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": id_,
        "status": status,
        "class": {"code": class_},
        "period": {"start": "2026-03-08T00:00:00Z"},
    } | more


def current(*resources: dict[str, Any], **supporting: Any) -> Encounter | None:
    return current_encounter(resources, AS_OF, {f"Location/{k}": v for k, v in supporting.items()})[0]


@pytest.mark.parametrize(
    ("class_", "unit"),
    [("IMP", "ward"), ("EMER", "ed"), ("AMB", "clinic"), ("ACUTE", "ward"), ("ICU", "icu"), ("x", "unknown")],
)
def test_the_class_tells_the_ward_from_the_clinic(class_: str, unit: str) -> None:
    found = current(encounter(class_=class_))
    assert found is not None
    assert found.unit == unit


def test_a_bed_in_intensive_care_makes_it_an_icu_stay_until_the_patient_leaves_it() -> None:
    icu = {"resourceType": "Location", "id": "b", "type": [{"coding": [{"code": "ICU"}]}]}
    bed = {"location": {"reference": "Location/b"}, "status": "active"}
    found = current(encounter(location=[bed]), b=icu)
    assert found is not None
    assert found.unit == "icu"
    left = current(encounter(location=[bed | {"period": {"end": "2026-03-09T00:00:00Z"}}]), b=icu)
    assert left is not None
    assert left.unit == "ward"


def test_a_class_may_be_a_list_as_in_r5() -> None:
    found = current(encounter() | {"class": [{"coding": [{"code": "EMER"}]}]})
    assert found is not None
    assert found.class_ == "EMER"


def test_the_encounter_in_progress_is_the_current_one_and_a_past_one_is_none() -> None:
    past = encounter("old", status="finished", period={"start": "2026-01-01", "end": "2026-01-05"})
    later = encounter("planned", status="planned")
    assert current(past, later) is None
    found = current(past, encounter("now"), later)
    assert found is not None
    assert found.source.reference == "Encounter/now"


def test_an_encounter_that_has_not_begun_is_not_current() -> None:
    found, gaps = current_encounter([encounter(period={"start": "2026-03-11T00:00:00Z"})], AS_OF, {})
    assert found is None
    assert [g.code for g in gaps] == ["future"]


def test_a_broken_encounter_costs_itself_alone() -> None:
    found, gaps = current_encounter([encounter("bad", location="x"), encounter("good")], AS_OF, {})
    assert found is not None
    assert [g.code for g in gaps] == ["malformed"]
