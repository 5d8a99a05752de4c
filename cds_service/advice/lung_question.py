"""The lung cancer, the drugs being ordered for it, and the rows every card of lung-precision shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cds_service.advice.drafts import touched
from cds_service.advice.packs import care, nsclc
from cds_service.advice.packs.nsclc import Found, Tumour
from cds_service.advice.writing import Fact, day, missing_evidence, override_reasons
from cds_service.cards import Coding, new_uuid
from cds_service.markdown import escape_markdown
from fhir_mappers.codes import drugs
from fhir_mappers.record import Event, Order, PatientRecord

if TYPE_CHECKING:
    from cds_service.consult import Case

REASONS: tuple[Coding, ...] = override_reasons(
    (("tumour-board", "Tumour board decision"), ("cannot-wait", "Cannot wait for result")),
    without=("patient-contraindication", "need-more-info"),
)
EVIDENCE = {
    "conditions": "problem list",
    "genes": "genomic results",
    "variants": "tumour variants",
    "meds": "medication history",
    "labs": "laboratory results",
    "vitals": "vital signs",
    "reports": "radiology reports",
    "tumour": "tumour measurements",
    "orders": "existing orders",
    "goals": "goals of care",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One lung cancer and the drafts that concern it.

    drugs     drafts of medications that were just touched (all drafts outside order-select), of any class
    drivers   what drives the tumour, certain ones first
    """

    case: Case
    tumour: Tumour
    drugs: tuple[Order, ...]
    drivers: tuple[Found, ...]
    uuid: str = field(default_factory=new_uuid)

    @property
    def record(self) -> PatientRecord:
        return self.case.record

    def of(self, *classes: str) -> tuple[Order, ...]:
        """The drafts of these drug classes."""
        wanted = frozenset(classes)
        return tuple(o for o in self.drugs if o.concepts & wanted)

    def given(self, *classes: str) -> tuple[Event, ...]:
        """What the history holds of these classes, the drafts themselves left out."""
        return nsclc.given(self.record, classes, tuple(o for o in self.record.drafts()))

    def lacks(self, *keys: str) -> bool:
        """Whether one of these kinds of evidence fell short, so that absence cannot be told."""
        return any(s.key in keys for s in self.case.shortfalls)

    def unknown(self, *more: str) -> tuple[str, ...]:
        return (*more, *missing_evidence(self.case.shortfalls, EVIDENCE))


def ask(case: Case) -> Question | None:
    """The question of this call, or None where there is no lung cancer it could be about."""
    record = case.record
    found = nsclc.tumour(record)
    if found is None:
        return None
    drafts = tuple(o for o in record.drafts() if o.kind == "medication" and touched(case, (o,)))
    return Question(case, found, drafts, nsclc.found_drivers(record))


# --- the evidence table ----------------------------------------------------------------------------------------------


def driver_row(found: Found) -> Fact:
    """What was found, where, and how sure the report is of it."""
    result = found.result
    origin = {"somatic": "somatic", "unknown": "origin not stated", "germline": "germline"}[result.origin]
    parts = [result.significance or "significance not stated", origin]
    if result.specimen:
        parts.append(result.specimen)
    if result.allele_fraction is not None:
        parts.append(f"allele fraction {100 * result.allele_fraction:.0f} %")
    return Fact(found.name, ", ".join(parts), day(result.at), "Genomic result")


def tumour_row(q: Question) -> Fact:
    said = [q.tumour.condition.text or "lung cancer"]
    said.append(f"stage {q.tumour.stage}" if q.tumour.stage else "stage not recorded")
    if q.tumour.because is not None:
        said.append(f"metastasis: {q.tumour.because.text or 'recorded'}")
    said.append(q.tumour.histology.replace("-", " ") or "histology not coded")
    return Fact("Lung cancer", ", ".join(said), day(q.tumour.condition.start), "Problem list")


def pdl1_rows(record: PatientRecord) -> list[Fact]:
    found = next((c for c in record.coded if c.name == "pdl1_22c3"), None)
    return [] if found is None else [Fact("PD-L1 (22C3)", found.text, day(found.at), "Pathology")]


def goals_rows(record: PatientRecord) -> list[Fact]:
    if not care.not_for_resuscitation(record):
        return []
    return [Fact("Code status", "do not resuscitate", "", "Goals of care")]


def staging_unknown(q: Question) -> tuple[str, ...]:
    """What is not recorded of stage and histology."""
    missing = []
    if not q.tumour.stage and q.tumour.because is None:
        missing.append("stage (needs IIIB to IV, or a metastasis, on record)")
    if not q.tumour.histology:
        missing.append("histology")
    return tuple(missing)


def named(orders: tuple[Order, ...]) -> str:
    words = [escape_markdown(o.text or "an order without a name", 60) for o in orders[:2]]
    more = len(orders) - len(words)
    return " and ".join(words) + (f" and {more} more" if more else "")


def ingredient(item: Order | Event) -> str:
    """The drug's name in the table, else the record's own wording."""
    names = nsclc.ingredients(item.codes)
    return names[0] if names else item.text


def rxcui_of(name: str) -> str:
    """RxNorm ingredient of a drug of the table; empty where none is confirmed."""
    return next((d.rxcui for d in drugs() if d.ingredient == name and d.rxcui), "")
