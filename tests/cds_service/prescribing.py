"""Charts, cards and manifests of precision-prescribing for its tests; every card's resources are checked as R4."""

from __future__ import annotations

from typing import Any

import msgspec
from genetics import drug_order, gene
from r4 import suggested_resources, validate_r4
from vignettes import Chart, Resource, condition, encounter, observation, service

from cds_service.cards import Card
from cds_service.manifest import Service

NAME = "precision-prescribing"
STENT = condition("stent", "Z95.5")
POOR = gene("CYP2C19", genotype="*2/*2", phenotype="Poor Metabolizer")
CLOPIDOGREL = drug_order("32968", "clopidogrel 75 mg daily")
AZITHROMYCIN = drug_order("18631", "azithromycin 500 mg IV daily")
IBUPROFEN = drug_order("5640", "ibuprofen 400 mg three times daily")
PNEUMONIA = condition("pn", "J18.9")
WEIGHT = observation("w", "29463-7", 80, "kg", "2026-03-09T08:00:00Z")
IN = encounter("IMP")

CAPECITABINE: Resource = {
    **drug_order("194000", "capecitabine"),
    "dosageInstruction": [
        {
            "text": "1800 mg twice daily",
            "timing": {"repeat": {"frequency": 2, "period": 1, "periodUnit": "d"}},
            "doseAndRate": [{"doseQuantity": {"value": 1800, "unit": "mg"}}],
        }
    ],
}


def qtc(value: float, at: str = "2026-03-10T11:00:00Z", id_: str = "q", **more: Any) -> Resource:
    return observation(id_, "8636-3", value, "ms", at, **more)


def lab(code: str, value: float, unit: str = "mmol/L") -> Resource:
    return observation(f"l{code}", code, value, unit, "2026-03-10T11:20:00Z")


def injury(now: float) -> tuple[Resource, Resource]:
    return (
        observation("k1", "2160-0", now, "mg/dL", "2026-03-10T08:00:00Z"),
        observation("k2", "2160-0", 1.0, "mg/dL", "2026-03-07T08:00:00Z"),
    )


def cards(given: Chart, manifest: Service | None = None) -> list[Card]:
    found = given.cards(NAME, manifest)
    assert len(found) <= 1
    for resource in suggested_resources([msgspec.to_builtins(c) for c in found]):
        validate_r4(resource)
    return found


def card_of(given: Chart, manifest: Service | None = None) -> Card:
    (card,) = cards(given, manifest)
    return card


def labels(card: Card) -> list[str]:
    return [s.label for s in card.suggestions]


def actions(card: Card, label: str) -> list[Any]:
    return [msgspec.to_builtins(a) for s in card.suggestions if s.label == label for a in s.actions]


def rxcuis(card: Card) -> set[str]:
    return {
        coding["code"]
        for r in suggested_resources([msgspec.to_builtins(card)])
        if r["resourceType"] == "MedicationRequest"
        for coding in r["medicationCodeableConcept"]["coding"]
    }


def changed(**settings: Any) -> Service:
    manifest = service(NAME)
    return msgspec.structs.replace(manifest, **settings)


def with_rule(name: str, **members: Any) -> Service:
    manifest = service(NAME)
    rule = msgspec.structs.replace(manifest.rules[name], **members)
    return msgspec.structs.replace(manifest, rules={**manifest.rules, name: rule})
