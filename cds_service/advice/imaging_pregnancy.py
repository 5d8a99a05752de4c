"""IS-06: radiation to the abdomen or pelvis, or gadolinium, in a pregnancy that is known or has not been asked about.

ACOG Committee Opinion 723: ultrasound or MRI first; X-ray and CT are not withheld when they are needed. Studies of
chest, head and limbs are no fetal dose and say nothing here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cds_service.advice import drafts, ordering
from cds_service.advice.contrast_question import EVIDENCE, REASONS, ask_radiology, code_status, ordered_words
from cds_service.advice.packs.pregnancy import AGE_LIMITS, pregnancy
from cds_service.advice.packs.safe_to_image import doses_a_fetus
from cds_service.advice.pe_facts import weeks_pregnant
from cds_service.advice.writing import Fact, card, day, detail, missing_evidence, rule_line, rule_on
from cds_service.cards import Card, Suggestion, new_uuid
from fhir_mappers.codes import LOINC, imaging_orders
from fhir_mappers.record import Order, PatientRecord

if TYPE_CHECKING:
    from cds_service.consult import Case

HCG, HCG_CODES = "2106-3", frozenset({"2106-3", "2118-8", "2110-5", "21198-7", "19080-1"})
HCG_WINDOW = timedelta(hours=72)
MR_ABDOMEN = "30668-8"
FETAL = {"preg": "pregnancy status", **EVIDENCE}


def pregnancy_card(case: Case) -> Card | None:
    """Warning in a known pregnancy; info, asking for hCG, where nobody has asked before an elective CT."""
    rule = rule_on(case.service, "IS-06")
    if rule is None:
        return None
    state = pregnancy(case.record).state
    if state == "pregnant":
        return _pregnant_card(case)
    return _not_asked_card(case) if state == "unknown" else None


def _pregnant_card(case: Case) -> Card | None:
    record = case.record
    orders = tuple(
        o
        for o in record.drafts()
        if o.imaging is not None and (doses_a_fetus(o.imaging) or o.imaging.contrast == "gadolinium_iv")
    )
    if not orders or not drafts.touched(case, orders):
        return None
    radiation = [o for o in orders if o.imaging is not None and doses_a_fetus(o.imaging)]
    state, weeks, uuid = pregnancy(record), weeks_pregnant(record), new_uuid()
    who = "Pregnant" if weeks is None else f"Pregnant {weeks} weeks"
    do = (
        "ultrasound or MRI can answer most abdominal questions"
        if radiation
        else "MRI without gadolinium first; gadolinium only if it changes care now"
    )
    value = state.because if weeks is None else f"{weeks} weeks, {state.because}"
    return card(
        case.service,
        "IS-06",
        uuid=uuid,
        orders=orders,
        deciding=("pregnant", "radiation" if radiation else "gadolinium"),
        indicator=case.service.rules["IS-06"].tier,
        summary=f"{who}: {do}.",
        detail=detail(
            why=ordered_words(orders, "Ordered in pregnancy"),
            facts=[Fact("Pregnancy", value, day(state.at) or "date not recorded", "Chart"), *code_status(record)],
            advice="Ultrasound or MRI without gadolinium comes first where it answers the question. X-ray and CT are "
            "not withheld when they are needed.",
            unknown=missing_evidence(case.shortfalls, FETAL),
            rule=rule_line(case.service, "IS-06"),
        ),
        suggestions=_instead(case, orders, uuid),
        reasons=REASONS,
    )


def _instead(case: Case, orders: tuple[Order, ...], uuid: str) -> tuple[Suggestion, ...]:
    found = []
    for order in orders:
        study = order.imaging
        if study is None:
            continue
        other = ordering.sibling(study) if study.modality == "MR" else imaging_orders()[MR_ABDOMEN]
        name = "" if other is None else f"MRI {other.region} without contrast"
        change = None if other is None else ordering.change_study(case, order, other.loinc, name, uuid)
        if change is not None:
            found.append(Suggestion(f"Change to {name}", (change,)))
    note = "Pregnant: can ultrasound or MRI without gadolinium answer the question?"
    asked = ask_radiology(case, "Ask radiology for ultrasound or MRI instead", note)
    return (*found[:2], *([asked] if asked is not None else []))


def _not_asked_card(case: Case) -> Card | None:
    """Elective CT of abdomen or pelvis, recorded sex female, 12 to 55 years, no hCG in 72 hours, none on order."""
    record = case.record
    orders = tuple(
        o
        for o in record.drafts()
        if o.imaging is not None and doses_a_fetus(o.imaging) and o.imaging.modality == "CT" and o.priority == "routine"
    )
    if not orders or not drafts.touched(case, orders) or record.person.sex != "female" or not _may_be(record):
        return None
    # What could not be fetched is not what nobody has asked.
    if any(s.key == "preg" for s in case.shortfalls) or ordering.ordered(record.orders, HCG_CODES) or _tested(record):
        return None
    test = ordering.service_request(case, ordering.concept(LOINC, HCG, "hCG, serum or plasma"), priority="urgent")
    return card(
        case.service,
        "IS-06",
        uuid=new_uuid(),
        orders=orders,
        deciding=("pregnancy not known",),
        indicator="info",
        summary="Pregnancy status not known before CT of the abdomen or pelvis: order a pregnancy test.",
        detail=detail(
            why=ordered_words(orders, "Ordered as elective"),
            facts=[
                Fact("Pregnancy", "not known, no test in 72 h", "", "Chart"),
                Fact("Age and recorded sex", f"{_age(record)}, female", day(record.as_of), "Patient"),
                *code_status(record),
            ],
            advice="A pregnancy test comes before an elective study with the abdomen or pelvis in the beam.",
            unknown=("pregnancy", *missing_evidence(case.shortfalls, EVIDENCE)),
            rule=rule_line(case.service, "IS-06"),
        ),
        suggestions=(Suggestion("Order a pregnancy test", (test,)),),
        reasons=REASONS,
    )


def _may_be(record: PatientRecord) -> bool:
    """Certainly within the ages asked about, whatever a partial birth date leaves open (DQ-10)."""
    ages = record.age_years()
    return ages is not None and ages[0] >= AGE_LIMITS[0] and ages[1] <= AGE_LIMITS[1]


def _tested(record: PatientRecord) -> bool:
    coded = any(c.name == "hcg_qual" and c.at and record.age_of(c.at) <= HCG_WINDOW for c in record.coded)
    return coded or bool(record.results("hcg_quant", within=HCG_WINDOW))


def _age(record: PatientRecord) -> str:
    ages = record.age_years() or (0, 0)
    return f"{ages[0]} years" if ages[0] == ages[1] else f"{ages[0]} to {ages[1]} years"
