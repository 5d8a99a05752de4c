"""IS-07: gadolinium for a patient whose kidneys do not clear it. Group II agents are silent (ACR-NKF 2021).

Which group an agent is in stands in tables/drug_classes.csv; a site may count further agents as group II.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cds_service.advice import drafts, ordering
from cds_service.advice.contrast_question import EVIDENCE, REASONS, ask_radiology, code_status, ordered_words
from cds_service.advice.packs.kidney import Kidney, kidney
from cds_service.advice.writing import (
    Fact,
    band,
    card,
    detail,
    fitting,
    missing_evidence,
    rule_line,
    rule_on,
    shown,
    taken,
    words,
)
from cds_service.cards import Card, Indicator, Suggestion, new_uuid
from fhir_mappers.codes import find_drugs
from fhir_mappers.record import Event, Order

if TYPE_CHECKING:
    from cds_service.consult import Case

Group = Literal["I", "II", "III", "unknown"]
GROUPS: dict[str, Group] = {"gbca_group1": "I", "gbca_group2": "II", "gbca_group3": "III"}
AGENTS = frozenset(GROUPS)
EGFR_LIMIT = 30.0


def gadolinium_card(case: Case) -> Card | None:
    """One card for all drafts that give gadolinium: critical for a group I agent, info where the group is open."""
    rule, orders = rule_on(case.service, "IS-07"), gadolinium_orders(case)
    if rule is None or not orders or not drafts.touched(case, (*orders, *_agents(case))):
        return None
    group, agent = _agent(case)
    state = kidney(case.record)
    found = _weak(case, state)
    if group == "II" or found is None:
        return None
    why_weak, facts, firm = found
    uuid = new_uuid()
    loud: Indicator = rule.tier if group == "I" and firm else "info"
    name = agent.capitalize()
    named = [Fact("Agent", f"{agent}, group {group}", "", "Drafts")] if agent else []
    summary = {
        "I": f"{name} is a group I agent; {why_weak}: switch to a group II agent.",
        "III": f"{name} is a group III agent; {why_weak}: use a group II agent.",
    }.get(group, f"Gadolinium agent not named; {why_weak}: use a group II agent.")
    return card(
        case.service,
        "IS-07",
        uuid=uuid,
        orders=orders,
        deciding=(f"group {group}", why_weak if state.egfr is None else f"eGFR {band(state.egfr.high, 15, 30)}"),
        indicator=loud,
        summary=fitting(summary),
        detail=detail(
            why=ordered_words(orders, "Ordered with gadolinium"),
            facts=[*facts, *named, *code_status(case.record)],
            advice="Group I agents carry a risk of nephrogenic systemic fibrosis when the kidneys do not clear them. "
            "With group II agents it has not been seen in 4,931 doses below eGFR 30 (ACR-NKF 2021).",
            unknown=(*(() if agent else ("which agent is given",)), *missing_evidence(case.shortfalls, EVIDENCE)),
            rule=rule_line(case.service, "IS-07"),
        ),
        suggestions=_suggestions(case, orders, uuid, agent),
        reasons=REASONS,
    )


def gadolinium_orders(case: Case) -> tuple[Order, ...]:
    """Drafts that give gadolinium by their code, by their order detail, or with an agent beside them."""
    record = case.record
    beside = any(o.concepts & AGENTS for o in record.orders if o.kind == "medication")
    studies = tuple(
        o
        for o in record.drafts()
        if o.imaging is not None
        and (
            o.imaging.contrast == "gadolinium_iv"
            or (
                o.imaging.modality == "MR"
                and o.imaging.contrast == "none_or_unknown"
                and (beside or o.concepts & AGENTS)
            )
        )
    )
    return studies or tuple(o for o in _agents(case) if o.draft)


def _agents(case: Case) -> tuple[Order, ...]:
    return tuple(o for o in case.record.orders if o.kind == "medication" and o.concepts & AGENTS)


def _agent(case: Case) -> tuple[Group, str]:
    """The worst agent that is named in an order, I before III before II, and its name; unknown where none is."""
    second = frozenset(words(case.service, "group_2_agents"))
    found: dict[Group, str] = {}
    for order in case.record.orders:
        named = [code for c in order.resource.get("orderDetail") or () for code in _codes(c)]
        for drug in find_drugs((*order.codes, *named)):
            if drug.class_id in GROUPS:
                site_says_second = {drug.rxcui, drug.atc} & second
                found.setdefault("II" if site_says_second else GROUPS[drug.class_id], drug.ingredient)
    worst: tuple[Group, ...] = ("I", "III", "II")
    return next(((g, found[g]) for g in worst if g in found), ("unknown", ""))


def _codes(concept: object) -> list[tuple[str, str]]:
    coding = concept.get("coding") if isinstance(concept, dict) else None
    return [(str(c.get("system")), str(c.get("code"))) for c in coding or () if isinstance(c, dict)]


def _weak(case: Case, state: Kidney) -> tuple[str, list[Fact], bool] | None:
    """How the kidneys are weak in words for a summary, the facts, and whether they may be loud (DQ-1)."""
    now = state.creatinine.lab
    if state.dialysis:
        event: Event = case.record.active("dialysis")[0]
        day = "" if event.start is None else event.start.strftime("%Y-%m-%d")
        return "on dialysis", [Fact("Dialysis", event.text or "maintenance dialysis", day, "Problem list")], True
    if now is None:
        return None
    if state.aki is not None:
        fact = Fact(f"Creatinine, injury stage {state.aki.stage}", shown(now), taken(now), "Laboratory")
        return "acute kidney injury", [fact], not now.preliminary
    if state.egfr is None or state.egfr.below(EGFR_LIMIT) is not True:
        return None
    value = f"creatinine {shown(now)}"
    return (
        f"eGFR {state.egfr} ({now.at:%Y-%m-%d})",
        [Fact(f"eGFR {state.egfr} mL/min/1.73 m2", value, taken(now), "Laboratory")],
        not now.preliminary,
    )


def _suggestions(case: Case, orders: tuple[Order, ...], uuid: str, agent: str) -> tuple[Suggestion, ...]:
    """Another agent is radiology's to order: the table has no group II agent that the safety check could judge."""
    changes = []
    for order in orders:
        plain = ordering.sibling(order.imaging) if order.imaging is not None else None
        name = f"MRI {plain.region} without contrast" if plain is not None else ""
        change = ordering.change_study(case, order, plain.loinc, name, uuid) if plain is not None else None
        if change is not None:
            changes.append(Suggestion(f"Change to {name}", (change,)))
    removed = drafts.remove(*(o for o in _agents(case) if o.draft))
    label = (
        f"Remove {agent} and ask radiology for a group II agent" if removed else "Ask radiology for a group II agent"
    )
    asked = ask_radiology(case, label, "Kidneys that do not clear gadolinium: a group II agent is asked for.", *removed)
    return tuple(s for s in (asked, *changes[:2]) if s is not None)
