"""For whom a gene-drug recommendation is meant, and what in the record says that this patient is one of them.

Each population of pgx.csv has a function here. A population is held, ruled out, or open: without evidence either
way. Open is never read as held where the table also has a milder row for somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from cds_service.advice.packs import care
from cds_service.advice.packs.genes import GeneState
from cds_service.advice.packs.quality import above, reading
from fhir_mappers import fhir
from fhir_mappers.codes import ICD10_SYSTEMS, RXNORM_SYSTEMS, condition_concepts, find_drugs
from fhir_mappers.record import Event, Order, PatientRecord

STENT_YEAR = timedelta(days=365)
TOLERATED = timedelta(days=90)
LONG_THERAPY = timedelta(weeks=12)
CANCERS = frozenset({"any_cancer", "cancer", "lymphoma", "mets", "tumour"})
NONMALIGNANT_CODES = ("K50", "K51", "M05", "M06", "M32", "M33", "M34", "M35", "L10", "L12", "L40", "K754", "G35",
                      "G70", "Z940", "Z944", "D69", "D86", "L20", "H20", "M30", "M31")  # fmt: skip
"""ICD-10 of what thiopurines treat beside leukaemia: bowel, joints, skin, liver, nerve, transplant, vasculitis."""
BREAST_CANCER_CODES = ("C50", "D05", "Z853")
PAIN_CODES = ("G89", "R52", "M79", "G43", "G44", "M54", "G50", "B022", "G629")
CHILD_KG = 40.0

Held = Literal["yes", "no", "open"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """`because` is the resource that decided, for the card: words, time, reference."""

    held: Held
    because: Event | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a population is judged from.

    rxcui   the ordered ingredient
    refill  the order continues a therapy by the hook's own word (medication-refill)
    """

    record: PatientRecord
    order: Order
    rxcui: str
    refill: bool
    genes: Mapping[str, GeneState]

    def earlier(self) -> tuple[Event, ...]:
        """Orders of the same ingredient that stand in the history, not this order itself."""
        return tuple(
            e
            for e in self.record.events
            if e.kind == "medication" and e.source.reference != self.order.ref and has_ingredient(e.codes, self.rxcui)
        )

    def reasons(self) -> tuple[tuple[str, str], ...]:
        """ICD-10 codes the order itself gives as its reason."""
        codes = fhir.codes_of(self.order.resource.get("reasonCode"))
        return tuple((s, c.replace(".", "").upper()) for s, c in codes if s in ICD10_SYSTEMS)


def has_ingredient(codes: tuple[tuple[str, str], ...], rxcui: str) -> bool:
    """Whether these codes are of the ingredient, by its RxNorm code or by an ATC code of the drug table."""
    if any(system in RXNORM_SYSTEMS and code == rxcui for system, code in codes):
        return True
    return any(drug.rxcui == rxcui for drug in find_drugs(codes))


def evidence(population: str, setting: Setting) -> Evidence:
    """Whether the patient is of this population. Raises KeyError for one that has no function."""
    return POPULATIONS[population](setting)


def _everybody(_: Setting) -> Evidence:
    return Evidence("yes")


def _held(events: tuple[Event, ...]) -> Evidence:
    return Evidence("yes", events[0]) if events else Evidence("open")


def _coronary(s: Setting) -> Evidence:
    """Acute coronary syndrome or a coronary stent on the problem list, or a stent procedure within a year."""
    recent = tuple(
        e
        for e in s.record.ever("pci")
        if e.kind == "procedure" and e.start is not None and s.record.age_of(e.start) <= STENT_YEAR
    )
    return _held((*s.record.active("pci"), *recent, *s.record.active("acs")))


def _neurovascular(s: Setting) -> Evidence:
    return _held(s.record.ever("stroke_tia"))


def _other_cardiovascular(s: Setting) -> Evidence:
    return Evidence("no") if _coronary(s).held == "yes" else Evidence("open")


def _naive(s: Setting) -> Evidence:
    return Evidence("no") if s.refill or s.earlier() else Evidence("yes")


def _naive_or_new(s: Setting) -> Evidence:
    """Not yet, or for less than three months: whoever has tolerated the drug for longer is out of danger."""
    started = [e.start for e in s.earlier() if e.start is not None]
    if any(s.record.age_of(at) > TOLERATED for at in started):
        return Evidence("no")
    return Evidence("open" if s.refill or s.earlier() else "yes")


def _indication(s: Setting) -> Held:
    """yes for a malignant reason, no for another one, open where nothing tells. The order's own reason comes first."""
    reasons = s.reasons()
    if reasons:
        return "yes" if condition_concepts(reasons) & CANCERS else "no"
    malignant = bool(s.record.active(*CANCERS))
    other = any(e.active and _coded(e, NONMALIGNANT_CODES) for e in s.record.events)
    return "open" if malignant == other else "yes" if malignant else "no"


def _coded(event: Event, prefixes: tuple[str, ...]) -> bool:
    plain = (c.replace(".", "").upper() for system, c in event.codes if system in ICD10_SYSTEMS)
    return event.kind != "medication" and any(c.startswith(prefixes) for c in plain)


def _malignant(s: Setting) -> Evidence:
    return Evidence(_indication(s))


def _nonmalignant(s: Setting) -> Evidence:
    opposite: dict[Held, Held] = {"yes": "no", "no": "yes", "open": "open"}
    return Evidence(opposite[_indication(s)])


def _adult(s: Setting) -> Evidence:
    """Eighteen by every birth date the record allows (DQ-10)."""
    return Evidence("yes" if care.under(s.record, 18) is False else "no")


def _start(s: Setting) -> Evidence:
    return _naive(s)


def _adult_start(s: Setting) -> Evidence:
    return _start(s) if _adult(s).held == "yes" else Evidence("no")


def _adult_or_heavy_child(s: Setting) -> Evidence:
    if _adult(s).held == "yes":
        return Evidence("yes")
    weight = reading(s.record, "weight").lab
    return Evidence("yes" if weight is not None and above(weight, CHILD_KG) else "no")


def _no_hla_b_1502(s: Setting) -> Evidence:
    state = s.genes.get("HLA-B*15:02")
    return Evidence("no" if state is not None and state.phenotype == "positive" else "yes")


def _long_therapy(s: Setting) -> Evidence:
    """On the drug for more than twelve weeks. That it works cannot be read from a record."""
    long = [e for e in s.earlier() if e.active and e.start and s.record.age_of(e.start) > LONG_THERAPY]
    return Evidence("yes", long[0]) if long else Evidence("no")


def _breast_cancer(s: Setting) -> Evidence:
    if any(c.startswith(BREAST_CANCER_CODES) for _, c in s.reasons()):
        return Evidence("yes")
    found = tuple(e for e in s.record.events if e.active and _coded(e, BREAST_CANCER_CODES))
    return Evidence("no") if s.record.active("mets") or not found else Evidence("yes", found[0])


def _depression(s: Setting) -> Evidence:
    """Low doses for pain are not meant: depression is the order's reason, or on the list with no pain beside it."""
    reasons = s.reasons()
    if reasons:
        return Evidence("yes" if "depress" in condition_concepts(reasons) else "no")
    if any(e.active and _coded(e, PAIN_CODES) for e in s.record.events):
        return Evidence("no")
    found = s.record.active("depress")
    return Evidence("yes", found[0]) if found else Evidence("no")


POPULATIONS: Mapping[str, Callable[[Setting], Evidence]] = {
    "all": _everybody,
    "all systemic": _everybody,  # orders for the skin alone are left out before any row is looked at
    "children and adults": _everybody,
    "ACS or PCI": _coronary,
    "neurovascular": _neurovascular,
    "cardiovascular, not ACS and not PCI": _other_cardiovascular,
    "abacavir-naive": _naive,
    "naive": _naive,
    "naive, alternatives exist": _naive,
    "naive or <3 months": _naive_or_new,
    "malignant": _malignant,
    "nonmalignant": _nonmalignant,
    "adult": _adult,
    "initiation": _start,
    "adult, initiation only": _adult_start,
    "adult or child >40 kg": _adult_or_heavy_child,
    "HLA-B*15:02 negative or unknown": _no_hla_b_1502,
    "therapy >12 weeks and effective": _long_therapy,
    "adjuvant ER+ breast cancer": _breast_cancer,
    "depression doses": _depression,
}
