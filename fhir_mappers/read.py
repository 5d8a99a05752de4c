"""`read_record`: raw FHIR and DICOM become a `PatientRecord`; nothing raw goes further than this.

Select on plain JSON first, validate only what is used, resource by resource (`fhir_mappers.fhir` says with what, and
why not with fhir.resources). A resource that is broken, of another patient, from the future or of no use costs
itself alone and leaves one `Gap` with its reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import msgspec

from fhir_mappers import fhir
from fhir_mappers.code_map import CodeMap
from fhir_mappers.consents import read_consent
from fhir_mappers.devices import read_device
from fhir_mappers.events import read_allergy, read_condition, read_dose, read_medication, read_procedure
from fhir_mappers.gene_lineage import with_lineage
from fhir_mappers.genomics import is_genomic, read_genes, significances, with_significance
from fhir_mappers.imaging import DicomFrame, decode_film
from fhir_mappers.labs import read_observation, settle
from fhir_mappers.nodules import is_nodule, read_nodule
from fhir_mappers.orders import read_drafts, read_service_request
from fhir_mappers.people import current_encounter, identifiers, read_person
from fhir_mappers.questions import KIND as FORM
from fhir_mappers.record import (
    Allergy,
    Coded,
    Dose,
    Event,
    Gap,
    GeneResult,
    Image,
    Implant,
    Lab,
    LabReport,
    Lesion,
    Nodule,
    Order,
    PatientRecord,
    Person,
    Report,
    Study,
    newest_first,
)
from fhir_mappers.studies import read_report, read_study
from fhir_mappers.tumours import is_tumour, read_genetic_report, read_tumour, specimen_of

SUPPORTING = frozenset({"Medication", "Endpoint", "Location"})
"""Types that belong to no patient and are read only where a patient's resource refers to them."""

NO_MAP = CodeMap()
Item = (
    Lab
    | Coded
    | Event
    | Allergy
    | Order
    | Study
    | Report
    | Nodule
    | Implant
    | Lesion
    | GeneResult
    | Dose
    | LabReport
    | Gap
)


def read_record(
    resources: Iterable[fhir.Resource],
    dicom: Iterable[DicomFrame] = (),
    *,
    as_of: datetime,
    patient_id: str,
    drafts: Iterable[fhir.Resource] = (),
    kept: Iterable[Image] = (),
    local: CodeMap = NO_MAP,
) -> PatientRecord:
    """Read everything known of one patient at `as_of` (timezone-aware); `local` is what the site's own codes mean.

    `kept` are films of this patient that were encoded when they arrived; one whose pixels came as well is not used.

    The order of `resources` means nothing. Of several versions of one resource the highest is read. Every resource
    has to name the patient, or it is left out with a Gap.
    """
    if as_of.tzinfo is None:
        raise ValueError("as_of needs a time zone: a record without one cannot be compared with its results")
    patient_id = fhir.last_segment(patient_id)
    gaps: list[Gap] = []
    mine, supporting = _select(_understood(resources, local), patient_id, gaps)
    mine = with_lineage(mine)
    kinds: dict[str, list[fhir.Resource]] = {}
    for resource in mine:
        kinds.setdefault(fhir.type_of(resource), []).append(resource)
    patient = next(iter(kinds.get("Patient", ())), None)
    person = _person(patient, patient_id, as_of, gaps)
    encounter, missed = current_encounter(kinds.get("Encounter", ()), as_of, supporting)
    gaps += missed
    items: list[Item] = []
    for resource in mine:
        items += _read(resource, person, as_of, supporting)
    orders, missed = read_drafts(_understood(drafts, local), as_of, patient_id, kinds.get(FORM, []))
    drafted = {o.ref for o in orders}
    orders += [o for o in _of(Order, items) if o.ref not in drafted]
    gaps += [*missed, *_of(Gap, items)]
    labs, missed = settle(_of(Lab, items), as_of)
    gaps += missed
    implied = significances(kinds.get("Observation", ()))
    genes = [with_significance(g, implied) for g in _of(GeneResult, items)]
    studies = _of(Study, items)
    images, missed = _images(dicom, studies, patient, person, as_of)
    gaps += missed
    came = {image.sop_uid for image in images}
    uids = {study.uid for study in studies}
    images += [k for k in kept if k.sop_uid not in came and k.study_uid in uids and not fhir.in_future(k.at, as_of)]
    return PatientRecord(
        person=person,
        as_of=as_of,
        labs=newest_first(labs, "at"),
        coded=newest_first(_of(Coded, items), "at"),
        events=newest_first(_of(Event, items), "start"),
        allergies=newest_first(_of(Allergy, items), "onset"),
        orders=newest_first(orders, "authored"),
        studies=newest_first(studies, "started"),
        images=newest_first(images, "at"),
        reports=newest_first(_of(Report, items), "at"),
        nodules=newest_first(_of(Nodule, items), "at"),
        implants=tuple(sorted(_of(Implant, items), key=lambda i: i.source.reference)),
        genes=newest_first(genes, "at"),
        lesions=newest_first(_of(Lesion, items), "at"),
        doses=newest_first(_of(Dose, items), "at"),
        lab_reports=newest_first(_of(LabReport, items), "at"),
        encounter=encounter,
        gaps=tuple(sorted(gaps, key=lambda g: (g.code, g.subject, g.reference))),
    )


def read_orders(
    drafts: Iterable[fhir.Resource], as_of: datetime, patient_id: str | None = None, local: CodeMap = NO_MAP
) -> tuple[Order, ...]:
    """The draft orders alone, as far as they can be read: enough to decide whether a service is concerned."""
    named = None if patient_id is None else fhir.last_segment(patient_id)
    orders, _ = read_drafts(_understood(drafts, local), as_of, named)
    return tuple(orders)


def read_studies(resources: Iterable[fhir.Resource], *, as_of: datetime, patient_id: str) -> tuple[Study, ...]:
    """The imaging studies of this patient alone, newest first: enough to decide which films to fetch."""
    wanted = [r for r in flatten(resources) if fhir.type_of(r) in ("ImagingStudy", "Endpoint")]
    mine, supporting = _select(wanted, fhir.last_segment(patient_id), [])
    found: list[Item] = []
    for resource in mine:
        if fhir.type_of(resource) == "ImagingStudy":
            found += _guarded(resource, lambda r: read_study(r, as_of, supporting))
    return newest_first(_of(Study, found), "started")


def flatten(resources: Iterable[Any]) -> Iterator[fhir.Resource]:
    """The resources themselves, and in place of a Bundle what is in it. Anything that is no object is passed over."""
    for resource in resources:
        if not isinstance(resource, fhir.Object):
            continue
        if fhir.type_of(resource) == "Bundle":
            inner = (e.get("resource") for e in fhir.each(resource.get("entry")) if isinstance(e, fhir.Object))
            yield from (r for r in inner if isinstance(r, fhir.Object))
        else:
            yield resource


def _understood(resources: Iterable[fhir.Resource], local: CodeMap) -> Iterable[fhir.Resource]:
    """With the codings a site's map adds."""
    return [local.read(resource) for resource in flatten(resources)] if local else resources


def _select(
    resources: Iterable[fhir.Resource], patient_id: str, gaps: list[Gap]
) -> tuple[list[fhir.Resource], dict[str, fhir.Resource]]:
    """This patient's resources, one version each, in an order of their own; and those that belong to no patient."""
    latest: dict[str, fhir.Resource] = {}
    nameless: dict[bytes, fhir.Resource] = {}
    for resource in flatten(resources):
        kind, id_ = fhir.type_of(resource), fhir.id_of(resource)
        if not kind:
            gaps.append(Gap("malformed", "unknown", "unknown"))
            continue
        if kind not in SUPPORTING and not fhir.names_patient(resource, patient_id):
            known = kind in READERS or kind in ("Patient", "Encounter", FORM)
            gaps.append(Gap("other-patient" if known else "not-read", kind, fhir.reference_of(resource)))
            continue
        if not id_:
            nameless[_content(resource)] = resource
            continue
        reference = f"{kind}/{id_}"
        held = latest.setdefault(reference, resource)
        if held is not resource:
            gaps.append(Gap("superseded", kind, reference))
            latest[reference] = max(held, resource, key=_version)
    # A Specimen belongs to the patient, and says something only beside the result made from it.
    beside = SUPPORTING | {"Specimen"}
    supporting = {ref: r for ref, r in latest.items() if fhir.type_of(r) in beside}
    mine = [latest[ref] for ref in sorted(latest) if ref not in supporting]
    return mine + [nameless[key] for key in sorted(nameless)], supporting


def _version(resource: fhir.Resource) -> tuple[int, str, bytes]:
    """Orders versions of one resource: by number, else by time, else by content, so that the input's order is moot."""
    meta = resource.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    version, updated = meta.get("versionId"), meta.get("lastUpdated")
    number = int(version) if isinstance(version, str) and version.isascii() and version.isdigit() else -1
    return number, updated if isinstance(updated, str) else "", _content(resource)


def _content(resource: fhir.Resource) -> bytes:
    return msgspec.json.encode(resource, order="deterministic")


def _person(patient: fhir.Resource | None, patient_id: str, as_of: datetime, gaps: list[Gap]) -> Person:
    unknown = Person(patient_id, "unknown", None, None)
    if patient is None:
        gaps.append(Gap("no-patient", "Patient", f"Patient/{patient_id}"))
        return unknown
    try:
        person, faults = read_person(patient, as_of)
    except fhir.Malformed:
        gaps.append(Gap("malformed", "Patient", f"Patient/{patient_id}"))
        return unknown
    gaps += faults
    return person


Reader = Callable[[fhir.Resource, Person, datetime, Mapping[str, fhir.Resource]], Iterable[Item]]


@functools.lru_cache(maxsize=1024)
def _kind(codes: fhir.Codes) -> Literal["genomic", "tumour", "nodule", "other"]:
    """Which reader an Observation with these codes goes to; kept, since a chart has few codes and many results."""
    if is_genomic(codes):
        return "genomic"
    if is_tumour(codes):
        return "tumour"
    return "nodule" if is_nodule(codes) else "other"


def _observation(
    resource: fhir.Resource, person: Person, as_of: datetime, supporting: Mapping[str, fhir.Resource]
) -> Iterable[Item]:
    kind = _kind(fhir.codes_of(resource.get("code")))
    if kind == "genomic":
        specimen = specimen_of(resource, supporting)
        return [replace(g, specimen=specimen) if isinstance(g, GeneResult) else g for g in read_genes(resource, as_of)]
    if kind == "tumour":
        return read_tumour(resource, as_of)
    return read_nodule(resource, as_of) if kind == "nodule" else read_observation(resource, person, as_of)


def _report(
    resource: fhir.Resource, person: Person, as_of: datetime, supporting: Mapping[str, fhir.Resource]
) -> Iterable[Item]:
    """A report, and the Observations contained in it: laboratories of genomics send them so."""
    contained = with_lineage([c for c in fhir.each(resource.get("contained")) if fhir.type_of(c) == "Observation"])
    inside: list[Item] = []
    for number, observation in enumerate(contained):
        # A contained resource has no identity of its own; its report's subject is its subject.
        named = {**observation, "id": f"{fhir.id_of(resource)}#{fhir.id_of(observation) or number}"}
        if fhir.names_patient(named, person.id) is False:
            inside.append(Gap("other-patient", "Observation", fhir.reference_of(named)))
        else:
            inside += _guarded(named, lambda r: _observation(r, person, as_of, supporting))
    genetic = read_genetic_report(resource, as_of)
    read = [*([genetic] if genetic is not None else read_report(resource, as_of)), *inside]
    return [i for i in read if not (contained and isinstance(i, Gap) and i.code == "not-read")]


READERS: dict[str, Reader] = {
    "Observation": _observation,
    "Condition": lambda r, _person, as_of, _s: read_condition(r, as_of),
    "MedicationRequest": lambda r, _person, as_of, s: read_medication(r, as_of, s),
    "MedicationAdministration": lambda r, _person, as_of, s: read_dose(r, as_of, s),
    "Procedure": lambda r, _person, as_of, _s: read_procedure(r, as_of),
    "AllergyIntolerance": lambda r, _person, as_of, _s: read_allergy(r, as_of),
    "ServiceRequest": lambda r, _person, as_of, _s: read_service_request(r, as_of),
    "ImagingStudy": lambda r, _person, as_of, s: read_study(r, as_of, s),
    "Device": lambda r, _person, as_of, _s: read_device(r, as_of),
    "Consent": lambda r, _person, as_of, _s: read_consent(r, as_of),
    "DiagnosticReport": _report,
}


def _read(
    resource: fhir.Resource, person: Person, as_of: datetime, supporting: Mapping[str, fhir.Resource]
) -> list[Item]:
    kind = fhir.type_of(resource)
    if kind in ("Patient", "Encounter", FORM):
        return []
    reader = READERS.get(kind)
    if reader is None:
        return [Gap("not-read", kind, fhir.reference_of(resource))]
    return _guarded(resource, lambda r: reader(r, person, as_of, supporting))


def _guarded(resource: fhir.Resource, reader: Callable[[fhir.Resource], Iterable[Item]]) -> list[Item]:
    """All of what a resource holds, or one Gap: half of a broken resource is not believed either."""
    try:
        return list(reader(resource))
    except fhir.Malformed:
        return [Gap("malformed", fhir.type_of(resource), fhir.reference_of(resource))]


def _of(kind: type[Any], items: Iterable[Item]) -> list[Any]:
    return [item for item in items if isinstance(item, kind)]


def _images(
    frames: Iterable[DicomFrame],
    studies: Sequence[Study],
    patient: fhir.Resource | None,
    person: Person,
    as_of: datetime,
) -> tuple[list[Image], list[Gap]]:
    """Decode the frames that belong to this patient's studies; another study's frame is another patient's."""
    started = {s.uid: s.started for s in studies}
    known = identifiers(patient) if patient is not None else frozenset()
    images: list[Image] = []
    gaps: list[Gap] = []
    for frame in frames:
        if frame.study_uid not in started:
            gaps.append(Gap("other-patient", "film", frame.reference))
            continue
        film = decode_film(frame, started[frame.study_uid], known | {person.id} if known else frozenset())
        if isinstance(film, Gap):
            gaps.append(film)
        elif fhir.in_future(film.at, as_of):
            gaps.append(Gap("future", "film", frame.reference))
        else:
            images.append(film)
    return images, gaps
