"""Bodies made to use up memory, from callers and from FHIR servers (goal 10)."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from contexts import own_event
from moody import Mood, Moody, reply
from patient_p1 import PATIENT
from reading import bundle, observation
from served import Served, served

pytestmark = pytest.mark.in_time

PEAK_MB, KEPT_MB = 600, 200
BUDGET_S, LATE_S = 1.0, 0.5


@dataclass
class House:
    served: Served
    fhir: Moody
    mood: Mood

    def body(self) -> dict[str, Any]:
        return own_event("patient-view", fhirServer=self.fhir.base)

    def ask(self, body: bytes | None = None) -> tuple[requests.Response, float]:
        """One call, which reads laboratory results from the FHIR server unless a body is given."""
        sent = body if body is not None else json.dumps(self.body()).encode()
        began = time.monotonic()
        answer = requests.post(
            f"{self.served.url}/cds-services/probe",
            data=sent,
            headers={"Content-Type": "application/json"},
            timeout=30,
        )
        return answer, time.monotonic() - began

    def is_well(self) -> None:
        """Three honest calls; they also keep the breaker of this server closed."""
        for _ in range(3):
            answer, took = self.ask()
            (card,) = answer.json()["cards"]
            assert "detail" not in card
            assert took < BUDGET_S

    def endure(
        self, what: str, body: bytes | None, capsys: pytest.CaptureFixture[str]
    ) -> tuple[requests.Response, float]:
        before, pid = self.served.memory_mb(), self.served.pid
        self.served.forget_peak()
        answer, took = self.ask(body)
        peak = self.served.memory_mb("VmHWM") - before
        until = time.monotonic() + 3
        while (kept := self.served.memory_mb() - before) >= KEPT_MB and time.monotonic() < until:
            time.sleep(0.05)
        with capsys.disabled():
            print(
                f"\n  {what}: {answer.status_code} in {took * 1000:.0f} ms, peak {peak:+.0f} MB, kept {kept:+.0f} MB",
                end="",
            )
        assert peak < PEAK_MB
        assert kept < KEPT_MB
        assert self.served.alive()
        assert self.served.pid == pid
        return answer, took


@pytest.fixture(scope="module")
def house(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    manifest = {
        "hooks": ["patient-view"],
        "advice": "thoughts",
        "evidence": {"labs": {"search": "Observation?category=laboratory"}},
        "budget_ms": {"patient-view": int(BUDGET_S * 1000)},
    }
    holder: list[House] = []
    with Moody(lambda seen: holder[0].mood) as fhir:
        client = {"name": "h", "fhir": [{"base": fhir.base}]}
        folder = tmp_path_factory.mktemp("bombs")
        with served(folder, {"probe": manifest}, [client], threads=4) as running:
            holder.append(House(running, fhir, reply(bundle(observation(1)))))
            holder[0].ask()
            yield holder[0]


HEAD = (
    b'{"hook": "patient-view", "hookInstance": "x", "context": {"patientId": "p", "userId": "u"}, "prefetch": {"labs": '
)
CALLS: dict[str, Callable[[], bytes]] = {
    "20 MB of text": lambda: HEAD + b'"' + b"x" * 20_000_000 + b'"}}',
    "9 MB of empty objects": lambda: HEAD + b"[" + b"{}," * 3_000_000 + b"{}]}}",
    "450,000 empty objects": lambda: HEAD + b"[" + b"{}," * 450_000 + b"{}]}}",
    "9 MB of numbers": lambda: HEAD + b"[" + b"0," * 4_500_000 + b"0]}}",
    "9 MB of short strings": lambda: HEAD + b"[" + b'"ab",' * 1_800_000 + b'""]}}',
    "a million deep": lambda: b"[" * 1_000_000 + b"]" * 1_000_000,
    "60,000 entries": lambda: HEAD + json.dumps(bundle(*[observation(1)] * 60_000)).encode() + b"}}",
}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_made_to_use_up_memory_does_not(house: House, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer, _ = house.endure(what, CALLS[what](), capsys)
    assert answer.status_code in (200, 400, 412, 413, 503)
    assert answer.headers["Content-Type"] == "application/json"
    house.is_well()


def test_a_packed_call_is_not_unpacked(house: House) -> None:
    bomb = gzip.compress(bytes(100_000_000), 9)
    answer = requests.post(
        f"{house.served.url}/cds-services/probe",
        data=bomb,
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        timeout=10,
    )
    assert answer.status_code == 415


def zipped(size: int) -> Mood:
    packed = gzip.compress(b'{"resourceType": "Bundle", "a": "' + b"a" * size + b'"}', 9)
    return reply(packed, Content_Encoding="gzip")


FINE = "two thousand entries of 4 KB"
MOODS: dict[str, Callable[[], Mood]] = {
    "a gzip bomb of 512 MB": lambda: zipped(512_000_000),
    "a bomb in a bomb": lambda: reply(
        gzip.compress(gzip.compress(bytes(200_000_000), 9), 9), Content_Encoding="gzip, gzip"
    ),
    "a resource of 60 MB": lambda: reply({**PATIENT, "text": {"div": "x" * 60_000_000}}),
    "8 MB of empty objects": lambda: reply(b"[" + b"{}," * 2_600_000 + b"{}]"),
    "7 MB of keys": lambda: reply(b"{" + b",".join(b'"%07d":0' % n for n in range(600_000)) + b"}"),
    "a long number": lambda: reply(b"1" * 7_000_000),
    "deep arrays": lambda: reply(b"[" * 3_000_000),
    "a hundred thousand headers": lambda: reply(bundle(), **{f"X-{n}": "x" * 50 for n in range(100_000)}),
    "a header of 10 MB": lambda: reply(bundle(), X_Long="x" * 10_000_000),
    FINE: lambda: reply(bundle(*({**observation(n), "note": [{"text": "x" * 3500}]} for n in range(2000)))),
}


@pytest.mark.parametrize("what", MOODS)
def test_a_fhir_answer_made_to_use_up_memory_does_not(
    house: House, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    house.mood = MOODS[what]()
    answer, took = house.endure(what, None, capsys)
    assert answer.status_code == 200
    assert took < BUDGET_S + LATE_S
    detail = answer.json()["cards"][0].get("detail", "")
    assert detail.startswith("Not known: labs (") == (what != FINE)
    house.mood = reply(bundle(observation(1)))
    house.is_well()
