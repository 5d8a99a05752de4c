"""The caller's JWT and the FHIR access token are two, and neither is taken for the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from callers import ISSUER, Caller, key_server
from contexts import call

from cds_service.trust.clients import Client, Clients, FhirServer

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
EMPTY = {"resourceType": "Bundle", "type": "searchset", "total": 0}


def test_the_fhir_server_gets_the_access_token_and_nobody_gets_the_jwt(
    make_app: Callable[..., Any], tmp_path: Path
) -> None:
    caller = Caller()
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [caller.jwk()]}))
    sent: list[str | None] = []

    def fhir(handler: Any) -> None:
        sent.append(handler.headers.get("Authorization"))
        body = json.dumps({"resourceType": "Patient", "id": "p1"} if "/Patient/" in handler.path else EMPTY).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/fhir+json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with key_server(fhir, "/fhir") as (base, asked):
        client = Client("general", (FhirServer(base),), issuer=ISSUER, jwks_file=str(keys))
        app = make_app(jwt="required", base_url="https://cds.example.org", clients=Clients([client]), clock=lambda: NOW)
        token = caller.token("https://cds.example.org/cds-services/needy", NOW.timestamp())
        authorization = {
            "access_token": "fhir-token",
            "token_type": "bearer",
            "expires_in": 300,
            "scope": "patient/*.rs",
            "subject": "ordersight",
        }
        body = call("patient-view", fhirServer=base, fhirAuthorization=authorization)
        headers = {"Authorization": f"Bearer {token}"}
        response = app.test_client().post("/cds-services/needy", json=body, headers=headers)
    assert response.status_code == 200
    assert sorted(path.partition("?")[0] for path in asked) == ["/fhir/Observation", "/fhir/Patient/p1"]
    assert sent == ["Bearer fhir-token"] * 2
