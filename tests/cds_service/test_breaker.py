"""When a server is left alone, when it is tried again, and what is never held against it."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

import pytest
from moody import Mood, Moody, hang, later, reply, reset
from reading import FIRST, SLACK_S, always, bundle, call_of, read, timed

from cds_service.breaker import Breaker, Breakers, Limits, RetryBudget
from cds_service.deadline import Deadline
from cds_service.evidence import Reason
from cds_service.fhir_client import FhirClient
from cds_service.prefetch import Failed, Sent
from cds_service.trust.clients import Client, FhirServer

pytestmark = pytest.mark.in_time


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def breaker_on(clock: Clock, **limits: Any) -> Breaker:
    return Breaker(Limits(**limits), clock, jitter=lambda: 0.0)


def happened(breaker: Breaker, *results: bool) -> None:
    for good in results:
        permit = breaker.allow()
        assert permit is not None
        permit.ended(good=good)


def test_seven_failures_are_not_enough_and_eight_are() -> None:
    breaker = breaker_on(Clock())
    happened(breaker, *[False] * 7)
    assert breaker.state == "closed"
    happened(breaker, False)
    assert breaker.state == "open"
    assert breaker.refuses()
    assert breaker.allow() is None


def test_less_than_half_of_the_newest_twenty_calls_failed_leaves_it_closed() -> None:
    breaker = breaker_on(Clock())
    happened(breaker, *[True, True, False] * 20)
    assert breaker.state == "closed"
    # Seven of the newest twenty are bad; each further one pushes out the oldest: good, bad, good, good.
    happened(breaker, *[False] * 3)
    assert breaker.state == "closed"
    happened(breaker, False)
    assert breaker.state == "open"


def test_failures_older_than_thirty_seconds_no_longer_count() -> None:
    clock = Clock()
    breaker = breaker_on(clock)
    happened(breaker, *[False] * 7)
    clock.now += 31
    happened(breaker, *[False] * 7)
    assert breaker.state == "closed"
    happened(breaker, False)
    assert breaker.state == "open"


def test_after_five_seconds_one_call_at_a_time_is_a_trial_and_three_good_ones_close_it() -> None:
    clock = Clock()
    breaker = breaker_on(clock)
    happened(breaker, *[False] * 8)
    clock.now += 4.9
    assert breaker.allow() is None
    clock.now += 0.2
    assert breaker.state == "half-open"
    for _ in range(3):
        trial = breaker.allow()
        assert trial is not None
        assert breaker.allow() is None, "a second call beside the trial"
        trial.ended(good=True)
    assert breaker.state == "closed"
    happened(breaker, *[False] * 7)
    assert breaker.state == "closed", "what happened before it closed is forgotten"


def test_each_failed_trial_doubles_the_pause_up_to_a_minute_and_closing_forgets_that() -> None:
    clock = Clock()
    breaker = breaker_on(clock)
    happened(breaker, *[False] * 8)
    for pause in (5, 10, 20, 40, 60, 60, 60):
        clock.now += pause - 0.1
        assert breaker.allow() is None, pause
        clock.now += 0.2
        happened(breaker, False)
    clock.now += 60
    happened(breaker, True, True, True)
    happened(breaker, *[False] * 8)
    clock.now += 5
    assert breaker.state == "half-open"


def test_a_trial_that_says_nothing_makes_room_for_the_next() -> None:
    clock = Clock()
    breaker = breaker_on(clock)
    happened(breaker, *[False] * 8)
    clock.now += 5
    trial = breaker.allow()
    assert trial is not None
    trial.without_evidence()
    trial.ended(good=False)
    assert breaker.state == "half-open"
    happened(breaker, True, True, True)
    assert breaker.state == "closed"


def test_a_call_begun_before_the_state_changed_says_nothing_about_now() -> None:
    clock = Clock()
    breaker = breaker_on(clock)
    early = [breaker.allow() for _ in range(20)]
    happened(breaker, *[False] * 8)
    clock.now += 5
    happened(breaker, True)  # half open now
    for permit in early:
        assert permit is not None
        permit.ended(good=False)
    assert breaker.state == "half-open"


@pytest.mark.parametrize(("asked", "pause"), [(20.0, 20.0), (3600.0, 60.0), (1.0, 5.0)])
def test_a_server_that_asks_to_be_left_alone_is_at_once_but_for_a_minute_at_most(asked: float, pause: float) -> None:
    clock = Clock()
    breaker = breaker_on(clock)
    permit = breaker.allow()
    assert permit is not None
    permit.ended(good=False, wait_s=asked)
    clock.now += pause - 0.1
    assert breaker.state == "open"
    clock.now += 0.2
    assert breaker.state == "half-open"


def test_a_pause_is_never_lengthened_by_jitter_and_shortened_by_a_fifth_at_most() -> None:
    rng = random.Random(7)
    ends = []
    for _ in range(200):
        clock = Clock()
        breaker = Breaker(Limits(), clock, rng.random)
        happened(breaker, *[False] * 8)
        while breaker.state == "open":
            clock.now += 0.01
        ends.append(clock.now - 1000)
    assert 4.0 <= min(ends) < 4.2
    assert 4.8 < max(ends) <= 5.02


def test_a_tenth_of_the_calls_may_be_retries() -> None:
    budget = RetryBudget()
    assert sum(budget.retry() for _ in range(100)) == 10, "what a quiet process has saved up"
    retried = 0
    for _ in range(1000):
        budget.called()
        retried += budget.retry()
    assert 98 <= retried <= 100


# Wired into the reads of a call


def reads_of(client: FhirClient, server: Moody, tenant: str = "") -> Any:
    return client.for_request(call_of(server.base), Client("hospital", (FhirServer(server.base),), tenant=tenant))


def until_open(client: FhirClient) -> None:
    """The thread of a read that was given up says so a moment later."""
    until = time.monotonic() + 2
    while client.breakers.states()[0].state != "open" and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.parametrize(
    "mood",
    [hang, later(2.0, reply(bundle(FIRST))), reply({}, 500), reply({}, 429), reset, reply(b"", Content_Encoding="x")],
)
def test_after_eight_failures_a_call_costs_next_to_nothing(fhir_client: FhirClient, mood: Mood) -> None:
    with Moody(always(mood)) as server:
        for _ in range(8):
            assert isinstance(read(fhir_client, server, deadline=Deadline.after(0.25)), Failed)
        until_open(fhir_client)
        asked = len(server.seen)
        took = []
        for _ in range(20):
            answer, seconds = timed(lambda: read(fhir_client, server, deadline=Deadline.after(0.5)))
            assert answer == Failed("unreachable")
            took.append(seconds)
        assert statistics.median(took) < 0.1
        assert len(server.seen) == asked, "an open breaker asks nothing"
        (state,) = fhir_client.breakers.states()
        assert (state.tenant, state.kind, state.base, state.state) == ("hospital", "fhir", server.base, "open")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 302])
def test_what_is_not_the_servers_fault_is_not_held_against_it(fhir_client: FhirClient, status: int) -> None:
    with Moody(always(reply({}, status))) as server:
        for _ in range(30):
            answer = read(fhir_client, server)
        expected: Reason = "refused" if status in (401, 403) else "error"
        assert answer == Failed(expected)
        assert len(server.seen) == 30


def test_a_read_that_had_hardly_any_time_says_nothing_about_the_server(fhir_client: FhirClient) -> None:
    with Moody(always(later(0.3, reply(bundle(FIRST))))) as server:
        for _ in range(12):
            assert read(fhir_client, server, deadline=Deadline.after(0.05)) == Failed("timeout")
        assert read(fhir_client, server) == Sent((FIRST,))


def test_a_healed_server_is_read_again() -> None:
    client = FhirClient(breakers=Breakers(Limits(open_s=0.5)))
    with Moody(always(reply({}, 500))) as server:
        for _ in range(10):
            read(client, server)
        server.answer = always(reply(bundle(FIRST)))
        healed = time.monotonic()
        answer = read(client, server)
        assert answer == Failed("unreachable")
        while answer != Sent((FIRST,)) and time.monotonic() - healed < 5:
            time.sleep(0.02)
            answer = read(client, server)
        assert time.monotonic() - healed < 0.5 + SLACK_S
        assert [read(client, server) for _ in range(5)] == [Sent((FIRST,))] * 5
        assert client.breakers.states()[0].state == "closed"
    client.close()


def test_one_tenants_outage_is_no_other_tenants(fhir_client: FhirClient) -> None:
    with Moody(always(reply({}, 500))) as server:
        for _ in range(8):
            reads_of(fhir_client, server, "a").read("Patient/p1", "Patient", Deadline.after(1)).result()
        server.answer = always(reply(bundle(FIRST)))
        one, two = (
            reads_of(fhir_client, server, t).read("Observation", "Observation", Deadline.after(1)).result()
            for t in ("a", "b")
        )
        assert (one, two) == (Failed("unreachable"), Sent((FIRST,)))


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_to_come_back_is_not_asked_before(fhir_client: FhirClient, status: int) -> None:
    with Moody(always(reply({}, status, Retry_After="3600"))) as server:
        assert read(fhir_client, server) == Failed("error")
        answer, took = timed(lambda: read(fhir_client, server))
        assert (answer, len(server.seen)) == (Failed("unreachable"), 1)
        assert took < SLACK_S


def test_retries_are_a_tenth_of_the_calls_in_the_long_run() -> None:
    client = FhirClient(breakers=Breakers(Limits(share=2.0)))  # a breaker that never opens
    with Moody(always(reply({}, 503))) as server:
        for _ in range(200):
            assert read(client, server) == Failed("error")
        assert 200 + 10 < len(server.seen) <= 200 + 10 + 20
    client.close()
