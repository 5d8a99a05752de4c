"""Feedback: read leniently, counted once, matched to the cards we showed, and never lost once acknowledged."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from contexts import call
from flask.testing import FlaskClient

from cds_service.cards import Card, Coding, Source, Suggestion
from cds_service.errors import BadRequest
from cds_service.feedback import Counts, FeedbackLog, parse_feedback
from cds_service.manifest import Service
from cds_service.trust.clients import Client, Clients, FhirServer

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
CANARY = "Zebra7Canary"
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
SERVICE = Service("probe", ("patient-view",), "t", "d", "probe", {}, {})


def read(*items: Any) -> Any:
    return parse_feedback(json.dumps({"feedback": list(items)}).encode())


def refused(body: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        parse_feedback(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert CANARY not in caught.value.diagnostics
    return caught.value.expression


@pytest.fixture
def store(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "feedback.jsonl")


def card(**members: Any) -> Card:
    return Card("something", "info", Source("Test", topic=Coding("IS-01", "urn:test")), **members)


def about(shown: Card, **members: Any) -> dict[str, Any]:
    return {**OVERRIDDEN, "card": shown.uuid, **members}


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


def test_a_repeat_counts_once_and_another_outcome_counts_again(store: FeedbackLog) -> None:
    shown = card(suggestions=(Suggestion("s"),), selection_behavior="any")
    store.shown([shown], SERVICE, "i", "t", NOW)
    items = read(about(shown), about(shown), about(shown, outcomeTimestamp="2026-11-23T08:59:01Z"))
    assert store.add(items, "probe", "t", NOW) == Counts(new=2, repeated=1, unmatched=0)
    for _ in range(5):
        assert store.add(items, "probe", "t", NOW) == Counts(new=0, repeated=3, unmatched=0)
    accepted = read({**ACCEPTED, "card": shown.uuid})
    assert store.add(accepted, "probe", "t", NOW) == Counts(1, 0, 0)


def test_a_card_we_did_not_show_to_this_caller_is_kept_apart(store: FeedbackLog) -> None:
    shown = card()
    store.shown([shown], SERVICE, "i", "tenant-a", NOW)
    assert store.add(read(OVERRIDDEN), "probe", "tenant-a", NOW) == Counts(1, 0, unmatched=1)
    assert store.add(read(about(shown)), "probe", "tenant-b", NOW) == Counts(1, 0, unmatched=1)
    assert store.add(read(about(shown)), "another-service", "tenant-a", NOW).unmatched == 1
    assert (
        store.add(read(about(shown, outcomeTimestamp="2026-11-23T08:59:09Z")), "probe", "tenant-a", NOW).unmatched == 0
    )


def test_what_was_acknowledged_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    first = FeedbackLog(path)
    shown = card()
    first.shown([shown], SERVICE, "i", "t", NOW)
    assert first.add(read(about(shown), ACCEPTED), "probe", "t", NOW) == Counts(2, 0, 1)
    first.close()
    again = FeedbackLog(path)
    assert again.add(read(about(shown), ACCEPTED), "probe", "t", NOW) == Counts(0, 2, 0)
    assert again.add(read(about(shown, outcomeTimestamp="2026-11-23T08:00:00Z")), "probe", "t", NOW).unmatched == 0
    assert path.stat().st_mode & 0o077 == 0


def test_half_a_line_left_by_a_crash_costs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    first = FeedbackLog(path)
    first.add(read(ACCEPTED), "probe", "t", NOW)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"kind":"feedback","card":"hal')
    second = FeedbackLog(path)
    assert second.add(read(ACCEPTED, OVERRIDDEN), "probe", "t", NOW) == Counts(1, 1, 1)
    second.close()
    assert FeedbackLog(path).add(read(ACCEPTED, OVERRIDDEN), "probe", "t", NOW) == Counts(0, 2, 0)


CRASH = """
import json, os, sys
from datetime import datetime, UTC
from pathlib import Path
from cds_service.feedback import FeedbackLog, parse_feedback
log = FeedbackLog(Path(sys.argv[1]))
for i in range(10_000):
    item = {"card": f"c{i}", "outcome": "overridden", "outcomeTimestamp": "2026-11-23T08:59:00Z"}
    log.add(parse_feedback(json.dumps({"feedback": [item]}).encode()), "probe", "t", datetime.now(UTC))
    os.write(1, b"%d\\n" % i)
"""


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    process = subprocess.Popen([sys.executable, "-c", CRASH, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(50)]
    process.kill()
    acknowledged += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    items = [{**OVERRIDDEN, "card": f"c{int(line)}", "overrideReason": None} for line in acknowledged]
    assert len(items) >= 50
    assert FeedbackLog(path).add(read(*items), "probe", "t", NOW).new == 0


def test_a_full_disk_is_503_never_an_acknowledgement(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    code = (
        "import resource, signal, sys, json; from datetime import datetime, UTC; from pathlib import Path\n"
        "from cds_service.feedback import FeedbackLog, parse_feedback\n"
        "from cds_service.errors import Unavailable\n"
        "log = FeedbackLog(Path(sys.argv[1])); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "items = parse_feedback(sys.stdin.buffer.read())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))\n"
        "try: log.add(items, 'probe', 't', datetime.now(UTC))\n"
        "except Unavailable as error: print('503', error.retry_after_s)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "print(log.add(items, 'probe', 't', datetime.now(UTC)).new)\n"
    )
    body = json.dumps({"feedback": [ACCEPTED]}).encode()
    done = subprocess.run([sys.executable, "-c", code, str(path)], input=body, capture_output=True, check=True)
    assert done.stdout.split() == [b"503", b"30", b"1"]
    assert len(path.read_bytes().splitlines()) == 1


def test_equal_messages_from_many_threads_count_once(store: FeedbackLog) -> None:
    gate = threading.Barrier(8)

    def add() -> int:
        gate.wait()
        return store.add(read(ACCEPTED), "probe", "t", NOW).new

    with ThreadPoolExecutor(8) as pool:
        assert sum(f.result() for f in [pool.submit(add) for _ in range(8)]) == 1


def test_over_http_a_card_that_was_shown_is_matched_and_nothing_of_the_patient_is_kept(
    make_app: Callable[..., Any], tmp_path: Path
) -> None:
    registered = Clients([Client("demo", (FhirServer("http://127.0.0.1:9/fhir"),))])
    client: FlaskClient = make_app(clients=registered).test_client()
    context = {"userId": f"Practitioner/{CANARY}", "patientId": CANARY}
    body = call("patient-view", context=context, fhirServer="http://127.0.0.1:9/fhir")
    shown = client.post("/cds-services/probe", json=body).get_json()["cards"][0]
    for _ in range(2):
        response = client.post("/cds-services/probe/feedback", json={"feedback": [about_json(shown), OVERRIDDEN]})
        assert (response.status_code, response.get_json()) == (200, {})
    lines = [json.loads(line) for line in (tmp_path / "state" / "feedback.jsonl").read_text().splitlines()]
    assert [(line["kind"], line.get("matched")) for line in lines] == [
        ("shown", None),
        ("feedback", True),
        ("feedback", False),
    ]
    assert lines[0]["card"] == shown["uuid"]
    assert lines[0]["hookInstance"] == body["hookInstance"]
    assert CANARY not in json.dumps(lines)


def about_json(shown: dict[str, Any]) -> dict[str, Any]:
    return {**OVERRIDDEN, "card": shown["uuid"]}


def test_over_http_one_wrong_message_keeps_the_whole_batch_out(make_app: Callable[..., Any], tmp_path: Path) -> None:
    client: FlaskClient = make_app().test_client()
    response = client.post("/cds-services/probe/feedback", json={"feedback": [ACCEPTED, {"card": CANARY}]})
    assert response.status_code == 400
    assert response.get_json()["issue"][0]["expression"] == ["feedback[1].outcome"]
    assert (tmp_path / "state" / "feedback.jsonl").read_text() == ""
    assert client.post("/cds-services/nope/feedback", json={"feedback": []}).status_code == 404
