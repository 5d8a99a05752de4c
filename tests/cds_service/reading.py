"""Requests, clients and resources for the tests that read from moody servers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import wait
from datetime import UTC, datetime
from typing import Any, TypeVar

import contexts
from moody import Mood, Moody, Seen

from cds_service.deadline import Deadline
from cds_service.fhir_client import FhirClient
from cds_service.hooks import HookRequest, parse_hook_request
from cds_service.prefetch import Answer, Failed
from cds_service.trust.clients import Client, FhirServer

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TOKEN = "eyJ0b2tlbi.canary-7f3a_x~y+z/0="
SLACK_S = 0.35
"""What a busy machine with two cores may add to a deadline before a test fails."""

T = TypeVar("T")


def call_of(server: str | None, prefetch: dict[str, Any] | None = None, *, token: str | None = TOKEN) -> HookRequest:
    """A patient-view call of patient p1 that names a FHIR server."""
    body = contexts.call("patient-view", prefetch=prefetch or {})
    if server is not None:
        body["fhirServer"] = server
        if token is not None:
            body["fhirAuthorization"] = {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": 300,
                "scope": "patient/*.read",
                "subject": "ordersight",
            }
    return parse_hook_request(json.dumps(body).encode(), NOON)


def client_of(*servers: Moody, dicomweb: tuple[str, ...] = ()) -> Client:
    return Client("hospital", tuple(FhirServer(server.base, dicomweb) for server in servers))


def always(mood: Mood) -> Callable[[Seen], Mood]:
    return lambda seen: mood


def in_turn(*moods: Mood) -> Callable[[Seen], Mood]:
    """The first request meets the first mood; the last mood stays."""
    left = list(moods)
    return lambda seen: left.pop(0) if len(left) > 1 else left[0]


def bundle(*resources: dict[str, Any], next_link: str | None = None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "resourceType": "Bundle",
        "type": "searchset",
        "entry": [{"resource": r} for r in resources],
    }
    if next_link is not None:
        data["link"] = [{"relation": "next", "url": next_link}]
    return data


def observation(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "subject": {"reference": "Patient/p1"},
    }


def timed(action: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    result = action()
    return result, time.monotonic() - started


def soon(seconds: float = 5.0) -> Deadline:
    return Deadline.after(seconds)


LABS = "Observation?patient=p1&code=http://loinc.org%7C2160-0"
FIRST = observation(1)


def read(client: FhirClient, server: Moody, query: str = LABS, deadline: Deadline | None = None) -> Answer:
    """Read as `gather` does: wait until the deadline at most, then end what still runs."""
    deadline = deadline or soon()
    reads = client.for_request(call_of(server.base), client_of(server))
    future = reads.read(query, "Observation", deadline)
    done, _ = wait([future], deadline.remaining())
    reads.abandon()
    return future.result() if done else Failed("timeout")
