"""Suspected infection, and whether an antibiotic is on its way: what rule DT-03 rests on.

Suspicion is an active infection on the problem list, or a culture together with an antibiotic within 72 hours
(Seymour, JAMA 2016;315:762, the clinical criteria of Sepsis-3). Antibiotics are the drugs of ATC group J01.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cds_service.advice.packs.pneumonia import CULTURES
from fhir_mappers.codes import ATC_SYSTEMS, LOINC_SYSTEMS, find_drugs, knows_drugs, lab_codes
from fhir_mappers.record import Order, PatientRecord

ANTIBACTERIAL = "J01"
CULTURE_CODES = frozenset(loinc for loinc, row in lab_codes().items() if row.analyte in CULTURES)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Why infection is suspected: the record's own words, its date, where it stands."""

    words: str
    at: datetime | None
    source: Literal["Problem list", "Orders", "Laboratory"]


@dataclass(frozen=True, slots=True)
class Antibiotic:
    """One antibiotic that was ordered or given; `at` None for an order without a date."""

    text: str
    at: datetime | None
    how: Literal["ordered", "given"]


@dataclass(frozen=True, slots=True)
class Cover:
    """What is known of antibiotics up to now.

    recent   ordered or given within the window; None where that cannot be known, for the reasons in `unknown`
    newest   the newest antibiotic at any time, None for none
    """

    recent: bool | None
    newest: Antibiotic | None
    unknown: tuple[str, ...] = ()


def antibacterial(codes: Iterable[tuple[str, str]]) -> bool:
    given = tuple(codes)
    if any(system in ATC_SYSTEMS and code.startswith(ANTIBACTERIAL) for system, code in given):
        return True
    return any(drug.atc.startswith(ANTIBACTERIAL) for drug in find_drugs(given))


def antibiotics(record: PatientRecord) -> tuple[Antibiotic, ...]:
    """Antibiotics ordered (active or completed orders, and drafts) and given, newest first."""
    found = [
        Antibiotic(e.text, e.start, "ordered")
        for e in record.events
        if e.kind == "medication" and e.status in ("active", "completed") and antibacterial(e.codes)
    ]
    found += [Antibiotic(o.text, record.as_of, "ordered") for o in _drafts(record) if antibacterial(o.codes)]
    found += [Antibiotic(d.text, d.at, "given") for d in record.doses if antibacterial(d.codes)]
    # An order without a date may be the newest of all.
    return tuple(sorted(found, key=lambda a: (a.at is not None, -a.at.timestamp() if a.at else 0.0, a.text)))


def cover(record: PatientRecord, within: timedelta, *, orders_read: bool, doses_read: bool) -> Cover:
    """Whether an antibiotic was ordered or given within `within`; what could not be read is never read as none."""
    found = antibiotics(record)
    newest = next((a for a in found if a.at is not None), found[0] if found else None)
    if any(a.at is not None and record.age_of(a.at) <= within for a in found):
        return Cover(True, newest)
    unknown = []
    if any(a.at is None for a in found):
        unknown.append("when the antibiotic was ordered")
    unmapped = _unmapped(record, within)
    if unmapped:
        unknown.append(f"what {unmapped} drug order{'s' if unmapped > 1 else ''} without a known code may be")
    # A single dose is completed once it is given: among the active orders it is not found, only among the doses.
    missing = not (orders_read and doses_read)
    return Cover(None if unknown or missing else False, newest, tuple(unknown))


def _drafts(record: PatientRecord) -> list[Order]:
    return [o for o in record.orders if o.draft and o.kind == "medication"]


def _unmapped(record: PatientRecord, within: timedelta) -> int:
    """Orders and doses of these hours, or of no known time, whose codes no table understands (DQ-7)."""
    given = [
        (e.codes, e.start) for e in record.events if e.kind == "medication" and e.status in ("active", "completed")
    ]
    given += [(o.codes, record.as_of) for o in _drafts(record)]
    given += [(d.codes, d.at) for d in record.doses]
    recent = [codes for codes, at in given if at is None or record.age_of(at) <= within]
    return sum(not find_drugs(codes) and not knows_drugs(codes) for codes in recent)


def suspected(record: PatientRecord, groups: Iterable[str], within: timedelta) -> Suspicion | None:
    """Why infection is suspected, or None. `groups` are condition groups, `within` the window of culture and drug."""
    condition = next((e for e in record.active(*groups) if e.kind == "condition"), None)
    if condition is not None:
        return Suspicion(condition.text, condition.start, "Problem list")
    treated = any(a.at is not None and record.age_of(a.at) <= within for a in antibiotics(record))
    culture = _culture(record, within)
    return culture if treated else None


def _culture(record: PatientRecord, within: timedelta) -> Suspicion | None:
    """The newest culture ordered, under way or resulted within `within`."""
    found = [Suspicion(o.text, o.authored, "Orders") for o in record.orders if not o.draft and _is_culture(o)]
    found += [Suspicion(r.name, r.at, "Laboratory") for r in record.lab_reports if r.analyte in CULTURES]
    found += [Suspicion(c.name.replace("_", " "), c.at, "Laboratory") for c in record.coded if c.name in CULTURES]
    recent = [s for s in found if s.at is not None and record.age_of(s.at) <= within]
    return max(recent, key=lambda s: (s.at.timestamp() if s.at else 0.0, s.words), default=None)


def _is_culture(order: Order) -> bool:
    return any(system in LOINC_SYSTEMS and code in CULTURE_CODES for system, code in order.codes)
