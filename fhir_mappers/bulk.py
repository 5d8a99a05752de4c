"""A site's bulk FHIR export (NDJSON, one resource a line) as cases for pretraining, through the mappers of serving.

A patient gives one record at the newest moment anything is known of, and one more for each earlier stretch of results
that the look-back of the first no longer holds. No labels: what is masked is what is learned.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from fhir_mappers import fhir
from fhir_mappers.dicom import BadDicom, FileFrame, read_dicom_file
from fhir_mappers.read import SUPPORTING, read_record
from fhir_mappers.record import PatientRecord
from fhir_mappers.sources import Case, DataSource, SourceError
from models.contract import MODALITIES, Target

SOURCE = "site"
TARGET = Target("pretraining", "No question: masked evidence is restored", MODALITIES, SOURCE)
LOOKBACK = timedelta(days=30)
MOMENTS = 6
"""Records made of one patient at most."""
STUDIES = 2
"""Films looked for: those of the newest studies, as many as a model reads."""
VALID_OF_256 = 26
"""Patients whose hash begins below this are kept apart: a tenth, the same in every run."""
_PLACE_BITS = 48
"""A line is found again by its file's number and its offset, in one 64-bit number."""


@dataclass(frozen=True, slots=True)
class BulkExport:
    """Where the lines of each patient are.

    lines       patient id -> file numbers and offsets
    supporting  resources that belong to no patient, read once
    faults      lines that are no resource of any patient or cannot be read, by file: they are left out
    """

    files: tuple[Path, ...]
    lines: Mapping[str, array[int]]
    supporting: tuple[fhir.Resource, ...]
    faults: Mapping[str, int]

    def resources(self, patient_id: str) -> Iterator[fhir.Resource]:
        for place in self.lines[patient_id]:
            with self.files[place >> _PLACE_BITS].open("rb") as file:
                file.seek(place & ((1 << _PLACE_BITS) - 1))
                yield msgspec.json.decode(file.readline())


def open_export(folder: Path) -> BulkExport:
    """Read once through every `*.ndjson` of a folder. Raises SourceError where there is no patient in it."""
    files = tuple(sorted(folder.glob("*.ndjson")))
    lines: dict[str, array[int]] = defaultdict(lambda: array("Q"))
    supporting: list[fhir.Resource] = []
    faults: dict[str, int] = defaultdict(int)
    patients: set[str] = set()
    for number, path in enumerate(files):
        offset = 0
        with path.open("rb") as file:
            for line in file:
                here, offset = offset, offset + len(line)
                if not line.strip():
                    continue
                try:
                    resource = msgspec.json.decode(line)
                except msgspec.DecodeError:
                    faults[path.name] += 1
                    continue
                owner = _owner(resource)
                if fhir.type_of(resource) in SUPPORTING:
                    supporting.append(resource)
                elif owner:
                    lines[owner].append(number << _PLACE_BITS | here)
                    if fhir.type_of(resource) == "Patient":
                        patients.add(owner)
                else:
                    faults[path.name] += 1
    if not patients:
        raise SourceError(f"{folder}: no Patient in its *.ndjson files (unpack .gz files first)")
    return BulkExport(files, {p: lines[p] for p in sorted(patients)}, tuple(supporting), dict(faults))


def _owner(resource: object) -> str:
    """The id of the patient a resource is about, empty for none."""
    if not isinstance(resource, dict):
        return ""
    if fhir.type_of(resource) == "Patient":
        return fhir.id_of(resource)
    for key in ("subject", "patient"):
        subject = resource.get(key)
        reference = subject.get("reference") if isinstance(subject, dict) else None
        if isinstance(reference, str):
            return fhir.last_segment(reference)
    return ""


def index_studies(folder: Path | None) -> dict[str, list[Path]]:
    """Study instance UID -> DICOM files below a folder; other files are passed over."""
    found: dict[str, list[Path]] = defaultdict(list)
    if folder is not None:
        if not folder.is_dir():
            raise SourceError(f"{folder}: no such folder of DICOM files")
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            try:
                header = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
            except (InvalidDicomError, OSError):
                continue
            if "StudyInstanceUID" in header:
                found[str(header.StudyInstanceUID)].append(path)
    return dict(found)


def site_source(export: BulkExport, studies: Mapping[str, list[Path]], *, until: datetime) -> DataSource:
    """The export as a source that `fhir_mappers.export.export` can write; nothing dated after `until` is in it."""
    return DataSource(
        name=SOURCE,
        folder="",
        tier="credentialed",
        title="Bulk FHIR export of this site",
        licence="The site's own: not to be handed on",
        attribution="",
        url="",
        ages=(0, None),
        modalities=MODALITIES,
        targets=lambda _: (TARGET,),
        read=lambda _: _cases(export, studies, until),
        skim=lambda _: _cases(export, {}, until),
        notes="For pretraining only: it has no labels.",
    )


def _cases(export: BulkExport, studies: Mapping[str, list[Path]], until: datetime) -> Iterator[Case]:
    for patient_id in export.lines:
        resources = (*export.resources(patient_id), *export.supporting)
        whole = read_record(resources, as_of=until, patient_id=patient_id)
        for moment in moments(whole):
            frames = _frames(whole, studies, moment)
            record = read_record(resources, frames, as_of=moment, patient_id=patient_id)
            yield Case(record, {}, patient_id, _split(patient_id))


def moments(record: PatientRecord) -> list[datetime]:
    """When to look at a patient, newest first: at the newest item, then at the newest result that no look held yet."""
    dated = [x.at for x in record.labs] + [s.started for s in record.studies if s.started]
    dated += [e.start for e in record.events if e.start] + [g.at for g in record.genes if g.at]
    found: list[datetime] = []
    for at in sorted((x.at for x in record.labs), reverse=True):
        if not found:
            found.append(max(dated))
        if len(found) < MOMENTS and at < found[-1] - LOOKBACK:
            found.append(at)
    return found or ([max(dated)] if dated else [])


def _frames(record: PatientRecord, studies: Mapping[str, list[Path]], moment: datetime) -> list[FileFrame]:
    wanted = [s.uid for s in record.studies if s.uid in studies and (s.started is None or s.started <= moment)]
    frames: list[FileFrame] = []
    for uid in wanted[:STUDIES]:
        for path in studies[uid]:
            try:
                frames.append(read_dicom_file(path.read_bytes()))
            except (BadDicom, OSError):
                continue  # a film that cannot be read is one film less, as in serving
    return frames


def _split(patient_id: str) -> Literal["train", "valid"]:
    return "valid" if hashlib.sha256(patient_id.encode()).digest()[0] < VALID_OF_256 else "train"
