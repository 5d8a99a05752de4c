"""Pregnant, not pregnant or not known (CLINICAL 3.3): an unknown state is never read as either."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from cds_service.advice.packs.quality import window
from fhir_mappers.record import Coded, PatientRecord

HCG_POSITIVE_IU_L, HCG_NEGATIVE_IU_L = 25.0, 5.0
"""Quantitative hCG: positive from 25 IU/L, negative below 5, between them indeterminate (note in tables/labs.csv)."""

POSITIVE_HOLDS = timedelta(days=42)
POSTPARTUM = timedelta(days=42)
TERM, OVERDUE = timedelta(days=280), timedelta(days=14)
AGE_LIMITS = (12, 55)


@dataclass(frozen=True, slots=True)
class Pregnancy:
    """`because` is the fact that decided, in words for a card; empty when the state is unknown."""

    state: Literal["pregnant", "not_pregnant", "unknown"]
    because: str = ""
    at: datetime | None = None


def pregnancy(record: PatientRecord) -> Pregnancy:
    """The state at `record.as_of`; an ended pregnancy cancels what was positive before it."""
    ended = _ended(record)
    for state in (_positive(record, ended), _negative(record)):
        if state is not None:
            return state
    return Pregnancy("unknown")


def postpartum(record: PatientRecord) -> bool:
    """A pregnancy ended within the last six weeks, or is coded as just ended without a date."""
    return any(e.start is None or record.age_of(e.start) <= POSTPARTUM for e in record.active("pregnancy_ended"))


def _ended(record: PatientRecord) -> datetime | None:
    """When the latest pregnancy ended; an active code without a date counts as now."""
    ends = [e.start or record.as_of for e in record.ever("pregnancy_ended") if e.start or e.active]
    return max(ends, default=None)


def _fresh(record: PatientRecord, coded: Coded, span: timedelta | None) -> bool:
    return coded.at is not None and (span is None or record.age_of(coded.at) <= span)


def _hcg(record: PatientRecord) -> tuple[tuple[bool, datetime], ...]:
    """(positive, time) of every hCG that is clearly one or the other, newest first."""
    found: list[tuple[bool, datetime]] = [
        (coded.meaning == "positive", coded.at)
        for coded in record.coded
        if coded.name == "hcg_qual" and coded.at is not None and coded.meaning in ("positive", "negative")
    ]
    for lab in record.results("hcg_quant"):
        if lab.value >= HCG_POSITIVE_IU_L and lab.comparator not in ("<", "<="):
            found.append((True, lab.at))
        elif lab.value < HCG_NEGATIVE_IU_L and lab.comparator not in (">", ">="):
            found.append((False, lab.at))
    return tuple(sorted(found, key=lambda item: item[1], reverse=True))


def _positive(record: PatientRecord, ended: datetime | None) -> Pregnancy | None:
    def after_the_end(at: datetime | None) -> bool:
        return ended is None or (at is not None and at > ended)

    status_window = window(record, "pregnancy_status")
    statuses = [c for c in record.coded if c.name == "pregnancy_status" and _fresh(record, c, status_window)]
    if statuses and statuses[0].meaning == "pregnant" and after_the_end(statuses[0].at):
        return Pregnancy("pregnant", "pregnancy status recorded", statuses[0].at)
    for coded in record.coded:
        due = _date(coded) if coded.name == "edd" else None
        if due is not None and due - TERM <= record.as_of.date() <= due + OVERDUE and after_the_end(coded.at):
            return Pregnancy("pregnant", f"due date {due.isoformat()}", coded.at)
    hcg = _hcg(record)
    if hcg and hcg[0][0] and record.age_of(hcg[0][1]) <= POSITIVE_HOLDS and after_the_end(hcg[0][1]):
        return Pregnancy("pregnant", "hCG positive", hcg[0][1])
    current = [e for e in record.active("pregnancy_current") if after_the_end(e.start)]
    if current:
        return Pregnancy("pregnant", "on the problem list", current[0].start)
    return None


def _negative(record: PatientRecord) -> Pregnancy | None:
    status_window = window(record, "pregnancy_status")
    statuses = [c for c in record.coded if c.name == "pregnancy_status" and _fresh(record, c, status_window)]
    if statuses and statuses[0].meaning == "not-pregnant":
        return Pregnancy("not_pregnant", "pregnancy status recorded", statuses[0].at)
    hcg = _hcg(record)
    hcg_window = window(record, "hcg_qual")
    if hcg and not hcg[0][0] and (hcg_window is None or record.age_of(hcg[0][1]) <= hcg_window):
        return Pregnancy("not_pregnant", "hCG negative", hcg[0][1])
    if record.ever("sterile_female", "menopause"):
        return Pregnancy("not_pregnant", "on the problem list")
    ages = record.age_years()
    if ages is not None and (ages[0] > AGE_LIMITS[1] or ages[1] < AGE_LIMITS[0]):
        return Pregnancy("not_pregnant", "age")
    if record.person.sex == "male":
        return Pregnancy("not_pregnant", "recorded sex")
    return None


def _date(coded: Coded) -> date | None:
    try:
        return date.fromisoformat(coded.answer[1])
    except ValueError:
        return None
