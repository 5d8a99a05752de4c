"""Who among a hospital's staff sees which card: the caller's PractitionerRole under the site's list. Pure.

A role nobody could read, and one the site does not list, is a prescriber's: a warning that does not reach the person
who orders does more harm than one that reaches a colleague. Source: CLINICAL.md 2.3 (8) and 2.5 of the specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from cds_service.cards import Card, Indicator
from cds_service.sites import Site, StaffRole
from fhir_mappers import fhir

METFORMIN = "IS-03"
ONE_LOWER: Mapping[Indicator, Indicator] = {"critical": "warning", "warning": "info", "info": "info"}


@dataclass(frozen=True, slots=True)
class Staff:
    """The user of a call: roles the site's list knows, specialties as `system|code`."""

    roles: frozenset[StaffRole] = frozenset()
    specialties: frozenset[str] = frozenset()

    def sees(self, service: str, hook: str, rules: Sequence[str]) -> bool:
        """Whether any of the user's roles sees this card; without a known role every card is seen."""
        return not self.roles or any(_sees(role, service, hook, rules) for role in self.roles)


def _sees(role: StaffRole, service: str, hook: str, rules: Sequence[str]) -> bool:
    if role == "nurse":
        return service == "deterioration"
    if role == "pharmacist":
        return service == "precision-prescribing" or METFORMIN in rules
    if role == "technologist":
        return service == "imaging-safety" and hook == "order-dispatch"
    return role == "prescriber"


def staff(resources: Iterable[Mapping[str, Any]], user: str | None, at: datetime, site: Site) -> Staff:
    """The roles this user has at this moment, by the PractitionerRoles that came."""
    if not site.roles or user is None:
        return Staff()
    held = [r for r in resources if fhir.type_of(r) == "PractitionerRole" and _is_of(r, user) and _holds(r, at)]
    known = [_known(concept, site) for role in held for concept in _concepts(role)]
    # Beside a role that the site does not list, which may be a prescriber's, a listed one hides nothing.
    roles = frozenset().union(*known) if all(known) else frozenset[StaffRole]()
    specialties = {f"{system}|{code}" for role in held for system, code in fhir.codes_of(role.get("specialty"))}
    return Staff(roles, frozenset(specialties))


def _concepts(role: Mapping[str, Any]) -> Sequence[Any]:
    """The role's codes, each a concept in several codings perhaps; one that says nothing where it has none."""
    code = role.get("code")
    return code if isinstance(code, list) and code else [code]


def _known(concept: Any, site: Site) -> frozenset[StaffRole]:
    """What the site's list calls this concept; nothing where it does not know it."""
    codes = (f"{system}|{code}" for system, code in fhir.codes_of(concept))
    return frozenset(site.roles[c] for c in codes if c in site.roles)


def _is_of(role: Mapping[str, Any], user: str) -> bool:
    kind, _, id_ = user.rpartition("/")
    if kind.endswith("PractitionerRole"):
        return fhir.id_of(role) == id_
    practitioner = role.get("practitioner")
    reference = practitioner.get("reference") if isinstance(practitioner, dict) else None
    return isinstance(reference, str) and fhir.last_segment(reference) == id_ and kind.endswith("Practitioner")


def _holds(role: Mapping[str, Any], at: datetime) -> bool:
    """Active, and within its period; a bound that is missing or cannot be read ends nothing."""
    period = role.get("period")
    period = period if isinstance(period, dict) else {}
    start, end = (period.get(name) for name in ("start", "end"))
    begun = fhir.read_start(start, at) if isinstance(start, str) else None
    ended = fhir.read_time(end, at) if isinstance(end, str) else None
    return role.get("active") is not False and (begun is None or begun <= at) and (ended is None or ended.at >= at)


def told(cards: Sequence[Card], who: Staff, service: str, hook: str, site: Site) -> tuple[list[Card], list[Card]]:
    """What this user is told, softer where every rule of a card is of the user's own specialty; and what not."""
    heard: list[Card] = []
    kept: list[Card] = []
    for card in cards:
        rules = card.basis.rules if card.basis is not None else ()
        if not who.sees(service, hook, rules):
            kept.append(card)
        elif rules and all(who.specialties.intersection(site.owners.get(rule, ())) for rule in rules):
            heard.append(msgspec.structs.replace(card, indicator=ONE_LOWER[card.indicator]))
        else:
            heard.append(card)
    return heard, kept
