"""`cds-service import` against a real FHIR server and a real archive, with the Hannover data and with broken files."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGLSLossless
from real_servers import FhirServer, Orthanc, free_port, running_fhir_server, running_orthanc

from cds_service.cli.errors import CommandError
from cds_service.cli.films import FilmError, Picture, match_pictures, read_pictures, wanted_instances, wrap
from cds_service.cli.importing import Imported, import_bundles, read_bundle
from cds_service.cli.shifting import days_until, newest, shift_dicom, shift_resource

pytestmark = pytest.mark.servers

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
SECRET = "Zephyrine"


def hannover(shared: Path) -> list[Path]:
    return sorted((shared / "data/fhir_hannover/bundles").iterdir())


def films_of(resources: list[dict[str, Any]]) -> list[Any]:
    return [w for r in resources if r["resourceType"] == "ImagingStudy" for w in wanted_instances(r)]


def matched(path: Path, pictures: dict[str, list[Picture]]) -> dict[str, Picture]:
    return match_pictures(films_of(read_bundle(path)), pictures[path.name.split(".")[0]])


def pixels_at(orthanc: Orthanc, sop_uid: str) -> Dataset:
    """The object as the archive holds it, found by its SOP instance UID through Orthanc's own interface."""
    (found,) = requests.post(f"{orthanc.rest}/tools/lookup", data=sop_uid, timeout=10).json()
    return dcmread(BytesIO(requests.get(f"{orthanc.rest}/instances/{found['ID']}/file", timeout=10).content))


def decoded(film: Dataset) -> Any:
    if film.file_meta.TransferSyntaxUID == JPEGLSLossless:  # pydicom needs a plugin for this one
        return imagecodecs.jpegls_decode(next(generate_frames(film.PixelData, number_of_frames=1)))
    return film.pixel_array


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    entries = [{"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/x"}} for r in resources]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


PATIENT = {"resourceType": "Patient", "id": "import-good", "birthDate": "1950-03-01", "name": [{"family": SECRET}]}


@pytest.fixture(scope="module")
def imported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All Hannover patients in servers of their own, moved to NOW: (result, FHIR server, archive)."""
    with running_fhir_server() as fhir, running_orthanc() as archive:
        yield import_all(shared, fhir, archive), fhir, archive


def import_all(shared: Path, fhir: FhirServer, archive: Orthanc) -> Imported:
    data = shared / "data"
    return import_bundles(
        [data / "fhir_hannover/bundles"],
        fhir.base,
        archive.dicomweb,
        images_folder=data / "cxr_hannover_paired",
        dicom_folder=data / "dicom/hannover_derived",
        shift_to=NOW,
    )


def test_every_patient_and_every_film_of_hannover_arrives(imported: Any) -> None:
    result, fhir, archive = imported
    # SOURCE.md of the data: 53 Bundles, 188 films.
    assert (result.bundles, result.films, result.filmless, result.faults) == (53, 188, 0, ())
    assert archive.instances() == 188
    assert requests.get(f"{fhir.base}/Patient?_summary=count", timeout=10).json()["total"] == 53
    assert requests.get(f"{fhir.base}/ImagingStudy?_summary=count", timeout=10).json()["total"] == 188


def test_importing_twice_adds_nothing(imported: Any, shared: Path) -> None:
    first, fhir, archive = imported
    again = import_all(shared, fhir, archive)
    assert again == first
    assert archive.instances() == 188
    assert requests.get(f"{fhir.base}/Patient?_summary=count", timeout=10).json()["total"] == 53


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
    entries = requests.get(f"{fhir.base}/ImagingStudy?_count=1000", timeout=10).json()["entry"]
    for resource in [entry["resource"] for entry in entries][::8]:
        film = pixels_at(archive, resource["series"][0]["instance"][0]["uid"])
        assert film.StudyDate == film.ContentDate == resource["started"][:10].replace("-", "")
        assert film.StudyTime[:6] == resource["started"][11:19].replace(":", "")


@pytest.mark.parametrize("source", ["fhir_hannover", "fhir_mimic3_demo", "fhir_synthea"])
def test_a_shifted_patients_newest_item_lies_in_the_last_day_and_no_interval_changes(shared: Path, source: str) -> None:
    for path in sorted((shared / "data" / source / "bundles").iterdir())[:6]:
        before = read_bundle(path)
        days = days_until(before, NOW)
        after = [shift_resource(resource, days) for resource in before]
        last = newest(after)
        assert last is not None
        assert timedelta(0) <= NOW - last < timedelta(days=1)
        assert dates(after) == [moment + timedelta(days=days) for moment in dates(before)]
        assert [shift_resource(resource, -days) for resource in after] == before


def dates(resources: list[dict[str, Any]]) -> list[datetime]:
    """Dates by FHIR path, independent of how the import finds them."""
    found = []
    for r in resources:
        for text in (r.get("effectiveDateTime"), r.get("started"), r.get("authoredOn"), r.get("birthDate")):
            if text:
                found.append(datetime.fromisoformat(text).replace(tzinfo=UTC))
        found.extend(datetime.fromisoformat(v).replace(tzinfo=UTC) for v in r.get("period", {}).values())
    return found


def test_a_text_and_a_postal_code_that_look_like_dates_stay() -> None:
    resource = {
        "resourceType": "Patient",
        "birthDate": "1950-03-01",
        "address": [{"postalCode": "2020", "line": ["2020-01-01"]}],
        "identifier": [{"value": "2020-01-01", "period": {"start": "2020-01", "end": "2021"}}],
    }
    moved = shift_resource(resource, 40)
    assert moved["address"] == resource["address"]
    assert moved["identifier"][0]["value"] == "2020-01-01"
    # 1 January 2020 + 40 days = 10 February; 1 January 2021 + 40 days is still in 2021.
    assert moved["identifier"][0]["period"] == {"start": "2020-02", "end": "2021"}
    assert moved["birthDate"] == "1950-04-10"


@given(st.dates(), st.integers(-20_000, 20_000))
def test_dicom_dates_and_fhir_dates_move_alike(day: Any, days: int) -> None:
    dataset = Dataset()
    dataset.StudyDate = day.strftime("%Y%m%d").zfill(8)
    dataset.StudyTime = "080000"
    shift_dicom(dataset, days)
    assert dataset.StudyDate == shift_resource(day.isoformat(), days, "started").replace("-", "")
    assert dataset.StudyTime == "080000"


def test_references_between_entries_become_references_between_resources(shared: Path, fhir_server: FhirServer) -> None:
    path = sorted((shared / "data/fhir_synthea/bundles").iterdir())[0]
    result = import_bundles([path], fhir_server.base)
    assert result.faults == ()
    resources = read_bundle(path)
    patient = next(r["id"] for r in resources if r["resourceType"] == "Patient")
    of_patient = sum(r["resourceType"] == "Observation" for r in resources)
    answer = requests.get(f"{fhir_server.base}/Observation?patient={patient}&_summary=count", timeout=10).json()
    assert answer["total"] == of_patient > 0
    assert "urn:uuid" not in json.dumps([r.get("subject") or r.get("patient") for r in resources])


BROKEN: dict[str, tuple[object, str]] = {
    "not-json.json": ("{", "not JSON"),
    "not-a-bundle.json": (PATIENT, "not a Bundle"),
    "empty.json": (bundle(), "without entries"),
    "hole.json": ({"resourceType": "Bundle", "entry": [{"request": {"method": "PUT"}}]}, "entry[0] holds no resource"),
    "delete.json": (
        {"resourceType": "Bundle", "entry": [{"resource": PATIENT, "request": {"method": "DELETE"}}]},
        "entry[0].request.method",
    ),
    "bad-id.json": (bundle({**PATIENT, "id": "../Patient/other"}), "entry[0].resource.id"),
    "dangling.json": (
        bundle({**PATIENT, "id": "d", "generalPractitioner": [{"reference": "urn:uuid:nowhere"}]}),
        "urn:uuid that no entry has",
    ),
    "refused.json": (
        bundle({"resourceType": "Observation", "id": "r", "code": {"text": SECRET}}),
        "answered 400 to 1 to 1 of 1 resources",
    ),
}


def test_a_broken_bundle_is_named_with_what_is_wrong_and_the_rest_goes_on(
    tmp_path: Path, fhir_server: FhirServer
) -> None:
    for name, (content, _) in BROKEN.items():
        write(tmp_path, name, content)
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(json.dumps(bundle(PATIENT)).encode())[:-9])
    (tmp_path / "text.json.gz").write_text("not gzip")
    write(tmp_path, "zz-good.json", bundle(PATIENT))
    seen: list[tuple[int, int, str]] = []
    result = import_bundles([tmp_path], fhir_server.base, progress=lambda *step: seen.append(step))
    assert (result.bundles, result.resources) == (1, 1)
    faults = {Path(f.split(": ")[0]).name: f for f in result.faults}
    assert set(faults) == {*BROKEN, "cut.json.gz", "text.json.gz"}
    for name, (_, words) in BROKEN.items():
        assert words in faults[name]
    assert SECRET not in "".join(result.faults)
    assert seen[-1] == (11, 11, "zz-good.json")
    assert requests.get(f"{fhir_server.base}/Patient/import-good", timeout=10).json()["birthDate"] == "1950-03-01"


def test_a_patient_whose_films_do_not_agree_with_the_table_gets_no_film_at_all(
    shared: Path, tmp_path: Path, fhir_server: FhirServer
) -> None:
    pictures = read_pictures(shared / "data/cxr_hannover_paired")
    path = next(p for p in hannover(shared) if len(pictures[p.name.split(".")[0]]) > 2)
    resources = read_bundle(path)
    dropped = next(r for r in resources if r["resourceType"] == "ImagingStudy")
    short = write(tmp_path, "short.json", bundle(*[r for r in resources if r is not dropped]))
    with running_orthanc() as archive:
        folder = shared / "data/cxr_hannover_paired"
        result = import_bundles([short], fhir_server.base, archive.dicomweb, images_folder=folder)
        assert archive.instances() == 0
    assert len(result.faults) == 1
    assert "short.json" in result.faults[0]
    swapped = pictures[path.name.split(".")[0]][::-1]
    with pytest.raises(FilmError, match="differs from the table"):
        match_pictures(films_of(resources), swapped)


def test_an_instance_without_any_film_is_counted_and_not_invented(
    shared: Path, fhir_server: FhirServer, orthanc: Orthanc
) -> None:
    path = next(p for p in hannover(shared))
    wanted = len(films_of(read_bundle(path)))
    before = orthanc.instances()
    result = import_bundles([path], fhir_server.base, orthanc.dicomweb)
    assert (result.films, result.filmless, orthanc.instances()) == (0, wanted, before)


def test_a_server_that_is_not_there_is_named(tmp_path: Path, fhir_server: FhirServer) -> None:
    good = write(tmp_path, "good.json", bundle(PATIENT))
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(CommandError, match=f"{nowhere}/fhir cannot be reached"):
        import_bundles([good], f"{nowhere}/fhir")
    with pytest.raises(CommandError, match="no such file or folder"):
        import_bundles([tmp_path / "absent.json"], fhir_server.base)
    (tmp_path / "void").mkdir()
    with pytest.raises(CommandError, match="no Bundle to import"):
        import_bundles([tmp_path / "void"], fhir_server.base)


def test_a_wrong_address_of_the_archive_is_a_fault_of_the_file_and_fhir_is_loaded_all_the_same(
    shared: Path, fhir_server: FhirServer, orthanc: Orthanc
) -> None:
    path = hannover(shared)[0]
    result = import_bundles(
        [path], fhir_server.base, f"{orthanc.rest}/nowhere", images_folder=shared / "data/cxr_hannover_paired"
    )
    assert result.resources > 0
    assert "the archive answered 404" in result.faults[0]


def test_the_token_goes_to_the_fhir_server(tmp_path: Path, fhir_server: FhirServer) -> None:
    good = write(tmp_path, "good.json", bundle(PATIENT))
    fhir_server.forget()
    import_bundles([good], fhir_server.base, token="s3cret")
    assert {r["authorization"] for r in fhir_server.requests()} == {"Bearer s3cret"}
