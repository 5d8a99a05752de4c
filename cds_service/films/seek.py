"""Which of a patient's studies may hold a film, and where they say it lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from fhir_mappers.record import Study
from fhir_mappers.studies import FILM_MODALITIES, is_chest


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


def without_uid(resources: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """ImagingStudies that name no study UID, by the accession number they do name."""
    found = {}
    for resource in resources:
        identifiers = _identifiers(resource) if resource["resourceType"] == "ImagingStudy" else []
        uid = any(i.get("system") == "urn:dicom:uid" or str(i.get("value")).startswith("urn:oid:") for i in identifiers)
        number = next((i["value"] for i in identifiers if _is_accession(i)), "")
        if number and not uid:
            found[number] = resource
    return found


def with_uid(
    resource: Mapping[str, Any], found: Sequence[tuple[str, str]], known: Set[str]
) -> Mapping[str, Any] | None:
    """The resource with the UID of the one study found, (UID, PatientID), if that is of this patient; else None.

    Accession numbers repeat from one department to the next, so a study of nobody known is not taken either.
    """
    if len(found) != 1 or found[0][1] not in known:
        return None
    uid = {"system": "urn:dicom:uid", "value": f"urn:oid:{found[0][0]}"}
    return {**resource, "identifier": [*_identifiers(resource), uid]}


def _identifiers(resource: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = resource.get("identifier")
    return [i for i in found if isinstance(i, dict)] if isinstance(found, list) else []


def _is_accession(identifier: Mapping[str, Any]) -> bool:
    """v2-0203 ACSN, at most the 16 characters DICOM has room for, and nothing that QIDO-RS reads as a wildcard."""
    kind, value = identifier.get("type"), identifier.get("value")
    codings = kind.get("coding") if isinstance(kind, dict) else None
    coded = any(isinstance(c, dict) and c.get("code") == "ACSN" for c in (codings if isinstance(codings, list) else ()))
    return coded and isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._/-]{1,16}", value) is not None
