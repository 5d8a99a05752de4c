"""DT-03: infection suspected, a sign of sepsis, and no antibiotic ordered or given in the last hours.

The signs are lactate, mean pressure and a rising NEWS2 (Surviving Sepsis Campaign 2021, which asks not to rely on
qSOFA alone). Where it cannot be known whether an antibiotic is on its way, the card informs and names what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from cds_service.advice import ordering
from cds_service.advice.early_warning import item_fact, score_advice
from cds_service.advice.packs import care
from cds_service.advice.packs.infection import Cover, Suspicion, cover, suspected
from cds_service.advice.packs.news2 import rise
from cds_service.advice.packs.quality import above, below, reading
from cds_service.advice.ward_question import (
    NEWS2_AGE,
    REASONS,
    URGENT,
    Question,
    coded,
    news2_fact,
    review,
    tests_missing,
)
from cds_service.advice.writing import (
    Fact,
    as_printed,
    card,
    day,
    detail,
    fitting,
    hours,
    moment,
    rule_line,
    rule_on,
    setting,
    shown,
    taken,
    words,
)
from cds_service.cards import Card, Indicator, Suggestion, new_uuid
from fhir_mappers.record import Lab

RULE = "DT-03"
RISING = "rising NEWS2"


@dataclass(frozen=True, slots=True)
class Sign:
    """One sign of sepsis: for the summary, as a row, and whether it rests on a preliminary result."""

    words: str
    fact: Fact
    kind: str
    preliminary: bool = False


@dataclass(frozen=True, slots=True)
class Sepsis:
    """What DT-03 rests on. `sure`: no antibiotic, and all signs final."""

    suspicion: Suspicion
    signs: tuple[Sign, ...]
    cover: Cover
    unknown: tuple[str, ...]

    @property
    def sure(self) -> bool:
        return self.cover.recent is False and not all(sign.preliminary for sign in self.signs)

    @property
    def deciding(self) -> tuple[str, ...]:
        return (*sorted(sign.kind for sign in self.signs), "none" if self.cover.recent is False else "not known")


def find_sepsis(q: Question) -> Sepsis | None:
    """DT-03's facts, or None where one of them speaks against it, or the rule is off."""
    service, record = q.case.service, q.record
    if rule_on(service, RULE) is None or care.under(record, NEWS2_AGE) is True:
        return None
    groups = words(service, "infection_groups")
    suspicion = suspected(record, groups, hours(service, "infection_window_h"))
    signs, unknown = _signs(q)
    if suspicion is None or not signs:
        return None
    found = cover(record, hours(service, "antibiotic_h"), orders_read=q.read("meds"), doses_read=q.read("given"))
    return None if found.recent else Sepsis(suspicion, signs, found, (*unknown, *found.unknown))


def _signs(q: Question) -> tuple[tuple[Sign, ...], tuple[str, ...]]:
    """The signs that are there, and those nobody measured."""
    service = q.case.service
    unknown: list[str] = []
    found: list[Sign] = []
    lactate = reading(q.record, "lactate")
    if lactate.conflict is not None:
        unknown.append("lactate (two results contradict each other)")
    elif lactate.lab is None:
        unknown.append("lactate (none in time)")
    elif above(lactate.lab, float(setting(service, "sepsis_lactate_above"))):
        lab = lactate.lab
        fact = Fact("Lactate", shown(lab), taken(lab), "Laboratory")
        found.append(Sign(f"lactate {as_printed(lab)} at {taken(lab)}", fact, "lactate", lab.preliminary))
    pressure = _mean_pressure(q)
    if pressure is None:
        unknown.append("mean blood pressure (none in time)")
    elif pressure.low:
        found.append(pressure.sign)
    rising = _rising(q)
    found += [rising] if rising is not None else []
    return tuple(found), tuple(unknown)


@dataclass(frozen=True, slots=True)
class _Pressure:
    low: bool
    sign: Sign


def _mean_pressure(q: Question) -> _Pressure | None:
    """The newest mean pressure: measured, or (systolic + 2 x diastolic) / 3 of one measurement."""
    limit, within = float(setting(q.case.service, "sepsis_map_below")), hours(q.case.service, "vitals_h")
    measured, systolic = reading(q.record, "map", within).lab, reading(q.record, "sbp", within).lab
    diastolic = _beside(q, systolic)
    if systolic is not None and diastolic is not None and (measured is None or systolic.at > measured.at):
        mean = (systolic.value + 2 * diastolic.value) / 3
        value = f"{mean:.0f} mmHg, from {systolic.value:.0f}/{diastolic.value:.0f}"
        early = systolic.preliminary or diastolic.preliminary
        return _Pressure(mean < limit, _pressure_sign(f"{mean:.0f} mmHg", value, systolic, early))
    if measured is None:
        return None
    low = below(measured, limit) is True
    return _Pressure(low, _pressure_sign(as_printed(measured), shown(measured), measured, measured.preliminary))


def _beside(q: Question, systolic: Lab | None) -> Lab | None:
    """The diastolic pressure of the same measurement; a comparator on either leaves the mean open."""
    if systolic is None or systolic.comparator:
        return None
    return next((x for x in q.record.results("dbp") if x.at == systolic.at and not x.comparator), None)


def _pressure_sign(value: str, printed: str, lab: Lab, early: bool) -> Sign:
    fact = Fact("Mean blood pressure", printed, taken(lab), "Vital signs")
    return Sign(f"mean pressure {value} at {taken(lab)}", fact, "pressure", early)


def _rising(q: Question) -> Sign | None:
    """NEWS2 of 5 or more that rose by 2 or more within 6 h from a complete earlier score."""
    if q.score is None or q.score.total < URGENT:
        return None
    earlier = rise(q.record, q.score, hours(q.case.service, "sepsis_rise_h"), hypercapnia_target=q.target)
    if earlier is None or q.score.total - earlier.total < float(setting(q.case.service, "sepsis_news2_rise")):
        return None
    fact = news2_fact(q.score, f"from {earlier.total} at {moment(earlier.at)}")
    at_least = "at least " if q.score.missing else ""
    text = f"NEWS2 {earlier.total} to {at_least}{q.score.total} by {moment(q.score.at)}"
    return Sign(text, fact, RISING, q.score.preliminary)


def sepsis_card(q: Question, sepsis: Sepsis | None) -> Card | None:
    """DT-03, with the rule of NEWS2 joined where the score calls for one as well."""
    service = q.case.service
    rule = rule_on(service, RULE)
    if sepsis is None or rule is None:
        return None
    scored = q.scored if rule_on(service, q.scored) is not None else ""
    used = (scored, RULE) if scored == "DT-01" else (RULE, scored) if scored else (RULE,)
    none = none_in(q, sepsis, " was ordered or given")
    indicator: Indicator = rule.tier if sepsis.sure else "info"
    if scored and q.score is not None and not q.score.preliminary:
        indicator = max(indicator, service.rules[scored].tier, key=("info", "warning", "critical").index)
    complete = q.score is not None and not q.score.missing and not q.score.preliminary
    reviewed = [review(q.case, scored, recommended=scored == "DT-01" and complete)] if scored else []
    return card(
        service,
        *used,
        uuid=new_uuid(),
        orders=(),
        deciding=(*sepsis.deciding, day(q.record.as_of)),
        indicator=indicator,
        summary=_summary(q, sepsis, scored),
        detail=detail(
            why=f"Infection is suspected{', and' if sepsis.cover.recent is False else ';'} {none}.",
            facts=[*sepsis_rows(q, sepsis), *q.goals_row, *q.film_row, *_items(q)],
            advice="Suspected sepsis is assessed at once, with lactate and cultures; cultures do not delay antibiotics."
            + (f" {score_advice(q.score, scored)}" if scored and q.score is not None else ""),
            unknown=q.unknown(*sepsis.unknown),
            model=q.model,
            rule=rule_line(service, *used),
        ),
        suggestions=(*reviewed, *sepsis_suggestions(q, sepsis)),
        reasons=REASONS,
    )


def _summary(q: Question, sepsis: Sepsis, scored: str) -> str:
    """As many signs as there is room for; a score of 7 or more stands first, and is no sign a second time."""
    signs, head, do = sepsis.signs, "Suspected infection", "assess for sepsis now"
    if scored == "DT-01" and q.score is not None:
        at_least = "at least " if q.score.missing else ""
        head = f"NEWS2 {at_least}{q.score.total} at {moment(q.score.at)}, suspected infection"
        signs, do = tuple(s for s in signs if s.kind != RISING), "emergency review"
    basis = [", ".join([head, *(s.words for s in signs[:n]), none_in(q, sepsis)]) for n in (2, 1, 0)]
    return fitting(*(f"{b}: {do}." for b in basis))


def _items(q: Question) -> list[Fact]:
    return [item_fact(item) for item in q.score.items if item.points] if q.score is not None and q.scored else []


def none_in(q: Question, sepsis: Sepsis, was: str = "") -> str:
    """`no antibiotic in 6 h`, or that this is not known."""
    window = f"{float(setting(q.case.service, 'antibiotic_h')):g} h"
    return f"no antibiotic{was} in {window}" if sepsis.cover.recent is False else f"antibiotic in {window} not known"


def sepsis_rows(q: Question, sepsis: Sepsis) -> list[Fact]:
    """The signs, why infection is suspected, and the newest antibiotic there is."""
    why, drug = sepsis.suspicion, sepsis.cover.newest
    rows = [sign.fact for sign in sepsis.signs]
    if q.score is not None and q.scored and not any(sign.kind == RISING for sign in sepsis.signs):
        rows.append(news2_fact(q.score))
    rows.append(Fact("Suspected infection", why.words, day(why.at), why.source))
    if drug is not None:
        rows.append(Fact("Newest antibiotic", f"{drug.text}, {drug.how}", moment(drug.at), "Medication list"))
    elif sepsis.cover.recent is False:
        rows.append(Fact("Antibiotic", "none ordered or given", moment(q.record.as_of), "Medication list"))
    return rows


def sepsis_suggestions(q: Question, sepsis: Sepsis) -> tuple[Suggestion, ...]:
    """Lactate and cultures as far as they are not there, and the site's bundle where it names one."""
    case, tests = q.case, tests_missing(q, cultures=True)
    found = []
    if tests:
        label = "Order " + " and ".join(name for name, _ in tests)
        found.append(Suggestion(label, tuple(action for _, action in tests)))
    bundle = str(setting(case.service, "sepsis_bundle_code"))
    if bundle:
        request = ordering.service_request(case, coded(bundle, "sepsis bundle"), priority="stat")
        found.append(
            Suggestion("Order the sepsis bundle", (request,), is_recommended=sepsis.sure and q.scored != "DT-01")
        )
    return tuple(found)
