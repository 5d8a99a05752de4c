"""Four thousand damaged requests over a socket, on every route: always JSON, never a fault of ours, memory bounded.

Goal 5. The seed is printed; the same requests are made in every run.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from contexts import CONTEXTS, bundle, call
from patient_p1 import PATIENT
from served import Served, served
from test_malformed import CANARY, OBSERVATION, damaged

SEED = 20261124
REQUESTS = 4000
GROWTH_MB = 600
FEEDBACK = {
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
            "overrideReason": {"reason": {"code": "c", "system": "s", "display": CANARY}, "userComment": CANARY},
            "outcomeTimestamp": "2026-11-23T09:00:00+01:00",
        },
    ]
}
PATHS = (
    "/cds-services",
    "/cds-services/",
    *["/cds-services/probe"] * 8,
    *["/cds-services/needy"] * 4,
    "/cds-services/nowhere",
    *["/cds-services/probe/feedback"] * 8,
    "/cds-services/nowhere/feedback",
    "/cds-services/%2e%2e/%00",
    "/cds-services/probe?a=%ff&b=" + "x" * 500,
    "/healthz",
    "/readyz",
    "/evidence/" + "A" * 43,
    "/" + CANARY,
    "//" + CANARY + "//probe",
)
METHODS = (*["POST"] * 24, "GET", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW")
TYPES = ("application/json", "application/json", "application/json", "application/fhir+json", "text/plain", "", "a/b;c")
ODD_BODIES: tuple[bytes, ...] = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"7",
    b"[" * 100_000,
    b"{}" * 100_000,
    b'{"a":' * 5000,
    b"\xff\xfe\x00",
    b'"' + b"\xed\xa0\x80" + b'"',
    b'{"a": 1e999}',
    b'{"a": NaN}',
    b'{"hook": 1, "hook": 2}',
    json.dumps("x").encode("utf-16"),
    b"1" * 50_000,
    b"[" + b"{}," * 400_000 + b"{}]",
)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"{self.method} {self.path[:60]} {self.headers} {self.body[:300]!r}"


def made(rng: random.Random) -> Request:
    hook = rng.choice(tuple(CONTEXTS))
    whole = call(hook, prefetch={"labs": bundle(OBSERVATION, OBSERVATION), "patient": PATIENT}, extension={"x": 1})
    path, method = rng.choice(PATHS), rng.choice(METHODS)
    kind = rng.random()
    if kind < 0.75:
        body = damaged(FEEDBACK if "feedback" in path else whole, rng)
    elif kind < 0.9:
        body = rng.choice(ODD_BODIES)
    else:
        body = rng.randbytes(rng.randrange(2000))
    headers = {"Content-Type": rng.choice(TYPES)}
    if rng.random() < 0.1:
        headers["Content-Encoding"] = rng.choice(("gzip", "identity", "br", CANARY))
    if rng.random() < 0.2:
        bearer = rng.choice(("a.b.c", "eyJhbGciOiJub25lIn0.e30.", CANARY))
        headers["Authorization"] = rng.choice(("Bearer ", "Basic ", "bearer")) + bearer
    if rng.random() < 0.1:
        headers["Origin"] = rng.choice(("https://evil.example", "null", "\x7f"))
    if rng.random() < 0.05:
        headers["Expect"] = "100-continue"
    return Request(method, path, headers, body)


def plain_mistakes(rng: random.Random) -> bytes:
    """Bytes that are hardly HTTP."""
    start = rng.choice(
        (
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /cds-services/probe HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST /cds-services/probe HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST /cds-services/probe HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            b"GET /healthz\r\n\r\n",
            b"\r\n\r\n\r\nGET  /healthz  HTTP/1.1\r\n: x\r\n\r\n",
            b"GET /" + b"\xff" * 100 + b" HTTP/1.1\r\n\r\n",
            b"POST http://evil.example/cds-services/probe HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
            b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        )
    )
    return start if rng.random() < 0.5 else start[: rng.randrange(1, len(start))] + rng.randbytes(30) + b"\r\n\r\n"


@pytest.fixture(scope="module", params=["off", "required"])
def house(
    request: Any, services_folder: Path, plugin: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    manifests = {
        p.stem: yaml.safe_load(p.read_text()) for p in services_folder.glob("*.yaml") if p.stem in ("probe", "needy")
    }
    folder = tmp_path_factory.mktemp("wire")
    with served(folder, manifests, jwt=request.param, threads=4, client_points_per_s=100_000) as running:
        yield running


def test_four_thousand_damaged_requests_over_all_routes(house: Served, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    host, port = house.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    before = house.memory_mb()
    house.forget_peak()
    statuses: Counter[int] = Counter()
    for _ in range(REQUESTS):
        request = made(rng)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            answer = connection.getresponse()
        except (http.client.HTTPException, OSError, ValueError) as error:
            connection.close()
            if isinstance(error, ValueError) and not isinstance(error, http.client.HTTPException):
                continue  # the client itself refuses to send this header
            raise AssertionError(f"no answer to {request!r}") from error
        body = answer.read()
        statuses[answer.status] += 1
        assert answer.status < 500 or answer.status == 503, request
        if request.path.startswith("/evidence"):
            continue  # a page for people
        if request.method not in ("HEAD", "OPTIONS"):
            assert answer.getheader("Content-Type") == "application/json", request
            content = json.loads(body)
            if answer.status >= 400:
                assert content["resourceType"] == "OperationOutcome" or request.path == "/readyz", request
                assert CANARY.encode() not in body, request
    peak, kept = house.memory_mb("VmHWM") - before, house.memory_mb() - before
    with capsys.disabled():
        found = ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
        print(f"\n  seed {SEED}: {found}; peak {peak:+.0f} MB, kept {kept:+.0f} MB", end="")
    assert sum(statuses.values()) >= 0.95 * REQUESTS
    assert statuses[200] + statuses[400] + statuses[401] > 1000, "damaged bodies were read"
    assert peak < GROWTH_MB
    assert house.alive()
    assert CANARY not in house.log.read_text()


def test_what_is_hardly_http_is_a_400_in_json_or_a_closed_connection(house: Served) -> None:
    rng = random.Random(SEED)
    host, port = house.url.removeprefix("http://").split(":")
    for _ in range(300):
        text = plain_mistakes(rng)
        with socket.create_connection((host, int(port)), 5) as sock:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        if answer:
            assert answer.startswith(b"HTTP/1."), text
            status = int(answer.split()[1])
            assert status < 500 or status in (501, 503, 505), text
            assert b"Traceback" not in answer
            if b" HEAD" not in text:
                assert b"application/json" in answer, text
    assert house.alive()


def test_after_all_that_an_honest_call_is_answered(house: Served) -> None:
    answer = requests.post(f"{house.url}/cds-services/probe", json=call("patient-view"), timeout=60)
    assert answer.status_code in (200, 401)
    assert answer.headers["Content-Type"] == "application/json"
