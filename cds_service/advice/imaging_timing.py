"""imaging-timing: has it just been done, is it already ordered, is it too early or overdue? Rules TM-01 to TM-04.

Here: the repeat of a study that has been done (TM-01). The order that stands already (TM-02) is in `duplicate_orders`,
when a nodule is to be looked at again (TM-03, TM-04) in `nodule_follow_up`. A report's words never speak louder than
info.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cds_service.advice import drafts
from cds_service.advice.duplicate_orders import EVIDENCE, MOST_REMOVED, REASONS, duplicate_card, order_name
from cds_service.advice.film_change import change_line, films_not_compared
from cds_service.advice.gate import closed
from cds_service.advice.nodule_follow_up import early_card, overdue_card
from cds_service.advice.packs import care
from cds_service.advice.prior_studies import (
    Prior,
    Since,
    asks_for_more,
    occurrence,
    planned,
    priors,
    same,
    sentences,
    sides_of,
    since,
    window,
)
from cds_service.advice.writing import (
    Fact,
    card,
    day,
    detail,
    fitting,
    missing_evidence,
    moment,
    rule_line,
    rule_on,
    setting,
    words,
)
from cds_service.cards import Card, Link, Suggestion, new_uuid
from cds_service.markdown import escape_markdown, plain_text
from fhir_mappers.record import Order

if TYPE_CHECKING:
    from cds_service.consult import Case

QUOTE_CHARS, CONCLUSION_CHARS = 70, 300
NEEDED_FOR_A_REPEAT = ("procedures", "vitals", "conditions", "encounter", "studies", "reports")
"""Without one of these nobody knows that nothing has happened since: the card then recommends nothing."""


def advise(case: Case) -> list[Card]:
    """At most one card."""
    if closed(case):
        return []
    if not case.request.hook.startswith("order-"):
        found = None if care.emergency(case.record) else overdue_card(case)
        return [found] if found else []
    ordered = tuple(o for o in case.record.drafts() if o.imaging is not None)
    if not drafts.touched(case, ordered) or care.emergency(case.record, ordered):
        return []
    ordered = tuple(o for o in ordered if not _comparison(case, o))
    found = duplicate_card(case, ordered) or _repeat_card(case, ordered) or early_card(case, ordered)
    return [found] if found else []


def _comparison(case: Case, order: Order) -> bool:
    """A film asked for beside another one on purpose: inspiration and expiration."""
    codes = frozenset(words(case.service, "comparison_codes"))
    detail_codes = [c for c in order.resource.get("orderDetail") or () if isinstance(c, dict)]
    named = [
        (d.get("system"), d.get("code")) for c in detail_codes for d in c.get("coding") or () if isinstance(d, dict)
    ]
    return any(f"{system}|{code}" in codes for system, code in (*order.codes, *named))


# --- TM-01: it has just been done ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Repeat:
    """A draft, the study that answers it, and what is on record since."""

    draft: Order
    prior: Prior
    since: Since

    @property
    def removable(self) -> bool:
        """Whether the report is there and does not itself ask for another study."""
        return self.prior.report is not None and not asks_for_more(self.prior.conclusion)


def _repeat_card(case: Case, ordered: tuple[Order, ...]) -> Card | None:
    rule = rule_on(case.service, "TM-01")
    found = [r for o in ordered if drafts.touched(case, [o]) and (r := _repeat(case, o)) is not None]
    if rule is None or not found:
        return None
    first = found[0]
    missing = {s.key for s in case.shortfalls} & set(NEEDED_FOR_A_REPEAT)
    suggestions = []
    for repeat in found[:MOST_REMOVED]:
        actions = drafts.remove(repeat.draft) if repeat.removable else ()
        firm = repeat.prior.final and not missing and not repeat.since.unknown
        if actions:
            label = f"Remove the order: {order_name(repeat.draft)}"
            suggestions.append(Suggestion(label, actions, is_recommended=firm))
    unknown = [*first.since.unknown, *missing_evidence(case.shortfalls, EVIDENCE)]
    model = ""
    if first.prior.imaging.duplicate_group == "cxr":
        model = change_line(case)
        unknown += films_not_compared(case)
    return card(
        case.service,
        "TM-01",
        uuid=new_uuid(),
        orders=[repeat.draft for repeat in found],
        deciding=tuple(f"{r.prior.name} {moment(r.prior.at)}" for r in found),
        indicator="info",
        summary=_repeat_summary(first.prior),
        detail=detail(
            why=_quote(first.prior),
            facts=[fact for repeat in found for fact in _repeat_facts(case, repeat)],
            advice=_repeat_advice(first),
            unknown=unknown,
            model=model,
            rule=rule_line(case.service, "TM-01"),
        ),
        suggestions=suggestions,
        reasons=REASONS,
        more_links=_viewer(case, first.prior),
    )


def _repeat(case: Case, draft: Order) -> _Repeat | None:
    record, imaging = case.record, draft.imaging
    if imaging is None or care.in_intensive_care(record):
        return None
    # Restaging has intervals of its own.
    if imaging.modality != "DX" and record.active("any_cancer"):
        return None
    prior = next((p for p in priors(record) if same(imaging, sides_of(draft), p.imaging, p.sides)), None)
    if prior is None:
        return None
    wait = planned(draft, record.as_of) - prior.at
    if not timedelta(0) <= wait <= window(record, imaging):
        return None
    known = since(record, prior.at, draft)
    return None if known.event else _Repeat(draft, prior, known)


def _repeat_summary(prior: Prior) -> str:
    head = f"{prior.name} done {moment(prior.at)}"
    if prior.report is None:
        return fitting(f"{head}, not reported yet: look at its images before another.")
    if not prior.final:
        head += ", preliminary report"
    said = sentences(prior.conclusion)
    quoted = plain_text(said[0].rstrip("."), QUOTE_CHARS) if said else "the report has no conclusion"
    return fitting(f"{head}: {quoted}.")


def _quote(prior: Prior) -> str:
    if prior.report is None:
        return f"The same study was done on {moment(prior.at)}; no report of it was found."
    said = escape_markdown(prior.conclusion, CONCLUSION_CHARS) or "none given"
    return f"The same study was done on {moment(prior.at)}. Conclusion: {said}"


def _repeat_facts(case: Case, repeat: _Repeat) -> list[Fact]:
    prior = repeat.prior
    report = "no report" if prior.report is None else "final report" if prior.final else "preliminary report"
    hours = f"{window(case.record, prior.imaging) / timedelta(hours=1):g}"
    # An order that does not say when it is to be done is dated by when it was written.
    when = moment(occurrence(repeat.draft, case.record.as_of) or repeat.draft.authored)
    return [
        Fact(prior.name, report, moment(prior.at), "Radiology"),
        Fact("Ordered now", f"{order_name(repeat.draft)}, window {hours} h", when, "Drafts"),
    ]


def _repeat_advice(repeat: _Repeat) -> str:
    if repeat.prior.report is None:
        return "Its images may answer the question already."
    if not repeat.removable:
        return "The report itself asks for more, or calls the study limited: removing the order is not suggested."
    nothing = "no procedure, no new problem" + ("" if repeat.since.unknown else ", vital signs no worse")
    return f"On record since then: {nothing}. The earlier study may answer the question."


def _viewer(case: Case, prior: Prior) -> tuple[Link, ...]:
    """The site's viewer with the study's UID, which says nothing about the patient by itself."""
    template = str(setting(case.service, "viewer_url"))
    if prior.study is None or "{study}" not in template:
        return ()
    return (Link(f"Images of {day(prior.at)}", template.replace("{study}", prior.study.uid), "absolute"),)
