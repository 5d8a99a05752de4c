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
from collections.abc import Iterator, Mapping
from functools import cache
from threading import Lock
from typing import Any, TypeVar

import msgspec

from fhir_mappers.r4 import Codes, Part
from fhir_mappers.record import Source
from fhir_mappers.times import SKEW, Moment, date_bounds, in_future, read_start, read_time

__all__ = [
    "SKEW",
    "Codes",
    "Malformed",
    "Moment",
    "Resource",
    "codes_of",
    "date_bounds",
    "each",
    "id_of",
    "in_future",
    "last_segment",
    "names_patient",
    "points_at",
    "read",
    "read_start",
    "read_time",
    "reference_of",
    "referred",
    "source_of",
    "status_of",
    "type_of",
]

Resource = Mapping[str, Any]
Object = (dict, Mapping)
"""A JSON object. dict stands first because asking the abstract class took a quarter of the time of reading a chart."""
T = TypeVar("T", bound="Part")


class Malformed(ValueError):
    """A resource does not have the shape FHIR gives its type. Says which type, never what was in it."""


_building = Lock()


@cache
def _build(kind: type[Part]) -> None:
    """Have msgspec work a type out, which it otherwise does at the first use.

    A second thread that comes meanwhile would be given the half-built type, and the process would end by its null
    pointers (msgspec 0.22): so did services whose first calls came together.
    """
    with _building:
        msgspec.json.Decoder(kind)


def read(resource: Resource, kind: type[T]) -> T:
    """Read one resource into its typed subset. Raises Malformed, naming the type only."""
    _build(kind)
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
    kind = resource.get("resourceType") if isinstance(resource, Object) else None
    return kind if isinstance(kind, str) else ""


def id_of(resource: Resource) -> str:
    value = resource.get("id")
    return value if isinstance(value, str) else ""


def status_of(resource: Resource) -> str:
    value = resource.get("status")
    return value if isinstance(value, str) else ""


def reference_of(resource: Resource) -> str:
    """`Observation/123`; only the type for a resource without an id."""
    kind, id_ = resource.get("resourceType"), resource.get("id")
    kind = kind if isinstance(kind, str) and kind else "unknown"
    return f"{kind}/{id_}" if isinstance(id_, str) and id_ else kind


def source_of(resource: Resource) -> Source:
    meta = resource.get("meta")
    version = meta.get("versionId") if isinstance(meta, Object) else None
    return Source(reference_of(resource), version if isinstance(version, str) else None)


def each(value: Any) -> Iterator[Any]:
    """The elements of a list, or the one thing that stands where a list belongs."""
    if isinstance(value, list | tuple):
        yield from value
    elif value is not None:
        yield value


def codes_of(value: Any) -> Codes:
    """The (system, code) pairs of CodeableConcepts or Codings in plain JSON, whatever else is wrong with them."""
    if value is None:
        return ()
    found: list[tuple[str, str]] = []
    # No generators here and no look at a code that is not there: this runs several times for every resource.
    for concept in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(concept, Object):
            continue
        inner = concept.get("coding")
        codings = inner if isinstance(inner, list | tuple) else () if inner is None else (inner,)
        for coding in (concept, *codings) if "code" in concept else codings:
            if isinstance(coding, Object) and isinstance(code := coding.get("code"), str) and code:
                system = coding.get("system")
                found.append((system if isinstance(system, str) else "", code))
    return tuple(found)


_HISTORY = re.compile(r"/_history/[^/]*$")


def last_segment(reference: str) -> str:
    """`123` of `Patient/123`, `https://ehr/fhir/Patient/123/_history/2` and `urn:uuid:123`."""
    return _unversioned(reference).rsplit("/", 1)[-1].rsplit(":", 1)[-1]


def _unversioned(reference: str) -> str:
    return _HISTORY.sub("", reference) if "/_history/" in reference else reference


def points_at(reference: str, kind: str, id_: str) -> bool:
    """Whether a reference (relative, absolute or urn) means this resource, as far as its words can tell.

    A bare id counts only as a urn; `Group/123` is not `Patient/123`.
    """
    if not id_ or last_segment(reference) != id_:
        return False
    if reference.startswith(("urn:uuid:", "urn:oid:")):
        return True
    parts = _unversioned(reference).split("/")
    return len(parts) >= 2 and parts[-2] == kind


def names_patient(resource: Resource, patient_id: str) -> bool | None:
    """Whether a resource is about this patient; None where it names nobody."""
    if type_of(resource) == "Patient":
        return id_of(resource) == patient_id
    for key in ("subject", "patient", "beneficiary"):
        subject = resource.get(key)
        if isinstance(subject, list | tuple):
            subject = subject[0] if subject else None
        if subject is not None:
            reference = subject.get("reference") if isinstance(subject, Object) else None
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
