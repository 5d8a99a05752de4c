from __future__ import annotations

import json
import threading
import time

import contexts
import pytest
from moody import Mood, Moody, drip_body, drip_headers, endless, hang, later, reply, reset
from patient_p1 import (
    JPEG2000,
    PATHS,
    PATIENT,
    PIXELS,
    RECORD,
    SENT,
    SERVICE,
    ehr,
    gathered,
    ids,
    service_of,
)
from reading import NOON, SLACK_S, TOKEN, always, bundle, call_of, observation, soon, timed

from cds_service.consult import require
from cds_service.deadline import Deadline
from cds_service.errors import MissingEvidence
from cds_service.evidence import Evidence, Shortfall, gather, plan_evidence
from cds_service.fhir_client import FhirClient
from cds_service.hooks import parse_hook_request
from cds_service.manifest import EvidenceItem
from cds_service.prefetch import Absent, Failed, Query, Sent
from cds_service.trust.clients import Client

pytestmark = pytest.mark.in_time


def test_each_key_is_planned_as_the_specification_means_it() -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "forbidden"}]}
    request = call_of(None, {"patient": PATIENT, "labs": None, "conditions": outcome, "studies": bundle()})
    plan = plan_evidence(SERVICE, request)
    assert plan.keys == {
        "patient": Sent((PATIENT,)),
        "labs": Absent(),
        "conditions": Failed("error"),
        "encounter": Query("Encounter/e1", "Encounter"),
        "studies": Absent(),
    }
    assert (plan.films, plan.patient_id, plan.as_of) == ({"studies": 2}, "p1", NOON)


def test_a_key_the_service_does_not_declare_is_not_looked_at() -> None:
    request = call_of(None, {"patient": PATIENT, "-user": {"resourceType": "Practitioner"}, "junk": [1, 2]})
    assert set(plan_evidence(SERVICE, request).keys) == set(SERVICE.evidence)


def test_a_template_without_its_value_is_nothing_to_ask_and_a_shortfall_only_where_it_is_required() -> None:
    body = contexts.call("patient-view")
    body["context"] = {"userId": "Practitioner/u1", "patientId": "p1"}
    request = parse_hook_request(json.dumps(body).encode(), NOON)
    optional = service_of(encounter=EvidenceItem(read="Encounter/{{context.encounterId}}"))
    required = service_of(encounter=EvidenceItem(read="Encounter/{{context.encounterId}}", required=True))
    assert plan_evidence(optional, request).keys == {"encounter": Absent()}
    assert plan_evidence(required, request).keys == {"encounter": Failed("no-access")}


@pytest.mark.parametrize("sent", [(), SENT, ("patient", "studies"), ("labs",), ("conditions", "encounter")])
def test_the_evidence_is_the_same_whether_it_was_sent_or_read(
    fhir_client: FhirClient, pacs: Moody, sent: tuple[str, ...]
) -> None:
    with Moody(ehr(RECORD)) as server:
        evidence = gathered(fhir_client, server, pacs, prefetch={key: RECORD[key] for key in sent})
        asked = {PATHS[path] for path in server.paths()}
    assert ids(evidence) == ["p1", "o1", "o2", "e1", "s1", "s2", "s3"]
    assert evidence.shortfalls == ()
    assert [(f.reference, f.sop_uid, f.transfer_syntax) for f in evidence.dicom] == [
        ("ImagingStudy/s3", "1.2.3.1.1", JPEG2000),
        ("ImagingStudy/s2", "1.2.2.1.1", JPEG2000),
    ]
    assert [f.frame for f in evidence.dicom] == [b"1.2.3.1.1" + PIXELS, b"1.2.2.1.1" + PIXELS]
    assert evidence.dicom[0].metadata["00080018"]["Value"] == ["1.2.3.1.1"]
    assert asked == set(SENT) - set(sent)


def test_pages_that_were_sent_in_part_are_read_on(fhir_client: FhirClient) -> None:
    with Moody(always(reply(bundle(observation(2))))) as server:
        first = bundle(observation(1), next_link=f"{server.base}/Observation?page=2")
        sent = {**RECORD, "labs": first, "studies": None}
        evidence = gathered(fhir_client, server, prefetch=sent)
        (seen,) = server.seen
    assert ids(evidence) == ["p1", "o1", "o2", "e1"]
    assert evidence.shortfalls == ()
    assert (seen.path, seen.headers["authorization"]) == ("/fhir/Observation?page=2", f"Bearer {TOKEN}")


@pytest.mark.parametrize("rest", ["elsewhere", "late", "failing", "no server"])
def test_a_first_page_is_kept_when_the_rest_cannot_be_had(fhir_client: FhirClient, rest: str) -> None:
    moods = {"late": hang, "failing": reply({}, 500)}
    with (
        Moody(always(moods.get(rest, hang))) as server,
        Moody(always(reply(bundle(observation(2)))), host="127.0.0.2") as elsewhere,
    ):
        there = elsewhere if rest == "elsewhere" else server
        first = bundle(observation(1), next_link=f"{there.base}/Observation?page=2")
        sent = {**RECORD, "labs": first, "studies": None}
        registered = Client("nobody", ()) if rest == "no server" else None
        evidence = gathered(fhir_client, server, prefetch=sent, deadline=Deadline.after(0.4), registered=registered)
        assert elsewhere.contacts == 0
    assert ids(evidence) == ["p1", "o1", "e1"]
    assert evidence.shortfalls == (Shortfall("labs", "truncated"),)


def test_missing_keys_are_read_at_the_same_time(fhir_client: FhirClient) -> None:
    slow = {key: later(0.3, reply(RECORD[key])) for key in SENT}
    with Moody(ehr(RECORD, **slow)) as server:
        evidence, took = timed(
            lambda: gathered(
                fhir_client,
                server,
                service=service_of(**{key: item for key, item in SERVICE.evidence.items() if key != "studies"}),
            )
        )
    assert evidence.shortfalls == ()
    assert took < 0.3 + SLACK_S  # one after another would be 1.2 s


@pytest.mark.parametrize("mood", [hang, drip_headers, drip_body, later(3, reply(PATIENT))])
def test_a_late_key_costs_the_deadline_and_nothing_else(fhir_client: FhirClient, pacs: Moody, mood: Mood) -> None:
    with Moody(ehr(RECORD, labs=mood)) as server:
        evidence, took = timed(lambda: gathered(fhir_client, server, pacs, deadline=Deadline.after(0.5)))
    assert 0.45 < took < 0.5 + SLACK_S
    assert ids(evidence) == ["p1", "e1", "s1", "s2", "s3"]
    assert evidence.shortfalls == (Shortfall("labs", "timeout"),)
    assert len(evidence.dicom) == 2


def test_a_server_that_is_late_with_everything_ends_every_read_soon_after_the_deadline(fhir_client: FhirClient) -> None:
    before = threading.active_count()
    evidence_items = {f"k{i}": EvidenceItem(search=f"Observation?code=x{i}") for i in range(12)}
    moods = [hang, drip_headers, drip_body]
    with Moody(lambda seen: moods[int(seen.path[-1]) % 3]) as server:
        evidence, took = timed(
            lambda: gathered(fhir_client, server, service=service_of(**evidence_items), deadline=Deadline.after(0.4))
        )
        assert took < 0.4 + SLACK_S
        assert {s.reason for s in evidence.shortfalls} == {"timeout"}
        assert len(evidence.shortfalls) == 12
        assert server.wait_until_idle(2.0)
        contacts = server.contacts
        time.sleep(0.3)
        assert server.contacts == contacts  # nothing is asked after the answer
    fhir_client.close()
    until = time.monotonic() + 3.0
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_a_deadline_that_has_passed_leaves_what_was_sent(fhir_client: FhirClient, pacs: Moody) -> None:
    with Moody(ehr(RECORD)) as server:
        sent = {"patient": PATIENT, "studies": RECORD["studies"]}
        evidence, took = timed(lambda: gathered(fhir_client, server, pacs, prefetch=sent, deadline=Deadline.after(0.0)))
        assert took < SLACK_S
        assert server.contacts == 0
    assert ids(evidence) == ["p1", "s1", "s2", "s3"]
    assert {(s.key, s.reason) for s in evidence.shortfalls} == {
        ("labs", "timeout"),
        ("conditions", "timeout"),
        ("encounter", "timeout"),
        ("films", "timeout"),
    }


def test_each_kind_of_failure_is_named_at_its_key(fhir_client: FhirClient) -> None:
    with Moody(
        ehr(
            RECORD,
            patient=reply({}, 403),
            labs=reply(b"{]"),
            conditions=reset,
            encounter=reply({}, 500),
            studies=endless,
        )
    ) as server:
        evidence = gathered(fhir_client, server)
    assert evidence.resources == ()
    assert {(s.key, s.reason) for s in evidence.shortfalls} == {
        ("patient", "refused"),
        ("labs", "bad-answer"),
        ("conditions", "unreachable"),
        ("encounter", "error"),
        ("studies", "bad-answer"),
    }


def test_without_a_server_what_was_not_sent_is_missing_and_films_are_too(fhir_client: FhirClient) -> None:
    request = call_of(None, {"patient": PATIENT, "conditions": None, "encounter": None, "studies": RECORD["studies"]})
    evidence = gather(plan_evidence(SERVICE, request), fhir_client.for_request(request, None), soon())
    assert evidence.shortfalls == (Shortfall("labs", "no-access"), Shortfall("films", "no-access"))
    assert ids(evidence) == ["p1", "s1", "s2", "s3"]


def test_a_server_that_is_not_this_clients_is_not_read(fhir_client: FhirClient) -> None:
    with Moody(ehr(RECORD)) as server:
        evidence = gathered(
            fhir_client, server, prefetch={**RECORD, "labs": RECORD["labs"]}, registered=Client("x", ())
        )
        assert evidence.shortfalls == (Shortfall("films", "not-allowed"),)
        evidence = gathered(fhir_client, server, registered=Client("x", ()))
        assert {s.reason for s in evidence.shortfalls} == {"not-allowed"}
        assert server.contacts == 0


def test_a_resource_two_keys_bring_is_there_once_and_two_versions_are_both_there(fhir_client: FhirClient) -> None:
    newer = {**observation(1), "status": "amended"}
    sent = {
        "labs": bundle(observation(1), observation(2)),
        "vitals": bundle(observation(2), newer, {"resourceType": "Observation"}, {"resourceType": "Observation"}),
    }
    service = service_of(labs=EvidenceItem(search="Observation"), vitals=EvidenceItem(search="Observation"))
    request = call_of(None, sent)
    evidence = gather(plan_evidence(service, request), fhir_client.for_request(request, None), soon())
    assert [r for r in evidence.resources if "id" in r] == [observation(1), observation(2), newer]
    assert len(evidence.resources) == 5


def test_nothing_of_the_patient_is_in_the_repr_of_plan_or_evidence(fhir_client: FhirClient) -> None:
    request = call_of(None, {"patient": {**PATIENT, "id": "canary"}, "labs": bundle(observation(1))})
    body = contexts.call("patient-view")
    body["context"] = {**body["context"], "patientId": "canary"}
    unsent = parse_hook_request(json.dumps(body).encode(), NOON)
    for call in (request, unsent):
        plan = plan_evidence(SERVICE, call)
        evidence = gather(plan, fhir_client.for_request(call, None), soon())
        assert "canary" not in repr(plan) + repr(evidence)
        assert "o1" not in repr(plan) + repr(evidence)


def test_required_evidence_that_came_in_part_is_not_missing_and_that_did_not_come_is() -> None:
    require(SERVICE, Evidence((observation(1),), shortfalls=(Shortfall("labs", "truncated"),)))
    require(SERVICE, Evidence((), shortfalls=(Shortfall("conditions", "timeout"), Shortfall("films", "timeout"))))
    with pytest.raises(MissingEvidence) as missing:
        require(SERVICE, Evidence((), shortfalls=(Shortfall("labs", "timeout"), Shortfall("patient", "refused"))))
    assert "labs, patient" in missing.value.diagnostics


@pytest.mark.parametrize("sent", [True, False])
def test_no_address_that_a_record_holds_is_contacted_attachments_and_absolute_references_least_of_all(
    fhir_client: FhirClient, sent: bool
) -> None:
    with Moody(always(reply(PATIENT)), host="127.0.0.2") as elsewhere, Moody(always(hang)) as server:
        there = {"reference": f"{elsewhere.base}/Organization/1"}
        attached = {"contentType": "application/pdf", "url": f"{elsewhere.origin}/report.pdf"}
        lures = {
            "meta": {"profile": [f"{elsewhere.base}/StructureDefinition/x"], "source": elsewhere.base},
            "implicitRules": f"{elsewhere.origin}/rules",
            "extension": [{"url": f"{elsewhere.origin}/x", "valueAttachment": attached}],
            "contained": [{"resourceType": "DocumentReference", "id": "d", "content": [{"attachment": attached}]}],
        }
        report = {"resourceType": "DiagnosticReport", "id": "r1", "status": "final", "presentedForm": [attached]}
        record = {
            "patient": {**PATIENT, **lures, "photo": [attached], "managingOrganization": there},
            "labs": bundle({**observation(1), **lures, "derivedFrom": [there], "performer": [there]}),
            "conditions": bundle({**report, **lures, "subject": {"reference": "Patient/p1"}, "result": [there]}),
            "encounter": {**RECORD["encounter"], **lures, "serviceProvider": there},
            "studies": bundle(),
        }
        server.answer = ehr(record)
        evidence = gathered(fhir_client, server, prefetch=record if sent else None)
        assert {"p1", "o1", "e1"} <= set(ids(evidence))
        assert set(server.paths()) <= set(PATHS)
        assert elsewhere.contacts == 0
