"""Every variant of the real films, read through Orthanc over DICOMweb and decoded here, against the file itself."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image as Picture
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ExplicitVRBigEndian, generate_uid
from real_servers import Orthanc

from cds_service import dicomweb
from cds_service.cli.films import store
from cds_service.deadline import Deadline
from cds_service.evidence import DicomFile, Frame
from cds_service.fhir_client import FhirClient, Reads
from cds_service.films.seek import OfPatient
from cds_service.prefetch import Failed
from cds_service.trust.clients import FhirServer
from fhir_mappers.imaging import as_rendered, decode_film, read_dicom_file
from fhir_mappers.record import Image, Instance, Source, Study

pytestmark = pytest.mark.servers

STARTED = datetime(2020, 7, 25, 8, tzinfo=UTC)
# SOURCE.md of the data names the eight variants.
VARIANTS = ("explicit", "implicit", "deflated", "rle", "jpeg", "j2k_lossless", "jpegls_lossless", "mono1_12bit")
REFERENCE = "ImagingStudy/test"


def rows(shared: Path) -> list[dict[str, str]]:
    with (shared / "data/dicom/hannover_derived/manifest.csv").open() as file:
        return list(csv.DictReader(file))


def send(orthanc: Orthanc, *films: Dataset) -> None:
    with requests.Session() as session:
        store(session, orthanc.dicomweb, films)


def through(orthanc: Orthanc, film: Dataset) -> Image:
    """What the service itself would see of a film: metadata and frame over DICOMweb, then our decoder."""
    image = Instance(film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID, film.SOPClassUID, "CR", 1)
    study = Study(image.study_uid, STARTED, frozenset({"CR"}), "XR Chest", ("Chest",), (image,), (), Source(REFERENCE))
    client = FhirClient()
    try:
        reads = Reads(client, FhirServer("http://127.0.0.1:1/fhir", (orthanc.dicomweb,)), None)
        deadline = Deadline.after(10)
        metadata = reads.metadata(study, image, deadline).result(10)
        frame = reads.frame(study, image, deadline).result(10)
    finally:
        client.close()
    assert not isinstance(metadata, Failed), metadata.reason
    assert isinstance(frame, Frame), frame
    uids = image.study_uid, image.series_uid, image.sop_uid
    decoded = decode_film(DicomFile(*uids, metadata, frame.data, frame.transfer_syntax, REFERENCE), STARTED)
    assert isinstance(decoded, Image), decoded
    return decoded


def from_file(data: bytes) -> Image:
    decoded = decode_film(read_dicom_file(data, REFERENCE), STARTED)
    assert isinstance(decoded, Image), decoded
    return decoded


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_film_read_through_the_archive_equals_the_file_read_directly(
    shared: Path, orthanc: Orthanc, variant: str
) -> None:
    films = [row for row in rows(shared) if row["mode"] == variant]
    assert len(films) == 3
    for row in films:
        path = shared / "data/dicom/hannover_derived" / row["file"]
        send(orthanc, dcmread(path))
        remote, local = through(orthanc, dcmread(path)), from_file(path.read_bytes())
        assert np.array_equal(remote.pixels, local.pixels), row["file"]
        assert (remote.view, remote.sop_uid) == (local.view, row["sop_instance_uid"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_decoded_film_shows_the_picture_it_was_made_from_bright_for_dense(shared: Path, variant: str) -> None:
    row = next(row for row in rows(shared) if row["mode"] == variant)
    film = from_file((shared / "data/dicom/hannover_derived" / row["file"]).read_bytes())
    with Picture.open(shared / "data/cxr_hannover_paired/images" / f"{row['image_id']}.jpg") as picture:
        grey = np.asarray(picture.convert("L"), dtype=np.float64)
    assert film.pixels.shape == grey.shape
    # MONOCHROME1 read without its inversion would give -1.
    assert np.corrcoef(film.pixels.ravel(), grey.ravel())[0, 1] > 0.99


def test_a_film_that_orthanc_renders_shows_what_the_file_shows_and_is_said_to_be_rendered(
    shared: Path, orthanc: Orthanc
) -> None:
    row = next(row for row in rows(shared) if row["mode"] == "mono1_12bit")
    data = (shared / "data/dicom/hannover_derived" / row["file"]).read_bytes()
    film = dcmread(BytesIO(data))
    send(orthanc, film)
    path = f"studies/{film.StudyInstanceUID}/series/{film.SeriesInstanceUID}/instances/{film.SOPInstanceUID}"
    url = f"{orthanc.dicomweb}/{path}/frames/1/rendered"
    answer = requests.get(url, headers={"Accept": dicomweb.RENDERED}, timeout=60)
    frame = dicomweb.read_rendered(answer.headers["Content-Type"], answer.content)
    metadata = as_rendered(read_dicom_file(data, REFERENCE).metadata, frame.data)
    uids = film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID
    file = DicomFile(*uids, metadata, frame.data, frame.transfer_syntax, REFERENCE, rendered=frame.rendered)
    shown, stored = decode_film(file, STARTED), from_file(data)
    assert isinstance(shown, Image), shown
    assert shown.rendered
    assert not stored.rendered
    assert shown.pixels.shape == stored.pixels.shape
    assert np.corrcoef(shown.pixels.ravel(), stored.pixels.ravel())[0, 1] > 0.99


def test_a_big_endian_film_which_orthanc_cannot_send_as_stored_arrives_all_the_same(
    shared: Path, orthanc: Orthanc
) -> None:
    row = next(row for row in rows(shared) if row["mode"] == "mono1_12bit")
    film = dcmread(shared / "data/dicom/hannover_derived" / row["file"])
    little = from_file(as_bytes(film)).pixels
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    film.PixelData = np.frombuffer(film.PixelData, "<u2").astype(">u2").tobytes()
    film.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    big = dcmread(BytesIO(as_bytes(film, implicit_vr=False, little_endian=False)))
    send(orthanc, big)
    assert np.array_equal(through(orthanc, big).pixels, little)


def as_bytes(film: Dataset, **encoding: Any) -> bytes:
    out = BytesIO()
    dcmwrite(out, film, enforce_file_format=True, **encoding)
    return out.getvalue()


def test_orthanc_finds_a_study_by_its_patient_issuer_and_day(shared: Path, orthanc: Orthanc) -> None:
    film = dcmread(shared / "data/dicom/hannover_derived/27a70642_explicit.dcm")
    film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID = (generate_uid() for _ in range(3))
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    film.PatientID, film.IssuerOfPatientID, film.StudyDate, film.StudyTime = "MRN7", "WARD", "20200725", "080012"
    send(orthanc, film)

    def found(issuer: str, number: str, day: str = "20200725") -> Any:
        issuers = {orthanc.dicomweb: {"urn:oid:1.2": issuer}}
        server = FhirServer("http://127.0.0.1:1/fhir", (orthanc.dicomweb,), patient_ids=issuers)
        wanted = OfPatient((("urn:oid:1.2", number),), day, "0800")
        return Reads(client, server, None).find(wanted, Deadline.after(30)).result(30)

    client = FhirClient()
    try:
        this = (film.StudyInstanceUID, "MRN7", "0800")
        assert found("WARD", "MRN7") == (this,)
        assert found("", "MRN7") == (this,)
        assert found("ELSEWHERE", "MRN7") == found("WARD", "MRN8") == found("WARD", "MRN7", "20200726") == ()
    finally:
        client.close()
