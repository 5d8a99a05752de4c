"""Names of what a report becomes: the same film, models and words give the same ids, so nothing is written twice."""

from __future__ import annotations

import uuid

from fhir_mappers.report.statements import FilmReport
from fhir_mappers.report.text import write_report

_NAMESPACE = uuid.UUID("8e1c6f0e-5f0e-5b8c-9d1f-3c1b5a3f7a10")


def name_of(report: FilmReport, part: str = "report") -> uuid.UUID:
    """The UUID (version 5) of one part of a report: `report`, `sr`, `seg`, a finding."""
    reading = report.reading.digest if report.reading is not None else ""
    prior = report.prior.sop_uid if report.prior is not None else ""
    said = (report.film.sop_uid, prior, report.model, report.digest, reading, write_report(report).text(), part)
    return uuid.uuid5(_NAMESPACE, "\n".join(said))


def uid_of(report: FilmReport, part: str) -> str:
    """The same as a DICOM UID (PS3.5 B.2: 2.25 and the UUID as a decimal)."""
    return f"2.25.{name_of(report, part).int}"


def device_uuid(report: FilmReport) -> uuid.UUID:
    """The model and its weights: the same for every report they make."""
    return uuid.uuid5(_NAMESPACE, f"device\n{report.model}\n{report.digest}")
