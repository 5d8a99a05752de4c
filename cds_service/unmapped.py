"""`unmapped`: which codes and units of a record nothing here reads, so that an administrator can map them.

Only what a terminology could hold is kept: a code that looks like free text may be a patient's name and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fhir_mappers.record import Gap

MOST = 20
"""Of one call, so that a record without any known code does not fill the audit."""
MAPPABLE = ("unknown-code", "unknown-unit", "no-unit", "conflicting-unit")
_SYSTEM = re.compile(r"(https?://|urn:)[A-Za-z0-9._~:/#-]{1,120}")
_CODE = re.compile(r"(?=.*[0-9A-Z])[A-Za-z0-9._-]{1,24}")
_UNIT = re.compile(r"[A-Za-z0-9%/.*^\[\]{}µ()+-]{1,24}")


def unmapped(resources: Iterable[Mapping[str, Any]], gaps: Sequence[Gap]) -> tuple[str, ...]:
    """`unknown-code Observation https://lab.example|CREA` of each gap that a mapping would close, each once."""
    wanted = {gap.reference: gap for gap in gaps if gap.code in MAPPABLE}
    if not wanted:
        return ()
    found: dict[str, None] = {}
    for resource in resources:
        gap = wanted.get(f"{resource.get('resourceType')}/{resource.get('id')}")
        if gap is None:
            continue
        names = _units(resource) if "unit" in gap.code else _codes(resource)
        for name in names:
            found[f"{gap.code} {gap.subject} {name}"] = None
            if len(found) == MOST:
                return tuple(found)
    return tuple(found)


def _codes(resource: Mapping[str, Any]) -> list[str]:
    concept = resource.get("code") or resource.get("medicationCodeableConcept")
    codings = concept.get("coding") if isinstance(concept, dict) else None
    kept = []
    for coding in codings if isinstance(codings, list) else ():
        if not isinstance(coding, dict):
            continue
        system, code = coding.get("system", ""), coding.get("code")
        if not isinstance(system, str) or not isinstance(code, str) or not _CODE.fullmatch(code):
            continue
        if not system or _SYSTEM.fullmatch(system):
            kept.append(f"{system or 'no system'}|{code}")
    return kept or ["without a code"]


def _units(resource: Mapping[str, Any]) -> list[str]:
    quantities = [part.get("valueQuantity") for part in (resource, *_components(resource))]
    kept = []
    for quantity in quantities:
        unit = (quantity.get("code") or quantity.get("unit")) if isinstance(quantity, dict) else None
        if isinstance(unit, str) and _UNIT.fullmatch(unit):
            kept.append(unit)
    return kept or ["without a unit"]


def _components(resource: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = resource.get("component")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
