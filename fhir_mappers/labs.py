"""Observations of the laboratory and the bedside: Observation -> Lab, Coded or Gap.

Every rule here is one of CLINICAL.md 3.1 (DQ-1 to DQ-12) or of the tables' own rules: a unit is converted by table
or the value is refused; a value outside physiology is dropped and counted, never clipped.
"""

from __future__ import annotations

import functools
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fhir_mappers import fhir, r4
from fhir_mappers.answers import coded_meaning
from fhir_mappers.codes import UCUM, LabCode, find_lab
from fhir_mappers.record import Coded, Gap, Lab, Person, Source
from fhir_mappers.units import UnknownUnit, normalise_unit

USED = frozenset({"final", "amended", "corrected", "preliminary"})
COMPARATORS = frozenset({"<", "<=", ">", ">="})
TWIN_WINDOW = timedelta(minutes=30)
TWIN_LIMIT = 0.25
"""Two results of one analyte so close in time may differ by this share; beyond it they conflict (DQ-4)."""
NEIGHBOURS = 32
"""How many results around one are compared with it: thousands with one time stamp must not cost their square."""

# Free text is never matched to use a value, only to refuse one (DQ-12). v3 interpretation QCF: quality control failure.
_SPOILT = re.compile(r"(?i)\b(?<!not )(?<!non-)(ha?emoly[sz]ed|diluted|wrong tube|clotted|contaminated)\b")


class ValueFault(ValueError):
    """A value cannot be used; `code` is the Gap's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Circumstances:
    """What one Observation says of all its values."""

    when: fhir.Moment
    source: Source
    person: Person
    as_of: datetime
    preliminary: bool


def read_observation(resource: fhir.Resource, person: Person, as_of: datetime) -> Iterator[Lab | Coded | Gap]:
    """Read one Observation and its components; at least one item comes of it, if only a Gap.

    Raises fhir.Malformed when the resource has not the shape of an Observation.
    """
    reference = fhir.reference_of(resource)
    laboratory = "laboratory" in [c for _, c in fhir.codes_of(resource.get("category"))]
    row = find_lab(fhir.codes_of(resource.get("code")), laboratory=laboratory)
    parts = [c for c in fhir.each(resource.get("component")) if isinstance(c, dict)]
    if row is None and not any(find_lab(fhir.codes_of(part.get("code"))) for part in parts):
        yield Gap("unknown-code", "Observation", reference)
        return
    observation = fhir.read(resource, r4.Observation)
    subject = row.analyte if row else "Observation"
    when = _when(observation, as_of)
    if observation.status not in USED:
        yield Gap("bad-status", subject, reference)
    elif isinstance(when, str):
        yield Gap(when, subject, reference)
    else:
        preliminary = observation.status == "preliminary"
        circumstances = _Circumstances(when, fhir.source_of(resource), person, as_of, preliminary)
        yield from _values(observation, row, circumstances, laboratory=laboratory)


def _when(observation: r4.Observation, as_of: datetime) -> fhir.Moment | str:
    """When it was true of the patient (DQ-9), or the code of the Gap."""
    period = observation.effective_period
    issued = fhir.read_time(observation.issued, as_of)
    start, end = (period.start, period.end) if period else (None, None)
    times = (observation.effective_date_time, observation.effective_instant, end)
    moment = None
    for text in times:
        if text and (moment := fhir.read_time(text, as_of)):
            break
    moment = moment or issued or fhir.read_time(start, as_of)
    if moment is None:
        return "no-time"
    # What was issued later was not known yet: it would be a look into the future when we read old records.
    if fhir.in_future(moment.at, as_of) or fhir.in_future(issued and issued.at, as_of):
        return "future"
    return moment


def _values(
    observation: r4.Observation, row: LabCode | None, circumstances: _Circumstances, *, laboratory: bool
) -> Iterator[Lab | Coded | Gap]:
    reference = circumstances.source.reference
    spoilt = _spoilt(observation)
    found = 0
    parts: list[tuple[LabCode, r4.Value]] = [(row, observation)] if row else []
    for part in observation.component:
        component = find_lab(part.code.codes, laboratory=laboratory)
        if component:
            parts.append((component, part))
    for code, value in parts:
        if value is observation and len(parts) > 1 and not _has_value(value):
            continue  # a panel: its components carry the values
        found += 1
        if spoilt:
            yield Gap("specimen-quality", code.analyte, reference)
            continue
        try:
            if code.coded and value.value_quantity is None:
                yield _coded(code, value, circumstances)
            else:
                yield _lab(code, value, circumstances)
        except ValueFault as fault:
            yield Gap(fault.code, code.analyte, reference)
    if not found:
        yield Gap("no-value", row.analyte if row else "Observation", reference)


def _has_value(value: r4.Value) -> bool:
    return any(
        v is not None
        for v in (
            value.value_quantity,
            value.value_codeable_concept,
            value.value_string,
            value.value_boolean,
            value.value_integer,
            value.value_date_time,
        )
    )


def _spoilt(observation: r4.Observation) -> bool:
    if not observation.interpretation and not observation.note:
        return False
    if any(i.says("QCF") for i in observation.interpretation):
        return True
    texts = [n.text for n in observation.note] + [i.text for i in observation.interpretation]
    return any(_SPOILT.search(text) for text in texts if text)


def _lab(row: LabCode, value: r4.Value, circumstances: _Circumstances) -> Lab:
    quantity = value.value_quantity
    if quantity is None and value.value_integer is not None:
        quantity = r4.Quantity(value=value.value_integer)
    if value.data_absent_reason is not None or quantity is None or quantity.value is None:
        raise ValueFault("no-value")
    if not math.isfinite(quantity.value):
        raise ValueFault("malformed")
    if quantity.comparator is not None and quantity.comparator not in COMPARATORS:
        raise ValueFault("malformed")
    unit = unit_of(quantity, row)
    try:
        canonical = row.to_canonical(quantity.value, unit)
    except UnknownUnit:
        raise ValueFault("unknown-unit" if unit else "no-unit") from None
    if _outside(canonical, row.reject):
        raise ValueFault("out-of-limits")
    low, high = _reference_range(row, value.reference_range, unit, circumstances)
    shown = quantity.unit or quantity.code or ""
    return Lab(
        analyte=row.analyte,
        name=row.name,
        loinc=row.loinc,
        value=canonical,
        unit=row.unit,
        printed=f"{quantity.comparator or ''}{quantity.value} {shown}".strip(),
        at=circumstances.when.at,
        source=circumstances.source,
        kind="vital" if row.kind == "vital" else "lab",
        has_time=circumstances.when.has_time,
        comparator=quantity.comparator,
        low=low,
        high=high,
        extreme=_outside(canonical, row.flag),
        preliminary=circumstances.preliminary,
        preferred=row.preferred,
    )


def unit_of(quantity: r4.Quantity, row: LabCode) -> str | None:
    """The unit a quantity is in: its UCUM code, else the printed unit.

    Raises ValueFault `conflicting-unit` where code and printed unit are both known and mean different things.
    """
    return _unit(row, quantity.unit, quantity.code if quantity.system in (UCUM, None) else None)


@functools.lru_cache(maxsize=1024)
def _unit(row: LabCode, printed: str | None, code: str | None) -> str | None:
    printed = printed.strip() if printed else None
    code = code.strip() if code else None
    if not code:
        return printed or None
    if printed:
        by_code, by_print = (row.conversions.get(normalise_unit(u)) for u in (code, printed))
        if by_code and by_print and by_code != by_print:
            raise ValueFault("conflicting-unit")
    return code


def _outside(value: float, limits: tuple[float | None, float | None]) -> bool:
    low, high = limits
    return (low is not None and value < low) or (high is not None and value > high)


def _reference_range(
    row: LabCode, printed: Sequence[r4.Range], unit: str | None, circumstances: _Circumstances
) -> tuple[float | None, float | None]:
    """The range printed by the laboratory, in the canonical unit, else the table's for an adult of this sex.

    Several printed ranges, or one for a group of people, would need a choice: then the table's. Under 18 the
    table has none (its paediatric bands are text).
    """
    normal = [r for r in printed if r.type is None or r.type.says("normal")]
    normal = [r for r in normal if r.low is not None or r.high is not None]
    if len(normal) == 1:
        try:
            low, high = (_bound(row, bound, unit) for bound in (normal[0].low, normal[0].high))
        except (UnknownUnit, ValueFault):
            pass
        else:
            if low is not None or high is not None:
                return low, high
    ages = circumstances.person.ages(circumstances.as_of)
    return (None, None) if ages is not None and ages[0] < 18 else row.reference_range(circumstances.person.sex)


def _bound(row: LabCode, bound: r4.Quantity | None, unit: str | None) -> float | None:
    if bound is None or bound.value is None or not math.isfinite(bound.value):
        return None
    return row.to_canonical(bound.value, unit_of(bound, row) or unit)


def _coded(row: LabCode, value: r4.Value, circumstances: _Circumstances) -> Coded:
    if value.data_absent_reason is not None:
        raise ValueFault("no-value")
    concept, text = value.value_codeable_concept, value.value_string or ""
    codes: fhir.Codes = ()
    if concept is not None:
        codes, text = concept.codes, concept.words
    elif value.value_date_time:
        bounds = fhir.date_bounds(value.value_date_time)
        if bounds is None or bounds[0] != bounds[1]:
            raise ValueFault("no-value")
        text = bounds[0].isoformat()
        codes = (("date", text),)
    elif value.value_boolean is not None and row.unit == "{presence}":
        text = "positive" if value.value_boolean else "negative"
    if not codes and not text:
        raise ValueFault("no-value")
    # Of several codings of one answer, the one whose meaning we know is the one to keep.
    meanings = {code: coded_meaning(row, (code,), "") for code in codes}
    answer = next((c for c in codes if meanings[c]), codes[0] if codes else ("", ""))
    return Coded(
        name=row.analyte,
        loinc=row.loinc,
        answer=answer,
        text=text,
        at=circumstances.when.at,
        source=circumstances.source,
        meaning=coded_meaning(row, codes, text),
    )


def conflicts(labs: Iterable[Lab]) -> tuple[tuple[Lab, Lab], ...]:
    """Pairs of results of one analyte that cannot both be right (DQ-4): neither may drive a rule, both are shown.

    Within 30 minutes: laboratory results differing by more than 25 % of the smaller one (a heart rate may do so
    without any error). Physiologically implausible: creatinine
    doubling within 6 h, haemoglobin changing by more than 4 g/dL within 1 h. Results without a time of day cannot
    be ordered within the day and those with a comparator have no value to compare: neither is looked at.
    """
    found: list[tuple[Lab, Lab]] = []
    for results in _by_analyte(x for x in labs if x.has_time and x.comparator is None).values():
        for i, newer in enumerate(results):
            for older in results[i + 1 : i + 1 + NEIGHBOURS]:
                apart = newer.at - older.at
                if apart > timedelta(hours=6):
                    break
                if _conflict(newer, older, apart):
                    found.append((newer, older))
    return tuple(found)


def _conflict(newer: Lab, older: Lab, apart: timedelta) -> bool:
    if differ(newer, older) and apart <= TWIN_WINDOW and newer.kind == "lab":
        return True
    if newer.analyte == "creatinine":
        return newer.value >= 2 * older.value
    if newer.analyte == "haemoglobin":
        return apart <= timedelta(hours=1) and abs(newer.value - older.value) > 4
    return False


def differ(a: Lab, b: Lab) -> bool:
    """Whether two values differ by more than a quarter of the smaller one."""
    return abs(a.value - b.value) > TWIN_LIMIT * min(abs(a.value), abs(b.value))


def _by_analyte(labs: Iterable[Lab]) -> dict[str, list[Lab]]:
    groups: dict[str, list[Lab]] = {}
    for lab in labs:
        groups.setdefault(lab.analyte, []).append(lab)
    for results in groups.values():
        results.sort(key=lambda x: (-x.at.timestamp(), x.source.reference))
    return groups


def settle(labs: Sequence[Lab], as_of: datetime) -> tuple[list[Lab], list[Gap]]:
    """Leave out what a better result of the same analyte stands for, each with its Gap `superseded`.

    A non-preferred code (analyser, calculated) yields to a preferred one within 30 minutes that agrees with it;
    where they disagree both stay, for `conflicts` to find. A preliminary result yields to any final one of the
    last 30 days (DQ-1: preliminary only when nothing else exists).
    """
    out: set[int] = set()
    for results in _by_analyte(labs).values():
        finals = [x for x in results if not x.preliminary]
        if len(finals) < len(results) and any(as_of - x.at <= timedelta(days=30) for x in finals):
            out.update(id(x) for x in results if x.preliminary)
        preferred = [x for x in reversed(finals) if x.preferred and x.has_time]
        if not preferred or len(preferred) == len(results):
            continue
        times = [x.at.timestamp() for x in preferred]
        for lab in results:
            if lab.preferred or not lab.has_time:
                continue
            first = bisect_left(times, (lab.at - TWIN_WINDOW).timestamp())
            near = preferred[first : first + NEIGHBOURS]
            if any(_twins(lab, other) for other in near):
                out.add(id(lab))
    kept = [x for x in labs if id(x) not in out]
    return kept, [Gap("superseded", x.analyte, x.source.reference) for x in labs if id(x) in out]


def _twins(lab: Lab, other: Lab) -> bool:
    near = abs(other.at - lab.at) <= TWIN_WINDOW
    return near and other.comparator == lab.comparator and not differ(other, lab)
