"""Fail the n-th read of a call, for every n and in every way: the rest is used, what is missing is named (goal 28)."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from contexts import own_event
from moody import Mood, Moody, Seen, drip_body, garble, half, hang, reply, reset
from patient_p1 import RECORD, SERVICE, ehr, service_of
from reading import NOON
from test_dicom_hostile import Archive

from cds_service.app import create_app
from cds_service.breaker import Breakers, Limits
from cds_service.fhir_client import FhirClient
from cds_service.manifest import Service, Services
from cds_service.settings import Settings
from cds_service.trust.clients import Client, Clients, FhirServer

pytestmark = pytest.mark.in_time

FAULTS: dict[str, Mood] = {
    "500": reply({}, 500),
    "401": reply({}, 401),
    "reset": reset,
    "half": half,
    "not HTTP": garble,
    "empty": reply(b""),
    "not JSON": reply(b"\x00\xff"),
    "another type": reply({"resourceType": "Basic"}),
    "hang": hang,
    "drip": drip_body,
}
REQUIRED = {key for key, item in SERVICE.evidence.items() if item.required}


class Nth:
    """A server whose n-th request meets a fault; n = 0 is none."""

    def __init__(self, healthy: Callable[[Seen], Mood]) -> None:
        self.healthy = healthy
        self.lock = threading.Lock()
        self.begin(0, hang)

    def begin(self, n: int, fault: Mood) -> None:
        self.n, self.fault, self.count = n, fault, 0

    def __call__(self, seen: Seen) -> Mood:
        with self.lock:
            self.count += 1
            return self.fault if self.count == self.n else self.healthy(seen)


@dataclass
class House:
    app: Any
    ehr: Nth
    pacs: Nth
    base: str

    def ask(self) -> Any:
        return self.app.test_client().post(
            "/cds-services/chest-review", json=own_event("patient-view", fhirServer=self.base)
        )


def services() -> Services:
    made: Service = service_of(**SERVICE.evidence)
    changes = {"advice": "films", "budget_ms": {"patient-view": 700}, "thinking_ms": 300}
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    return Services([Service(**{**fields, **changes})])


@pytest.fixture(scope="module")
def house(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    healthy_ehr, healthy_pacs = Nth(ehr(RECORD)), Nth(lambda seen: Archive()(seen))
    with Moody(healthy_ehr) as fhir, Moody(healthy_pacs) as pacs:
        client = Client("h", (FhirServer(fhir.base, (f"{pacs.origin}/dicom-web",)),))
        settings = Settings(jwt="off", profile="research_imaging", state_dir=tmp_path_factory.mktemp("nth") / "state")
        # A breaker that never opens: each read has to meet its fault.
        fetcher = FhirClient(breakers=Breakers(Limits(share=2.0)))
        app = create_app(settings, services=services(), clients=Clients([client]), clock=lambda: NOON, fetcher=fetcher)
        yield House(app, healthy_ehr, healthy_pacs, fhir.base)
        app.extensions["ordersight"].close()


def healthy(house: House) -> tuple[str, int, int]:
    """The summary of an undisturbed call, and how many reads it made of each server."""
    house.ehr.begin(0, hang)
    house.pacs.begin(0, hang)
    answer = house.ask()
    (card,) = answer.get_json()["cards"]
    assert "detail" not in card
    return card["summary"], house.ehr.count, house.pacs.count


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_the_nth_read_meets_the_invariants_hold(
    house: House, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    summary, of_ehr, of_pacs = healthy(house)
    assert summary == "films: 37x53, 37x53"
    assert (of_ehr, of_pacs) == (5, 4)
    for server, reads in ((house.ehr, of_ehr), (house.pacs, of_pacs)):
        for n in range(1, reads + 1):
            caplog.clear()
            server.begin(n, FAULTS[fault])
            with caplog.at_level(logging.INFO):
                answer = house.ask()
            server.begin(0, hang)
            assert not [r for r in caplog.records if r.levelno >= logging.ERROR], (fault, n)
            if answer.status_code == 412:
                assert answer.get_json()["issue"][0]["expression"][0].removeprefix("prefetch.") in REQUIRED
                continue
            assert answer.status_code == 200, (fault, n)
            (card,) = answer.get_json()["cards"]
            line = next(r for r in caplog.records if r.getMessage() == "consultation")
            missing = line.fields["missing"]  # type: ignore[attr-defined]
            assert not {m.partition(":")[0] for m in missing} & REQUIRED
            if card["summary"] != summary:
                assert missing, (fault, n, "less was used than there is, and nobody says so")
                assert card["detail"], (fault, n)
    assert healthy(house)[0] == summary, "and the next call is as before"


@pytest.mark.parametrize("nth", [1, 2])
def test_a_decoder_that_dies_at_the_nth_film_costs_that_film(house: House, nth: int) -> None:
    decoders = house.app.extensions["ordersight"].means.decoders
    summary, _, _ = healthy(house)
    (worker,) = decoders._idle
    crashed = decoders.counts["crashed"]
    decode, count = worker.decode, iter(range(1, 10))

    def dies(*args: Any) -> Any:
        if next(count) == nth:
            os.kill(worker.process.pid, signal.SIGKILL)
        return decode(*args)

    worker.decode = dies
    (card,) = house.ask().get_json()["cards"]
    assert card["summary"] == "films: 37x53"
    assert card["detail"] == "malformed film pixels"
    assert decoders.counts["crashed"] == crashed + 1
    assert healthy(house)[0] == summary
