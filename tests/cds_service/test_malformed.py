"""A thousand damaged calls: each is answered, none with a fault of ours, none with a word of the request."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from contexts import CONTEXTS, bundle, call

CANARY = "Zebra7Canary"
SEED = 20261123
ODD: list[Any] = [
    None,
    "",
    0,
    -1,
    1.5,
    True,
    [],
    {},
    [None],
    [[]],
    [{}],
    {"": None},
    "\u0000",
    "\u202e",
    "x" * 5000,
    "../../Patient/2",
    "Patient/p2",
    {"resourceType": 7},
    {"resourceType": "Bundle", "entry": 7},
    {"resourceType": "Bundle", "entry": [{"resource": []}]},
    {"resourceType": "OperationOutcome"},
    2**53,
    10**30,
    "2026-13-45",
    [CANARY] * 3,
    {CANARY: {CANARY: [CANARY]}},
]
OBSERVATION = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "category": [
        {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
    ],
    "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0"}], "text": CANARY},
    "subject": {"reference": "Patient/p1"},
    "effectiveDateTime": "2026-11-20T08:00:00Z",
    "valueQuantity": {"value": 1.1, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"},
}
PATIENT = {"resourceType": "Patient", "id": "p1", "birthDate": "1950-02-03", "gender": "female"}


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value that holds another."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, child in inner:
        found.append((*at, key))
        found += places(child, (*at, key))
    return found


def damaged(body: dict[str, Any], rng: random.Random) -> bytes:
    body = copy.deepcopy(body)
    for _ in range(rng.randint(1, 3)):
        found = places(body)
        if not found:
            break
        *way, last = rng.choice(found)
        holder: Any = body
        for step in way:
            holder = holder[step]
        if rng.random() < 0.25:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(body).encode()
    if rng.random() < 0.2:
        cut = rng.randrange(len(text))
        text = (
            text[:cut] + bytes(rng.randrange(256) for _ in range(rng.randint(0, 3))) + text[cut + rng.randint(0, 3) :]
        )
    return text


@pytest.mark.parametrize("hook", CONTEXTS)
def test_damaged_calls_are_answered_without_a_fault_of_ours(make_app: Callable[..., Any], hook: str) -> None:
    rng = random.Random(f"{SEED} {hook}")
    client = make_app().test_client()
    prefetch = {"labs": bundle(OBSERVATION, OBSERVATION), "patient": PATIENT}
    whole = call(hook, prefetch=prefetch, extension={"x": 1})
    statuses = []
    for _ in range(100):
        text = damaged(whole, rng)
        response = client.post("/cds-services/probe", data=text, content_type="application/json")
        assert response.status_code in (200, 400), text
        if response.status_code == 400:
            assert response.get_json()["resourceType"] == "OperationOutcome"
            assert CANARY not in response.get_data(as_text=True)
        statuses.append(response.status_code)
    assert {200, 400} == set(statuses)


def test_damaged_feedback_is_answered_without_a_fault_of_ours(make_app: Callable[..., Any]) -> None:
    rng = random.Random(SEED)
    client = make_app().test_client()
    reason = {"reason": {"code": "c", "system": "s", "display": CANARY}, "userComment": CANARY}
    whole = {
        "feedback": [
            {
                "card": "c1",
                "outcome": "accepted",
                "acceptedSuggestions": [{"id": "s1"}],
                "outcomeTimestamp": "2026-11-23T09:00:00Z",
            },
            {
                "card": "c2",
                "outcome": "overridden",
                "overrideReason": reason,
                "outcomeTimestamp": "2026-11-23T09:00:00+01:00",
            },
        ]
    }
    for _ in range(300):
        text = damaged(whole, rng)
        response = client.post("/cds-services/probe/feedback", data=text, content_type="application/json")
        assert response.status_code in (200, 400), text
        assert CANARY not in response.get_data(as_text=True)
