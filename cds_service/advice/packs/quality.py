"""Which result a rule may rest on: the data-quality rules DQ-1 to DQ-10 that are left once a record is read.

Units, limits, future times and other patients were refused when the record was read and are its gaps. Here:
windows of age, preliminary results, conflicting results, values known only as "less than", dates without a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from fhir_mappers.codes import analytes
from fhir_mappers.labs import conflicts, differ
from fhir_mappers.record import Lab, PatientRecord

SAME_DRAW = timedelta(minutes=30)
DAY = timedelta(days=1)
UNUSABLE = frozenset(
    {"unknown-unit", "no-unit", "conflicting-unit", "out-of-limits", "no-value", "malformed", "specimen-quality"}
)
"""Gap codes of a result that was there; the others are of another patient, withdrawn, or replaced by a better one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one analyte that a rule may rest on, or what there is instead.

    lab       newest valid result in the window; preliminary only when there is no other
    trend     valid final results of any age, newest first, without those that contradict each other
    conflict  the newest result and one that contradicts it: neither drives a rule
    history   newest result of any age when `lab` is None: shown with its age, never used
    window    the maximum age that counted; None where the table sets none
    """

    analyte: str
    lab: Lab | None
    trend: tuple[Lab, ...]
    conflict: tuple[Lab, Lab] | None
    history: Lab | None
    window: timedelta | None


def window(record: PatientRecord, analyte: str) -> timedelta | None:
    """How old a result may be to decide anything (DQ-5): the table's inpatient or outpatient window.

    Without an encounter the outpatient window holds: an order written outside an admission.
    """
    row = analytes().get(analyte)
    if row is None:
        return None
    inpatient = record.encounter is not None and record.encounter.inpatient
    return row.stale_inpatient if inpatient else row.stale_outpatient


def interval(lab: Lab) -> tuple[float, float]:
    """The values the result allows: one, or a side of it when it was printed with a comparator (DQ-8)."""
    if lab.comparator in ("<", "<="):
        return 0.0, lab.value
    if lab.comparator in (">", ">="):
        return lab.value, math.inf
    return lab.value, lab.value


def below(lab: Lab, limit: float) -> bool | None:
    """Whether the value is below the limit; None where a comparator leaves it open (`<5` against 3)."""
    low, high = interval(lab)
    if high < limit or (lab.comparator == "<" and high <= limit):
        return True
    return False if low >= limit else None


def above(lab: Lab, limit: float) -> bool | None:
    """Whether the value is above the limit; None where a comparator leaves it open."""
    low, high = interval(lab)
    if low > limit or (lab.comparator == ">" and low >= limit):
        return True
    return False if high <= limit else None


def earliest(lab: Lab) -> float:
    """The earliest moment the result can be from, as a timestamp: a date without a time is any time of that day."""
    return (lab.at if lab.has_time else lab.at - DAY).timestamp()


def before(first: Lab, second: Lab) -> bool:
    """Certain that `first` is older: two results of one day without times cannot be ordered (DQ-9)."""
    return first.at.timestamp() < earliest(second)


def certainly_within(first: Lab, second: Lab, span: timedelta) -> bool:
    """Certain that no more than `span` lies between the older and the newer result."""
    return second.at.timestamp() - earliest(first) <= span.total_seconds()


def contradictions(results: Iterable[Lab]) -> dict[str, Lab]:
    """Result (by its reference) -> one that it cannot be right together with (DQ-4).

    A third result within a day that agrees with one of the two settles it: that is the repeat the card asks for.
    """
    given = tuple(results)
    found: dict[str, Lab] = {}
    for newer, older in conflicts(given):
        for lab, other in ((newer, older), (older, newer)):
            if not any(_confirms(third, lab) for third in given if third not in (lab, other)):
                found.setdefault(lab.source.reference, other)
    return found


def _confirms(third: Lab, lab: Lab) -> bool:
    return not third.comparator and not differ(third, lab) and abs(third.at - lab.at) <= DAY


def reading(record: PatientRecord, analyte: str, within: timedelta | None = None) -> Reading:
    """The result of this analyte that a rule may rest on at `record.as_of`.

    `within` replaces the table's window. Of two codes in one draw that agree, the preferred one is taken.
    """
    span = window(record, analyte) if within is None else within
    results = record.results(analyte)
    final = tuple(r for r in results if not r.preliminary)
    fresh = tuple(r for r in final if span is None or record.age_of(r.at) <= span)
    if not fresh:
        fresh = tuple(r for r in results if r.preliminary and (span is None or record.age_of(r.at) <= span))
    contradicted = contradictions(final or fresh)
    trend = tuple(r for r in final if r.source.reference not in contradicted)
    if not fresh:
        return Reading(analyte, None, trend, None, results[0] if results else None, span)
    newest = fresh[0]
    other = contradicted.get(newest.source.reference)
    if other is not None:
        return Reading(analyte, None, trend, (newest, other), newest, span)
    same_draw = [r for r in fresh if newest.at - r.at <= SAME_DRAW and (r.has_time or r is newest)]
    chosen = next((r for r in same_draw if r.preferred and newest.kind == "lab"), newest)
    return Reading(analyte, chosen, trend, None, None, span)


def unusable(record: PatientRecord, *subjects: str) -> int:
    """How many results of these analytes were there and could not be used (unit, limits, spoilt specimen)."""
    return sum(gap.subject in subjects and gap.code in UNUSABLE for gap in record.gaps)
