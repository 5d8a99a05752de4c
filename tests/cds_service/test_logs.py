"""Nothing of a request or a record is in a log line or an error, whatever goes wrong."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from contexts import CONTEXTS, bundle, call
from test_server import say, serving

from cds_service.logs import configure_logging
from cds_service.settings import Settings

CANARY = "Zebra7Canary"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything the process logs, at the most talkative level."""
    root = logging.getLogger()
    level = root.level
    stream = io.StringIO()
    handler = configure_logging(stream, "DEBUG")
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def canaries(value: Any) -> Any:
    """The same shape with a canary in every string that is not needed to find the way."""
    if isinstance(value, dict):
        return {k: v if k in ("resourceType", "hook", "hookInstance") else canaries(v) for k, v in value.items()}
    if isinstance(value, list):
        return [canaries(v) for v in value]
    return (
        f"{CANARY}/{CANARY}" if isinstance(value, str) and "/" in value else CANARY if isinstance(value, str) else value
    )


def requests_with_canaries() -> Iterator[tuple[str, dict[str, Any]]]:
    record = {"resourceType": "Observation", "id": CANARY, "valueString": CANARY, "subject": {"reference": CANARY}}
    whole = {
        "fhirServer": f"http://127.0.0.1:9/{CANARY}",
        "fhirAuthorization": {
            "access_token": CANARY,
            "token_type": "Bearer",
            "expires_in": 300,
            "scope": CANARY,
            "subject": CANARY,
        },
        "prefetch": {"labs": bundle(record), "patient": record, "note": {"x": CANARY}, CANARY: None},
        "extension": {CANARY: CANARY},
    }
    for hook in CONTEXTS:
        body = canaries(call(hook))
        yield "/cds-services/probe", {"json": {**body, **whole}}
        yield "/cds-services/probe", {"json": {**body, "context": {**body["context"], "patientId": CANARY + " x"}}}
    sane = {**canaries(call("patient-view")), **whole}
    for path in ("broken", "needy", "slow", "silent", CANARY, f"probe?{CANARY}={CANARY}", f"probe/{CANARY}"):
        yield f"/cds-services/{path}", {"json": sane}
    yield "/cds-services/probe", {"json": {**sane, "hook": CANARY}}
    yield "/cds-services/probe", {"json": {**sane, "hookInstance": f"{CANARY} {CANARY}"}}
    yield "/cds-services/probe", {"json": {**sane, "fhirServer": CANARY}}
    yield "/cds-services/probe", {"json": {**sane, "fhirServer": f"http://[{CANARY}"}}
    yield "/cds-services/probe", {"json": {**sane, "prefetch": CANARY}}
    yield "/cds-services/needy", {"json": {**sane, "prefetch": {CANARY: CANARY}}}
    yield "/cds-services/probe", {"data": CANARY, "headers": {"Content-Type": "application/json"}}
    yield "/cds-services/probe", {"data": CANARY, "headers": {"Content-Type": CANARY}}
    yield "/cds-services/probe", {"data": CANARY * 100_000, "headers": {"Content-Type": "application/json"}}
    yield "/cds-services/probe", {"json": sane, "headers": {"Authorization": f"Bearer {CANARY}", "X-Own": CANARY}}
    item = {"card": CANARY, "outcome": "overridden", "outcomeTimestamp": "2026-11-23T09:00:00Z"}
    for changes in ({"overrideReason": {"userComment": CANARY}}, {"outcome": CANARY}, {"outcomeTimestamp": CANARY}):
        yield "/cds-services/probe/feedback", {"json": {"feedback": [{**item, **changes}]}}


@pytest.mark.parametrize("jwt", ["off", "required"])
def test_no_canary_reaches_a_log_line_or_an_error(
    lines: io.StringIO, make_app: Callable[..., Any], tmp_path: Path, jwt: Any
) -> None:
    shared = {"jwt": jwt, "max_body_bytes": 500_000}
    statuses = []
    with serving(make_app(**shared), Settings(port=0, state_dir=tmp_path, threads=4, **shared)) as server:
        for path, arguments in requests_with_canaries():
            response = requests.post(server.url + path, timeout=10, **arguments)
            statuses.append(response.status_code)
            if response.status_code != 200:
                assert CANARY not in response.text
                assert response.json()["resourceType"] == "OperationOutcome"
    assert set(statuses) == ({200, 400, 404, 412, 413, 415, 500} if jwt == "off" else {401, 404, 413})
    assert CANARY not in lines.getvalue()
    events = {line["event"] for line in parsed(lines)}
    assert {"refused"} <= events
    if jwt == "off":
        assert {"consultation", "feedback", "unexpected error"} <= events


HEAD = f"POST /cds-services/{CANARY}?patient=Patient/{CANARY}"
REFUSED_UNREAD = {
    "a header without a colon": (400, f"{HEAD} HTTP/1.1\r\nPatient/{CANARY}\r\n\r\n"),
    "a header that goes on with none before it": (400, f"{HEAD} HTTP/1.1\r\n Patient/{CANARY}\r\n\r\n"),
    "a header with a control character": (400, f"{HEAD} HTTP/1.1\r\nX: Bearer {CANARY}\x7f\r\n\r\n"),
    "a version that is none": (400, f"{HEAD} HTTP/{CANARY}\r\n\r\n"),
    "a length that is none": (400, f"{HEAD} HTTP/1.1\r\nContent-Length: Patient/{CANARY}\r\n\r\n"),
    "two lengths": (
        400,
        f"{HEAD} HTTP/1.1\r\nContent-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n{CANARY}",
    ),
    "a chunk that is none": (400, f"{HEAD} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{CANARY}\r\n"),
    "a coding nobody knows": (501, f"{HEAD} HTTP/1.1\r\nTransfer-Encoding: {CANARY}\r\n\r\n"),
    "a body beyond all measure": (413, f"{HEAD} HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{CANARY}"),
    "headers without end": (431, f"{HEAD} HTTP/1.1\r\nX: {f'Patient/{CANARY} ' * 4000}"),
}


def test_what_the_server_refuses_before_the_application_sees_it_is_neither_repeated_nor_logged(
    lines: io.StringIO, make_app: Callable[..., Any], tmp_path: Path
) -> None:
    with serving(make_app(), Settings(port=0, jwt="off", state_dir=tmp_path, threads=4)) as server:
        for what, (status, sent) in REFUSED_UNREAD.items():
            answer = say(server.url, sent.encode("latin-1"), 30)
            assert answer.split()[1] == str(status).encode(), what
            assert b"OperationOutcome" in answer, what
            assert CANARY.encode() not in answer, what
    assert CANARY not in lines.getvalue()


def test_a_line_has_its_fields_and_an_error_its_place(lines: io.StringIO) -> None:
    log = logging.getLogger("cds_service.test")
    log.info("event", extra={"fields": {"service": "probe", "ms": {"record": 3}}})
    try:
        int(CANARY)
    except ValueError:
        log.exception("unexpected error")
    first, second = parsed(lines)
    assert (first["level"], first["event"], first["service"], first["ms"]) == ("info", "event", "probe", {"record": 3})
    assert second["error"] == "ValueError"
    assert second["at"][-1].startswith("test_logs.py:")
    assert CANARY not in lines.getvalue()


def test_what_a_library_says_is_reduced_to_its_place(lines: io.StringIO) -> None:
    logging.getLogger("urllib3.connectionpool").error("GET /Patient/%s failed", CANARY)
    (line,) = parsed(lines)
    assert (line["event"], line["logger"]) == ("library", "urllib3.connectionpool")
    assert CANARY not in lines.getvalue()


def test_a_field_that_is_no_json_is_named_by_its_type(lines: io.StringIO) -> None:
    logging.getLogger("cds_service").info("event", extra={"fields": {"odd": {CANARY}}})
    assert parsed(lines)[0]["odd"] == "set"
