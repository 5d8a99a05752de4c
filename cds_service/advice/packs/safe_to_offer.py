"""Whether a drug may be offered to this patient at all: the safety check of every suggestion (L12, SR-6).

Allergies, pregnancy, kidney, QT, genes, duplicates, age, weight, the conditions and drugs its label forbids. A drug
that fails is not shown; a fact that is not known does not fail it, it is named. A drug without a row in
tables/safe_to_offer.csv cannot be checked and is never offered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cds_service.advice.packs import care
from cds_service.advice.packs.gene_drug import SEVERITY, GeneQuestion, gene_match
from cds_service.advice.packs.genes import GeneState
from cds_service.advice.packs.kidney import Kidney, kidney
from cds_service.advice.packs.populations import has_ingredient
from cds_service.advice.packs.pregnancy import pregnancy
from cds_service.advice.packs.qt import LONG_MS, qt_drugs
from cds_service.advice.packs.quality import below, interval, reading
from fhir_mappers.codes import RXNORM, Drug, find_drugs
from fhir_mappers.offers import Limits, limits
from fhir_mappers.record import Order, PatientRecord, Source

CROSS_REACTIVE = {
    # Beta-lactams share their ring: a severe reaction to one speaks against the others.
    "penicillin": ("penicillin", "cephalosporin", "carbapenem"),
    "cephalosporin": ("penicillin", "cephalosporin", "carbapenem"),
    "carbapenem": ("penicillin", "cephalosporin", "carbapenem"),
}
CHILDBEARING = (12, 55)


@dataclass(frozen=True, slots=True)
class Offer:
    """One drug judged for this patient.

    against  why it is not offered, in words for a card; empty when it may be
    unknown  what could speak against it and is not known
    caution  how to use it where a gene asks for care: `start at 40 mg a day or less`
    """

    rxcui: str
    name: str
    against: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    caution: str = ""

    @property
    def safe(self) -> bool:
        return not self.against


def judge(
    record: PatientRecord,
    rxcui: str,
    *,
    replacing: Order | None = None,
    states: Mapping[str, GeneState] | None = None,
) -> Offer:
    """Check one drug (RxNorm ingredient) for this patient. `replacing` is the draft it would take the place of."""
    limit, drugs = limits().get(rxcui), find_drugs(((RXNORM, rxcui),))
    if limit is None or not drugs:
        return Offer(rxcui, drugs[0].ingredient if drugs else rxcui, ("it cannot be checked here",))
    against: list[str] = []
    unknown: list[str] = []
    for said, open_ in (
        (_allergy(record, drugs), None),
        _pregnancy(record, limit),
        _kidney(record, limit),
        _rhythm(record, drugs, replacing),
        (_duplicate(record, drugs, replacing), None),
        _age(record, limit),
        _weight(record, limit),
        (_label(record, limit, replacing), None),
    ):
        against += [said] if said else []
        unknown += [open_] if open_ else []
    gene, caution = _genes(record, rxcui, replacing, states)
    return Offer(rxcui, limit.ingredient, (*against, *gene), tuple(unknown), caution)


def offers(
    record: PatientRecord,
    candidates: Iterable[str],
    *,
    replacing: Order | None = None,
    states: Mapping[str, GeneState] | None = None,
) -> tuple[tuple[Offer, ...], tuple[Offer, ...]]:
    """The candidates that may be offered, in the order given, and those that may not."""
    judged = [judge(record, rxcui, replacing=replacing, states=states) for rxcui in candidates]
    return tuple(o for o in judged if o.safe), tuple(o for o in judged if not o.safe)


Said = tuple[str | None, str | None]
"""(what speaks against it, what is not known)"""


def _allergy(record: PatientRecord, drugs: Iterable[Drug]) -> str | None:
    """An allergy to the drug, to another of its class, or a severe one to a class that cross-reacts."""
    classes = {drug.class_id for drug in drugs}
    for allergy in record.allergies:
        related = {c for own in classes for c in CROSS_REACTIVE.get(own, ())} if allergy.severity == "severe" else set()
        named = any(has_ingredient(allergy.codes, drug.rxcui) for drug in drugs if drug.rxcui)
        if named or allergy.concepts & (classes | related):
            return f"allergy to {allergy.text or 'it'}"
    return None


def _pregnancy(record: PatientRecord, limit: Limits) -> Said:
    if limit.pregnancy_ok:
        return None, None
    state = pregnancy(record)
    if state.state == "pregnant":
        return "pregnancy", None
    ages = record.age_years()
    possible = ages is not None and ages[1] >= CHILDBEARING[0] and ages[0] <= CHILDBEARING[1]
    asks = state.state == "unknown" and record.person.sex != "male" and (ages is None or possible)
    return None, "pregnancy" if asks else None


def _kidney(record: PatientRecord, limit: Limits) -> Said:
    if limit.egfr_min is None and limit.aki_ok:
        return None, None
    state: Kidney = kidney(record)
    if state.dialysis:
        return "dialysis", None
    if state.aki is not None:
        return (None if limit.aki_ok else "acute kidney injury"), None
    if limit.egfr_min is None:
        return None, None
    if state.calculated is None:
        return None, "kidney function"
    low = state.calculated.below(limit.egfr_min)
    # While creatinine changes the number is no eGFR, but one this low is reason enough not to offer the drug.
    return (f"eGFR below {limit.egfr_min:.0f}" if low else None), ("kidney function" if low is None else None)


def _rhythm(record: PatientRecord, drugs: Iterable[Drug], replacing: Order | None) -> Said:
    """A QT drug is not offered with a long QTc, congenital long QT, or another QT drug on board."""
    if not any(drug.qt for drug in drugs):
        return None, None
    if record.active("long_qt"):
        return "long QT syndrome", None
    qtc = reading(record, "qtc").lab
    if qtc is not None and interval(qtc)[1] >= LONG_MS[record.person.sex]:
        return "long QTc", None
    others = [e for e in record.events if e.kind == "medication" and e.active and qt_drugs(e.codes)]
    drafts = [o for o in record.orders if o.kind == "medication" and o is not replacing and qt_drugs(o.codes)]
    if others or drafts:
        return "it would be a second drug that prolongs QTc", None
    return None, None if qtc is not None else "QTc"


def _duplicate(record: PatientRecord, drugs: Iterable[Drug], replacing: Order | None) -> str | None:
    """Already taken or ordered, or another of its class is. What it would replace does not count."""
    given = tuple(drugs)
    classes = {drug.class_id for drug in given}
    gone = {d.rxcui for d in find_drugs(replacing.codes)} if replacing is not None else set()
    taken = [e.codes for e in record.events if e.kind == "medication" and e.active]
    taken += [o.codes for o in record.orders if o.kind == "medication" and o is not replacing]
    for codes in taken:
        if any(drug.rxcui and has_ingredient(codes, drug.rxcui) for drug in given):
            return "already ordered"
        others = [d for d in find_drugs(codes) if d.class_id in classes and d.rxcui not in gone]
        if others:
            return f"{others[0].ingredient} is already ordered"
    return None


def _age(record: PatientRecord, limit: Limits) -> Said:
    if limit.age_min is None and limit.age_below is None:
        return None, None
    if record.age_years() is None:
        return None, "age"
    if limit.age_min is not None and care.under(record, limit.age_min) is not False:
        return f"age under {limit.age_min}", None
    if limit.age_below is not None and care.under(record, limit.age_below) is not True:
        return f"age {limit.age_below} or over", None
    return None, None


def _weight(record: PatientRecord, limit: Limits) -> Said:
    if limit.weight_min is None:
        return None, None
    weight = reading(record, "weight").lab
    if weight is None:
        return None, "body weight"
    return (f"weight under {limit.weight_min:.0f} kg" if below(weight, limit.weight_min) is not False else None), None


_WORDS = {
    "stroke_tia": "earlier stroke or TIA",
    "intracranial_bleed": "earlier bleeding in the skull",
    "severe_liver": "severe liver disease",
    "liver_disease": "liver disease",
    "acs": "coronary disease",
    "pci": "coronary disease",
    "mi": "coronary disease",
    "rhabdo": "earlier muscle breakdown",
    "scar": "earlier severe skin reaction",
    "hypercapnia": "carbon dioxide retention",
    "resp_failure": "respiratory failure",
    "ild": "interstitial lung disease",
    "drug_lung": "earlier lung disease from a drug",
    "heart_failure": "heart failure",
    "chf": "heart failure",
    "pulmonary_oedema": "pulmonary oedema",
}
ONCE_IS_ENOUGH = frozenset({"stroke_tia", "intracranial_bleed", "scar", "rhabdo", "acs", "pci", "mi", "drug_lung"})
"""Groups that speak against a drug for good; the others do so while they are active."""


def _label(record: PatientRecord, limit: Limits, replacing: Order | None) -> str | None:
    for group in limit.conditions:
        if record.ever(group) if group in ONCE_IS_ENOUGH else record.active(group):
            return _WORDS[group]
    taken = [e.codes for e in record.events if e.kind == "medication" and e.active]
    taken += [o.codes for o in record.orders if o.kind == "medication" and o is not replacing]
    for rxcui in limit.drugs:
        if any(has_ingredient(codes, rxcui) for codes in taken):
            names = find_drugs(((RXNORM, rxcui),))
            return f"interaction with {names[0].ingredient if names else 'another drug'}"
    return None


def _genes(
    record: PatientRecord, rxcui: str, replacing: Order | None, states: Mapping[str, GeneState] | None
) -> tuple[tuple[str, ...], str]:
    """The patient's genes against this drug: a reason not to offer it, or how to use it with care."""
    # The order it replaces lends its place only: its dose is another drug's.
    order = replace(replacing, resource={}) if replacing is not None else _no_order()
    found = gene_match(GeneQuestion(record, order, rxcui), states)
    if found is None:
        return (), ""
    if found.row.indicator != "info" or SEVERITY[found.row.action] >= SEVERITY["alternative"]:
        return (f"{' and '.join(found.row.genes)} result",), ""
    return (), found.row.do


def _no_order() -> Order:
    return Order("", True, "medication", (), "", frozenset(), None, "routine", "draft", None, Source(""))
