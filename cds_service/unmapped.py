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
NO_SYSTEM, NO_UNIT = "no system", "without a unit"
_SAID = re.compile(
    rf"unknown-code \S+ (?P<code>(?:{NO_SYSTEM}|\S+)\|\S+)"
    rf"|(?:unknown|no)-unit \S+ (?:{NO_UNIT}|(?P<unit>\S+)) of (?P<of>(?:{NO_SYSTEM}|\S+)\|\S+)"
)
_UNIT = re.compile(r"[A-Za-z0-9%/.*^\[\]{}µ()+-]{1,24}")


def unmapped(resources: Iterable[Mapping[str, Any]], gaps: Sequence[Gap]) -> tuple[str, ...]:
    """What each gap needs that a mapping would close, each once.

    `unknown-code Observation https://lab.example|CREA`, `unknown-unit creatinine MG% of https://lab.example|CREA`.
    """
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


def to_map(what: str) -> tuple[str, str, str, str, str] | None:
    """The row of a site's code map that would close it, its target and unit still to be written; None without a code.

    In the columns of `fhir_mappers.code_map`.
    """
    said = _SAID.fullmatch(what)
    if said is None:
        return None
    system, _, code = (said["code"] or said["of"]).rpartition("|")
    return "" if system == NO_SYSTEM else system, code, "", "", said["unit"] or ""


def _codes(resource: Mapping[str, Any]) -> list[str]:
    concept = resource.get("code") or resource.get("medicationCodeableConcept") or resource.get("type")
    codings = concept.get("coding") if isinstance(concept, dict) else None
    kept = []
    for coding in codings if isinstance(codings, list) else ():
        if not isinstance(coding, dict):
            continue
        system, code = coding.get("system", ""), coding.get("code")
        if not isinstance(system, str) or not isinstance(code, str) or not _CODE.fullmatch(code):
            continue
        if not system or _SYSTEM.fullmatch(system):
            kept.append(f"{system or NO_SYSTEM}|{code}")
    return kept or ["without a code"]


def _units(resource: Mapping[str, Any]) -> list[str]:
    kept = []
    for part in (resource, *_components(resource)):
        quantity = part.get("valueQuantity")
        unit = (quantity.get("code") or quantity.get("unit")) if isinstance(quantity, dict) else None
        if isinstance(unit, str) and _UNIT.fullmatch(unit):
            kept.append(f"{unit} of {_codes(part)[0]}")
        elif isinstance(quantity, dict):
            kept.append(f"{NO_UNIT} of {_codes(part)[0]}")
    return kept or [NO_UNIT]


def _components(resource: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = resource.get("component")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
