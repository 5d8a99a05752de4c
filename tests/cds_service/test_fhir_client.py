from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import pytest
from moody import (
    Mood,
    Moody,
    drip_body,
    drip_headers,
    endless,
    garble,
    half,
    hang,
    later,
    reply,
    reset,
    zipped,
)
from reading import (
    SLACK_S,
    TOKEN,
    always,
    bundle,
    call_of,
    client_of,
    in_turn,
    observation,
    soon,
    timed,
)

from cds_service.deadline import Deadline
from cds_service.fhir_client import FhirClient
from cds_service.prefetch import Absent, Answer, Failed, Sent
from cds_service.trust.clients import Client, FhirServer
from cds_service.trust.origins import Resolver

LABS = "Observation?patient=p1&code=http://loinc.org%7C2160-0"
FIRST = observation(1)


@pytest.fixture
def fhir_client() -> Iterator[FhirClient]:
    client = FhirClient()
    yield client
    client.close()


def read(client: FhirClient, server: Moody, query: str = LABS, deadline: Deadline | None = None) -> Answer:
    """Read as `gather` does: wait until the deadline at most, then end what still runs."""
    deadline = deadline or soon()
    reads = client.for_request(call_of(server.base), client_of(server))
    future = reads.read(query, "Observation", deadline)
    done, _ = wait([future], deadline.remaining())
    reads.abandon()
    return future.result() if done else Failed("timeout")


def test_the_token_goes_out_exactly_as_it_came_and_fhir_is_asked_for(fhir_client: FhirClient) -> None:
    with Moody(always(reply(bundle(FIRST)))) as server:
        assert read(fhir_client, server) == Sent((FIRST,))
        (seen,) = server.seen
    assert seen.path == f"/fhir/{LABS}"
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"
    assert seen.headers["accept"] == "application/fhir+json"


def test_an_open_server_is_read_without_a_token(fhir_client: FhirClient) -> None:
    with Moody(always(reply(bundle(FIRST)))) as server:
        reads = fhir_client.for_request(call_of(server.base, token=None), client_of(server))
        assert reads.read(LABS, "Observation", soon()).result() == Sent((FIRST,))
        assert "authorization" not in server.seen[0].headers


LATE = {
    "hang": hang,
    "drip headers": drip_headers,
    "drip body": drip_body,
    "answer late": later(3.0, reply(bundle(FIRST))),
}


@pytest.mark.parametrize("mood", LATE.values(), ids=LATE.keys())
def test_a_server_that_is_late_in_any_way_costs_the_deadline_and_its_thread_is_free_again(mood: Mood) -> None:
    client = FhirClient(fhir_in_flight=1)
    with Moody(in_turn(mood, reply(bundle(FIRST)))) as server:
        answer, took = timed(lambda: read(client, server, deadline=Deadline.after(0.4)))
        assert answer == Failed("timeout")
        assert took < 0.4 + SLACK_S
        assert mood is LATE["answer late"] or server.wait_until_idle(1.0)
        # The pool has one thread: were it still held, this read would wait for it.
        assert read(client, server, deadline=Deadline.after(1.5)) == Sent((FIRST,))
    client.close()


WRONG: dict[str, tuple[Mood, str]] = {
    "endless": (endless, "bad-answer"),
    "unauthorised": (reply({}, 401), "refused"),
    "forbidden": (reply({}, 403), "refused"),
    "too many requests": (reply({}, 429, Retry_After="3600"), "error"),
    "not found": (reply({}, 404), "error"),
    "server error": (reply({}, 500), "error"),
    "unavailable": (reply({}, 503, Retry_After="3600"), "error"),
    "junk": (reply(b"{]"), "bad-answer"),
    "empty": (reply(b""), "bad-answer"),
    "no content": (reply(b"", 204), "bad-answer"),
    "a page in HTML": (reply(b"<html>log in</html>", content_type="text/html"), "bad-answer"),
    "JSON called HTML": (reply(bundle(FIRST), content_type="text/html"), "bad-answer"),
    "another type": (reply({"resourceType": "Patient", "id": "p1"}), "bad-answer"),
    "not FHIR": (reply({"hello": 1}), "bad-answer"),
    "an outcome": (reply({"resourceType": "OperationOutcome", "issue": []}), "error"),
    "half a body": (half, "unreachable"),
    "reset": (reset, "unreachable"),
    "not HTTP": (garble, "unreachable"),
    "9 MB": (reply(b"[" + b"0," * 4_500_000 + b"0]"), "bad-answer"),
    "a bomb": (zipped(b'{"resourceType": "Bundle", "a": "' + b"a" * 200_000_000 + b'"}'), "bad-answer"),
    "not gzip": (reply(bundle(FIRST), Content_Encoding="gzip"), "bad-answer"),
    "another coding": (reply(bundle(FIRST), Content_Encoding="br"), "bad-answer"),
}


@pytest.mark.parametrize(("mood", "reason"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_answer_is_a_named_shortfall_and_the_next_read_is_normal(
    fhir_client: FhirClient, mood: Mood, reason: str
) -> None:
    with Moody(always(mood)) as server:
        assert read(fhir_client, server) == Failed(reason)  # type: ignore[arg-type]
        server.answer = always(reply(bundle(FIRST)))
        assert read(fhir_client, server) == Sent((FIRST,))


def test_a_compressed_answer_is_read(fhir_client: FhirClient) -> None:
    with Moody(always(zipped(json.dumps(bundle(FIRST)).encode()))) as server:
        assert read(fhir_client, server) == Sent((FIRST,))
        assert server.seen[0].headers["accept-encoding"] == "gzip"


def test_a_server_that_is_gone_is_unreachable_at_once(fhir_client: FhirClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}/fhir"
    reads = fhir_client.for_request(call_of(base), Client("x", (FhirServer(base),)))
    answer, took = timed(reads.read(LABS, "Observation", soon()).result)
    assert answer == Failed("unreachable")
    assert took < SLACK_S


def test_one_passing_fault_is_forgiven_and_a_second_is_not(fhir_client: FhirClient) -> None:
    with Moody(in_turn(reply({}, 503), reply(bundle(FIRST)))) as server:
        assert read(fhir_client, server) == Sent((FIRST,))
    with Moody(in_turn(reset, reply(bundle(FIRST)))) as server:
        assert read(fhir_client, server) == Sent((FIRST,))
    with Moody(always(reply({}, 503))) as server:
        assert read(fhir_client, server) == Failed("error")
        assert len(server.seen) == 2


@pytest.mark.parametrize("mood", [reply({}, 500), reply({}, 401), reply({}, 429), reply({}, 503, Retry_After="1")])
def test_what_a_second_try_cannot_mend_is_asked_once(fhir_client: FhirClient, mood: Mood) -> None:
    with Moody(always(mood)) as server:
        assert isinstance(read(fhir_client, server), Failed)
        assert len(server.seen) == 1


def test_there_is_no_second_try_when_less_than_a_third_of_the_time_is_left(fhir_client: FhirClient) -> None:
    with Moody(always(later(0.8, reply({}, 503)))) as server:
        assert read(fhir_client, server, deadline=Deadline.after(1.0)) == Failed("error")
        assert len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(fhir_client: FhirClient, status: int) -> None:
    with Moody(always(reply(bundle(FIRST))), host="127.0.0.2") as elsewhere:
        with Moody(always(reply(b"", status, Location=f"{elsewhere.base}/{LABS}"))) as server:
            assert read(fhir_client, server) == Failed("error")
        with Moody(in_turn(reply(b"", status, Location="/fhir/here"), reply(bundle(FIRST)))) as server:
            assert read(fhir_client, server) == Failed("error")
            assert len(server.seen) == 1
        assert elsewhere.contacts == 0


def test_pages_are_followed_with_the_token_until_there_is_no_next(fhir_client: FhirClient) -> None:
    with Moody(always(hang)) as server:
        links = [f"{server.base}?_getpages=a&page=2", f"{server.base}/Observation?page=3", None]
        server.answer = in_turn(*(reply(bundle(observation(i), next_link=link)) for i, link in enumerate(links)))
        assert read(fhir_client, server) == Sent((observation(0), observation(1), observation(2)))
        assert server.paths() == [f"/fhir/{LABS}", "/fhir?_getpages=a&page=2", "/fhir/Observation?page=3"]
        assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {TOKEN}"}


def counting(server: Moody, size: int = 1) -> Any:
    """A search without an end: every page has `size` entries and names one more page."""

    def answer(_: Any) -> Mood:
        n = len(server.seen)
        page = [observation(n * size + i) for i in range(size)]
        return reply(bundle(*page, next_link=f"{server.base}/Observation?page={n + 1}"))

    return answer


def test_a_search_without_an_end_stops_at_ten_pages_and_says_so(fhir_client: FhirClient) -> None:
    with Moody(always(hang)) as server:
        server.answer = counting(server)
        answer = read(fhir_client, server)
        assert isinstance(answer, Sent)
        assert (len(answer.resources), answer.partial, len(server.seen)) == (10, True, 10)


def test_a_search_stops_once_it_has_two_thousand_entries(fhir_client: FhirClient) -> None:
    with Moody(always(hang)) as server:
        server.answer = counting(server, size=700)
        answer = read(fhir_client, server)
        assert isinstance(answer, Sent)
        assert (len(answer.resources), answer.partial, len(server.seen)) == (2100, True, 3)


def test_all_pages_together_are_bounded_in_bytes(fhir_client: FhirClient) -> None:
    big = {**observation(1), "note": [{"text": "x" * 5_000_000}]}
    with Moody(always(hang)) as server:
        server.answer = in_turn(reply(bundle(big, next_link=f"{server.base}/Observation?page=2")), reply(bundle(big)))
        assert read(fhir_client, server) == Sent((big,), partial=True)


def test_a_page_that_names_itself_or_an_earlier_one_ends_the_search(fhir_client: FhirClient) -> None:
    with Moody(always(hang)) as server:
        server.answer = always(reply(bundle(FIRST, next_link=f"{server.base}/{LABS}")))
        assert read(fhir_client, server) == Sent((FIRST,), partial=True)
        assert len(server.seen) == 1


@pytest.mark.parametrize("mood", [reply({}, 500), reset, reply(b"junk"), reply({}, 401)])
def test_a_page_that_fails_leaves_what_came_before_it(fhir_client: FhirClient, mood: Mood) -> None:
    with Moody(always(hang)) as server:
        server.answer = in_turn(reply(bundle(FIRST, next_link=f"{server.base}/Observation?page=2")), mood)
        assert read(fhir_client, server) == Sent((FIRST,), partial=True)


def test_a_last_page_may_be_empty(fhir_client: FhirClient) -> None:
    with Moody(always(hang)) as server:
        server.answer = in_turn(reply(bundle(FIRST, next_link=f"{server.base}/Observation?page=2")), reply(bundle()))
        assert read(fhir_client, server) == Sent((FIRST,))


def test_a_search_that_finds_nothing_is_an_absence(fhir_client: FhirClient) -> None:
    with Moody(always(reply(bundle()))) as server:
        assert read(fhir_client, server) == Absent()


def test_next_links_to_other_servers_are_not_contacted(fhir_client: FhirClient) -> None:
    with Moody(always(reply(bundle(observation(2)))), host="127.0.0.2") as elsewhere, Moody(always(hang)) as server:
        there, here = f"127.0.0.2:{elsewhere.port}", f"127.0.0.1:{server.port}"
        for link in (
            f"http://{there}/fhir/Observation?page=2",
            f"//{there}/fhir/Observation?page=2",
            f"http://{here}@{there}/fhir/Observation?page=2",
            f"http://{there}\\@{here}/fhir/Observation?page=2",
            f"http://{there}#@{here}/fhir/Observation?page=2",
            f"HTTP://{there}/fhir/Observation?page=2",
            f"https://{there}/fhir/Observation?page=2",
            f"/\\{there}/fhir/Observation?page=2",
            f"http:/{there}/fhir/Observation?page=2",
            f"http://2130706434:{elsewhere.port}/fhir/Observation?page=2",
            f"http://0177.0.0.2:{elsewhere.port}/fhir/Observation?page=2",
            f"http://{here}/other/Observation?page=2",
            f"http://{here}/fhir/../other/Observation?page=2",
        ):
            server.answer, before = always(reply(bundle(FIRST, next_link=link))), len(server.seen)
            assert read(fhir_client, server) == Sent((FIRST,), partial=True), link
            assert len(server.seen) == before + 1, link
        assert elsewhere.contacts == 0


def test_a_fhir_server_that_is_not_registered_is_not_contacted_however_it_is_spelled(fhir_client: FhirClient) -> None:
    with Moody(always(reply(bundle(FIRST))), host="127.0.0.2") as elsewhere, Moody(always(hang)) as server:
        there, here = f"127.0.0.2:{elsewhere.port}", f"127.0.0.1:{server.port}"
        for url in (
            f"http://{there}/fhir",
            f"http://{here}@{there}/fhir",
            f"http://{here}:x@{there}/fhir",
            f"http://{there}\\@{here}/fhir",
            f"http://{there}#@{here}/fhir",
            f"http://{there}?@{here}/fhir",
            f"http://{there}/fhir?x=http://{here}/fhir",
            f"http://{there}/{here}/fhir",
            f"HTTP://{there}/fhir",
            f"http://2130706434:{elsewhere.port}/fhir",
            f"http://0x7f000002:{elsewhere.port}/fhir",
            f"http://0177.0.0.2:{elsewhere.port}/fhir",
            f"http://127.2:{elsewhere.port}/fhir",
            f"http://[::ffff:127.0.0.2]:{elsewhere.port}/fhir",
            f"http://{here}/fhir/../../fhir",
            f"http://{here}/fhir/%2e%2e/fhir",
            f"http://{here}/other",
            f"http://{here}/fhir2",
            f"http://{here}/fhir#x",
            f"http://{here}/fhir?x=1",
            f" http://{here}/fhir",
            f"http://{here}\t/fhir",
            f"http://localhost:{server.port}/fhir",
            f"https://{here}/fhir",
        ):
            request = call_of(server.base)
            object.__setattr__(request, "fhir_server", url)  # as if hooks.py had let it through
            reads = fhir_client.for_request(request, client_of(server))
            assert reads.read(LABS, "Observation", soon()).result() == Failed("not-allowed"), url
        assert elsewhere.contacts == 0
        assert server.contacts == 0


def test_a_server_of_another_client_is_not_read(fhir_client: FhirClient) -> None:
    with Moody(always(reply(bundle(FIRST)))) as server, Moody(always(reply(bundle(FIRST)))) as other:
        request = call_of(server.base)
        for client in (None, client_of(), client_of(other)):
            assert fhir_client.for_request(request, client).read(LABS, None, soon()).result() == Failed("not-allowed")
        unnamed = fhir_client.for_request(call_of(None), client_of(server))
        assert unnamed.read(LABS, None, soon()).result() == Failed("no-access")
        assert server.contacts == other.contacts == 0


@pytest.mark.parametrize("token", ["a b", "a\r\nX-Evil: 1", "ü", ""])
def test_a_token_that_would_break_its_header_is_not_sent(fhir_client: FhirClient, token: Any) -> None:
    class Authorization:
        access_token = token

    with Moody(always(reply(bundle(FIRST)))) as server:
        request = call_of(server.base)
        object.__setattr__(request, "fhir_authorization", Authorization())
        reads = fhir_client.for_request(request, client_of(server))
        assert reads.read(LABS, None, soon()).result() == Failed("no-access")
        assert server.contacts == 0


def test_a_registered_name_that_leads_inside_is_not_contacted() -> None:
    with Moody(always(reply(bundle(FIRST))), host="127.0.0.2") as inside:
        base = f"https://ehr.example.org:{inside.port}/fhir"
        for private in (False, True):
            client = FhirClient(resolver=Resolver(lambda host, port: ["127.0.0.2"]))
            reads = client.for_request(call_of(base), Client("x", (FhirServer(base, (), private),)))
            assert reads.read(LABS, None, soon()).result() == Failed("not-allowed")
            client.close()
        assert inside.contacts == 0


def test_a_name_whose_address_changes_after_the_check_is_contacted_where_it_was_checked() -> None:
    answers = [["192.0.2.1"], ["127.0.0.2"]]  # 192.0.2.0/24 is for documentation and answers nothing (RFC 5737)
    with Moody(always(reply(bundle(FIRST))), host="127.0.0.2") as inside:
        base = f"https://ehr.example.org:{inside.port}/fhir"
        client = FhirClient(resolver=Resolver(lambda host, port: answers.pop(0)))
        reads = client.for_request(call_of(base), Client("x", (FhirServer(base, (), True),)))
        future = reads.read(LABS, None, Deadline.after(0.3))
        assert future.result(2) in (Failed("timeout"), Failed("unreachable"))
        assert len(answers) == 1
        assert inside.contacts == 0
        client.close()


def test_a_name_server_that_does_not_answer_costs_the_deadline() -> None:
    release = threading.Event()

    def never(host: str, port: int) -> list[str]:
        release.wait(10)
        raise OSError

    client = FhirClient(resolver=Resolver(never))
    base = "https://ehr.example.org/fhir"
    reads = client.for_request(call_of(base), Client("x", (FhirServer(base),)))
    answer, took = timed(lambda: reads.read(LABS, None, Deadline.after(0.3)).result(2))
    assert answer == Failed("timeout")
    assert took < 0.3 + SLACK_S
    release.set()
    client.close()


def test_nothing_of_one_call_is_carried_into_the_next() -> None:
    client = FhirClient(fhir_in_flight=1)  # one thread, so both calls use the same session
    with Moody(always(reply(bundle(FIRST), Set_Cookie="who=the-first-patient; Path=/"))) as server:
        read(client, server)
        reads = client.for_request(call_of(server.base, token=None), client_of(server))
        reads.read(LABS, None, soon()).result()
        second = server.seen[1].headers
        assert "cookie" not in second
        assert "authorization" not in second
        assert server.contacts == 1  # the connection is what is kept
    client.close()


def test_settings_of_the_machine_do_not_redirect_a_read(
    fhir_client: FhirClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with Moody(always(hang), host="127.0.0.2") as proxy, Moody(always(reply(bundle(FIRST)))) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.2:{proxy.port}")
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login someone password secret")
        monkeypatch.setenv("NETRC", str(netrc))
        reads = fhir_client.for_request(call_of(server.base, token=None), client_of(server))
        assert reads.read(LABS, None, soon()).result() == Sent((FIRST,))
        assert "authorization" not in server.seen[0].headers
        assert proxy.contacts == 0


def test_a_server_that_hangs_does_not_hold_up_its_neighbour() -> None:
    client = FhirClient(fhir_in_flight=2)
    with Moody(always(hang)) as hung, Moody(always(reply(bundle(FIRST)))) as healthy:
        held = client.for_request(call_of(hung.base), client_of(hung))
        futures = [held.read(LABS, None, soon()) for _ in range(20)]
        answer, took = timed(lambda: read(client, healthy))
        assert answer == Sent((FIRST,))
        assert took < SLACK_S
        assert hung.most_at_once <= 2
        held.abandon()
        wait(futures, 2)
        assert all(f.cancelled() or f.result() == Failed("timeout") for f in futures)
        assert hung.wait_until_idle(2.0)
    client.close()


def test_ending_one_call_leaves_the_reads_of_another_alone(fhir_client: FhirClient) -> None:
    with Moody(always(later(0.3, reply(bundle(FIRST))))) as server:
        one = fhir_client.for_request(call_of(server.base), client_of(server))
        other = fhir_client.for_request(call_of(server.base), client_of(server))
        ended, kept = one.read(LABS, None, soon()), other.read(LABS, None, soon())
        time.sleep(0.1)
        one.abandon()
        assert ended.result(1) == Failed("timeout")
        assert kept.result(2) == Sent((FIRST,))
        one.abandon()
        assert other.read(LABS, None, soon()).result(2) == Sent((FIRST,))
        assert one.read(LABS, None, soon()).result(2) == Failed("timeout")


def test_no_address_token_or_patient_is_in_a_log_or_a_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = FhirClient()
    for mood in (reset, half, garble, reply(b"{]"), reply({}, 401), reply(b"", 302, Location="http://x/canary")):
        with Moody(always(mood)) as server:
            read(client, server, "Observation?patient=canary-patient")
            reads = client.for_request(call_of(server.base), client_of(server))
            assert "canary" not in repr(reads)
    assert "canary" not in caplog.text
    client.close()
