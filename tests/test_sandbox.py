"""The conversation of the official CDS Hooks Sandbox (github.com/cds-hooks/sandbox), replayed over a real socket.

A browser at another origin: it asks before every call, signs each with ES384, fills the templates itself by POST
`_search`, sends drafts that are no valid FHIR, lends no token, and takes a suggestion into its own form.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from house import running_house
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from real_servers import FhirServer
from typer.testing import CliRunner

from cds_service.cli.main import assemble
from cds_service.state.store import Store

pytestmark = pytest.mark.servers

ORIGIN = "https://sandbox.cds-hooks.org"
JKU = f"{ORIGIN}/.well-known/jwks.json"
KID = "44823f3d-0b01-4a6c-a80e-b9d3e8a7226f"
KEY = ECKey.generate_key("P-384", {"kid": KID, "alg": "ES384", "use": "sig"})
NOW = datetime.now(UTC).replace(microsecond=0)
LOINC, RXNORM = "http://loinc.org", "http://www.nlm.nih.gov/research/umls/rxnorm"
CONTRAST_CT, PLAIN_CT = "24628-0", "29252-4"  # clinical/imaging_orders.csv: CT chest with and without contrast
EMPTY: dict[str, str] = {}
Json = dict[str, Any]


@dataclass(frozen=True)
class Sandbox:
    """The Sandbox with one patient open; `service` is the address typed into its settings."""

    service: str
    fhir: str
    patient: str = "sandbox-kidney"

    def ask_first(self, url: str, method: str, headers: str) -> None:
        """What the browser does before the call: no token, and nothing is sent where the answer does not allow it."""
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
        answer = requests.options(url, headers=asked, timeout=60)
        assert answer.ok
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert method in answer.headers["Access-Control-Allow-Methods"].split(", ")
        assert set(headers.split(",")) <= set(answer.headers["Access-Control-Allow-Headers"].split(", "))

    def send(self, url: str, body: Any = None, audience: str = "", **claims: Any) -> requests.Response:
        """A GET without a body, else a POST; whatever comes back is there for the page to read."""
        self.ask_first(url, "POST" if body else "GET", "authorization,content-type" if body else "authorization")
        # Math.round: half a second of the clock rounds up, so the token is of a moment that is still to come.
        issued = math.floor((NOW + timedelta(seconds=0.5)).timestamp() + 0.5)
        whole = {"iss": ORIGIN, "aud": audience or url, "exp": issued + 300, "iat": issued, "jti": str(uuid.uuid4())}
        header = {"alg": "ES384", "typ": "JWT", "kid": KID, "jku": JKU}
        token = jwt.encode(header, {**whole, **claims}, KEY, algorithms=["ES384"])
        headers = {"Origin": ORIGIN, "Accept": "application/json", "Authorization": f"Bearer {token}"}
        answer = requests.request("POST" if body else "GET", url, json=body, headers=headers, timeout=30)
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Origin" in answer.headers["Vary"]
        return answer

    def discover(self) -> list[Json]:
        services: list[Json] = self.send(f"{self.service}/cds-services").json()["services"]
        return services

    def prefetch(self, templates: Mapping[str, str]) -> Json:
        """Every template whose tokens it can fill; a search that fails leaves its key out, a read likewise."""
        found = {}
        for key, template in templates.items():
            filled = template.replace("{{context.patientId}}", self.patient)
            filled = filled.replace("{{userPractitionerId}}", "COREPRACTITIONER1")
            filled = re.sub(
                r"\{\{today\(\) - (\d+) days\}\}", lambda m: f"{NOW - timedelta(days=int(m[1])):%Y-%m-%d}", filled
            )
            if "{{" in filled:
                continue
            path, _, query = filled.partition("?")
            headers = {"Accept": "application/json+fhir"}
            if query:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
                answer = requests.post(f"{self.fhir}/{path}/_search", data=query, headers=headers, timeout=30)
                if not answer.ok:
                    answer = requests.get(f"{self.fhir}/{filled}", headers=headers, timeout=30)
            else:
                answer = requests.get(f"{self.fhir}/{path}", headers=headers, timeout=30)
            if answer.ok:
                found[key] = answer.json()
        return found

    def fire(self, hook: str, **context: Any) -> dict[str, list[Json]]:
        """The cards of every service on this hook, by service."""
        cards = {}
        for entry in self.discover():
            if entry["hook"] != hook:
                continue
            body: Json = {
                "hookInstance": str(uuid.uuid4()),
                "hook": hook,
                "fhirServer": self.fhir,
                "context": {"patientId": self.patient, "userId": "Practitioner/COREPRACTITIONER1", **context},
                "prefetch": self.prefetch(entry.get("prefetch", {})),
            }
            answer = self.send(f"{self.service}/cds-services/{entry['id']}", body)
            assert answer.status_code == 200, (entry["id"], answer.text)
            cards[entry["id"]] = answer.json()["cards"]
        return cards

    def feed_back(self, service: str, card: Json, **outcome: Any) -> None:
        """One item at a time, under an address and an audience of its own."""
        at = f"{NOW:%Y-%m-%dT%H:%M:%S}.000Z"  # Date.toISOString
        item = {"card": card["uuid"], **outcome, "outcomeTimestamp": at}
        answer = self.send(f"{self.service}/cds-services/{service}/feedback", {"feedback": [item]})
        assert answer.status_code == 200, answer.text

    def accept(self, service: str, card: Json, suggestion: Json) -> None:
        self.feed_back(service, card, outcome="accepted", acceptedSuggestions=[{"id": suggestion["uuid"]}])

    def imaging(self, study: Mapping[str, str], *reasons: Mapping[str, str]) -> Json:
        """The context of its imaging screen: the same for both hooks, the Bundle without a type."""
        resource = {
            "resourceType": "ServiceRequest",
            "id": "example-request-id",
            "status": "draft",
            "intent": "plan",
            "code": {"coding": [dict(study)], **({"text": study["display"]} if study else {})},
            "subject": {"reference": f"Patient/{self.patient}"},
            "reasonCode": [{"coding": [dict(reason)], "text": reason["display"]} for reason in reasons],
        }
        orders = {"resourceType": "Bundle", "entry": [{"resource": resource}]}
        return {"selections": ["ServiceRequest/example-request-id"], "draftOrders": orders}

    def prescription(self, drug: Mapping[str, str]) -> Json:
        """The context of its prescribing screen: `category` is an object where R4 has a list."""
        resource = {
            "resourceType": "MedicationRequest",
            "id": "request-123",
            "status": "draft",
            "intent": "order",
            "category": {
                "coding": [{"system": "http://hl7.org/fhir/medication-request-category", "code": "outpatient"}]
            },
            "subject": {"reference": f"Patient/{self.patient}"},
            "medicationCodeableConcept": {"coding": [dict(drug)], **({"text": drug["display"]} if drug else {})},
            "dosageInstruction": [{"doseAndRate": [{"doseQuantity": {"value": 1, "unit": "{pill}"}}]}],
        }
        orders = {"resourceType": "Bundle", "entry": [{"resource": resource}]}
        return {"selections": ["MedicationRequest/request-123"], "draftOrders": orders}


WITH_CONTRAST = {"system": LOINC, "code": CONTRAST_CT, "display": "CT Chest W contrast IV"}
COUGH = {"system": "http://snomed.info/sct", "code": "49727002", "display": "Cough"}
IBUPROFEN = {"system": RXNORM, "code": "5640", "display": "ibuprofen"}


def chart(fhir: FhirServer, patient: str, creatinine: Mapping[int, float]) -> None:
    """A man of 68 with stage 4 kidney disease on metformin; creatinine in mg/dL by the hours since it was drawn."""
    of: Json = {"subject": {"reference": f"Patient/{patient}"}}
    resources: list[Json] = [
        {"resourceType": "Patient", "id": patient, "name": [{"given": ["A"], "family": "B"}], "gender": "male"}
        | {"birthDate": f"{NOW.year - 68}-01-02"},
        {"resourceType": "Condition", "id": f"{patient}-ckd", **of}
        | {"code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "N18.4"}], "text": "CKD 4"}}
        | {
            "clinicalStatus": {
                "coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]
            }
        },
        {"resourceType": "MedicationRequest", "id": f"{patient}-metformin", "status": "active", "intent": "order", **of}
        | {"medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "6809"}], "text": "metformin"}},
    ]
    for hours, value in creatinine.items():
        quantity = {"value": value, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
        resources.append(
            {"resourceType": "Observation", "id": f"{patient}-{hours}", "status": "final", **of}
            | {"code": {"coding": [{"system": LOINC, "code": "2160-0"}]}, "valueQuantity": quantity}
            | {"effectiveDateTime": (NOW - timedelta(hours=hours)).isoformat()}
        )
    for resource in resources:
        url = f"{fhir.base}/{resource['resourceType']}/{resource['id']}"
        answer = requests.put(url, json=resource, headers={"Content-Type": "application/fhir+json"}, timeout=60)
        assert answer.ok, answer.text


def register(folder: Path, service: str, fhir: str) -> None:
    """By command; its keys lie in a file, as where its own address cannot be reached; `jku` names that address."""
    keys = folder / "sandbox.json"
    keys.write_bytes(msgspec.json.encode(KeySet([KEY]).as_dict(private=False)))
    words = ["clients", "add", "sandbox", "--issuer", ORIGIN, "--jwks-url", JKU, "--jwks-file", str(keys)]
    words += ["--audience", service, "--fhir", fhir]
    env = {"ORDERSIGHT_CLIENTS": str(folder / "clients.yaml")}
    done = CliRunner().invoke(assemble(["clients"]), words, env=env)
    assert done.exit_code == 0, (done.output, done.exception)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture(scope="module")
def sandbox(fhir_server: FhirServer, state: Path) -> Iterator[Sandbox]:
    with running_house(state, fhir_server.base, [], {}, NOW, cors_origins=(ORIGIN,)) as house:
        register(state, house.service, fhir_server.base)
        opened = Sandbox(house.service, fhir_server.base)
        chart(fhir_server, opened.patient, {56: 2.5, 8: 2.6})
        yield opened


def one(cards: Mapping[str, list[Json]], service: str) -> Json:
    (card,) = cards[service]
    return card


def told(folder: Path, card: Json) -> list[tuple[str, bool]]:
    """What was kept of one card: the outcome, and whether the card was known."""
    with Store.open(f"sqlite:///{folder / 'state' / 'state.sqlite'}", outbox_bytes=0) as store:
        return [(row["outcome"], row["matched"]) for row in store.export_feedback() if row["card"] == card["uuid"]]


def test_opening_a_chart_in_the_sandbox_is_answered_by_every_service_of_patient_view(sandbox: Sandbox) -> None:
    answered = sandbox.fire("patient-view")
    assert {"deterioration", "cxr-insight", "imaging-timing", "lung-precision"} <= set(answered)


def test_the_sandbox_fills_all_our_templates_but_those_of_an_encounter_it_does_not_send(sandbox: Sandbox) -> None:
    for entry in sandbox.discover():
        left_out = set(entry["prefetch"]) - set(sandbox.prefetch(entry["prefetch"]))
        assert all("context.encounterId" in entry["prefetch"][key] for key in left_out), entry["id"]


@pytest.mark.parametrize("screen", ["imaging", "prescription"])
def test_a_form_with_nothing_chosen_yet_gets_no_card_and_no_error(sandbox: Sandbox, screen: str) -> None:
    context = sandbox.imaging(EMPTY) if screen == "imaging" else sandbox.prescription(EMPTY)
    assert not any(sandbox.fire("order-select", **context).values())


def test_an_accepted_update_changes_the_study_in_the_sandbox_s_form_and_the_order_then_signs_in_silence(
    sandbox: Sandbox, state: Path
) -> None:
    card = one(sandbox.fire("order-select", **sandbox.imaging(WITH_CONTRAST, COUGH)), "imaging-safety")
    assert "eGFR 26" in card["summary"]  # CKD-EPI 2021 by hand: 142 x (2.6/0.9)^-1.2 x 0.9938^68 = 26.0
    suggestion, update = next(
        (s, a["resource"])
        for s in card["suggestions"]
        for a in s["actions"]
        if a["type"] == "update" and a["resource"]["resourceType"] == "ServiceRequest"
    )
    sandbox.accept("imaging-safety", card, suggestion)
    assert told(state, card) == [("accepted", True)]
    # The form takes the first coding of the code and of each reason, and puts them into the order under its own id.
    study, reasons = update["code"]["coding"][0], [reason["coding"][0] for reason in update["reasonCode"]]
    assert (update["id"], study["system"], study["code"]) == ("example-request-id", LOINC, PLAIN_CT)
    assert study["display"], "the form shows the display, and a study without one is not in it"
    assert reasons == [COUGH]
    for hook in ("order-select", "order-sign"):
        assert sandbox.fire(hook, **sandbox.imaging(study, *reasons))["imaging-safety"] == []


def test_a_card_the_user_dismisses_with_a_reason_comes_back_as_overridden(sandbox: Sandbox, state: Path) -> None:
    card = one(sandbox.fire("order-sign", **sandbox.imaging(WITH_CONTRAST)), "imaging-safety")
    reason = card["overrideReasons"][0]
    assert all(reason[member] for member in ("code", "system", "display"))
    chosen = {"reason": reason, "userComment": "Benefit discussed with radiology"}
    sandbox.feed_back("imaging-safety", card, outcome="overridden", overrideReason=chosen)
    assert told(state, card) == [("overridden", True)]


def test_another_drug_accepted_in_the_sandbox_s_prescribing_form_signs_without_the_warning(
    sandbox: Sandbox, fhir_server: FhirServer, state: Path
) -> None:
    injured = replace(sandbox, patient="sandbox-injury")
    chart(fhir_server, injured.patient, {30: 0.9, 4: 2.2})  # 2.4 times as high: stage 2 by KDIGO 2012, table 2
    card = one(injured.fire("order-sign", **injured.prescription(IBUPROFEN)), "precision-prescribing")
    assert "ibuprofen" in card["summary"].lower()
    suggestion, drug = next(
        (s, a["resource"]["medicationCodeableConcept"])
        for s in card["suggestions"]
        for a in s["actions"]
        if a["type"] == "create" and a["resource"]["resourceType"] == "MedicationRequest"
    )
    injured.accept("precision-prescribing", card, suggestion)
    assert told(state, card) == [("accepted", True)]
    # The form takes the text and the first code, and writes both into the order under its own id.
    chosen = {"system": RXNORM, "code": drug["coding"][0]["code"], "display": drug["text"]}
    assert chosen["code"] == "161"  # RxNorm: acetaminophen
    assert injured.fire("order-sign", **injured.prescription(chosen))["precision-prescribing"] == []


@pytest.mark.parametrize("hook", ["order-select", "order-sign"])
def test_the_orders_the_specification_prints_are_no_business_of_imaging_safety(
    sandbox: Sandbox, shared: Path, hook: str
) -> None:
    """Diets and drugs for a patient the FHIR server does not have: an answer, so nothing was asked of that server."""
    printed = sorted((shared / "data" / "cds_hooks_samples").glob(f"context_{hook}_*.json"))
    assert len(printed) == 2
    for sample in printed:
        context = msgspec.json.decode(sample.read_bytes())["context"]
        body = {"hook": hook, "hookInstance": str(uuid.uuid4()), "fhirServer": sandbox.fhir, "context": context}
        answer = sandbox.send(f"{sandbox.service}/cds-services/imaging-safety", body)
        assert (answer.status_code, answer.json()) == (200, {"cards": []}), sample.name


def test_what_the_sandbox_could_not_prefetch_is_read_from_its_open_server_without_a_token(
    sandbox: Sandbox, fhir_server: FhirServer
) -> None:
    context = {"patientId": sandbox.patient, "userId": "Practitioner/COREPRACTITIONER1"}
    body = {"hook": "order-sign", "hookInstance": str(uuid.uuid4()), "fhirServer": sandbox.fhir}
    whole = {**body, "context": {**context, **sandbox.imaging(WITH_CONTRAST)}}
    fhir_server.forget()
    cards = sandbox.send(f"{sandbox.service}/cds-services/imaging-safety", whole).json()["cards"]
    assert ["eGFR 26" in card["summary"] for card in cards] == [True]
    assert {read.get("authorization") for read in fhir_server.requests()} == {None}


def test_what_goes_wrong_is_told_to_the_page_too(sandbox: Sandbox) -> None:
    """A browser shows a page nothing of an answer without its CORS header; `send` looks for it on each."""
    url = f"{sandbox.service}/cds-services/imaging-safety"
    body = {"hook": "order-sign", "hookInstance": str(uuid.uuid4()), "context": {}}
    assert sandbox.send(url, body).status_code == 400
    assert sandbox.send(url, body, audience=f"{url}/feedback").status_code == 401
    assert sandbox.send(f"{sandbox.service}/cds-services/none", body).status_code == 404
    assert sandbox.send(f"{url}/feedback", {"feedback": [{}]}).status_code == 400


def test_a_slash_typed_after_the_sandbox_s_service_address_loses_neither_call_nor_token(sandbox: Sandbox) -> None:
    url = f"{sandbox.service}/cds-services//imaging-safety"
    body = {"hook": "order-sign", "hookInstance": str(uuid.uuid4()), "context": {}}
    assert sandbox.send(url, body).status_code == 400, "the empty context is what is wrong"
