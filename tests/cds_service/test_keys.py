"""Whose keys count: those of the clients file and its key servers, whatever a token says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from callers import ISSUER, Caller, b64, key_server
from joserfc.errors import SecurityWarning
from joserfc.jwk import OctKey, RSAKey

from cds_service.errors import Unauthorized, Unavailable
from cds_service.settings import Settings
from cds_service.state.store import Store
from cds_service.trust.clients import Client, Clients, ClientsError
from cds_service.trust.jwt import Verifier
from cds_service.trust.keys import COOL_DOWN_S, KeySets
from cds_service.trust.replay import UsedTokens

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
AT = NOW.timestamp()
BASE = "https://cds.example.org"
PATH = "/cds-services/imaging-safety"
AUD = BASE + PATH
ES = Caller("ES384", "es")
RS = Caller("RS384", "rs")
STRANGER = Caller("ES384", "es")


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[UsedTokens]:
    with Store.open(f"sqlite:///{tmp_path / 'state.sqlite'}", outbox_bytes=0) as store:
        yield UsedTokens(store)


def make(seen: UsedTokens, *clients: Client, keys: KeySets | None = None) -> Verifier:
    return Verifier(Clients(clients), Settings(base_url=BASE), seen, keys)


def verify(verifier: Verifier, token: str) -> Client:
    return verifier.verify_client({"Authorization": f"Bearer {token}"}, PATH, NOW)


def test_keys_come_from_the_registered_server_and_are_asked_for_once(seen: UsedTokens) -> None:
    with key_server({"keys": [ES.jwk()]}) as (url, asked):
        verifier = make(seen, Client("general", (), issuer=ISSUER, jwks_url=url))
        for _ in range(3):
            verify(verifier, ES.sign(ES.claims(AUD, AT), {"jku": url}))
        assert asked == ["/jwks.json"]


def test_no_jku_trick_makes_us_contact_another_server(seen: UsedTokens) -> None:
    with key_server({"keys": [STRANGER.jwk()]}) as (evil, contacted), key_server({"keys": [ES.jwk()]}) as (url, _):
        verifier = make(seen, Client("general", (), issuer=ISSUER, jwks_url=url))
        host = url.split("/")[2]
        evil_host = evil.split("/")[2]
        tricks = [
            evil,
            f"http://{host}@{evil_host}/jwks.json",
            f"http://{evil_host}/jwks.json#{url}",
            f"http://{evil_host}/jwks.json?{url}",
            f"{url}/../../{evil_host}/jwks.json",
            f"//{evil_host}/jwks.json",
            f" {evil}",
            f"{url}\\@{evil_host}",
            "file:///etc/passwd",
            "http://169.254.169.254/latest/meta-data/",
        ]
        for jku in tricks:
            with pytest.raises(Unauthorized):
                verify(verifier, STRANGER.sign(STRANGER.claims(AUD, AT), {"jku": jku}))
        assert contacted == []


def test_thirty_unknown_kids_cost_at_most_two_fetches(seen: UsedTokens) -> None:
    with key_server({"keys": [ES.jwk()]}) as (url, asked):
        verifier = make(seen, Client("general", (), issuer=ISSUER, jwks_url=url))
        for i in range(30):
            with pytest.raises(Unauthorized):
                verify(verifier, ES.sign(ES.claims(AUD, AT), {"kid": f"unknown-{i}"}))
        assert len(asked) <= 2


def test_a_new_key_is_found_after_the_cool_down_and_a_withdrawn_one_is_not(seen: UsedTokens) -> None:
    clock = [1000.0]
    served: dict[str, Any] = {"keys": [ES.jwk()]}

    def answer(handler: Any) -> None:
        body = json.dumps(served).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with key_server(answer) as (url, asked):
        client = Client("general", (), issuer=ISSUER, jwks_url=url)
        verifier = make(seen, client, keys=KeySets([client], clock=lambda: clock[0]))
        verify(verifier, ES.token(AUD, AT))
        served["keys"] = [RS.jwk()]
        with pytest.raises(Unauthorized):
            verify(verifier, RS.token(AUD, AT))
        clock[0] += COOL_DOWN_S + 1
        verify(verifier, RS.token(AUD, AT))
        with pytest.raises(Unauthorized):
            verify(verifier, ES.token(AUD, AT))
        assert len(asked) == 2


def test_known_keys_serve_on_for_a_day_while_their_server_is_down(seen: UsedTokens) -> None:
    clock = [1000.0]
    with key_server({"keys": [ES.jwk()]}) as (url, _):
        client = Client("general", (), issuer=ISSUER, jwks_url=url)
        verifier = make(seen, client, keys=KeySets([client], clock=lambda: clock[0]))
        verify(verifier, ES.token(AUD, AT))
    clock[0] += 23 * 3600
    verify(verifier, ES.token(AUD, AT))
    clock[0] += 2 * 3600
    with pytest.raises(Unavailable):
        verify(verifier, ES.token(AUD, AT))


def huge(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b'{"keys": [' + b" " * 100_000 + b"]}")


def redirect(handler: Any) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize("answer", [huge, redirect, b"<html>", b"[]", b'{"keys": 4}', b'{"keys": {}}'])
def test_a_bad_key_server_means_try_again_not_go_away(seen: UsedTokens, answer: Any) -> None:
    with key_server(answer) as (url, asked):
        with pytest.raises(Unavailable) as caught:
            verify(make(seen, Client("general", (), issuer=ISSUER, jwks_url=url)), ES.token(AUD, AT))
        assert caught.value.retry_after_s
        assert set(asked) == {"/jwks.json"}


def test_a_key_server_that_says_nothing_holds_a_call_for_two_seconds_at_most(seen: UsedTokens) -> None:
    release = threading.Event()
    with key_server(lambda handler: release.wait(10)) as (url, _):
        started = datetime.now(UTC)
        with pytest.raises(Unavailable):
            verify(make(seen, Client("general", (), issuer=ISSUER, jwks_url=url)), ES.token(AUD, AT))
        assert datetime.now(UTC) - started < timedelta(seconds=3)
        release.set()


def test_keys_that_may_not_sign_are_passed_over(seen: UsedTokens, tmp_path: Path) -> None:
    weak = Caller("RS384", "weak")
    with pytest.warns(SecurityWarning):
        weak.key = RSAKey.generate_key(1024)
    p521 = Caller("ES512", "p521")
    entries: list[Any] = [
        weak.jwk(),
        p521.jwk(),
        ES.jwk(kid="enc", use="enc"),
        ES.jwk(kid="ops", key_ops=["sign"]),
        RS.jwk(kid="only256", alg="RS256"),
        {"kty": "oct", "kid": "oct", "k": b64(b"x" * 32)},
        {"kty": "EC", "kid": "broken", "crv": "P-384", "x": "AA", "y": "AA"},
        {"kty": "RSA", "kid": "broken2"},
        {"kid": "no kty"},
        "a string",
        ES.jwk(),
    ]
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"keys": entries}))
    verifier = make(seen, Client("general", (), issuer=ISSUER, jwks_file=str(path)))
    verify(verifier, ES.token(AUD, AT))
    verify(verifier, RS.sign(RS.claims(AUD, AT), {"kid": "only256", "alg": "RS256"}))
    bad = [
        weak.token(AUD, AT),
        p521.token(AUD, AT),
        ES.sign(ES.claims(AUD, AT), {"kid": "enc"}),
        ES.sign(ES.claims(AUD, AT), {"kid": "ops"}),
        RS.sign(RS.claims(AUD, AT), {"kid": "only256", "alg": "RS384"}),
        ES.sign(ES.claims(AUD, AT), {"kid": "oct", "alg": "HS256"}, OctKey.import_key(b"x" * 32)),
    ]
    for token in bad:
        with pytest.raises(Unauthorized):
            verify(verifier, token)


@pytest.mark.parametrize("url", ["http://ehr.example.org/jwks", "ftp://x/jwks", "https://a@b/jwks", "jwks.json"])
def test_a_key_server_without_tls_is_not_registered(url: str) -> None:
    with pytest.raises(ClientsError, match="general"):
        KeySets([Client("general", (), issuer=ISSUER, jwks_url=url)])
