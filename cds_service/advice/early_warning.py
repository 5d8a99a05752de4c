"""NEWS2 by rule: an emergency assessment from 7 (DT-01), an urgent review from 5 or a single item of 3 (DT-02).

It never waits for a model; the model's estimate is a line on the card.
"""

from __future__ import annotations

from cds_service.advice.packs.news2 import Item, News2
from cds_service.advice.ward_question import EMERGENCY, REASONS, URGENT, Question, news2_fact, review, tests_missing
from cds_service.advice.writing import (
    Fact,
    band,
    card,
    day,
    detail,
    fitting,
    moment,
    rule_line,
    rule_on,
    shown,
    taken,
    words,
)
from cds_service.cards import Card, Suggestion, new_uuid
from fhir_mappers.record import Lab


def score_card(q: Question) -> Card | None:
    score, name = q.score, q.scored
    rule = rule_on(q.case.service, name)
    if score is None or rule is None:
        return None
    at_least = "at least " if score.missing else ""
    worst = [item for item in score.items if item.points][:2]
    do = "emergency review per policy" if name == "DT-01" else "urgent clinician review"
    more = len(score.missing) - 1
    missing = f"missing {score.missing[0]}" + (f" and {more} more" if more else "") if score.missing else ""
    # What is missing makes the score a minimum: it gives way last.
    basis = ["; ".join(filter(None, (", ".join(i.words for i in worst[:n]), missing))) for n in (2, 1, 0)]
    head = f"NEWS2 {at_least}{score.total} at {moment(score.at)}"
    facts = [news2_fact(score), *(item_fact(item) for item in score.items if item.points)]
    facts[3:3] = q.film_row
    facts[1:1] = q.goals_row
    return card(
        q.case.service,
        name,
        uuid=new_uuid(),
        orders=(),
        # A day later the same score is news: patients recover and relapse.
        deciding=(f"NEWS2 {band(score.total, URGENT, EMERGENCY)}", day(score.at)),
        indicator="info" if score.preliminary else rule.tier,
        summary=fitting(*(f"{head} ({b}): {do}." for b in basis if b), f"{head}: {do}."),
        detail=detail(
            why=f"The newest set of vital signs scores NEWS2 {at_least}{score.total}.",
            facts=facts,
            advice=score_advice(score, name),
            unknown=q.unknown(),
            model=q.model,
            rule=rule_line(q.case.service, name),
        ),
        suggestions=_suggestions(q, name, complete=not score.missing and not score.preliminary),
        reasons=REASONS,
    )


def item_fact(item: Item) -> Fact:
    plural = "s" if item.points > 1 else ""
    if isinstance(item.source, Lab):
        value, when = shown(item.source), taken(item.source)
        if item.name in ("oxygen", "consciousness"):
            value = f"on oxygen, {value}" if item.name == "oxygen" else item.value
    else:
        value, when = item.value, moment(item.source.at)
    return Fact(item.name.capitalize(), f"{value} ({item.points} point{plural})", when, "Vital signs")


def score_advice(score: News2, name: str) -> str:
    if name == "DT-01":
        return (
            "NEWS2 of 7 or more calls for an emergency assessment by a team with critical care skills "
            "and continuous monitoring."
        )
    if score.total >= URGENT:
        return "NEWS2 of 5 or 6 calls for an urgent review by a clinician and observations at least every hour."
    return "A single item of 3 points calls for an urgent review by a clinician of the ward."


def _suggestions(q: Question, name: str, *, complete: bool) -> tuple[Suggestion, ...]:
    found = [review(q.case, name, recommended=complete)]
    if name == "DT-01":
        infection = bool(q.record.active(*words(q.case.service, "infection_groups")))
        found += [Suggestion(f"Order {test}", (action,)) for test, action in tests_missing(q, cultures=infection)]
    return tuple(found)
