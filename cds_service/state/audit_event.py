"""An audit row as a FHIR R4 AuditEvent, for the audit repository of the hospital (IHE ATNA).

Patient, user and resources are named by their keyed hashes: whoever holds the secret can tell which, nobody else.
Code systems: https://hl7.org/fhir/R4/auditevent.html
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
KEYED = "urn:ordersight:keyed-hash"
ROW_TAG = "urn:ordersight:audit-row"
"""A server that makes the resource gives it an id of its own; the tag is what it is known by."""
KIND = "urn:ordersight:audit-kind"
PERSON, SYSTEM_OBJECT = "1", "2"
PATIENT_ROLE, JOB_ROLE = "1", "20"


def audit_event(row: Mapping[str, Any]) -> dict[str, Any]:
    """The AuditEvent of one row; its id is the row's, so that delivering it twice leaves one."""
    details = {
        "tenant": row["tenant"],
        "seq": str(row["seq"]),
        "hash": row["hash"],
        "previous": row["previous"],
        "hook-instance": row["hook_instance"],
        "service-version": row["service_version"],
        "config-digest": row["config_digest"],
        "model": row["model"],
        "model-digest": row["model_digest"],
        "decisions": row["decisions"],
        "cards": row["cards"],
        "milliseconds": row["ms"],
        "details": row["details"],
    }
    entities = [
        {
            "what": {"display": row["service"] or "installation"},
            "type": _coding("audit-entity-type", SYSTEM_OBJECT),
            "role": _coding("object-role", JOB_ROLE),
            "detail": [{"type": name, "valueString": v} for name, v in details.items() if v not in ("", "[]", "{}")],
        }
    ]
    if row["patient_key"]:
        entities.append(
            {
                "what": _keyed(row["patient_key"]),
                "type": _coding("audit-entity-type", PERSON),
                "role": _coding("object-role", PATIENT_ROLE),
            }
        )
    entities += [
        {"what": _keyed(key), "type": _coding("audit-entity-type", SYSTEM_OBJECT)}
        for key in orjson.loads(row["inputs"])
    ]
    agents = [{"who": {"display": row["tenant"] or "installation"}, "requestor": not row["user_key"]}]
    if row["user_key"]:
        agents.insert(0, {"who": _keyed(row["user_key"]), "requestor": True})
    at: datetime = row["at"]
    return {
        "resourceType": "AuditEvent",
        "id": row["id"],
        "meta": {"tag": [{"system": ROW_TAG, "code": row["id"]}]},
        "type": _coding("audit-event-type", "rest" if row["kind"] in ("answer", "feedback") else "object"),
        "subtype": [{"system": KIND, "code": row["hook"] or row["kind"]}],
        "action": "E",
        "recorded": at.isoformat(timespec="milliseconds"),
        "outcome": _outcome(row["status"]),
        "agent": agents,
        "source": {"observer": {"display": "ordersight"}},
        "entity": entities,
    }


def _outcome(status: int) -> str:
    """0 success, 4 minor failure (the call's own fault), 8 serious failure (ours)."""
    return "8" if status >= 500 else "4" if status >= 400 else "0"


def _coding(system: str, code: str) -> dict[str, str]:
    return {"system": f"{TERMINOLOGY}/{system}", "code": code}


def _keyed(key: str) -> dict[str, Any]:
    return {"identifier": {"system": KEYED, "value": key}}
