"""Kidney function: eGFR where it is valid, acute kidney injury where there is one, neither where nothing is known.

Formulas: CKD-EPI 2021 without race (Inker, N Engl J Med 2021;385:1737), bedside Schwartz (J Am Soc Nephrol
2009;20:629), KDIGO acute kidney injury guideline 2012. Creatinine in mg/dL, eGFR in mL/min/1.73 m2.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from cds_service.advice.packs.pregnancy import pregnancy
from cds_service.advice.packs.quality import Reading, before, certainly_within, earliest, interval, reading
from fhir_mappers.record import Lab, PatientRecord

RISE_MG_DL = 0.3
PRINT_TOLERANCE = 5e-4
"""KDIGO states its rise as 0.3 mg/dL and as 26.5 umol/L (0.29976 mg/dL): both must count."""
RATIO = 1.5
TWO_DAYS, WEEK, YEAR = timedelta(hours=48), timedelta(days=7), timedelta(days=365)
HEIGHT_WINDOW = timedelta(days=90)
LEAST_MG_DL = 0.01
"""Stands for zero where a result is printed as "less than": the formula has a pole there."""

WhyNoEgfr = Literal[
    "",
    "acute kidney injury",
    "dialysis",
    "pregnancy",
    "creatinine changing",
    "no creatinine",
    "age not known",
    "no height in 90 days",
]


@dataclass(frozen=True, slots=True)
class Range:
    """An eGFR, or the span of it that an unknown sex, a partial birth date or a comparator leaves open."""

    low: float
    high: float

    def below(self, limit: float) -> bool | None:
        """Compared unrounded; None where the span holds both answers."""
        if self.high < limit:
            return True
        return False if self.low >= limit else None

    def __str__(self) -> str:
        low, high = round_half_up(self.low), round_half_up(self.high)
        return str(low) if low == high else f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class Aki:
    """Acute kidney injury by KDIGO.

    before  the result creatinine rose from; None where the baseline is the median of days 8 to 365
    """

    stage: int
    now: Lab
    before: Lab | None
    baseline: float


@dataclass(frozen=True, slots=True)
class Kidney:
    """The kidney at one moment.

    calculated  the formula's answer for the newest creatinine, valid or not
    why_no_egfr empty exactly when `egfr` is not None
    steady      None where there is no earlier result within a week to compare with
    dialysis    on maintenance dialysis
    """

    creatinine: Reading
    dialysis: bool
    aki: Aki | None
    steady: bool | None
    calculated: Range | None
    why_no_egfr: WhyNoEgfr

    @property
    def egfr(self) -> Range | None:
        return None if self.why_no_egfr else self.calculated


def round_half_up(value: float) -> int:
    return int(value + 0.5)


def egfr_ckd_epi_2021(creatinine: float, age_years: float, sex: Literal["male", "female"]) -> float:
    """eGFR of an adult from creatinine in mg/dL, unrounded."""
    kappa, alpha, factor = (0.7, -0.241, 1.012) if sex == "female" else (0.9, -0.302, 1.0)
    ratio = creatinine / kappa
    return float(142.0 * min(ratio, 1.0) ** alpha * max(ratio, 1.0) ** -1.200 * 0.9938**age_years * factor)


def egfr_bedside_schwartz(creatinine: float, height_cm: float) -> float:
    """eGFR of a child or adolescent from creatinine in mg/dL, unrounded."""
    return 0.413 * height_cm / creatinine


def kidney(record: PatientRecord) -> Kidney:
    """Judge the kidney from the newest usable creatinine and what came before it."""
    creatinine = reading(record, "creatinine")
    dialysis = bool(record.active("dialysis"))
    now = creatinine.lab
    if now is None:
        return Kidney(creatinine, dialysis, None, None, None, "dialysis" if dialysis else "no creatinine")
    calculated, missing = _egfr(record, now)
    aki = None if dialysis else _aki(now, creatinine.trend, calculated, _child(record))
    steady = _steady(now, creatinine.trend)
    why: WhyNoEgfr = ""
    if dialysis:
        why = "dialysis"
    elif aki is not None:
        why = "acute kidney injury"
    elif pregnancy(record).state == "pregnant":
        why = "pregnancy"
    elif steady is False:
        why = "creatinine changing"
    elif calculated is None:
        why = missing
    return Kidney(creatinine, dialysis, aki, steady, calculated, why)


@dataclass(frozen=True, slots=True)
class Raised:
    """The newest usable creatinine against its baseline: `times` it at least; `baseline` in mg/dL."""

    now: Lab
    baseline: float
    times: float


def raised(record: PatientRecord) -> Raised | None:
    """How far creatinine lies above its baseline; None on dialysis, and without two results to compare.

    Baseline is the lower of the lowest result of the previous 7 days and the median of days 8 to 365: at the end of
    a long stay the last week holds only injured values, and an injury that has not resolved would hide itself.
    """
    now = reading(record, "creatinine")
    if now.lab is None or record.active("dialysis"):
        return None
    week = [_upper(lab) for lab in _earlier(now.lab, now.trend, WEEK)]
    older = _long_ago(now.lab, now.trend)
    known = [*week, *([float(statistics.median(older))] if older else [])]
    if not known:
        return None
    return Raised(now.lab, min(known), interval(now.lab)[0] / min(known))


def _upper(lab: Lab) -> float:
    return interval(lab)[1]


def _long_ago(now: Lab, trend: tuple[Lab, ...]) -> list[float]:
    """Results of days 8 to 365 before."""
    return [
        _upper(lab)
        for lab in trend
        if WEEK.total_seconds() < now.at.timestamp() - earliest(lab) <= YEAR.total_seconds()
    ]


def _child(record: PatientRecord) -> bool:
    ages = record.age_years()
    return ages is not None and ages[1] < 18


def _egfr(record: PatientRecord, lab: Lab) -> tuple[Range | None, WhyNoEgfr]:
    """The formula over every age, sex and value the record leaves open (DQ-8, DQ-10, DQ-11)."""
    ages = record.age_years()
    low, high = (max(x, LEAST_MG_DL) for x in interval(lab))
    if ages is None or ages[0] < 18 <= ages[1]:
        return None, "age not known"
    if ages[1] < 18:
        height = reading(record, "height", HEIGHT_WINDOW).lab
        if height is None:
            return None, "no height in 90 days"
        values = [egfr_bedside_schwartz(c, height.value) for c in (low, high)]
        return Range(min(values), max(values)), ""
    sexes: tuple[Literal["male", "female"], ...] = (
        ("male", "female") if record.person.sex == "unknown" else (record.person.sex,)
    )
    values = [egfr_ckd_epi_2021(c, age, sex) for c in (low, high) for age in ages for sex in sexes]
    return Range(min(values), max(values)), ""


def _earlier(now: Lab, trend: tuple[Lab, ...], span: timedelta) -> list[Lab]:
    return [lab for lab in trend if lab is not now and before(lab, now) and certainly_within(lab, now, span)]


def _aki(now: Lab, trend: tuple[Lab, ...], calculated: Range | None, child: bool) -> Aki | None:
    """KDIGO 2012: a rise of 0.3 mg/dL within 48 h, or to 1.5 times the baseline of the last 7 days.

    Baseline: the lowest valid result of the previous 7 days, else the median of days 8 to 365. Values known only
    as "less than" or "more than" count with the end that speaks against a rise.
    """
    value = interval(now)[0]
    recent = min(_earlier(now, trend, TWO_DAYS), key=_upper, default=None)
    rose = recent is not None and value - _upper(recent) >= RISE_MG_DL - PRINT_TOLERANCE
    lowest = min(_earlier(now, trend, WEEK), key=_upper, default=None)
    before_: Lab | None = lowest
    if lowest is not None:
        baseline = _upper(lowest)
    else:
        older = _long_ago(now, trend)
        if not older:
            return None
        baseline = float(statistics.median(older))
    ratio = value / baseline
    if not rose and ratio < RATIO - 1e-9:
        return None
    if ratio < RATIO - 1e-9:
        before_ = recent
    young_and_low = child and calculated is not None and calculated.below(35.0) is True
    if ratio >= 3.0 - 1e-9 or value >= 4.0 or young_and_low:
        return Aki(3, now, before_, baseline)
    return Aki(2 if ratio >= 2.0 - 1e-9 else 1, now, before_, baseline)


def _steady(now: Lab, trend: tuple[Lab, ...]) -> bool | None:
    """No change of 0.3 mg/dL within 48 h and none of 1.5-fold within 7 days, up or down."""
    week = _earlier(now, trend, WEEK)
    if not week:
        return None
    if any(abs(now.value - x.value) >= RISE_MG_DL - PRINT_TOLERANCE for x in _earlier(now, trend, TWO_DAYS)):
        return False
    return all(max(now.value, x.value) < RATIO * min(now.value, x.value) - 1e-9 for x in week)
