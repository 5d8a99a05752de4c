"""What a medication order says of dose and route, where it says so beyond doubt.

Structured dosage first; an order that is only a sentence (`simvastatin 40 mg nightly`) is read when it holds exactly
one amount and one frequency, and not at all otherwise. An amount per kg or per m2 is no daily dose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fhir_mappers import fhir

_MILLIGRAMS = {"mg": 1.0, "g": 1000.0, "ug": 0.001, "mcg": 0.001, "µg": 0.001, "μg": 0.001}
_PERIOD_DAYS = {"h": 1 / 24, "d": 1.0, "wk": 7.0}
_TIMING = {
    # HL7 v3 GTSAbbreviation, the codes FHIR names for Timing.code
    **dict.fromkeys(("QD", "AM", "PM", "BED", "DAILY"), 1.0),
    "BID": 2.0,
    "TID": 3.0,
    "QID": 4.0,
    "QOD": 0.5,
    **{f"Q{n}H": 24.0 / n for n in (4, 6, 8, 12)},
}
_AMOUNT = re.compile(r"(?i)(?<![\d.,/])(\d{1,5}(?:\.\d+)?) ?(mg|mcg|ug|µg|μg|g)\b(?! ?/)")
_ANY_NUMBER = re.compile(r"(?i)\d(?:[\d.,]*) ?(?:mg|mcg|ug|µg|μg|g)\b")
_FREQUENCIES = tuple(
    (re.compile(rf"(?i)\b(?:{words})\b"), times)
    for words, times in (
        (r"twice (?:daily|a day|per day)|two times (?:daily|a day)|b\.?i\.?d|every 12 (?:h|hours)", 2.0),
        (r"three times (?:daily|a day)|3 times (?:daily|a day)|t\.?i\.?d|every 8 (?:h|hours)", 3.0),
        (r"four times (?:daily|a day)|4 times (?:daily|a day)|q\.?i\.?d|every 6 (?:h|hours)", 4.0),
        (r"every 4 (?:h|hours)", 6.0),
        (r"every other day|alternate days", 0.5),
        (r"once weekly|weekly|once a week", 1 / 7),
        (
            r"(?:once )?(?:daily|a day|per day)|nightly|every (?:day|night|morning|evening)|at (?:night|bedtime)"
            r"|in the (?:morning|evening)|every 24 (?:h|hours)",
            1.0,
        ),
    )
)
_LOCAL_ROUTES = frozenset(
    {
        # SNOMED CT: topical, cutaneous, ophthalmic, otic, nasal, vaginal, intrathecal, intravitreal
        "6064005", "448598008", "54485002", "10547007", "46713006", "16857009", "72607000", "418401004",
        # HL7 v2 table 0162
        "TP", "OP", "OT", "NS", "VG", "IT",
    }
)  # fmt: skip
_LOCAL_WORDS = frozenset(
    {
        "topical", "cutaneous", "ophthalmic", "ocular", "eye", "both eyes", "otic", "nasal", "vaginal", "intrathecal",
        "intravitreal", "on the skin", "to skin",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DailyDose:
    """`milligrams` per day; `printed` is one dose as the order has it (`40 mg`)."""

    milligrams: float
    printed: str


def daily_dose(order: Mapping[str, Any]) -> DailyDose | None:
    """The daily dose of a MedicationRequest, or None where it is not said beyond doubt.

    Several instructions are several doses of one day and are added up; one that cannot be read leaves all unread.
    """
    dosages = [d for d in fhir.each(order.get("dosageInstruction")) if isinstance(d, Mapping)]
    structured = [_structured(d) for d in dosages]
    if structured and all(structured):
        found = [d for d in structured if d is not None]
        return DailyDose(sum(d.milligrams for d in found), found[0].printed)
    if len(dosages) > 1:
        return None
    concept = order.get("medicationCodeableConcept")
    texts = [d.get("text") for d in dosages] + [concept.get("text") if isinstance(concept, Mapping) else None]
    return next((dose for text in texts if isinstance(text, str) and (dose := dose_in_words(text))), None)


def _structured(dosage: Mapping[str, Any]) -> DailyDose | None:
    rates = [r for r in fhir.each(dosage.get("doseAndRate")) if isinstance(r, Mapping)]
    quantity = rates[0].get("doseQuantity") if len(rates) == 1 else None
    times = _times_a_day(dosage.get("timing"))
    if not isinstance(quantity, Mapping) or times is None:
        return None
    value, unit = quantity.get("value"), quantity.get("code") or quantity.get("unit")
    if isinstance(value, bool) or not isinstance(value, int | float) or unit not in _MILLIGRAMS or value <= 0:
        return None
    return DailyDose(value * _MILLIGRAMS[unit] * times, f"{value:g} {unit}")


def _times_a_day(timing: Any) -> float | None:
    if not isinstance(timing, Mapping):
        return None
    repeat = timing.get("repeat")
    if isinstance(repeat, Mapping):
        often, every, unit = repeat.get("frequency", 1), repeat.get("period"), repeat.get("periodUnit")
        if isinstance(often, int | float) and isinstance(every, int | float) and unit in _PERIOD_DAYS:
            return often / (every * _PERIOD_DAYS[unit]) if often > 0 and every > 0 else None
    codes = {code for _, code in fhir.codes_of(timing.get("code"))}
    found = {_TIMING[c] for c in codes if c in _TIMING}
    return found.pop() if len(found) == 1 else None


def dose_in_words(text: str) -> DailyDose | None:
    """The daily dose of a sentence that holds one amount and one frequency: `500 mg twice daily` is 1000 mg."""
    amounts = _AMOUNT.findall(text)
    if len(amounts) != 1 or len(_ANY_NUMBER.findall(text)) != 1:
        return None
    left, times = text, []
    for pattern, often in _FREQUENCIES:
        left, hits = pattern.subn(" ", left)
        times += [often] * hits
    if len(times) != 1:
        return None
    value, unit = amounts[0]
    return DailyDose(float(value) * _MILLIGRAMS[unit.lower()] * times[0], f"{value} {unit}")


def is_local(order: Mapping[str, Any]) -> bool:
    """Whether every instruction gives the drug where it acts (skin, eye, ear, spinal fluid), not to the whole body.

    A route that is not said counts as systemic.
    """
    dosages = [d for d in fhir.each(order.get("dosageInstruction")) if isinstance(d, Mapping)]
    return bool(dosages) and all(_local_route(d.get("route")) for d in dosages)


def _local_route(route: Any) -> bool:
    codes = {code for _, code in fhir.codes_of(route)}
    if codes:
        return bool(codes & _LOCAL_ROUTES)
    text = route.get("text") if isinstance(route, Mapping) else None
    return isinstance(text, str) and text.strip().lower() in _LOCAL_WORDS
