from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import contexts
import pytest

from cds_service.hooks import HookRequest, parse_hook_request
from cds_service.prefetch import Absent, Failed, NoValue, Sent, expand, read_answer, template_type

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CREATININE = {"resourceType": "Observation", "id": "o1", "status": "final"}
MEDICATION = {"resourceType": "Medication", "id": "m1"}


def answer(data: Any, type_: str | None = "Observation") -> Sent | Absent | Failed:
    return read_answer(json.dumps(data).encode(), type_)


def bundle(*resources: Any, **members: Any) -> dict[str, Any]:
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "entry": [{"resource": r} for r in resources],
        **members,
    }


def outcome(severity: str, mode: str = "outcome") -> dict[str, Any]:
    issue = {"severity": severity, "code": "processing"}
    return {"resource": {"resourceType": "OperationOutcome", "issue": [issue]}, "search": {"mode": mode}}


def test_null_and_an_empty_bundle_both_say_that_there_is_none() -> None:
    assert answer(None) == Absent()
    assert answer({"resourceType": "Bundle", "type": "searchset", "total": 0}) == Absent()
    assert answer(bundle()) == Absent()


def test_an_outcome_in_place_of_data_is_a_failure_and_not_data() -> None:
    assert answer({"resourceType": "OperationOutcome", "issue": []}) == Failed("error")


def test_the_warning_epic_puts_into_an_empty_bundle_is_not_data() -> None:
    # PROTOCOL.md 11.1: an empty search at Epic is a Bundle with total 0 and an OperationOutcome entry.
    assert (
        answer({"resourceType": "Bundle", "type": "searchset", "total": 0, "entry": [outcome("warning")]}) == Absent()
    )


def test_an_error_inside_an_otherwise_empty_bundle_is_not_taken_for_an_absence() -> None:
    assert answer({"resourceType": "Bundle", "entry": [outcome("error")]}) == Failed("error")


def test_an_error_beside_data_leaves_the_data_and_says_that_it_is_not_all() -> None:
    got = answer({"resourceType": "Bundle", "entry": [{"resource": CREATININE}, outcome("error")]})
    assert got == Sent((CREATININE,), partial=True)


def test_whatever_is_marked_as_outcome_is_not_data() -> None:
    stray = {"resource": {"resourceType": "Basic", "id": "b"}, "search": {"mode": "outcome"}}
    assert answer({"resourceType": "Bundle", "entry": [stray, {"resource": CREATININE}]}) == Sent((CREATININE,))


def test_included_and_other_resource_types_are_kept_beside_what_was_asked_for() -> None:
    assert answer(bundle(CREATININE, MEDICATION)) == Sent((CREATININE, MEDICATION))


def test_a_bundle_with_a_next_link_is_one_page_of_several() -> None:
    links = [{"relation": "self", "url": "x"}, {"relation": "next", "url": "https://e.example.org/fhir?page=2"}]
    assert answer(bundle(CREATININE, link=links)) == Sent((CREATININE,), "https://e.example.org/fhir?page=2")


def test_a_read_answered_by_a_search_and_a_search_answered_by_a_resource_are_both_understood() -> None:
    patient = {"resourceType": "Patient", "id": "p1"}
    assert answer(bundle(patient), "Patient") == Sent((patient,))
    assert answer(CREATININE) == Sent((CREATININE,))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b'"a string"',
        b"[]",
        b"7",
        b"{}",
        b'{"resourceType": 7}',
        b'{"resourceType": "Patient", "id": "p1"}',
        b'{"resourceType": "Bundle", "entry": {}}',
        b'{"resourceType": "Bundle", "entry": [{"resource": null}]}',
        b'{"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Patient"}}]}',
        b'{"resourceType": "Observation", "valueQuantity": {"value": NaN}}',
        b'{"resourceType": "Observation", "a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"resourceType": "Observation", "a": [' + b"{}," * 600_000 + b"{}]}",
        '{"resourceType": "Observation"}'.encode("utf-16"),
    ],
)
def test_what_is_not_the_resource_asked_for_is_a_bad_answer(text: bytes) -> None:
    assert read_answer(text, "Observation") == Failed("bad-answer")


@pytest.mark.parametrize("entry", [7, None, {"fullUrl": "x"}, {"resource": "x"}, {"resource": {"id": "no type"}}])
def test_a_broken_entry_costs_itself_and_is_said(entry: Any) -> None:
    got = answer({"resourceType": "Bundle", "entry": [entry, {"resource": CREATININE}]})
    assert got == Sent((CREATININE,), partial=True)


def request(hook: str = "patient-view", **context: Any) -> HookRequest:
    call = contexts.call(hook)
    call["context"] = {**call["context"], **context}
    return parse_hook_request(json.dumps(call).encode(), NOON)


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("Patient/{{context.patientId}}", "Patient/p1"),
        ("Observation?patient={{context.patientId}}&_count=30", "Observation?patient=p1&_count=30"),
        ("Encounter/{{ context.encounterId }}", "Encounter/e1"),
        ("{{context.userId}}", "Practitioner/u1"),
        ("PractitionerRole?practitioner={{userPractitionerId}}", "PractitionerRole?practitioner=u1"),
        # 2026-03-01 less 90 days is 2025-12-01: 28 + 31 + 31 days back to 1 December.
        ("Observation?date=ge{{today() - 90 days}}", "Observation?date=ge2025-12-01"),
        ("Observation?date=lt{{today() + 1 days}}", "Observation?date=lt2026-03-02"),
        ("Observation?date={{today()}}", "Observation?date=2026-03-01"),
        ("Observation?code=http://loinc.org|2160-0,http://loinc.org|38483-4", None),
    ],
)
def test_a_template_becomes_our_query(template: str, path: str | None) -> None:
    if path is None:
        path = template.replace("|", "%7C")
    assert expand(template, request()) == path


@pytest.mark.parametrize(
    "template",
    [
        "Encounter/{{context.encounterId}}",
        "PractitionerRole/{{userPractitionerRoleId}}",
        "Patient/{{userPatientId}}",
        "Observation?focus={{context.draftOrders.ServiceRequest.id}}",
        "Observation?x={{today() - many days}}",
        "{{context.patientId}}",
        "Observation?x={{__class__}}",
    ],
)
def test_a_token_without_a_value_leaves_the_template_unsatisfied(template: str) -> None:
    with pytest.raises(NoValue):
        expand(template, request("order-sign"))


def with_context(**values: str) -> HookRequest:
    """A request whose context never passed hooks.py: quoting does not rest on what is checked elsewhere."""

    class Context:
        pass

    context = Context()
    for name, value in values.items():
        setattr(context, name, value)
    return HookRequest("patient-view", "x", context, {}, None, None, received_at=NOON)  # type: ignore[arg-type]


@pytest.mark.parametrize("id_", ["../Observation", "a/b", "a\\b", "..", "."])
def test_an_id_cannot_lead_a_read_to_another_path(id_: str) -> None:
    with pytest.raises(NoValue):
        expand("Patient/{{context.patientId}}", with_context(patient_id=id_))
    with pytest.raises(NoValue):
        expand("{{context.userId}}", with_context(user_id=f"Practitioner/{id_}"))


def test_an_id_cannot_add_a_parameter_or_end_the_path() -> None:
    call = with_context(patient_id="p1?a=b&c=d#e|f ü%")
    quoted = "p1%3Fa%3Db%26c%3Dd%23e%7Cf%20%C3%BC%25"
    assert expand("Patient/{{context.patientId}}", call) == f"Patient/{quoted}"
    assert expand("Observation?patient={{context.patientId}}", call) == f"Observation?patient={quoted}"
    assert expand("Observation?patient={{context.patientId}}", with_context(patient_id="../x")).endswith("=..%2Fx")


def test_an_id_of_an_epic_patient_longer_than_64_characters_is_used_whole() -> None:
    long = "e" + "Ab3-_." * 15
    assert expand("Patient/{{context.patientId}}", request(patientId=long)) == f"Patient/{long}"


def test_the_type_a_template_asks_for_is_read_from_its_path() -> None:
    assert template_type("Patient/{{context.patientId}}") == "Patient"
    assert template_type("Observation?patient={{context.patientId}}") == "Observation"
    assert template_type("{{context.userId}}") is None
