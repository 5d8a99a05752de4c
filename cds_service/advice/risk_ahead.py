"""DT-05: the model expects the patient to get worse while NEWS2 is still below 5.

The estimate must have lasted: two calls at least 30 minutes apart, none below the threshold between them; and it is
over only after two hours of calls well below (`packs.sustained`). Earlier calls are those of the same model. The
service keeps no earlier NEWS2, so that of this call decides.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cds_service.advice import ordering
from cds_service.advice.estimates import (
    answered,
    film_fact,
    films_used,
    lab_fact,
    labs_used,
    out_of_range,
    rests_on_film,
    sure,
)
from cds_service.advice.packs.sustained import Terms, alarm
from cds_service.advice.ward_question import REASONS, Question, news2_fact
from cds_service.advice.writing import (
    Fact,
    as_printed,
    card,
    day,
    detail,
    fitting,
    hours,
    moment,
    probability,
    rule_line,
    rule_on,
    setting,
)
from cds_service.cards import Card, Suggestion, new_uuid
from fhir_mappers.codes import LOINC
from fhir_mappers.record import Image, Lab
from models.contract import Estimate


def risk_card(q: Question) -> Card | None:
    """The risk is at or above the site's threshold while NEWS2 is below 5, or cannot be scored."""
    case, estimate = q.case, q.estimate
    if rule_on(case.service, "DT-05") is None or estimate is None or q.scored:
        return None
    threshold = case.service.thresholds[estimate.target.name]["info"]
    p = answered(estimate, threshold)
    if p is None or not alarm([*_before(q, estimate, threshold), (case.record.as_of, p)], _terms(q, threshold)):
        return None
    labs = labs_used(case) if "labs" in estimate.rested_on else ()
    films = films_used(case)[:1] if rests_on_film(estimate) else ()
    if not _recent(q, (*labs, *films)):
        return None
    says = str(case.service.settings.get(f"says_{estimate.target.name}", estimate.target.title))
    summary = _summary(estimate, says, p, tuple(lab for lab in labs if out_of_range(lab)))
    facts = [film_fact(film) for film in films] + [lab_fact(lab) for lab in labs]
    if q.score is not None:
        facts.insert(len(films) + min(3, len(labs)), news2_fact(q.score))
    facts[len(films) : len(films)] = q.goals_row
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
            why=_why(q, says, p, threshold),
            facts=facts,
            advice=f"Observations every {every} h would show a change early. Nothing else follows from an estimate.",
            unknown=q.unknown(),
            model=q.model,
            rule=rule_line(case.service, "DT-05"),
        ),
        suggestions=(_more_observations(q, every),),
        reasons=REASONS,
    )


def _before(q: Question, estimate: Estimate, threshold: float) -> list[tuple[datetime, float | None]]:
    """What earlier calls said of this target, oldest first; None where the interval left the threshold open."""
    found = []
    for call in q.case.earlier:
        if call.target == estimate.target.name:
            interval = (call.low, call.high) if call.low is not None and call.high is not None else None
            found.append((call.at, sure(call.probability, interval, threshold)))
    return found


def _terms(q: Question, threshold: float) -> Terms:
    service = q.case.service
    confirm = timedelta(minutes=float(setting(service, "confirm_after_min")))
    return Terms(threshold, confirm, float(setting(service, "leave_margin")), hours(service, "leave_after_h"))


def _why(q: Question, says: str, p: float, threshold: float) -> str:
    site = f"this site's threshold of {threshold:.2f}"
    if p >= threshold:
        apart = f"{float(setting(q.case.service, 'confirm_after_min')):g} min"
        return f"The estimate for {says} is at or above {site}, as it was at least {apart} ago."
    return f"The estimate for {says} was at or above {site}, and is not yet far enough below it for long enough."


def _recent(q: Question, rested_on: tuple[Lab | Image, ...]) -> bool:
    """A risk of the next day rests on something of the last days: older films and results are history (DQ-5)."""
    limit = hours(q.case.service, "newest_input_h")
    return not rested_on or any(q.record.age_of(item.at) <= limit for item in rested_on)


def _summary(estimate: Estimate, says: str, p: float, labs: tuple[Lab, ...]) -> str:
    """The estimate and the facts it rests on: the film, then as many abnormal results as there is room for."""
    head = f"Estimate {probability(p)} for {says}"
    film = ["chest film"] if rests_on_film(estimate) else []
    known = [f"{lab.name} {as_printed(lab)}" for lab in labs]
    basis = [", ".join([*film, *known[:count]]) for count in (2, 1, 0)]
    return fitting(*(f"{head} ({b}): observe more often." for b in basis if b), f"{head}: observe more often.")


def _more_observations(q: Question, every: str) -> Suggestion:
    code = ordering.concept(LOINC, ordering.VITAL_SIGNS, "Vital signs")
    timing = {"repeat": {"frequency": 1, "period": float(every), "periodUnit": "h"}}
    return Suggestion(
        f"Order observations every {every} h", (ordering.service_request(q.case, code, occurrenceTiming=timing),)
    )
