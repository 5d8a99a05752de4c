"""The demo EHR's FHIR endpoint and archive, on a real socket."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from demo_server import demo_only, served
from fhir.resources.R4B import get_fhir_model_class
from PIL import Image

from cds_service.demo.fire import fill
from cds_service.demo.store import Store
from cds_service.manifest import load_services
from fhir_mappers.cohort.scenarios import demo_patients

ROOT = Path(__file__).resolve().parents[2]
OLD_AND_NEW = 2


@pytest.fixture(scope="module")
def ehr() -> Iterator[str]:
    with served(demo_only()) as base:
        yield base


def search(base: str, query: str, **headers: str) -> dict[str, Any]:
    answer = requests.get(f"{base}/demo/fhir/{query}", headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/fhir+json"
    bundle: dict[str, Any] = answer.json()
    return bundle


def resources(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle.get("entry", [])]


# ----------------------------------------------------------------------------------------------------------- FHIR


def test_a_search_by_patient_and_code_finds_that_and_nothing_else(ehr: str) -> None:
    codes = "http://loinc.org|2160-0,http://loinc.org|14682-9"
    found = resources(search(ehr, f"Observation?patient=demo-alder&code={codes}"))
    assert [r["valueQuantity"]["value"] for r in found if r["code"]["coding"][0]["code"] == "2160-0"]
    assert {r["subject"]["reference"] for r in found} == {"Patient/demo-alder"}
    assert {r["code"]["coding"][0]["code"] for r in found} == {"2160-0"}
    assert len(found) == OLD_AND_NEW
    assert resources(search(ehr, f"Observation?subject=Patient/demo-alder&code={codes}")) == found
    assert search(ehr, f"Observation?patient=nobody&code={codes}")["total"] == 0
    assert search(ehr, "Observation?patient=demo-alder&code=http://other.org|2160-0")["total"] == 0


def test_newest_first_means_newest_first(ehr: str) -> None:
    times = [r["effectiveDateTime"] for r in resources(search(ehr, "Observation?patient=demo-oak&_sort=-date"))]
    assert len(set(times)) > 2
    assert times == sorted(times, reverse=True)
    films = [r["started"] for r in resources(search(ehr, "ImagingStudy?patient=demo-oak&_sort=started"))]
    assert films == sorted(films)


def test_pages_linked_by_next_hold_everything_once(ehr: str) -> None:
    whole = [r["id"] for r in resources(search(ehr, "Observation?patient=demo-oak&_sort=-date&_count=500"))]
    bundle, seen = search(ehr, "Observation?patient=demo-oak&_sort=-date&_count=4"), []
    for _ in range(20):
        assert bundle["total"] == len(whole)
        seen += [r["id"] for r in resources(bundle)]
        following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
        if not following:
            break
        bundle = requests.get(following[0], timeout=60).json()
    assert seen == whole
    assert len(whole) > 8


def test_status_category_and_date_narrow_a_search(ehr: str) -> None:
    assert search(ehr, "Condition?patient=demo-alder&clinical-status=active,recurrence")["total"] == 3
    assert search(ehr, "Condition?patient=demo-alder&clinical-status=resolved")["total"] == 0
    assert search(ehr, "MedicationRequest?patient=demo-alder&status=active,on-hold")["total"] == 2
    genetics = "category=http://terminology.hl7.org/CodeSystem/v2-0074|GE"
    assert search(ehr, f"Observation?patient=demo-spruce&{genetics}")["total"] == 1
    today = datetime.now(UTC).date()
    recent = f"Observation?patient=demo-alder&code=2160-0&date=ge{today - timedelta(days=1)}"
    assert search(ehr, recent)["total"] == 1
    assert search(ehr, f"Observation?patient=demo-alder&code=2160-0&date=lt{today - timedelta(days=9)}")["total"] == 0
    assert search(ehr, "Patient?_id=demo-alder,demo-birch")["total"] == 2
    assert search(ehr, "Procedure?patient=demo-alder")["total"] == 0


def test_a_posted_search_is_the_same_search(ehr: str) -> None:
    form = {"patient": "demo-oak", "category": "vital-signs", "_sort": "-date"}
    posted = requests.post(f"{ehr}/demo/fhir/Observation/_search", data=form, timeout=60).json()
    assert resources(posted) == resources(search(ehr, "Observation?patient=demo-oak&category=vital-signs&_sort=-date"))


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("Observation?patient=demo-oak&flavour=bitter", 400, "`flavour`"),
        ("Observation?patient=demo-oak&date=yesterday", 400, "`date`"),
        ("Observation?_count=many", 400, "`_count`"),
        ("Observation?_include=Observation:subject", 400, "`_include`"),
        ("Patient/nobody", 404, "no such resource"),
        ("Spaceship?patient=demo-oak", 404, "does not hold"),
        ("Patient/demo-oak/_history/2", 404, "read and search"),
        ("", 404, "read and search"),
    ],
)
def test_what_cannot_be_answered_is_an_outcome_that_names_it(ehr: str, path: str, status: int, said: str) -> None:
    answer = requests.get(f"{ehr}/demo/fhir/{path}", timeout=60)
    assert answer.status_code == status
    outcome = get_fhir_model_class("OperationOutcome").model_validate(answer.json())
    assert said in outcome.issue[0].diagnostics
    for value in ("bitter", "yesterday", "many"):
        assert value not in answer.text


def test_a_lenient_client_may_send_what_is_not_understood(ehr: str) -> None:
    bundle = search(ehr, "Observation?patient=demo-oak&flavour=bitter", Prefer="handling=lenient")
    assert bundle["total"] > 5


def test_everything_served_is_valid_r4(ehr: str) -> None:
    get_fhir_model_class("CapabilityStatement").model_validate(search(ehr, "metadata"))
    for type_ in ("Patient", "Encounter", "ImagingStudy", "DiagnosticReport", "AllergyIntolerance", "Endpoint"):
        bundle = search(ehr, f"{type_}?_count=200")
        get_fhir_model_class("Bundle").model_validate(bundle)
        assert bundle["total"] > 0, type_


def test_a_study_leads_to_the_archive_beside_it(ehr: str) -> None:
    bundle = search(ehr, "ImagingStudy?patient=demo-juniper&_include=ImagingStudy:endpoint")
    *studies, endpoint = resources(bundle)
    assert [s["endpoint"][0]["reference"] for s in studies] == [f"Endpoint/{endpoint['id']}"] * len(studies)
    assert endpoint["address"] == f"{ehr}/demo/dicomweb"
    assert [e["search"]["mode"] for e in bundle["entry"]] == ["match", "match", "include"]
    assert search(ehr, f"Endpoint?_id={endpoint['id']}")["total"] == 1


def test_every_query_of_the_services_is_one_this_ehr_understands(ehr: str) -> None:
    services = load_services(ROOT / "manifests" / "services", "research_imaging").all
    entry = requests.get(f"{ehr}/demo/patients/demo-spruce/order-entry", timeout=60).json()
    context = {"patientId": "demo-spruce", "encounterId": entry["encounterId"]}
    queries = {q for s in services for t in s.prefetch().values() if (q := fill(t, context))}
    assert len(queries) > 5
    for query in queries:
        assert requests.get(f"{ehr}/demo/fhir/{query}", timeout=60).status_code == 200, query


def test_browsers_of_other_origins_may_read(ehr: str) -> None:
    answer = requests.get(f"{ehr}/demo/fhir/Patient/demo-oak", timeout=60)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    preflight = requests.options(f"{ehr}/demo/fhir/Observation/_search", timeout=60)
    assert "content-type" in preflight.headers["Access-Control-Allow-Headers"]


def test_charts_follow_the_clock_and_pixels_stay() -> None:
    now = [datetime(2026, 3, 1, 12, 0, tzinfo=UTC)]
    store = Store(lambda: now[0])
    before = store.charts()
    now[0] += timedelta(minutes=5)
    assert store.charts() is before
    now[0] += timedelta(hours=5)
    after = store.charts()
    assert after.as_of - before.as_of == timedelta(hours=5, minutes=5)
    assert set(after.films) == set(before.films)
    now[0] -= timedelta(days=30)
    assert store.charts().as_of == now[0]


# ------------------------------------------------------------------------------------------------------- DICOMweb


def instance(base: str, patient: str, index: int = 0) -> str:
    study = resources(search(base, f"ImagingStudy?patient={patient}&_sort=-started"))[index]
    uid = study["identifier"][0]["value"].removeprefix("urn:oid:")
    series = study["series"][0]
    return f"{base}/demo/dicomweb/studies/{uid}/series/{series['uid']}/instances/{series['instance'][0]['uid']}"


def parts(answer: requests.Response) -> list[tuple[str, bytes]]:
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + answer.content)
    return [(p["Content-Type"], p.get_payload(decode=True)) for p in message.get_payload()]  # type: ignore[union-attr,misc,return-value]


def test_frames_are_the_drawn_film(ehr: str) -> None:
    accept = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
    answer = requests.get(f"{instance(ehr, 'demo-juniper')}/frames/1", headers=accept, timeout=20)
    assert answer.headers["Content-Type"].startswith("multipart/related")
    boundary = answer.headers["Content-Type"].split("boundary=")[1].encode()
    head, _, rest = answer.content.partition(b"\r\n\r\n")
    assert b"transfer-syntax=1.2.840.10008.1.2.1" in head
    frame = rest.removesuffix(b"\r\n--" + boundary + b"--\r\n")
    drawn = next(p for p in demo_patients(datetime.now(UTC)) if p.id == "demo-juniper").films[0].film.pixels
    assert np.array_equal(np.frombuffer(frame, "<u2").reshape(drawn.shape), np.rint(drawn * 4095))


def test_metadata_describes_the_frame_and_leaves_it_out(ehr: str) -> None:
    (header,) = requests.get(f"{instance(ehr, 'demo-juniper')}/metadata", timeout=60).json()
    assert header["00080060"]["Value"] == ["DX"]
    assert header["00185101"]["Value"] == ["PA"]
    assert "InlineBinary" not in header["7FE00010"]
    assert requests.head(header["7FE00010"]["BulkDataURI"], timeout=20).status_code == 200


def test_an_instance_retrieved_whole_is_a_dicom_file(ehr: str) -> None:
    ((kind, data),) = parts(requests.get(instance(ehr, "demo-maple"), timeout=20))
    assert kind.startswith("application/dicom")
    ds = pydicom.dcmread(io.BytesIO(data))
    assert (ds.PatientName, ds.Modality) == ("Demo^Maple", "DX")


def test_studies_are_found_by_patient(ehr: str) -> None:
    root = f"{ehr}/demo/dicomweb/studies"
    found = requests.get(root, params={"PatientID": "demo-juniper"}, timeout=60)
    assert found.headers["Content-Type"] == "application/dicom+json"
    assert len(found.json()) == OLD_AND_NEW
    study = found.json()[0]["0020000D"]["Value"][0]
    assert len(requests.get(f"{root}/{study}/series", timeout=60).json()) == 1
    assert len(requests.get(f"{root}/{study}/instances", timeout=60).json()) == 1
    assert requests.get(root, params={"PatientID": "nobody"}, timeout=60).status_code == 204
    assert requests.get(root, params={"Mood": "calm"}, timeout=60).status_code == 400
    assert len(requests.get(root, params={"limit": "3"}, timeout=60).json()) == 3


def test_a_film_the_chart_names_may_be_missing_from_the_archive(ehr: str) -> None:
    path = instance(ehr, "demo-sumac")
    for what in ("", "/metadata", "/frames/1", "/rendered"):
        assert requests.get(path + what, timeout=60).status_code == 404
    assert requests.get(f"{instance(ehr, 'demo-juniper')}/frames/2", timeout=60).status_code == 404


def test_a_rendered_film_is_a_picture_of_the_size_asked_for(ehr: str) -> None:
    path = f"{instance(ehr, 'demo-rowan')}/rendered"
    answer = requests.get(path, params={"viewport": "200,300"}, timeout=20)
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (200, 200)
    assert 20 < float(np.asarray(picture).mean()) < 200
    assert requests.get(path, params={"viewport": "9,9"}, timeout=60).status_code == 400
    assert requests.get(path, headers={"Accept": "application/pdf"}, timeout=60).status_code == 406
