"""deterioration: is this patient getting sicker than the plan assumes? Rules DT-01, DT-02 (NEWS2) and DT-05 (model).

NEWS2 speaks first and never waits for a model; the model's estimate is then a line on the same card. DT-05 speaks
alone where NEWS2 does not. Its rule of two consecutive calls at least 30 minutes apart, and the hysteresis on the
way down, need a memory of earlier calls, which the service does not keep yet: each call is judged by itself.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cds_service.advice import ordering
from cds_service.advice.estimates import (
    answered,
    film_fact,
    films_used,
    lab_fact,
    labs_used,
    model_line,
    out_of_range,
    rests_on_film,
    without_modalities,
)
from cds_service.advice.gate import closed
from cds_service.advice.packs import care
from cds_service.advice.packs.news2 import Item, News2, news2
from cds_service.advice.packs.pregnancy import postpartum, pregnancy
from cds_service.advice.packs.quality import reading
from cds_service.advice.writing import (
    Fact,
    as_printed,
    band,
    card,
    day,
    detail,
    fitting,
    hours,
    missing_evidence,
    moment,
    override_reasons,
    probability,
    rule_line,
    rule_on,
    setting,
    shown,
    taken,
    words,
)
from cds_service.cards import Card, Suggestion, new_uuid
from fhir_mappers.codes import LOINC
from fhir_mappers.record import Image, Lab
from models.contract import Estimate

if TYPE_CHECKING:
    from cds_service.consult import Case

EMERGENCY, URGENT = 7, 5
"""NEWS2 thresholds (RCP 2017): emergency response from 7, urgent response from 5 or a single item of 3."""
NEWS2_AGE, MODEL_AGE = 16, 18
INFECTIONS = ("pneumonia", "sepsis", "abscess_empyema", "aspiration")
REASONS = override_reasons(
    (("team-at-bedside", "Team already at bedside"), ("expected", "Expected for this patient")),
    without=("patient-contraindication", "patient-refuses"),
)
EVIDENCE = {"vitals": "vital signs", "conditions": "problem list", "encounter": "encounter", "goals": "goals of care"}


def advise(case: Case) -> list[Card]:
    """At most one card."""
    if closed(case) or _elsewhere(case) or _already_called(case):
        return []
    score = None
    if care.under(case.record, NEWS2_AGE) is not True:
        target = bool(case.record.active("hypercapnia")) or _saturation_target(case)
        score = news2(case.record, hours(case.service, "vitals_h"), hypercapnia_target=target)
    estimate = _estimate(case)
    if score is not None and (score.total >= URGENT or score.single_three):
        found = _news2_card(case, score, estimate)
    else:
        found = _model_card(case, score, estimate)
    return [found] if found else []


def _elsewhere(case: Case) -> bool:
    """Settings with their own watch, and patients these scores were not made for."""
    record = case.record
    outpatient = record.encounter is not None and not record.encounter.inpatient
    return (
        outpatient
        or care.in_intensive_care(record)
        or care.ventilated(record)
        or postpartum(record)
        or pregnancy(record).state == "pregnant"
    )


def _already_called(case: Case) -> bool:
    """A rapid-response review was asked for within the last hours."""
    system, _, code = str(setting(case.service, "rapid_response_code")).partition("|")
    window = hours(case.service, "rapid_response_silence_h")
    return any(
        (system, code) in order.codes
        and (order.draft or (order.authored is not None and case.record.age_of(order.authored) <= window))
        for order in case.record.orders
    )


def _saturation_target(case: Case) -> bool:
    """A recorded target saturation of 88 to 92 %: an order with one of the site's codes for it."""
    codes = frozenset(words(case.service, "spo2_target_88_92_codes"))
    return any(f"{s}|{c}" in codes for o in case.record.orders if not o.draft for s, c in o.codes)


# --- NEWS2 -----------------------------------------------------------------------------------------------------------


def _news2_card(case: Case, score: News2, estimate: Estimate | None) -> Card | None:
    name = "DT-01" if score.total >= EMERGENCY else "DT-02"
    rule = rule_on(case.service, name)
    if rule is None:
        return None
    at_least = "at least " if score.missing else ""
    worst = [item for item in score.items if item.points][:2]
    do = "emergency review per policy" if name == "DT-01" else "urgent clinician review"
    more = len(score.missing) - 1
    missing = f"missing {score.missing[0]}" + (f" and {more} more" if more else "") if score.missing else ""
    # What is missing makes the score a minimum: it gives way last.
    basis = ["; ".join(filter(None, (", ".join(i.words for i in worst[:n]), missing))) for n in (2, 1, 0)]
    head = f"NEWS2 {at_least}{score.total} at {moment(score.at)}"
    facts = [_news2_fact(score), *(_item_fact(item) for item in score.items if item.points)]
    if case.assessment is not None and estimate is not None and rests_on_film(estimate):
        facts[3:3] = [film_fact(film) for film in films_used(case)[:1]]
    if care.not_for_resuscitation(case.record):
        facts.insert(1, Fact("Code status", "do not resuscitate", "", "Goals of care"))
    used = [name]
    model = ""
    if case.assessment is not None and estimate is not None and _adult(case):
        model = model_line(case.assessment, estimate)
    return card(
        case.service,
        *used,
        uuid=new_uuid(),
        orders=(),
        # A day later the same score is news: patients recover and relapse.
        deciding=(f"NEWS2 {band(score.total, URGENT, EMERGENCY)}", day(score.at)),
        indicator="info" if score.preliminary else rule.tier,
        summary=fitting(*(f"{head} ({b}): {do}." for b in basis if b), f"{head}: {do}."),
        detail=detail(
            why=f"The newest set of vital signs scores NEWS2 {at_least}{score.total}.",
            facts=facts,
            advice=_news2_advice(score, name),
            unknown=_unknown(case, score, estimate if model else None),
            model=model,
            rule=rule_line(case.service, *used),
        ),
        suggestions=_news2_suggestions(case, name, complete=not score.missing and not score.preliminary),
        reasons=REASONS,
    )


def _news2_fact(score: News2) -> Fact:
    scale = ", saturation scale 2 (target 88 to 92 %)" if score.scale == 2 else ""
    at_least = "at least " if score.missing else ""
    return Fact(
        f"NEWS2 {at_least}{score.total}", f"{len(score.items)} of 7 items{scale}", moment(score.at), "Vital signs"
    )


def _item_fact(item: Item) -> Fact:
    plural = "s" if item.points > 1 else ""
    if isinstance(item.source, Lab):
        value, when = shown(item.source), taken(item.source)
        if item.name in ("oxygen", "consciousness"):
            value = f"on oxygen, {value}" if item.name == "oxygen" else item.value
    else:
        value, when = item.value, moment(item.source.at)
    return Fact(item.name.capitalize(), f"{value} ({item.points} point{plural})", when, "Vital signs")


def _news2_advice(score: News2, name: str) -> str:
    if name == "DT-01":
        return (
            "NEWS2 of 7 or more calls for an emergency assessment by a team with critical care skills "
            "and continuous monitoring."
        )
    if score.total >= URGENT:
        return "NEWS2 of 5 or 6 calls for an urgent review by a clinician and observations at least every hour."
    return "A single item of 3 points calls for an urgent review by a clinician of the ward."


def _news2_suggestions(case: Case, name: str, *, complete: bool) -> tuple[Suggestion, ...]:
    record = case.record
    found = []
    if name == "DT-01":
        review = ordering.service_request(case, _rapid_response(case), priority="stat")
        found.append(Suggestion("Order rapid response review", (review,), is_recommended=complete))
        recent = reading(record, "lactate", hours(case.service, "lactate_recent_h")).lab
        if recent is None and not ordering.ordered(record.orders, ordering.LACTATE_CODES):
            lactate = ordering.concept(LOINC, ordering.LACTATE, "Lactate")
            found.append(Suggestion("Order lactate", (ordering.service_request(case, lactate, priority="stat"),)))
        if record.active(*INFECTIONS) and not ordering.ordered(record.orders, frozenset({ordering.BLOOD_CULTURE})):
            cultures = ordering.concept(LOINC, ordering.BLOOD_CULTURE, "Blood culture")
            request = ordering.service_request(case, cultures, priority="urgent")
            found.append(Suggestion("Order blood cultures", (request,)))
    else:
        code = ordering.concept(ordering.REQUEST, "urgent-clinician-review", "urgent clinician review")
        found.append(
            Suggestion("Order urgent clinician review", (ordering.service_request(case, code, priority="urgent"),))
        )
    return tuple(found)


def _rapid_response(case: Case) -> dict[str, Any]:
    system, _, code = str(setting(case.service, "rapid_response_code")).partition("|")
    return ordering.concept(system, code, "rapid response review")


# --- the model -------------------------------------------------------------------------------------------------------


def _adult(case: Case) -> bool:
    """MX-2: not under 18. An unknown age is not a known minor; the card says that it is not known."""
    ages = case.record.age_years()
    return ages is None or ages[0] >= MODEL_AGE


def _estimate(case: Case) -> Estimate | None:
    """The estimate that lies furthest above its threshold, among the targets the manifest sets one for."""
    if case.assessment is None or not _adult(case):
        return None
    given = {
        name: case.assessment.estimates[name]
        for name, levels in case.service.thresholds.items()
        if name in case.assessment.estimates and "info" in levels and _trained_for(case, name)
    }

    def above(name: str) -> tuple[float, str]:
        p = given[name].probability
        return (-1.0 if p is None else p - case.service.thresholds[name]["info"]), name

    return given[max(given, key=above)] if given else None


def _trained_for(case: Case, target: str) -> bool:
    """Whether the patient is of the kind the target was trained on: a condition group the manifest asks for."""
    groups = str(case.service.settings.get(f"only_with_{target}", "")).split()
    return not groups or bool(case.record.active(*groups))


def _model_card(case: Case, score: News2 | None, estimate: Estimate | None) -> Card | None:
    """DT-05: the risk is at or above the site's threshold while NEWS2 is below 5, or cannot be scored."""
    rule = rule_on(case.service, "DT-05")
    if rule is None or estimate is None or case.assessment is None:
        return None
    threshold = case.service.thresholds[estimate.target.name]["info"]
    p = answered(estimate, threshold)
    labs = labs_used(case) if "labs" in estimate.rested_on else ()
    films = films_used(case)[:1] if rests_on_film(estimate) else ()
    if p is None or p < threshold or not _recent(case, (*labs, *films)):
        return None
    says = str(case.service.settings.get(f"says_{estimate.target.name}", estimate.target.title))
    summary = _model_summary(estimate, says, p, tuple(lab for lab in labs if out_of_range(lab)))
    facts = [film_fact(film) for film in films] + [lab_fact(lab) for lab in labs]
    if score is not None:
        facts.insert(len(films) + min(3, len(labs)), _news2_fact(score))
    if care.not_for_resuscitation(case.record):
        facts.insert(len(films), Fact("Code status", "do not resuscitate", "", "Goals of care"))
    if not facts:
        facts = [Fact(says, probability(p), moment(case.record.as_of), "Model")]
    every = f"{float(setting(case.service, 'observations_every_h')):g}"
    return card(
        case.service,
        "DT-05",
        uuid=new_uuid(),
        orders=(),
        deciding=(says, day(case.record.as_of)),
        indicator="info",
        summary=summary,
        detail=detail(
            why=f"The estimate for {says} is at or above this site's threshold of {threshold:.2f}.",
            facts=facts,
            advice=f"Observations every {every} h would show a change early. Nothing else follows from an estimate.",
            unknown=_unknown(case, score, estimate),
            model=model_line(case.assessment, estimate),
            rule=rule_line(case.service, "DT-05"),
        ),
        suggestions=(_more_observations(case, every),),
        reasons=REASONS,
    )


def _recent(case: Case, rested_on: tuple[Lab | Image, ...]) -> bool:
    """A risk of the next day rests on something of the last days: older films and results are history (DQ-5)."""
    limit = hours(case.service, "newest_input_h")
    return not rested_on or any(case.record.age_of(item.at) <= limit for item in rested_on)


def _model_summary(estimate: Estimate, says: str, p: float, labs: tuple[Lab, ...]) -> str:
    """The estimate and the facts it rests on: the film, then as many abnormal results as there is room for."""
    head = f"Estimate {probability(p)} for {says}"
    film = ["chest film"] if rests_on_film(estimate) else []
    known = [f"{lab.name} {as_printed(lab)}" for lab in labs]
    basis = [", ".join([*film, *known[:count]]) for count in (2, 1, 0)]
    return fitting(*(f"{head} ({b}): observe more often." for b in basis if b), f"{head}: observe more often.")


def _more_observations(case: Case, every: str) -> Suggestion:
    code = ordering.concept(LOINC, ordering.VITAL_SIGNS, "Vital signs")
    timing = {"repeat": {"frequency": 1, "period": float(every), "periodUnit": "h"}}
    return Suggestion(
        f"Order observations every {every} h", (ordering.service_request(case, code, occurrenceTiming=timing),)
    )


def _unknown(case: Case, score: News2 | None, estimate: Estimate | None) -> tuple[str, ...]:
    found: list[str] = []
    if score is None:
        window = f"{hours(case.service, 'vitals_h') / timedelta(hours=1):g}"
        found.append(f"NEWS2 (no vital signs in {window} h)")
    else:
        found += score.missing
    if case.record.age_years() is None:
        found.append("age")
    if estimate is not None:
        found += without_modalities(case, estimate)
    return (*found, *missing_evidence(case.shortfalls, {**EVIDENCE, "model": "model estimate"}))
