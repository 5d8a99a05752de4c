"""What is refused over HTTP, and how; and which browsers may read it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contexts import call
from flask.testing import FlaskClient
from outcomes import CANARY, outcome

from cds_service.errors import operation_outcome, service_error
from cds_service.settings import SettingsError
from models.serving import EngineBusy, EngineTimeout

ORIGIN = "https://ehr.example.org"


@pytest.fixture
def client(make_app: Callable[..., Any]) -> FlaskClient:
    made: FlaskClient = make_app(cors_origins=(ORIGIN,)).test_client()
    return made


@pytest.mark.parametrize("id_", ["nope", "Probe", "..%2f..%2fetc%2fpasswd", CANARY, "%00", "probe%0a"])
def test_an_unknown_service_is_404(client: FlaskClient, id_: str) -> None:
    assert outcome(client.post(f"/cds-services/{id_}", json=call("patient-view")), 404)["code"] == "not-found"


@pytest.mark.parametrize("path", ["/", "/cds-discovery", "/.well-known/cds-services", "/cds/probe", "/static/x"])
def test_every_other_address_is_404(client: FlaskClient, path: str) -> None:
    outcome(client.get(path), 404)
    outcome(client.post(path, json={}), 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/cds-services", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/cds-services/probe", {"OPTIONS", "POST"}),
        ("PUT", "/cds-services/probe", {"OPTIONS", "POST"}),
        ("DELETE", "/cds-services/probe/feedback", {"OPTIONS", "POST"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_405_and_says_which_are_right(
    client: FlaskClient, method: str, path: str, allow: set[str]
) -> None:
    response = client.open(path, method=method, json={})
    outcome(response, 405)
    assert set(response.headers["Allow"].split(", ")) == allow


@pytest.mark.parametrize("path", ["/cds-services//probe", "/cds-services/probe/", "/cds-services///probe//"])
def test_slashes_too_many_do_no_harm(client: FlaskClient, path: str) -> None:
    """A slash typed after the base URL in the sandbox gives `//probe`; a redirect would lose the body."""
    assert client.post(path, json=call("patient-view")).status_code == 200
    assert client.get("/cds-services/").status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "application/x-www-form-urlencoded", "", "application/json; charset=utf-16"],
)
def test_another_media_type_is_415(client: FlaskClient, content_type: str) -> None:
    body = json.dumps(call("patient-view"))
    outcome(client.post("/cds-services/probe", data=body, content_type=content_type), 415)
    outcome(client.post("/cds-services/probe/feedback", data=body, content_type=content_type), 415)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=UTF-8", "APPLICATION/JSON;charset=utf-8", "application/fhir+json"],
)
def test_json_in_utf8_is_read_however_it_is_spelled(client: FlaskClient, content_type: str) -> None:
    body = json.dumps(call("patient-view"))
    assert client.post("/cds-services/probe", data=body, content_type=content_type).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
def test_a_packed_body_is_415_before_it_is_unpacked(client: FlaskClient, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    outcome(client.post("/cds-services/probe", json=call("patient-view"), headers=headers), 415)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"7", b'"' + CANARY.encode() + b'"', b"[" * 100_000, b"\xff\xfe", b'{"a": NaN}', b"{}"],
)
def test_what_is_no_call_is_400_in_our_own_words(client: FlaskClient, body: bytes) -> None:
    """A peer answers 422 with the framework's text, which repeats the request."""
    for path in ("/cds-services/probe", "/cds-services/probe/feedback"):
        outcome(client.post(path, data=body, content_type="application/json"), 400)


def test_a_bug_of_ours_is_500_with_the_hook_instance_and_nothing_else(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = call("patient-view", context={"userId": CANARY, "patientId": CANARY}, prefetch={"note": {"x": CANARY}})
    with caplog.at_level(logging.INFO):
        issue = outcome(client.post("/cds-services/broken", json=body), 500)
    assert body["hookInstance"] in issue["diagnostics"]
    record = next(r for r in caplog.records if r.getMessage() == "unexpected error")
    assert record.exc_info is not None


# CORS


def test_a_browser_at_an_allowed_origin_may_ask_first_and_read_errors(client: FlaskClient) -> None:
    asks = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    for path in ("/cds-services", "/cds-services/probe", "/cds-services/probe/feedback"):
        response = client.options(path, headers=asks)
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert {"authorization", "content-type"} <= set(response.headers["Access-Control-Allow-Headers"].split(", "))
        assert {"GET", "POST"} <= set(response.headers["Access-Control-Allow-Methods"].split(", "))
    for response in (
        client.get("/cds-services", headers={"Origin": ORIGIN}),
        client.get("/nowhere", headers={"Origin": ORIGIN}),
        client.post("/cds-services/probe", data=b"{", content_type="application/json", headers={"Origin": ORIGIN}),
        client.put("/cds-services/probe", headers={"Origin": ORIGIN}),
    ):
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert response.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://ehr.example.org.evil.example", ""])
def test_another_origin_is_not_reflected(client: FlaskClient, origin: str) -> None:
    """A peer reflects any origin, with credentials."""
    for response in (client.get("/cds-services", headers={"Origin": origin}), client.options("/cds-services/probe")):
        assert not any(name.startswith("Access-Control") for name, _ in response.headers)
        assert response.headers["Vary"] == "Origin"


def test_a_body_that_ends_early_is_400(client: FlaskClient) -> None:
    body = json.dumps(call("patient-view")).encode()
    environ = {"CONTENT_LENGTH": str(len(body) + 10)}
    path = "/cds-services/probe"
    outcome(client.post(path, data=body, content_type="application/json", environ_overrides=environ), 400)


@pytest.mark.parametrize("error", [EngineBusy(CANARY), EngineTimeout(CANARY)])
def test_a_model_without_room_or_time_is_503_with_a_time_to_come_back(error: Exception) -> None:
    face = service_error(error)
    assert (face.status, face.retry_after_s) == (503, 1)
    assert CANARY.encode() not in operation_outcome(face)


def test_a_state_folder_that_cannot_be_written_stops_the_start(make_app: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="ORDERSIGHT_STATE_DIR"):
        make_app(state_dir=tmp_path / "file" / "state")
