"""Progression of measured tumours by RECIST 1.1 (Eisenhauer, Eur J Cancer 2009;45:228): the sum of longest diameters.

Progression is a sum at least 20 % and at least 5 mm above the smallest sum before. Sums are compared only over the
same tumours: one that was not measured again leaves no sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

from fhir_mappers.record import Lesion

RELATIVE, ABSOLUTE_MM = 0.20, 5.0
MOST_TARGETS = 5


@dataclass(frozen=True, slots=True)
class Sum:
    at: datetime
    total_mm: float
    lesions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Progression:
    now: Sum
    nadir: Sum

    @property
    def percent(self) -> int:
        return int(100.0 * (self.now.total_mm - self.nadir.total_mm) / self.nadir.total_mm + 0.5)


def sums(lesions: Iterable[Lesion]) -> tuple[Sum, ...]:
    """One sum a day of measurement, newest first; of two measurements of one tumour on a day, the later."""
    days: dict[date, dict[str, Lesion]] = {}
    for lesion in sorted(lesions, key=lambda x: (x.at, x.source.reference)):
        days.setdefault(lesion.at.date(), {})[lesion.name] = lesion
    found = [
        Sum(max(x.at for x in day.values()), sum(x.diameter_mm for x in day.values()), frozenset(day))
        for day in days.values()
        if len(day) <= MOST_TARGETS
    ]
    return tuple(sorted(found, key=lambda s: s.at, reverse=True))


def progression(lesions: Iterable[Lesion]) -> Progression | None:
    """The newest sum against the smallest earlier one of the same tumours, where it has grown enough; else None."""
    found = sums(lesions)
    if not found:
        return None
    now = found[0]
    earlier = [s for s in found[1:] if s.lesions == now.lesions and s.total_mm > 0]
    if not earlier:
        return None
    nadir = min(earlier, key=lambda s: s.total_mm)
    grown = now.total_mm - nadir.total_mm
    enough = grown >= ABSOLUTE_MM - 1e-9 and grown >= RELATIVE * nadir.total_mm - 1e-9
    return Progression(now, nadir) if enough else None
