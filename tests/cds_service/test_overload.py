"""More calls than there is room for, and a neighbour whose FHIR server hangs."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from contexts import own_event
from moody import Moody, hang, later, reply
from patient_p1 import PATIENT
from reading import always, bundle, observation
from served import Served, served

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from load import HOOK_INSTANCE, Plan, Sample, finish, quantile, start

pytestmark = pytest.mark.in_time

BUDGET_S = 0.5
ROUNDS = 4
LABS = {"search": "Observation?category=laboratory"}
MANIFEST: dict[str, Any] = {
    "hooks": ["patient-view"],
    "advice": "probe",
    "evidence": {"patient": {"read": "Patient/{{context.patientId}}"}, "labs": LABS},
    "budget_ms": {"patient-view": int(BUDGET_S * 1000)},
}
SENT = own_event(
    "patient-view",
    HOOK_INSTANCE,
    prefetch={"patient": PATIENT, "labs": bundle(*(observation(n) for n in range(40)))},
)


@pytest.fixture
def house(plugin: Path, tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, {"probe": MANIFEST}, threads=16, client_points_per_s=100_000) as running:
        yield running


def load(house: Served, callers: int, seconds: float, body: dict[str, Any] = SENT, **more: Any) -> Any:
    return start(Plan(house.url, "/cds-services/probe", [json.dumps(body)], callers, seconds, **more))


def p50_ms(samples: list[Sample]) -> float:
    return 1000 * quantile([s.seconds for s in samples], 0.5)


def p95_ms(samples: list[Sample]) -> float:
    return 1000 * quantile([s.seconds for s in samples], 0.95)


def p95_of_answers_ms(samples: list[Sample]) -> float:
    """Who was turned away waits for ever."""
    return 1000 * quantile([s.seconds if s.status == 200 else float("inf") for s in samples], 0.95)


def stretch() -> float:
    """How many seconds a second of processor takes, for what else this machine does; 1.0 where that is nothing."""
    began, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < 0.2:
        pass
    return max(1.0, (time.perf_counter() - began) / 0.2)


def quietest_ms(measure: Callable[[], float], wanted_ms: float) -> float:
    """The least of up to four measurements, no more than are needed, each in milliseconds of a machine to itself.

    What else the machine does only ever adds to a time, and in spells.
    """
    least = float("inf")
    for _ in range(ROUNDS):
        busy = stretch()
        least = min(least, measure() / busy)
        if least < wanted_ms:
            break
    return least


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so within {seconds:g} s"
        time.sleep(0.01)


def test_at_64_in_flight_nothing_collapses_and_nobody_gets_an_error(
    house: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goal 16: at least 70 % of the best throughput, what is answered is in its budget, and no error.

    The loads take turns, so that what else this machine does falls on all of them; the best of a few rounds counts.
    """
    finish(load(house, 8, 1.0))
    kept, slowest_ms = 0.0, float("inf")
    for _ in range(ROUNDS):
        late_ms, busy = 0.0, stretch()
        rates: dict[int, float] = {}
        for callers in (1, 8, 32, 64):
            seconds = 2.0
            samples = finish(load(house, callers, seconds, back_off_s=0.1))
            answered = [s for s in samples if s.status == 200]
            shed = [s for s in samples if s.status == 503]
            rates[callers] = len(answered) / seconds
            told = f", turned away {len(shed)} in p50 {p50_ms(shed):.0f} ms, p95 {p95_ms(shed):.0f} ms" if shed else ""
            with capsys.disabled():
                print(f"\n  {callers} callers: {rates[callers]:.0f}/s, p95 {p95_ms(answered):.0f} ms{told}", end="")
            assert {s.status for s in samples} <= {200, 503}
            assert all(s.json for s in samples)
            late_ms = max(late_ms, p95_ms(answered) / busy)
        kept, slowest_ms = max(kept, rates[64] / max(rates.values())), min(slowest_ms, late_ms)
        if kept >= 0.7 and slowest_ms <= 1000 * BUDGET_S:
            break
    assert kept >= 0.7
    assert slowest_ms <= 1000 * BUDGET_S
    assert house.alive()


def test_calls_that_cannot_be_answered_in_time_are_turned_away_within_50_ms(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two threads, calls of 0.4 s: of 24 callers most have to hear 503, and soon."""
    slow = {**MANIFEST, "advice": "slow", "settings": {"seconds": 0.4}, "budget_ms": {"patient-view": 1000}}
    with served(tmp_path, {"probe": slow}, threads=2) as house:
        finish(load(house, 2, 1.0))

        def turned_away() -> float:
            samples = finish(load(house, 24, 4.0, pause_s=0.3))
            counts = Counter(s.status for s in samples)
            shed = [s for s in samples if s.status == 503]
            assert set(counts) == {200, 503}
            assert counts[503] > counts[200] > 0
            assert all(s.json for s in samples)
            with capsys.disabled():
                print(
                    f"\n  {dict(counts)}, turned away in p50 {p50_ms(shed):.0f} ms, p95 {p95_ms(shed):.0f} ms", end=""
                )
            return p50_ms(shed)

        assert quietest_ms(turned_away, 50) < 50
        refused = requests.post(f"{house.url}/cds-services/nowhere", json=SENT, timeout=60)
        assert refused.status_code == 404


def test_health_and_feedback_are_answered_while_all_threads_hang(plugin: Path, tmp_path: Path) -> None:
    with Moody(always(hang)) as server:
        client = {"name": "h", "fhir": [{"base": server.base}]}
        manifest = {**MANIFEST, "evidence": {"labs": LABS}, "budget_ms": {"patient-view": 5000}}
        with served(tmp_path, {"probe": manifest}, [client], threads=2) as house, ThreadPoolExecutor() as pool:
            call = f"{house.url}/cds-services/probe"
            body = own_event("patient-view", fhirServer=server.base)
            hooks = [pool.submit(requests.post, call, json=body, timeout=30) for _ in range(2)]
            until(lambda: server.open >= 2)
            took = []
            for path in ("/healthz", "/readyz", "/cds-services", "/healthz"):
                began = time.monotonic()
                assert requests.get(f"{house.url}{path}", timeout=30).status_code == 200
                took.append(time.monotonic() - began)
            item = {"card": "c1", "outcome": "overridden", "outcomeTimestamp": "2026-11-23T09:00:00Z"}
            began = time.monotonic()
            assert requests.post(f"{call}/feedback", json={"feedback": [item]}, timeout=30).status_code == 200
            took.append(time.monotonic() - began)
            assert not any(hook.done() for hook in hooks), "they were answered only when a thread came free"
            assert statistics.median(took) < 0.5


@pytest.mark.parametrize("held", [64, 150])
def test_half_sent_requests_do_not_keep_honest_callers_waiting(
    house: Served, held: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goal 17."""
    host, port = house.url.removeprefix("http://").split(":")
    sockets = [socket.create_connection((host, int(port)), 5) for _ in range(held)]
    try:
        for sock in sockets:
            sock.sendall(b"POST /cds-services/probe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")

        def honest() -> float:
            samples = finish(load(house, 4, 2.0))
            with capsys.disabled():
                print(f"\n  {held} half-sent: {len(samples)} honest calls, p95 {p95_ms(samples):.0f} ms", end="")
            assert {s.status for s in samples} == {200}
            return p95_ms(samples)

        assert quietest_ms(honest, 1000 * BUDGET_S) <= 1000 * BUDGET_S
    finally:
        for sock in sockets:
            sock.close()


FHIR_S = 0.2
SPELL_S = 1.6
SPELLS = 5
HELD = 16
"""Half of the threads: what a tenant of several may hold."""


def test_a_tenant_whose_fhir_server_hangs_leaves_the_other_its_pace(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Acceptance 5 and goal 18: 16 calls hanging on A's FHIR server move B's p95 by less than 20 %.

    B's load never stops; spells without and with A take turns, so that what else this machine does falls on both. That
    only ever adds to a time, so the quietest spell of five speaks for each. 24 of A's calls want a thread: were it
    given more than its half, B's 12 would lack some in every spell. Each round A hangs on another server, so that no
    breaker spares anybody the hanging.
    """
    evidence = {"patient": MANIFEST["evidence"]["patient"]}
    services = {
        "quick": {**MANIFEST, "evidence": evidence},
        "patient": {**MANIFEST, "evidence": evidence, "budget_ms": {"patient-view": 2500}},
    }
    with contextlib.ExitStack() as stack:
        b = stack.enter_context(Moody(always(later(FHIR_S, reply(PATIENT)))))
        hanging = [stack.enter_context(Moody(always(hang))) for _ in range(SPELLS)]
        clients = [
            {"name": "a", "tenant": "a", "fhir": [{"base": server.base} for server in hanging]},
            {"name": "b", "tenant": "b", "fhir": [{"base": b.base}]},
        ]
        house = stack.enter_context(served(tmp_path, services, clients, threads=32, client_points_per_s=100_000))

        def calls(service: str, server: Moody, callers: int, seconds: float, pause_s: float = 0.0) -> Any:
            """Each of another user: those of one event speak in turn."""
            bodies = [json.dumps(own_event("patient-view", fhirServer=server.base)) for _ in range(200)]
            return start(Plan(house.url, f"/cds-services/{service}", bodies, callers, seconds, pause_s=pause_s))

        finish(calls("quick", b, 12, 1.0))
        steady = calls("quick", b, 12, SPELLS * (2 * SPELL_S + 2.0))
        spells = []
        crowded: list[Sample] = []
        for server in hanging:
            time.sleep(0.3)
            quiet = time.perf_counter()
            time.sleep(SPELL_S)
            crowd = calls("patient", server, 24, 2.0, pause_s=0.3)
            until(lambda server=server: server.open >= HELD)  # type: ignore[misc]
            spells.append((quiet, time.perf_counter()))
            time.sleep(SPELL_S)
            of_a = finish(crowd)
            # What follows is only said of B while all of A's 16 still hang.
            assert sum(s.at + s.seconds >= spells[-1][1] + SPELL_S for s in of_a if s.status != 429) >= HELD
            crowded += of_a
        served_b = finish(steady)
        assert {s.status for s in served_b} <= {200, 503}
        assert {s.status for s in crowded} == {200, 429}
        assert all(s.json for s in crowded)
        quiet_ms, loud_ms = [], []
        for quiet, loud in spells:
            alone, beside = ([s for s in served_b if t <= s.at < t + SPELL_S] for t in (quiet, loud))
            quiet_ms.append(p95_of_answers_ms(alone))
            loud_ms.append(p95_of_answers_ms(beside))
            with capsys.disabled():
                print(
                    f"\n  B alone p95 {quiet_ms[-1]:.0f} ms ({len(alone)} calls), beside 16 hanging of A "
                    f"{loud_ms[-1]:.0f} ms ({len(beside)} calls)",
                    end="",
                )
        moved = min(loud_ms) / min(quiet_ms) - 1
        with capsys.disabled():
            print(f"\n  quietest spells: {100 * moved:+.1f} %", end="")
        assert moved < 0.2
        assert house.alive()


def test_a_call_does_not_wait_its_turn_behind_another_ehrs_though_ids_and_tenant_are_equal(
    plugin: Path, tmp_path: Path
) -> None:
    """Unchecked callers share a tenant. Two EHRs have a user u1 and a patient p1 each; the server of one hangs."""
    with Moody(always(hang)) as a, Moody(always(reply(PATIENT))) as b:
        clients = [{"name": n, "fhir": [{"base": server.base}]} for n, server in (("a", a), ("b", b))]
        manifest = {**MANIFEST, "evidence": {"patient": MANIFEST["evidence"]["patient"]}}
        with served(tmp_path, {"probe": {**manifest, "budget_ms": {"patient-view": 5000}}}, clients) as house:
            url = f"{house.url}/cds-services/probe"
            of_a, of_b = (own_event("patient-view", "u1", fhirServer=server.base) for server in (a, b))
            with ThreadPoolExecutor() as pool:
                # More than two of one event: below that a card waits for nobody.
                stuck = [pool.submit(requests.post, url, json=of_a, timeout=30) for _ in range(3)]
                until(lambda: a.open >= 3)
                answer = requests.post(url, json=of_b, timeout=30)
                assert answer.status_code == 200
                assert answer.json()["cards"]
                assert not any(call.done() for call in stuck), "B was answered only when A's calls were over"
                assert {call.result().status_code for call in stuck} == {200}


def test_before_a_breaker_opens_a_tenant_holds_at_most_half_of_the_threads(plugin: Path, tmp_path: Path) -> None:
    """All 12 calls at once, before eight of them can have failed: A holds 4 of 8 threads, B is answered."""
    with Moody(always(hang)) as a, Moody(always(reply(bundle(observation(1))))) as b:
        clients = [{"name": n, "tenant": n, "fhir": [{"base": s.base}]} for n, s in (("a", a), ("b", b))]
        manifest = {**MANIFEST, "evidence": {"labs": LABS}, "budget_ms": {"patient-view": 5000}}
        with served(tmp_path, {"probe": manifest}, clients, threads=8) as house:
            url = f"{house.url}/cds-services/probe"
            found: list[int] = []

            def hold() -> None:
                body = own_event("patient-view", fhirServer=a.base)
                found.append(requests.post(url, json=body, timeout=30).status_code)

            threads = [threading.Thread(target=hold) for _ in range(12)]
            for thread in threads:
                thread.start()
            until = time.monotonic() + 4
            while found.count(429) < 8 and time.monotonic() < until:
                time.sleep(0.01)
            other = requests.post(url, json=own_event("patient-view", fhirServer=b.base), timeout=30)
            assert other.status_code == 200
            assert Counter(found) == {429: 8}, "four of A's calls still hang while B is answered"
            for thread in threads:
                thread.join()
            assert Counter(found) == {200: 4, 429: 8}
