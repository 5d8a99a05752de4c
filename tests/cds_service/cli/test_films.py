"""Which picture is which film, and what a picture becomes in the archive."""

from __future__ import annotations

import csv
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import requests
from hannover import NOW, films_of, hannover, matched
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGLSLossless
from real_servers import Orthanc

from cds_service.cli.films import FilmError, index_dicom, read_pictures, wanted_instances, wrap
from cds_service.cli.importing import import_bundles, read_bundle

pytestmark = pytest.mark.servers


def pixels_at(orthanc: Orthanc, sop_uid: str) -> Dataset:
    """The object as the archive holds it, found by its SOP instance UID through Orthanc's own interface."""
    (found,) = requests.post(f"{orthanc.rest}/tools/lookup", data=sop_uid, timeout=60).json()
    return dcmread(BytesIO(requests.get(f"{orthanc.rest}/instances/{found['ID']}/file", timeout=60).content))


def decoded(film: Dataset) -> Any:
    if film.file_meta.TransferSyntaxUID == JPEGLSLossless:  # pydicom needs a plugin for this one
        return imagecodecs.jpegls_decode(next(generate_frames(film.PixelData, number_of_frames=1)))
    return film.pixel_array


def test_each_picture_belongs_to_exactly_one_film_and_the_published_dicom_files_agree(shared: Path) -> None:
    pictures = read_pictures(shared / "data/cxr_hannover_paired")
    image_of = {sop: p.path.stem for path in hannover(shared) for sop, p in matched(path, pictures).items()}
    assert len(image_of) == 188
    assert len(set(image_of.values())) == 188
    with (shared / "data/dicom/hannover_derived/manifest.csv").open() as file:
        truth = {row["sop_instance_uid"]: row["image_id"] for row in csv.DictReader(file)}
    assert len(truth) == 24
    assert {sop: image_of[sop] for sop in truth} == truth


def test_two_films_of_one_day_are_told_apart_as_their_laboratory_values_say(shared: Path) -> None:
    # The Bundle lists each film's laboratory values behind it, and the table of pictures has them in the film's row.
    pictures = read_pictures(shared / "data/cxr_hannover_paired")
    values: dict[str, Counter[float]] = {}
    with (shared / "data/cxr_hannover_paired/images_labs_outcomes.csv").open() as file:
        for row in csv.DictReader(file):
            values[row["image_id"]] = Counter(abs(float(v)) for k, v in row.items() if k.endswith("_val") and v)
    same_day = 0
    for path in hannover(shared):
        picture_of = matched(path, pictures)
        image, started = "", ""
        for resource in read_bundle(path):
            if resource["resourceType"] == "ImagingStudy":
                same_day += resource["started"] == started
                started = resource["started"]
                image = picture_of[resource["series"][0]["instance"][0]["uid"]].path.stem
            elif resource["resourceType"] == "Observation" and "comparator" not in resource.get("valueQuantity", {}):
                value = resource.get("valueQuantity", {}).get("value")
                assert value is None or values[image][float(value)] > 0, f"{path.name}: {value} is not of {image}"
    assert same_day == 21  # counted with the table: rows of one patient and one day, less the first


def test_a_wrapped_film_shows_what_the_published_dicom_file_of_the_same_uid_shows(shared: Path) -> None:
    pictures = read_pictures(shared / "data/cxr_hannover_paired")
    folder = shared / "data/dicom/hannover_derived"
    with (folder / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] != "mono1_12bit"]  # that one's grey scale was remade
    for row in rows:
        path = shared / "data/fhir_hannover/bundles" / f"{row['patient_id']}.json.gz"
        sop = row["sop_instance_uid"]
        film = next(w for w in films_of(read_bundle(path)) if w.sop_uid == sop)
        wrapped = wrap(matched(path, pictures)[sop].path, film, "X", "M")
        published = dcmread(folder / row["file"])
        difference = wrapped.pixel_array.astype(int) - decoded(published).astype(int)
        # Grey levels of 255; the published JPEG variant was compressed once more. Another film is off by tens.
        assert np.abs(difference).mean() < (2.5 if row["mode"] == "jpeg" else 1.0), row["file"]
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "ViewPosition", "StudyDate"):
            assert wrapped[name].value == published[name].value, (row["file"], name)


def test_a_wrapped_film_in_the_archive_is_the_picture_bit_for_bit_and_says_it_is_lossy(
    imported: Any, shared: Path
) -> None:
    _, _, archive = imported
    pictures = read_pictures(shared / "data/cxr_hannover_paired")
    with (shared / "data/dicom/hannover_derived/manifest.csv").open() as file:
        published = {row["sop_instance_uid"] for row in csv.DictReader(file)}
    everything = {sop: p for path in hannover(shared)[:12] for sop, p in matched(path, pictures).items()}
    wrapped = sorted(set(everything) - published)[:5]
    assert len(wrapped) == 5
    for sop in wrapped:
        film = pixels_at(archive, sop)
        with Image.open(everything[sop].path) as picture:
            assert np.array_equal(film.pixel_array, np.asarray(picture.convert("L")))
        assert (film.LossyImageCompression, film.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
        assert film.ViewPosition == everything[sop].view
        assert "PixelSpacing" not in film


def test_study_dates_agree_between_the_server_and_the_archive_after_a_shift(imported: Any) -> None:
    _, fhir, archive = imported
    entries = requests.get(f"{fhir.base}/ImagingStudy?_count=1000", timeout=60).json()["entry"]
    for resource in [entry["resource"] for entry in entries][::8]:
        film = pixels_at(archive, resource["series"][0]["instance"][0]["uid"])
        assert film.StudyDate == film.ContentDate == resource["started"][:10].replace("-", "")
        assert film.StudyTime[:6] == resource["started"][11:19].replace(":", "")


def test_an_instance_without_any_film_is_counted_and_not_invented(imported: Any, shared: Path) -> None:
    _, fhir, archive = imported
    path = hannover(shared)[0]
    wanted = len(films_of(read_bundle(path)))
    result = import_bundles([path], fhir.base, archive.dicomweb, shift_to=NOW)
    assert (result.films, result.filmless, archive.instances()) == (0, wanted, 188)


@contextmanager
def archive_that_says(status: int, body: object) -> Iterator[str]:
    """A DICOMweb root that answers every STOW-RS request alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        # PS3.18 10.5.3: 202 with the instances that failed; some archives say 200 all the same.
        (202, {"00081198": {"vr": "SQ", "Value": [{}]}}, "answered 202"),
        (200, {"00081198": {"vr": "SQ", "Value": [{}]}}, "refused 1 of"),
        (507, {}, "answered 507"),
    ],
)
def test_a_film_the_archive_refuses_is_a_fault_of_its_file(
    imported: Any, shared: Path, status: int, body: object, words: str
) -> None:
    images = shared / "data/cxr_hannover_paired"
    with archive_that_says(status, body) as dicomweb:
        result = import_bundles([hannover(shared)[0]], imported[1].base, dicomweb, images_folder=images, shift_to=NOW)
    assert result.films == 0
    assert words in result.faults[0]


def test_a_picture_that_is_no_grey_jpeg_is_stored_uncompressed(shared: Path, tmp_path: Path) -> None:
    film = films_of(read_bundle(hannover(shared)[0]))[0]
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7  # an odd number of bytes, which DICOM pads
    Image.fromarray(grey).save(tmp_path / "a.png")
    wrapped = wrap(tmp_path / "a.png", film, "X", "F")
    out = BytesIO()
    dcmwrite(out, wrapped, enforce_file_format=True)
    again = dcmread(BytesIO(out.getvalue()))
    assert np.array_equal(again.pixel_array, grey)
    assert again.LossyImageCompression == "00"
    (tmp_path / "b.jpg").write_bytes(b"not a picture")
    with pytest.raises(FilmError, match=r"b\.jpg: not a picture"):
        wrap(tmp_path / "b.jpg", film, "X", "F")


def test_files_beside_the_dicom_files_are_passed_over(shared: Path, tmp_path: Path) -> None:
    source = sorted((shared / "data/dicom/hannover_derived").glob("*.dcm"))[0]
    (tmp_path / "film.dcm").write_bytes(source.read_bytes())
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "header-only.dcm").write_bytes(source.read_bytes()[:132])
    assert index_dicom(tmp_path) == {
        str(dcmread(source, stop_before_pixels=True).SOPInstanceUID): tmp_path / "film.dcm"
    }


def test_an_imaging_study_without_what_a_film_needs_is_a_fault(imported: Any, shared: Path, tmp_path: Path) -> None:
    resources = read_bundle(hannover(shared)[0])
    study = next(r for r in resources if r["resourceType"] == "ImagingStudy")
    with pytest.raises(FilmError, match="lacks its UID, start"):
        list(wanted_instances({**study, "started": "sometime"}))
    with pytest.raises(FilmError, match="lacks its UID, start"):
        list(wanted_instances({**study, "identifier": []}))
