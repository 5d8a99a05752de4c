"""Community-acquired pneumonia: which patients the guidelines speak of, who is stable, and what a virus explains.

ATS/IDSA 2019 (doi:10.1164/rccm.201908-1581ST) and ATS 2025 (doi:10.1164/rccm.202507-1692ST): immunocompetent adults
who fell ill outside hospital.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from cds_service.advice.packs import care
from cds_service.advice.packs.curb65 import Criterion, at_least, confusion
from cds_service.advice.packs.quality import above, below, reading, window
from cds_service.advice.packs.severe_cap import oxygen_fraction
from fhir_mappers import courses
from fhir_mappers.codes import ICD10_SYSTEMS, condition_concepts
from fhir_mappers.record import Coded, Event, Lab, Order, PatientRecord

IN_HOSPITAL = timedelta(hours=48)
"""Pneumonia that starts, or ventilation that lasts, longer than this in hospital is not community-acquired."""
PNEUMONIA = frozenset({"pneumonia", "influenza", "covid19"})
CHEST = frozenset({*PNEUMONIA, "heart_failure", "chf", "pulmonary_oedema", "pleural_effusion", "copd", "asthma",
                   "resp_failure", "dyspnoea", "cough_fever", "sepsis", "aspiration"})  # fmt: skip
IMMUNOSUPPRESSED = ("immunosuppressed", "neutropenia", "aids", "kidney_transplant", "calcineurin_inhibitor",
                    "thiopurine", "mtor_inhibitor", "platinum", "taxane")  # fmt: skip
VENTILATOR_PNEUMONIA = ("J95851", "Y95")
"""ICD-10: ventilator-associated pneumonia; nosocomial condition."""
COMORBIDITY = (
    *("copd", "cpd", "asthma", "bronchiectasis_cf", "ild", "heart_failure", "chf", "mi", "valve"),
    *("liver_disease", "mild_liver", "severe_liver", "renal", "ckd3", "ckd4", "ckd5", "dialysis"),
    *("diabetes", "dm", "dm_cx", "alcohol"),
    *("any_cancer", "lung_cancer", "cancer", "mets", "lymphoma", "immunosuppressed"),
)
ASPLENIA = ("Z9081", "D730", "Q8901")
VIRUSES = {
    "influenza_a": "influenza A",
    "influenza_b": "influenza B",
    "rsv": "respiratory syncytial virus",
    "sars_cov_2": "SARS-CoV-2",
}
CULTURES = ("culture_blood", "culture_sputum", "culture_other")
BACTERIAL_TESTS = ("legionella_ag", "pneumococcal_ag")
NOTHING_GREW = frozenset({"264868006", "264887000", "260385009", "260415000"})
"""SNOMED CT: no growth, not isolated, negative, not detected. Any other answer of a culture may be an organism."""
BACTERIAL_PROCALCITONIN = 0.25


def coded(event: Event, prefixes: tuple[str, ...]) -> bool:
    return event.active and any(
        system in ICD10_SYSTEMS and code.replace(".", "").upper().startswith(prefixes) for system, code in event.codes
    )


def on_problem_list(record: PatientRecord) -> Event | None:
    return next((e for e in record.active("pneumonia") if e.kind == "condition"), None)


def for_pneumonia(record: PatientRecord, order: Order | Event) -> bool:
    """Whether a drug order treats pneumonia: its own reason decides; without one, pneumonia on the problem list."""
    if courses.gives_a_reason(order.resource):
        return bool(condition_concepts(courses.reasons_of(order.resource)) & PNEUMONIA)
    return on_problem_list(record) is not None


def for_the_chest(record: PatientRecord, order: Order) -> bool:
    """Whether an order may treat what is in the chest: no reason given, or one of the chest."""
    if courses.gives_a_reason(order.resource):
        return bool(condition_concepts(courses.reasons_of(order.resource)) & CHEST)
    return True


def not_meant(record: PatientRecord) -> str | None:
    """Why the guidelines do not speak of this patient, or None."""
    if care.under(record, 18) is not False:
        return "under 18, or age not known"
    if record.active(*IMMUNOSUPPRESSED):
        return "immunosuppressed"
    if record.active("abscess_empyema"):
        return "abscess or empyema"
    if record.active("tuberculosis"):
        return "tuberculosis"
    if _long_ventilated(record) or any(coded(e, VENTILATOR_PNEUMONIA) for e in record.events):
        return "ventilated, or fell ill in hospital"
    return "fell ill in hospital" if _hospital_acquired(record) else None


def _long_ventilated(record: PatientRecord) -> bool:
    """On a ventilator, and not certain to be so for less than 48 hours."""
    if not care.ventilated(record):
        return False
    started = record.encounter.start if record.encounter is not None else None
    return started is None or record.age_of(started) > IN_HOSPITAL


def _hospital_acquired(record: PatientRecord) -> bool:
    found, visit = on_problem_list(record), record.encounter
    if found is None or found.start is None or visit is None or visit.start is None or not visit.inpatient:
        return False
    return found.start - visit.start > IN_HOSPITAL


def stability(record: PatientRecord) -> tuple[Criterion, ...]:
    """The signs of clinical stability (ATS/IDSA 2019, table of stability criteria); `met` means stable in this sign."""
    temperature, pulse = reading(record, "temperature").lab, reading(record, "heart_rate").lab
    rate, pressure = reading(record, "resp_rate").lab, reading(record, "sbp").lab
    saturation, fraction = reading(record, "spo2").lab, oxygen_fraction(record)
    air = None if fraction is None else fraction <= 0.21
    enough = at_least(saturation, 90.0) if saturation is not None else None
    clear = confusion(record)
    return (
        _sign("temperature", temperature, _at_most(temperature, 37.8)),
        _sign("heart rate", pulse, _at_most(pulse, 100.0)),
        _sign("respiratory rate", rate, _at_most(rate, 24.0)),
        _sign("systolic pressure", pressure, at_least(pressure, 90.0) if pressure is not None else None),
        _sign("oxygen saturation on air", saturation, None if None in (air, enough) else bool(air and enough)),
        Criterion("consciousness", None if clear.met is None else not clear.met, clear.because),
    )


def _sign(name: str, lab: Lab | None, met: bool | None) -> Criterion:
    return Criterion(name, met, (lab,) if lab is not None else ())


def _at_most(lab: Lab | None, limit: float) -> bool | None:
    over = above(lab, limit) if lab is not None else None
    return None if over is None else not over


def comorbidity(record: PatientRecord) -> Event | None:
    """What speaks for antibiotics although a virus was found: chronic heart, lung, liver, kidney disease and so on."""
    found = record.active(*COMORBIDITY)
    return found[0] if found else next((e for e in record.events if coded(e, ASPLENIA)), None)


def virus(record: PatientRecord) -> Coded | None:
    """The newest positive test for a respiratory virus within its window."""
    return next((c for c in record.coded if c.name in VIRUSES and c.meaning == "positive" and _fresh(record, c)), None)


def bacteria(record: PatientRecord) -> Coded | Lab | None:
    """What points to bacteria: a positive antigen, a culture that is not known to be sterile, procalcitonin."""
    for found in record.coded:
        if not _fresh(record, found):
            continue
        if found.name in BACTERIAL_TESTS and found.meaning == "positive":
            return found
        if found.name in CULTURES and not sterile(found):
            return found
    procalcitonin = reading(record, "procalcitonin").lab
    clear = procalcitonin is None or below(procalcitonin, BACTERIAL_PROCALCITONIN) is True
    return None if clear else procalcitonin


def cultures(record: PatientRecord) -> tuple[Coded, ...]:
    return tuple(c for c in record.coded if c.name in CULTURES and _fresh(record, c))


def sterile(culture: Coded) -> bool:
    return culture.meaning == "negative" or culture.answer[1] in NOTHING_GREW


def newest(record: PatientRecord, names: Iterable[str]) -> Coded | None:
    wanted = frozenset(names)
    return next((c for c in record.coded if c.name in wanted and _fresh(record, c)), None)


def _fresh(record: PatientRecord, found: Coded) -> bool:
    span = window(record, found.name)
    return found.at is not None and (span is None or record.age_of(found.at) <= span)
