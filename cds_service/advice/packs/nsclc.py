"""Lung cancer as a rule sees it: how advanced, of what histology, with which driver, and what was given before.

Only somatic results speak of the tumour. A germline result never does, and a result that does not say which of the
two it is informs at most. A variant that is not reported as pathogenic, likely pathogenic or unclassified is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fhir_mappers.codes import ICD10_SYSTEMS, drugs, find_drugs
from fhir_mappers.drivers import Driver, drivers
from fhir_mappers.record import Coded, Event, GeneResult, Order, PatientRecord
from fhir_mappers.tumours import rank

DISTANT = ("C78", "C79")
"""ICD-10 of distant metastasis. C77 (lymph nodes) may be stage II, and C80 names no site."""
TRIAL = "Z006"
ADVANCED = rank("IIIB")
ACTIONABLE = frozenset({"pathogenic", "likely pathogenic"})
HARMLESS = frozenset({"uncertain significance", "likely benign", "benign"})
TARGETED = ("egfr_tki", "egfr_antibody", "alk_inhibitor", "ros1_ntrk_inhibitor", "braf_mek_inhibitor", "met_inhibitor",
            "ret_inhibitor", "kras_inhibitor", "her2_adc")  # fmt: skip
KINASE_INHIBITORS = tuple(c for c in TARGETED if c not in ("egfr_antibody", "her2_adc"))
CHEMOTHERAPY = ("platinum", "antifolate", "taxane")
CHECKPOINT = "ici"
REQUIRED_GENES = ("EGFR", "ALK")


@dataclass(frozen=True, slots=True)
class Tumour:
    """An active lung cancer that is not known to be small cell.

    stage     most advanced stage group on record, "" where none is
    advanced  stage IIIB or above, or distant metastasis; None where neither is known
    because   the metastasis that makes it advanced where the stage does not
    """

    condition: Event
    stage: str
    histology: str
    advanced: bool | None
    because: Event | None
    staging: Coded | None


def tumour(record: PatientRecord) -> Tumour | None:
    """The lung cancer the drugs are for; None where there is none, it is small cell, or the patient is in a trial."""
    cancers = [e for e in record.active("lung_cancer") if e.kind == "condition"]
    if not cancers or any(c.histology == "small-cell" for c in cancers):
        return None
    if any(_has(e, (TRIAL,)) for e in record.events if e.active):
        return None
    best = max(cancers, key=lambda c: rank(c.stage))
    staged = next((c for c in record.coded if c.name == "stage_group"), None)
    stages = [c.stage for c in cancers if c.stage] + ([staged.meaning] if staged is not None else [])
    stage = max(stages, key=rank, default="")
    spread = next(
        (
            e
            for e in record.events
            if e.active and e.kind == "condition" and (_has(e, DISTANT) or "lung_mets" in e.concepts)
        ),
        None,
    )
    advanced = True if spread is not None else None if not stage else rank(stage) >= ADVANCED
    histology = next((c.histology for c in (best, *cancers) if c.histology), "")
    return Tumour(best, stage, histology, advanced, spread, staged if staged and staged.meaning == stage else None)


def _has(event: Event, prefixes: tuple[str, ...]) -> bool:
    return any(
        system in ICD10_SYSTEMS and code.replace(".", "").upper().startswith(prefixes) for system, code in event.codes
    )


@dataclass(frozen=True, slots=True)
class Found:
    """A driver in this tumour. `doubts` name what keeps it from deciding: origin or significance not stated."""

    driver: Driver
    result: GeneResult
    doubts: tuple[str, ...]

    @property
    def name(self) -> str:
        """`EGFR p.Leu858Arg`, `ALK fusion (EML4::ALK)`."""
        if self.driver.form == "fusion":
            partner = f" ({self.result.value})" if "::" in self.result.value else ""
            return f"{self.result.gene} fusion{partner}"
        gene = "HER2" if self.result.gene == "ERBB2" else self.result.gene
        return f"{gene} {self.result.value.rpartition(':')[2]}"


def found_drivers(record: PatientRecord) -> tuple[Found, ...]:
    """Drivers among the results that may speak of the tumour, those beyond doubt first, then the newest."""
    found = []
    for result in record.genes:
        if result.kind != "variant" or result.origin == "germline" or result.significance in HARMLESS:
            continue
        doubts = []
        if result.origin == "unknown":
            doubts.append(f"whether {result.gene} was found in the tumour or in the germline")
        if result.significance not in ACTIONABLE:
            doubts.append(f"clinical significance of the {result.gene} variant")
        found += [Found(d, result, tuple(doubts)) for d in drivers() if d.matches(result.gene, result.value)]
    return tuple(sorted(found, key=lambda f: bool(f.doubts)))


GeneStatus = Literal["found", "negative", "negative in plasma", "not tested"]


def gene_status(record: PatientRecord, gene: str) -> GeneStatus:
    """What is known of this gene in the tumour. Plasma that shows nothing does not exclude a driver."""
    results = [r for r in record.genes if r.gene == gene and r.origin != "germline"]
    if any(r.kind == "variant" for r in results):
        return "found"
    negative = [r for r in results if r.kind == "none-found"]
    if not negative:
        return "not tested"
    return "negative in plasma" if all(r.specimen == "plasma" for r in negative) else "negative"


def given(record: PatientRecord, classes: tuple[str, ...], drafts: tuple[Order, ...] = ()) -> tuple[Event, ...]:
    """Drugs of these classes in the medication history, of any status, that are not themselves among the drafts."""
    refs = {o.ref for o in drafts}
    return tuple(e for e in record.ever(*classes) if e.kind == "medication" and e.source.reference not in refs)


def classes_of(driver: Driver) -> frozenset[str]:
    """The drug classes of a driver's matched drugs."""
    names = {name for option in driver.options for name in option}
    return frozenset(d.class_id for d in drugs() if d.ingredient in names)


def ingredients(codes: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(d.ingredient for d in find_drugs(codes))


def never_smoked(record: PatientRecord) -> bool:
    smoking = next((c for c in record.coded if c.name == "smoking_status"), None)
    return smoking is not None and smoking.meaning == "never-smoker" and not record.active("smoking")
