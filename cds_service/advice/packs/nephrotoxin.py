"""NEPH-01: a drug that harms the kidney directly, ordered in acute kidney injury (KDIGO 2012).

Nothing is said about the kidney alone: pop-ups that only name an injury did no good and some harm (Wilson, BMJ
2021;372:m4786). The card comes with the order it changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cds_service.advice.packs.kidney import Aki, kidney
from fhir_mappers.codes import Drug, find_drugs
from fhir_mappers.record import Order, PatientRecord

RAAS = frozenset({"acei", "arb", "arni"})
DIURETICS = frozenset({"loop_diuretic", "thiazide", "mra"})


def direct_nephrotoxins(codes: Iterable[tuple[str, str]]) -> tuple[Drug, ...]:
    return tuple(drug for drug in find_drugs(codes) if drug.nephrotoxin == "direct")


@dataclass(frozen=True, slots=True)
class KidneyHarm:
    """`beside` are the drugs that make a stage 1 injury count: a second nephrotoxin, or blocker and diuretic."""

    drug: Drug
    aki: Aki
    beside: tuple[str, ...]
    triple: bool


def kidney_harm(record: PatientRecord, order: Order) -> KidneyHarm | None:
    """Stage 2 or 3; stage 1 with a second direct nephrotoxin, or an NSAID on top of a RAAS blocker and a diuretic."""
    drugs = direct_nephrotoxins(order.codes)
    if not drugs:
        return None
    aki = kidney(record).aki
    if aki is None:
        return None
    drug = drugs[0]
    others = _others(record, order)
    second = tuple(dict.fromkeys(d.ingredient for d in others if d.nephrotoxin == "direct"))
    blockers = [d.ingredient for d in others if d.class_id in RAAS]
    diuretics = [d.ingredient for d in others if d.class_id in DIURETICS]
    triple = drug.class_id == "nsaid" and bool(blockers and diuretics)
    beside = second or ((blockers[0], diuretics[0]) if triple else ())
    return KidneyHarm(drug, aki, beside, triple) if aki.stage >= 2 or beside else None


def _others(record: PatientRecord, order: Order) -> list[Drug]:
    own = {drug.ingredient for drug in find_drugs(order.codes)}
    codes = [e.codes for e in record.events if e.kind == "medication" and e.active and e.source.reference != order.ref]
    codes += [o.codes for o in record.orders if o.kind == "medication" and o is not order]
    return sorted((d for c in codes for d in find_drugs(c) if d.ingredient not in own), key=lambda d: d.ingredient)
