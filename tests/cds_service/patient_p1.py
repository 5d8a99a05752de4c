"""One patient as an EHR and an archive on sockets hold her, and a service that asks for all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moody import Mood, Moody, Seen, reply
from reading import bundle, call_of, client_of, observation, soon

from cds_service.deadline import Deadline
from cds_service.evidence import Evidence, gather, plan_evidence
from cds_service.fhir_client import FhirClient
from cds_service.manifest import EvidenceItem, Service
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


SENT = ("patient", "labs", "conditions", "encounter", "studies")
