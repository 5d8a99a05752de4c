"""Fleischner Society 2017: when a nodule found by chance is to be looked at again by CT.

MacMahon, Radiology 2017;284:228, tables for solid and subsolid nodules. For adults of 35 and over without known
cancer, immune suppression or a screening programme. Months count from the CT that showed the nodule first.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

SMALL, LARGE = 6.0, 8.0
"""mm: below the first no routine follow-up of a solid nodule, above the second one of more than watching."""
YOUNGEST = 35
EARLY = timedelta(days=30)
"""A CT this much before its window has still served as that step's."""
YEAR_2, YEAR_4, YEAR_5 = 24, 48, 60

Attenuation = Literal["solid", "part_solid", "ground_glass"]


@dataclass(frozen=True, slots=True)
class Step:
    """One CT: in months after the first. `firm` is False where the guideline says optional or consider."""

    first: int
    last: int
    firm: bool = True

    def __str__(self) -> str:
        return f"{self.first} months" if self.first == self.last else f"{self.first}-{self.last} months"


@dataclass(frozen=True, slots=True)
class Plan:
    """The CTs the guideline foresees, in order; none where it asks for none.

    or_tissue   PET-CT or tissue sampling stands beside the first CT
    """

    steps: tuple[Step, ...]
    or_tissue: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """The next CT, as dates."""

    step: Step
    first: date
    last: date


def plan(attenuation: Attenuation, size_mm: float, *, multiple: bool, high_risk: bool) -> Plan:
    """The follow-up of a nodule by what it is, its mean diameter, whether it is alone, and the patient's risk.

    The size is rounded to whole millimetres, as the guideline states it: 5.5 mm is 6 mm.
    """
    size = float(int(size_mm + 0.5))
    if attenuation == "solid":
        return _solid(size, multiple=multiple, high_risk=high_risk)
    if multiple:
        # Below 6 mm, if stable: consider 2 and 4 years. From 6 mm the most suspicious nodule decides what follows.
        later = (Step(YEAR_2, YEAR_2, firm=False), Step(YEAR_4, YEAR_4, firm=False)) if size < SMALL else ()
        return Plan((Step(3, 6), *later))
    if size < SMALL:
        return Plan(())
    if attenuation == "ground_glass":
        return Plan((Step(6, 12), Step(36, 36), Step(YEAR_5, YEAR_5)))
    return Plan((Step(3, 6), *(Step(m, m) for m in (12, YEAR_2, 36, YEAR_4, YEAR_5))))


def _solid(size: float, *, multiple: bool, high_risk: bool) -> Plan:
    if size < SMALL:
        return Plan((Step(12, 12, firm=False),) if high_risk else ())
    if multiple:
        return Plan((Step(3, 6), Step(18, 24, firm=high_risk)))
    if size <= LARGE:
        return Plan((Step(6, 12), Step(18, 24, firm=high_risk)))
    return Plan((Step(3, 3, firm=False),), or_tissue=True)


def next_due(given: Plan, first_seen: date, later: Iterable[date]) -> Due | None:
    """The first step no later CT has served, or None when all are done.

    A CT serves the last step whose window had begun, or was about to; one step is served by one CT of that time.
    """
    waiting = list(given.steps)
    for done in sorted(later):
        begun = [s for s in waiting if add_months(first_seen, s.first) - EARLY <= done]
        if begun:
            waiting = waiting[waiting.index(begun[-1]) + 1 :]
    if not waiting:
        return None
    step = waiting[0]
    return Due(step, add_months(first_seen, step.first), add_months(first_seen, step.last))


def add_months(day: date, months: int) -> date:
    """The same day of a later month, or that month's last."""
    year, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + year, month + 1
    return date(year, month, min(day.day, monthrange(year, month)[1]))
