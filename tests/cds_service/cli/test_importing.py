"""`cds-service import` against a real FHIR server and a real archive, with real and with broken Bundles."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from hannover import NOW, films_of, hannover, import_all
from real_servers import FhirServer, Orthanc, free_port, running_orthanc

from cds_service.cli.errors import CommandError
from cds_service.cli.films import FilmError, match_pictures, read_pictures
from cds_service.cli.importing import import_bundles, read_bundle

pytestmark = pytest.mark.servers

SECRET = "Zephyrine"


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    entries = [{"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/x"}} for r in resources]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


PATIENT = {"resourceType": "Patient", "id": "import-good", "birthDate": "1950-03-01", "name": [{"family": SECRET}]}


def test_every_patient_and_every_film_of_hannover_arrives(imported: Any) -> None:
    result, fhir, archive = imported
    # SOURCE.md of the data: 53 Bundles, 188 films.
    assert (result.bundles, result.films, result.filmless, result.faults) == (53, 188, 0, ())
    assert archive.instances() == 188
    assert requests.get(f"{fhir.base}/Patient?_summary=count", timeout=60).json()["total"] == 53
    assert requests.get(f"{fhir.base}/ImagingStudy?_summary=count", timeout=60).json()["total"] == 188


def test_importing_twice_adds_nothing(imported: Any, shared: Path) -> None:
    first, fhir, archive = imported
    again = import_all(shared, fhir, archive)
    assert again == first
    assert archive.instances() == 188
    assert requests.get(f"{fhir.base}/Patient?_summary=count", timeout=60).json()["total"] == 53


def test_references_between_entries_become_references_between_resources(shared: Path, fhir_server: FhirServer) -> None:
    path = sorted((shared / "data/fhir_synthea/bundles").iterdir())[0]
    result = import_bundles([path], fhir_server.base)
    assert result.faults == ()
    resources = read_bundle(path)
    patient = next(r["id"] for r in resources if r["resourceType"] == "Patient")
    of_patient = sum(r["resourceType"] == "Observation" for r in resources)
    answer = requests.get(f"{fhir_server.base}/Observation?patient={patient}&_summary=count", timeout=60).json()
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
    assert requests.get(f"{fhir_server.base}/Patient/import-good", timeout=60).json()["birthDate"] == "1950-03-01"


def test_a_patient_whose_films_do_not_agree_with_the_table_gets_no_film_at_all(
    imported: Any, shared: Path, tmp_path: Path
) -> None:
    pictures = read_pictures(shared / "data/cxr_hannover_paired")
    path = next(p for p in hannover(shared) if len(pictures[p.name.split(".")[0]]) > 2)
    resources = read_bundle(path)
    dropped = next(r for r in resources if r["resourceType"] == "ImagingStudy")
    short = write(tmp_path, "short.json", bundle(*[r for r in resources if r is not dropped]))
    with running_orthanc() as archive:
        folder = shared / "data/cxr_hannover_paired"
        result = import_bundles([short], imported[1].base, archive.dicomweb, images_folder=folder, shift_to=NOW)
        assert archive.instances() == 0
    assert len(result.faults) == 1
    assert "short.json" in result.faults[0]
    swapped = pictures[path.name.split(".")[0]][::-1]
    with pytest.raises(FilmError, match="differs from the table"):
        match_pictures(films_of(resources), swapped)


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
    imported: Any, shared: Path
) -> None:
    _, fhir, archive = imported
    images = shared / "data/cxr_hannover_paired"
    result = import_bundles(
        [hannover(shared)[0]], fhir.base, f"{archive.rest}/nowhere", images_folder=images, shift_to=NOW
    )
    assert result.resources > 0
    assert "the archive answered 404" in result.faults[0]


def test_the_token_goes_to_the_fhir_server(tmp_path: Path, fhir_server: FhirServer) -> None:
    good = write(tmp_path, "good.json", bundle(PATIENT))
    fhir_server.forget()
    import_bundles([good], fhir_server.base, token="s3cret")
    assert {r["authorization"] for r in fhir_server.requests()} == {"Bearer s3cret"}


def test_a_folder_of_films_that_is_not_one_is_named_before_anything_is_sent(
    tmp_path: Path, fhir_server: FhirServer
) -> None:
    good = write(tmp_path, "good.json", bundle(PATIENT))
    fhir_server.forget()
    anywhere = "http://127.0.0.1:1"
    with pytest.raises(CommandError, match=r"images_labs_outcomes\.csv: .*--images"):
        import_bundles([good], fhir_server.base, anywhere, images_folder=tmp_path)
    (tmp_path / "images_labs_outcomes.csv").write_text("patient_id,file\np1,a.jpg\n")
    with pytest.raises(CommandError, match="column missing"):
        import_bundles([good], fhir_server.base, anywhere, images_folder=tmp_path)
    with pytest.raises(CommandError, match="--dicom takes a folder"):
        import_bundles([good], fhir_server.base, anywhere, dicom_folder=tmp_path / "absent")
    assert fhir_server.requests() == []


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`cds-service import ...` in a process of its own."""
    start = "from cds_service.cli.main import run; run()"
    line = [sys.executable, "-c", start, "import", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_reports_what_it_loaded_and_fails_when_a_bundle_did_not_load(
    shared: Path, tmp_path: Path, fhir_server: FhirServer, orthanc: Orthanc
) -> None:
    real = sorted((shared / "data/fhir_synthea/bundles").iterdir(), key=lambda p: p.stat().st_size)[0]
    broken = write(tmp_path, "broken.json", "{")
    done = command(
        str(real), str(broken), "--fhir", fhir_server.base, "--dicomweb", orthanc.dicomweb, "--shift-to", "now"
    )
    assert done.returncode == 1
    assert f"1 Bundles, {len(read_bundle(real))} resources, 0 films" in done.stdout
    assert "broken.json: not JSON" in done.stdout.replace("\n", "")


def test_the_command_says_what_to_do_when_the_server_is_not_there(tmp_path: Path) -> None:
    good = write(tmp_path, "good.json", bundle(PATIENT))
    done = command(str(good), "--fhir", f"http://127.0.0.1:{free_port()}/fhir")
    assert done.returncode == 2
    assert "cannot be reached; start it, or check its address" in done.stderr
    assert "Traceback" not in done.stderr
