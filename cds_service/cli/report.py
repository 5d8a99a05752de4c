"""`cds-service report`: what the model makes of a chest film in a file, as a radiologist or an archive would get it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cds_service.cli.errors import CommandError
from cds_service.settings import Settings
from fhir_mappers.dicom import Header
from fhir_mappers.imaging import BadDicom, decode_film, read_dicom_file
from fhir_mappers.record import Gap, Image, PatientRecord, Person
from fhir_mappers.report.resources import as_transaction
from fhir_mappers.report.statements import FilmReport, report_film
from fhir_mappers.report.text import write_report
from fhir_mappers.tensors import to_fusion_input
from models.backbones.manifest import accept_licences
from models.serving import Engine

TIMEOUT_S = 60.0


def report(
    film: Annotated[Path, typer.Argument(help="DICOM file of a frontal chest film.")],
    prior: Annotated[Path | None, typer.Option(help="DICOM file of an earlier one of the same patient.")] = None,
    model: Annotated[str, typer.Option(help="Model under the models folder.")] = "chest-open",
    out: Annotated[Path | None, typer.Option(help="Folder for report.json, sr.dcm and seg.dcm.")] = None,
) -> None:
    """Read a chest film, and one before it, with a model and print the report. Research use: not for diagnosis."""
    settings = Settings.from_env()
    accept_licences(settings.accepted_licences)
    folder = settings.models / model
    if not folder.is_dir():
        raise CommandError(f"no model {model!r} under {folder.parent}; `cds-service train` makes one")
    newest = _read(film)
    before = _read(prior) if prior is not None else None
    if before is not None and (before.image.at >= newest.image.at or before.person.id != newest.person.id):
        raise CommandError("--prior is not an earlier film of the same patient")
    with Engine.load(folder) as engine:
        made = _report(newest, before, engine)
    typer.echo(write_report(made).text())
    if out is not None:
        _write(made, newest.header, out)


@dataclass(frozen=True, slots=True)
class _Film:
    image: Image
    person: Person
    header: dict[str, Any]


def _read(path: Path) -> _Film:
    """A film and whose it is. Times without an offset from UTC are taken as UTC."""
    try:
        frame = read_dicom_file(path.read_bytes(), f"ImagingStudy/{path.stem}")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or 'cannot be read'}") from None
    except BadDicom as error:
        raise CommandError(f"{path}: {error}") from None
    header = Header(frame.metadata)
    image = decode_film(frame, _moment(header.text("00080020"), header.text("00080030")))
    if isinstance(image, Gap):
        raise CommandError(f"{path}: {image.code} ({image.subject}); a frontal chest film in DICOM is read here")
    born = _day(header.text("00100030"))
    sexes = {"F": "female", "M": "male"}
    sex = sexes.get(header.text("00100040"), "unknown")
    person = Person(header.text("00100020") or "unknown", sex, born, born)  # type: ignore[arg-type]
    return _Film(image, person, dict(frame.metadata))


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _moment(day: str, time: str) -> datetime | None:
    try:
        return datetime.strptime(day + (time[:6] or "000000").ljust(6, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _report(newest: _Film, before: _Film | None, engine: Engine) -> FilmReport:
    images = (newest.image, before.image) if before is not None else (newest.image,)
    record = PatientRecord(newest.person, newest.image.at, images=images)
    inputs = to_fusion_input(record, engine.spec)
    targets = tuple(name for name in engine.spec.target_names() if name.startswith("finding."))
    assessment = engine.assess(inputs, timeout=TIMEOUT_S, targets=targets or None)
    return report_film(record, assessment, newest.image, before.image if before is not None else None)


def _write(made: FilmReport, header: dict[str, Any], out: Path) -> None:
    try:
        from fhir_mappers.report.dicom import (
            NotWritable,
            make_segmentation,
            make_structured_report,
            source_of,
            to_bytes,
        )
    except ModuleNotFoundError:
        raise CommandError("--out writes DICOM: pip install 'ordersight[imaging]'") from None
    out.mkdir(parents=True, exist_ok=True)
    bundle = as_transaction(made, None, made.as_of)
    (out / "report.json").write_text(json.dumps(bundle, indent=2), encoding="utf-8")
    try:
        source = source_of(header)
        (out / "sr.dcm").write_bytes(to_bytes(make_structured_report(made, source)))
        segmentation = make_segmentation(made, source)
    except NotWritable as error:
        raise CommandError(f"no DICOM objects: {error}") from None
    if segmentation is not None:
        (out / "seg.dcm").write_bytes(to_bytes(segmentation))
