"""More calls than there is room for, and a neighbour whose FHIR server hangs."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
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


def test_at_64_in_flight_nothing_collapses_and_nobody_gets_an_error(
    house: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goal 16: at least 70 % of the best throughput, and no error.

    The loads take turns, so that what else this machine does falls on all of them; the best of a few rounds counts.
    """
    finish(load(house, 8, 1.0))
    kept = 0.0
    for _ in range(ROUNDS):
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
            assert quantile([s.seconds for s in answered], 0.95) <= BUDGET_S
        kept = max(kept, rates[64] / max(rates.values()))
        if kept >= 0.7:
            break
    assert kept >= 0.7
    assert house.alive()


def test_calls_that_cannot_be_answered_in_time_are_turned_away_within_50_ms(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two threads, calls of 0.4 s: of 24 callers most have to hear 503, and soon."""
    slow = {**MANIFEST, "advice": "slow", "settings": {"seconds": 0.4}, "budget_ms": {"patient-view": 1000}}
    with served(tmp_path, {"probe": slow}, threads=2) as house:
        finish(load(house, 2, 1.0))
        samples = finish(load(house, 24, 4.0, pause_s=0.3))
        counts = Counter(s.status for s in samples)
        shed = [s for s in samples if s.status == 503]
        with capsys.disabled():
            took = [1000 * quantile([s.seconds for s in shed], q) for q in (0.5, 0.95)]
            print(f"\n  {dict(counts)}, turned away in p50 {took[0]:.0f} ms, p95 {took[1]:.0f} ms", end="")
        assert set(counts) == {200, 503}
        assert counts[503] > counts[200] > 0
        assert all(s.json for s in samples)
        assert took[0] < 50
        refused = requests.post(f"{house.url}/cds-services/nowhere", json=SENT, timeout=5)
        assert refused.status_code == 404


def test_health_and_feedback_are_answered_while_all_threads_hang(plugin: Path, tmp_path: Path) -> None:
    with Moody(always(hang)) as server:
        client = {"name": "h", "fhir": [{"base": server.base}]}
        manifest = {**MANIFEST, "budget_ms": {"patient-view": 3000}}
        with served(tmp_path, {"probe": manifest}, [client], threads=2) as house:
            body = own_event("patient-view", HOOK_INSTANCE, fhirServer=server.base)
            load_ = load(house, 4, 1.5, body)
            time.sleep(0.5)
            took = []
            for path in ("/healthz", "/readyz", "/cds-services", "/healthz"):
                began = time.monotonic()
                assert requests.get(f"{house.url}{path}", timeout=5).status_code == 200
                took.append(time.monotonic() - began)
            item = {
                "card": "c1",
                "outcome": "overridden",
                "outcomeTimestamp": "2026-11-23T09:00:00Z",
            }
            began = time.monotonic()
            url = f"{house.url}/cds-services/probe/feedback"
            assert requests.post(url, json={"feedback": [item]}, timeout=5).status_code == 200
            took.append(time.monotonic() - began)
            assert max(took) < 0.5
            finish(load_)


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
        samples = finish(load(house, 4, 2.0))
        with capsys.disabled():
            print(f"\n  {held} half-sent: {len(samples)} honest calls, p95 {p95_ms(samples):.0f} ms", end="")
        assert {s.status for s in samples} == {200}
        assert quantile([s.seconds for s in samples], 0.95) <= BUDGET_S
    finally:
        for sock in sockets:
            sock.close()


FHIR_S = 0.1


def test_a_tenant_whose_fhir_server_hangs_leaves_the_other_its_pace(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Acceptance 5 and goal 18: 16 calls hanging on A's FHIR server move B's p95 by less than 20 %.

    Quiet and loaded spells take turns, so that what else this machine does falls on both. One round of a few may be
    disturbed: the best of four counts, and a bulkhead that leaks fails all of them (B then waits for A's deadline).
    """
    answers = {"Patient": PATIENT, "Observation": bundle(*(observation(n) for n in range(20)))}

    def healthy(seen: Any) -> Any:
        return later(FHIR_S, reply(answers[seen.path.split("/")[2].split("?")[0]]))

    with Moody(always(hang)) as a, Moody(healthy) as b:
        clients = [{"name": n, "tenant": n, "fhir": [{"base": s.base}]} for n, s in (("a", a), ("b", b))]
        with served(tmp_path, {"probe": MANIFEST}, clients, threads=32, client_points_per_s=100_000) as house:
            hanging, normal = (own_event("patient-view", HOOK_INSTANCE, fhirServer=s.base) for s in (a, b))
            finish(load(house, 4, 1.0, normal))
            moved = []
            for n in range(ROUNDS):
                alone = finish(load(house, 4, 3.0, normal))
                crowd = load(house, 16, 4.0, hanging, pause_s=0.2)
                time.sleep(0.5)
                beside = finish(load(house, 4, 3.0, normal))
                crowded = finish(crowd)
                assert {s.status for s in (*alone, *beside)} == {200}
                assert {s.status for s in crowded} <= {200, 429, 503}
                assert all(s.json for s in crowded)
                moved.append(p95_ms(beside) / p95_ms(alone) - 1)
                with capsys.disabled():
                    print(
                        f"\n  round {n + 1}: B alone p95 {p95_ms(alone):.0f} ms ({len(alone)} calls), beside 16 "
                        f"hanging of A {p95_ms(beside):.0f} ms ({len(beside)} calls): {100 * moved[-1]:+.0f} %; "
                        f"A: {dict(Counter(s.status for s in crowded))}, p95 {p95_ms(crowded):.0f} ms",
                        end="",
                    )
                if moved[-1] < 0.2:
                    break
            assert min(moved) < 0.2
            assert house.alive()


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
