"""DT-04: a discharge is planned, and something speaks against leaving or has to be followed up.

Vital signs that call for a review, oxygen that is new, potassium, INR, creatinine that has not come back, a critical
result or a study that is still open; a suspected sepsis (DT-03) joins them. Nothing is ever deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from cds_service.advice import ordering
from cds_service.advice.drafts import touched
from cds_service.advice.packs import care, pneumonia, unfinished
from cds_service.advice.packs.kidney import raised
from cds_service.advice.packs.quality import above, below, reading
from cds_service.advice.sepsis import Sepsis, none_in, sepsis_rows, sepsis_suggestions
from cds_service.advice.ward_question import (
    NEWS2_AGE,
    REASONS,
    URGENT,
    Question,
    clinician_review,
    news2_fact,
    with_code,
)
from cds_service.advice.writing import (
    Fact,
    as_printed,
    card,
    day,
    detail,
    fitting,
    hours,
    in_unit_of,
    moment,
    number,
    rule_line,
    rule_on,
    setting,
    shown,
    taken,
    words,
)
from cds_service.cards import Action, Card, Suggestion, new_uuid
from fhir_mappers.codes import LOINC
from fhir_mappers.record import Lab, Order

RULE = "DT-04"
POTASSIUM, POTASSIUM_CODES = "2823-3", frozenset({"2823-3", "6298-4"})
INR, INR_CODES = "6301-6", frozenset({"6301-6", "34714-6", "46418-0"})
HOME_OXYGEN = ("Z9981",)
"""ICD-10-CM: dependence on supplemental oxygen."""
Kind = Literal["review", "test", "task"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing a discharge waits for.

    words   for the summary: `potassium (2.8 mmol/L, 2026-03-10 06:00)`
    band    by which the same problem is known again
    follow  what would follow it up; None where that is ordered already
    label   what the follow-up is called on a button: `potassium`
    """

    words: str
    facts: tuple[Fact, ...]
    band: str
    kind: Kind
    follow: Action | None = None
    label: str = ""
    preliminary: bool = False


def discharges(q: Question) -> tuple[Order, ...]:
    """The drafts that discharge the patient, by the codes the manifest's order-select listens to."""
    listens = q.case.service.applies_to.get("order-select")
    return tuple(o for o in q.record.drafts() if listens is not None and listens.order(o))


def leaving(q: Question) -> bool:
    """Whether this call is about a discharge."""
    return q.case.request.hook == "encounter-discharge" or touched(q.case, discharges(q))


def discharge_card(q: Question, sepsis: Sepsis | None) -> Card | None:
    service = q.case.service
    rule = rule_on(service, RULE)
    if rule is None or not leaving(q) or care.under(q.record, NEWS2_AGE) is True:
        return None
    problems, unknown = _problems(q)
    if not problems:
        return None
    used = (RULE, "DT-03") if sepsis is not None else (RULE,)
    sure = not all(p.preliminary for p in problems) or (sepsis is not None and sepsis.sure)
    named = [p.words for p in problems]
    if sepsis is not None:
        named.insert(0, f"suspected infection, {sepsis.signs[0].words}, {none_in(q, sepsis)}")
    rows = [fact for p in problems for fact in p.facts]
    return card(
        service,
        *used,
        uuid=new_uuid(),
        orders=discharges(q),
        deciding=(*sorted(p.band for p in problems), *(sepsis.deciding if sepsis else ()), day(q.record.as_of)),
        indicator=rule.tier if sure else "info",
        summary=fitting(*(_summary(named, n) for n in (3, 2, 1)), "Discharge planned with open problems: see details."),
        detail=detail(
            why=f"A discharge is planned. {len(named)} thing{'s' if len(named) > 1 else ''} may have to come first.",
            facts=[*(sepsis_rows(q, sepsis) if sepsis else []), *rows, *q.goals_row, *q.film_row],
            advice="Resolve these before the patient leaves, or arrange who follows them up. The discharge stands.",
            unknown=q.unknown(*unknown, *(sepsis.unknown if sepsis else ())),
            model=q.model,
            rule=rule_line(service, *used),
        ),
        suggestions=_suggestions(q, problems, sepsis),
        reasons=REASONS,
    )


def _summary(named: list[str], count: int) -> str:
    more = len(named) - count
    tail = f" and {more} more" if more > 0 else ""
    return f"Discharge planned with {', '.join(named[:count])}{tail}: resolve or follow up."


def _suggestions(q: Question, problems: list[Problem], sepsis: Sepsis | None) -> tuple[Suggestion, ...]:
    """Three at most: the review (or what suspected sepsis asks for), all tests, all tasks."""
    found = list(sepsis_suggestions(q, sepsis)[:1]) if sepsis is not None else []
    for kind, verb in (("review", "Order"), ("test", "Order"), ("task", "Add a task for")):
        open_ = [p for p in problems if p.kind == kind and p.follow is not None]
        if open_ and len(found) < 3:
            label = f"{verb} {', '.join(dict.fromkeys(p.label for p in open_))}"
            found.append(Suggestion(label, tuple(p.follow for p in open_ if p.follow is not None)))
    return tuple(found)


# --- the problems ----------------------------------------------------------------------------------------------------


def _problems(q: Question) -> tuple[list[Problem], list[str]]:
    """What speaks against leaving, gravest first, and what could not be judged."""
    unknown: list[str] = []
    found = [
        _vital_signs(q),
        _level(q, "potassium", unknown),
        _level(q, "inr", unknown),
        _oxygen(q, unknown),
        _creatinine(q, unknown),
        *_pending(q),
        *_unread(q),
    ]
    return [p for p in found if p is not None], unknown


def _vital_signs(q: Question) -> Problem | None:
    score = q.score
    if score is None or score.total < URGENT:
        return None
    at_least = "at least " if score.missing else ""
    text = f"NEWS2 ({at_least}{score.total}, {moment(score.at)})"
    follow = clinician_review(q.case)
    facts = (news2_fact(score),)
    return Problem(text, facts, "NEWS2", "review", follow, "urgent clinician review", score.preliminary)


def _level(q: Question, analyte: Literal["potassium", "inr"], unknown: list[str]) -> Problem | None:
    """Potassium outside, or INR above, the limits of the manifest."""
    service, name = q.case.service, "international normalised ratio" if analyte == "inr" else "potassium"
    found = reading(q.record, analyte)
    if found.conflict is not None:
        unknown.append(f"{name} (two results contradict each other)")
    elif found.lab is None and analyte == "potassium":
        unknown.append("potassium (none in time)")
    if found.lab is None:
        return None
    lab = found.lab
    low = analyte == "potassium" and below(lab, float(setting(service, "potassium_low"))) is True
    high = above(lab, float(setting(service, f"{analyte}_high"))) is True
    if not (low or high):
        return None
    code, codes = (INR, INR_CODES) if analyte == "inr" else (POTASSIUM, POTASSIUM_CODES)
    facts = (Fact(name[:1].upper() + name[1:], shown(lab), taken(lab), "Laboratory"),)
    text = f"{name} ({as_printed(lab)}, {taken(lab)})"
    band = f"{name} {'low' if low else 'high'}"
    return Problem(text, facts, band, "test", _repeat(q, code, codes, name), f"repeat {name}", lab.preliminary)


def _repeat(q: Question, code: str, codes: frozenset[str], name: str) -> Action | None:
    if ordering.ordered(q.record.orders, codes):
        return None
    return ordering.service_request(q.case, ordering.concept(LOINC, code, name), priority="urgent")


def _oxygen(q: Question, unknown: list[str]) -> Problem | None:
    """On oxygen now and none at home: seen on air before, or a problem list that was read names none."""
    item = next((i for i in q.score.items if i.name == "oxygen" and i.points), None) if q.score is not None else None
    if item is None or not isinstance(item.source, Lab) or _oxygen_at_home(q):
        return None
    lab = item.source
    air = next((x for x in q.record.results("o2_flow", "fio2") if x.at < lab.at and _on_air(x)), None)
    if air is None and not q.read("conditions", "orders"):
        unknown.append("whether there is oxygen at home")
        return None
    name = "new oxygen" if air is not None else "oxygen, none at home on record"
    rows = [Fact("Oxygen", shown(lab), taken(lab), "Vital signs")]
    if air is not None:
        rows.append(Fact("On air", shown(air), taken(air), "Vital signs"))
    code = ordering.concept(ordering.REQUEST, "home-oxygen-assessment", "home oxygen assessment")
    follow = ordering.service_request(q.case, code, priority="urgent")
    text = f"{name} ({as_printed(lab)}, {taken(lab)})"
    return Problem(text, tuple(rows), "oxygen", "review", follow, "home oxygen assessment", lab.preliminary)


def _on_air(lab: Lab) -> bool:
    return lab.value <= (21.0 if lab.analyte == "fio2" else 0.0) and not lab.comparator


def _oxygen_at_home(q: Question) -> bool:
    listed = words(q.case.service, "home_oxygen_codes")
    return any(pneumonia.coded(e, HOME_OXYGEN) for e in q.record.events) or bool(with_code(q.record, *listed))


def _creatinine(q: Question, unknown: list[str]) -> Problem | None:
    found = raised(q.record)
    if found is None:
        if not q.record.active("dialysis"):
            unknown.append("creatinine against its baseline")
        return None
    if found.times < float(setting(q.case.service, "creatinine_ratio")) - 1e-9:
        return None
    lab = found.now
    times = f"{number(found.times)} times the baseline of {in_unit_of(lab, found.baseline)}"
    due = q.record.as_of + timedelta(days=float(setting(q.case.service, "creatinine_follow_up_days")))
    codes = ordering.CREATININE_CODES
    follow = None if ordering.ordered(q.record.orders, codes) else ordering.creatinine(q.case, due)
    return Problem(
        f"creatinine {number(found.times)} times baseline ({as_printed(lab)}, {taken(lab)})",
        (Fact("Creatinine", f"{shown(lab)}, {times}", taken(lab), "Laboratory"),),
        "creatinine",
        "test",
        follow,
        f"creatinine for {day(due)}",
        lab.preliminary,
    )


def _pending(q: Question) -> list[Problem]:
    """Only where results and reports were read: otherwise every order would look pending."""
    if not q.read("labs", "tests"):
        return []
    tests, within = words(q.case.service, "critical_tests"), hours(q.case.service, "pending_h")
    found = unfinished.pending(q.record, tests, within)
    return [_open(q, o, "result-follow-up", "pending result", "Laboratory") for o in found]


def _unread(q: Question) -> list[Problem]:
    """Only where radiology's reports were read: otherwise every study would look unread."""
    if not q.read("reports"):
        return []
    within = hours(q.case.service, "unread_imaging_h")
    return [_open(q, o, "radiology-report", "unread imaging", "Radiology") for o in unfinished.unread(q.record, within)]


def _open(q: Question, found: unfinished.Open, code: str, what: str, source: str) -> Problem:
    at = moment(found.at) or "time not known"
    follow = ordering.task(
        q.case,
        code,
        f"follow up {what}",
        focus=found.source.reference,
        description=f"Open at discharge: {what} ({at})",
    )
    text = f"{what} ({found.name}, {at})"
    fact = Fact(what.capitalize(), f"{found.name}: {found.state}", moment(found.at), source)
    return Problem(text, (fact,), f"{what} {found.source.reference}", "task", follow, what)
