"""FHIR R4 search over plain JSON: the parameters a clinical decision support service asks for, read strictly.

A parameter that is not understood is refused with 400 unless the caller asks for `Prefer: handling=lenient`: an
ignored filter would answer a different question than was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

Resource = Mapping[str, Any]

TYPES = (
    "AllergyIntolerance",
    "Condition",
    "Consent",
    "Device",
    "DiagnosticReport",
    "Encounter",
    "Endpoint",
    "ImagingStudy",
    "Location",
    "Medication",
    "MedicationAdministration",
    "MedicationRequest",
    "Observation",
    "Patient",
    "Practitioner",
    "Procedure",
    "QuestionnaireResponse",
    "ServiceRequest",
)
PAGE = 50
LARGEST_PAGE = 500

# The element a date parameter or a sort order looks at, by type.
DATES: dict[str, tuple[str, ...]] = {
    "AllergyIntolerance": ("onsetDateTime", "recordedDate"),
    "Condition": ("onsetDateTime", "recordedDate"),
    "Consent": ("dateTime",),
    "DiagnosticReport": ("effectiveDateTime", "issued"),
    "Encounter": ("period.start",),
    "ImagingStudy": ("started",),
    "MedicationAdministration": ("effectiveDateTime", "effectivePeriod.start"),
    "MedicationRequest": ("authoredOn",),
    "Observation": ("effectiveDateTime", "issued"),
    "Procedure": ("performedDateTime",),
    "QuestionnaireResponse": ("authored",),
    "ServiceRequest": ("authoredOn",),
}
DATE_NAMES = {
    "AllergyIntolerance": ("onset", "date"),
    "Condition": ("onset-date", "recorded-date"),
    "ImagingStudy": ("started",),
    "MedicationAdministration": ("effective-time",),
    "MedicationRequest": ("authoredon",),
    "QuestionnaireResponse": ("authored",),
    "ServiceRequest": ("authored",),
}
TOKENS: dict[str, Mapping[str, str]] = {
    # parameter -> element, beside code, category and status, which every type has
    "AllergyIntolerance": {"clinical-status": "clinicalStatus", "verification-status": "verificationStatus"},
    "Condition": {"clinical-status": "clinicalStatus", "verification-status": "verificationStatus"},
    "ImagingStudy": {"modality": "modality", "identifier": "identifier"},
    "MedicationRequest": {"intent": "intent", "code": "medicationCodeableConcept"},
    "ServiceRequest": {"intent": "intent", "priority": "priority"},
    "Encounter": {"class": "class"},
    "Patient": {"identifier": "identifier", "gender": "gender"},
}
INCLUDES = {
    "ImagingStudy:endpoint": "Endpoint",
    "MedicationAdministration:medication": "Medication",
    "MedicationRequest:medication": "Medication",
    "Encounter:location": "Location",
    "Observation:specimen": "Specimen",
}
CONTROL = frozenset({"_sort", "_count", "_offset", "_format", "_include", "_total", "_summary", "_pretty"})


class BadSearch(ValueError):
    """A search cannot be understood; says which parameter, never its value."""


def search(
    type_: str, resources: Iterable[Resource], parameters: Sequence[tuple[str, str]], *, lenient: bool = False
) -> tuple[Resource, ...]:
    """The resources that match every parameter, sorted as asked (by id where not). Raises BadSearch."""
    kept = list(resources)
    for name, value in parameters:
        if name in CONTROL:
            continue
        matches = _filter(type_, name, value)
        if matches is None:
            if lenient:
                continue
            raise BadSearch(f"this server does not search {type_} by `{name[:40]}`")
        kept = [r for r in kept if matches(r)]
    kept.sort(key=lambda r: str(r.get("id")))
    for order in reversed([o for n, v in parameters if n == "_sort" for o in v.split(",") if o]):
        kept.sort(key=_sort_key(type_, order.removeprefix("-"), lenient), reverse=order.startswith("-"))
    return tuple(kept)


def page_of(parameters: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """(offset, count) asked for. Raises BadSearch."""
    asked = dict(parameters)
    numbers = []
    for name, default in (("_offset", 0), ("_count", PAGE)):
        text = asked.get(name, str(default))
        if not re.fullmatch(r"\d{1,6}", text):
            raise BadSearch(f"`{name}` is a whole number")
        numbers.append(int(text))
    return numbers[0], min(numbers[1], LARGEST_PAGE)


def included_types(parameters: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The types `_include` asks to bring along. Raises BadSearch."""
    asked = [value for name, value in parameters if name == "_include"]
    for value in asked:
        if value not in INCLUDES:
            raise BadSearch(f"`_include` knows {', '.join(INCLUDES)}")
    return tuple(INCLUDES[value] for value in asked)


Match = Callable[[Resource], bool]


def _filter(type_: str, name: str, value: str) -> Match | None:
    options = [o for o in value.split(",") if o]
    if name == "_id":
        return lambda r: r.get("id") in options
    if name in ("patient", "subject"):
        wanted = {o.rsplit("/", 1)[-1] for o in options}
        return lambda r: _patient_of(r) in wanted
    if name == "date" or name in DATE_NAMES.get(type_, ()):
        return _date_filter(type_, name, options) if type_ in DATES else None
    if name == "encounter":
        return lambda r: str((r.get("encounter") or {}).get("reference", "")).rsplit("/", 1)[-1] in options
    element = TOKENS.get(type_, {}).get(name) or (name if name in ("code", "category", "status") else None)
    if element is None:
        return None
    return lambda r: any(_token_matches(o, list(_codings(r.get(element)))) for o in options)


def _patient_of(resource: Resource) -> str:
    if resource.get("resourceType") == "Patient":
        return str(resource.get("id"))
    reference = (resource.get("subject") or resource.get("patient") or {}).get("reference", "")
    return str(reference).rsplit("/", 1)[-1]


def _codings(value: Any) -> Iterator[tuple[str, str]]:
    """(system, code) of whatever a token parameter may look at: code, Coding, Identifier, CodeableConcept, lists."""
    if isinstance(value, str):
        yield "", value
    elif isinstance(value, list):
        for item in value:
            yield from _codings(item)
    elif isinstance(value, Mapping):
        if "coding" in value:
            yield from _codings(value["coding"])
        elif "code" in value:
            yield value.get("system", ""), value["code"]
        elif "value" in value:
            yield value.get("system", ""), value["value"]


def _token_matches(token: str, codings: Sequence[tuple[str, str]]) -> bool:
    system, bar, code = token.partition("|")
    if not bar:
        return any(c == token for _, c in codings)
    return any((not code or c == code) and s == system for s, c in codings)


_DATE = re.compile(r"(eq|ge|gt|le|lt|ne)?(\d{4}-\d{2}-\d{2})(T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?")


def _date_filter(type_: str, name: str, options: Sequence[str]) -> Match:
    bounds = []
    for option in options:
        match = _DATE.fullmatch(option)
        if match is None:
            raise BadSearch(f"`{name}` is a date such as ge2026-01-31")
        prefix, day, time, zone = match.groups()
        start = datetime.fromisoformat(day + (time or "") + ("" if zone else "+00:00" if time else "T00:00+00:00"))
        bounds.append((prefix or "eq", start, start + (timedelta(seconds=1) if time else timedelta(days=1))))

    def matches(resource: Resource) -> bool:
        at = _date(type_, resource)
        return at is not None and any(_compare(at, *bound) for bound in bounds)

    return matches


def _compare(at: datetime, prefix: str, start: datetime, end: datetime) -> bool:
    return {
        "eq": start <= at < end,
        "ne": not start <= at < end,
        "ge": at >= start,
        "gt": at >= end,
        "le": at < end,
        "lt": at < start,
    }[prefix]


def _date(type_: str, resource: Resource) -> datetime | None:
    for path in DATES.get(type_, ()):
        value: Any = resource
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return datetime.fromisoformat(value)
    return None


EARLIEST = datetime.min.replace(tzinfo=UTC)


def _sort_key(type_: str, name: str, lenient: bool) -> Callable[[Resource], Any]:
    if name == "_id":
        return lambda r: str(r.get("id"))
    if name == "_lastUpdated":
        return lambda r: str((r.get("meta") or {}).get("lastUpdated", ""))
    # `authored` is what many manifests write; servers that do not know an order ignore it, and so do we for dates.
    if type_ in DATES or lenient:
        return lambda r: _date(type_, r) or EARLIEST
    raise BadSearch(f"this server does not sort {type_} by `{name[:40]}`")
