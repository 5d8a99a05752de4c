"""The whole house through HTTP: an EHR with a signed token, a FHIR server on a socket, an order about to be signed."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from ehr import Ehr, as_text, order_sign, table_of, without_uuids
from house import running_house
from real_servers import FhirServer, free_port

pytestmark = pytest.mark.servers

NOW = datetime.now(UTC).replace(microsecond=0)
LOINC, ICD10, RXNORM = (
    "http://loinc.org",
    "http://hl7.org/fhir/sid/icd-10-cm",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
)
CONTRAST_CT, PLAIN_CT = "24628-0", "29252-4"  # clinical/imaging_orders.csv: CT chest with and without contrast
ACTIVE = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}


@pytest.fixture(scope="module")
def ehr(fhir_server: FhirServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ehr]:
    with running_house(tmp_path_factory.mktemp("house"), fhir_server.base, [], {}, NOW) as ready:
        yield ready


def put(fhir: FhirServer, *resources: dict[str, Any]) -> None:
    for resource in resources:
        url = f"{fhir.base}/{resource['resourceType']}/{resource['id']}"
        answer = requests.put(url, json=resource, headers={"Content-Type": "application/fhir+json"}, timeout=60)
        assert answer.status_code in (200, 201), answer.text


def creatinine(patient: str, id_: str, value: float, unit: str, at: datetime) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"{patient}-{id_}",
        "status": "final",
        "subject": {"reference": f"Patient/{patient}"},
        "code": {"coding": [{"system": LOINC, "code": "2160-0" if unit == "mg/dL" else "14682-9"}]},
        "effectiveDateTime": at.isoformat(),
        "valueQuantity": {"value": round(value, 1), "unit": unit, "system": "http://unitsofmeasure.org", "code": unit},
    }


def person(patient: str) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": patient, "gender": "male", "birthDate": f"{NOW.year - 68}-01-02"}


def on_metformin(patient: str) -> dict[str, Any]:
    return {
        "resourceType": "MedicationRequest",
        "id": f"{patient}-metformin",
        "status": "active",
        "intent": "order",
        "subject": {"reference": f"Patient/{patient}"},
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "6809"}], "text": "metformin 1000 mg"},
        "authoredOn": (NOW - timedelta(days=90)).isoformat(),
    }


def kidney_disease(patient: str, code: str = "N18.4") -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": f"{patient}-ckd",
        "clinicalStatus": ACTIVE,
        "code": {"coding": [{"system": ICD10, "code": code}]},
        "subject": {"reference": f"Patient/{patient}"},
    }


def draft(patient: str, code: str = CONTRAST_CT, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "ServiceRequest",
        "id": "draft-1",
        "status": "draft",
        "intent": "order",
        "code": {"coding": [{"system": LOINC, "code": code}], "text": "CT chest with IV contrast"},
        "subject": {"reference": f"Patient/{patient}"},
        **more,
    }


def with_low_egfr(fhir: FhirServer, patient: str, factor: float = 1.0, unit: str = "mg/dL") -> str:
    """The patient of vignette S01: 68-year-old man, creatinine 2.5 then 2.6 mg/dL, on metformin."""
    put(
        fhir,
        person(patient),
        creatinine(patient, "older", 2.5 * factor, unit, NOW - timedelta(hours=56)),
        creatinine(patient, "newer", 2.6 * factor, unit, NOW - timedelta(hours=8)),
        on_metformin(patient),
        kidney_disease(patient),
    )
    return patient


def test_signing_contrast_for_a_failing_kidney_on_metformin_gets_one_card_with_the_numbers_and_the_orders(
    ehr: Ehr, fhir_server: FhirServer
) -> None:
    patient = with_low_egfr(fhir_server, "sign-low")
    (card,) = ehr.call("imaging-safety", "order-sign", order_sign(patient, draft(patient))).cards
    assert card["indicator"] == "warning"
    # CKD-EPI 2021 by hand for 2.6 mg/dL, male, 68: 142 x (2.6/0.9)^-1.2 x 0.9938^68 = 26.0
    assert "eGFR 26" in card["summary"]
    assert "metformin" in card["summary"]
    first = table_of(card)[0]
    assert "2.6 mg/dL" in first["Value"]
    assert first["When"] == (NOW - timedelta(hours=8)).strftime("%Y-%m-%d %H:%M")
    actions = [a for s in card["suggestions"] for a in s["actions"]]
    changed = next(a["resource"] for a in actions if a["resource"].get("id") == "draft-1")
    assert changed["code"]["coding"][0]["code"] == PLAIN_CT
    held = next(
        a["resource"] for a in actions if a["resource"]["resourceType"] == "MedicationRequest" and "id" in a["resource"]
    )
    assert (held["id"], held["status"]) == (f"{patient}-metformin", "on-hold")


def test_the_same_call_with_and_without_prefetch_gives_the_same_card(ehr: Ehr, fhir_server: FhirServer) -> None:
    patient = with_low_egfr(fhir_server, "sign-prefetch")
    context = order_sign(patient, draft(patient))
    fhir_server.forget()
    read = ehr.call("imaging-safety", "order-sign", context).cards
    assert fhir_server.requests(), "without prefetch the service reads for itself"
    prefetch = ehr.prefetch("imaging-safety", "order-sign", context)
    fhir_server.forget()
    sent = ehr.call("imaging-safety", "order-sign", context, prefetch).cards
    assert fhir_server.requests() == [], "what was sent is not read again"
    assert without_uuids(sent) == without_uuids(read)
    assert len(sent) == 1


def test_a_search_of_several_pages_is_read_to_its_end(ehr: Ehr, fhir_server: FhirServer) -> None:
    patient = "sign-pages"
    put(fhir_server, person(patient), kidney_disease(patient), on_metformin(patient))
    # 60 results fill two pages of the template's 30; the server sorts them, the oldest is on the last page.
    hours = [8.0 + 3 * n for n in range(60)]
    put(
        *(
            fhir_server,
            *(creatinine(patient, str(n), 2.6, "mg/dL", NOW - timedelta(hours=h)) for n, h in enumerate(hours)),
        )
    )
    context = order_sign(patient, draft(patient))
    whole = ehr.prefetch("imaging-safety", "order-sign", context)
    assert len(whole["kidney"]["entry"]) == 60
    first_page = ehr.session.get(whole["kidney"]["link"][0]["url"], timeout=60).json()
    assert len(first_page["entry"]) == 30
    fhir_server.forget()
    paged = ehr.call("imaging-safety", "order-sign", context, {**whole, "kidney": first_page}).cards
    assert [r["url"].partition("?")[0] for r in fhir_server.requests()] == ["/fhir/R4/Observation"]
    assert without_uuids(paged) == without_uuids(ehr.call("imaging-safety", "order-sign", context, whole).cards)


def test_creatinine_in_mg_per_dl_and_in_umol_per_l_gives_the_same_advice(ehr: Ehr, fhir_server: FhirServer) -> None:
    # clinical/README.md: creatinine 180 umol/L = 2.036 mg/dL, so 1 mg/dL = 88.4 umol/L.
    cards = []
    for patient, factor, unit in (("sign-mg", 1.0, "mg/dL"), ("sign-umol", 88.4, "umol/L")):
        with_low_egfr(fhir_server, patient, factor, unit)
        (card,) = ehr.call("imaging-safety", "order-sign", order_sign(patient, draft(patient))).cards
        text = json.dumps(without_uuids(card)).replace(patient, "PATIENT")
        cards.append(json.loads(re.sub(r'"lastUpdated": "[^"]*"', '"lastUpdated": ""', text)))
    mg, umol = cards
    umol["detail"], mg["detail"] = as_text(umol["detail"]), as_text(mg["detail"])
    ours = r"([0-9.]+) umol/L \[([0-9.]+) mg/dL\]"  # as the laboratory printed it, our conversion beside it
    assert re.findall(ours, umol["detail"])[0] == ("229.8", "2.60")
    umol["detail"] = re.sub(ours, lambda m: f"{float(m[2]):g} mg/dL", umol["detail"])
    assert umol == mg


def test_results_of_another_patient_in_the_prefetch_change_nothing(ehr: Ehr, fhir_server: FhirServer) -> None:
    patient = with_low_egfr(fhir_server, "sign-mine")
    context = order_sign(patient, draft(patient))
    prefetch = ehr.prefetch("imaging-safety", "order-sign", context)
    alone = ehr.call("imaging-safety", "order-sign", context, prefetch).cards
    stranger = {"resource": creatinine("somebody-else", "x", 0.7, "mg/dL", NOW - timedelta(hours=1))}
    dialysis = {
        "resource": {**kidney_disease("somebody-else"), "code": {"coding": [{"system": ICD10, "code": "Z99.2"}]}}
    }
    prefetch["kidney"]["entry"].insert(0, stranger)
    prefetch["conditions"]["entry"].append(dialysis)
    mixed = ehr.call("imaging-safety", "order-sign", context, prefetch).cards
    assert without_uuids(mixed) == without_uuids(alone)


def test_without_a_usable_creatinine_and_with_kidney_disease_the_card_asks_for_one(
    ehr: Ehr, fhir_server: FhirServer
) -> None:
    patient = "sign-unknown"
    put(fhir_server, person(patient), kidney_disease(patient))
    (card,) = ehr.call("imaging-safety", "order-sign", order_sign(patient, draft(patient))).cards
    assert card["indicator"] == "info"
    ordered = [a["resource"]["code"]["coding"][0]["code"] for s in card["suggestions"] for a in s["actions"]]
    assert ordered == ["2160-0"]


def test_the_service_is_silent_for_a_healthy_kidney_and_for_an_order_that_is_not_its_business(
    ehr: Ehr, fhir_server: FhirServer
) -> None:
    healthy = "sign-healthy"
    put(fhir_server, person(healthy), creatinine(healthy, "a", 0.9, "mg/dL", NOW - timedelta(hours=3)))
    assert ehr.call("imaging-safety", "order-sign", order_sign(healthy, draft(healthy))).cards == []
    low = with_low_egfr(fhir_server, "sign-plain")
    fhir_server.forget()
    assert ehr.call("imaging-safety", "order-sign", order_sign(low, draft(low, PLAIN_CT))).cards == []
    assert fhir_server.requests() == [], "an order without contrast is answered without reading anything"
    assert ehr.call("imaging-safety", "order-sign", order_sign(low, draft(low, priority="stat"))).cards == []


def test_every_read_carries_the_lent_token_and_an_unregistered_server_is_never_contacted(
    ehr: Ehr, fhir_server: FhirServer
) -> None:
    patient = with_low_egfr(fhir_server, "sign-token")
    context = order_sign(patient, draft(patient))
    fhir_server.forget()
    ehr.call("imaging-safety", "order-sign", context)
    assert {r["authorization"] for r in fhir_server.requests()} == {f"Bearer {ehr.access_token}"}
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.3)
        elsewhere = f"http://127.0.0.1:{listening.getsockname()[1]}/fhir/R4"
        answer = ehr.call("imaging-safety", "order-sign", context, fhirServer=elsewhere)
        assert answer.status == 412
        assert answer.body["resourceType"] == "OperationOutcome"
        with pytest.raises(TimeoutError):
            listening.accept()


def test_required_evidence_from_a_server_that_is_gone_is_a_412_that_names_the_keys(
    fhir_server: FhirServer, tmp_path: Path
) -> None:
    with running_house(tmp_path, f"http://127.0.0.1:{free_port()}/fhir/R4", [], {}, NOW) as ehr:
        answer = ehr.call("imaging-safety", "order-sign", order_sign("sign-gone", draft("sign-gone")))
    assert answer.status == 412
    assert "kidney" in answer.body["issue"][0]["diagnostics"]
    assert "sign-gone" not in json.dumps(answer.body)


@pytest.mark.in_time
def test_a_fhir_server_that_never_answers_is_a_412_within_the_budget(fhir_server: FhirServer, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        base = f"http://127.0.0.1:{silent.getsockname()[1]}/fhir/R4"
        with running_house(tmp_path, base, [], {}, NOW) as ehr:
            answer = ehr.call("imaging-safety", "order-sign", order_sign("sign-late", draft("sign-late")))
    assert answer.status == 412
    assert answer.seconds < 1.5  # the manifest gives order-sign 1000 ms; the rest is this machine's


def test_calls_at_the_same_time_answer_as_they_do_alone(ehr: Ehr, fhir_server: FhirServer) -> None:
    patients = [with_low_egfr(fhir_server, f"sign-crowd-{n}", 1.0 + n / 10) for n in range(4)]

    def fire(patient: str) -> Any:
        return without_uuids(ehr.call("imaging-safety", "order-sign", order_sign(patient, draft(patient))).cards)

    alone = [fire(p) for p in patients]
    start = threading.Barrier(len(patients))

    def together(patient: str) -> Any:
        start.wait()
        return fire(patient)

    with ThreadPoolExecutor(len(patients)) as pool:
        assert list(pool.map(together, patients)) == alone
    assert len({json.dumps(cards) for cards in alone}) == len(patients)


def test_a_call_without_a_valid_token_learns_nothing(ehr: Ehr) -> None:
    answer = requests.post(f"{ehr.service}/cds-services/imaging-safety", json={"hook": "order-sign"}, timeout=60)
    assert answer.status_code == 401
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_the_clinicians_decision_comes_back_as_feedback_on_the_cards_uuid(ehr: Ehr, fhir_server: FhirServer) -> None:
    patient = with_low_egfr(fhir_server, "sign-feedback")
    (card,) = ehr.call("imaging-safety", "order-sign", order_sign(patient, draft(patient))).cards
    chosen = {"id": card["suggestions"][0]["uuid"]}
    decision = {"card": card["uuid"], "outcome": "accepted", "acceptedSuggestions": [chosen]}
    assert ehr.feedback("imaging-safety", {**decision, "outcomeTimestamp": NOW.isoformat()}) == 200
