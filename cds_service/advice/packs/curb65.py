"""CURB-65: severity of community-acquired pneumonia as a range over what is not known.

Lim 2003 (Thorax 58:377, doi:10.1136/thorax.58.5.377): one point each for new confusion, urea above 7 mmol/L,
respiratory rate 30 or more, systolic below 90 or diastolic 60 or less, age 65 or more. 0 to 1 may be treated at home,
2 needs a short stay or supervision, 3 to 5 is severe.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from cds_service.advice.packs import care
from cds_service.advice.packs.quality import above, below, reading
from fhir_mappers.record import Coded, Lab, PatientRecord

UREA_NITROGEN_MG_DL = 19.61
"""7 mmol/L of urea (factor 2.8014): 19.6098 mg/dL is not above it. Many tools print 19 or 20."""
UREA_MASS_FACTOR = 0.466465
SEVERE, OUTPATIENT = 3, 1
AVPU_WINDOW = timedelta(hours=8)
NOT_CLEAR = frozenset({"confusion", "voice", "pain", "unresponsive"})


@dataclass(frozen=True, slots=True)
class Criterion:
    """One yes-or-no item of a score.

    met      None where not known
    because  the results it rests on, for the evidence table
    """

    name: str
    met: bool | None
    because: tuple[Lab | Coded, ...] = ()

    @property
    def preliminary(self) -> bool:
        return any(isinstance(b, Lab) and b.preliminary for b in self.because)


@dataclass(frozen=True, slots=True)
class Count:
    """How many criteria are met: `low` counts what is known to be met, `high` also what is not known."""

    criteria: tuple[Criterion, ...]

    @property
    def low(self) -> int:
        return sum(c.met is True for c in self.criteria)

    @property
    def high(self) -> int:
        return sum(c.met is not False for c in self.criteria)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.criteria if c.met is None)

    @property
    def preliminary(self) -> bool:
        return any(c.preliminary for c in self.criteria)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


def curb65(record: PatientRecord) -> Count:
    """The score of the newest usable results; windows are those of the tables."""
    return Count(
        (
            confusion(record),
            Criterion("urea", *_over(record, (("bun", 1.0), ("urea_mass", UREA_MASS_FACTOR)), UREA_NITROGEN_MG_DL)),
            respiratory_rate(record),
            _pressure(record),
            _age(record),
        )
    )


def confusion(record: PatientRecord) -> Criterion:
    """New confusion: the level of response as charted, else the coma score.

    A coma score below 15 with dementia on the problem list may be how the patient always is: not known.
    """
    spoken = next(
        (
            c
            for c in record.coded
            if c.name == "avpu" and c.meaning and c.at is not None and record.age_of(c.at) <= AVPU_WINDOW
        ),
        None,
    )
    if spoken is not None and (spoken.meaning in NOT_CLEAR or spoken.meaning == "alert"):
        return Criterion("confusion", spoken.meaning in NOT_CLEAR, (spoken,))
    coma = reading(record, "gcs_total").lab
    if coma is None or coma.comparator:
        return Criterion("confusion", None)
    if coma.value >= 15:
        return Criterion("confusion", False, (coma,))
    return Criterion("confusion", None if record.active("dementia") else True, (coma,))


def respiratory_rate(record: PatientRecord) -> Criterion:
    lab = reading(record, "resp_rate").lab
    return Criterion("respiratory rate", None if lab is None else at_least(lab, 30.0), (lab,) if lab else ())


def at_least(lab: Lab, limit: float) -> bool | None:
    """Whether the value is the limit or more; None where a comparator leaves it open."""
    under = below(lab, limit)
    return None if under is None else not under


def _over(
    record: PatientRecord, analytes: Iterable[tuple[str, float]], limit: float
) -> tuple[bool | None, tuple[Lab, ...]]:
    """Whether the first of these analytes that was measured, times its factor, lies above the limit."""
    for analyte, factor in analytes:
        lab = reading(record, analyte).lab
        if lab is not None:
            return above(lab, limit / factor), (lab,)
    return None, ()


def _pressure(record: PatientRecord) -> Criterion:
    systolic, diastolic = reading(record, "sbp").lab, reading(record, "dbp").lab
    low = below(systolic, 90.0) if systolic is not None else None
    flat = _at_most(diastolic, 60.0) if diastolic is not None else None
    used = tuple(lab for lab in (systolic, diastolic) if lab is not None)
    if low or flat:
        return Criterion(
            "blood pressure", True, tuple(x for x, met in ((systolic, low), (diastolic, flat)) if x and met)
        )
    return Criterion("blood pressure", False if low is False and flat is False else None, used)


def _at_most(lab: Lab, limit: float) -> bool | None:
    over = above(lab, limit)
    return None if over is None else not over


def _age(record: PatientRecord) -> Criterion:
    young = care.under(record, 65)
    return Criterion("age", None if young is None else not young)
