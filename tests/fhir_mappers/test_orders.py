"""Orders: the drafts a clinician is about to sign, and those that exist."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.codes import ATC, LOINC, RXNORM
from fhir_mappers.orders import read_service_request
from fhir_mappers.read import read_orders, read_record
from fhir_mappers.record import Gap, Order

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)


def ct(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "ServiceRequest",
        "id": "d1",
        "status": "draft",
        "intent": "order",
        "code": {"coding": [{"system": LOINC, "code": "24628-0"}], "text": "CT chest with contrast"},
        "subject": {"reference": "Patient/p1"},
    } | more


def drug(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "MedicationRequest",
        "id": "m1",
        "status": "draft",
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "32968"}], "text": "clopidogrel"},
        "subject": {"reference": "Patient/p1"},
    } | more


def test_a_draft_ct_with_contrast_is_known_for_what_it_is() -> None:
    (order,) = read_orders([ct(priority="stat")], AS_OF, "p1")
    assert order.imaging is not None
    assert (order.kind, order.imaging.contrast, order.draft, order.ref) == (
        "imaging",
        "iodinated_iv",
        True,
        "ServiceRequest/d1",
    )
    assert (order.priority, order.resource["code"]["text"]) == ("stat", "CT chest with contrast")


def test_a_draft_drug_has_its_class() -> None:
    (order,) = read_orders([drug()], AS_OF)
    assert (order.kind, "p2y12" in order.concepts, order.priority) == ("medication", True, "routine")


def test_a_drug_of_the_drafts_may_come_as_a_medication_beside_it() -> None:
    medication = {"resourceType": "Medication", "id": "x", "code": {"coding": [{"system": ATC, "code": "B01AC04"}]}}
    request = drug(medicationReference={"reference": "Medication/x"})
    del request["medicationCodeableConcept"]
    (order,) = read_orders([medication, request], AS_OF)
    assert "p2y12" in order.concepts


def test_an_order_detail_names_the_contrast_agent_the_code_leaves_open() -> None:
    open_ = ct(code={"coding": [{"system": LOINC, "code": "24627-2"}]})
    (order,) = read_orders([open_ | {"orderDetail": [{"coding": [{"system": ATC, "code": "V08AB02"}]}]}], AS_OF)
    assert order.imaging is not None
    assert (order.imaging.contrast, "iodinated_contrast" in order.concepts) == ("none_or_unknown", True)


@pytest.mark.parametrize(
    "code", [{"coding": []}, {"text": "CT chest with IV contrast"}, {"coding": [{}]}, {"coding": {"display": "x"}}]
)
def test_a_draft_without_a_code_is_read_and_concerns_no_rule(code: dict[str, Any]) -> None:
    (order,) = read_orders([ct(code=code, category={"coding": {"code": "363679005"}})], AS_OF)
    assert (order.kind, order.imaging, order.codes) == ("imaging", None, ())


def test_a_draft_of_the_sandbox_without_subject_or_status_is_this_patient_s() -> None:
    resource = ct()
    del resource["subject"], resource["status"]
    assert len(read_orders([resource], AS_OF, "p1")) == 1


def test_a_draft_for_another_patient_is_dropped_and_named() -> None:
    record = read_record([], as_of=AS_OF, patient_id="p1", drafts=[ct(subject={"reference": "Patient/p2"})])
    assert record.orders == ()
    assert ("other-patient", "ServiceRequest") in [(g.code, g.subject) for g in record.gaps]


@pytest.mark.parametrize("status", ["entered-in-error", "revoked", "cancelled"])
def test_a_withdrawn_draft_is_no_order(status: str) -> None:
    assert read_orders([ct(status=status)], AS_OF) == ()


def test_an_order_signed_again_is_still_a_draft_to_us() -> None:
    (order,) = read_orders([ct(status="active")], AS_OF)
    assert order.draft


def test_other_orders_come_along_and_a_broken_draft_costs_itself_alone() -> None:
    nutrition = {"resourceType": "NutritionOrder", "id": "n", "status": "draft"}
    record = read_record([], as_of=AS_OF, patient_id="p1", drafts=[nutrition, ct(code="broken"), drug()])
    assert sorted(o.kind for o in record.drafts()) == ["medication", "other"]
    assert ("malformed", "ServiceRequest", "ServiceRequest/d1") in [
        (g.code, g.subject, g.reference) for g in record.gaps
    ]


def test_a_draft_beats_the_stored_version_of_the_same_order() -> None:
    record = read_record([ct(status="active")], as_of=AS_OF, patient_id="p1", drafts=[ct()])
    assert [o.draft for o in record.orders] == [True]


def existing(**more: Any) -> list[Order | Gap]:
    return list(read_service_request(ct(status="active") | more, AS_OF))


def test_an_existing_order_is_active_or_on_hold() -> None:
    for status, good in (
        ("active", True),
        ("on-hold", True),
        ("completed", False),
        ("revoked", False),
        ("draft", False),
    ):
        (item,) = existing(status=status)
        assert isinstance(item, Order) is good, status


def test_an_order_written_later_did_not_exist_yet() -> None:
    (item,) = existing(authoredOn="2026-03-11T00:00:00Z")
    assert isinstance(item, Gap)
    assert item.code == "future"


def test_a_laboratory_order_is_known_by_its_code_or_its_category() -> None:
    by_code = existing(code={"coding": [{"system": LOINC, "code": "2160-0"}]})[0]
    by_category = existing(code={"text": "x"}, category=[{"coding": [{"code": "108252007"}]}])[0]
    assert isinstance(by_code, Order)
    assert isinstance(by_category, Order)
    assert (by_code.kind, by_category.kind) == ("laboratory", "laboratory")
