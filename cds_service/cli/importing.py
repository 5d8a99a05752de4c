"""`cds-service import`: load FHIR Bundles into a FHIR server and their films into a DICOMweb archive.

Everything is written under its own id (PUT, and STOW-RS of the same SOP instance UID), so importing twice changes
nothing. A Bundle that is broken or refused is reported and the rest goes on.
"""

from __future__ import annotations

import gzip
import json
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from pydicom import Dataset

from cds_service.cli.errors import CommandError
from cds_service.cli.films import (
    FilmError,
    Picture,
    index_dicom,
    match_pictures,
    read_film,
    read_pictures,
    store,
    wanted_instances,
    wrap,
)
from cds_service.cli.shifting import days_until, shift_resource

CHUNK = 50
"""Entries in one transaction; Medplum takes no more updates than this in one."""
FILMS_PER_REQUEST = 8
TIMEOUT_S = 60.0
# A server may insist that a reference's target is there first.
_FIRST = ("Organization", "Practitioner", "Location", "Patient", "Encounter")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")

Resource = dict[str, Any]
Progress = Callable[[int, int, str], None]
"""Called after every Bundle with how many are done, how many there are, and the name of the file."""


class BundleError(Exception):
    """One Bundle cannot be loaded; the message says why, and holds nothing of the patient."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did. `faults` names the file and what to do; `filmless` counts instances without any film."""

    bundles: int
    resources: int
    films: int
    filmless: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Films:
    """Where films are looked for: DICOM files by SOP instance UID, then pictures by patient."""

    dicom: Mapping[str, Path]
    pictures: Mapping[str, Sequence[Picture]]


def import_bundles(
    paths: Sequence[Path],
    fhir_base: str,
    dicomweb_base: str | None = None,
    *,
    images_folder: Path | None = None,
    dicom_folder: Path | None = None,
    shift_to: datetime | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Load Bundles (`.json`, `.json.gz`, or folders of them), one patient each.

    dicomweb_base   DICOMweb root that films go to; without it no film is looked for
    dicom_folder    DICOM files, found by the SOP instance UIDs the ImagingStudies name
    images_folder   pictures and their table `images_labs_outcomes.csv`: a film without a DICOM file is wrapped
                    into one, under the UIDs of the Bundle
    shift_to        every date of a Bundle and of its films, birth date too, moves by the same whole number of
                    days, so that its newest item lies within the 24 hours before this moment
    token           bearer token for the FHIR server; the archive never sees it

    Raises CommandError when there is nothing to load, a folder is wrong, or a server cannot be reached.
    """
    files = list(bundle_files(paths))
    if not files:
        raise CommandError("no Bundle to import: give .json or .json.gz files, or folders that hold them")
    try:
        films = Films(
            index_dicom(dicom_folder) if dicom_folder and dicomweb_base else {},
            read_pictures(images_folder) if images_folder and dicomweb_base else {},
        )
    except FilmError as error:
        raise CommandError(str(error)) from None
    fhir, archive = requests.Session(), requests.Session()
    if token:
        fhir.headers["Authorization"] = f"Bearer {token}"
    if shift_to is not None and shift_to.tzinfo is None:
        shift_to = shift_to.astimezone()
    faults: list[str] = []
    done = resources = stored = filmless = 0
    with fhir, archive:
        for place, path in enumerate(files, 1):
            try:
                loaded = read_bundle(path)
                days = days_until(loaded, shift_to) if shift_to else 0
                shifted = [shift_resource(resource, days) for resource in loaded] if days else loaded
                with _reaching(fhir_base):
                    put_resources(fhir, fhir_base.rstrip("/"), shifted)
                resources += len(shifted)
                if dicomweb_base:
                    found, missing = films_of(shifted, films, days)
                    with _reaching(dicomweb_base):
                        for start in range(0, len(found), FILMS_PER_REQUEST):
                            store(archive, dicomweb_base.rstrip("/"), found[start : start + FILMS_PER_REQUEST])
                    stored += len(found)
                    filmless += missing
                done += 1
            except (BundleError, FilmError) as error:
                faults.append(f"{path}: {error}")
            if progress:
                progress(place, len(files), path.name)
    return Imported(done, resources, stored, filmless, tuple(faults))


@contextmanager
def _reaching(server: str) -> Iterator[None]:
    try:
        yield
    except requests.RequestException:
        raise CommandError(f"{server} cannot be reached; start it, or check its address") from None


def bundle_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files named, and those in the folders named, by name. Raises CommandError for one that is not there."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.name.endswith((".json", ".json.gz")))
        elif path.is_file():
            yield path
        else:
            raise CommandError(f"{path}: no such file or folder")


def read_bundle(path: Path) -> list[Resource]:
    """The resources of a transaction Bundle, each with an id, references between them resolved to `Type/id`.

    Raises BundleError for what is not such a Bundle.
    """
    try:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = gzip.decompress(content)
        bundle = json.loads(content)
    except OSError:
        raise BundleError("cannot be read: not gzip, or damaged") from None
    except (EOFError, zlib.error, ValueError):
        raise BundleError("not JSON, or cut off; fetch the file again") from None
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        raise BundleError("not a Bundle; give a FHIR R4 transaction, batch or collection Bundle")
    entries = bundle.get("entry")
    if not isinstance(entries, list) or not entries:
        raise BundleError("a Bundle without entries")
    resources, names = [], {}
    for place, entry in enumerate(entries):
        resource = _entry_resource(entry, place)
        resources.append(resource)
        if isinstance(entry.get("fullUrl"), str):
            names[entry["fullUrl"]] = f"{resource['resourceType']}/{resource['id']}"
    return [_resolve(resource, names) for resource in resources]


def _entry_resource(entry: Any, place: int) -> Resource:
    where = f"entry[{place}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("resource"), dict):
        raise BundleError(f"{where} holds no resource")
    request = entry.get("request")
    if isinstance(request, dict) and request.get("method") not in ("PUT", "POST"):
        raise BundleError(f"{where}.request.method is not PUT or POST; only resources to write are imported")
    resource: Resource = entry["resource"]
    kind = resource.get("resourceType")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise BundleError(f"{where}.resource has no resourceType")
    id_ = resource.get("id")
    if id_ is None and str(entry.get("fullUrl", "")).startswith("urn:uuid:"):
        id_ = str(entry["fullUrl"]).removeprefix("urn:uuid:")
    if id_ is None:
        # The same content gets the same id, so that a second import makes no second copy.
        id_ = str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(resource, sort_keys=True)))
    if not isinstance(id_, str) or not _ID.fullmatch(id_):
        raise BundleError(f"{where}.resource.id is not a FHIR id (letters, digits, '-' and '.', at most 64)")
    return {**resource, "id": id_}


def _resolve(value: Any, names: Mapping[str, str], key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _resolve(member, names, name) for name, member in value.items()}
    if isinstance(value, list):
        return [_resolve(member, names, key) for member in value]
    if key == "reference" and isinstance(value, str):
        if value.startswith("urn:uuid:") and value not in names:
            raise BundleError("a reference names a urn:uuid that no entry has")
        return names.get(value, value)
    return value


def put_resources(session: requests.Session, base: str, resources: Sequence[Resource]) -> None:
    """Write resources in transactions of at most CHUNK entries. Raises BundleError when the server refuses one."""
    rank = {kind: place for place, kind in enumerate(_FIRST)}
    ordered = sorted(resources, key=lambda r: rank.get(r["resourceType"], len(rank)))
    for start in range(0, len(ordered), CHUNK):
        chunk = ordered[start : start + CHUNK]
        body = {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [
                {"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in chunk
            ],
        }
        answer = session.post(
            base,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"},
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )
        if answer.status_code != 200:
            places = f"{start + 1} to {start + len(chunk)} of {len(ordered)} resources"
            raise BundleError(f"the FHIR server answered {answer.status_code} to {places}{_reason(answer)}")


def _reason(answer: requests.Response) -> str:
    """The codes and paths of an OperationOutcome; its texts may quote the patient and are left out."""
    try:
        issues = answer.json()["issue"]
        said = {f"{i.get('code', '?')} {' '.join(i.get('expression', []))}".strip() for i in issues}
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f" ({'; '.join(sorted(said))})"


def films_of(resources: Sequence[Resource], films: Films, days: int) -> tuple[list[Dataset], int]:
    """The films of a patient, dated as the (already moved) ImagingStudies, and how many instances have none."""
    wanted = [w for r in resources if r["resourceType"] == "ImagingStudy" for w in wanted_instances(r)]
    patient = next((r for r in resources if r["resourceType"] == "Patient"), {})
    values = [str(i.get("value", "")) for i in patient.get("identifier", []) if isinstance(i, dict)]
    name = next((v for v in values if _picture_key(v) in films.pictures), "")
    pictures = films.pictures.get(_picture_key(name), ())
    matched = match_pictures(wanted, pictures) if pictures else {}
    sex = {"male": "M", "female": "F", "other": "O"}.get(patient.get("gender", ""), "")
    found: list[Dataset] = []
    for film in wanted:
        if film.sop_uid in films.dicom:
            found.append(read_film(films.dicom[film.sop_uid], days))
        elif film.sop_uid in matched:
            found.append(wrap(matched[film.sop_uid].path, film, name, sex))
    return found, len(wanted) - len(found)


def _picture_key(identifier: str) -> str:
    """The table of pictures writes `042f06a9`, the Bundle's identifier `MHH-042f06a9`."""
    return identifier.rpartition("-")[2]
