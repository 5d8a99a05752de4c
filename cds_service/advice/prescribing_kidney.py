"""The finding of NEPH-01: a drug that harms the kidney, ordered while the kidney is being injured."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cds_service.advice import ordering
from cds_service.advice.packs.nephrotoxin import KidneyHarm, kidney_harm
from cds_service.advice.packs.safe_to_offer import offers
from cds_service.advice.prescribing import (
    Finding,
    Ordered,
    not_asked,
    offer_sentences,
    offer_unknowns,
    removal,
    replacement,
)
from cds_service.advice.writing import Fact, as_printed, in_unit_of, rule_on, shown, taken
from cds_service.cards import Suggestion
from fhir_mappers.codes import LOINC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cds_service.advice.packs.genes import GeneState
    from cds_service.consult import Case

PARACETAMOL = "161"
LEVELS = {"11124": ("20578-1", "Vancomycin level"), "42316": ("11253-2", "Tacrolimus level")}
"""Drugs whose blood level the tables have a code for."""
RECHECK = timedelta(hours=24)


def kidney_finding(case: Case, drug: Ordered, states: Mapping[str, GeneState]) -> Finding | None:
    rule = rule_on(case.service, "NEPH-01")
    harm = kidney_harm(case.record, drug.first) if rule is not None else None
    if rule is None or harm is None or harm.drug.rxcui != drug.rxcui:
        return None
    nsaid = harm.drug.class_id == "nsaid"
    offered, refused = offers(case.record, [PARACETAMOL] if nsaid else [], replacing=drug.first, states=states)
    do = "use paracetamol" if offered else "avoid it" if nsaid else "dose by level or use another drug"
    head = f"Acute kidney injury stage {harm.aki.stage} (creatinine {_change(harm)})"
    return Finding(
        "NEPH-01",
        rule,
        drug,
        "info" if harm.aki.now.preliminary else rule.tier,
        (
            f"{head}: {drug.name} can harm the kidney further; {do}.",
            f"{head}: {drug.name} harms the kidney; {do}.",
            f"Acute kidney injury stage {harm.aki.stage}: {drug.name} harms the kidney; {do}.",
        ),
        _facts(harm),
        (
            f"{drug.name.capitalize()} harms the kidney directly. In stage 2 or 3, or with a second such drug, the "
            "guideline asks to stop it where there is another way.",
            *offer_sentences(offered, refused),
        ),
        _suggestions(case, drug, [replacement(case, drug, o, recommended=False) for o in offered], nsaid=nsaid),
        (*offer_unknowns(offered), *not_asked(case, "meds", "allergies", "conditions")),
        deciding=(f"injury stage {harm.aki.stage}",),
    )


def _change(harm: KidneyHarm) -> str:
    aki = harm.aki
    if aki.before is None:
        return f"{as_printed(aki.now)}, usually {in_unit_of(aki.now, aki.baseline)}"
    return f"{as_printed(aki.now)} from {as_printed(aki.before)}"


def _facts(harm: KidneyHarm) -> tuple[Fact, ...]:
    aki = harm.aki
    found = [Fact(f"Creatinine, injury stage {aki.stage}", shown(aki.now), taken(aki.now), "Laboratory")]
    if aki.before is not None:
        found.append(Fact("Earlier creatinine", shown(aki.before), taken(aki.before), "Laboratory"))
    else:
        usual = in_unit_of(aki.now, aki.baseline)
        found.append(Fact("Usual creatinine, median", usual, "8 to 365 days before", "Laboratory"))
    if harm.beside:
        what = "Together with" if harm.triple else "Second such drug"
        found.append(Fact(what, ", ".join(harm.beside), "", "Medication list"))
    return tuple(found)


def _suggestions(
    case: Case, drug: Ordered, replaced: list[Suggestion | None], *, nsaid: bool
) -> tuple[Suggestion, ...]:
    found = list(replaced)
    if not replaced:
        found.append(removal(drug) if nsaid else _level(case, drug))
    due = case.record.as_of + RECHECK
    if not ordering.ordered(case.record.orders, ordering.CREATININE_CODES):
        found.append(Suggestion("Order creatinine in 24 h", (ordering.creatinine(case, due),)))
    return tuple(s for s in found if s is not None)


def _level(case: Case, drug: Ordered) -> Suggestion | None:
    if drug.rxcui not in LEVELS:
        return None
    code, text = LEVELS[drug.rxcui]
    if ordering.ordered(case.record.orders, frozenset({code})):
        return None
    return Suggestion(f"Order {text.lower()}", (ordering.service_request(case, ordering.concept(LOINC, code, text)),))
