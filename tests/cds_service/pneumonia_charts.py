"""Charts of patients with pneumonia about to be treated, and what a card of chest-treatment holds."""

from __future__ import annotations

from typing import Any

from vignettes import (
    Answers,
    Chart,
    Resource,
    concept,
    condition,
    encounter,
    film,
    medication,
    observation,
    patient,
)

from cds_service.cards import Card

NAME = "chest-treatment"
AT = "2026-03-10T12:00:00Z"
ICD10CM = "http://hl7.org/fhir/sid/icd-10-cm"
CATEGORY = "http://terminology.hl7.org/CodeSystem/medicationrequest-category"
SNOMED = "http://snomed.info/sct"


def vital(code: str, value: float, unit: str, at: str = "2026-03-10T13:00:00Z", **more: Any) -> Resource:
    category = [concept("http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs")]
    return observation(f"v{code}", code, value, unit, at, category=category, **more)


def lab(code: str, value: float, unit: str, at: str = AT, **more: Any) -> Resource:
    category = [concept("http://terminology.hl7.org/CodeSystem/observation-category", "laboratory")]
    return observation(f"l{code}", code, value, unit, at, category=category, **more)


def answered(code: str, answer: str, at: str = AT) -> Resource:
    """A presence test or culture: `answer` is a SNOMED CT code."""
    given = observation(f"t{code}", code, "", None, at)
    del given["valueString"]
    return {**given, "valueCodeableConcept": concept(SNOMED, answer)}


DETECTED, NOT_DETECTED, NO_GROWTH, STAPH_AUREUS = "260373001", "260415000", "264868006", "3092008"

PNEUMONIA = condition("c1", "J18.9", onsetDateTime="2026-03-09T10:00:00Z")
ALERT = {
    **{k: v for k, v in observation("avpu", "67775-7", "", None, "2026-03-10T13:00:00Z").items() if k != "valueString"},
    "valueCodeableConcept": concept("http://loinc.org", "LA9340-6"),
}
CONFUSED = {**ALERT, "valueCodeableConcept": concept("http://loinc.org", "LA6560-2")}
RATE, PRESSURE, DIASTOLIC = vital("9279-1", 18, "/min"), vital("8480-6", 128, "mm[Hg]"), vital("8462-4", 76, "mm[Hg]")
PULSE, WARM = vital("8867-4", 88, "/min"), vital("8310-5", 37.4, "Cel")
SATURATION, AIR = vital("59408-5", 96, "%"), vital("3151-8", 0, "L/min")
UREA, CELLS, PLATELETS = lab("3094-0", 14, "mg/dL"), lab("6690-2", 9.1, "10*3/uL"), lab("777-3", 230, "10*3/uL")
WELL = (ALERT, RATE, PRESSURE, DIASTOLIC, PULSE, WARM, SATURATION, AIR, UREA, CELLS, PLATELETS)
"""CURB-65 0 at 45 years, no IDSA/ATS minor criterion, stable in every sign."""


def instead(given: tuple[Resource, ...], *changed: Resource) -> tuple[Resource, ...]:
    """The same resources with those of the same id exchanged."""
    new = {r["id"]: r for r in changed}
    return tuple(new.get(r["id"], r) for r in given)


def without(given: tuple[Resource, ...], *gone: Resource) -> tuple[Resource, ...]:
    return tuple(r for r in given if r not in gone)


def drug(id_: str, rxcui: str, text: str, **more: Any) -> Resource:
    return medication(id_, rxcui, text, "draft", **more)


def at_home(order: Resource) -> Resource:
    return {**order, "category": [concept(CATEGORY, "community")]}


AMOXICILLIN = drug("d1", "723", "amoxicillin 1 g three times daily")
CEFTRIAXONE = drug("d1", "2193", "ceftriaxone 2 g IV")
PREDNISONE = drug("d2", "8640", "prednisone 50 mg daily")
FUROSEMIDE = drug("d3", "4603", "furosemide 40 mg IV")
YOUNG = patient("male", "1981-01-01")
OLD = patient("male", "1944-04-04")


def chart(
    *resources: Resource,
    drafts: tuple[Resource, ...],
    who: Resource = YOUNG,
    visit: Resource | None = None,
    **more: Any,
) -> Chart:
    """By default an inpatient of 45 years with pneumonia since yesterday, about to sign."""
    seen = visit or encounter("IMP", period={"start": "2026-03-09T08:00:00Z"})
    return Chart((who, seen, PNEUMONIA, *resources), drafts, **more)


FILM, PIXELS = film(1, "2026-03-10T11:50:00Z")
OEDEMA = Answers(
    {"finding.pneumonia": (0.08, 0.04, 0.14), "finding.edema": (0.91, 0.86, 0.95)}, modalities=("imaging",)
)
INFECTION = Answers(
    {"finding.pneumonia": (0.92, 0.87, 0.96), "finding.edema": (0.05, 0.02, 0.09)}, modalities=("imaging",)
)


def report(status: str, conclusion: str = "", **more: Any) -> Resource:
    return {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": status,
        "category": [concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD")],
        "code": concept("http://loinc.org", "36643-5"),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-10T12:30:00Z",
        "imagingStudy": [{"reference": "ImagingStudy/study1"}],
        "conclusion": conclusion,
        **more,
    }


def card_of(given: Chart, manifest: Any = None) -> Card:
    (card,) = given.cards(NAME, manifest)
    return card


def rules(given: Chart) -> list[str]:
    """The rule ids of the cards, from their last line."""
    return [(c.detail or "").rsplit("Rule ", 1)[1].split()[0] for c in given.cards(NAME)]


def text(card: Card) -> str:
    return f"{card.summary}\n{card.detail}"
