"""What came for one key of evidence, sent as prefetch or read by us, and how a template becomes our own query."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cds_service import strict_json
from cds_service.hooks import HookRequest

if TYPE_CHECKING:
    from cds_service.evidence import Reason


@dataclass(frozen=True, slots=True)
class Sent:
    """Resources we have. `next_link` names a further page; `partial` says that some of the answer was unusable."""

    resources: tuple[Mapping[str, Any], ...] = field(repr=False)
    next_link: str | None = field(default=None, repr=False)
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Absent:
    """Known to be none: `null` or an empty Bundle, or a template that does not apply to this call."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not be had, and asking again is pointless within this call."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Query:
    """It was not sent: read `path`, relative to the FHIR server's base. `type_` is what must be among the answer."""

    path: str = field(repr=False)
    type_: str | None


Answer = Sent | Absent | Failed


def read_answer(body: bytes, type_: str | None) -> Answer:
    """Read one FHIR answer, in prefetch or from a server.

    type_  the resource type the template asks for; None where only the client knows it (`{{context.userId}}`).
           Resources of further types are kept: `_include` brings them, and so do queries typed by hand at a site.
    """
    try:
        data = strict_json.parse(body)
    except strict_json.BadJson:
        return Failed("bad-answer")
    if data is None:
        return Absent()
    found = data.get("resourceType") if isinstance(data, dict) else None
    if not isinstance(found, str):
        return Failed("bad-answer")
    if found == "OperationOutcome":
        return Failed("error")
    if found == "Bundle":
        return _read_bundle(data, type_)
    return Sent((data,)) if type_ in (None, found) else Failed("bad-answer")


def _read_bundle(bundle: Mapping[str, Any], type_: str | None) -> Answer:
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        return Failed("bad-answer")
    resources: list[Mapping[str, Any]] = []
    failed = partial = False
    for entry in entries:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
            partial = True
        elif resource["resourceType"] == "OperationOutcome":
            # Epic answers an empty search with a warning of its own; only an error says that data may be missing.
            failed = failed or _is_error(resource)
        elif not _is_outcome_entry(entry):
            resources.append(resource)
    next_link = _next_link(bundle)
    if not resources and next_link is None:
        return Failed("error") if failed else Failed("bad-answer") if partial else Absent()
    if type_ is not None and next_link is None and all(r["resourceType"] != type_ for r in resources):
        return Failed("bad-answer")
    return Sent(tuple(resources), next_link, partial or failed)


def _is_outcome_entry(entry: Mapping[str, Any]) -> bool:
    search = entry.get("search")
    return isinstance(search, dict) and search.get("mode") == "outcome"


def _is_error(outcome: Mapping[str, Any]) -> bool:
    issues = outcome.get("issue")
    return isinstance(issues, list) and any(
        isinstance(issue, dict) and issue.get("severity") in ("error", "fatal") for issue in issues
    )


def _next_link(bundle: Mapping[str, Any]) -> str | None:
    links = bundle.get("link")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("relation") == "next":
            url = link.get("url")
            return url if isinstance(url, str) and url else None
    return None


_TOKEN = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_TODAY = re.compile(r"today\(\)(?:\s*([+-])\s*(\d{1,5})\s+days?)?")
_REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/([^/\\]+)")
_USER_TYPES = {
    "userPractitionerId": "Practitioner",
    "userPractitionerRoleId": "PractitionerRole",
    "userPatientId": "Patient",
    "userRelatedPersonId": "RelatedPerson",
}


class NoValue(Exception):
    """A token of the template has no value in this call, so the template cannot be satisfied."""


def template_type(template: str) -> str | None:
    """The resource type a template asks for: `Observation` of `Observation?patient=...`; None for a bare token."""
    match = re.match(r"([A-Z][A-Za-z]+)[/?]", template)
    return match.group(1) if match else None


def expand(template: str, request: HookRequest) -> str:
    """Fill a prefetch template for our own query, every value percent-quoted.

    Raises NoValue for a token without a value, and for an id that would change the path (`../Observation`).
    """
    if bare := _TOKEN.fullmatch(template):
        # A token alone is a reference that names its type: `Practitioner/p1` (CDS Hooks 2.0, "Prefetch tokens").
        reference = _REFERENCE.fullmatch(_value(bare.group(1), request))
        if reference is None or set(reference.group(2)) <= {"."}:
            raise NoValue
        return f"{reference.group(1)}/{quote(reference.group(2), safe='')}"

    def fill(match: re.Match[str]) -> str:
        value = _value(match.group(1), request)
        if "?" not in template[: match.start()] and (re.search(r"[/\\]", value) or set(value) <= {"."}):
            raise NoValue
        return quote(value, safe="")

    return _encode_query(_TOKEN.sub(fill, template))


def _encode_query(path: str) -> str:
    """Quote what a manifest may write plainly: `code=http://loinc.org|2160-0`."""
    type_, mark, query = path.partition("?")
    return type_ + mark + quote(query, safe="%&=:/,$!*()'~@;+?-._")


def _value(token: str, request: HookRequest) -> str:
    if today := _TODAY.fullmatch(token):
        sign, days = today.groups()
        shift = timedelta(days=int(days or 0) * (-1 if sign == "-" else 1))
        return (request.received_at + shift).date().isoformat()
    if token in _USER_TYPES:
        user = _context(request, "userId")
        reference = _REFERENCE.fullmatch(user)
        if reference is None or reference.group(1) != _USER_TYPES[token]:
            raise NoValue
        return reference.group(2)
    scope, _, name = token.partition(".")
    if scope != "context" or not name.isalpha():
        raise NoValue
    return _context(request, name)


def _context(request: HookRequest, name: str) -> str:
    attribute = re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()
    value = getattr(request.context, attribute, None)
    if not isinstance(value, str) or not value:
        raise NoValue
    return value


def without_repeats(resources: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Two keys may both bring the same resource; an identical second copy adds nothing."""
    seen: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    kept = []
    for resource in resources:
        id_ = resource.get("id")
        if isinstance(id_, str):
            same = seen.setdefault((resource["resourceType"], id_), [])
            if resource in same:
                continue
            same.append(resource)
        kept.append(resource)
    return tuple(kept)
