"""QTc, the drugs that prolong it, and the Tisdale score (CLINICAL 4.7, QT-01 and QT-02).

Sources: AHA/ACC statement on torsade de pointes in hospital (Drew, Circulation 2010;121:1047) for the limits; Tisdale
score (Circ Cardiovasc Qual Outcomes 2013;6:479). QTc in ms, potassium in mmol/L, magnesium in mg/dL.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from cds_service.advice.packs.quality import Reading, above, before, below, interval, reading
from fhir_mappers.codes import Drug, find_drugs
from fhir_mappers.record import Event, Lab, Order, PatientRecord

HIGH_MS = 500.0
RISE_MS = 60.0
LONG_MS = {"male": 470.0, "female": 480.0, "unknown": 480.0}
"""Men 470, women 480; for an unknown sex the limit that holds for both (DQ-11)."""
POTASSIUM_LOW, MAGNESIUM_LOW = 3.5, 1.6
BASELINE = timedelta(days=365)
MODERATE, HIGH_RISK = 7, 11
"""Tisdale: up to 6 low, 7 to 10 moderate, 11 and above high."""
ACUTE_MI = timedelta(days=28)
ACUTE_MI_CODES = ("I21", "I22")
PACED = ("pacemaker", "icd_device")


def qt_drugs(codes: Iterable[tuple[str, str]]) -> tuple[Drug, ...]:
    """The ingredients among these codes whose label warns of QT prolongation."""
    return tuple(drug for drug in find_drugs(codes) if drug.qt)


@dataclass(frozen=True, slots=True)
class Tisdale:
    """`low` counts only what is known; `high` adds what could be; `items` are (words, points) that were counted."""

    low: int
    high: int
    items: tuple[tuple[str, int], ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"at least {self.low}"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What bears on QT for one ordered drug.

    sets   which of the three sets of facts hold: QTc 500 or more; a rise of 60 or more; long with a second burden
    lead   the earlier QTc a rise is counted from
    others the other QT drugs, ordered or taken, by ingredient
    """

    qtc: Reading
    potassium: Reading
    magnesium: Reading
    sets: tuple[str, ...]
    lead: Lab | None
    others: tuple[str, ...]
    tisdale: Tisdale
    congenital: Event | None
    paced: Event | None


def rhythm(record: PatientRecord, order: Order) -> Rhythm:
    """Judge the rhythm for a drug that is being ordered."""
    qtc, potassium, magnesium = (reading(record, analyte) for analyte in ("qtc", "potassium", "magnesium"))
    others = _others(record, order)
    lead = _lead(qtc)
    sets = []
    if qtc.lab is not None:
        low_end = interval(qtc.lab)[0]
        if low_end >= HIGH_MS:
            sets.append("QTc of 500 ms or more")
        if lead is not None and low_end - interval(lead)[1] >= RISE_MS:
            sets.append("QTc rose by 60 ms or more")
        burden = (
            (potassium.lab is not None and below(potassium.lab, POTASSIUM_LOW) is True)
            or (magnesium.lab is not None and below(magnesium.lab, MAGNESIUM_LOW) is True)
            or len(others) >= 2
        )
        if LONG_MS[record.person.sex] <= low_end < HIGH_MS and burden:
            sets.append("long QTc with low potassium or magnesium, or two other QT drugs")
    congenital, paced = record.active("long_qt"), record.active(*PACED)
    return Rhythm(
        qtc,
        potassium,
        magnesium,
        tuple(sets),
        lead,
        others,
        tisdale(record, 1 + len(others)),
        congenital[0] if congenital else None,
        paced[0] if paced else None,
    )


def _lead(qtc: Reading) -> Lab | None:
    """The shortest QTc of the year before the newest one: what it was without the burden of today."""
    now = qtc.lab
    if now is None:
        return None
    earlier = [lab for lab in qtc.trend if lab is not now and before(lab, now) and now.at - lab.at <= BASELINE]
    return min(earlier, key=lambda lab: interval(lab)[1], default=None)


def _others(record: PatientRecord, order: Order) -> tuple[str, ...]:
    """QT drugs the patient takes or is being ordered beside this one, each ingredient once."""
    own = {drug.ingredient for drug in qt_drugs(order.codes)}
    found: dict[str, None] = {}
    codes = [e.codes for e in record.events if e.kind == "medication" and e.active and e.source.reference != order.ref]
    codes += [o.codes for o in record.orders if o.kind == "medication" and o is not order]
    for coded in codes:
        found.update(dict.fromkeys(d.ingredient for d in qt_drugs(coded) if d.ingredient not in own))
    return tuple(sorted(found))


def tisdale(record: PatientRecord, drugs: int) -> Tisdale:
    """The score with `drugs` QT drugs on board, the ordered one counted."""
    items: list[tuple[str, int]] = []
    missing: list[tuple[str, int]] = []

    def count(words: str, points: int, holds: bool | None) -> None:
        if holds is None:
            missing.append((words, points))
        elif holds:
            items.append((words, points))

    ages = record.age_years()
    count("age 68 or over", 1, None if ages is None or ages[0] < 68 <= ages[1] else ages[0] >= 68)
    count("female", 1, None if record.person.sex == "unknown" else record.person.sex == "female")
    count("loop diuretic", 1, bool(record.active("loop_diuretic")))
    potassium, qtc = reading(record, "potassium").lab, reading(record, "qtc").lab
    # 3.5 or less counts here, less than 3.5 in the rule: the two sources differ.
    count("potassium 3.5 or less", 2, None if potassium is None else _not(above(potassium, 3.5)))
    count("QTc 450 or more", 2, None if qtc is None else _not(below(qtc, 450.0)))
    count("acute myocardial infarction", 2, _acute_infarction(record))
    count("sepsis", 3, bool(record.active("sepsis")))
    count("heart failure", 3, bool(record.active("heart_failure", "chf")))
    count("a QT drug", 3, drugs >= 1)
    count("two or more QT drugs", 3, drugs >= 2)
    low = sum(points for _, points in items)
    return Tisdale(low, low + sum(p for _, p in missing), tuple(items), tuple(words for words, _ in missing))


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _acute_infarction(record: PatientRecord) -> bool:
    return any(
        event.start is None or record.age_of(event.start) <= ACUTE_MI
        for event in record.active("acs")
        if any(code.replace(".", "").upper().startswith(ACUTE_MI_CODES) for _, code in event.codes)
    )
