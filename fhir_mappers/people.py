"""Who the record is about: Patient -> Person, Encounter -> the current one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Literal

from fhir_mappers import fhir, r4
from fhir_mappers.record import Encounter, Gap, Person

SPCU = "http://hl7.org/fhir/StructureDefinition/patient-sexParameterForClinicalUse"
OLDEST = 130
"""Above this an age is a disguise (de-identified data move the birth date back by centuries), not an age."""

_SEX: dict[str, Literal["male", "female"]] = {
    "male": "male",
    "female": "female",
    "male-typical": "male",
    "female-typical": "female",
}
_NOT_HAPPENING = frozenset({"planned", "cancelled", "entered-in-error", "unknown"})
_ICU = frozenset({"ICU", "PEDICU", "PEDNICU", "CCU", "BU"})
"""v3-RoleCode of locations: intensive care units, coronary care unit, burns unit."""
_CLINIC = frozenset({"AMB", "VR", "HH", "FLD"})


def read_person(resource: fhir.Resource, as_of: datetime) -> tuple[Person, list[Gap]]:
    """Read the Patient. Raises fhir.Malformed.

    Sex is the sex parameter for clinical use where recorded, else administrative gender (DQ-11). A birth date
    after `as_of`, or more than 130 years before it, is a Gap.
    """
    patient = fhir.read(resource, r4.Patient)
    bounds = fhir.date_bounds(patient.birth_date)
    gaps = []
    if patient.birth_date and (bounds is None or not _plausible(bounds, as_of)):
        gaps.append(Gap("out-of-limits" if bounds else "malformed", "birth date", fhir.reference_of(resource)))
        bounds = None
    died = fhir.read_start(patient.deceased_date_time, as_of)
    person = Person(
        id=fhir.id_of(resource),
        sex=_sex(patient),
        born_earliest=bounds[0] if bounds else None,
        born_latest=bounds[1] if bounds else None,
        deceased=bool(patient.deceased_boolean) or (died is not None and died <= as_of),
        source=fhir.source_of(resource),
    )
    return person, gaps


def _plausible(bounds: tuple[date, date], as_of: datetime) -> bool:
    return bounds[0] <= as_of.date() and as_of.year - bounds[1].year <= OLDEST


def _sex(patient: r4.Patient) -> Literal["male", "female", "unknown"]:
    for extension in patient.extension:
        if extension.url == SPCU:
            parts = [e for e in extension.extension if isinstance(e, Mapping) and e.get("url") == "value"]
            codes = [code for part in parts for _, code in fhir.codes_of(part.get("valueCodeableConcept"))]
            if extension.value_codeable_concept:
                codes += [code for _, code in extension.value_codeable_concept.codes]
            # "specified" and "unknown" are answers too: the administrative gender does not overrule them.
            return next((_SEX[c] for c in codes if c in _SEX), "unknown")
    return _SEX.get(patient.gender or "", "unknown")


def identifiers(resource: fhir.Resource) -> frozenset[str]:
    """The values of the patient's identifiers: what an archive may hold as PatientID."""
    found = (i.get("value") for i in fhir.each(resource.get("identifier")) if isinstance(i, Mapping))
    return frozenset(v for v in found if isinstance(v, str) and v)


def current_encounter(
    resources: Iterable[fhir.Resource], as_of: datetime, supporting: Mapping[str, fhir.Resource]
) -> tuple[Encounter | None, list[Gap]]:
    """The encounter that is going on at `as_of`: one in progress first, then the latest begun.

    supporting  Location resources by `Location/id`, to tell an intensive care unit from a ward
    """
    found: list[tuple[bool, float, str, Encounter]] = []
    gaps: list[Gap] = []
    for resource in resources:
        reference = fhir.reference_of(resource)
        try:
            encounter = fhir.read(resource, r4.Encounter)
        except fhir.Malformed:
            gaps.append(Gap("malformed", "Encounter", reference))
            continue
        period = encounter.period or r4.Period()
        start = fhir.read_start(period.start, as_of)
        end = fhir.read_time(period.end, as_of)
        if encounter.status in _NOT_HAPPENING:
            gaps.append(Gap("bad-status", "Encounter", reference))
        elif fhir.in_future(start, as_of):
            gaps.append(Gap("future", "Encounter", reference))
        elif end is None or end.at >= as_of:
            class_ = next((code for _, code in encounter.class_.codes), "")
            read = Encounter(
                class_, _unit(resource, encounter, class_, as_of, supporting), start, fhir.source_of(resource)
            )
            going = encounter.status in ("in-progress", "arrived", "triaged", "onleave")
            found.append((going, start.timestamp() if start else 0.0, reference, read))
        else:
            gaps.append(Gap("superseded", "Encounter", reference))
    best = max(found, key=lambda x: x[:3], default=None)
    gaps += [Gap("superseded", "Encounter", e.source.reference) for *_, e in found if best and e is not best[3]]
    return (best[3] if best else None), gaps


def _unit(
    resource: fhir.Resource,
    encounter: r4.Encounter,
    class_: str,
    as_of: datetime,
    supporting: Mapping[str, fhir.Resource],
) -> Literal["icu", "ed", "ward", "clinic", "unknown"]:
    places: set[str] = set()
    for at in encounter.location:
        left = fhir.read_time(at.period.end, as_of) if at.period else None
        if at.status in (None, "active") and (left is None or left.at >= as_of):
            place = fhir.referred(resource, at.location.reference, "Location", supporting) or {}
            places.update(code for _, code in fhir.codes_of(place.get("type")))
    service = {code for _, code in encounter.service_type.codes} if encounter.service_type else set()
    if places & _ICU or class_ in _ICU or service & _ICU:
        return "icu"
    if class_ == "EMER" or "ER" in places:
        return "ed"
    if class_ in ("IMP", "ACUTE", "NONAC", "OBSENC", "SS"):
        return "ward"
    return "clinic" if class_ in _CLINIC else "unknown"
