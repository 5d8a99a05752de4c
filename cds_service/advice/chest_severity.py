"""What the severity of pneumonia says about going home (CT-01) and about corticosteroids (CT-02)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cds_service.advice import ordering
from cds_service.advice.chest_question import (
    REASONS,
    Question,
    criterion_rows,
    curb_row,
    diagnosis_row,
    goals_row,
    lab_row,
    named,
    severity_row,
)
from cds_service.advice.drafts import remove
from cds_service.advice.estimates import model_line
from cds_service.advice.packs import care, pneumonia
from cds_service.advice.packs.curb65 import SEVERE
from cds_service.advice.packs.pregnancy import pregnancy
from cds_service.advice.packs.quality import below, reading
from cds_service.advice.writing import band, card, detail, fitting, rule_line, rule_on, setting, words
from cds_service.cards import Card, Suggestion
from fhir_mappers.courses import taken_at_home
from fhir_mappers.record import Lab, Order

if TYPE_CHECKING:
    from cds_service.consult import Case

SPO2_LIMIT, SPO2_LIMIT_TARGET = 90.0, 88.0
"""Below the first a patient does not go home; below the second where a target of 88 to 92 % is set."""
NOT_ADMITTED = frozenset({"EMER", "AMB", "VR", "HH", "OBSENC", "SS"})
DISPOSITION_WINDOW = timedelta(hours=24)
DETERIORATION = "deterioration_24h"

STEROID_GROUPS = ("copd", "cpd", "asthma", "ild", "drug_lung", "covid19", "sepsis", "rheum", "any_cancer", "lymphoma",
                  "myeloma", "scar", "contrast_allergy", "liver_disease", "hypercapnia")  # fmt: skip
STEROID_CODES = ("E271", "E272", "E273", "E274", "E230", "E896", "T780", "T782", "T783", "T784", "T886", "T805", "R57",
                 "R6521", "J80", "J38", "B59", "G00", "G01", "G935", "G936", "G35", "G70", "K50", "K51", "D59", "D693",
                 "L10", "L12", "L50", "L51", "M31", "M30", "N04", "H46", "Z7952", "C", "D86")  # fmt: skip
"""ICD-10 of what else corticosteroids are given for: adrenal and pituitary failure, anaphylaxis, shock, ARDS, croup,
Pneumocystis, meningitis, brain oedema, demyelination, bowel, blood and skin disease, vasculitis, cancer."""


# --- CT-01 -----------------------------------------------------------------------------------------------------------


def discharge_card(q: Question) -> Card | None:
    """CT-01: pneumonia treated at home from the emergency department or clinic, and too ill for that."""
    service, record = q.case.service, q.record
    rule = rule_on(service, "CT-01")
    visit = record.encounter
    if rule is None or (visit is not None and visit.class_ not in NOT_ADMITTED):
        return None
    going = _going_home(q)
    saturation = _low_saturation(q.case)
    severe = q.curb.low >= SEVERE
    if going is None or not (severe or saturation is not None):
        return None
    # The whole range qualifies once its lower end does; an item that is missing can only add to it.
    used = [c for c in q.curb.criteria if c.met] if severe else []
    preliminary = any(c.preliminary for c in used) and saturation is None
    facts = [curb_row(q)] if severe else []
    facts += [lab_row(saturation)] if saturation is not None else []
    facts += [row for c in used for row in criterion_rows(c)]
    head = f"CURB-65 {'at least ' if q.curb.missing else ''}{q.curb.low}" if severe else _saturation_words(saturation)
    also = f", {_saturation_words(saturation)}" if severe and saturation is not None else ""
    estimate = q.case.assessment.estimates.get(DETERIORATION) if q.case.assessment is not None else None
    spoken = estimate is not None and estimate.probability is not None
    missing = [f"CURB-65 item {name}" for name in q.curb.missing]
    return card(
        service,
        "CT-01",
        uuid=q.uuid,
        orders=(going,),
        deciding=(f"CURB-65 {band(q.curb.low, SEVERE)}", "low saturation" if saturation is not None else ""),
        indicator="info" if preliminary else rule.tier,
        summary=fitting(
            f"{head}{also}, treatment at home ordered: review for admission or observation first.",
            f"{head}, treatment at home ordered: review for admission first.",
        ),
        detail=detail(
            why=f"Treatment of pneumonia at home was ordered: {named((going,))}.",
            facts=[*facts, *goals_row(q)],
            advice="CURB-65 of 3 or more is severe pneumonia, and a saturation this low needs oxygen: both are treated "
            "in hospital unless goals of care say otherwise.",
            unknown=q.unknown(*missing),
            model=model_line(q.case.assessment, estimate)
            if spoken and q.case.assessment is not None and estimate is not None
            else "",
            rule=rule_line(service, "CT-01"),
        ),
        suggestions=_review(q),
        reasons=REASONS,
    )


def _saturation_words(saturation: Lab | None) -> str:
    return "" if saturation is None else f"SpO2 {saturation.value:g} %"


def _going_home(q: Question) -> Order | None:
    """The order that sends the patient home: an antibiotic to be taken there, or a discharge order."""
    record = q.record
    treated = [o for o in q.for_pneumonia if taken_at_home(o.resource)]
    if treated:
        return treated[0]
    codes = frozenset(words(q.case.service, "discharge_codes"))
    leaving = [
        o
        for o in record.orders
        if any(f"{system}|{code}" in codes for system, code in o.codes)
        and (o.draft or (o.authored is not None and record.age_of(o.authored) <= DISPOSITION_WINDOW))
    ]
    ill = bool(q.for_pneumonia) or pneumonia.on_problem_list(record) is not None
    return leaving[0] if leaving and ill else None


def _low_saturation(case: Case) -> Lab | None:
    saturation = reading(case.record, "spo2").lab
    codes = frozenset(words(case.service, "spo2_target_88_92_codes"))
    target = bool(case.record.active("hypercapnia")) or any(
        f"{s}|{c}" in codes for o in case.record.orders if not o.draft for s, c in o.codes
    )
    limit = SPO2_LIMIT_TARGET if target else SPO2_LIMIT
    return saturation if saturation is not None and below(saturation, limit) is True else None


def _review(q: Question) -> tuple[Suggestion, ...]:
    system, _, code = str(setting(q.case.service, "admission_review_code")).partition("|")
    if any((system, code) in o.codes for o in q.record.orders):
        return ()
    request = ordering.service_request(
        q.case, ordering.concept(system, code, "review for admission or observation"), priority="urgent"
    )
    return (Suggestion("Order review for admission or observation", (request,)),)


# --- CT-02 -----------------------------------------------------------------------------------------------------------


def steroid_card(q: Question) -> Card | None:
    """CT-02: a systemic corticosteroid for pneumonia that is certainly not severe, and nothing else it could treat."""
    service = q.case.service
    rule = rule_on(service, "CT-02")
    if rule is None or not q.steroids or not q.non_severe or _steroid_has_a_reason(q):
        return None
    # A problem list or medication list that did not arrive may hold the reason.
    if {s.key for s in q.case.shortfalls} & {"conditions", "meds"}:
        return None
    preliminary = q.curb.preliminary or q.severity.minor.preliminary
    known = [c for c in q.curb.criteria if c.met is not None]
    rows = [row for c in known for row in criterion_rows(c)]
    return card(
        service,
        "CT-02",
        uuid=q.uuid,
        orders=q.steroids,
        deciding=(f"CURB-65 {q.curb}",),
        indicator="info" if preliminary else rule.tier,
        summary=fitting(f"Non-severe pneumonia (CURB-65 {q.curb}): corticosteroid not recommended."),
        detail=detail(
            why=f"A systemic corticosteroid was ordered for pneumonia: {named(q.steroids)}.",
            facts=[curb_row(q), severity_row(q), *diagnosis_row(q), *rows, *goals_row(q)],
            advice="In non-severe pneumonia corticosteroids are recommended against (strong recommendation); they are "
            "suggested in severe pneumonia other than influenza. No other reason for one was found here.",
            unknown=q.unknown(*(f"CURB-65 item {name}" for name in q.curb.missing)),
            rule=rule_line(service, "CT-02"),
        ),
        suggestions=_without(q.steroids, "Remove the corticosteroid draft", recommended=not preliminary),
        reasons=REASONS,
    )


def _steroid_has_a_reason(q: Question) -> bool:
    record = q.record
    taken = any(e.kind == "medication" for e in record.active("corticosteroid"))
    pressure = reading(record, "sbp").lab
    covid = any(c.name == "sars_cov_2" and c.meaning == "positive" for c in record.coded)
    return (
        taken
        or covid
        or bool(record.active(*STEROID_GROUPS, "pulmonary_toxicity"))
        or any(pneumonia.coded(e, STEROID_CODES) for e in record.events)
        or pregnancy(record).state == "pregnant"
        or (pressure is not None and below(pressure, 90.0) is not False)
        or care.emergency(record) is not None
    )


def _without(orders: tuple[Order, ...], label: str, *, recommended: bool) -> tuple[Suggestion, ...]:
    actions = remove(*orders)
    return (Suggestion(label, actions, is_recommended=recommended),) if actions else ()
