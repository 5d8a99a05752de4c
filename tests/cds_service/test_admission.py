"""Which calls are taken on, which are turned away, and what those are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from contexts import call
from outcomes import outcome

from cds_service.admission import Admission, TokenBuckets
from cds_service.deadline import Deadline
from cds_service.errors import Throttled, Unavailable
from cds_service.lanes import Lanes
from cds_service.trust.clients import Client, Clients, FhirServer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def take(admission: Admission, tenant: str, hook: str, clock: Clock, took: float = 0.0) -> None:
    with admission.call(tenant, hook, Deadline(clock.now + 5, clock)):
        clock.now += took


def test_a_caller_may_use_its_points_and_then_waits_for_more(clock: Clock) -> None:
    buckets = TokenBuckets(10.0, clock)
    assert [buckets.take("a", 5) for _ in range(4)] == [0.0] * 4, "two seconds' worth at once: 20 points"
    assert buckets.take("a", 5) == pytest.approx(0.5)
    assert buckets.take("b", 5) == 0.0, "another caller's bucket is full"
    clock.now += 0.5
    assert buckets.take("a", 5) == 0.0
    clock.now += 1000
    assert sum(buckets.take("a", 1) == 0.0 for _ in range(100)) == 20, "what is saved up is bounded"


@pytest.mark.parametrize(("hook", "calls"), [("patient-view", 40), ("order-sign", 8), ("order-select", 13)])
def test_a_hook_that_reads_more_costs_more(clock: Clock, hook: str, calls: int) -> None:
    admission = Admission(8, points_per_s=20.0, clock=clock)
    for _ in range(calls):
        take(admission, "a", hook, clock)
    with pytest.raises(Throttled) as refused:
        take(admission, "a", hook, clock)
    assert (refused.value.status, refused.value.issue) == (429, "throttled")
    assert 1 <= (refused.value.retry_after_s or 0) <= 4
    assert admission.shed == {"client": 1}


def test_one_of_several_tenants_may_hold_half_of_the_threads_and_a_single_one_all(clock: Clock) -> None:
    for tenants, most in ((1, 8), (2, 4), (5, 4)):
        admission = Admission(8, lambda n=tenants: n, clock=clock)
        held = [admission.call("a", "patient-view", Deadline(clock.now + 5, clock)) for _ in range(most)]
        for place in held:
            place.__enter__()
        with pytest.raises(Throttled):
            take(admission, "a", "patient-view", clock)
        take(admission, "b", "patient-view", clock)
        assert admission.in_flight() == {"a": most}
        held[0].__exit__(None, None, None)
        take(admission, "a", "patient-view", clock)


def test_a_place_is_given_back_when_a_call_fails(clock: Clock) -> None:
    admission = Admission(1, clock=clock)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), admission.call("a", "patient-view", Deadline(clock.now + 5, clock)):
            raise ZeroDivisionError
    assert admission.in_flight() == {}


def test_a_call_whose_time_has_passed_while_it_waited_is_turned_away(clock: Clock) -> None:
    admission = Admission(1, clock=clock)
    with pytest.raises(Unavailable), admission.call("a", "patient-view", Deadline(clock.now - 0.001, clock)):
        raise AssertionError
    assert admission.shed == {"late": 1}


def test_a_queue_is_as_long_as_can_be_answered_within_the_budget(clock: Clock) -> None:
    """Little's law by hand: 4 threads, 0.1 s a call: behind 3 others 4 x 0.1 / 4 = 0.1 s, and 0.1 s more."""
    admission = Admission(4, clock=clock, points_per_s=1e6)
    assert admission.room_to_wait(3, 0.5), "nothing is known yet, and fewer wait than there are threads"
    for _ in range(20):
        take(admission, "a", "patient-view", clock, took=0.1)
    assert admission.room_to_wait(3, 0.2)
    assert not admission.room_to_wait(3, 0.19)
    assert not admission.room_to_wait(4, 60.0), "never more than there are threads"
    clock.now += 31
    assert admission.room_to_wait(3, 0.19), "the pace of the last half minute"


def test_a_tenant_whose_calls_hang_does_not_have_anothers_turned_away(clock: Clock) -> None:
    """A's calls take 3 s, B's 0.1 s: behind 3 others on 4 threads B is answered after 0.1 + 0.1 s, as without A."""
    admission = Admission(4, lambda: 2, clock=clock, points_per_s=1e6)
    for _ in range(5):
        take(admission, "b", "patient-view", clock, took=0.1)
        take(admission, "a", "patient-view", clock, took=3.0)
    assert admission.room_to_wait(3, 0.2)
    assert not admission.room_to_wait(3, 0.19)
    clock.now += 28
    assert not admission.room_to_wait(0, 0.5), "now only A's last call is of the last half minute: 3 s"


def test_those_who_are_turned_away_are_not_told_to_come_back_together(clock: Clock) -> None:
    admission = Admission(1, clock=clock)
    assert {admission.turned_away("queue").retry_after_s for _ in range(200)} == {2, 3}


def test_a_client_over_its_share_gets_429_as_json_and_others_are_answered(make_app: Callable[..., Any]) -> None:
    servers = [(n, f"https://{n}.example.org/fhir") for n in ("a", "b")]
    clients = Clients([Client(name, (FhirServer(base),), tenant=name) for name, base in servers])
    client = make_app(clients, client_points_per_s=3).test_client()
    (_, one), (_, two) = servers
    prefetch = {"patient": None, "labs": None}
    # 6 points at once, 5 a call, 3 a second: the second call is one too many unless 1.3 s have passed.
    statuses = []
    while 429 not in statuses and len(statuses) < 10:
        refused = client.post("/cds-services/probe", json=call("order-sign", fhirServer=one, prefetch=prefetch))
        statuses.append(refused.status_code)
    assert set(statuses) == {200, 429}
    assert outcome(refused, 429)["code"] == "throttled"
    assert 1 <= int(refused.headers["Retry-After"]) <= 4
    other = client.post("/cds-services/probe", json=call("order-sign", fhirServer=two, prefetch=prefetch))
    assert other.status_code == 200
    for path in ("/healthz", "/readyz", "/cds-services"):
        assert client.get(path).status_code == 200
    assert client.post("/cds-services/probe/feedback", json={"feedback": []}).status_code in (200, 400)


# The lanes


class Request:
    def __init__(self, path: str, command: str = "POST", error: Any = None) -> None:
        self.path, self.command, self.error = path, command, error


class Task:
    """Stands in waitress's place of a channel: one request that takes until it is let go."""

    def __init__(self, request: Request, wait: threading.Event | None = None) -> None:
        self.requests = [request]
        self.wait = wait
        self.thread = ""
        self.done = threading.Event()

    def service(self) -> None:
        self.thread = threading.current_thread().name
        if self.wait is not None:
            self.wait.wait(10)
        self.done.set()

    def cancel(self) -> None:
        self.done.set()


def test_hanging_calls_keep_neither_health_nor_feedback_nor_a_refusal_waiting(clock: Clock) -> None:
    admission = Admission(2, clock=clock)
    lanes = Lanes(admission, lambda service: 0.5)
    go = threading.Event()
    held = [Task(Request("/cds-services/probe"), go) for _ in range(4)]
    for task in held:
        lanes.add_task(task)
    paths = (
        "/healthz",
        "/readyz",
        "/cds-services",
        "/nowhere",
        "/cds-services/probe/feedback",
        "/cds-services//x/feedback/",
    )
    for path in paths:
        quick = Task(Request(path, "POST" if "feedback" in path else "GET"))
        lanes.add_task(quick)
        assert quick.done.wait(20), path
        assert quick.requests[0].error is None
    refused = Task(Request("/cds-services/probe/"))
    lanes.add_task(refused)
    assert refused.done.wait(20)
    assert refused.requests[0].error.code == 503
    assert admission.shed == {"queue": 1}
    assert lanes.waiting() == 2
    go.set()
    assert all(task.done.wait(20) for task in held)
    assert all(task.requests[0].error is None for task in held)
    lanes.shutdown()


def test_a_stopped_dispatcher_cancels_what_still_waits(clock: Clock) -> None:
    lanes = Lanes(Admission(1, clock=clock), lambda service: 0.5)
    go = threading.Event()
    tasks = [Task(Request("/cds-services/probe"), go) for _ in range(2)]
    for task in tasks:
        lanes.add_task(task)
    assert lanes.shutdown(timeout=0.2)
    assert tasks[1].done.is_set()
    go.set()
