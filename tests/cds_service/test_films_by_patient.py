"""Studies that name neither UID nor a number an archive knows: looked for by patient and day, and never another's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from moody import Mood, Moody, Seen, reply
from patient_p1 import PATIENT, RECORD, archive, ehr, gathered, study
from reading import bundle

from cds_service.fhir_client import FhirClient
from cds_service.trust.clients import Client, FhirServer

SYSTEM = "urn:oid:1.2.36.146.595.217.0.1"
KNOWN = {**PATIENT, "identifier": [{"system": SYSTEM, "value": "MRN 1"}, {"system": "urn:oid:9.9", "value": "OTHER-1"}]}
ASKED = (
    "/dicom-web/studies?PatientID=MRN%201&IssuerOfPatientID=GENERAL&StudyDate=20260201"
    "&includefield=00100020&includefield=00100021&includefield=00080061"
)
MINE = {"00100020": "MRN 1", "00100021": "GENERAL", "00080020": "20260201", "00080030": "080012.5"}
NUMBER = {"type": {"coding": [{"code": "ACSN"}]}, "value": "A-17"}


def pacs_with(*studies: Mapping[str, Any]) -> Callable[[Seen], Mood]:
    """An archive that says this of every search for studies, by whatever it was asked."""

    def answer(seen: Seen) -> Mood:
        if not seen.path.startswith("/dicom-web/studies?"):
            return archive(seen)
        if "AccessionNumber" in seen.path or not studies:
            return reply(b"", 204)
        body = [
            {tag: {"vr": "LO", "Value": value if isinstance(value, list) else [value]} for tag, value in one.items()}
            for one in studies
        ]
        return reply(body, content_type="application/dicom+json")

    return answer


def films(
    client: FhirClient,
    pacs: Moody,
    patient: Mapping[str, Any] = KNOWN,
    ids: Mapping[str, str] | None = None,
    **members: Any,
) -> list[str]:
    """Study UIDs of the films read, of an ImagingStudy with these members in place of its identifier."""
    root = f"{pacs.origin}/dicom-web"
    named = {"identifier": [], **members}
    with Moody(ehr({**RECORD, "patient": patient, "studies": bundle(study(1, **named))})) as server:
        entry = FhirServer(server.base, (root,), patient_ids={root: dict(ids or {SYSTEM: "GENERAL"})})
        evidence = gathered(client, server, registered=Client("hospital", (entry,)))
    return [film.study_uid for film in evidence.dicom]


@pytest.mark.parametrize("identifier", [[], [NUMBER]], ids=["no number", "a number nobody knows"])
def test_a_study_without_uid_is_looked_for_by_its_patient_and_day(
    fhir_client: FhirClient, identifier: list[Mapping[str, Any]]
) -> None:
    with Moody(pacs_with({"0020000D": "1.2.1", **MINE})) as pacs:
        assert films(fhir_client, pacs, identifier=identifier) == ["1.2.1"]
        assert [path for path in pacs.paths() if "PatientID" in path] == [ASKED]


@pytest.mark.parametrize(
    "lie",
    [
        {"00100020": "MRN 2"},
        {"00100020": ""},
        {"00100020": "OTHER-1"},
        {"00100021": "ELSEWHERE"},
        {"00100021": ""},
        {"00080020": "20260202"},
        {"0020000D": "../../etc"},
        {"00080061": ["CT"]},
    ],
    ids=["another's", "nobody's", "other system", "other issuer", "no issuer", "other day", "no UID", "CT"],
)
def test_what_an_archive_answers_is_not_taken_where_it_is_not_what_was_asked_for(
    fhir_client: FhirClient, lie: Mapping[str, Any]
) -> None:
    with Moody(pacs_with({"0020000D": "1.2.1", **MINE, **lie})) as pacs:
        assert films(fhir_client, pacs) == []
        assert not any("/instances" in path for path in pacs.paths())


def test_of_several_studies_of_the_day_the_one_begun_in_the_same_minute_is_read(fhir_client: FhirClient) -> None:
    other = {"0020000D": "1.2.7", **MINE, "00080030": "163000"}
    with Moody(pacs_with(other, {"0020000D": "1.2.1", **MINE, "00080061": ["SR", "DX"]})) as pacs:
        assert films(fhir_client, pacs) == ["1.2.1"]


@pytest.mark.parametrize("minute", ["163000", "080000"], ids=["none at that minute", "two at that minute"])
def test_of_several_studies_of_the_day_none_is_read_where_it_is_not_certain_which(
    fhir_client: FhirClient, minute: str
) -> None:
    both = [{"0020000D": uid, **MINE, "00080030": minute} for uid in ("1.2.1", "1.2.7")]
    with Moody(pacs_with(*both)) as pacs:
        assert films(fhir_client, pacs) == []


def test_an_archive_of_one_issuer_is_asked_by_the_number_alone(fhir_client: FhirClient) -> None:
    said = {tag: value for tag, value in MINE.items() if tag != "00100021"}
    with Moody(pacs_with({"0020000D": "1.2.1", **said})) as pacs:
        assert films(fhir_client, pacs, ids={SYSTEM: ""}) == ["1.2.1"]
        assert not any("IssuerOfPatientID=" in path for path in pacs.paths())


@pytest.mark.parametrize(
    ("patient", "ids", "members"),
    [
        (KNOWN, {"urn:oid:5.5": "GENERAL"}, {}),
        ({**KNOWN, "identifier": [{"system": SYSTEM, "value": "MRN*"}]}, None, {}),
        ({**KNOWN, "identifier": [{"system": SYSTEM, "value": "MRN 1\\MRN 2"}]}, None, {}),
        ({**KNOWN, "identifier": [{"value": "MRN 1"}]}, None, {}),
        (PATIENT, None, {}),
        (KNOWN, None, {"started": None}),
        (KNOWN, None, {"subject": {"reference": "Patient/p2"}}),
        (KNOWN, None, {"description": "Knee", "series": []}),
    ],
    ids=["unregistered", "wildcard", "a list", "no system", "no identifier", "no time", "another's study", "a knee"],
)
def test_no_archive_is_asked_for_a_patient_it_may_know_by_other_numbers_or_for_what_holds_no_film(
    fhir_client: FhirClient, patient: Mapping[str, Any], ids: Mapping[str, str] | None, members: Mapping[str, Any]
) -> None:
    with Moody(pacs_with({"0020000D": "1.2.1", **MINE})) as pacs:
        assert films(fhir_client, pacs, patient, ids, **members) == []
        assert pacs.contacts == 0


def test_patient_ids_of_an_archive_that_is_not_registered_are_refused() -> None:
    with pytest.raises(ValueError, match=r"patient_ids names 'https://b\.example\.org', which is none of"):
        FhirServer(
            "https://a.example.org", ("https://a.example.org/dicom-web",), patient_ids={"https://b.example.org": {}}
        )
