"""Genomic Observations as HL7's guide shapes them, piece by piece."""

from __future__ import annotations

from typing import Any

LOINC = "http://loinc.org"
HGNC = "http://www.genenames.org/geneId"
GERMLINE, SOMATIC = (LOINC, "LA6683-2"), (LOINC, "LA6684-0")


def concept(*codes: tuple[str, str]) -> dict[str, Any]:
    return {"coding": [{"system": s, "code": c} for s, c in codes]}


def part(code: str, *answers: tuple[str, str], **value: Any) -> dict[str, Any]:
    return {"code": concept((LOINC, code))} | (value or {"valueCodeableConcept": concept(*answers)})


def observation(
    code: str, *components: dict[str, Any], answer: tuple[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    base: dict[str, Any] = {
        "resourceType": "Observation",
        "id": "g1",
        "status": "final",
        "code": concept((LOINC, code)),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-02",
        "component": list(components),
    }
    if answer:
        base["valueCodeableConcept"] = concept(answer)
    return base | more
