"""order-dispatch: whoever performs a signed study reads what speaks against it, and is offered no change of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from contrast import CT, LOW, METFORMIN, STEADY, chart
from safety_charts import MR_BRAIN, device
from site_house import SERVICE, Asked, site
from vignettes import Resource

SIGNED = {**CT, "id": "s1", "status": "active"}
SCAN = {**MR_BRAIN, "id": "s2", "status": "active"}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("dispatch")
    with site(folder / "none", folder / "state", economy="off") as asked:
        yield asked


def told(hospital: Asked, *resources: Resource, order: str = "ServiceRequest/s1") -> list[dict[str, Any]]:
    body = json.loads(chart(*resources, drafts=()).body(SERVICE))
    context = {"patientId": "p1", "performer": "Organization/radiology", "dispatchedOrders": [order]}
    body |= {"hook": "order-dispatch", "context": context}
    answer = hospital.app.test_client().post(f"/cds-services/{SERVICE}", json=body)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    cards: list[dict[str, Any]] = answer.get_json()["cards"]
    return cards


@pytest.mark.parametrize("order", ["ServiceRequest/s1", "https://ehr.example.org/fhir/ServiceRequest/s1/_history/3"])
def test_the_kidney_card_of_a_signed_contrast_study_informs_and_offers_nothing(hospital: Asked, order: str) -> None:
    (card,) = told(hospital, SIGNED, LOW, STEADY, METFORMIN, order=order)
    assert card["summary"].startswith("eGFR 26 (2026-03-10), on metformin")
    assert card["indicator"] == "info"
    assert "suggestions" not in card
    assert "selectionBehavior" not in card


def test_an_implant_unsafe_in_the_magnet_stays_critical_for_whoever_takes_the_patient_there(hospital: Asked) -> None:
    (card,) = told(hospital, SCAN, device("C106047"), order="ServiceRequest/s2")
    assert card["indicator"] == "critical"
    assert "suggestions" not in card


@pytest.mark.parametrize(
    ("changed", "order"),
    [
        ({}, "ServiceRequest/other"),
        ({}, "Task/s1"),
        ({"status": "revoked"}, "ServiceRequest/s1"),
        ({"code": {"coding": [{"system": "http://loinc.org", "code": "29252-4"}]}}, "ServiceRequest/s1"),
        ({"subject": {"reference": "Patient/p2"}}, "ServiceRequest/s1"),
    ],
    ids=["another order", "a task", "revoked", "without contrast", "another patient's"],
)
def test_nothing_is_said_of_an_order_that_is_not_dispatched_or_needs_no_word(
    hospital: Asked, changed: dict[str, Any], order: str
) -> None:
    assert told(hospital, SIGNED | changed, LOW, STEADY, METFORMIN, order=order) == []
