"""For how long, for what reason and where a drug is taken, as a MedicationRequest says it."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_mappers.courses import course_of, gives_a_reason, reasons_of, shortened, taken_at_home

ICD10 = "http://hl7.org/fhir/sid/icd-10-cm"


def order(bounds: dict[str, Any] | None = None, **dispense: Any) -> dict[str, Any]:
    repeat = {"boundsDuration": bounds} if bounds else {}
    found: dict[str, Any] = {"resourceType": "MedicationRequest", "dosageInstruction": [{"timing": {"repeat": repeat}}]}
    return {**found, "dispenseRequest": dispense} if dispense else found


@pytest.mark.parametrize(
    ("given", "days"),
    [
        (order({"value": 10, "code": "d"}), 10),
        (order({"value": 10, "unit": "days"}), 10),
        (order({"value": 2, "code": "wk"}), 14),
        (order({"value": 240, "code": "h"}), 10),
        (order(expectedSupplyDuration={"value": 7, "code": "d"}), 7),
        (order({"value": 7, "code": "d"}, expectedSupplyDuration={"value": 7, "code": "d"}), 7),
        (order({"value": 7, "code": "d"}, expectedSupplyDuration={"value": 10, "code": "d"}), None),
        (order({"value": 7, "code": "mo"}), None),
        (order({"value": True, "code": "d"}), None),
        (order(), None),
        ({"dosageInstruction": "10 days"}, None),
    ],
)
def test_a_duration_is_read_where_it_is_said_without_contradiction(given: dict[str, Any], days: float | None) -> None:
    found = course_of(given)
    assert (found.days if found else None) == days


def test_shortening_changes_the_duration_and_the_supply_alone() -> None:
    given = {**order({"value": 10, "code": "d"}, quantity={"value": 30}), "id": "m1", "note": [{"text": "as before"}]}
    changed = shortened(given, 5)
    assert changed is not None
    assert changed["dosageInstruction"][0]["timing"]["repeat"]["boundsDuration"]["value"] == 5
    assert changed["dispenseRequest"]["quantity"]["value"] == 15
    assert {k: changed[k] for k in ("id", "note")} == {k: given[k] for k in ("id", "note")}
    assert given["dispenseRequest"]["quantity"]["value"] == 30  # the order itself is left as it is


@pytest.mark.parametrize(
    "given",
    [
        order({"value": 5, "code": "d"}),
        order({"value": 10, "code": "d"}, quantity={"value": 21}),
        order({"value": 10, "code": "d"}, numberOfRepeatsAllowed=1),
        order(),
    ],
)
def test_what_cannot_be_shortened_consistently_is_not_shortened(given: dict[str, Any]) -> None:
    assert shortened(given, 5) is None


def test_reasons_are_icd_10_codes_and_any_reason_is_a_reason() -> None:
    coded = {"reasonCode": [{"coding": [{"system": ICD10, "code": "J18.9"}, {"system": "urn:x", "code": "1"}]}]}
    assert reasons_of(coded) == ((ICD10, "J18.9"),)
    assert gives_a_reason({"reasonCode": [{"text": "cough"}]})
    assert not gives_a_reason({})


@pytest.mark.parametrize(("code", "home"), [("discharge", True), ("community", True), ("inpatient", False)])
def test_the_category_says_where_a_drug_is_taken(code: str, home: bool) -> None:
    assert taken_at_home({"category": [{"coding": [{"code": code}]}]}) is home
