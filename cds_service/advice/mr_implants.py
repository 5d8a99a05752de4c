"""IS-08: magnetic resonance and an implant whose label forbids it, sets conditions, or is not known.

HRS 2017 statement on magnetic resonance with cardiac devices; ACR Manual on MR Safety. Said in an emergency as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice import drafts, ordering
from cds_service.advice.contrast_question import REASONS, code_status, ordered_words
from cds_service.advice.packs.implants import Implant, in_the_magnet
from cds_service.advice.writing import (
    Fact,
    card,
    day,
    detail,
    fitting,
    missing_evidence,
    rule_line,
    rule_on,
    setting,
    words,
)
from cds_service.cards import Card, Indicator, Suggestion, new_uuid
from cds_service.markdown import plain_text
from fhir_mappers.codes import imaging_orders
from fhir_mappers.record import Order

if TYPE_CHECKING:
    from cds_service.consult import Case

EVIDENCE = {"devices": "device list", "conditions": "problem list", "goals": "goals of care"}
WITHOUT_A_MAGNET = {"mr_brain": "30799-1", "mr_abdomen": "36424-0"}
"""Duplicate group of an MR study -> a CT without contrast of the same region."""
NAME_CHARS = 50
MOST_SHOWN = 4
LABELS = {
    "unsafe": "labelled unsafe for MRI",
    "not-documented": "MRI safety not documented",
    "conditional": "MRI conditional",
}


def implant_card(case: Case) -> Card | None:
    """One card for the most dangerous implant; a device that is MR safe says nothing."""
    rule = rule_on(case.service, "IS-08")
    orders = tuple(o for o in case.record.drafts() if o.imaging is not None and o.imaging.modality == "MR")
    if rule is None or not orders or not drafts.touched(case, orders):
        return None
    implants = in_the_magnet(case.record, words(case.service, "reviewed_implants"))
    if not implants:
        return None
    worst, uuid = implants[0], new_uuid()
    tiers: dict[str, Indicator] = {"unsafe": rule.tier, "not-documented": "warning", "conditional": "info"}
    name = plain_text(worst.name, NAME_CHARS)
    name = name[:1].upper() + name[1:]
    summary = {
        "unsafe": f"{name}: labelled unsafe for MRI; do not scan, ask MRI safety or choose another study.",
        "not-documented": f"{name}: MRI safety not documented; send device details to MRI safety first.",
        "conditional": f"{name} is MRI conditional: scan only within its conditions, checked by MRI safety.",
    }[worst.mr]
    return card(
        case.service,
        "IS-08",
        uuid=uuid,
        orders=orders,
        deciding=(worst.mr, worst.reference),
        indicator=tiers[worst.mr],
        summary=fitting(summary),
        detail=detail(
            why=ordered_words(orders, "MRI is ordered"),
            facts=[*(_fact(i) for i in implants[:MOST_SHOWN]), *code_status(case.record)],
            advice={
                "unsafe": "A device unsafe for MRI is a danger in any magnet. A study without a magnet may answer the "
                "question.",
                "not-documented": "Make, model and leads decide whether and how the patient may be scanned.",
                "conditional": "Outside its conditions the device is not safe; they stand on its card and label.",
            }[worst.mr],
            unknown=(
                *(("make, model and MRI label",) if worst.mr == "not-documented" else ()),
                *(("its conditions",) if worst.mr == "conditional" and not worst.conditions else ()),
                *missing_evidence(case.shortfalls, EVIDENCE),
            ),
            rule=rule_line(case.service, "IS-08"),
        ),
        suggestions=_suggestions(case, orders, worst, uuid),
        reasons=REASONS,
    )


def _fact(implant: Implant) -> Fact:
    said = LABELS[implant.mr] + (f": {implant.conditions}" if implant.conditions else "")
    return Fact(implant.name, said, day(implant.at), implant.source)


def _suggestions(case: Case, orders: tuple[Order, ...], worst: Implant, uuid: str) -> tuple[Suggestion, ...]:
    """A task for MR safety about the implant, and for one that is not conditional a study without a magnet."""
    task = ordering.task(
        case,
        "mr-safety-review",
        "MRI safety review",
        focus=worst.reference,
        description=f"Implant before MRI: {LABELS[worst.mr]}",
        priority="urgent" if worst.mr == "unsafe" else "routine",
        owner=str(setting(case.service, "mr_safety_group")),
    )
    found = [Suggestion("Send device details to MRI safety", (task,))]
    for order in orders if worst.mr == "unsafe" else ():
        code = WITHOUT_A_MAGNET.get(order.imaging.duplicate_group) if order.imaging is not None else None
        if code is not None:
            name = f"CT {imaging_orders()[code].region} without contrast"
            change = ordering.change_study(case, order, code, name, uuid)
            found += [Suggestion(f"Change to {name}", (change,))] if change is not None else []
    return tuple(found[:3])
