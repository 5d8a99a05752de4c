"""The history: Condition, MedicationRequest, Procedure -> Event; AllergyIntolerance -> Allergy; what was given -> Dose.

An event whose code no table knows is kept for reading, with no concepts, and leaves an `unknown-code` Gap: no rule
can fire on it (DQ-7). A combination product matches only through the codes of its ingredients: the table knows
RxNorm ingredients and ATC codes, a product's own RxCUI needs a site's map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal

from fhir_mappers import fhir, r4
from fhir_mappers.codes import condition_concepts, drug_concepts, knows_conditions, knows_drugs
from fhir_mappers.record import Allergy, Dose, Event, Gap
from fhir_mappers.tumours import histology, stage_of

Severity = Literal["severe", "moderate", "mild", "unknown"]
ANAPHYLAXIS = frozenset({"39579001"})
"""SNOMED CT, matched as a manifestation only; ICD-10 T78.2, T78.0, T80.5 and T88.6 say the same."""
_ANAPHYLAXIS_ICD10 = ("T782", "T780", "T805", "T886")
NOT_AN_ALLERGY = frozenset({"716186003", "409137002", "428607008", "429625007"})
"""SNOMED CT: no known allergy; no known drug, environmental and food allergy."""

_DRUG_ORDERS = frozenset({"order", "original-order", "reflex-order", "filler-order", "instance-order", ""})
_NEVER = frozenset({"entered-in-error", "cancelled", "draft", "unknown", ""})


def read_condition(resource: fhir.Resource, as_of: datetime) -> Iterator[Event | Allergy | Gap]:
    """Read a Condition. Active means clinicalStatus active, recurrence or relapse, and not abated by `as_of`.

    A radiographic contrast allergy status (group `contrast_allergy`) is an Allergy as well. Raises fhir.Malformed.
    """
    reference = fhir.reference_of(resource)
    condition = fhir.read(resource, r4.Condition)
    if condition.verification_status and condition.verification_status.says("refuted", "entered-in-error"):
        yield Gap("bad-status", "Condition", reference)
        return
    onset, abatement = condition.onset_period or r4.Period(), condition.abatement_period or r4.Period()
    recorded = fhir.read_start(condition.recorded_date, as_of)
    start = fhir.read_start(condition.onset_date_time or onset.start, as_of) or recorded
    if fhir.in_future(start, as_of) or fhir.in_future(recorded, as_of):
        yield Gap("future", "Condition", reference)
        return
    abated = fhir.read_start(condition.abatement_date_time or abatement.end, as_of)
    status = condition.clinical_status
    active = status is not None and status.says("active", "recurrence", "relapse")
    codes = condition.code.codes
    concepts = condition_concepts(codes)
    event = Event(
        kind="condition",
        concepts=concepts,
        codes=codes,
        text=condition.code.words,
        start=start,
        active=active and not (abated is not None and abated <= as_of),
        source=fhir.source_of(resource),
        status=next((code for _, code in status.codes), "") if status else "",
        stage=stage_of(resource),
        histology=histology(resource),
    )
    yield event
    if event.active and "contrast_allergy" in concepts:
        yield Allergy(frozenset({"contrast_allergy"}), codes, event.text, "unknown", start, event.source)
    if not concepts and not knows_conditions(codes):
        yield Gap("unknown-code", "Condition", reference)


def read_medication(
    resource: fhir.Resource, as_of: datetime, supporting: Mapping[str, fhir.Resource]
) -> Iterator[Event | Gap]:
    """Read a MedicationRequest that is an order. Raises fhir.Malformed.

    Active means status active; on-hold, completed and stopped are history with their status. Proposals and plans,
    drafts of others, and what is cancelled or an error are no history.
    """
    reference = fhir.reference_of(resource)
    request = fhir.read(resource, r4.MedicationRequest)
    if request.status in _NEVER or request.intent not in _DRUG_ORDERS or request.do_not_perform:
        yield Gap("bad-status", "MedicationRequest", reference)
        return
    start = fhir.read_start(request.authored_on, as_of)
    if fhir.in_future(start, as_of):
        yield Gap("future", "MedicationRequest", reference)
        return
    codes, text = drug_of(resource, request, supporting)
    concepts = drug_concepts(codes)
    yield Event(
        kind="medication",
        concepts=concepts,
        codes=codes,
        text=text,
        start=start,
        active=request.status == "active",
        source=fhir.source_of(resource),
        status=request.status,
        dose=_dose(request),
        resource=resource,
    )
    if not concepts and not knows_drugs(codes):
        yield Gap("unknown-code", "MedicationRequest", reference)


def read_dose(
    resource: fhir.Resource, as_of: datetime, supporting: Mapping[str, fhir.Resource]
) -> Iterator[Dose | Gap]:
    """Read a MedicationAdministration that is done or under way. Raises fhir.Malformed."""
    reference = fhir.reference_of(resource)
    given = fhir.read(resource, r4.MedicationAdministration)
    if given.status not in ("in-progress", "completed"):
        yield Gap("bad-status", "MedicationAdministration", reference)
        return
    period = given.effective_period or r4.Period()
    at = fhir.read_start(given.effective_date_time or period.start or period.end, as_of)
    if fhir.in_future(at, as_of):
        yield Gap("future", "MedicationAdministration", reference)
        return
    codes, text = drug_of(resource, given, supporting)
    concepts = drug_concepts(codes)
    yield Dose(concepts, codes, text, at, fhir.source_of(resource))
    if not concepts and not knows_drugs(codes):
        yield Gap("unknown-code", "MedicationAdministration", reference)


def drug_of(
    resource: fhir.Resource,
    request: r4.MedicationRequest | r4.MedicationAdministration,
    supporting: Mapping[str, fhir.Resource],
) -> tuple[fhir.Codes, str]:
    """The codes of the drug and of its ingredients, and the record's wording; through a Medication if need be."""
    codes: fhir.Codes = ()
    text = ""
    if request.medication_codeable_concept is not None:
        codes, text = request.medication_codeable_concept.codes, request.medication_codeable_concept.words
    if request.medication_reference is not None:
        medication = fhir.referred(resource, request.medication_reference.reference, "Medication", supporting)
        text = text or request.medication_reference.display or ""
        if medication is not None:
            try:
                read = fhir.read(medication, r4.Medication)
            except fhir.Malformed:
                return codes, text
            items = [i.item_codeable_concept for i in read.ingredient if i.item_codeable_concept is not None]
            codes = (*codes, *read.code.codes, *(code for item in items for code in item.codes))
            text = text or read.code.words
    return codes, text


def _dose(request: r4.MedicationRequest) -> str:
    for dosage in request.dosage_instruction:
        if dosage.text:
            return dosage.text
        for rate in dosage.dose_and_rate:
            quantity = rate.dose_quantity
            if quantity is not None and quantity.value is not None:
                return f"{quantity.value} {quantity.unit or quantity.code or ''}".strip()
    return ""


def read_procedure(resource: fhir.Resource, as_of: datetime) -> Iterator[Event | Gap]:
    """Read a Procedure that is completed (not active) or in progress (active). Raises fhir.Malformed."""
    reference = fhir.reference_of(resource)
    procedure = fhir.read(resource, r4.Procedure)
    if procedure.status not in ("completed", "in-progress"):
        yield Gap("bad-status", "Procedure", reference)
        return
    period = procedure.performed_period or r4.Period()
    start = fhir.read_start(procedure.performed_date_time or period.start or period.end, as_of)
    if fhir.in_future(start, as_of):
        yield Gap("future", "Procedure", reference)
        return
    codes = procedure.code.codes
    concepts = condition_concepts(codes)
    yield Event(
        kind="procedure",
        concepts=concepts,
        codes=codes,
        text=procedure.code.words,
        start=start,
        active=procedure.status == "in-progress",
        source=fhir.source_of(resource),
        status=procedure.status,
        category=frozenset(code for _, code in fhir.codes_of(resource.get("category"))),
    )
    if not concepts and not knows_conditions(codes):
        yield Gap("unknown-code", "Procedure", reference)


def read_allergy(resource: fhir.Resource, as_of: datetime) -> Iterator[Allergy | Gap]:
    """Read an AllergyIntolerance that is neither refuted nor inactive. Raises fhir.Malformed.

    A missing clinicalStatus counts as active: of the two errors, forgetting an allergy is the worse.
    """
    reference = fhir.reference_of(resource)
    allergy = fhir.read(resource, r4.AllergyIntolerance)
    verification, clinical = allergy.verification_status, allergy.clinical_status
    refuted = verification is not None and verification.says("refuted", "entered-in-error")
    if refuted or (clinical is not None and clinical.says("inactive", "resolved")):
        yield Gap("bad-status", "AllergyIntolerance", reference)
        return
    recorded = fhir.read_start(allergy.recorded_date, as_of)
    onset = fhir.read_start(allergy.onset_date_time, as_of) or recorded
    if fhir.in_future(onset, as_of) or fhir.in_future(recorded, as_of):
        yield Gap("future", "AllergyIntolerance", reference)
        return
    substances = [r.substance for r in allergy.reaction if r.substance is not None]
    codes = (*allergy.code.codes, *(code for s in substances for code in s.codes))
    if any(code in NOT_AN_ALLERGY for _, code in codes):
        yield Gap("no-value", "AllergyIntolerance", reference)
        return
    concepts = drug_concepts(codes) | condition_concepts(codes)
    text = allergy.code.words or next((s.words for s in substances if s.words), "")
    yield Allergy(
        concepts,
        codes,
        text,
        _severity(allergy),
        onset,
        fhir.source_of(resource),
        reactions=tuple(dict.fromkeys(m.words for r in allergy.reaction for m in r.manifestation if m.words)),
        intolerance=allergy.type == "intolerance",
    )
    if not concepts and not knows_drugs(codes):
        yield Gap("unknown-code", "AllergyIntolerance", reference)


def _severity(allergy: r4.AllergyIntolerance) -> Severity:
    """The worst of the reactions; anaphylaxis is severe whatever its recorded grade, and so is criticality high.

    Criticality low says what a future exposure may do, not how bad the last one was: it does not make it mild.
    """
    manifestations = [code for r in allergy.reaction for m in r.manifestation for _, code in m.codes]
    if any(c in ANAPHYLAXIS or c.replace(".", "").startswith(_ANAPHYLAXIS_ICD10) for c in manifestations):
        return "severe"
    grades = {r.severity for r in allergy.reaction}
    if "severe" in grades or allergy.criticality == "high":
        return "severe"
    if "moderate" in grades:
        return "moderate"
    return "mild" if "mild" in grades else "unknown"
