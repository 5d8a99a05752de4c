"""One service as several processes: any of them may be killed, and what callers are promised holds across them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from callers import ISSUER, Caller
from canaries import look_at

from cds_service.state.store import Store

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICE = "deterioration"
PATIENT = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1960-01-01"}
WAIT_S = 90.0


@dataclass
class House:
    """A running `cds-service serve` with two web workers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    state: Path
    caller: Caller = field(default_factory=Caller)

    def children(self, part: str) -> list[int]:
        found = []
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            found.append(int(pid))
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            found += [int(pid) for pid in (task / "children").read_text().split()]
        return sorted(pid for pid in set(found) if part in command(pid))

    def lines(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def call(self, token: str | None = None) -> requests.Response:
        """One patient-view call on a connection of its own, as it falls to one worker or the other."""
        aud = f"{self.url}/cds-services/{SERVICE}"
        token = token or self.caller.token(aud, time.time())
        prefetch = dict.fromkeys(("encounter", "vitals", "labs", "conditions", "meds", "given", "orders"))
        prefetch |= dict.fromkeys(("tests", "reports", "studies", "genes"))
        body = {
            "hook": "patient-view",
            "hookInstance": str(uuid.uuid4()),
            "context": {"userId": "Practitioner/1", "patientId": "p1"},
            "prefetch": {**prefetch, "patient": PATIENT},
        }
        return requests.post(aud, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=WAIT_S)

    def asked_the_model(self) -> bool:
        """Whether a call that is made now is answered with the model."""
        before = len(self.lines("consultation"))
        assert self.call().status_code == 200
        return any(line["model"] for line in self.lines("consultation")[before:])


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def free_ports() -> int:
    """The first of two ports in a row that nobody has."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            try:
                two.bind(("127.0.0.1", one.getsockname()[1] + 1))
            except (OSError, OverflowError):
                continue
            return int(one.getsockname()[1])


@contextmanager
def housed(folder: Path, *, model: bool) -> Iterator[House]:
    (folder / "manifests/services").mkdir(parents=True)
    manifest = yaml.safe_load((ROOT / f"manifests/services/{SERVICE}.yaml").read_text())
    # However busy the machine is: what is tested here is who answers, not how soon.
    manifest |= {"model": "chest-generated", "budget_ms": dict.fromkeys(manifest["hooks"], 30000)}
    if not model:
        del manifest["model"]
    (folder / f"manifests/services/{SERVICE}.yaml").write_text(yaml.safe_dump(manifest))
    caller, metrics = Caller(), free_ports()
    (folder / "jwks.json").write_text(json.dumps({"keys": [caller.jwk()]}))
    fhir = [{"base": "https://ehr.example.org/fhir"}]
    client = {"name": "ehr", "issuer": ISSUER, "jwks_file": str(folder / "jwks.json"), "fhir": fhir}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    (folder / "clients.yaml").write_text(yaml.safe_dump([{**client, "audience": url}]))
    given = {
        "PORT": port,
        "WORKERS": 2,
        "THREADS": 8,
        "MANIFESTS": folder / "manifests",
        "MODELS": ROOT / "manifests/models",
        "CLIENTS": folder / "clients.yaml",
        "STATE_DIR": folder / "state",
        "OUTBOX_MB": 1,
        "METRICS": metrics,
    }
    env = {**os.environ, **{f"ORDERSIGHT_{name}": str(value) for name, value in given.items()}}
    line = [sys.executable, "-P", str(Path(sys.executable).parent / "cds-service"), "serve"]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(line, env=env, stdout=out, stderr=out, cwd=ROOT)
    house = House(url, process, log, folder / "state", caller)
    try:
        until(lambda: process.poll() is not None or len(house.lines("serving")) == 2)
        assert process.poll() is None, log.read_text()
        yield house
    finally:
        for pid in (*house.children(""), process.pid) if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        process.wait()
        look_at(log.read_text(errors="replace"), "the log of a service with several workers")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with housed(tmp_path_factory.mktemp("house"), model=True) as house:
        yield house


@contextmanager
def under_load(house: House) -> Iterator[list[int]]:
    """Four callers who never rest; the statuses of their answers, 0 for a connection that broke."""
    found: list[int] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            try:
                found.append(house.call().status_code)
            except requests.RequestException:
                found.append(0)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(work)
        try:
            until(lambda: len(found) > 4)
            yield found
        finally:
            ended.set()


def test_two_workers_answer_on_one_port_with_the_model_of_a_third_process(house: House) -> None:
    assert len(house.children("web_worker")) == 2
    assert len(house.children("engine_process")) == 1
    assert house.asked_the_model()
    for pid in house.children("web_worker"):
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()


def test_a_token_that_one_worker_has_taken_is_refused_by_all(house: House) -> None:
    token = house.caller.token(f"{house.url}/cds-services/{SERVICE}", time.time())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: house.call(token).status_code, range(16)))
    assert sorted(found) == [200] + [401] * 15


def test_each_worker_counts_what_it_answers_on_a_port_of_its_own(house: House) -> None:
    ports = [line["port"] for line in house.lines("metrics")]

    def answered() -> float:
        texts = [requests.get(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S).text for port in ports]
        counted = [x for t in texts for x in t.splitlines() if x.startswith("cds_requests_total{")]
        return sum(float(x.rpartition(" ")[2]) for x in counted if 'hook="patient-view"' in x)

    assert len(set(ports)) == 2
    before = answered()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: house.call().status_code, range(24))) == {200}
    assert answered() - before == 24


def test_a_switch_that_is_turned_once_holds_in_every_worker(house: House) -> None:
    def quiet() -> bool:
        before = len(house.lines("consultation"))
        assert {house.call().status_code for _ in range(12)} == {200}
        return len(house.lines("consultation")) == before

    with Store.open(f"sqlite:///{house.state}/state.sqlite", house.state, outbox_bytes=0) as store:
        store.switch("service", SERVICE, "off", who="test", why="test")
        until(quiet)
        store.switch("service", SERVICE, "on", who="test", why="test")
        until(house.asked_the_model)


def test_an_engine_that_is_killed_under_load_costs_estimates_and_no_answer_and_comes_back(house: House) -> None:
    (before,) = house.children("engine_process")
    with under_load(house) as statuses:
        os.kill(before, signal.SIGKILL)
        until(lambda: house.children("engine_process") not in ([], [before]))
        until(lambda: bool(house.lines("consultation")[-1]["model"]))
    assert set(statuses) == {200}
    without = [line for line in house.lines("consultation") if line["model"] is None]
    assert all("model:busy" in line["missing"] for line in without)
    until(house.asked_the_model)


def test_a_worker_that_is_killed_breaks_what_it_had_under_way_and_nothing_else(house: House) -> None:
    before = house.children("web_worker")
    served = len(house.lines("serving"))
    with under_load(house) as statuses:
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(house.lines("serving")) > served)
    assert set(statuses) <= {200, 0}
    assert statuses.count(0) <= 4  # of four callers, each had one call under way
    assert len(house.children("web_worker")) == 2
    assert house.call().status_code == 200


def test_a_service_that_is_told_to_stop_answers_what_it_has_begun(house: House) -> None:
    children = house.children("")
    with under_load(house) as statuses:
        house.process.terminate()
        assert house.process.wait(WAIT_S) == 0
        answered = len(statuses)
    # Whoever came too late was refused a connection; nobody got an error for an answer.
    assert set(statuses) <= {200, 0}
    assert 200 in statuses[:answered]
    assert all(not command(pid) for pid in children)
    assert house.lines("stopped")


def test_the_audit_of_all_workers_is_one_unbroken_chain(house: House) -> None:
    """The last test of this house: nobody writes any more."""
    with Store.open(f"sqlite:///{house.state}/state.sqlite", house.state, outbox_bytes=0) as store:
        assert store.verify_audit().ok


def test_when_the_parent_is_killed_its_workers_end_too(tmp_path: Path) -> None:
    with housed(tmp_path, model=False) as house:
        children = house.children("web_worker")
        assert len(children) == 2
        house.process.kill()
        house.process.wait()
        until(lambda: not any(command(pid) for pid in children))


def test_a_service_that_cannot_start_says_why_and_ends(tmp_path: Path) -> None:
    """Not a loop of processes that start and fail."""
    (tmp_path / "clients.yaml").write_text("- name: ehr")
    given = {"WORKERS": 2, "PORT": 0, "CLIENTS": tmp_path / "clients.yaml", "STATE_DIR": tmp_path, "JWT": "off"}
    env = {**os.environ, **{f"ORDERSIGHT_{name}": str(value) for name, value in given.items()}}
    line = [sys.executable, "-P", str(Path(sys.executable).parent / "cds-service"), "serve"]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=WAIT_S, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "clients.yaml" in done.stderr
    assert "Traceback" not in done.stderr
