"""Lung nodules from structured reports: Observation -> Nodule or Gap.

One Observation is one nodule, as RadElement (RDES195) and the national screening guides code it: what it is in `code`
or `value`, its size and margin in components. Only final observations count: a preliminary one is a machine's
proposal that no radiologist has confirmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from fhir_mappers import fhir, r4
from fhir_mappers.codes import nodule_terms
from fhir_mappers.record import Gap, Nodule

_CONFIRMED = frozenset({"final", "amended", "corrected"})
_MM = {"mm": 1.0, "cm": 10.0}
LARGEST_MM = 30.0
"""Above 3 cm it is a mass (Fleischner Society glossary), and none of the follow-up rules is about it."""
_PRESENCE = frozenset({"RDE1300", "RDE1717"})
_PRESENT = frozenset({"RDE1300.0", "RDE1717.1"})

Attenuation = Literal["solid", "part_solid", "ground_glass", "unknown"]


def is_nodule(codes: fhir.Codes) -> bool:
    """Whether an Observation with this code tells of a lung nodule."""
    return bool(nodule_terms(codes, "finding"))


def read_nodule(resource: fhir.Resource, as_of: datetime) -> Iterator[Nodule | Gap]:
    """Read one nodule; a Gap where it has no confirmed size in mm or cm. Raises fhir.Malformed."""
    reference = fhir.reference_of(resource)
    observation = fhir.read(resource, r4.Observation)
    moment = fhir.read_time(observation.effective_date_time or observation.issued, as_of)
    if observation.status not in _CONFIRMED:
        yield Gap("bad-status", "lung nodule", reference)
        return
    if moment is None or fhir.in_future(moment.at, as_of):
        yield Gap("no-time" if moment is None else "future", "lung nodule", reference)
        return
    size = _size(observation)
    if size is None or observation.value_boolean is False or _absent(observation):
        yield Gap("no-value", "lung nodule", reference)
    elif not 0.0 < size <= LARGEST_MM:
        yield Gap("out-of-limits", "lung nodule", reference)
    else:
        described = [*observation.code.codes, *_codes(observation)]
        sites = (*fhir.codes_of(resource.get("bodySite")), *_nested_site(resource))
        yield Nodule(
            size_mm=size,
            attenuation=_attenuation(nodule_terms(described, "attenuation")),
            count=_count(nodule_terms(described, "count")),
            upper_lobe=bool(nodule_terms((*sites, *described), "location")),
            spiculated=_spiculated(observation),
            at=moment.at,
            study_refs=tuple(_studies(resource)),
            source=fhir.source_of(resource),
        )


def _size(observation: r4.Observation) -> float | None:
    """The mean diameter in mm; of long and short axis their mean, as the guideline measures (rounded by nobody)."""
    sizes: dict[str, float] = {}
    parts: list[r4.Value] = [observation, *observation.component]
    for part in parts:
        for kind in nodule_terms(part.code.codes, "size"):
            value = _millimetres(part)
            if value is None or sizes.setdefault(kind, value) != value:
                return None  # unreadable, or the solid part's size under the same code: no guess which is which
    if observation.value_quantity is not None and not sizes:
        return _millimetres(observation)
    if "mean" in sizes:
        return sizes["mean"]
    if "long" in sizes and "short" in sizes:
        return (sizes["long"] + sizes["short"]) / 2
    return sizes.get("diameter", sizes.get("long"))


def _millimetres(part: r4.Value) -> float | None:
    quantity = part.value_quantity
    if quantity is not None and quantity.value is not None and quantity.comparator is None:
        factor = _MM.get((quantity.code or quantity.unit or "").strip())
        return None if factor is None else float(quantity.value) * factor
    # RadElement's size is defined in millimetres and sent as a bare number.
    text = part.value_string if part.value_integer is None else str(part.value_integer)
    try:
        return float(text) if text and "RDE1302" in {code for _, code in part.code.codes} else None
    except ValueError:
        return None


def _codes(observation: r4.Observation) -> fhir.Codes:
    values: list[r4.Value] = [observation, *observation.component]
    return tuple(c for v in values if v.value_codeable_concept for c in v.value_codeable_concept.codes)


def _absent(observation: r4.Observation) -> bool:
    said = [v for v in observation.component if _PRESENCE & {code for _, code in v.code.codes}]
    return any(
        v.value_codeable_concept is None or not _PRESENT & {code for _, code in v.value_codeable_concept.codes}
        for v in said
    )


def _attenuation(found: frozenset[str]) -> Attenuation:
    if len(found) != 1:
        return "unknown"
    kinds: dict[str, Attenuation] = {"solid": "solid", "part_solid": "part_solid", "ground_glass": "ground_glass"}
    return kinds[next(iter(found))]


def _count(found: frozenset[str]) -> Literal["single", "multiple", "unknown"]:
    if found == {"multiple"}:
        return "multiple"
    return "single" if found == {"single"} else "unknown"


def _spiculated(observation: r4.Observation) -> bool:
    if nodule_terms(_codes(observation), "margin"):
        return True
    return any(nodule_terms(c.code.codes, "margin") and c.value_boolean is True for c in observation.component)


def _nested_site(resource: fhir.Resource) -> fhir.Codes:
    """`bodySite.code`, as RadElement's samples write it."""
    site = resource.get("bodySite")
    return fhir.codes_of(site.get("code")) if isinstance(site, Mapping) else ()


def _studies(resource: fhir.Resource) -> Iterator[str]:
    for key in ("derivedFrom", "partOf"):
        for reference in fhir.each(resource.get(key)):
            named: Any = reference.get("reference") if isinstance(reference, Mapping) else None
            if isinstance(named, str) and "ImagingStudy/" in named:
                yield named
