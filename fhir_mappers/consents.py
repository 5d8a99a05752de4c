"""Goals of care in FHIR: Consent -> Coded, one for every code its provisions permit (CLINICAL 3.4)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from fhir_mappers import fhir, r4
from fhir_mappers.record import Coded, Gap

GOAL = "goal_of_care"


class Provision(r4.Part, frozen=True):
    """`type` absent at the root means that the nested provisions decide; `deny` says what is not agreed to."""

    type: str | None = None
    period: r4.Period | None = None
    code: list[r4.Concept] = []
    provision: list[Provision] = []


class Consent(r4.Part, frozen=True):
    status: str = ""
    category: list[r4.Concept] = []
    date_time: str | None = None
    provision: Provision | None = None


def read_consent(resource: fhir.Resource, as_of: datetime) -> Iterator[Coded | Gap]:
    """Read an active Consent. Raises fhir.Malformed.

    A provision of type `deny`, or one whose period is over or has not begun, states no goal.
    """
    reference = fhir.reference_of(resource)
    consent = fhir.read(resource, Consent)
    if consent.status != "active":
        yield Gap("bad-status", "Consent", reference)
        return
    at = fhir.read_start(consent.date_time, as_of)
    if fhir.in_future(at, as_of):
        yield Gap("future", "Consent", reference)
        return
    codes = dict.fromkeys(_permitted(consent.provision, as_of)) if consent.provision else {}
    if not codes:
        yield Gap("no-value", "Consent", reference)
    for code in codes:
        yield Coded(name=GOAL, loinc="", answer=code, text="", at=at, source=fhir.source_of(resource))


def _permitted(provision: Provision, as_of: datetime) -> Iterator[tuple[str, str]]:
    period = provision.period or r4.Period()
    begins, ends = fhir.read_start(period.start, as_of), fhir.read_time(period.end, as_of)
    if (begins is not None and begins > as_of) or (ends is not None and ends.at < as_of):
        return
    if provision.type != "deny":
        yield from (code for concept in provision.code for code in concept.codes)
    for nested in provision.provision:
        yield from _permitted(nested, as_of)
