"""Wells score, PERC, YEARS and the D-dimer limits that go with them: which patients need no scan for embolism.

An item nobody has answered is None: scores are spans, and a rule that rules embolism out looks at the worse end.
Sources: Wells 2000 (Thromb Haemost 83:416; unlikely is 4 points or less), Kline 2004 (PERC, J Thromb Haemost 2:1247),
YEARS (van der Hulle, Lancet 2017;390:289), pregnancy-adapted YEARS (van der Pol, N Engl J Med 2019;380:1139),
ADJUST-PE (Righini, JAMA 2014;311:1117), ACP 2015 (Raja, Ann Intern Med 163:701: limits in FEU and in DDU).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

UNLIKELY = 4.0
"""Wells: embolism is unlikely at 4 points or less."""
POINTS = {
    "leg_signs": 3.0,
    "pe_most_likely": 3.0,
    "fast_heart": 1.5,
    "surgery_or_bedrest": 1.5,
    "previous_vte": 1.5,
    "haemoptysis": 1.0,
    "active_cancer": 1.0,
}
ADJUSTED_ABOVE = 50
"""Above this age in years the limit rises with age."""
FIXED_LIMIT, YEARS_LIMIT = 500.0, 1000.0
PER_YEAR = 10.0
"""All three in ng/mL FEU; D-dimer units are half of them (ACP 2015)."""

Kind = Literal["feu", "ddu"]
Item = bool | None
"""True, False, or None where it was neither charted nor answered."""


@dataclass(frozen=True, slots=True)
class Wells:
    """The seven items.

    leg_signs           clinical signs of deep vein thrombosis
    pe_most_likely      embolism is the most likely diagnosis, or as likely as another
    fast_heart          more than 100 beats a minute
    surgery_or_bedrest  surgery, or bed rest of three days, in the last four weeks
    active_cancer       treated, treated within six months, or palliative
    """

    leg_signs: Item = None
    pe_most_likely: Item = None
    fast_heart: Item = None
    surgery_or_bedrest: Item = None
    previous_vte: Item = None
    haemoptysis: Item = None
    active_cancer: Item = None

    @property
    def least(self) -> float:
        """Points of what is known to be present."""
        return sum(points for name, points in POINTS.items() if getattr(self, name) is True)

    @property
    def most(self) -> float:
        """The same with every open item present."""
        return sum(points for name, points in POINTS.items() if getattr(self, name) is not False)

    @property
    def open(self) -> tuple[str, ...]:
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is None)

    @property
    def years(self) -> tuple[int, int]:
        """YEARS items present, at least and at most: leg signs, haemoptysis, embolism most likely."""
        items = (self.leg_signs, self.haemoptysis, self.pe_most_likely)
        return sum(i is True for i in items), sum(i is not False for i in items)


@dataclass(frozen=True, slots=True)
class Perc:
    """The eight criteria, each True where it speaks against ruling out."""

    aged_50: Item
    heart_100: Item
    spo2_below_95: Item
    haemoptysis: Item
    oestrogen: Item
    previous_vte: Item
    leg_swelling: Item
    surgery_or_trauma: Item

    @property
    def negative(self) -> bool:
        """All eight are known to be absent."""
        return all(getattr(self, f.name) is False for f in fields(self))


@dataclass(frozen=True, slots=True)
class Limit:
    """A D-dimer limit in ng/mL of its own kind, and the rule it comes from."""

    value: float
    rule: Literal["fixed", "age-adjusted", "YEARS"]


def in_kind(feu: float, kind: Kind) -> float:
    """A limit in ng/mL FEU as one of this kind: two FEU are one DDU."""
    return feu if kind == "feu" else feu / 2


def age_adjusted(age: int, kind: Kind) -> Limit:
    """Age x 10 ng/mL FEU (x 5 DDU) above 50 years, else 500 (250)."""
    if age > ADJUSTED_ABOVE:
        return Limit(in_kind(age * PER_YEAR, kind), "age-adjusted")
    return Limit(in_kind(FIXED_LIMIT, kind), "fixed")


def years(items: int, kind: Kind) -> Limit:
    """1000 ng/mL FEU without any YEARS item, 500 with one or more."""
    return Limit(in_kind(YEARS_LIMIT if items == 0 else FIXED_LIMIT, kind), "YEARS")


def highest(limits: Iterable[Limit]) -> Limit:
    """The limit that rules most out: each of the rules is validated by itself. Of equals the first."""
    return max(limits, key=lambda limit: limit.value)
