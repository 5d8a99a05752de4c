"""Feedback: read leniently, counted once, matched to the cards we showed, and never lost once acknowledged."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from callers import Caller
from contexts import call
from flask.testing import FlaskClient
from served import served

from cds_service.errors import BadRequest
from cds_service.feedback import parse_feedback
from cds_service.state.store import Store
from cds_service.trust.clients import Client, Clients, FhirServer

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
CANARY = "Zebra7Canary"
BASE = "https://cds.example.org"
LATER = "2026-11-23T08:59:01Z"
ACCEPTED = {
    "card": "4e0a3a1e-3283-4575-ab82-028d55fe2719",
    "outcome": "accepted",
    "acceptedSuggestions": [{"id": "e56e1945-20b3-4393-8503-a1a20fd73152"}],
    "outcomeTimestamp": "2026-11-23T08:59:00Z",
}
OVERRIDDEN = {
    "card": "9368d37b-283f-44a0-93ea-547cebab93ed",
    "outcome": "overridden",
    "overrideReason": {
        "reason": {"code": "d7ecf885", "system": "https://example.com/cds-hooks/override-reason"},
        "userComment": "clinician entered comment",
    },
    "outcomeTimestamp": "2026-11-23T08:59:00Z",
}
SILENT = {"hooks": ["patient-view"], "advice": "silent", "evidence": {}}


def read(*items: Any) -> Any:
    return parse_feedback(json.dumps({"feedback": list(items)}).encode())


def refused(body: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        parse_feedback(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert CANARY not in caught.value.diagnostics
    return caught.value.expression


def test_the_two_examples_of_the_specification_are_read() -> None:
    accepted, overridden = read(ACCEPTED, OVERRIDDEN)
    assert accepted.suggestions == ("e56e1945-20b3-4393-8503-a1a20fd73152",)
    assert accepted.at == datetime(2026, 11, 23, 8, 59, tzinfo=UTC)
    assert overridden.reasons[0].reason.code == "d7ecf885"
    assert overridden.reasons[0].user_comment == "clinician entered comment"


def test_epics_spelling_and_what_others_add_is_read() -> None:
    epic = {
        "card": "not-a-uuid",
        "outcome": "overridden",
        "overrideReasons": [{"reason": {"code": "1"}}, {"userComment": "x"}],
        "outcomeTimestamp": "2026-11-23T02:59:00.123-06:00",
        "extension": {"com.epic.cdshooks.feedback.acknowledge-reasons": [{"code": "2"}]},
        "whatever": 1,
    }
    (item,) = read(epic)
    assert len(item.reasons) == 2
    (item,) = read({**epic, "overrideReasons": {"reason": {"code": "1"}}})
    assert len(item.reasons) == 1
    for nothing in (None, {}, []):
        assert read({**epic, "overrideReasons": nothing})[0].reasons == ()
    assert read() == ()


@pytest.mark.parametrize(
    ("item", "member"),
    [
        ({k: v for k, v in ACCEPTED.items() if k != "card"}, "card"),
        ({k: v for k, v in ACCEPTED.items() if k != "outcome"}, "outcome"),
        ({k: v for k, v in ACCEPTED.items() if k != "outcomeTimestamp"}, "outcomeTimestamp"),
        ({k: v for k, v in ACCEPTED.items() if k != "acceptedSuggestions"}, "acceptedSuggestions"),
        ({**ACCEPTED, "acceptedSuggestions": []}, "acceptedSuggestions"),
        ({**ACCEPTED, "acceptedSuggestions": [CANARY]}, "acceptedSuggestions[0]"),
        ({**ACCEPTED, "acceptedSuggestions": [{"uuid": CANARY}]}, "acceptedSuggestions[0].id"),
        ({**ACCEPTED, "outcome": CANARY}, "outcome"),
        ({**ACCEPTED, "outcome": "ignored"}, "outcome"),
        ({**ACCEPTED, "card": ""}, "card"),
        ({**ACCEPTED, "card": 5}, "card"),
        ({**ACCEPTED, "outcomeTimestamp": CANARY}, "outcomeTimestamp"),
        ({**ACCEPTED, "outcomeTimestamp": "2026-11-23T08:59:00"}, "outcomeTimestamp"),
        ({**ACCEPTED, "outcomeTimestamp": 1700000000}, "outcomeTimestamp"),
        ({**OVERRIDDEN, "overrideReason": CANARY}, "overrideReason"),
        ({**OVERRIDDEN, "overrideReason": {"reason": {"display": CANARY}}}, "overrideReason.reason.code"),
    ],
)
def test_a_wrong_message_is_named_by_its_place_in_the_batch(item: dict[str, Any], member: str) -> None:
    assert refused({"feedback": [OVERRIDDEN, item]}) == f"feedback[1].{member}"


@pytest.mark.parametrize("body", [ACCEPTED, {"feedback": ACCEPTED}, {"feedback": None}, {}])
def test_one_bare_message_is_no_batch(body: Any) -> None:
    assert refused(body) == "feedback"


def test_a_batch_has_a_limit() -> None:
    assert refused({"feedback": [ACCEPTED] * 1001}) == "feedback"


def shown(client: FlaskClient, **members: Any) -> str:
    """The uuid of a card this client is shown now."""
    uuid: str = client.post("/cds-services/probe", json=call("patient-view", **members)).get_json()["cards"][0]["uuid"]
    return uuid


def tell(client: FlaskClient, *items: Any, service: str = "probe") -> None:
    response = client.post(f"/cds-services/{service}/feedback", json={"feedback": list(items)})
    assert (response.status_code, response.get_json()) == (200, {})


def kept(app: Any) -> list[tuple[str, str, bool]]:
    return [(row["card"], row["outcome"], row["matched"]) for row in state_of(app).export_feedback()]


def state_of(app: Any) -> Store:
    state: Store = app.extensions["ordersight"].state
    return state


def test_a_repeat_counts_once_and_another_outcome_counts_again(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client = app.test_client()
    card = shown(client)
    overridden, later = {**OVERRIDDEN, "card": card}, {**OVERRIDDEN, "card": card, "outcomeTimestamp": LATER}
    for _ in range(5):
        tell(client, overridden, overridden, later)
    assert kept(app) == [(card, "overridden", True)] * 2
    tell(client, {**ACCEPTED, "card": card})
    assert kept(app)[2] == (card, "accepted", True)


def test_a_card_this_service_did_not_show_is_kept_apart(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client = app.test_client()
    card = shown(client)
    tell(client, OVERRIDDEN)
    tell(client, {**OVERRIDDEN, "card": card}, service="twin")
    tell(client, {**OVERRIDDEN, "card": card, "outcomeTimestamp": LATER})
    assert [matched for *_, matched in kept(app)] == [False, False, True]


def test_a_card_of_one_tenant_says_nothing_of_the_same_card_at_another(
    make_app: Callable[..., Any], tmp_path: Path
) -> None:
    callers = {name: Caller(kid=name) for name in ("north", "south")}
    clients = []
    for name, caller in callers.items():
        keys = tmp_path / f"{name}.json"
        keys.write_text(json.dumps({"keys": [caller.jwk()]}))
        clients.append(Client(name, (), issuer=f"https://{name}.example.org", jwks_file=str(keys)))
    app = make_app(jwt="required", base_url=BASE, clients=Clients(clients), clock=lambda: NOW)

    def post(name: str, path: str, body: Any) -> Any:
        token = callers[name].token(f"{BASE}{path}", NOW.timestamp(), iss=f"https://{name}.example.org")
        return app.test_client().post(path, json=body, headers={"Authorization": f"Bearer {token}"})

    card = post("north", "/cds-services/probe", call("patient-view")).get_json()["cards"][0]["uuid"]
    for name in ("south", "north"):
        answer = post(name, "/cds-services/probe/feedback", {"feedback": [{**OVERRIDDEN, "card": card}]})
        assert answer.status_code == 200
    rows = [(row["tenant"], row["matched"]) for row in state_of(app).export_feedback()]
    assert rows == [("south", False), ("north", True)]


def test_what_was_acknowledged_is_known_after_a_restart(make_app: Callable[..., Any]) -> None:
    first = make_app()
    card = shown(first.test_client())
    tell(first.test_client(), {**OVERRIDDEN, "card": card}, ACCEPTED)
    first.extensions["ordersight"].close()
    again = make_app()
    tell(again.test_client(), {**OVERRIDDEN, "card": card}, ACCEPTED)
    tell(again.test_client(), {**OVERRIDDEN, "card": card, "outcomeTimestamp": LATER})
    assert [matched for *_, matched in kept(again)] == [True, False, True]


def test_no_acknowledged_feedback_is_lost_when_the_service_is_killed(plugin: Path, tmp_path: Path) -> None:
    """The short version over HTTP; tests/cds_service/state/test_kill9.py has the long one."""
    acknowledged: set[str] = set()
    for turn in range(3):
        with served(tmp_path / f"run{turn}", {"silent": SILENT}, state_dir=str(tmp_path / "state")) as running:
            url = f"{running.url}/cds-services/silent/feedback"

            def post(lane: int, url: str = url, turn: int = turn) -> list[str]:
                told: list[str] = []
                with contextlib.suppress(requests.RequestException):
                    for n in range(10_000):
                        card = f"card-{turn}-{lane}-{n}"
                        item = {**OVERRIDDEN, "card": card}
                        assert requests.post(url, json={"feedback": [item]}, timeout=60).status_code == 200
                        told.append(card)
                return told

            with ThreadPoolExecutor(4) as pool:
                lanes = [pool.submit(post, lane) for lane in range(4)]
                time.sleep(1.0)
                running.process.kill()
                acknowledged.update(*(lane.result() for lane in lanes))
    with Store.open(f"sqlite:///{tmp_path / 'state' / 'state.sqlite'}", outbox_bytes=0) as store:
        found = {row["card"] for row in store.export_feedback()}
        assert store.verify_audit().ok
    assert len(acknowledged) >= 30
    assert acknowledged <= found


def test_feedback_that_cannot_be_kept_is_503_and_taken_when_it_comes_again(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client: FlaskClient = app.test_client()
    locked = sqlite3.connect(app.extensions["ordersight"].settings.state_dir / "state.sqlite", isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    response = client.post("/cds-services/probe/feedback", json={"feedback": [ACCEPTED]})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.get_json()["resourceType"] == "OperationOutcome"
    locked.execute("ROLLBACK")
    locked.close()
    tell(client, ACCEPTED)
    assert len(kept(app)) == 1


def test_equal_messages_from_many_threads_count_once(make_app: Callable[..., Any]) -> None:
    app = make_app()
    gate = threading.Barrier(8)

    def add() -> None:
        gate.wait()
        tell(app.test_client(), ACCEPTED)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(add) for _ in range(8)]:
            future.result()
    assert len(kept(app)) == 1


def test_nothing_of_the_patient_is_kept_with_a_card_and_its_feedback(
    make_app: Callable[..., Any], tmp_path: Path
) -> None:
    app = make_app(clients=Clients([Client("demo", (FhirServer("http://127.0.0.1:9/fhir"),))]))
    client: FlaskClient = app.test_client()
    context = {"userId": f"Practitioner/{CANARY}", "patientId": CANARY, "encounterId": CANARY}
    card = shown(client, context=context, fhirServer="http://127.0.0.1:9/fhir")
    tell(client, {**OVERRIDDEN, "card": card}, OVERRIDDEN)
    assert [matched for *_, matched in kept(app)] == [True, False]
    app.extensions["ordersight"].close()
    files = [path for path in (tmp_path / "state").iterdir() if path.is_file()]
    assert any(path.name == "state.sqlite" for path in files)
    for path in files:
        assert CANARY.encode() not in path.read_bytes()


def test_one_wrong_message_keeps_the_whole_batch_out(make_app: Callable[..., Any]) -> None:
    app = make_app()
    client: FlaskClient = app.test_client()
    response = client.post("/cds-services/probe/feedback", json={"feedback": [ACCEPTED, {"card": CANARY}]})
    assert response.status_code == 400
    assert response.get_json()["issue"][0]["expression"] == ["feedback[1].outcome"]
    assert kept(app) == []
    assert client.post("/cds-services/nope/feedback", json={"feedback": []}).status_code == 404
