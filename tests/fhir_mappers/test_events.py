"""Conditions, drugs, procedures and allergies: what counts, and what is only kept to be read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.codes import ATC, ICD10CM, RXNORM
from fhir_mappers.events import read_allergy, read_condition, read_dose, read_medication, read_procedure
from fhir_mappers.record import Allergy, Dose, Event, Gap

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
SNOMED = "http://snomed.info/sct"


def concept(*codes: tuple[str, str], text: str = "") -> dict[str, Any]:
    return {"coding": [{"system": s, "code": c} for s, c in codes], "text": text}


def condition(code: str = "I50.9", status: str = "active", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": "c1",
        "clinicalStatus": {"coding": [{"code": status}]},
        "code": concept((ICD10CM, code), text="as recorded"),
        "subject": {"reference": "Patient/p1"},
        "onsetDateTime": "2020-05-01",
    } | more


def conditions(resource: dict[str, Any]) -> list[Any]:
    return list(read_condition(resource, AS_OF))


@pytest.mark.parametrize(
    ("status", "active"),
    [("active", True), ("recurrence", True), ("relapse", True), ("remission", False), ("resolved", False)],
)
def test_active_recurring_and_relapsing_conditions_are_active(status: str, active: bool) -> None:
    (event,) = conditions(condition(status=status))
    assert event.active is active
    assert "heart_failure" in event.concepts
    assert event.status == status


def test_a_condition_that_has_abated_is_not_active_whatever_its_status_says() -> None:
    (event,) = conditions(condition(abatementDateTime="2026-01-01"))
    assert not event.active


def test_a_condition_without_a_clinical_status_is_history_only() -> None:
    resource = condition()
    del resource["clinicalStatus"]
    (event,) = conditions(resource)
    assert (event.active, "heart_failure" in event.concepts) == (False, True)


@pytest.mark.parametrize("status", ["refuted", "entered-in-error"])
def test_a_refuted_condition_is_not_read(status: str) -> None:
    assert [g.code for g in conditions(condition(verificationStatus=concept(("", status))))] == ["bad-status"]


def test_the_category_and_the_status_may_be_objects_where_lists_belong_and_the_other_way_round() -> None:
    (event,) = conditions(condition(category={"text": "problem"}, clinicalStatus=[{"coding": {"code": "active"}}]))
    assert event.active


def test_a_snomed_condition_is_kept_to_be_read_and_named_as_unknown() -> None:
    event, gap = conditions(condition(code="x") | {"code": concept((SNOMED, "84114007"), text="Heart failure")})
    assert isinstance(event, Event)
    assert (event.concepts, event.text) == (frozenset(), "Heart failure")
    assert (gap.code, gap.subject) == ("unknown-code", "Condition")


def test_an_icd_10_code_in_no_group_is_understood_and_no_gap() -> None:
    (event,) = conditions(condition(code="J00"))
    assert event.concepts == frozenset()


def test_words_alone_never_make_a_heart_failure() -> None:
    event, gap = conditions(condition() | {"code": {"text": "I50.9 heart failure"}})
    assert event.concepts == frozenset()
    assert gap.code == "unknown-code"


def test_a_year_is_worth_having_as_an_onset_and_the_recorded_date_stands_in_for_none() -> None:
    (event,) = conditions(condition(onsetDateTime="2015"))
    assert event.start == datetime(2015, 1, 1, tzinfo=UTC)
    resource = condition(recordedDate="2021-02-03T04:05:06Z")
    del resource["onsetDateTime"]
    (event,) = conditions(resource)
    assert event.start == datetime(2021, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_a_diagnosis_recorded_later_was_not_known_yet() -> None:
    assert [g.code for g in conditions(condition(recordedDate="2026-04-01"))] == ["future"]


def test_a_contrast_allergy_status_is_an_allergy_too() -> None:
    event, allergy = conditions(condition(code="Z91.041"))
    assert isinstance(event, Event)
    assert isinstance(allergy, Allergy)
    assert (allergy.concepts, allergy.severity) == (frozenset({"contrast_allergy"}), "unknown")
    assert not [a for a in conditions(condition(code="Z91.041", status="resolved")) if isinstance(a, Allergy)]


# --- drugs -------------------------------------------------------------------------------------------------------


def request(status: str = "active", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "MedicationRequest",
        "id": "m1",
        "status": status,
        "intent": "order",
        "medicationCodeableConcept": concept((RXNORM, "6809"), text="metformin 1000 mg"),
        "subject": {"reference": "Patient/p1"},
        "authoredOn": "2026-01-01",
    } | more


def medications(resource: dict[str, Any], **supporting: Any) -> list[Any]:
    return list(read_medication(resource, AS_OF, {f"Medication/{k}": v for k, v in supporting.items()}))


@pytest.mark.parametrize(
    ("status", "active"), [("active", True), ("on-hold", False), ("completed", False), ("stopped", False)]
)
def test_only_an_active_order_is_a_drug_the_patient_is_on(status: str, active: bool) -> None:
    (event,) = medications(request(status))
    assert (event.active, event.status, event.concepts) == (active, status, frozenset({"metformin"}))


@pytest.mark.parametrize("status", ["draft", "cancelled", "entered-in-error", "unknown", ""])
def test_drafts_and_errors_of_others_are_no_drugs(status: str) -> None:
    assert [g.code for g in medications(request(status))] == ["bad-status"]


@pytest.mark.parametrize("more", [{"intent": "proposal"}, {"intent": "plan"}, {"doNotPerform": True}])
def test_a_proposal_or_a_prohibition_is_no_drug(more: dict[str, Any]) -> None:
    assert [g.code for g in medications(request(**more))] == ["bad-status"]


def test_the_whole_resource_is_kept_because_an_update_must_carry_it_entire() -> None:
    resource = request(unknownField={"a": 1}, dosageInstruction=[{"text": "twice daily"}])
    (event,) = medications(resource)
    assert event.resource == resource
    assert event.dose == "twice daily"


def test_a_dose_without_words_is_its_quantity() -> None:
    rate = {"doseAndRate": [{"doseQuantity": {"value": 1000, "unit": "mg"}}]}
    (event,) = medications(request(dosageInstruction=[rate]))
    assert event.dose == "1000 mg"


@pytest.mark.parametrize("reference", ["Medication/x", "https://ehr.example/fhir/Medication/x", "urn:uuid:x", "#x"])
def test_a_referenced_medication_is_resolved_with_its_ingredients(reference: str) -> None:
    combination = {
        "resourceType": "Medication",
        "id": "x",
        "code": concept((RXNORM, "861819"), text="glimepiride / metformin"),
        "ingredient": [{"itemCodeableConcept": concept((ATC, "A10BA02"))}],
    }
    resource = request(medicationReference={"reference": reference})
    del resource["medicationCodeableConcept"]
    if reference == "#x":
        (event,) = medications(resource | {"contained": [combination]})
    else:
        (event,) = medications(resource, x=combination)
    assert "metformin" in event.concepts
    assert event.text == "glimepiride / metformin"


def test_a_product_code_matches_nothing_without_a_map_and_says_so() -> None:
    event, gap = medications(request(medicationCodeableConcept=concept((RXNORM, "861007"), text="metformin 500 MG")))
    assert event.concepts == frozenset()
    assert gap.code == "unknown-code"


def test_a_whole_atc_code_outside_the_table_is_understood() -> None:
    (event,) = medications(request(medicationCodeableConcept=concept((ATC, "N02BE01"))))
    assert event.kind == "medication"


def test_a_drug_that_refers_to_nothing_is_kept_with_its_display() -> None:
    resource = request(medicationReference={"reference": "Medication/gone", "display": "some drug"})
    del resource["medicationCodeableConcept"]
    event, gap = medications(resource)
    assert (event.text, gap.code) == ("some drug", "unknown-code")


# --- procedures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "active"), [("completed", False), ("in-progress", True)])
def test_a_procedure_done_or_under_way_is_read(status: str, active: bool) -> None:
    resource = {"resourceType": "Procedure", "id": "x", "status": status, "code": concept((ICD10CM, "Z99.2"))}
    (event,) = read_procedure(resource | {"performedPeriod": {"start": "2026-03-01T08:00:00Z"}}, AS_OF)
    assert isinstance(event, Event)
    assert (event.active, event.start) == (active, datetime(2026, 3, 1, 8, tzinfo=UTC))
    assert "dialysis" in event.concepts


def test_a_procedure_keeps_the_codes_of_its_category() -> None:
    resource = {"resourceType": "Procedure", "id": "x", "status": "completed", "code": concept((SNOMED, "80146002"))}
    (event,) = (i for i in read_procedure(resource, AS_OF) if isinstance(i, Event))
    assert event.category == frozenset()
    surgical = resource | {"category": concept((SNOMED, "387713003"))}
    (event,) = (i for i in read_procedure(surgical, AS_OF) if isinstance(i, Event))
    assert event.category == {"387713003"}


def test_a_procedure_that_was_not_done_is_not_read() -> None:
    (gap,) = read_procedure({"resourceType": "Procedure", "id": "x", "status": "not-done"}, AS_OF)
    assert isinstance(gap, Gap)
    assert gap.code == "bad-status"


# --- allergies ---------------------------------------------------------------------------------------------------


def allergy(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "AllergyIntolerance",
        "id": "a1",
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "code": concept((RXNORM, "5956"), text="iohexol"),
        "patient": {"reference": "Patient/p1"},
    } | more


def allergies(resource: dict[str, Any]) -> list[Any]:
    return list(read_allergy(resource, AS_OF))


@pytest.mark.parametrize(
    ("more", "severity"),
    [
        ({"reaction": [{"severity": "mild"}, {"severity": "moderate"}]}, "moderate"),
        ({"reaction": [{"severity": "mild", "manifestation": [concept((SNOMED, "39579001"))]}]}, "severe"),
        ({"reaction": [{"manifestation": [concept((ICD10CM, "T78.2XXA"))]}]}, "severe"),
        ({"criticality": "high"}, "severe"),
        ({"criticality": "low"}, "unknown"),
        ({"reaction": [{"severity": "mild"}]}, "mild"),
        ({"reaction": [{"manifestation": [{"text": "anaphylaxis"}]}]}, "unknown"),
    ],
)
def test_severity_is_the_worst_that_is_coded(more: dict[str, Any], severity: str) -> None:
    (read,) = allergies(allergy(**more))
    assert read.severity == severity
    assert "iodinated_contrast" in read.concepts


def test_contrast_agents_are_known_by_atc_and_as_the_substance_of_a_reaction() -> None:
    (read,) = allergies(allergy(code={"text": "contrast"}, reaction={"substance": concept((ATC, "V08AB02"))}))
    assert "iodinated_contrast" in read.concepts


@pytest.mark.parametrize(
    "more",
    [
        {"verificationStatus": concept(("", "refuted"))},
        {"verificationStatus": concept(("", "entered-in-error"))},
        {"clinicalStatus": concept(("", "inactive"))},
        {"clinicalStatus": concept(("", "resolved"))},
    ],
)
def test_a_refuted_or_inactive_allergy_is_not_read(more: dict[str, Any]) -> None:
    assert [g.code for g in allergies(allergy(**more))] == ["bad-status"]


def test_an_allergy_without_a_clinical_status_is_not_forgotten() -> None:
    resource = allergy()
    del resource["clinicalStatus"]
    assert isinstance(allergies(resource)[0], Allergy)


def test_no_known_allergy_is_no_allergy() -> None:
    assert [g.code for g in allergies(allergy(code=concept((SNOMED, "716186003"))))] == ["no-value"]


def test_an_allergy_nobody_has_a_class_for_is_kept_and_named() -> None:
    read, gap = allergies(allergy(code=concept((SNOMED, "419263009"), text="tree pollen")))
    assert (read.text, gap.code) == ("tree pollen", "unknown-code")


def given(status: str = "completed", **more: Any) -> list[Any]:
    """Ceftriaxone (RxNorm ingredient 2193) as it was given."""
    resource = {
        "resourceType": "MedicationAdministration",
        "id": "d1",
        "status": status,
        "medicationCodeableConcept": concept((RXNORM, "2193"), text="ceftriaxone 2 g"),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-10T09:00:00Z",
    } | more
    return list(read_dose(resource, AS_OF, {}))


@pytest.mark.parametrize("status", ["completed", "in-progress"])
def test_a_dose_given_or_running_is_read_with_its_class_and_its_beginning(status: str) -> None:
    (dose,) = given(status)
    assert isinstance(dose, Dose)
    assert (dose.concepts, dose.text) == ({"cephalosporin"}, "ceftriaxone 2 g")
    assert dose.at == datetime(2026, 3, 10, 9, tzinfo=UTC)
    (infusion,) = given(effectiveDateTime=None, effectivePeriod={"start": "2026-03-10T08:30:00Z"})
    assert infusion.at == datetime(2026, 3, 10, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize("status", ["not-done", "stopped", "on-hold", "entered-in-error", "unknown", ""])
def test_a_dose_that_was_not_given_is_none(status: str) -> None:
    assert [gap.code for gap in given(status)] == ["bad-status"]


def test_a_dose_of_the_future_is_none_and_one_of_an_unknown_drug_says_so() -> None:
    assert [gap.code for gap in given(effectiveDateTime="2026-03-10T15:00:00Z")] == ["future"]
    dose, gap = given(medicationCodeableConcept=concept(("urn:local", "77"), text="something"))
    assert (dose.concepts, gap.code) == (frozenset(), "unknown-code")
