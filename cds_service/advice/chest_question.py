"""The question a drug order for the chest raises, and the rows every card of chest-treatment shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cds_service.advice.drafts import touched
from cds_service.advice.packs import care, pneumonia
from cds_service.advice.packs.curb65 import Count, Criterion, curb65
from cds_service.advice.packs.severe_cap import Severity, severe_cap
from cds_service.advice.writing import (
    Fact,
    day,
    missing_evidence,
    moment,
    override_reasons,
    shown,
    taken,
)
from cds_service.cards import Coding, new_uuid
from cds_service.markdown import escape_markdown
from fhir_mappers.codes import ATC_SYSTEMS
from fhir_mappers.doses import is_local
from fhir_mappers.record import Coded, Lab, Order, PatientRecord

if TYPE_CHECKING:
    from cds_service.consult import Case

ANTIBIOTICS = frozenset({"macrolide", "fluoroquinolone", "cephalosporin", "penicillin", "carbapenem", "tetracycline",
                         "glycopeptide", "oxazolidinone", "monobactam", "aminoglycoside", "sulfonamide"})  # fmt: skip
REASONS: tuple[Coding, ...] = override_reasons(
    (("another-infection", "Treating another infection"), ("immunocompromised", "Immunocompromised")),
    without=("patient-contraindication", "patient-refuses"),
)
EVIDENCE = {
    "vitals": "vital signs",
    "labs": "laboratory results",
    "conditions": "problem list",
    "meds": "medication list",
    "allergies": "allergies",
    "encounter": "encounter",
    "goals": "goals of care",
}


@dataclass(frozen=True, slots=True)
class Question:
    """The draft orders that treat the chest, and how severe the pneumonia is.

    antibiotics  every draft of an antibiotic for the whole body; `for_pneumonia` those that treat pneumonia
    """

    case: Case
    antibiotics: tuple[Order, ...]
    for_pneumonia: tuple[Order, ...]
    steroids: tuple[Order, ...]
    diuretics: tuple[Order, ...]
    curb: Count
    severity: Severity
    uuid: str = field(default_factory=new_uuid)

    @property
    def record(self) -> PatientRecord:
        return self.case.record

    @property
    def non_severe(self) -> bool:
        """Certain, whatever the missing items may be: CURB-65 of 2 at most, and not severe by IDSA/ATS."""
        return self.curb.high <= 2 and self.severity.severe is False

    def unknown(self, *more: str) -> tuple[str, ...]:
        return (*more, *missing_evidence(self.case.shortfalls, EVIDENCE))


def ask(case: Case) -> Question | None:
    """The question of this call, or None where no draft of it treats the chest."""
    record = case.record
    drugs = [o for o in record.drafts() if o.kind == "medication" and not is_local(o.resource)]
    antibiotics = tuple(o for o in drugs if is_antibiotic(o))
    steroids = tuple(o for o in drugs if "corticosteroid" in o.concepts)
    diuretics = tuple(o for o in drugs if "loop_diuretic" in o.concepts)
    others = tuple(o for o in record.drafts() if o.kind == "other")
    if not touched(case, (*antibiotics, *steroids, *diuretics, *others)):
        return None
    return Question(
        case,
        antibiotics,
        tuple(o for o in antibiotics if pneumonia.for_pneumonia(record, o)),
        tuple(o for o in steroids if pneumonia.for_pneumonia(record, o)),
        diuretics,
        curb65(record),
        severe_cap(record),
    )


def is_antibiotic(order: Order) -> bool:
    """A class of the tables, or any ATC code of J01."""
    return bool(order.concepts & ANTIBIOTICS) or any(
        system in ATC_SYSTEMS and code.startswith("J01") for system, code in order.codes
    )


# --- the evidence table ----------------------------------------------------------------------------------------------


def lab_row(lab: Lab, note: str = "") -> Fact:
    source = "Vital signs" if lab.kind == "vital" else "Laboratory"
    return Fact(lab.name, shown(lab) + (f", {note}" if note else ""), taken(lab), source)


def coded_row(name: str, found: Coded, value: str) -> Fact:
    source = "Vital signs" if found.name == "avpu" else "Laboratory"
    return Fact(name, value, moment(found.at), source)


def criterion_rows(criterion: Criterion) -> list[Fact]:
    rows = []
    for item in criterion.because:
        if isinstance(item, Lab):
            rows.append(lab_row(item))
        else:
            rows.append(coded_row(criterion.name.capitalize(), item, item.meaning))
    return rows


def curb_row(q: Question) -> Fact:
    met = [c.name for c in q.curb.criteria if c.met]
    known = f"{5 - len(q.curb.missing)} of 5 items known"
    return Fact(f"CURB-65 {q.curb}", f"{', '.join(met) or 'no item met'}; {known}", "", "Calculated")


def severity_row(q: Question) -> Fact:
    minor = q.severity.minor
    value = f"{minor.low} of 9 minor criteria met"
    if minor.high != minor.low:
        value += f", {minor.high} at most with what is missing"
    return Fact("Severe by IDSA/ATS", f"no; {value}", "", "Calculated")


def diagnosis_row(q: Question) -> list[Fact]:
    found = pneumonia.on_problem_list(q.record)
    return [] if found is None else [Fact("Pneumonia", found.text or "on record", day(found.start), "Problem list")]


def goals_row(q: Question) -> list[Fact]:
    if not care.not_for_resuscitation(q.record):
        return []
    return [Fact("Code status", "do not resuscitate", "", "Goals of care")]


def named(orders: tuple[Order, ...]) -> str:
    """The orders in the record's words, for a sentence of the detail."""
    words = [escape_markdown(o.text or "an order without a name", 60) for o in orders[:2]]
    more = len(orders) - len(words)
    return " and ".join(words) + (f" and {more} more" if more else "")
