"""What every answered call leaves behind, over HTTP: its audit row, in the chain, durable before the answer leaves."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from contexts import call
from findings import MORNING, Ward, service
from served import served

from cds_service.state.errors import StateUnavailable
from cds_service.state.records import AnswerRecord
from cds_service.state.store import Store
from cds_service.traces import references
from fhir_mappers.record import PatientRecord, Person, Source

WARNING = service("one", A_01="warning", A_02="info")
CANARY = "Zebra7Canary"
Make = Callable[..., Ward]


@pytest.fixture
def ward(plugin: Path, tmp_path: Path) -> Iterator[Make]:
    made: list[Ward] = []

    def make(*services: Any, **settings: Any) -> Ward:
        made.append(Ward(tmp_path, *(services or (WARNING,)), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def rows(app_or_ward: Any) -> list[dict[str, Any]]:
    """Every audit row of an answered call, oldest first."""
    app = getattr(app_or_ward, "app", app_or_ward)
    state = app.extensions["ordersight"].state
    assert state.verify_audit().ok
    found = [orjson.loads(line) for line in state.export_audit()]
    return [row for row in found if row["kind"] == "answer"]


def test_an_answer_is_audited_with_all_that_it_rested_on(ward: Make) -> None:
    w = ward()
    (card,) = w.cards("one", instance="5e3c1c7b-1a83-4d46-8f7b-3c2c8c0f2a11")
    (row,) = rows(w)
    key = w.state.key
    assert (row["tenant"], row["hook"], row["service"], row["service_version"]) == (
        "anonymous",
        "order-sign",
        "one",
        "1",
    )
    assert (row["status"], row["hook_instance"]) == (200, "5e3c1c7b-1a83-4d46-8f7b-3c2c8c0f2a11")
    assert row["at"] == MORNING.timestamp() * 1_000_000
    assert row["patient_key"] == key("patient", "anonymous", "p1")
    assert row["user_key"] == key("user", "anonymous", "Practitioner/u1")
    assert row["encounter_key"] == key("encounter", "anonymous", "e1")
    assert json.loads(row["cards"]) == [card["uuid"]]
    assert set(json.loads(row["inputs"])) == {
        key("resource", "anonymous", ref) for ref in ("Encounter/e1|", "ServiceRequest/d1|")
    }
    assert [(d["rule"], d["outcome"], d["cause"], d["tier"]) for d in json.loads(row["decisions"])] == [
        ("A-01", "fired", "", "warning"),
        ("A-02", "capped", "one per service", "info"),
    ]
    assert {"evidence", "record", "advice"} <= json.loads(row["ms"]).keys()
    assert len(row["config_digest"]) == 64


def test_the_config_digest_is_the_manifests_and_changes_with_it(ward: Make) -> None:
    first, again, other = ward(WARNING), ward(WARNING), ward(service("one", A_01="info", A_02="info"))
    for w in (first, again, other):
        w.cards("one", patient="p7")
    digests = [row["config_digest"] for row in rows(other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("needy", call("order-sign"), 412),
        ("probe", {k: v for k, v in call("patient-view").items() if k != "context"}, 400),
        ("twin", call("order-select"), 400),
        ("nope", call("patient-view"), 404),
        ("silent", call("patient-view"), 200),
        ("broken", call("patient-view", prefetch={"note": {}}), 500),
    ],
)
def test_every_answered_call_leaves_exactly_one_row_whatever_its_status(
    make_app: Callable[..., Any], path: str, body: Any, status: int
) -> None:
    app = make_app()
    assert app.test_client().post(f"/cds-services/{path}", json=body).status_code == status
    (row,) = rows(app)
    assert row["status"] == status
    assert row["service"] == ("" if path == "nope" else path)
    if status in (200, 412):
        assert row["patient_key"]
        assert row["hook"] == body["hook"]


def test_a_call_that_is_turned_away_is_audited(make_app: Callable[..., Any]) -> None:
    app = make_app(client_points_per_s=1)
    client = app.test_client()
    statuses = [client.post("/cds-services/silent", json=call("patient-view")).status_code for _ in range(4)]
    assert sorted(row["status"] for row in rows(app)) == sorted(statuses)
    assert 429 in statuses


def test_a_caller_who_proved_nothing_leaves_no_row(make_app: Callable[..., Any]) -> None:
    app = make_app(jwt="required")
    assert app.test_client().post("/cds-services/probe", json=call("patient-view")).status_code == 401
    assert rows(app) == []


def test_no_name_of_patient_user_or_resource_is_in_the_audit(ward: Make) -> None:
    w = ward()
    w.cards("one", patient=CANARY, user=f"Practitioner/{CANARY}", encounter=CANARY, order=CANARY, band=CANARY)
    (row,) = rows(w)
    assert CANARY not in json.dumps(row)


@pytest.mark.in_time
def test_while_the_database_takes_nothing_answers_keep_their_budget_and_their_trace(ward: Make) -> None:
    w = ward()
    locked = sqlite3.connect(w.app.extensions["ordersight"].settings.state_dir / "state.sqlite", isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    took = []
    for n in range(3):
        began = time.monotonic()
        assert w.cards("one", patient=f"p{n}")
        took.append(time.monotonic() - began)
    # 250 ms of waiting at most before the record goes to the outbox; the rest is the call itself.
    assert min(took) < 1
    assert max(took) < 3
    assert w.state.health().outbox > 0
    locked.execute("ROLLBACK")
    locked.close()
    until = time.monotonic() + 20
    while w.state.health().outbox and time.monotonic() < until:
        time.sleep(0.1)
    assert len(rows(w)) == 3


def test_every_answer_that_left_is_in_the_audit_after_kill_9(plugin: Path, tmp_path: Path) -> None:
    answered: set[str] = set()
    silent = {"hooks": ["patient-view"], "advice": "other", "evidence": {}}
    for turn in range(2):
        with served(tmp_path / f"run{turn}", {"one": silent}, state_dir=str(tmp_path / "state")) as running:

            def ask(url: str = running.url) -> list[str]:
                got: list[str] = []
                with contextlib.suppress(requests.RequestException):
                    while True:
                        body = call("patient-view", hookInstance=str(uuid.uuid4()))
                        if requests.post(f"{url}/cds-services/one", json=body, timeout=20).status_code == 200:
                            got.append(body["hookInstance"])
                return got

            with ThreadPoolExecutor(4) as pool:
                lanes = [pool.submit(ask) for _ in range(4)]
                time.sleep(1.0)
                running.process.kill()
                answered.update(*(lane.result() for lane in lanes))
    with Store.open(f"sqlite:///{tmp_path / 'state' / 'state.sqlite'}", outbox_bytes=1 << 20) as store:
        store.replay_outbox()
        audited = {orjson.loads(line)["hook_instance"] for line in store.export_audit()}
        assert store.verify_audit().ok
    assert len(answered) > 20
    assert answered <= audited


def test_without_room_for_a_trace_there_is_no_advice(ward: Make) -> None:
    """The database is locked and the outbox full: 503, never a card that nobody could account for."""
    w = ward()
    locked = sqlite3.connect(w.app.extensions["ordersight"].settings.state_dir / "state.sqlite", isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    _fill_the_outbox(w.state)
    response = w.call("one")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.get_json()["resourceType"] == "OperationOutcome"
    locked.execute("ROLLBACK")
    locked.close()


def _fill_the_outbox(state: Store) -> None:
    for size in (100_000, 10_000, 1_000, 10):
        with contextlib.suppress(StateUnavailable):
            for _ in range(1000):
                state.record_answer(
                    AnswerRecord(
                        tenant="t",
                        hook="order-sign",
                        hook_instance="",
                        service="one",
                        at=MORNING,
                        status=200,
                        inputs=("x" * size,),
                    )
                )


def test_history_that_cannot_be_read_in_time_holds_nothing_back(ward: Make) -> None:
    w = ward(service("one", A_01="warning"))
    assert w.cards("one")
    w.wait(minutes=1)
    assert w.cards("one", order="d2") == []
    w.wait(minutes=1)
    # Every reader waits for a database that does not answer.
    hang, held = threading.Event(), []
    while True:
        try:
            w.state._reader.within(lambda conn: hang.wait(60), 0.001)
        except StateUnavailable as error:
            held.append(str(error))
        if "too many" in held[-1]:
            break
    assert w.cards("one", order="d3")
    hang.set()


def test_a_record_names_every_resource_it_was_read_from() -> None:
    person = Person("p1", "female", None, None, source=Source("Patient/p1", "7"))
    assert references(PatientRecord(person, MORNING + timedelta(days=1))) == {"Patient/p1|7"}
