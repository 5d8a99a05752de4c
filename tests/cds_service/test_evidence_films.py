from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from moody import Mood, Moody, Seen, drip_body, hang, later, reply
from patient_p1 import (
    PATIENT,
    RECORD,
    archive,
    ehr,
    gathered,
    ids,
    service_of,
    study,
)
from reading import SLACK_S, always, bundle, timed

from cds_service.deadline import Deadline
from cds_service.evidence import Shortfall
from cds_service.fhir_client import FhirClient
from cds_service.manifest import EvidenceItem

pytestmark = pytest.mark.in_time


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


def test_the_archive_is_asked_only_about_studies_that_may_hold_a_chest_film(
    fhir_client: FhirClient, pacs: Moody
) -> None:
    ct = {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}
    scans = [
        study(n, day=n, modality=[ct], series=[{"uid": f"1.2.{n}.1", "modality": ct}], description="CT Chest")
        for n in (7, 8, 9)
    ]
    hand = study(6, day=6, description="Hand PA", series=[{"uid": "1.2.6.1", "modality": study(6)["modality"][0]}])
    with Moody(ehr({**RECORD, "studies": bundle(*scans, hand, study(2, day=2, listed=False))})) as server:
        evidence = gathered(fhir_client, server, pacs)
    assert [f.study_uid for f in evidence.dicom] == ["1.2.2"]
    assert {path.split("/")[3] for path in pacs.paths()} == {"1.2.2"}


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
        assert elsewhere.contacts == 0


ACCESSION = {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}}
KNOWN = {**PATIENT, "identifier": [{"system": "urn:oid:1.2.3", "value": "MRN-1"}]}


def by_number(number: str = "A-17", *found: tuple[str, str]) -> Callable[[Seen], Mood]:
    """An archive that knows studies, (UID, PatientID), by this accession number."""

    def answer(seen: Seen) -> Mood:
        if not seen.path.startswith("/dicom-web/studies?AccessionNumber="):
            return archive(seen)
        tags = [{"0020000D": uid, "00100020": patient, "00080050": number} for uid, patient in found]
        body = [{t: {"vr": "LO", "Value": [v]} for t, v in one.items()} for one in tags]
        return reply(body, content_type="application/dicom+json") if found else reply(b"", 204)

    return answer


@pytest.mark.parametrize(
    ("found", "films"),
    [
        ([("1.2.1", "MRN-1")], ["1.2.1.1.1"]),
        ([("1.2.1", "MRN-2")], []),
        ([("1.2.1", "")], []),
        ([("1.2.1", "MRN-1"), ("1.2.7", "MRN-1")], []),
        ([], []),
    ],
    ids=["this patient's", "another patient's", "nobody's", "two studies", "none"],
)
def test_a_study_known_by_its_accession_number_alone_is_read_only_if_the_archive_has_one_of_this_patient(
    fhir_client: FhirClient, found: list[tuple[str, str]], films: list[str]
) -> None:
    named = study(1, identifier=[{**ACCESSION, "value": "A-17"}])
    record = {**RECORD, "patient": KNOWN, "studies": bundle(named)}
    slow = ehr(record, patient=later(0.2, reply(KNOWN)))  # who the patient is comes after the studies
    with Moody(slow) as server, Moody(by_number("A-17", *found)) as pacs:
        evidence = gathered(fhir_client, server, pacs)
        searches = [path for path in pacs.paths() if "AccessionNumber" in path]
        assert searches == ["/dicom-web/studies?AccessionNumber=A-17&includefield=00100020&includefield=00080050"]
    assert [f.sop_uid for f in evidence.dicom] == films


def test_of_several_archives_the_one_that_knows_the_number_is_read_and_one_that_fails_makes_it_uncertain(
    fhir_client: FhirClient,
) -> None:
    named = study(1, identifier=[{**ACCESSION, "value": "A-17"}])
    record = {**RECORD, "patient": KNOWN, "studies": bundle(named)}
    with Moody(ehr(record)) as server, Moody(by_number()) as first, Moody(by_number("A-17", ("1.2.1", "MRN-1"))) as two:
        assert [f.sop_uid for f in gathered(fhir_client, server, first, two).dicom] == ["1.2.1.1.1"]
        first.answer = always(reply({}, 500))
        evidence = gathered(fhir_client, server, first, two)
        assert evidence.dicom == ()
        assert evidence.shortfalls == (Shortfall("films", "error"),)


@pytest.mark.parametrize("number", ["*", "A-17&PatientID=x", "A?", "", "A" * 17])
def test_a_number_that_could_match_other_studies_is_not_asked_for(fhir_client: FhirClient, number: str) -> None:
    named = study(1, identifier=[{**ACCESSION, "value": number}])
    record = {**RECORD, "patient": KNOWN, "studies": bundle(named)}
    with Moody(ehr(record)) as server, Moody(archive) as pacs:
        assert gathered(fhir_client, server, pacs).dicom == ()
        assert pacs.contacts == 0
