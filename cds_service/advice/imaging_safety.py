"""imaging-safety: may this patient have this study as ordered? Rules IS-01 to IS-09.

Here: which orders raise which question, which card is said, and the cards for a missing or contradictory creatinine
(IS-05, IS-09). A known kidney is in `contrast_kidney` and `contrast_risks`, earlier reactions in `contrast_allergy`,
then `gadolinium`, `imaging_pregnancy` and `mr_implants`. No model takes part.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from cds_service.advice import ordering
from cds_service.advice.contrast_allergy import allergy_card
from cds_service.advice.contrast_kidney import kidney_card
from cds_service.advice.contrast_question import REASONS, Question
from cds_service.advice.contrast_risks import risk_card
from cds_service.advice.gadolinium import gadolinium_card
from cds_service.advice.gate import closed
from cds_service.advice.imaging_pregnancy import pregnancy_card
from cds_service.advice.mr_implants import implant_card
from cds_service.advice.packs import care
from cds_service.advice.packs.kidney import kidney
from cds_service.advice.packs.quality import reading, unusable
from cds_service.advice.writing import (
    Fact,
    as_printed,
    card,
    day,
    detail,
    fitting,
    rule_line,
    rule_on,
    setting,
    shown,
    span,
    taken,
)
from cds_service.cards import DETAIL_LIMIT, SUMMARY_LIMIT, Card, Suggestion
from cds_service.markdown import escape_markdown
from fhir_mappers.codes import ATC_SYSTEMS
from fhir_mappers.record import Event, Order

if TYPE_CHECKING:
    from cds_service.consult import Case

AKI_RISK = timedelta(days=90)
KIDNEY_RISKS = ("ckd3", "ckd4", "ckd5", "renal", "solitary_kidney", "kidney_transplant", "myeloma")


def advise(case: Case) -> list[Card]:
    """At most one card: the loudest, which names a second finding that would interrupt as well."""
    if closed(case):
        return []
    emergency = care.emergency(case.record, [o for o in case.record.drafts() if o.imaging is not None]) is not None
    found = [implant_card(case), _contrast_card(case, emergency=emergency)]
    if not emergency:
        found += [gadolinium_card(case), pregnancy_card(case)]
    said = sorted((c for c in found if c is not None), key=lambda c: _LOUDEST_FIRST.index(c.indicator))
    return [_with_second(said)] if said else []


_LOUDEST_FIRST = ("critical", "warning", "info")


def _with_second(said: list[Card]) -> Card:
    """The first card; where a second one would interrupt too, its sentence stands before the rule, if there is room."""
    first, *others = said
    also = next((c.summary for c in others if c.indicator != "info"), "")
    text, _, rule = (first.detail or "").rpartition("\n\n")
    longer = f"{text}\n\nAlso: {escape_markdown(also, SUMMARY_LIMIT)}\n\n{rule}"
    return msgspec.structs.replace(first, detail=longer) if also and len(longer) <= DETAIL_LIMIT else first


def _contrast_card(case: Case, *, emergency: bool) -> Card | None:
    """Iodinated contrast: an earlier reaction comes before the kidney, and is all that an emergency leaves."""
    orders = contrast_orders(case)
    if not orders or not _selected(case, orders):
        return None
    q = Question(case, orders, kidney(case.record))
    reaction = allergy_card(q, emergency=emergency)
    # On dialysis iodinated contrast does the kidney no further harm.
    if emergency or q.kidney.dialysis:
        return reaction
    about_kidney = kidney_card(q) or _conflict_card(q) or _missing_card(q) or risk_card(q)
    said = [c for c in (reaction, about_kidney) if c is not None]
    said.sort(key=lambda c: _LOUDEST_FIRST.index(c.indicator))
    return _with_second(said) if said else None


def contrast_orders(case: Case) -> tuple[Order, ...]:
    """Drafts that give iodinated contrast by their code, their order detail, or with a contrast drug beside them.

    A study whose code does not say (CT chest, 24627-2) counts only when something else says it.
    """
    drafts = case.record.drafts()
    drugs = tuple(o for o in drafts if o.kind == "medication" and _is_contrast(o))
    beside = any(o.kind == "medication" and _is_contrast(o) for o in case.record.orders)

    def gives(order: Order) -> bool:
        study = order.imaging
        if study is None:
            return False
        if study.contrast == "none_or_unknown":
            return study.modality.startswith("CT") and (beside or _is_contrast(order))
        return study.contrast == "iodinated_iv"

    return tuple(o for o in drafts if gives(o)) or drugs


def _is_contrast(order: Order) -> bool:
    return "iodinated_contrast" in order.concepts or any(
        system in ATC_SYSTEMS and code.startswith("V08A") for system, code in order.codes
    )


def _selected(case: Case, orders: tuple[Order, ...]) -> bool:
    """On order-select, whether the clinician has just touched one of these orders or a contrast drug."""
    selections: tuple[str, ...] | None = getattr(case.request.context, "selections", None)
    if selections is None:
        return True
    concerned = {o.ref for o in (*orders, *case.record.drafts()) if o in orders or _is_contrast(o)}
    return any(chosen in (ref, ref.partition("/")[2]) for ref in concerned for chosen in selections)


def _risks(q: Question) -> tuple[Event, ...]:
    """Why the kidney must be looked at before contrast (ACR-NKF 2020, screening)."""
    record = q.case.record
    found = [*record.active(*KIDNEY_RISKS), *record.active("metformin")]
    found += [
        e
        for e in record.ever("aki")
        if (e.active if e.start is None else record.age_of(e.start) <= AKI_RISK) and e not in found
    ]
    if setting(q.case.service, "diabetes_is_a_kidney_risk") is True:
        found += record.active("diabetes")
    return tuple(found)


def _conflict_card(q: Question) -> Card | None:
    """IS-09: two creatinine results that cannot both be right; neither drives a rule."""
    service, conflict, risks = q.case.service, q.kidney.creatinine.conflict, _risks(q)
    if conflict is None or not risks or rule_on(service, "IS-09") is None:
        return None
    newer, older = conflict
    return card(
        service,
        "IS-09",
        uuid=q.uuid,
        orders=q.orders,
        deciding=tuple(day(lab.at) for lab in conflict),
        indicator="info",
        summary=fitting(
            f"Creatinine {as_printed(older)} and {as_printed(newer)} within {span(newer.at - older.at)} conflict: "
            "repeat before relying on either."
        ),
        detail=detail(
            why=q.why,
            facts=[
                *(Fact("Creatinine", shown(lab), taken(lab), "Laboratory") for lab in conflict),
                *_risk_facts(risks),
            ],
            advice="The two results cannot both be right, so neither was used. A repeat settles it; "
            "a scan that cannot wait need not wait for it.",
            unknown=("kidney function", *q.unasked()),
            rule=rule_line(service, "IS-09"),
        ),
        suggestions=_order_creatinine(q),
        reasons=REASONS,
    )


def _missing_card(q: Question) -> Card | None:
    """IS-05: no creatinine in the window, and a reason to want one."""
    service, found, risks = q.case.service, q.kidney.creatinine, _risks(q)
    if found.lab is not None or found.conflict is not None or not risks or rule_on(service, "IS-05") is None:
        return None
    days = found.window.days if found.window is not None else 0
    head = f"No usable creatinine in {days} days before contrast"
    facts = []
    last = ""
    if found.history is not None:
        age = span(q.case.record.age_of(found.history.at))
        last = f" (last {as_printed(found.history)}, {age} ago)"
        facts.append(
            Fact("Last creatinine, too old", f"{shown(found.history)}, {age} old", taken(found.history), "Laboratory")
        )
    else:
        facts.append(Fact("Creatinine", f"none in {days} days", "", "Laboratory"))
    reported = reading(q.case.record, "egfr").lab
    if reported is not None:
        facts.append(Fact("eGFR as reported, formula differs", shown(reported), taken(reported), "Laboratory"))
    refused = unusable(q.case.record, "creatinine")
    unknown = ["kidney function"]
    if refused:
        unknown.append(f"{refused} creatinine result{'s' if refused > 1 else ''} without a usable value or unit")
    return card(
        service,
        "IS-05",
        uuid=q.uuid,
        orders=q.orders,
        deciding=("no creatinine",),
        indicator=service.rules["IS-05"].tier,
        summary=fitting(f"{head}{last}: order one.", f"{head}: order one."),
        detail=detail(
            why=q.why,
            facts=[*facts, *_risk_facts(risks)],
            advice="With a kidney risk on record, creatinine is checked before iodinated contrast. "
            "A scan that cannot wait need not wait for it.",
            unknown=(*unknown, *q.unasked()),
            rule=rule_line(service, "IS-05"),
        ),
        suggestions=_order_creatinine(q),
        reasons=REASONS,
    )


def _risk_facts(risks: tuple[Event, ...]) -> list[Fact]:
    return [
        Fact(
            "Kidney risk",
            risk.text or ", ".join(sorted(risk.concepts)),
            day(risk.start),
            "Medication list" if risk.kind == "medication" else "Problem list",
        )
        for risk in risks[:3]
    ]


def _order_creatinine(q: Question) -> tuple[Suggestion, ...]:
    """Creatinine now, unless one is on order already."""
    pending = [o for o in ordering.ordered(q.case.record.orders, ordering.CREATININE_CODES) if ordering.due(o) is None]
    if pending:
        return ()
    return (Suggestion("Order creatinine now", (ordering.creatinine(q.case, priority="urgent"),)),)
