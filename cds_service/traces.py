"""The parts of a call's record: what it rested on, what the model said, and what became of each rule. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from cds_service.advice import film_quality, film_unchanged
from cds_service.economy import Candidate
from cds_service.state.quality import DISAGREE
from cds_service.state.records import Decision, Prediction, Setting, ShownCard
from fhir_mappers.record import PatientRecord
from models.contract import Assessment

if TYPE_CHECKING:
    from cds_service.consult import Case


def references(record: PatientRecord) -> set[str]:
    """Every resource the record was read from, as `Observation/1|version`."""
    items = (
        *record.labs,
        *record.coded,
        *record.events,
        *record.allergies,
        *record.orders,
        *record.studies,
        *record.images,
        *record.reports,
        *record.nodules,
        *record.genes,
        *record.lesions,
        *record.doses,
        *record.lab_reports,
        *([record.encounter] if record.encounter else ()),
    )
    sources = [item.source for item in items] + ([record.person.source] if record.person.source else [])
    return {f"{source.reference}|{source.version or ''}" for source in sources}


def setting(case: Case) -> Setting:
    encounter = case.record.encounter
    if encounter is not None:
        return "inpatient" if encounter.inpatient else "outpatient"
    return "" if case.request.context.encounter_id else "outpatient"


def as_shown(candidate: Candidate, *, shadow: bool = False) -> ShownCard:
    card = candidate.card
    return ShownCard(
        card=card.uuid,
        rules=candidate.rules,
        indicator=card.indicator,
        fingerprint=candidate.fingerprint,
        suggestions=tuple(s.uuid for s in card.suggestions),
        shadow=shadow,
        orders=candidate.orders,
    )


def decisions(
    candidates: Sequence[Candidate], outcome: Literal["fired", "silent", "capped", "abstained"], cause: str = ""
) -> list[Decision]:
    return [
        Decision(rule, outcome, cause, tier=candidate.card.indicator)
        for candidate in candidates
        for rule in candidate.rules or ("",)
    ]


def silences(case: Case) -> list[Decision]:
    """What rules that never speak have found: for the quality of films and reports, and to say why nothing was said."""
    found = [(film_quality.RULE, f"{DISAGREE}{finding}") for finding in film_quality.disputed(case)]
    found += [(film_unchanged.RULE, f"unchanged or improved: {finding}") for finding in film_unchanged.unchanged(case)]
    return [Decision(rule, "silent", cause, tier="info") for rule, cause in found]


def predictions(assessment: Assessment) -> tuple[Prediction, ...]:
    return tuple(
        Prediction(name, e.probability, *(e.interval or (None, None))) for name, e in assessment.estimates.items()
    )
