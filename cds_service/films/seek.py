"""Which of a patient's studies may hold a film, and where they say it lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fhir_mappers.read import read_studies
from fhir_mappers.record import Image, Instance, Study
from fhir_mappers.studies import FILM_MODALITIES, is_chest

UID = "urn:dicom:uid"
MOST_BY_PATIENT = 4
"""Studies of a patient that are looked for by who and when: of each call, the first the server names."""
_PATIENT_ID = re.compile(r"[^*?\\\x00-\x1f]{1,64}")
"""What DICOM has room for (LO), and nothing that QIDO-RS reads as a wildcard or a list."""


def may_hold_films(study: Study) -> bool:
    """Whether a study that lists no images could hold one that `choose_films` would take."""
    return is_chest(study) and (not study.modalities or bool(study.modalities & FILM_MODALITIES))


def with_endpoint_references(studies: Sequence[Study], resources: Sequence[Mapping[str, Any]]) -> tuple[Study, ...]:
    """Add the `Endpoint/id` references of each study to the addresses that came along with it."""
    references: dict[str, list[str]] = {}
    for resource in resources:
        if resource["resourceType"] == "ImagingStudy":
            series = resource.get("series")
            holders = [resource, *(series if isinstance(series, list) else ())]
            references[f"ImagingStudy/{resource.get('id')}"] = [
                endpoint["reference"]
                for holder in holders
                if isinstance(holder, dict) and isinstance(holder.get("endpoint"), list)
                for endpoint in holder["endpoint"]
                if isinstance(endpoint, dict) and isinstance(endpoint.get("reference"), str)
            ]
    return tuple(
        replace(s, endpoints=tuple(dict.fromkeys((*s.endpoints, *references.get(s.source.reference, ())))))
        for s in studies
    )


def with_kept(study: Study, found: Sequence[Image]) -> Study:
    """The study with only its kept films, where there are any; else without what is known to be a lateral."""
    own = {i.sop_uid: i for i in found if i.study_uid == study.uid}
    if not study.instances:
        listed = tuple(Instance(study.uid, "", i.sop_uid, "", i.modality) for i in own.values())
        return replace(study, instances=listed) if listed else study
    frontal = tuple(i for i in study.instances if i.sop_uid in own and own[i.sop_uid].view != "LATERAL")
    unseen = tuple(i for i in study.instances if i.sop_uid not in own)
    return replace(study, instances=frontal or unseen) if frontal or unseen else study


@dataclass(frozen=True, slots=True)
class ByNumber:
    """A study as its accession number names it."""

    number: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OfPatient:
    """A study as whose it is and when it began name it.

    identifiers  (system, value) of the patient
    day, minute  YYYYMMDD and HHMM, in the zone the study's start was recorded in
    """

    identifiers: tuple[tuple[str, str], ...] = field(repr=False)
    day: str
    minute: str


Wanted = ByNumber | OfPatient


def without_uid(
    resources: Sequence[Mapping[str, Any]], person: Mapping[str, Any] | None, as_of: datetime
) -> list[tuple[Mapping[str, Any], tuple[Wanted, ...]]]:
    """ImagingStudies that name no study UID, each with the ways an archive may be asked for it, the surest first."""
    found: list[tuple[Mapping[str, Any], tuple[Wanted, ...]]] = []
    left = MOST_BY_PATIENT
    for resource in resources:
        given = _identifiers(resource) if resource["resourceType"] == "ImagingStudy" else None
        if given is None or any(i.get("system") == UID or str(i.get("value")).startswith("urn:oid:") for i in given):
            continue
        number = next((i["value"] for i in given if _is_accession(i)), None)
        ways: list[Wanted] = [] if number is None else [ByNumber(number)]
        of_patient = _of_patient(resource, person, as_of) if person is not None and left else None
        if of_patient is not None:
            ways.append(of_patient)
            left -= 1
        found.append((resource, tuple(ways)))
    return found


def _of_patient(resource: Mapping[str, Any], person: Mapping[str, Any], as_of: datetime) -> OfPatient | None:
    """None for a study that holds no chest film, is of another patient or has no time; and without identifiers."""
    # Read as if it had a UID: all else about it is read as of any other study.
    studies = read_studies([_named(resource, "0.0")], as_of=as_of, patient_id=str(person.get("id")))
    given = ((i.get("system"), i.get("value")) for i in _identifiers(person))
    known = tuple((s, v) for s, v in given if isinstance(s, str) and isinstance(v, str) and _PATIENT_ID.fullmatch(v))
    started = studies[0].started if len(studies) == 1 and may_hold_films(studies[0]) else None
    if started is None or not known:
        return None
    return OfPatient(known, started.strftime("%Y%m%d"), started.strftime("%H%M"))


def with_uid(
    resource: Mapping[str, Any], found: Sequence[tuple[str, str]], known: Set[str]
) -> Mapping[str, Any] | None:
    """The resource with the UID of the one study found, (UID, PatientID), if that is of this patient; else None.

    Accession numbers repeat from one department to the next, so a study of nobody known is not taken either.
    """
    if len(found) != 1 or found[0][1] not in known:
        return None
    return _named(resource, found[0][0])


def _named(resource: Mapping[str, Any], uid: str) -> Mapping[str, Any]:
    named = {"system": UID, "value": f"urn:oid:{uid}"}
    return {**resource, "identifier": [*_identifiers(resource), named]}


def _identifiers(resource: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = resource.get("identifier")
    return [i for i in found if isinstance(i, dict)] if isinstance(found, list) else []


def _is_accession(identifier: Mapping[str, Any]) -> bool:
    """v2-0203 ACSN, at most the 16 characters DICOM has room for, and nothing that QIDO-RS reads as a wildcard."""
    kind, value = identifier.get("type"), identifier.get("value")
    codings = kind.get("coding") if isinstance(kind, dict) else None
    coded = any(isinstance(c, dict) and c.get("code") == "ACSN" for c in (codings if isinstance(codings, list) else ()))
    return coded and isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._/-]{1,16}", value) is not None
