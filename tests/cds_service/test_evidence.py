from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import contexts
import pytest
from moody import Mood, Moody, Seen, drip_body, drip_headers, endless, hang, later, reply, reset
from reading import NOON, SLACK_S, TOKEN, always, bundle, call_of, client_of, observation, soon, timed

from cds_service.deadline import Deadline
from cds_service.evidence import Evidence, Shortfall, gather, plan_evidence
from cds_service.fhir_client import FhirClient
from cds_service.hooks import parse_hook_request
from cds_service.manifest import EvidenceItem, Service
from cds_service.prefetch import Absent, Failed, Query, Sent
from cds_service.trust.clients import Client

PIXELS = bytes(range(256)) * 16
JPEG2000 = "1.2.840.10008.1.2.4.90"


def service_of(**evidence: EvidenceItem) -> Service:
    return Service("chest-review", ("patient-view",), "Chest", "Reads the chest.", "none", evidence, {})


SERVICE = service_of(
    patient=EvidenceItem(read="Patient/{{context.patientId}}", required=True),
    labs=EvidenceItem(search="Observation?code=http://loinc.org|2160-0&_sort=-date", required=True),
    conditions=EvidenceItem(search="Condition"),
    encounter=EvidenceItem(read="Encounter/{{context.encounterId}}"),
    studies=EvidenceItem(search="ImagingStudy?_sort=-started", films=2),
)
PATIENT = {"resourceType": "Patient", "id": "p1", "gender": "female"}
ENCOUNTER = {"resourceType": "Encounter", "id": "e1", "subject": {"reference": "Patient/p1"}}


def study(number: int, *, day: int = 1, patient: str = "p1", listed: bool = True, **members: Any) -> dict[str, Any]:
    """A chest film of one image, taken on a day of February 2026."""
    series: dict[str, Any] = {
        "uid": f"1.2.{number}.1",
        "modality": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "DX"},
        "bodySite": {"system": "http://snomed.info/sct", "code": "51185008"},
    }
    if listed:
        sop_class = {"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2.840.10008.5.1.4.1.1.1.1"}
        series["instance"] = [{"uid": f"1.2.{number}.1.1", "sopClass": sop_class, "number": 1}]
    return {
        "resourceType": "ImagingStudy",
        "id": f"s{number}",
        "status": "available",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:1.2.{number}"}],
        "subject": {"reference": f"Patient/{patient}"},
        "started": f"2026-02-{day:02d}T08:00:00Z",
        "modality": [series["modality"]],
        "description": "Chest PA",
        "series": [series],
        **members,
    }


RECORD: dict[str, Any] = {
    "patient": PATIENT,
    "labs": bundle(observation(1), observation(2)),
    "conditions": bundle(),
    "encounter": ENCOUNTER,
    "studies": bundle(study(1), study(2, day=2), study(3, day=3)),
}
PATHS = {
    "/fhir/Patient/p1": "patient",
    "/fhir/Observation?patient=p1&code=http://loinc.org%7C2160-0&_sort=-date": "labs",
    "/fhir/Condition?patient=p1": "conditions",
    "/fhir/Encounter/e1": "encounter",
    "/fhir/ImagingStudy?patient=p1&_sort=-started": "studies",
}


def ehr(record: dict[str, Any], **moods: Mood) -> Callable[[Seen], Mood]:
    """Answer each key's query with the record's value, or in the mood given for the key."""

    def answer(seen: Seen) -> Mood:
        key = PATHS.get(seen.path)
        if key is None:
            return reply({}, 404)
        return moods.get(key) or reply(record[key])

    return answer


def frame_of(pixels: bytes) -> Mood:
    part = f"--b0\r\nContent-Type: image/jp2; transfer-syntax={JPEG2000}\r\n\r\n".encode() + pixels + b"\r\n--b0--\r\n"
    return reply(part, content_type='multipart/related; type="image/jp2"; boundary=b0')


def archive(seen: Seen) -> Mood:
    """A PACS that has every study asked for, with one image in it."""
    parts = seen.path.split("?")[0].split("/")
    if parts[-1] == "instances":
        uid = parts[parts.index("studies") + 1]
        tags = {"0020000E": f"{uid}.1", "00080018": f"{uid}.1.1", "00080060": "DX"}
        return reply([{t: {"vr": "UI", "Value": [v]} for t, v in tags.items()}], content_type="application/dicom+json")
    uid = parts[parts.index("instances") + 1]
    if parts[-1] == "metadata":
        return reply([{"00080018": {"vr": "UI", "Value": [uid]}}], content_type="application/dicom+json")
    return frame_of(uid.encode() + PIXELS)


@pytest.fixture
def fhir_client() -> Iterator[FhirClient]:
    client = FhirClient()
    yield client
    client.close()


@pytest.fixture
def pacs() -> Iterator[Moody]:
    with Moody(archive) as server:
        yield server


def gathered(
    client: FhirClient,
    server: Moody,
    *archives: Moody,
    prefetch: dict[str, Any] | None = None,
    service: Service = SERVICE,
    deadline: Deadline | None = None,
    registered: Client | None = None,
) -> Evidence:
    request = call_of(server.base, prefetch)
    known = registered or client_of(server, dicomweb=tuple(f"{a.origin}/dicom-web" for a in archives))
    fhir = client.for_request(request, known)
    return gather(plan_evidence(service, request), fhir, deadline or soon())


def ids(evidence: Evidence) -> list[str]:
    return [str(resource["id"]) for resource in evidence.resources]


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


SENT = ("patient", "labs", "conditions", "encounter", "studies")


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


@pytest.mark.parametrize("mood", [hang, drip_body, later(3, reply(b""))])
def test_a_late_archive_costs_the_films_and_nothing_else(fhir_client: FhirClient, mood: Mood) -> None:
    with Moody(ehr(RECORD)) as server, Moody(always(mood)) as slow:
        evidence, took = timed(lambda: gathered(fhir_client, server, slow, deadline=Deadline.after(0.5)))
        assert took < 0.5 + SLACK_S
    assert ids(evidence) == ["p1", "o1", "o2", "e1", "s1", "s2", "s3"]
    assert evidence.shortfalls == (Shortfall("films", "timeout"),)
    assert evidence.dicom == ()


def test_a_film_that_fails_leaves_the_other(fhir_client: FhirClient) -> None:
    def half_broken(seen: Seen) -> Mood:
        return reply(b"junk") if "1.2.3.1.1/frames" in seen.path else archive(seen)

    with Moody(ehr(RECORD)) as server, Moody(half_broken) as broken:
        evidence = gathered(fhir_client, server, broken)
    assert [f.sop_uid for f in evidence.dicom] == ["1.2.2.1.1"]
    assert evidence.shortfalls == (Shortfall("films", "bad-answer"),)


def test_films_without_a_registered_archive_are_missing_and_nothing_is_asked(fhir_client: FhirClient) -> None:
    with Moody(ehr(RECORD)) as server:
        evidence = gathered(fhir_client, server)
    assert evidence.shortfalls == (Shortfall("films", "no-access"),)


def test_without_a_study_there_is_no_film_to_miss(fhir_client: FhirClient, pacs: Moody) -> None:
    with Moody(ehr({**RECORD, "studies": bundle()})) as server:
        evidence = gathered(fhir_client, server, pacs)
    assert evidence.shortfalls == ()
    assert pacs.contacts == 0


def test_a_study_of_another_patient_is_not_fetched(fhir_client: FhirClient, pacs: Moody) -> None:
    with Moody(ehr({**RECORD, "studies": bundle(study(1), study(9, day=9, patient="p2"))})) as server:
        evidence = gathered(fhir_client, server, pacs)
    assert [f.study_uid for f in evidence.dicom] == ["1.2.1"]
    assert not any("1.2.9" in path for path in pacs.paths())


def test_a_service_without_films_does_not_fetch_any(fhir_client: FhirClient, pacs: Moody) -> None:
    service = service_of(studies=EvidenceItem(search="ImagingStudy?_sort=-started"))
    with Moody(ehr(RECORD)) as server:
        evidence = gathered(fhir_client, server, pacs, service=service)
    assert ids(evidence) == ["s1", "s2", "s3"]
    assert pacs.contacts == 0


def test_a_study_that_lists_no_image_is_asked_about_at_the_archive(fhir_client: FhirClient, pacs: Moody) -> None:
    studies = bundle(study(1), study(2, day=2, listed=False))
    with Moody(ehr({**RECORD, "studies": studies})) as server:
        evidence = gathered(fhir_client, server, pacs)
    assert [f.sop_uid for f in evidence.dicom] == ["1.2.2.1.1", "1.2.1.1.1"]
    assert evidence.dicom[0].reference == "ImagingStudy/s2"
    assert any(path.startswith("/dicom-web/studies/1.2.2/instances") for path in pacs.paths())


def test_when_the_archive_does_not_say_what_a_study_holds_the_others_are_still_read(fhir_client: FhirClient) -> None:
    def silent(seen: Seen) -> Mood:
        return reply({}, 500) if "includefield" in seen.path else archive(seen)

    with (
        Moody(ehr({**RECORD, "studies": bundle(study(1), study(2, day=2, listed=False))})) as server,
        Moody(silent) as p,
    ):
        evidence = gathered(fhir_client, server, p)
    assert [f.sop_uid for f in evidence.dicom] == ["1.2.1.1.1"]
    assert evidence.shortfalls == (Shortfall("films", "error"),)


@pytest.mark.parametrize("how", ["reference", "contained", "included", "series"])
def test_a_study_is_read_from_the_registered_archive_its_endpoint_names(fhir_client: FhirClient, how: str) -> None:
    with Moody(archive) as first, Moody(archive) as second, Moody(always(hang)) as server:
        there: dict[str, Any] = {
            "resourceType": "Endpoint",
            "id": "pacs2",
            "status": "active",
            "connectionType": {
                "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
                "code": "dicom-wado-rs",
            },
            "address": f"{second.origin}/dicom-web",
        }
        named = study(1)
        if how == "series":
            named["series"][0]["endpoint"] = [{"reference": "Endpoint/pacs2"}]
        else:
            named["endpoint"] = [{"reference": "#pacs2" if how == "contained" else "Endpoint/pacs2"}]
        if how == "contained":
            named["contained"] = [there]
        studies = bundle(named, there) if how == "included" else bundle(named)
        record = ehr({**RECORD, "studies": studies})
        server.answer = lambda seen: reply(there) if seen.path == "/fhir/Endpoint/pacs2" else record(seen)
        evidence = gathered(fhir_client, server, first, second)
        assert [f.sop_uid for f in evidence.dicom] == ["1.2.1.1.1"]
        assert first.contacts == 0
        assert server.paths().count("/fhir/Endpoint/pacs2") == (1 if how in ("reference", "series") else 0)


@pytest.mark.parametrize("how", ["reference", "contained", "included", "address"])
@pytest.mark.parametrize("sent", [True, False])
def test_an_archive_that_is_not_registered_is_not_contacted(
    fhir_client: FhirClient, pacs: Moody, how: str, sent: bool
) -> None:
    with Moody(archive, host="127.0.0.2") as elsewhere, Moody(archive) as second, Moody(always(hang)) as server:
        address = f"{elsewhere.origin}/dicom-web"
        there = {"resourceType": "Endpoint", "id": "evil", "status": "active", "address": address}
        reference = {"contained": "#evil", "address": address}.get(how, "Endpoint/evil")
        named = study(1, endpoint=[{"reference": reference}], contained=[there] if how == "contained" else [])
        record = {**RECORD, "studies": bundle(named, there) if how == "included" else bundle(named)}
        answer = ehr(record)
        server.answer = lambda seen: reply(there) if seen.path == "/fhir/Endpoint/evil" else answer(seen)
        evidence = gathered(fhir_client, server, pacs, second, prefetch=record if sent else None)
        assert [f.sop_uid for f in evidence.dicom] == ["1.2.1.1.1"]
        assert elsewhere.contacts == second.contacts == 0


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
