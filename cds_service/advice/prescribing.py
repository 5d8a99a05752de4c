"""What the prescribing rules share: one finding about one drug order, and the drafts that replace or change it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cds_service.advice import ordering
from cds_service.advice.packs.gene_drug import order_ingredients
from cds_service.advice.packs.safe_to_offer import Offer
from cds_service.advice.writing import Fact, missing_evidence
from cds_service.cards import Action, Indicator, Link, Suggestion
from cds_service.manifest import Rule
from cds_service.markdown import escape_markdown
from fhir_mappers import fhir
from fhir_mappers.doses import daily_dose, is_local
from fhir_mappers.record import Event, Order

if TYPE_CHECKING:
    from cds_service.consult import Case

EVIDENCE = {
    "genes": "genetic results",
    "genotypes": "genetic results",
    "meds": "medication list",
    "allergies": "allergies",
    "conditions": "problem list",
    "procedures": "procedures",
    "kidney": "kidney function",
    "qt": "QTc",
    "lytes": "electrolytes",
    "vitals": "body weight",
    "goals": "goals of care",
}
GENE_EVIDENCE = ("genes", "genotypes")
CHECKED_BY = ("allergies", "meds", "conditions")
"""The evidence without which no safety check is whole, and so nothing is recommended."""
MAX_SUGGESTIONS = 3


@dataclass(frozen=True, slots=True)
class Ordered:
    """One ingredient that is being ordered, and every draft that orders it."""

    rxcui: str
    name: str
    orders: tuple[Order, ...]

    @property
    def first(self) -> Order:
        return self.orders[0]


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's answer about one ordered drug.

    rule_id    as printed: `PGX-010`, `QT-01`; `rule` has its citation and address
    summaries  the same sentence, longest first
    sentences  for the detail, most important first; record text in them is escaped already
    deciding   the deciding facts in bands; a row of the gene table needs none, its id has the phenotype in it
    """

    rule_id: str
    rule: Rule
    drug: Ordered
    indicator: Indicator
    summaries: tuple[str, ...]
    facts: tuple[Fact, ...]
    sentences: tuple[str, ...]
    suggestions: tuple[Suggestion, ...] = ()
    unknown: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    deciding: tuple[str, ...] = ()


def ordered_drugs(case: Case) -> tuple[Ordered, ...]:
    """The ingredients of the drafts this call is about, without what acts only where it is put (skin, eye, ear)."""
    selections: tuple[str, ...] | None = getattr(case.request.context, "selections", None)
    found: dict[str, tuple[str, list[Order]]] = {}
    for order in case.record.drafts():
        touched = selections is None or any(s in (order.ref, order.ref.partition("/")[2]) for s in selections)
        if order.kind == "medication" and touched and not is_local(order.resource):
            for rxcui, name in order_ingredients(order):
                found.setdefault(rxcui, (name, []))[1].append(order)
    return tuple(Ordered(rxcui, name, tuple(orders)) for rxcui, (name, orders) in found.items())


def fell_short(case: Case, *keys: str) -> bool:
    return any(s.key in keys for s in case.shortfalls)


def not_asked(case: Case, *keys: str) -> tuple[str, ...]:
    """What of this evidence did not come, in words."""
    return tuple(dict.fromkeys(missing_evidence(case.shortfalls, {k: EVIDENCE[k] for k in keys})))


def order_words(order: Order) -> str:
    """The order in its own words, escaped: drug, and its dose where the name does not hold it already."""
    dosages = [d for d in fhir.each(order.resource.get("dosageInstruction")) if isinstance(d, Mapping)]
    said = next((d["text"] for d in dosages if isinstance(d.get("text"), str)), "")
    dose = daily_dose(order.resource)
    if not said and dose is not None:
        said = f"{dose.printed}, {dose.milligrams:.6g} mg a day"
    name = order.text or "an order without a name"
    known = said in name or (dose is not None and dose.printed in name)
    return escape_markdown(name if known or not said else f"{name}, {said}", 80)


def source_words(event: Event) -> str:
    return {"condition": "Problem list", "procedure": "Procedures", "medication": "Medication list"}[event.kind]


# --- suggestions -----------------------------------------------------------------------------------------------------


def new_drug(case: Case, offer: Offer, *, like: Order | None = None) -> Action:
    """A draft order of an ingredient that passed its safety check, without a dose: that and the route are open.

    like  the draft it stands in for: its reason, priority, encounter and requester are kept
    """
    text = f"{offer.name}, {offer.caution + '; ' if offer.caution else ''}dose and route to be entered"
    members = ("priority", "reasonCode", "reasonReference") if like is not None else ()
    kept = {m: copy.deepcopy(like.resource[m]) for m in members if like is not None and m in like.resource}
    return ordering.medication(case, offer, text, f"{offer.name}, dose to be entered", **kept)


def removals(drug: Ordered) -> tuple[Action, ...]:
    """Deletes every draft of the drug; empty where one has no id to delete it by."""
    if not all(order.resource.get("id") for order in drug.orders):
        return ()
    return tuple(Action("delete", f"Removes the draft order: {drug.name}", resource_id=o.ref) for o in drug.orders)


def replacement(case: Case, drug: Ordered, offer: Offer, *, recommended: bool) -> Suggestion | None:
    """The drafts of the drug removed and one of the offered drug added."""
    gone = removals(drug)
    if not gone:
        return None
    caution = f", {offer.caution}" if offer.caution else ""
    return Suggestion(
        f"Replace {drug.name} with {offer.name}{caution}",
        (*gone, new_drug(case, offer, like=drug.first)),
        is_recommended=recommended and not offer.unknown and not fell_short(case, *CHECKED_BY),
    )


def removal(drug: Ordered, *, recommended: bool = False) -> Suggestion | None:
    gone = removals(drug)
    return Suggestion(f"Remove {drug.name}", gone, is_recommended=recommended) if gone else None


def smaller_dose(drug: Ordered, fraction: float) -> Suggestion | None:
    """The draft with this part of its dose, all else as ordered; None where the order has no single dose in numbers."""
    order = drug.first
    changed: dict[str, Any] = copy.deepcopy(dict(order.resource))
    try:
        (dosage,) = changed["dosageInstruction"]
        (rate,) = dosage["doseAndRate"]
        quantity = rate["doseQuantity"]
        before, unit = quantity["value"], quantity.get("unit") or quantity["code"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    number = isinstance(before, int | float) and not isinstance(before, bool)
    if len(drug.orders) != 1 or not changed.get("id") or not number or not isinstance(unit, str):
        return None
    quantity["value"] = round(before * fraction, 6)
    words = f"{quantity['value']:g} {unit} instead of {before:g} {unit}"
    if "text" in dosage:
        dosage["text"] = f"{words} ({fraction:.0%} of the ordered dose); otherwise as ordered"
    action = Action("update", f"Changes the dose to {words}; all else as ordered", changed)
    return Suggestion(f"Start {drug.name} at {fraction:.0%}: {words}", (action,))


def offer_sentences(offered: Sequence[Offer], refused: Iterable[Offer]) -> tuple[str, ...]:
    """What was checked, and why a drug of the guideline is not offered."""
    found = []
    if offered:
        found.append(f"Checked before it is offered: {', '.join(o.name for o in offered[:3])}.")
    for offer in refused:
        reasons = " and ".join(escape_markdown(reason, 60) for reason in offer.against[:2])
        found.append(f"{offer.name.capitalize()} is not offered: {reasons}.")
    return tuple(found)


def offer_unknowns(offered: Iterable[Offer]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for offer in offered for text in offer.unknown))
