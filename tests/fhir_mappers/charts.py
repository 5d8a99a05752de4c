"""A chart with one resource of every type that is read."""

from __future__ import annotations

from typing import Any

from fhir_mappers.codes import ICD10CM, LOINC, RXNORM, UCUM

SUBJECT = {"reference": "Patient/p1"}


def lab(id_: str, value: float = 1.0, at: str = "2026-03-10T06:00:00Z", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "2160-0"}]},
        "subject": SUBJECT,
        "effectiveDateTime": at,
        "valueQuantity": {"value": value, "unit": "mg/dL", "system": UCUM, "code": "mg/dL"},
    } | more


PATIENT = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1960-01-01"}
CHART: list[dict[str, Any]] = [  # one of every type that is read
    PATIENT,
    lab("o1", 2.6),
    lab("o2", 2.5, "2026-03-08T06:00:00Z"),
    lab("o3", 1.4, "2026-03-01"),
    {
        "resourceType": "Condition",
        "id": "c1",
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "code": {"coding": [{"system": ICD10CM, "code": "E11.9"}]},
        "subject": SUBJECT,
    },
    {
        "resourceType": "MedicationRequest",
        "id": "m1",
        "status": "active",
        "intent": "order",
        "medicationReference": {"reference": "Medication/drug"},
        "subject": SUBJECT,
    },
    {"resourceType": "Medication", "id": "drug", "code": {"coding": [{"system": RXNORM, "code": "6809"}]}},
    {
        "resourceType": "AllergyIntolerance",
        "id": "a1",
        "code": {"coding": [{"system": RXNORM, "code": "5956"}]},
        "patient": SUBJECT,
    },
    {"resourceType": "Encounter", "id": "e1", "status": "in-progress", "class": {"code": "IMP"}, "subject": SUBJECT},
    {
        "resourceType": "Observation",
        "id": "g1",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "69548-6"}]},
        "subject": SUBJECT,
        "component": [
            {
                "code": {"coding": [{"system": LOINC, "code": "48018-6"}]},
                "valueCodeableConcept": {
                    "coding": [{"system": "http://www.genenames.org/geneId", "code": "HGNC:3236"}]
                },
            },
            {"code": {"coding": [{"system": LOINC, "code": "48005-3"}]}, "valueString": "p.L858R"},
        ],
    },
    {
        "resourceType": "Observation",
        "id": "g2",
        "status": "final",
        "code": {
            "coding": [
                {
                    "system": "http://hl7.org/fhir/uv/genomics-reporting/CodeSystem/tbd-codes-cs",
                    "code": "diagnostic-implication",
                }
            ]
        },
        "subject": SUBJECT,
        "derivedFrom": [{"reference": "Observation/g1"}],
        "component": [
            {
                "code": {"coding": [{"system": LOINC, "code": "53037-8"}]},
                "valueCodeableConcept": {"coding": [{"system": LOINC, "code": "LA6668-3"}]},
            }
        ],
    },
    {
        "resourceType": "ImagingStudy",
        "id": "s1",
        "status": "available",
        "subject": SUBJECT,
        "started": "2026-03-10T08:00:00Z",
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
        "series": [{"uid": "1.2.3.1", "modality": {"code": "CR"}, "instance": [{"uid": "1.2.3.1.1"}]}],
        "endpoint": [{"reference": "Endpoint/pacs"}],
    },
    {"resourceType": "Endpoint", "id": "pacs", "status": "active", "address": "https://pacs.example/rs"},
    {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": "final",
        "category": [{"coding": [{"code": "RAD"}]}],
        "subject": SUBJECT,
        "conclusion": "x",
    },
    {
        "resourceType": "Procedure",
        "id": "x1",
        "status": "completed",
        "code": {"coding": [{"system": ICD10CM, "code": "Z99.2"}]},
        "subject": SUBJECT,
    },
    {
        "resourceType": "ServiceRequest",
        "id": "q1",
        "status": "active",
        "intent": "order",
        "code": {"coding": [{"system": LOINC, "code": "24628-0"}]},
        "subject": SUBJECT,
    },
]
