"""The parts of FHIR R4 resources that we read, typed and lenient, and the plain-JSON look that comes before them.

A resource is selected on its plain JSON (whose is it, which code does it carry); `read` is spent only on what is
used, resource by resource, so that a broken one costs itself alone.

Why msgspec and not fhir.resources here: on a Bundle of 100 entries fhir.resources 8.3 took 43.7 ms and msgspec
0.116 ms, 377 times less; one unknown field fails the whole Bundle there, and it has no R4 classes. Reading is
therefore done with these subsets, and what we emit is validated with fhir.resources (its R4B classes).

Lenient means: unknown fields and extensions are ignored; an object where a list belongs is read as a list of one,
and a list of one where an object belongs as its only element (sandbox drafts, R5 shapes); null is absent; a number
written as text is read. It never means a guess: a list of two where one belongs is malformed.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple, TypeVar

import msgspec

from fhir_mappers.record import Source

Resource = Mapping[str, Any]
Codes = tuple[tuple[str, str], ...]
T = TypeVar("T", bound="Part")

SKEW = timedelta(minutes=10)
"""How far ahead of our clock a time may lie and still be believed (CLINICAL.md 3.1, DQ-9)."""


class Malformed(ValueError):
    """A resource does not have the shape FHIR gives its type. Says which type, never what was in it."""


class Part(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What every subset here has in common: names in FHIR's camelCase, unknown fields ignored."""


class Coding(Part, frozen=True):
    system: str | None = None
    code: str | None = None
    display: str | None = None


class Concept(Part, frozen=True):
    """CodeableConcept or Coding: R4 and R5 differ in which of the two stands where (ImagingStudy.modality)."""

    coding: list[Coding] = []
    text: str | None = None
    system: str | None = None
    code: str | None = None
    display: str | None = None

    @property
    def codes(self) -> Codes:
        own = [(self.system or "", self.code)] if self.code else []
        return (*own, *((c.system or "", c.code) for c in self.coding if c.code))

    @property
    def words(self) -> str:
        """The record's own wording: text, else the first display. For showing, never for matching."""
        return self.text or self.display or next((c.display for c in self.coding if c.display), "") or ""

    def says(self, *codes: str) -> bool:
        """Whether one of these codes is ours; for FHIR's own small value sets, where systems are often left out."""
        return any(code in codes for _, code in self.codes)


class Quantity(Part, frozen=True):
    value: int | float | None = None
    comparator: str | None = None
    unit: str | None = None
    system: str | None = None
    code: str | None = None


class Reference(Part, frozen=True):
    reference: str | None = None
    display: str | None = None


class Period(Part, frozen=True):
    start: str | None = None
    end: str | None = None


class Annotation(Part, frozen=True):
    text: str | None = None


class Meta(Part, frozen=True):
    version_id: str | None = None


class Range(Part, frozen=True):
    low: Quantity | None = None
    high: Quantity | None = None
    type: Concept | None = None
    applies_to: list[Concept] = []
    age: dict[str, Any] | None = None


class Value(Part, frozen=True):
    """The value[x] of an Observation or of one of its components."""

    code: Concept = Concept()
    value_quantity: Quantity | None = None
    value_codeable_concept: Concept | None = None
    value_string: str | None = None
    value_boolean: bool | None = None
    value_integer: int | None = None
    value_date_time: str | None = None
    data_absent_reason: Concept | None = None
    interpretation: list[Concept] = []
    reference_range: list[Range] = []


class Observation(Value, frozen=True):
    id: str | None = None
    meta: Meta | None = None
    status: str = ""
    category: list[Concept] = []
    effective_date_time: str | None = None
    effective_period: Period | None = None
    effective_instant: str | None = None
    issued: str | None = None
    note: list[Annotation] = []
    component: list[Value] = []


class Condition(Part, frozen=True):
    code: Concept = Concept()
    clinical_status: Concept | None = None
    verification_status: Concept | None = None
    onset_date_time: str | None = None
    onset_period: Period | None = None
    abatement_date_time: str | None = None
    abatement_period: Period | None = None
    recorded_date: str | None = None


class Rate(Part, frozen=True):
    dose_quantity: Quantity | None = None


class Dosage(Part, frozen=True):
    text: str | None = None
    dose_and_rate: list[Rate] = []


class Ingredient(Part, frozen=True):
    item_codeable_concept: Concept | None = None


class Medication(Part, frozen=True):
    code: Concept = Concept()
    ingredient: list[Ingredient] = []


class MedicationRequest(Part, frozen=True):
    status: str = ""
    intent: str = ""
    priority: str = ""
    do_not_perform: bool = False
    medication_codeable_concept: Concept | None = None
    medication_reference: Reference | None = None
    authored_on: str | None = None
    dosage_instruction: list[Dosage] = []


class Reaction(Part, frozen=True):
    substance: Concept | None = None
    manifestation: list[Concept] = []
    severity: str | None = None


class AllergyIntolerance(Part, frozen=True):
    code: Concept = Concept()
    clinical_status: Concept | None = None
    verification_status: Concept | None = None
    criticality: str | None = None
    onset_date_time: str | None = None
    recorded_date: str | None = None
    reaction: list[Reaction] = []


class Procedure(Part, frozen=True):
    status: str = ""
    code: Concept = Concept()
    performed_date_time: str | None = None
    performed_period: Period | None = None


class ServiceRequest(Part, frozen=True):
    status: str = ""
    intent: str = ""
    priority: str = ""
    do_not_perform: bool = False
    category: list[Concept] = []
    code: Concept = Concept()
    order_detail: list[Concept] = []
    authored_on: str | None = None


class Identifier(Part, frozen=True):
    system: str | None = None
    value: str | None = None


class SeriesInstance(Part, frozen=True):
    uid: str = ""
    sop_class: Concept = Concept()
    number: int = 0


class Series(Part, frozen=True):
    uid: str = ""
    modality: Concept = Concept()
    description: str | None = None
    body_site: Concept | None = None
    endpoint: list[Reference] = []
    instance: list[SeriesInstance] = []


class ImagingStudy(Part, frozen=True):
    status: str = ""
    identifier: list[Identifier] = []
    modality: list[Concept] = []
    started: str | None = None
    description: str | None = None
    procedure_code: list[Concept] = []
    endpoint: list[Reference] = []
    series: list[Series] = []


class Endpoint(Part, frozen=True):
    status: str = ""
    connection_type: Concept | None = None
    address: str = ""


class DiagnosticReport(Part, frozen=True):
    status: str = ""
    category: list[Concept] = []
    code: Concept = Concept()
    effective_date_time: str | None = None
    effective_period: Period | None = None
    issued: str | None = None
    conclusion: str | None = None
    imaging_study: list[Reference] = []


class Extension(Part, frozen=True):
    url: str = ""
    value_codeable_concept: Concept | None = None
    extension: list[Any] = []


class Patient(Part, frozen=True):
    gender: str | None = None
    birth_date: str | None = None
    deceased_boolean: bool | None = None
    deceased_date_time: str | None = None
    identifier: list[Identifier] = []
    extension: list[Extension] = []


class EncounterLocation(Part, frozen=True):
    location: Reference = Reference()
    status: str | None = None
    period: Period | None = None


class Encounter(Part, frozen=True):
    status: str = ""
    class_: Concept = msgspec.field(name="class", default=Concept())
    period: Period | None = None
    service_type: Concept | None = None
    location: list[EncounterLocation] = []


class Location(Part, frozen=True):
    type: list[Concept] = []


class Device(Part, frozen=True):
    status: str = ""
    type: Concept = Concept()
    safety: list[Concept] = []
    udi_carrier: list[dict[str, Any]] = []


def read(resource: Resource, kind: type[T]) -> T:
    """Read one resource into its typed subset. Raises Malformed, naming the type only."""
    try:
        return msgspec.convert(resource, kind, strict=False)
    except (msgspec.ValidationError, RecursionError):
        pass
    try:  # rarely needed, so the shapes are mended only after the quick way has failed
        return msgspec.convert(_fit(resource, msgspec.inspect.type_info(kind)), kind, strict=False)
    except (msgspec.ValidationError, RecursionError):
        raise Malformed(f"{kind.__name__}: not the shape FHIR R4 gives it") from None


def _fit(value: Any, shape: msgspec.inspect.Type) -> Any:
    if isinstance(shape, msgspec.inspect.UnionType):
        rest = [t for t in shape.types if not isinstance(t, msgspec.inspect.NoneType)]
        return _fit(value, rest[0]) if len(rest) == 1 else value
    if isinstance(shape, msgspec.inspect.ListType):
        items = value if isinstance(value, list | tuple) else [value]
        return [_fit(item, shape.item_type) for item in items if item is not None]
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(shape, msgspec.inspect.StructType) and isinstance(value, Mapping):
        known = ((f, value.get(f.encode_name)) for f in shape.fields)
        return {f.encode_name: _fit(item, f.type) for f, item in known if item is not None}
    return value


# --- the look at plain JSON, before anything is validated -------------------------------------------------------


def type_of(resource: Any) -> str:
    """The resourceType, or the empty string for what is no resource at all."""
    kind = resource.get("resourceType") if isinstance(resource, Mapping) else None
    return kind if isinstance(kind, str) else ""


def id_of(resource: Resource) -> str:
    value = resource.get("id")
    return value if isinstance(value, str) else ""


def reference_of(resource: Resource) -> str:
    """`Observation/123`; only the type for a resource without an id."""
    kind, id_ = type_of(resource) or "unknown", id_of(resource)
    return f"{kind}/{id_}" if id_ else kind


def source_of(resource: Resource) -> Source:
    meta = resource.get("meta")
    version = meta.get("versionId") if isinstance(meta, Mapping) else None
    return Source(reference_of(resource), version if isinstance(version, str) else None)


def each(value: Any) -> Iterator[Any]:
    """The elements of a list, or the one thing that stands where a list belongs."""
    if isinstance(value, list | tuple):
        yield from value
    elif value is not None:
        yield value


def codes_of(value: Any) -> Codes:
    """The (system, code) pairs of CodeableConcepts or Codings in plain JSON, whatever else is wrong with them."""
    found: list[tuple[str, str]] = []
    for concept in each(value):
        if not isinstance(concept, Mapping):
            continue
        for coding in (concept, *each(concept.get("coding"))):
            if isinstance(coding, Mapping) and isinstance(coding.get("code"), str) and coding["code"]:
                system = coding.get("system")
                found.append((system if isinstance(system, str) else "", coding["code"]))
    return tuple(found)


_HISTORY = re.compile(r"/_history/[^/]*$")


def last_segment(reference: str) -> str:
    """`123` of `Patient/123`, `https://ehr/fhir/Patient/123/_history/2` and `urn:uuid:123`."""
    return _HISTORY.sub("", reference).rsplit("/", 1)[-1].rsplit(":", 1)[-1]


def points_at(reference: str, kind: str, id_: str) -> bool:
    """Whether a reference (relative, absolute or urn) means this resource, as far as its words can tell.

    A bare id counts only as a urn; `Group/123` is not `Patient/123`.
    """
    if not id_ or last_segment(reference) != id_:
        return False
    if reference.startswith(("urn:uuid:", "urn:oid:")):
        return True
    parts = _HISTORY.sub("", reference).split("/")
    return len(parts) >= 2 and parts[-2] == kind


def names_patient(resource: Resource, patient_id: str) -> bool | None:
    """Whether a resource is about this patient; None where it names nobody."""
    if type_of(resource) == "Patient":
        return id_of(resource) == patient_id
    for key in ("subject", "patient", "beneficiary"):
        subject = next(each(resource.get(key)), None)
        if subject is not None:
            reference = subject.get("reference") if isinstance(subject, Mapping) else None
            return isinstance(reference, str) and points_at(reference, "Patient", patient_id)
    return None


def referred(
    resource: Resource, reference: str | None, kind: str, supporting: Mapping[str, Resource]
) -> Resource | None:
    """The resource of this type that a reference means: one contained in `resource`, else one that came along.

    supporting  resources by `Type/id`, of types that belong to no patient (Medication, Endpoint, Location)
    """
    if not reference:
        return None
    if not reference.startswith("#"):
        return supporting.get(f"{kind}/{last_segment(reference)}")
    inside = (r for r in each(resource.get("contained")) if type_of(r) == kind)
    return next((r for r in inside if id_of(r) == reference[1:]), None)


# --- times ------------------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """A FHIR date or dateTime. `has_time` is False for a date; `at` is then the end of that day."""

    at: datetime
    has_time: bool


_TIMED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?")
_DATED = re.compile(r"\d{4}-\d\d-\d\d")
_PARTIAL = re.compile(r"(\d{4})(?:-(\d\d))?")


def read_time(text: str | None, as_of: datetime) -> Moment | None:
    """Read a dateTime or instant; None for what is absent, partial or no time at all.

    A time without an offset, which FHIR forbids, is taken as UTC. A date counts as the end of its day in the
    time zone of `as_of`, and the day of `as_of` itself as `as_of`: it happened today, we cannot say when.
    """
    if not text:
        return None
    try:
        if _TIMED.fullmatch(text):
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            at.astimezone(UTC)  # raises where an offset leads out of the calendar
            return Moment(at, True)
        if _DATED.fullmatch(text):
            day = date.fromisoformat(text)
            end = datetime.combine(day, time(23, 59, 59), as_of.tzinfo or UTC)
            end.astimezone(UTC)
            return Moment(as_of if day == as_of.date() else end, False)
    except (ValueError, OverflowError):
        return None
    return None


def read_start(text: str | None, as_of: datetime) -> datetime | None:
    """Like `read_time` for onsets, where a month or a year is worth having: its first day."""
    moment = read_time(text, as_of)
    if moment:
        return moment.at
    first = date_bounds(text)
    return datetime.combine(first[0], time(), as_of.tzinfo or UTC) if first else None


def date_bounds(text: str | None) -> tuple[date, date] | None:
    """The first and last day that a date, a month or a year allows."""
    if not text:
        return None
    try:
        if _DATED.fullmatch(text[:10]):
            day = date.fromisoformat(text[:10])
            return day, day
        match = _PARTIAL.fullmatch(text)
        if not match:
            return None
        year, month = int(match[1]), match[2]
        if month is None:
            return date(year, 1, 1), date(year, 12, 31)
        return date(year, int(month), 1), date(year, int(month), monthrange(year, int(month))[1])
    except ValueError:
        return None


def in_future(at: datetime | None, as_of: datetime) -> bool:
    return at is not None and at > as_of + SKEW
