"""DT-03 and DT-04 as an EHR sees them: the hooks, what is sent and what is not, and one card again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from r4 import suggested_resources, validate_r4
from vignettes import Answers
from ward_charts import HOME, LACTATE, PNEUMONIA, chart, discharge, dose, lab, site, vitals
from ward_house import Ward, ward

CALM = Answers({"deterioration_24h": (0.05, 0.02, 0.09)}, modalities=("labs",))
SEPTIC = chart(PNEUMONIA, LACTATE, *vitals())
LEAVING = (lab("2823-3", 2.8, "mmol/L", "2026-03-10T06:00:00Z"), *vitals(rr=22, hr=112, temp=38.4))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Ward]:
    with ward(tmp_path, site(sepsis_bundle_code="urn:oid:2.999.7|SEPSIS-6"), CALM) as made:
        yield made


def of(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": r} for r in resources]}


def test_discovery_offers_the_three_hooks_and_asks_for_doses_and_reports(house: Ward) -> None:
    listed = requests.get(f"{house.base}/cds-services", timeout=60).json()["services"]
    assert {s["hook"] for s in listed} == {"patient-view", "encounter-discharge", "order-select"}
    for one in listed:
        assert one["prefetch"]["given"].startswith("MedicationAdministration?patient={{context.patientId}}&")
        assert {"tests", "reports", "meds", "labs"} <= one["prefetch"].keys()


def test_suspected_sepsis_is_a_warning_with_valid_orders_and_a_dose_silences_it(house: Ward) -> None:
    (card,) = house.open_chart(SEPTIC)
    assert card["indicator"] == "warning"
    assert [s["label"] for s in card["suggestions"]] == ["Order blood cultures", "Order the sepsis bundle"]
    for resource in suggested_resources([dict(card)]):
        validate_r4(resource)
    house.later(1)
    assert house.open_chart(SEPTIC, user="Practitioner/u2", given=of(dose())) == []


def test_null_is_known_to_be_none_and_a_key_that_was_not_sent_is_named(house: Ward) -> None:
    (known,) = house.open_chart(SEPTIC, given=None)
    assert known["indicator"] == "warning"
    house.later(1)
    (unknown,) = house.open_chart(SEPTIC, user="Practitioner/u2", given=...)
    assert unknown["indicator"] == "info"
    assert "antibiotic in 6 h not known" in unknown["summary"]
    assert "doses given (was not sent)" in unknown["detail"]


def test_a_dose_of_another_patient_silences_nothing(house: Ward) -> None:
    stranger = {**dose(), "subject": {"reference": "Patient/p2"}}
    assert len(house.open_chart(SEPTIC, given=of(stranger))) == 1


def test_the_same_card_is_not_shown_to_the_same_user_within_its_window(house: Ward) -> None:
    assert len(house.open_chart(SEPTIC)) == 1
    house.later(10)
    assert house.open_chart(SEPTIC) == []
    assert house.decisions()[0] == ("DT-03", "silent", "shown")


@pytest.mark.parametrize(
    "given", [discharge(*LEAVING), chart(*LEAVING, hook="order-select", drafts=(HOME,))], ids=["discharge", "order"]
)
def test_a_discharge_is_warned_of_at_both_hooks_with_valid_requests_and_nothing_deleted(
    house: Ward, given: Any
) -> None:
    (card,) = house.open_chart(given)
    assert card["indicator"] == "warning"
    assert card["summary"].startswith("Discharge planned with NEWS2 (5, 2026-03-10 13:40)")
    assert {a["type"] for s in card["suggestions"] for a in s["actions"]} == {"create"}
    for resource in suggested_resources([dict(card)]):
        validate_r4(resource)
    assert house.decisions() == [("DT-04", "fired", "")]


def test_opening_the_chart_says_nothing_of_a_discharge(house: Ward) -> None:
    assert house.open_chart(chart(LEAVING[0], *vitals())) == []
    (card,) = house.open_chart(discharge(LEAVING[0], *vitals()), reports=..., user="Practitioner/u2")
    assert "radiology reports (was not sent)" in card["detail"]
