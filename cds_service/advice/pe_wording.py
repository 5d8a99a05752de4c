"""How the cards of pe-imaging say what they rest on, and the orders they offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cds_service.advice import ordering
from cds_service.advice.estimates import model_line
from cds_service.advice.packs import care
from cds_service.advice.packs.wells import POINTS
from cds_service.advice.pe_facts import Suspicion
from cds_service.advice.prior_studies import study_name
from cds_service.advice.writing import (
    Fact,
    in_unit_of,
    missing_evidence,
    override_reasons,
    shown,
    taken,
)
from cds_service.cards import Action
from fhir_mappers.codes import LOINC
from fhir_mappers.record import Order

if TYPE_CHECKING:
    from cds_service.consult import Case

D_DIMER, LEG_ULTRASOUND = "48065-7", "30881-7"
D_DIMER_CODES = frozenset({"48065-7", "48067-3", "48066-5", "48058-2"})
PRE_TEST = "pulmonary_embolism"
"""The target of a model that estimates how likely embolism was before any scan; no shipped model has it yet."""
REASONS = override_reasons(
    (
        ("high-suspicion", "High clinical suspicion"),
        ("d-dimer-unreliable", "D-dimer unreliable (recent surgery, cancer, inpatient)"),
    ),
    without=("patient-contraindication", "patient-refuses"),
)
EVIDENCE = {
    "ddimer": "D-dimer results",
    "vitals": "vital signs",
    "conditions": "problem list",
    "history": "past problems",
    "procedures": "procedures",
    "meds": "medication list",
    "preg": "pregnancy status",
    "encounter": "encounter",
    "reports": "radiology reports",
    "allergies": "allergies",
    "kidney": "creatinine",
    "questions": "order questions",
    "goals": "goals of care",
}
ITEMS = {
    "leg_signs": "leg signs",
    "pe_most_likely": "whether PE is the most likely diagnosis",
    "fast_heart": "heart rate",
    "surgery_or_bedrest": "surgery or bed rest in 4 weeks",
    "previous_vte": "earlier thrombosis or PE",
    "haemoptysis": "haemoptysis",
    "active_cancer": "active cancer",
}
PRESENT = {**ITEMS, "pe_most_likely": "PE most likely", "fast_heart": "heart rate above 100/min"}


def scan_name(orders: Sequence[Order]) -> str:
    """`CTPA`, `lung scan`, or both: what the sentences call the ordered scans."""
    names = ["lung scan" if o.imaging is not None and o.imaging.duplicate_group == "vq" else "CTPA" for o in orders]
    return " and ".join(dict.fromkeys(names))


def full_name(order: Order) -> str:
    return study_name(order.imaging) if order.imaging is not None else "the scan"


def d_dimer_fact(s: Suspicion) -> Fact:
    lab, limit = s.ddimer.lab, s.ddimer.limit
    if lab is None:
        return Fact("D-dimer", "none in 24 h", "", "Laboratory")
    kind = "FEU" if s.ddimer.kind == "feu" else "DDU"
    below = f", limit {in_unit_of(lab, limit.value)} ({limit.rule})" if limit is not None else ""
    return Fact(f"D-dimer ({kind})", f"{shown(lab)}{below}", taken(lab), "Laboratory")


def wells_facts(s: Suspicion) -> list[Fact]:
    """The score as a span and what it counts, in pregnancy the YEARS items; heart rate, age and code status."""
    if s.pregnant:  # Wells is not made for pregnancy
        low, high = s.wells.years
        count = f"{low} of 3" if low == high else f"{low} to {high} of 3"
        return [Fact("YEARS items", count, "", "Chart, order questions"), *_more_facts(s)]
    w = s.wells
    span = f"{w.least:g}" if w.least == w.most else f"{w.least:g} to {w.most:g}"
    present = [f"{PRESENT[n]} {POINTS[n]:g}" for n in POINTS if getattr(w, n) is True]
    unit = "point" if span == "1" else "points"
    score = f"{span} {unit}: {', '.join(present) or 'no item on record'}"
    return [Fact("Wells", score, "", "Chart, order questions"), *_more_facts(s)]


def _more_facts(s: Suspicion) -> list[Fact]:
    facts = []
    if s.heart_rate is not None:
        facts.append(Fact("Heart rate", shown(s.heart_rate), taken(s.heart_rate), "Vital signs"))
    ages = s.case.record.age_years()
    if ages is not None and (s.ddimer.limit is None or s.ddimer.limit.rule == "age-adjusted"):
        facts.append(Fact("Age", f"{ages[0]} years" if ages[0] == ages[1] else f"{ages[0]} to {ages[1]} years", "", ""))
    if care.not_for_resuscitation(s.case.record):
        facts.append(Fact("Code status", "do not resuscitate", "", "Goals of care"))
    return facts


def unknown(s: Suspicion, *, d_dimer: bool = True) -> tuple[str, ...]:
    """Open items first, with what they were counted as; then what could not be had."""
    found = [f"{ITEMS[name]} (counted as present)" for name in s.wells.open]
    if s.pregnancy.state == "unknown":
        found.append("pregnancy")
    if d_dimer and s.ddimer.lab is not None and s.ddimer.lab.preliminary:
        found.append("final D-dimer (this one is preliminary)")
    return (*found, *missing_evidence(s.case.shortfalls, EVIDENCE))


def only_missing(case: Case) -> tuple[str, ...]:
    """What could not be had of the evidence that decides."""
    deciding = {k: v for k, v in EVIDENCE.items() if k not in ("reports", "allergies", "kidney", "goals")}
    return missing_evidence(case.shortfalls, deciding)


def model_text(case: Case) -> str:
    """One line with the pre-test estimate, where a model gives one: beside the rules, never over them."""
    if case.assessment is None or PRE_TEST not in case.assessment.estimates:
        return ""
    estimate = case.assessment.estimates[PRE_TEST]
    return model_line(case.assessment, estimate) if estimate.probability is not None else ""


def d_dimer_order(case: Case) -> Action:
    return ordering.service_request(case, ordering.concept(LOINC, D_DIMER, "D-dimer (FEU)"), priority="urgent")


def leg_ultrasound_order(case: Case) -> Action | None:
    return ordering.study(case, LEG_ULTRASOUND, "Ultrasound of the leg veins, both sides", priority="urgent")


def lung_scan_order(case: Case) -> Action | None:
    return ordering.study(case, ordering.LUNG_SCAN, "Lung ventilation-perfusion scan", priority="urgent")
