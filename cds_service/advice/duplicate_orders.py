"""TM-02: the study that is ordered already, as an order that stands or as another draft of the same set."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cds_service.advice import drafts
from cds_service.advice.packs import care
from cds_service.advice.prior_studies import (
    occurrence,
    on_the_body,
    planned,
    priors,
    same,
    sides_of,
    study_name,
    window,
)
from cds_service.advice.writing import (
    Fact,
    card,
    day,
    detail,
    fitting,
    missing_evidence,
    override_reasons,
    rule_line,
    rule_on,
)
from cds_service.cards import Card, Suggestion, new_uuid
from cds_service.markdown import plain_text
from fhir_mappers import fhir
from fhir_mappers.record import Order

if TYPE_CHECKING:
    from cds_service.consult import Case

NAME_CHARS = 40
MOST_REMOVED = 3
REASONS = override_reasons(
    (("new-question", "New clinical question"), ("prior-not-adequate", "Prior study not adequate")),
    without=("patient-contraindication", "patient-refuses"),
)
EVIDENCE = {
    "orders": "existing orders",
    "studies": "imaging studies",
    "reports": "radiology reports",
    "procedures": "procedures",
    "vitals": "vital signs",
    "conditions": "problem list",
    "encounter": "encounter",
    "goals": "goals of care",
}


@dataclass(frozen=True, slots=True)
class _Pair:
    """A draft, and the order that stands already. `due` is when that one is to be done, None where it does not say."""

    draft: Order
    other: Order
    due: datetime | None


def duplicate_card(case: Case, ordered: tuple[Order, ...]) -> Card | None:
    """TM-02: a warning where both are due together; where the order that stands does not say when, it informs."""
    rule = rule_on(case.service, "TM-02")
    pairs = _pairs(case, ordered)
    if rule is None or not pairs or not drafts.touched(case, [o for p in pairs for o in (p.draft, p.other) if o.draft]):
        return None
    first = pairs[0]
    name, removed = _study(first.draft), tuple(p.draft for p in pairs)
    who, when = _requester(first.other), _date(case, first.other)
    if first.other.draft:
        heads = [f"{name} is drafted twice for {when}: remove the duplicate."]
    else:
        known = f"{name} already ordered {'on' if first.due is None else 'for'} {when}"
        do = "no date given, look before ordering another" if first.due is None else "remove the duplicate"
        heads = [f"{known} by {who}: {do}."] if who else []
        heads.append(f"{known}: {do}.")
    more = len({p.draft.ref for p in pairs}) - 1
    if more:
        heads = [f"{h.rstrip('.')}, and {more} more." for h in heads]
    actions = drafts.remove(*removed)
    label = "Remove the duplicate order" + ("s" if len(actions) > 1 else "")
    # A time that decides has to be known (SR-5): without one the order may be for next month, or done and left open.
    dated = all(p.due is not None for p in pairs)
    firm = dated and all(p.other.draft or p.other.status == "active" for p in pairs)
    facts = []
    for pair in pairs[:MOST_REMOVED]:
        by = _requester(pair.other)
        state = "draft" if pair.other.draft else pair.other.status
        facts.append(
            Fact(
                f"{order_name(pair.other)}, {state}",
                (f"for {_date(case, pair.other)}" if pair.due else "date not given") + (f", by {by}" if by else ""),
                day(pair.other.authored),
                "Orders" if not pair.other.draft else "Drafts",
            )
        )
        facts.append(
            Fact(
                "Ordered now",
                f"{order_name(pair.draft)}, for {_date(case, pair.draft)}",
                day(pair.draft.authored),
                "Drafts",
            )
        )
    return card(
        case.service,
        "TM-02",
        uuid=new_uuid(),
        orders=removed,
        deciding=tuple(sorted(f"{_study(p.draft)} for {_date(case, p.other)}" for p in pairs)),
        indicator=rule.tier if dated else "info",
        summary=fitting(*heads),
        detail=detail(
            why=f"{len(removed)} draft{'s' if len(removed) > 1 else ''} for a study that stands in the orders already.",
            facts=facts,
            advice="One study answers both orders; the earlier one is kept.",
            unknown=(
                *(() if dated else ("when the earlier order is to be done",)),
                *missing_evidence(case.shortfalls, EVIDENCE),
            ),
            rule=rule_line(case.service, "TM-02"),
        ),
        suggestions=(Suggestion(label, actions, is_recommended=firm),) if actions else (),
        reasons=REASONS,
        choose="at-most-one",
    )


def _pairs(case: Case, ordered: tuple[Order, ...]) -> tuple[_Pair, ...]:
    """Each draft that another order makes needless: of two drafts the later written, of two alike the later named."""
    kept: list[Order] = [o for o in case.record.orders if not o.draft and o.imaging is not None]
    found = []
    for draft in sorted(ordered, key=_written):
        if _watched_elsewhere(case, draft):
            continue
        other = next((o for o in kept if _duplicates(case, draft, o)), None)
        if other is not None:
            due = occurrence(other, case.record.as_of) or (case.record.as_of if other.draft else None)
            found.append(_Pair(draft, other, due))
        else:
            kept.append(draft)
    return tuple(found)


def _written(order: Order) -> tuple[bool, float, str]:
    return order.authored is None, order.authored.timestamp() if order.authored else 0.0, order.ref


def _duplicates(case: Case, draft: Order, other: Order) -> bool:
    record = case.record
    if draft.imaging is None or other.imaging is None or _refers(draft, other):
        return False
    if not same(draft.imaging, sides_of(draft), other.imaging, sides_of(other)):
        return False
    written = None if other.draft else other.authored
    # An order whose study was done since is carried out, whether or not anybody closed it: TM-01 looks at the study.
    if written and any(
        p.at > written and same(other.imaging, sides_of(other), p.imaging, p.sides) for p in priors(record)
    ):
        return False
    # After a procedure another film is a new question, whatever was ordered before it.
    if written and any(
        e.kind == "procedure" and e.start and e.start > written and on_the_body(e) for e in record.events
    ):
        return False
    due = occurrence(other, record.as_of) or (None if other.draft else other.authored) or record.as_of
    return abs(planned(draft, record.as_of) - due) <= window(record, draft.imaging)


def _refers(draft: Order, other: Order) -> bool:
    """The draft replaces the order, or is its continuation: no duplicate of it."""
    named = [r for key in ("replaces", "basedOn") for r in fhir.each(draft.resource.get(key)) if isinstance(r, dict)]
    return any(isinstance(ref := r.get("reference"), str) and ref.endswith(other.ref) for r in named)


def _requester(order: Order) -> str:
    by = order.resource.get("requester")
    name = by.get("display") if isinstance(by, dict) else None
    return plain_text(name, NAME_CHARS) if isinstance(name, str) else ""


def order_name(order: Order) -> str:
    return drafts.name_of(order) if order.text else _study(order)


def _study(order: Order) -> str:
    return study_name(order.imaging) if order.imaging is not None else drafts.name_of(order)


def _date(case: Case, order: Order) -> str:
    return day(occurrence(order, case.record.as_of) or (None if order.draft else order.authored) or case.record.as_of)


def _watched_elsewhere(case: Case, order: Order) -> bool:
    """Films in intensive care are taken day by day."""
    film = order.imaging is not None and order.imaging.duplicate_group == "cxr"
    return film and care.in_intensive_care(case.record)
