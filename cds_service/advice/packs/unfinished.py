"""What is still open when a patient leaves: results the laboratory owes, and studies nobody has reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from fhir_mappers import fhir
from fhir_mappers.codes import find_imaging_order, find_lab
from fhir_mappers.record import PatientRecord, Report, Source, Study

REPORT_BEFORE_STUDY = timedelta(hours=1)
"""Reports carry the time of the study or of the dictation, and clocks differ."""


@dataclass(frozen=True, slots=True)
class Open:
    """One thing that is open. `state` is what there is of it: ordered, partial, preliminary 1.6 mmol/L, no report."""

    name: str
    state: str
    at: datetime | None
    source: Source


def pending(record: PatientRecord, tests: Iterable[str], within: timedelta) -> tuple[Open, ...]:
    """Results of these analytes that are ordered or under way, and preliminary ones beyond the table's flag limits.

    An order that has a result or a final report since it was written is no longer open, whoever forgot to complete it.
    """
    wanted = frozenset(tests)
    found: dict[str, Open] = {}
    for lab in record.labs:
        if lab.preliminary and lab.extreme and lab.kind == "lab" and record.age_of(lab.at) <= within:
            found.setdefault(lab.analyte, Open(lab.name, f"preliminary, {lab.printed}", lab.at, lab.source))
    for report in record.lab_reports:
        recent = report.at is None or record.age_of(report.at) <= within
        if report.pending and report.analyte in wanted and recent and not _done(record, report.analyte, report.at):
            found.setdefault(report.analyte, Open(report.name, report.status, report.at, report.source))
    for order in record.orders:
        row = find_lab(order.codes)
        if row is None or row.analyte not in wanted or order.draft or order.authored is None:
            continue
        if record.age_of(order.authored) <= within and not _done(record, row.analyte, order.authored):
            found.setdefault(row.analyte, Open(row.name, "ordered, no result", order.authored, order.source))
    return tuple(sorted(found.values(), key=lambda o: (o.name, o.source.reference)))


def _done(record: PatientRecord, analyte: str, since: datetime | None) -> bool:
    """Whether a final result or report of this analyte is there from `since` on; without a time, any."""
    times = [x.at for x in record.labs if x.analyte == analyte and not x.preliminary]
    times += [c.at for c in record.coded if c.name == analyte and c.at is not None]
    times += [r.at for r in record.lab_reports if r.analyte == analyte and not r.pending and r.at is not None]
    return any(since is None or at >= since for at in times)


def unread(record: PatientRecord, within: timedelta) -> tuple[Open, ...]:
    """Studies of the last `within` without a final report, newest first.

    A report that names no study counts for every one it may be about: a study is called unread only when it is.
    """
    found = []
    for study in record.studies:
        if study.started is None or not study.complete or record.age_of(study.started) > within:
            continue
        reports = [r for r in record.reports if _about(r, study)]
        if not any(r.final for r in reports):
            state = "preliminary report only" if reports else "no report"
            name = study.description or " ".join(sorted(study.modalities)) or "imaging study"
            found.append(Open(name, state, study.started, study.source))
    return tuple(found)


def _about(report: Report, study: Study) -> bool:
    if report.study_refs:
        id_ = study.source.reference.partition("/")[2]
        return any(fhir.points_at(ref, "ImagingStudy", id_) for ref in report.study_refs)
    reported, done = find_imaging_order(report.codes), find_imaging_order(study.codes)
    if reported is not None and done is not None and reported.duplicate_group != done.duplicate_group:
        return False
    assert study.started is not None
    return report.at is not None and report.at >= study.started - REPORT_BEFORE_STUDY
