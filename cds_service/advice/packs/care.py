"""Goals of care, setting and emergencies (CLINICAL 3.4): what makes every card, or most cards, fall silent."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from cds_service.advice.packs.quality import above, below, interval, reading
from fhir_mappers.codes import ICD10_SYSTEMS
from fhir_mappers.record import Event, Order, PatientRecord

SNOMED = "http://snomed.info/sct"
COMFORT_ONLY = frozenset({"133918004", "182964004", "385736008", "385763009"})
"""SNOMED CT: comfort measures, terminal care, dying care, hospice care."""
NOT_FOR_RESUSCITATION = frozenset({"304253006"})
EMERGENCY_CODES = ("I46", "I210", "I211", "I212", "I213", "I60", "I61", "I63", "R57", "S06", "S25", "S26", "S27",
                   "S35", "S36", "S37", "T07", "T794")  # fmt: skip
"""ICD-10: cardiac arrest, STEMI, stroke, shock, major trauma."""
EMERGENCY_VITALS = timedelta(hours=8)
NEW = timedelta(hours=24)
VENTILATOR_CODES = frozenset({"19839-0", "19996-8"})
"""LOINC codes only a ventilated patient has: spontaneous breaths on ventilator, FiO2 on ventilator."""
VENTILATOR_WINDOW = timedelta(hours=8)


def _codes(record: PatientRecord) -> Iterable[tuple[str, str]]:
    """Every active code that may state a goal of care: conditions, procedures and coded observations."""
    for event in record.events:
        if event.active:
            yield from event.codes
    for coded in record.coded:
        yield coded.answer
    for order in record.orders:
        if not order.draft:
            yield from order.codes


def _holds(record: PatientRecord, codes: frozenset[str]) -> bool:
    return any(system == SNOMED and code in codes for system, code in _codes(record))


def silence(record: PatientRecord) -> str | None:
    """Why no service may say anything about this patient, or None."""
    if record.person.deceased:
        return "deceased"
    if record.active("organ_donor_death"):
        return "brain death"
    # Z51.5 alone is a palliative care contact, not a wish for comfort care only.
    if _holds(record, COMFORT_ONLY):
        return "comfort care"
    return None


def not_for_resuscitation(record: PatientRecord) -> bool:
    """Do-not-resuscitate is recorded. It silences nothing; the card states it."""
    return bool(record.active("dnr")) or _holds(record, NOT_FOR_RESUSCITATION)


def in_intensive_care(record: PatientRecord) -> bool:
    return record.encounter is not None and record.encounter.unit == "icu"


def ventilated(record: PatientRecord) -> bool:
    return any(lab.loinc in VENTILATOR_CODES and record.age_of(lab.at) <= VENTILATOR_WINDOW for lab in record.labs)


def under(record: PatientRecord, years: int) -> bool | None:
    """Whether the patient is younger; None where the birth date does not tell (DQ-10)."""
    ages = record.age_years()
    if ages is None:
        return None
    if ages[1] < years:
        return True
    return False if ages[0] >= years else None


def emergency(record: PatientRecord, orders: Iterable[Order] = ()) -> str | None:
    """What makes this an emergency in which no imaging may be delayed, or None."""
    if any(order.priority == "stat" for order in orders):
        return "ordered as stat"
    for analyte, limit, words in (("sbp", 90.0, "systolic pressure"), ("spo2", 85.0, "oxygen saturation")):
        lab = reading(record, analyte, EMERGENCY_VITALS).lab
        if lab is not None and below(lab, limit):
            return words
    coma = reading(record, "gcs_total", EMERGENCY_VITALS).lab
    if coma is not None and (above(coma, 8.0) is False or interval(coma)[1] <= 8.0):
        return "coma score"
    if any(_emergency_code(e) and _new(record, e) for e in record.events if e.active and e.kind == "condition"):
        return "emergency diagnosis"
    return None


def _emergency_code(event: Event) -> bool:
    return any(
        system in ICD10_SYSTEMS and code.replace(".", "").upper().startswith(EMERGENCY_CODES)
        for system, code in event.codes
    )


def _new(record: PatientRecord, event: Event) -> bool:
    """Of the last day; without a date only in the emergency department, since problem lists keep old strokes."""
    if event.start is not None:
        return record.age_of(event.start) <= NEW
    return record.encounter is not None and (record.encounter.class_ == "EMER" or record.encounter.unit == "ed")
