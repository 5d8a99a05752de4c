"""What surrounds an imaging order in FHIR: its questions, studies with their reports, nodules of structured reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOINC, SNOMED, RADLEX = "http://loinc.org", "http://snomed.info/sct", "http://radlex.org"
UCUM = "http://unitsofmeasure.org"
SUBJECT = {"reference": "Patient/p1"}
ATTENUATION = {"solid": "RID50151", "part_solid": "RID50152", "ground_glass": "RID50153"}
Resource = dict[str, Any]


def coded(system: str, code: str, text: str = "") -> Resource:
    return {"coding": [{"system": system, "code": code}], **({"text": text} if text else {})}


def allergy(id_: str, given: Mapping[str, Any]) -> Resource:
    """An AllergyIntolerance to an ingredient, in the words of the vignettes."""
    system = "http://terminology.hl7.org/CodeSystem/allergyintolerance"
    manifestations = [{"text": words} for words in given.get("reactions", ["reaction"])]
    severity = {"severity": given["severity"]} if "severity" in given else {}
    recorded = {"recordedDate": given["recorded"]} if "recorded" in given else {}
    return {
        "resourceType": "AllergyIntolerance",
        "id": id_,
        "clinicalStatus": coded(f"{system}-clinical", given.get("clinicalStatus", "active")),
        "verificationStatus": coded(f"{system}-verification", given.get("verificationStatus", "confirmed")),
        **({"criticality": given["criticality"]} if "criticality" in given else {}),
        "code": coded("http://www.nlm.nih.gov/research/umls/rxnorm", given["rxcui"], given["text"]),
        "patient": SUBJECT,
        "reaction": [{"manifestation": manifestations, **severity}],
        **recorded,
    }


def form(answers: Mapping[str, bool], id_: str = "q1", **more: Any) -> Resource:
    """The answered order questions."""
    items = [{"linkId": key, "answer": [{"valueBoolean": value}]} for key, value in answers.items()]
    return {
        "resourceType": "QuestionnaireResponse",
        "id": id_,
        "status": "completed",
        "subject": SUBJECT,
        "item": items,
    } | more


def answered(order: Resource, **answers: bool) -> Resource:
    """The order with its questions answered, contained as most order-entry screens send them."""
    return {**order, "contained": [form(answers)], "supportingInfo": [{"reference": "#q1"}]}


def as_asked(order: Resource, draft: Mapping[str, Any]) -> Resource:
    """The order with the answers and the date a vignette gives its draft."""
    if "occurrence" in draft:
        order = {**order, "occurrenceDateTime": draft["occurrence"]}
    return answered(order, **draft["answers"]) if "answers" in draft else order


def study(id_: str, loinc: str, at: str, **more: Any) -> Resource:
    uid = f"2.25.{sum(id_.encode())}"
    return {
        "resourceType": "ImagingStudy",
        "id": id_,
        "status": "available",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
        "procedureCode": [coded(LOINC, loinc)],
        "subject": SUBJECT,
        "started": at,
    } | more


def report(id_: str, loinc: str, at: str, conclusion: str, status: str = "final", **more: Any) -> Resource:
    return {
        "resourceType": "DiagnosticReport",
        "id": id_,
        "status": status,
        "category": [coded("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD")],
        "code": coded(LOINC, loinc),
        "subject": SUBJECT,
        "effectiveDateTime": at,
        "conclusion": conclusion,
    } | more


def nodule(id_: str, at: str, size_mm: float, attenuation: str = "solid", count: int = 1, **more: Any) -> Resource:
    """One nodule of a structured report, coded as the national screening guides code it."""
    size = {"value": size_mm, "unit": "mm", "system": UCUM, "code": "mm"}
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": coded(SNOMED, "427359005" if count == 1 else "445249002"),
        "subject": SUBJECT,
        "effectiveDateTime": at,
        "valueCodeableConcept": coded(RADLEX, ATTENUATION[attenuation]),
        "component": [{"code": coded(SNOMED, "103339001"), "valueQuantity": size}],
    } | more


def findings(number: int, image: Mapping[str, Any]) -> list[Resource]:
    """The structured findings a vignette gives an image."""
    return [
        nodule(f"n{number}{i}", image["at"], f["size_mm"], f["attenuation"].replace("-", "_"), f["count"])
        for i, f in enumerate(image.get("findings", []))
        if f["type"] == "nodule"
    ]
