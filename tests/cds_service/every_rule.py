"""For every rule of the eight services a chart in which it fires, and the same chart with one deciding fact changed.

What each rule says beyond that, and every other silence of it, stands in tests/cds_service/advice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import embolism
import film_charts
import genetics
import lung_charts
import pneumonia_charts
import prescribing
import timing
import ward_charts
from contrast import LOW, METFORMIN, NORMAL, STEADY, creatinine
from contrast import chart as safety
from imaging_charts import answered, nodule, report
from lung_charts import L858R, OLD_REPORT, OSIMERTINIB, PROCALCITONIN, variant
from pneumonia_charts import AMOXICILLIN, CONFUSED, DETECTED, NOT_DETECTED, PREDNISONE, WELL, at_home, instead, lab
from safety_charts import CT_ABDOMEN, MR_BRAIN, MR_GADOLINIUM, PREGNANT, WOMAN, agent, device, reaction
from vignettes import (
    Answers,
    Chart,
    Resource,
    concept,
    condition,
    encounter,
    film,
    imaging_order,
    medication,
    observation,
    patient,
)


@dataclass(frozen=True)
class Pair:
    """`rule` is on the card of `fires` and on none of `silent`."""

    rule: str
    service: str
    fires: Chart
    silent: Chart


# --- imaging-safety ---------------------------------------------------------------------------------------------------

STABLE = (creatinine("o1", 1.9, "2026-03-10T06:10:00Z"), creatinine("o2", 1.85, "2026-03-08T05:00:00Z"))
VANCOMYCIN = medication("m9", "11124", "vancomycin 1 g IV", authoredOn="2026-03-09T14:00:00Z")
GADODIAMIDE = agent("V08CA03", "gadodiamide")
CONFLICT = (creatinine("o1", 1.0, "2026-03-10T06:10:00Z"), creatinine("o2", 2.4, "2026-03-10T06:00:00Z"))
SAFETY = {
    "IS-01": (safety(LOW, STEADY), safety(NORMAL)),
    "IS-02": (safety(*STABLE, VANCOMYCIN), safety(*STABLE)),
    "IS-03": (safety(LOW, STEADY, METFORMIN), safety(LOW, STEADY)),
    "IS-04": (safety(NORMAL, reaction()), safety(NORMAL)),
    "IS-05": (safety(METFORMIN), safety(METFORMIN, NORMAL)),
    "IS-06": (
        safety(NORMAL, PREGNANT, drafts=(CT_ABDOMEN,), who=WOMAN),
        safety(NORMAL, PREGNANT, drafts=(imaging_order("d1", "24628-0", "CT chest"),), who=WOMAN),
    ),
    "IS-07": (
        safety(LOW, STEADY, drafts=(MR_GADOLINIUM, GADODIAMIDE)),
        safety(LOW, STEADY, drafts=(MR_GADOLINIUM, agent("V08CA09", "gadobutrol"))),
    ),
    "IS-08": (
        safety(device("C106047"), drafts=(MR_BRAIN,)),
        safety(device("C106045"), drafts=(MR_BRAIN,)),
    ),
    "IS-09": (safety(*CONFLICT, METFORMIN), safety(CONFLICT[0], METFORMIN)),
}

# --- pe-imaging -------------------------------------------------------------------------------------------------------

pe = embolism.chart
DUE = {k: v for k, v in observation("edd", "11778-8", "", None, "2025-12-01T09:00:00Z").items() if k != "valueString"}
DUE["valueDateTime"] = "2026-06-16"
CLEAR = report("r1", "36643-5", "2026-03-10T11:00:00Z", "Lungs are clear.")
SCAN = report("r1", "36147-7", "2026-03-05T10:00:00Z", "No pulmonary embolism.")
CANCER = condition("c0", "C34.11")  # D-dimer first is no advice in cancer
STATED = answered(embolism.CTPA, low_suspicion=True, dvt_signs=False, haemoptysis=False, pe_most_likely=False)
NOT_LOW = answered(embolism.CTPA, low_suspicion=False, dvt_signs=False, haemoptysis=False, pe_most_likely=False)
LEGS = answered(embolism.CTPA, dvt_signs=True)
EMBOLISM = {
    "PE-01": (pe(embolism.LOW, drafts=(embolism.UNLIKELY,)), pe(embolism.ddimer(900), drafts=(embolism.UNLIKELY,))),
    "PE-02": (pe(drafts=(embolism.UNLIKELY,)), pe(CANCER, drafts=(embolism.UNLIKELY,))),
    "PE-03": (pe(SCAN, CANCER, drafts=(embolism.ALL_NO,)), pe(CANCER, drafts=(embolism.ALL_NO,))),
    "PE-04": (
        pe(DUE, embolism.ddimer(640), who=embolism.WOMAN_30, drafts=(LEGS,)),
        pe(embolism.ddimer(640), who=embolism.WOMAN_30, drafts=(LEGS,)),
    ),
    "PE-05": (
        pe(CANCER, reaction(), CLEAR, who=embolism.MAN_40, drafts=(embolism.ALL_NO,)),
        pe(CANCER, CLEAR, who=embolism.MAN_40, drafts=(embolism.ALL_NO,)),
    ),
    "PE-06": (pe(who=embolism.MAN_40, drafts=(STATED,)), pe(who=embolism.MAN_40, drafts=(NOT_LOW,))),
}

# --- imaging-timing ---------------------------------------------------------------------------------------------------

STANDING = timing.standing("x1", "36643-5", "Chest X-ray")
SEEN = report("r1", "29252-4", "2025-12-08T10:00:00Z", "See findings.")
SEVEN_MM = nodule("n1", "2025-12-08T10:00:00Z", 7)
FOUR_MM = nodule("n1", "2025-12-08T10:00:00Z", 4)
MAN = patient("male", "1973-05-05")


def nodules(size: Resource, **more: Any) -> Chart:
    return timing.chart(SEEN, size, visit=timing.CLINIC, who=MAN, **more)


LATER: dict[str, Any] = {"drafts": (), "hook": "patient-view", "now": "2026-06-01T09:00:00Z"}
TIMING = {
    "TM-01": (timing.chart(timing.DONE), timing.chart()),
    "TM-02": (timing.chart(STANDING), timing.chart(STANDING | {"status": "completed"})),
    "TM-03": (
        nodules(SEVEN_MM, drafts=(timing.CT,)),
        nodules(SEVEN_MM, drafts=(timing.CT | {"occurrenceDateTime": "2026-06-10"},)),
    ),
    "TM-04": (nodules(SEVEN_MM, **LATER), nodules(FOUR_MM, **LATER)),
}

# --- cxr-insight ------------------------------------------------------------------------------------------------------

READ = film_charts.report("final")
FILMS = {
    "CX-01": (film_charts.chart(), film_charts.chart(READ)),
    "CX-02": (film_charts.two_films(), film_charts.two_films(READ)),
    "CX-03": (film_charts.course(film_charts.ANTIBIOTIC), film_charts.course()),
}

# --- chest-treatment --------------------------------------------------------------------------------------------------

chest = pneumonia_charts.chart
DAYS = {"value": 10, "unit": "d", "system": "http://unitsofmeasure.org", "code": "d"}
FIVE = {**DAYS, "value": 5}


def course(days: Resource) -> Resource:
    return {**AMOXICILLIN, "dosageInstruction": [{"timing": {"repeat": {"boundsDuration": days}}}]}


ILL = instead(
    WELL,
    CONFUSED,
    lab("3094-0", 61, "mg/dL"),
    pneumonia_charts.vital("9279-1", 32, "/min"),
)
FLUID = (condition("c7", "I50.23"), lab("33762-6", 6200, "pg/mL"), *WELL, lab("2160-0", 1.2, "mg/dL"))
DRY = (
    *instead(WELL, pneumonia_charts.vital("8480-6", 101, "mm[Hg]")),
    lab("2524-7", 3.1, "mmol/L", "2026-03-10T11:00:00Z"),
)
SEEN_FILM: dict[str, Any] = {"films": (pneumonia_charts.PIXELS,)}
MRSA = medication("a1", "11124", "vancomycin", authoredOn="2026-03-08T08:00:00Z")
LONG_STAY = encounter("IMP", period={"start": "2026-03-08T07:00:00Z"})
HOME = (at_home(AMOXICILLIN),)


def wet(procalcitonin: float) -> Chart:
    given = (*FLUID, lab("33959-8", procalcitonin, "ng/mL"), pneumonia_charts.FILM)
    return chest(*given, drafts=(AMOXICILLIN,), model=pneumonia_charts.OEDEMA, **SEEN_FILM)


def diuresis(*resources: Resource) -> Chart:
    drafts = (pneumonia_charts.FUROSEMIDE,)
    return chest(*resources, pneumonia_charts.FILM, drafts=drafts, model=pneumonia_charts.INFECTION, **SEEN_FILM)


CHEST = {
    "CT-01": (
        chest(*ILL, drafts=HOME, visit=encounter("EMER")),
        chest(*WELL, drafts=HOME, visit=encounter("EMER")),
    ),
    "CT-02": (chest(*WELL, drafts=(PREDNISONE,)), chest(condition("c8", "J44.1"), *WELL, drafts=(PREDNISONE,))),
    "CT-03": (wet(0.06), wet(0.3)),
    "CT-04": (chest(*WELL, drafts=(course(DAYS),)), chest(*WELL, drafts=(course(FIVE),))),
    "CT-05": (
        chest(pneumonia_charts.answered("92131-2", DETECTED), drafts=HOME, visit=encounter("AMB")),
        chest(pneumonia_charts.answered("92131-2", NOT_DETECTED), drafts=HOME, visit=encounter("AMB")),
    ),
    "CT-06": (diuresis(*DRY), diuresis(*WELL)),
    "CT-07": (
        chest(MRSA, pneumonia_charts.answered("13317-3", NOT_DETECTED), drafts=(AMOXICILLIN,), visit=LONG_STAY),
        chest(MRSA, pneumonia_charts.answered("13317-3", DETECTED), drafts=(AMOXICILLIN,), visit=LONG_STAY),
    ),
}

# --- deterioration ----------------------------------------------------------------------------------------------------

VITALS: dict[str, tuple[Any, str | None]] = {
    "9279-1": (16, "/min"),
    "59408-5": (97, "%"),
    "3151-8": (0, "L/min"),
    "8480-6": (120, "mm[Hg]"),
    "8867-4": (70, "/min"),
    "8310-5": (37.0, "Cel"),
    "67775-7": ("Alert", None),
}
STUDY, PIXELS = film(1, "2026-03-10T08:00:00Z", "AP")


def ward(*resources: Resource, model: Answers | None = None, **changed: float) -> Chart:
    """Vital signs at 13:40; `changed` by name of the NEWS2 item."""
    names = {"rr": "9279-1", "hr": "8867-4", "temp": "8310-5", "spo2": "59408-5", "o2": "3151-8"}
    values = VITALS | {names[k]: (v, VITALS[names[k]][1]) for k, v in changed.items()}
    category = [concept("http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs")]
    signs = [
        observation(f"v{n}", code, value, unit, "2026-03-10T13:40:00Z", category=category)
        for n, (code, (value, unit)) in enumerate(values.items())
    ]
    films: dict[str, Any] = {"films": (PIXELS,)} if model is not None else {}
    shown = (STUDY,) if model is not None else ()
    who = patient("female", "1961-07-07")
    return Chart((who, encounter(), *signs, *shown, *resources), hook="patient-view", model=model, **films)


def risk(p: float) -> Answers:
    return Answers({"icu_care": (p, p - 0.08, p + 0.08)}, titles={"icu_care": "In intensive care"})


COVID = condition("c9", "U07.1")
WARD = {
    "DT-01": (ward(rr=24, spo2=93, o2=4, hr=116, temp=38.6), ward(rr=22)),
    "DT-02": (ward(rr=22, hr=112, temp=38.4), ward(rr=22, hr=112)),  # 2 + 2 + 1 = 5, and 4
    "DT-03": (
        ward_charts.chart(ward_charts.PNEUMONIA, ward_charts.LACTATE),
        ward_charts.chart(ward_charts.PNEUMONIA, ward_charts.LACTATE, ward_charts.dose()),
    ),
    "DT-04": (
        ward_charts.discharge(ward_charts.lab("2823-3", 2.8, "mmol/L")),
        ward_charts.discharge(ward_charts.lab("2823-3", 3.8, "mmol/L")),
    ),
    "DT-05": (ward(COVID, model=risk(0.72)), ward(COVID, model=risk(0.1))),
}

# --- precision-prescribing --------------------------------------------------------------------------------------------

drug = genetics.chart
CAPECITABINE = genetics.drug_order("194000", "capecitabine 1250 mg/m2 twice daily")
NORMAL_DPYD = genetics.gene("DPYD", genotype="*1/*1", phenotype="Normal Metabolizer")
GENES = {
    "PGX": (
        drug(prescribing.POOR, prescribing.STENT, drafts=(prescribing.CLOPIDOGREL,)),
        drug(prescribing.STENT, drafts=(prescribing.CLOPIDOGREL,)),
    ),
    "PGX-TEST": (drug(drafts=(CAPECITABINE,)), drug(NORMAL_DPYD, drafts=(CAPECITABINE,))),
    "QT-01": (
        drug(prescribing.qtc(512), visit=prescribing.IN, drafts=(prescribing.AZITHROMYCIN,)),
        drug(prescribing.qtc(440), visit=prescribing.IN, drafts=(prescribing.AZITHROMYCIN,)),
    ),
    "QT-02": (
        drug(condition("c", "I45.81"), prescribing.qtc(440), visit=prescribing.IN, drafts=(prescribing.AZITHROMYCIN,)),
        drug(prescribing.qtc(440), visit=prescribing.IN, drafts=(prescribing.AZITHROMYCIN,)),
    ),
    "NEPH-01": (
        drug(*prescribing.injury(2.2), visit=prescribing.IN, drafts=(prescribing.IBUPROFEN,)),
        drug(*prescribing.injury(1.0), visit=prescribing.IN, drafts=(prescribing.IBUPROFEN,)),
    ),
}

# --- lung-precision ---------------------------------------------------------------------------------------------------

lungs = lung_charts.chart
EXON20 = variant("EGFR", "p.Ala767_Val769dup")
OPENED: dict[str, Any] = {"drafts": (), "hook": "patient-view"}
OPACITIES = lung_charts.report("r1", "2026-03-10T10:00:00Z", "New bilateral ground-glass opacities.")
TREND = {
    "resourceType": "Observation",
    "id": "ds1",
    "status": "final",
    "code": concept("http://loinc.org", "97509-4"),
    "subject": {"reference": "Patient/p1"},
    "effectiveDateTime": "2026-03-05",
    "valueCodeableConcept": concept("http://snomed.info/sct", "271299001"),
    "extension": [
        {
            "url": "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-evidence-type",
            "valueCodeableConcept": concept("http://snomed.info/sct", "363679005"),
        }
    ],
}
LORLATINIB = medication("d2", "2103164", "lorlatinib", "draft")
LUNG = {
    "LC-01": (lungs(), lungs(tumour=lung_charts.cancer("IVA", "small-cell"))),
    "LC-02": (lungs(L858R), lungs({**L858R, "status": "entered-in-error"})),
    "LC-03": (lungs(EXON20), lungs({**EXON20, "status": "entered-in-error"})),
    "LC-04": (
        lungs(OSIMERTINIB, PROCALCITONIN, OPACITIES, OLD_REPORT, **OPENED),
        lungs(PROCALCITONIN, OPACITIES, OLD_REPORT, **OPENED),
    ),
    "LC-05": (lungs(OSIMERTINIB, TREND, **OPENED), lungs(TREND, **OPENED)),
    "LC-06": (
        lungs(medication("a3", "9384", "rifampin"), drafts=(LORLATINIB,)),
        lungs(medication("a3", "1191", "aspirin"), drafts=(LORLATINIB,)),
    ),
}
SERVICES = {
    "imaging-safety": SAFETY,
    "pe-imaging": EMBOLISM,
    "imaging-timing": TIMING,
    "cxr-insight": FILMS,
    "chest-treatment": CHEST,
    "deterioration": WARD,
    "precision-prescribing": GENES,
    "lung-precision": LUNG,
}
PAIRS = [Pair(rule, name, *pair) for name, rules in SERVICES.items() for rule, pair in rules.items()]
GOAL: Resource = {
    "resourceType": "Consent",
    "id": "goal",
    "status": "active",
    "patient": {"reference": "Patient/p1"},
    "provision": {"type": "permit", "code": [concept("http://snomed.info/sct", "133918004")]},
}
"""Comfort measures only."""


def with_goal(chart: Chart) -> Chart:
    return replace(chart, resources=(*chart.resources, GOAL))
