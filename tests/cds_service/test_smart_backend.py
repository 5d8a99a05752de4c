"""Our own access to an EHR, by SMART Backend Services, against an authorization server that checks what it should."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from authorization import App, Authorization, authorization_server
from moody import Moody, Seen, reply

from cds_service.deadline import Deadline
from cds_service.transport import Ask, Call, FetchFailed, Transport
from cds_service.trust.authorization_servers import Directory
from cds_service.trust.clients import Client, FhirServer
from cds_service.trust.private_keys import load_keys, new_key, public_set
from cds_service.trust.registrations import Backend, Launch, Smart
from cds_service.trust.smart_backend import BackendTokens

SCOPES = ("system/Patient.rs", "system/Observation.rs")
SOON = 5.0


@pytest.fixture
def ehr() -> Iterator[Authorization]:
    with authorization_server() as found:
        yield found


@pytest.fixture(params=["ES384", "RS384"])
def key_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "backend.jwk"
    new_key(path, request.param)
    return path


@pytest.fixture
def es_key(tmp_path: Path) -> Path:
    path = tmp_path / "backend.jwk"
    new_key(path)
    return path


def registered(ehr: Authorization, key_file: Path, **smart: Any) -> Client:
    ehr.apps["ordersight"] = App("ordersight", jwks=public_set(load_keys(key_file)))
    backend = Backend("ordersight", str(key_file), SCOPES)
    return Client("general", (FhirServer(ehr.fhir, smart=Smart(backend=backend, **smart)),))


def made(clock: list[float] | None = None) -> BackendTokens:
    return BackendTokens(Directory(Transport()), clock=(lambda: clock[0]) if clock else time.monotonic)


def token_of(tokens: BackendTokens, client: Client, seconds: float = SOON) -> str:
    return tokens.token(client, client.fhir[0].base, Deadline.after(seconds))


def read_patient(client: Client, token: str) -> bytes:
    call = Call(client.fhir[0].fhir_base(), Deadline.after(SOON))
    return Transport().get(call, Ask("Patient/p1", "application/fhir+json", 10_000, token)).body


def refusal(tokens: BackendTokens, client: Client, seconds: float = SOON) -> str:
    with pytest.raises(FetchFailed) as caught:
        token_of(tokens, client, seconds)
    return caught.value.reason


def test_a_server_that_checks_the_assertion_gives_a_token_that_reads(ehr: Authorization, key_file: Path) -> None:
    client = registered(ehr, key_file)
    token = token_of(made(), client)
    assert json.loads(read_patient(client, token))["id"] == "p1"
    (form,) = ehr.forms
    assert form["grant_type"] == "client_credentials"
    assert form["scope"] == "system/Patient.rs system/Observation.rs"


def test_a_token_is_asked_for_once_and_anew_shortly_before_its_end(ehr: Authorization, es_key: Path) -> None:
    client, clock = registered(ehr, es_key), [1000.0]
    tokens = made(clock)
    first = token_of(tokens, client)
    clock[0] += 269  # of 300 s, 30 s early
    assert token_of(tokens, client) == first
    clock[0] += 2
    assert token_of(tokens, client) != first
    assert ehr.asked.count("/token") == 2
    assert ehr.asked.count("/fhir/.well-known/smart-configuration") == 1


def test_a_token_whose_end_is_not_said_is_used_once(ehr: Authorization, es_key: Path) -> None:
    client, tokens, ehr.expires_in = registered(ehr, es_key), made(), None
    assert token_of(tokens, client) != token_of(tokens, client)


def test_sixteen_readers_at_once_cost_one_token_request(ehr: Authorization, es_key: Path) -> None:
    client, tokens, ehr.hang_s = registered(ehr, es_key), made(), 0.2
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: token_of(tokens, client), range(16)))) == 1
    assert ehr.asked.count("/token") == 1


def test_after_a_401_the_read_is_tried_once_more_with_a_new_token(ehr: Authorization, es_key: Path) -> None:
    client, tokens = registered(ehr, es_key), made()
    first = token_of(tokens, client)
    ehr.tokens.clear()  # revoked
    body = tokens.reading(client, client.fhir[0].base, Deadline.after(SOON), lambda t: read_patient(client, t))
    assert json.loads(body)["id"] == "p1"
    assert token_of(tokens, client) != first
    used: list[str] = []

    def never(token: str) -> None:
        used.append(token)
        raise FetchFailed("refused", 401)

    with pytest.raises(FetchFailed):
        tokens.reading(client, client.fhir[0].base, Deadline.after(SOON), never)
    assert len(used) == 2


def test_a_token_that_another_thread_has_renewed_is_not_thrown_away(ehr: Authorization, es_key: Path) -> None:
    client, tokens = registered(ehr, es_key), made()
    old = token_of(tokens, client)
    tokens.refused(client, client.fhir[0].base, old)
    new = token_of(tokens, client)
    tokens.refused(client, client.fhir[0].base, old)
    assert token_of(tokens, client) == new


def test_a_token_endpoint_at_another_origin_is_never_contacted(ehr: Authorization, es_key: Path) -> None:
    with authorization_server() as other:
        ehr.configuration["token_endpoint"] = f"{other.origin}/token"
        client = registered(ehr, es_key)
        assert refusal(made(), client) == "not-allowed"
        assert other.asked == []
        other.apps = ehr.apps
        listed = registered(ehr, es_key, origins=(other.origin,))
        assert token_of(made(), listed)
        assert other.asked == ["/token"]


@pytest.mark.parametrize("spelling", ["http://{host}@evil.example.org/token", "//evil.example.org/token", 7, None, ""])
def test_a_configuration_with_an_odd_token_endpoint_gives_no_token(
    ehr: Authorization, es_key: Path, spelling: Any
) -> None:
    host = ehr.origin.removeprefix("http://")
    ehr.configuration["token_endpoint"] = spelling.format(host=host) if isinstance(spelling, str) else spelling
    assert refusal(made(), registered(ehr, es_key)) in ("not-allowed", "bad-answer")
    assert "/token" not in ehr.asked


def test_a_pinned_token_endpoint_needs_no_discovery(ehr: Authorization, es_key: Path) -> None:
    client = registered(ehr, es_key, token_url=f"{ehr.origin}/token")
    assert token_of(made(), client)
    assert ehr.asked == ["/token"]


def test_a_redirect_of_the_token_endpoint_is_not_followed(ehr: Authorization, es_key: Path) -> None:
    client, ehr.status = registered(ehr, es_key), 307
    assert refusal(made(), client) == "error"
    assert ehr.asked.count("/token") == 1
    assert "/elsewhere" not in ehr.asked


@pytest.mark.in_time
def test_a_hanging_token_endpoint_costs_the_deadline_and_nobody_else_waits_for_it(
    ehr: Authorization, es_key: Path
) -> None:
    client, tokens, ehr.hang_s = registered(ehr, es_key), made(), 20.0
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        reasons = list(pool.map(lambda _: refusal(tokens, client, 0.4), range(4)))
    assert reasons == ["timeout"] * 4
    assert time.monotonic() - started < 3


def test_a_server_that_does_not_take_us_is_left_alone_for_a_while(ehr: Authorization, es_key: Path) -> None:
    clock = [1000.0]
    client, tokens = registered(ehr, es_key), made(clock)
    ehr.apps.clear()
    assert [refusal(tokens, client) for _ in range(5)] == ["refused"] * 5
    assert ehr.asked.count("/token") == 1
    clock[0] += 6
    ehr.apps["ordersight"] = App("ordersight", jwks=public_set(load_keys(es_key)))
    assert token_of(tokens, client)


def test_a_stranger_to_the_server_gets_no_token_whatever_it_signs(ehr: Authorization, es_key: Path) -> None:
    client = registered(ehr, es_key)
    other = es_key.with_name("other.jwk")
    new_key(other)
    ehr.apps["ordersight"].jwks = public_set(load_keys(other))
    assert refusal(made(), client) == "refused"


@pytest.mark.parametrize(
    "answer",
    [
        {"token_type": "bearer"},
        {"access_token": "a b", "token_type": "bearer"},
        {"access_token": "a\r\nX: y", "token_type": "bearer"},
        {"access_token": "a", "token_type": "mac"},
        {"access_token": 7, "token_type": "bearer"},
        [],
    ],
)
def test_an_answer_without_a_bearer_token_is_none(es_key: Path, answer: Any) -> None:
    def say(seen: Seen) -> Any:
        return reply(answer, content_type="application/json")

    with Moody(say) as odd:
        smart = Smart(token_url=f"{odd.origin}/token", backend=Backend("x", str(es_key), SCOPES))
        assert refusal(made(), Client("general", (FhirServer(odd.base, smart=smart),))) == "bad-answer"


def test_without_a_registration_or_for_another_server_there_is_no_token(ehr: Authorization, es_key: Path) -> None:
    client = registered(ehr, es_key)
    with pytest.raises(FetchFailed, match="not-allowed"):
        made().token(client, f"{ehr.fhir}/other", Deadline.after(SOON))
    for smart in (None, Smart(launch=Launch("x"))):
        assert refusal(made(), Client("general", (FhirServer(ehr.fhir, smart=smart),))) == "no-access"


def test_two_tenants_at_one_server_do_not_share_a_token(ehr: Authorization, es_key: Path) -> None:
    north = registered(ehr, es_key)
    south = Client("south", north.fhir, tenant="south")
    tokens = made()
    assert token_of(tokens, north) != token_of(tokens, south)


def test_a_rotated_key_signs_on_and_the_one_before_is_still_published(ehr: Authorization, es_key: Path) -> None:
    old = load_keys(es_key)[0]
    new = new_key(es_key, rotate=True)
    assert [key.kid for key in load_keys(es_key)] == [new.kid, old.kid]
    assert token_of(made(), registered(ehr, es_key))
    third = new_key(es_key, "RS384", rotate=True)
    assert [key.kid for key in load_keys(es_key)] == [third.kid, new.kid]


def test_a_key_file_others_may_read_signs_nothing(ehr: Authorization, es_key: Path) -> None:
    client = registered(ehr, es_key)
    es_key.chmod(0o640)
    assert refusal(made(), client) == "no-access"
    assert "/token" not in ehr.asked


def test_neither_token_nor_assertion_nor_key_is_ever_logged(
    ehr: Authorization, es_key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client, tokens = registered(ehr, es_key), made()
    token = token_of(tokens, client)
    ehr.apps.clear()
    tokens.refused(client, client.fhir[0].base, token)
    assert refusal(tokens, client) == "refused"
    said = " ".join(str(vars(record)) for record in caplog.records) + repr(tokens) + repr(vars(tokens))
    assert said.count("backend token") >= 2
    secret = json.loads(es_key.read_text())["keys"][0]["d"]
    for hidden in (token, secret, *(form["client_assertion"] for form in ehr.forms)):
        assert hidden not in said


def test_whoever_waits_longer_than_its_deadline_gives_up_alone(ehr: Authorization, es_key: Path) -> None:
    client, tokens, ehr.hang_s = registered(ehr, es_key), made(), 0.6
    patient = threading.Thread(target=token_of, args=(tokens, client))
    patient.start()
    time.sleep(0.1)
    assert refusal(tokens, client, 0.1) == "timeout"
    patient.join()
    assert token_of(tokens, client, 0.1)
    assert ehr.asked.count("/token") == 1
