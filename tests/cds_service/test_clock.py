"""Whose clock counts: a caller's may be a minute off, and no deadline looks at the time of day (goal 38)."""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from callers import ISSUER, Caller
from contexts import call
from moody import Moody, hang
from reading import LABS, SLACK_S, always, read

from cds_service.admission import Admission
from cds_service.breaker import Breakers
from cds_service.deadline import Deadline
from cds_service.fhir_client import FhirClient
from cds_service.pace import Pace
from cds_service.trust.clients import Client, Clients, FhirServer

pytestmark = pytest.mark.in_time

ROOT = Path(__file__).resolve().parents[2]
BASE = "https://cds.example.org"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def ask(make_app: Callable[..., Any], tmp_path: Path) -> Callable[..., int]:
    """Call with a token of a caller whose clock is so many seconds off, while ours stands at noon."""
    caller = Caller("ES384")
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [caller.jwk()]}))
    clients = Clients([Client("ehr", (), issuer=ISSUER, jwks_file=str(keys), audience=BASE)])
    client = make_app(clients, clock=lambda: NOON, jwt="required", base_url=BASE).test_client()

    def ask(off_s: float, lives_s: float = 300) -> int:
        at = int(NOON.timestamp() + off_s)
        token = caller.token(f"{BASE}/cds-services/probe", at, exp=at + int(lives_s))
        headers = {"Authorization": f"Bearer {token}"}
        status: int = client.post("/cds-services/probe", json=call("patient-view"), headers=headers).status_code
        return status

    return ask


@pytest.mark.parametrize("off_s", [-60, -30, 0, 30, 60])
def test_a_callers_clock_may_be_a_minute_off(ask: Callable[..., int], off_s: float) -> None:
    assert ask(off_s) == 200
    assert ask(off_s, lives_s=max(5, -off_s)) == 200, "also where the token lives no longer than it is off"


@pytest.mark.parametrize("off_s", [-600, 600])
def test_a_callers_clock_ten_minutes_off_is_refused(ask: Callable[..., int], off_s: float) -> None:
    assert ask(off_s) == 401


TIMED = ("admission", "breaker", "consult", "deadline", "decode_worker", "decoding", "evidence", "fhir_client", "lanes")
ALSO_TIMED = ("pace", "server", "thinking", "transport")


@pytest.mark.parametrize("module", [*TIMED, *ALSO_TIMED])
def test_no_module_that_keeps_time_reads_the_time_of_day(module: str) -> None:
    tree = ast.parse((ROOT / "cds_service" / f"{module}.py").read_text())
    named = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not named & {"time.time", "datetime.now", "datetime.utcnow", "datetime.today", "time.time_ns"}


@pytest.fixture
def mad_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day jumps by hours, back and forth, at every look."""
    true, looks = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: true() + 3600.0 * (-1) ** next(looks))


def test_a_read_ends_at_its_deadline_while_the_time_of_day_jumps(mad_clock: None, fhir_client: FhirClient) -> None:
    assert abs(time.time() - time.time()) > 3000
    with Moody(always(hang)) as server:
        began = time.monotonic()
        read(fhir_client, server, LABS, Deadline.after(0.4))
        assert 0.4 <= time.monotonic() - began < 0.4 + SLACK_S


def test_a_call_is_answered_within_its_budget_while_the_time_of_day_jumps(
    mad_clock: None, make_app: Callable[..., Any]
) -> None:
    with Moody(always(hang)) as server:
        client = make_app(Clients([Client("h", (FhirServer(server.base),))])).test_client()
        began = time.monotonic()
        answer = client.post("/cds-services/probe", json=call("patient-view", fhirServer=server.base))
        assert answer.status_code == 200
        # The service of the tests has 3 s, 150 ms of them for thinking.
        assert 2.7 < time.monotonic() - began < 3.0 + SLACK_S


def test_breaker_pace_and_admission_run_on_the_monotonic_clock(mad_clock: None) -> None:
    breaker = Breakers().of("t", "fhir", "b")
    for _ in range(8):
        permit = breaker.allow()
        assert permit is not None
        permit.ended(good=False)
    assert breaker.state == "open"
    pace = Pace()
    pace.note(1.0)
    assert pace.mean() == 1.0
    admission = Admission(1, points_per_s=1.0)
    with admission.call("t", "patient-view", Deadline.after(1)):
        pass
    assert admission.in_flight() == {}
