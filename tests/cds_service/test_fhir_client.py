from __future__ import annotations

from concurrent.futures import wait
from typing import Any

import pytest
from moody import (
    Mood,
    Moody,
    hang,
    reply,
    reset,
)
from reading import (
    FIRST,
    LABS,
    SLACK_S,
    TOKEN,
    always,
    bundle,
    call_of,
    client_of,
    in_turn,
    observation,
    read,
    soon,
    timed,
)

from cds_service.fhir_client import FhirClient
from cds_service.prefetch import Absent, Failed, Sent

pytestmark = pytest.mark.in_time


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
