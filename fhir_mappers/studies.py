"""What radiology left in FHIR: ImagingStudy -> Study, DiagnosticReport -> Report, and which films to fetch.

A DiagnosticReport of the laboratory is a LabReport: how far a test is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from fhir_mappers import fhir, r4
from fhir_mappers.codes import find_imaging_order, find_lab
from fhir_mappers.record import Gap, Instance, LabReport, Report, Study
from fhir_mappers.report.terms import OWN

FILM_MODALITIES = frozenset({"CR", "DX"})
FILM_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
    }
)
PRESENTATION = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_CHEST_CODES = frozenset({"51185008", "261179002", "43799004", "CHEST", "THORAX"})
"""SNOMED CT thorax, thoracic, chest X-ray region as archives map BodyPartExamined; and DICOM's own terms."""
_CHEST_WORDS = re.compile(r"(?i)\b(chest|thorax|thoracic|cxr)\b")
_LATERAL_WORDS = re.compile(r"(?i)\b(lat|lateral|ll|rl)\b")
_FRONTAL_WORDS = re.compile(r"(?i)\b(pa|ap|frontal|2 views?|two views?)\b")
_RADIOLOGY = frozenset({"RAD", "RX", "XRC", "CT", "NMR", "CUS", "RUS", "VUS", "OUS", "NMS", "LP29684-5"})
"""v2-0074 diagnostic service sections of radiology, and LOINC's part code for it."""


_SIDES = {
    # SNOMED CT qualifiers and the letters of DICOM (0020,0060)
    **dict.fromkeys(("7771000", "L"), ("left",)),
    **dict.fromkeys(("24028007", "R"), ("right",)),
    **dict.fromkeys(("51440002", "B"), ("left", "right")),
}


def read_study(
    resource: fhir.Resource, as_of: datetime, supporting: Mapping[str, fhir.Resource]
) -> Iterator[Study | Gap]:
    """Read an ImagingStudy that is not cancelled. Raises fhir.Malformed.

    Endpoints are named, not trusted: whether one may be called is decided where it is called.
    """
    reference = fhir.reference_of(resource)
    study = fhir.read(resource, r4.ImagingStudy)
    started = fhir.read_start(study.started, as_of)
    uid = next((u for i in study.identifier if (u := _study_uid(i))), "")
    if study.status not in ("available", "registered"):
        yield Gap("bad-status", "ImagingStudy", reference)
    elif fhir.in_future(started, as_of):
        yield Gap("future", "ImagingStudy", reference)
    elif not uid:
        yield Gap("no-value", "ImagingStudy", reference)
    else:
        yield Study(
            uid=uid,
            started=started,
            modalities=frozenset(code for c in _modalities(study) for _, code in c.codes),
            description=study.description or next((s.description for s in study.series if s.description), ""),
            body_sites=tuple(dict.fromkeys(site for s in study.series for site in _site(s.body_site))),
            instances=tuple(_instances(uid, study.series)),
            endpoints=tuple(dict.fromkeys(_endpoints(resource, study, supporting))),
            source=fhir.source_of(resource),
            codes=tuple(code for c in study.procedure_code for code in c.codes),
            sides=sides(c for s in study.series for c in _laterality(s)),
            complete=study.status == "available",
        )


def sides(codes: Iterable[tuple[str, str]]) -> frozenset[str]:
    """left and right, as far as these codes of a side say; both for bilateral."""
    return frozenset(side for _, code in codes for side in _SIDES.get(code, ()))


def _laterality(series: r4.Series) -> fhir.Codes:
    return (
        *(series.laterality.codes if series.laterality else ()),
        *(series.body_site.codes if series.body_site else ()),
    )


def _modalities(study: r4.ImagingStudy) -> list[r4.Concept]:
    return [*study.modality, *(s.modality for s in study.series)]


def _site(site: r4.Concept | None) -> tuple[str, ...]:
    return () if site is None else (*(code for _, code in site.codes), *filter(None, (site.words,)))


def _study_uid(identifier: r4.Identifier) -> str:
    value = identifier.value or ""
    if identifier.system == "urn:dicom:uid" or value.startswith("urn:oid:"):
        return plain_uid(value)
    return ""


def plain_uid(value: str) -> str:
    """A UID without `urn:oid:`; empty for what is no UID (PS3.5 9.1: digits and dots, at most 64)."""
    uid = value.removeprefix("urn:oid:")
    return uid if len(uid) <= 64 and _UID.fullmatch(uid) else ""


def _instances(study_uid: str, series: Sequence[r4.Series]) -> Iterator[Instance]:
    for one in series:
        series_uid = plain_uid(one.uid)
        modality = next((code for _, code in one.modality.codes), "")
        for instance in one.instance:
            sop_uid = plain_uid(instance.uid)
            if series_uid and sop_uid:
                sop_class = next((plain_uid(code) for _, code in instance.sop_class.codes), "")
                lateral = from_the_side(instance.title or "") or from_the_side(one.description or "")
                yield Instance(study_uid, series_uid, sop_uid, sop_class, modality, instance.number, lateral)


def _endpoints(
    resource: fhir.Resource, study: r4.ImagingStudy, supporting: Mapping[str, fhir.Resource]
) -> Iterator[str]:
    references = [*study.endpoint, *(e for s in study.series for e in s.endpoint)]
    for reference in references:
        found = fhir.referred(resource, reference.reference, "Endpoint", supporting)
        if found is None:
            continue
        try:
            endpoint = fhir.read(found, r4.Endpoint)
        except fhir.Malformed:
            continue
        kind = endpoint.connection_type
        wado = kind is None or not kind.codes or kind.says("dicom-wado-rs")
        if endpoint.address and wado and endpoint.status in ("active", "test", ""):
            yield endpoint.address


def read_report(resource: fhir.Resource, as_of: datetime) -> Iterator[Report | LabReport | Gap]:
    """Read a DiagnosticReport of radiology, or of a laboratory test the table knows. Raises fhir.Malformed.

    Of any other service it is `not-read`.
    """
    reference = fhir.reference_of(resource)
    report = fhir.read(resource, r4.DiagnosticReport)
    radiology = any(c.says(*_RADIOLOGY) for c in report.category)
    # Our own estimates, written back, are no word of radiology's, until a person has made them final.
    ours = report.status == "preliminary" and any(system == OWN for c in report.category for system, _ in c.codes)
    if ours or not (radiology or report.imaging_study or find_imaging_order(report.code.codes)):
        test = None if ours else find_lab(report.code.codes, laboratory=True)
        if test is None:
            yield Gap("not-read", "DiagnosticReport", reference)
        elif report.status in ("cancelled", "entered-in-error", "unknown", ""):
            yield Gap("bad-status", "DiagnosticReport", reference)
        elif fhir.in_future(at := _reported_at(report, as_of), as_of):
            yield Gap("future", "DiagnosticReport", reference)
        else:
            yield LabReport(test.analyte, test.name, report.status, at, fhir.source_of(resource))
        return
    if report.status in ("registered", "cancelled", "entered-in-error", "unknown", ""):
        yield Gap("bad-status", "DiagnosticReport", reference)
        return
    at = _reported_at(report, as_of)
    issued = fhir.read_time(report.issued, as_of)
    if fhir.in_future(at, as_of) or fhir.in_future(issued and issued.at, as_of):
        yield Gap("future", "DiagnosticReport", reference)
        return
    yield Report(
        codes=report.code.codes,
        status=report.status,
        at=at,
        conclusion=report.conclusion or "",
        study_refs=tuple(r.reference for r in report.imaging_study if r.reference),
        source=fhir.source_of(resource),
        findings=tuple(code for c in report.conclusion_code for code in c.codes),
    )


def _reported_at(report: r4.DiagnosticReport, as_of: datetime) -> datetime | None:
    period = report.effective_period or r4.Period()
    return fhir.read_start(report.effective_date_time or period.end or report.issued or period.start, as_of)


def choose_films(studies: Iterable[Study], newest: int, as_of: datetime) -> tuple[Instance, ...]:
    """Name the frontal chest films worth fetching, one per study, newest study first, at most `newest`.

    CR and DX only. Chest by coded body site, or by the words of body site or description: those come from the
    DICOM header, and this selects an image, it drives no rule. A lateral is left out where the labels of study, series
    or image say so; what the pixels show is for the decoder and the model. Studies without a time come last.
    """
    found: list[tuple[bool, float, str, Instance]] = []
    for study in studies:
        films = [i for i in study.instances if _is_film(i, study) and not i.lateral]
        if films and is_chest(study) and not fhir.in_future(study.started, as_of):
            best = min(films, key=lambda i: (i.sop_class not in PRESENTATION, i.number, i.series_uid, i.sop_uid))
            at = study.started
            found.append((at is None, -at.timestamp() if at else 0.0, study.uid, best))
    return tuple(instance for *_, instance in sorted(found, key=lambda x: x[:3])[: max(0, newest)])


def _is_film(instance: Instance, study: Study) -> bool:
    modality = (
        instance.modality or next(iter(study.modalities), "") if len(study.modalities) <= 1 else instance.modality
    )
    return modality in FILM_MODALITIES and (not instance.sop_class or instance.sop_class in FILM_CLASSES)


def is_chest(study: Study) -> bool:
    """Whether a study shows the chest, as far as its labels tell, and not only from the side."""
    sites = study.body_sites
    coded = any(site in _CHEST_CODES for site in sites)
    words = any(_CHEST_WORDS.search(text) for text in (*sites, study.description))
    return (coded or words) and not from_the_side(study.description)


def from_the_side(words: str) -> bool:
    """Whether words that describe a study, a series or an image name a lateral view and no frontal one."""
    return bool(_LATERAL_WORDS.search(words)) and not _FRONTAL_WORDS.search(words)
