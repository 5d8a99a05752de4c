"""What every refusal of ours has, and what none may have."""

from __future__ import annotations

from typing import Any

CANARY = "Zebra7Canary"


def outcome(response: Any, status: int) -> dict[str, Any]:
    """The first issue of a refusal, after checking what every refusal has."""
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    body = response.get_json()
    assert body["resourceType"] == "OperationOutcome"
    assert CANARY not in response.get_data(as_text=True)
    assert "Traceback" not in response.get_data(as_text=True)
    issue: dict[str, Any] = body["issue"][0]
    assert issue["severity"] == "error"
    return issue
