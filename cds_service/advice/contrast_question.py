"""The question every card of imaging-safety on iodinated contrast asks, and the study it offers instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from cds_service.advice import ordering
from cds_service.advice.packs import care
from cds_service.advice.packs.kidney import Kidney
from cds_service.advice.writing import Fact, missing_evidence, override_reasons
from cds_service.cards import Action, Suggestion, new_uuid
from cds_service.markdown import escape_markdown
from fhir_mappers.record import Order, PatientRecord

if TYPE_CHECKING:
    from cds_service.consult import Case

REASONS = override_reasons(
    (("emergency", "Emergency, benefit clear"), ("radiologist-agreed", "Radiologist already agreed")),
    without=("patient-contraindication", "patient-refuses"),
)
EVIDENCE = {
    "meds": "medication list",
    "conditions": "problem list",
    "vitals": "vital signs",
    "encounter": "encounter",
    "orders": "existing orders",
    "goals": "goals of care",
}
CONSULT = "radiology-consult"
"""A request to a radiologist: no public code system has one that every EHR knows."""


@dataclass(frozen=True, slots=True)
class Question:
    """The orders that would give this patient iodinated contrast, and the kidney it would meet."""

    case: Case
    orders: tuple[Order, ...]
    kidney: Kidney
    uuid: str = field(default_factory=new_uuid)

    @property
    def studies(self) -> tuple[Order, ...]:
        return tuple(o for o in self.orders if o.imaging is not None)

    @property
    def why(self) -> str:
        return ordered_words(self.orders, "Ordered with iodinated contrast")

    @property
    def scan_at(self) -> datetime:
        now = self.case.record.as_of
        return min((at for o in self.studies if (at := ordering.due(o)) is not None and at >= now), default=now)

    def unasked(self) -> tuple[str, ...]:
        return missing_evidence(self.case.shortfalls, EVIDENCE)

    @property
    def alternative(self) -> str:
        """What `other_study` would offer, in words for a summary; "" where it has nothing."""
        studies = [o.imaging for o in self.studies if o.imaging is not None and o.imaging.contrast == "iodinated_iv"]
        if studies and all(ordering.sibling(s) is not None for s in studies):
            return "non-contrast CT"
        return "a lung scan" if any(s.duplicate_group == "ctpa" for s in studies) else ""

    def other_study(self) -> Suggestion | None:
        """Each contrast study changed to the same one without contrast; a lung scan for CT pulmonary angiography."""
        actions: list[Action] = []
        names: list[str] = []
        for order in self.studies:
            study = order.imaging
            if study is None or study.contrast != "iodinated_iv":
                continue
            plain = ordering.sibling(study)
            if plain is not None:
                code, name = plain.loinc, f"{plain.modality} {plain.region} without contrast"
            elif study.duplicate_group == "ctpa":
                code, name = ordering.LUNG_SCAN, "lung ventilation-perfusion scan"
            else:
                continue
            change = ordering.change_study(self.case, order, code, name, self.uuid)
            if change is not None:
                actions.append(change)
                names.append(name)
        if not actions:
            return None
        return Suggestion(f"Change to {' and '.join(dict.fromkeys(names))}", tuple(actions))


def ordered_words(orders: tuple[Order, ...], lead: str) -> str:
    """`Ordered with iodinated contrast: CT chest and CT abdomen and 1 more.`"""
    named = [escape_markdown(o.text or "an order without a name", 60) for o in orders[:2]]
    more = len(orders) - len(named)
    return f"{lead}: " + " and ".join(named) + (f" and {more} more." if more else ".")


def code_status(record: PatientRecord) -> list[Fact]:
    """Do-not-resuscitate silences nothing, and is said."""
    known = care.not_for_resuscitation(record)
    return [Fact("Code status", "do not resuscitate", "", "Goals of care")] if known else []


def ask_radiology(case: Case, label: str, note: str, *first: Action) -> Suggestion | None:
    """A request for a radiologist's advice, unless one is on order; `first` are actions that go with it."""
    if any(code == CONSULT for o in case.record.orders for system, code in o.codes if system == ordering.REQUEST):
        return Suggestion(label, first) if first else None
    code = ordering.concept(ordering.REQUEST, CONSULT, "Radiology consult")
    request = ordering.service_request(case, code, priority="urgent", note=[{"text": note}])
    return Suggestion(label, (*first, request))
