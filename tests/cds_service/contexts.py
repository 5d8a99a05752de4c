"""A valid context for each of the ten hooks, and which of its members are required.

Source: HL7/cds-hooks-library, the table of each hook's page.
"""

from __future__ import annotations

import uuid
from typing import Any

SUBJECT = {"reference": "Patient/p1"}
IMAGING = {
    "resourceType": "ServiceRequest",
    "id": "d1",
    "status": "draft",
    "intent": "order",
    "code": {"coding": [{"system": "http://loinc.org", "code": "24627-2"}]},
    "subject": SUBJECT,
}
DRUG = {
    "resourceType": "MedicationRequest",
    "id": "d2",
    "status": "draft",
    "intent": "order",
    "medicationCodeableConcept": {"text": "Metformin 500 mg"},
    "subject": SUBJECT,
}


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in resources]}


CONTEXTS: dict[str, dict[str, Any]] = {
    "patient-view": {"userId": "Practitioner/u1", "patientId": "p1", "encounterId": "e1"},
    "order-select": {
        "userId": "PractitionerRole/u1",
        "patientId": "p1",
        "encounterId": "e1",
        "selections": ["ServiceRequest/d1"],
        "draftOrders": bundle(IMAGING, DRUG),
    },
    "order-sign": {"userId": "Practitioner/u1", "patientId": "p1", "draftOrders": bundle(IMAGING, DRUG)},
    "order-dispatch": {
        "patientId": "p1",
        "dispatchedOrders": ["ServiceRequest/d1"],
        "performer": "Organization/lab",
        "fulfillmentTasks": [{"resourceType": "Task", "status": "draft", "intent": "order", "for": SUBJECT}],
    },
    "appointment-book": {
        "userId": "Patient/p1",
        "patientId": "p1",
        "appointments": bundle(
            {"resourceType": "Appointment", "id": "a1", "status": "proposed", "participant": [{"actor": SUBJECT}]}
        ),
    },
    "encounter-start": {"userId": "Practitioner/u1", "patientId": "p1", "encounterId": "e1"},
    "encounter-discharge": {"userId": "Practitioner/u1", "patientId": "p1", "encounterId": "e1"},
    "medication-refill": {"patientId": "p1", "encounterId": "e1", "medications": bundle(DRUG)},
    "problem-list-item-create": {
        "userId": "Practitioner/u1",
        "patientId": "p1",
        "conditions": bundle({"resourceType": "Condition", "id": "c1", "subject": SUBJECT}),
    },
    "allergyintolerance-create": {
        "userId": "Practitioner/u1",
        "patientId": "p1",
        "allergyIntolerance": {"resourceType": "AllergyIntolerance", "id": "a1", "patient": SUBJECT},
    },
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "patient-view": ("userId", "patientId"),
    "order-select": ("userId", "patientId", "selections", "draftOrders"),
    "order-sign": ("userId", "patientId", "draftOrders"),
    "order-dispatch": ("patientId", "dispatchedOrders", "performer"),
    "appointment-book": ("userId", "patientId", "appointments"),
    "encounter-start": ("userId", "patientId", "encounterId"),
    "encounter-discharge": ("userId", "patientId", "encounterId"),
    "medication-refill": ("patientId", "medications"),
    "problem-list-item-create": ("userId", "patientId", "conditions"),
    "allergyintolerance-create": ("userId", "patientId", "allergyIntolerance"),
}
DRAFTS: dict[str, tuple[str, ...]] = {
    "patient-view": (),
    "order-select": ("ServiceRequest", "MedicationRequest"),
    "order-sign": ("ServiceRequest", "MedicationRequest"),
    "order-dispatch": ("Task",),
    "appointment-book": ("Appointment",),
    "encounter-start": (),
    "encounter-discharge": (),
    "medication-refill": ("MedicationRequest",),
    "problem-list-item-create": ("Condition",),
    "allergyintolerance-create": ("AllergyIntolerance",),
}


def own_event(hook: str, /, user: str = "", **members: Any) -> dict[str, Any]:
    """A valid call by a user who makes no other: calls of one user for one patient and hook are one event."""
    user = user or str(uuid.uuid4())
    context = {**CONTEXTS[hook], "userId": f"Practitioner/{user}"}
    return call(hook, **{"hookInstance": user, "context": context, **members})


def call(hook: str, /, **members: Any) -> dict[str, Any]:
    """A valid call of the hook; `members` replace or add to its envelope."""
    return {
        "hook": hook,
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": CONTEXTS[hook],
        **members,
    }
