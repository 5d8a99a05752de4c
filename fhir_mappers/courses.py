"""What a medication order says beside drug and dose: for how long, for what reason, to be taken where.

A duration that is said twice and differently is not read: which of the two the pharmacy follows is not ours to guess.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_mappers import fhir
from fhir_mappers.codes import ICD10_SYSTEMS

_DAYS = {"d": 1.0, "day": 1.0, "days": 1.0, "h": 1 / 24, "wk": 7.0, "week": 7.0, "weeks": 7.0}
AT_HOME = frozenset({"discharge", "community"})
"""medicationrequest-category: taken after discharge, or in the patient's home."""


@dataclass(frozen=True, slots=True)
class Course:
    """How long an order lets a drug be taken. `printed` is the order's own value and unit: `10 d`."""

    days: float
    printed: str


def course_of(order: Mapping[str, Any]) -> Course | None:
    """The duration of a MedicationRequest, from dosage bounds or expected supply; None where not said or unclear."""
    found = list(_durations(order))
    return found[0] if found and all(abs(c.days - found[0].days) < 0.01 for c in found) else None


def _durations(order: Mapping[str, Any]) -> Iterator[Course]:
    for repeat in _repeats(order):
        yield from _duration(repeat.get("boundsDuration"))
    dispense = order.get("dispenseRequest")
    if isinstance(dispense, Mapping):
        yield from _duration(dispense.get("expectedSupplyDuration"))


def _repeats(order: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for dosage in fhir.each(order.get("dosageInstruction")):
        timing = dosage.get("timing") if isinstance(dosage, Mapping) else None
        repeat = timing.get("repeat") if isinstance(timing, Mapping) else None
        if isinstance(repeat, Mapping):
            yield repeat


def _duration(value: Any) -> Iterator[Course]:
    if not isinstance(value, Mapping):
        return
    number, unit = value.get("value"), value.get("code") or value.get("unit")
    if isinstance(number, int | float) and not isinstance(number, bool) and number > 0 and unit in _DAYS:
        yield Course(number * _DAYS[unit], f"{number:g} {value.get('unit') or unit}")


def shortened(order: Mapping[str, Any], days: int) -> dict[str, Any] | None:
    """The whole order with every stated duration set to `days`, all else as it is.

    None where a stated supply would then say something else than the duration: a quantity that cannot be divided,
    or repeats.
    """
    course = course_of(order)
    changed: dict[str, Any] = copy.deepcopy(dict(order))
    if course is None or course.days <= days:
        return None
    duration = {"value": days, "unit": "d", "system": "http://unitsofmeasure.org", "code": "d"}
    for repeat in _repeats(changed):
        if "boundsDuration" in repeat:
            repeat["boundsDuration"] = dict(duration)  # type: ignore[index]
    dispense = changed.get("dispenseRequest")
    if isinstance(dispense, dict):
        if dispense.get("numberOfRepeatsAllowed"):
            return None
        if "expectedSupplyDuration" in dispense:
            dispense["expectedSupplyDuration"] = dict(duration)
        quantity = dispense.get("quantity")
        if isinstance(quantity, dict):
            value = quantity.get("value")
            fewer = value * days / course.days if isinstance(value, int | float) else 0.0
            if fewer <= 0 or abs(fewer - round(fewer)) > 1e-9:
                return None
            quantity["value"] = round(fewer)
    return changed


def reasons_of(order: Mapping[str, Any]) -> fhir.Codes:
    """The ICD-10 codes an order itself gives as its reason."""
    return tuple((s, c) for s, c in fhir.codes_of(order.get("reasonCode")) if s in ICD10_SYSTEMS)


def gives_a_reason(order: Mapping[str, Any]) -> bool:
    """Whether the order names any reason, coded, in words or by reference."""
    return any(True for key in ("reasonCode", "reasonReference") for _ in fhir.each(order.get(key)))


def taken_at_home(order: Mapping[str, Any]) -> bool:
    """Whether the order's category says that the drug is taken at home: a discharge or community prescription."""
    return any(code in AT_HOME for _, code in fhir.codes_of(order.get("category")))
