"""Charts of patients on a ward: vital signs, infection, antibiotics, and a discharge that is planned."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from vignettes import (
    RXNORM,
    SUBJECT,
    Chart,
    Resource,
    concept,
    condition,
    encounter,
    imaging_order,
    medication,
    observation,
    patient,
    service,
)

from cds_service.cards import Card
from cds_service.manifest import Service

NAME = "deterioration"
NOW, AT = "2026-03-10T14:00:00Z", "2026-03-10T13:40:00Z"
SNOMED = "http://snomed.info/sct"
DIAGNOSTIC = "http://terminology.hl7.org/CodeSystem/v2-0074"
CODES: dict[str, tuple[str, str | None]] = {
    "rr": ("9279-1", "/min"),
    "spo2": ("59408-5", "%"),
    "o2": ("3151-8", "L/min"),
    "sbp": ("8480-6", "mm[Hg]"),
    "dbp": ("8462-4", "mm[Hg]"),
    "map": ("8478-0", "mm[Hg]"),
    "hr": ("8867-4", "/min"),
    "temp": ("8310-5", "Cel"),
    "avpu": ("67775-7", None),
}
NORMAL: dict[str, Any] = {"rr": 16, "spo2": 97, "o2": 0, "sbp": 120, "hr": 70, "temp": 37.0, "avpu": "Alert"}
"""NEWS2 of 0 (RCP 2017, chart 1)."""


def vitals(at: str = AT, **changed: Any) -> tuple[Resource, ...]:
    """One set of vital signs, normal but for `changed`; None leaves an item out."""
    category = [concept("http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs")]
    return tuple(
        observation(f"v-{name}-{at[8:16]}", CODES[name][0], value, CODES[name][1], at, category=category)
        for name, value in {**NORMAL, **changed}.items()
        if value is not None
    )


def lab(code: str, value: float, unit: str, at: str = "2026-03-10T13:00:00Z", id_: str = "", **more: Any) -> Resource:
    category = [concept("http://terminology.hl7.org/CodeSystem/observation-category", "laboratory")]
    return observation(id_ or f"l{code}", code, value, unit, at, category=category, **more)


def dose(rxcui: str = "2193", text: str = "ceftriaxone 2 g IV", at: str = "2026-03-10T09:00:00Z") -> Resource:
    """A MedicationAdministration; 2193 is ceftriaxone (RxNorm)."""
    return {
        "resourceType": "MedicationAdministration",
        "id": "given1",
        "status": "completed",
        "medicationCodeableConcept": concept(RXNORM, rxcui, text),
        "subject": SUBJECT,
        "effectiveDateTime": at,
    }


def antibiotic(at: str | None = "2026-03-10T09:00:00Z", **more: Any) -> Resource:
    return medication("abx", "2193", "ceftriaxone 2 g daily", **({"authoredOn": at} if at else {}), **more)


def ordered(loinc: str, at: str = "2026-03-09T20:00:00Z", text: str = "", **more: Any) -> Resource:
    return imaging_order(f"sr{loinc}", loinc, text or loinc, authoredOn=at, **{"status": "active", **more})


def report(code: str, status: str, at: str, id_: str, section: str = "LAB", **more: Any) -> Resource:
    return {
        "resourceType": "DiagnosticReport",
        "id": id_,
        "status": status,
        "category": [concept(DIAGNOSTIC, section)],
        "code": concept("http://loinc.org", code),
        "subject": SUBJECT,
        "effectiveDateTime": at,
        **more,
    }


WOMAN = patient("female", "1961-07-07")
PNEUMONIA = condition("c1", "J18.9", onsetDateTime="2026-03-09T10:00:00Z")
LACTATE = lab("2524-7", 3.1, "mmol/L")
HOME = imaging_order("out", "0", "Discharge to home", code=concept(SNOMED, "306689006", "Discharge to home"))


def chart(*resources: Resource, who: Resource = WOMAN, visit: Resource | None = None, **more: Any) -> Chart:
    """An inpatient whose chart is opened."""
    given = (who, visit or encounter("IMP", period={"start": "2026-03-08T08:00:00Z"}), *resources)
    return Chart(given, **{"hook": "patient-view", "now": NOW, **more})


def discharge(*resources: Resource, **more: Any) -> Chart:
    """The same patient about to be discharged."""
    return chart(*resources, **{"hook": "encounter-discharge", **more})


def site(**settings: Any) -> Service:
    """The manifest with a site's own settings."""
    manifest = service(NAME)
    return msgspec.structs.replace(manifest, settings={**manifest.settings, **settings})


def card_of(given: Chart, manifest: Service | None = None) -> Card:
    (card,) = given.cards(NAME, manifest)
    return card


def rules(given: Chart, manifest: Service | None = None) -> tuple[str, ...]:
    """The rules on the card, () where none comes."""
    cards = given.cards(NAME, manifest)
    assert len(cards) <= 1
    return cards[0].basis.rules if cards and cards[0].basis is not None else ()


def text(card: Card) -> str:
    return f"{card.summary}\n{card.detail}"


def made(card: Card) -> list[Resource]:
    """The resources that the card's suggestions create."""
    return [msgspec.to_builtins(a)["resource"] for s in card.suggestions for a in s.actions]


def codes(card: Card) -> list[str]:
    return [r["code"]["coding"][0]["code"] for r in made(card)]


def reversed_(given: Chart) -> Chart:
    return dataclasses.replace(given, resources=tuple(reversed(given.resources)))
