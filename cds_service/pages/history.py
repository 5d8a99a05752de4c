"""History, reports and genomic results of a record as the evidence page lists them, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cds_service.markdown import plain_text
from cds_service.pages.snapshot import Gene, Moment, ReportView
from fhir_mappers.record import PatientRecord

if TYPE_CHECKING:
    from cds_service.pages.collect import Marks

TEXT, DETAIL, CONCLUSION = 120, 160, 1500
MOST = 300
CLASSES = {
    "IMP": "inpatient",
    "ACUTE": "inpatient, acute",
    "NONAC": "inpatient, not acute",
    "EMER": "emergency",
    "AMB": "outpatient",
    "OBSENC": "observation",
    "SS": "short stay",
    "HH": "home health",
    "VR": "virtual",
    "PRENC": "pre-admission",
    "FLD": "field",
}
"""v3-ActCode encounter classes as people say them."""
PLACES = {"icu": "intensive care", "ed": "emergency department", "ward": "ward", "clinic": "clinic"}


def history(record: PatientRecord, marks: Marks) -> tuple[Moment, ...]:
    """Conditions, medication, procedures, allergies, orders and the encounter; what has no time comes last."""
    found = sorted(_moments(record, marks), key=lambda m: (m.at is None, -m.at.timestamp() if m.at else 0.0, m.text))
    return tuple(found[:MOST])


def _moments(record: PatientRecord, marks: Marks) -> Iterator[Moment]:
    for event in record.events:
        yield Moment(
            kind=event.kind,
            text=_named(event.text, event.codes, event.concepts),
            at=event.start,
            state="active" if event.active else plain_text(event.status, 40) or "not active",
            mark=marks.of(event, event.source.reference),
            ref=marks.ref(event.source),
            detail=plain_text(event.dose, DETAIL),
        )
    for allergy in record.allergies:
        yield Moment(
            kind="allergy",
            text=_named(allergy.text, allergy.codes, allergy.concepts),
            at=allergy.onset,
            state=f"severity {allergy.severity}",
            mark=marks.of(allergy, allergy.source.reference),
            ref=marks.ref(allergy.source),
        )
    for order in record.orders:
        yield Moment(
            kind="draft order" if order.draft else "order",
            text=_named(order.text, order.codes, order.concepts),
            at=order.authored,
            state=plain_text(f"{order.status} {order.priority}".strip(), 40),
            mark=marks.of(order, order.ref),
            ref=marks.ref(order.source, on_server=not order.draft),
        )
    for fact in record.coded:
        yield Moment(
            kind="observation",
            text=_observed(fact.name),
            at=fact.at,
            state=plain_text(fact.meaning or fact.text or fact.answer[1], TEXT),
            mark=marks.of(fact, fact.source.reference),
            ref=marks.ref(fact.source),
        )
    encounter = record.encounter
    if encounter is not None:
        unit = f", {PLACES[encounter.unit]}" if encounter.unit in PLACES else ""
        yield Moment(
            kind="encounter",
            text=plain_text(f"{CLASSES.get(encounter.class_, encounter.class_)}{unit}", TEXT),
            at=encounter.start,
            state="current",
            mark="",
            ref=marks.ref(encounter.source),
        )


def _named(text: str, codes: tuple[tuple[str, str], ...], concepts: frozenset[str]) -> str:
    """The record's words; without any, our word for the concept, else the code itself."""
    return (
        plain_text(text, TEXT)
        or ", ".join(sorted(c.replace("_", " ") for c in concepts))
        or next((plain_text(f"code {code}", TEXT) for _, code in codes), "not named")
    )


def _observed(name: str) -> str:
    """`avpu` -> AVPU, `pregnancy_status` -> Pregnancy status: our own names, not the record's."""
    words = plain_text(name.replace("_", " "), TEXT)
    return words.upper() if len(words) <= 4 else words[:1].upper() + words[1:]


def reports(record: PatientRecord, marks: Marks) -> tuple[ReportView, ...]:
    return tuple(
        ReportView(
            status=plain_text(r.status, 40),
            at=r.at,
            conclusion=plain_text(r.conclusion, CONCLUSION),
            ref=marks.ref(r.source),
        )
        for r in record.reports
    )


def genes(record: PatientRecord, marks: Marks) -> tuple[Gene, ...]:
    return tuple(
        Gene(
            gene=plain_text(g.gene, 40),
            value=plain_text(g.value, 80),
            kind=g.kind,
            origin=g.origin,
            at=g.at,
            mark=marks.of(g, g.source.reference),
            ref=marks.ref(g.source),
            significance=plain_text(g.significance, 60),
            allele_fraction=g.allele_fraction,
        )
        for g in record.genes
    )
