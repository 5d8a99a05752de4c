"""Who may call: forged, re-aimed, stale and replayed tokens are one and the same 401."""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from callers import ISSUER, Caller, b64
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cds_service.errors import Unauthorized, Unavailable
from cds_service.settings import Settings
from cds_service.state.store import Store
from cds_service.trust.clients import Client, Clients
from cds_service.trust.jwt import Verifier
from cds_service.trust.keys import KeySets
from cds_service.trust.replay import UsedTokens

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
AT = NOW.timestamp()
BASE = "https://cds.example.org"
PATH = "/cds-services/imaging-safety"
AUD = BASE + PATH
ES = Caller("ES384", "es")
ES256 = Caller("ES256", "es256")
RS = Caller("RS384", "rs")
STRANGER = Caller("ES384", "es")
STRANGER_RSA = Caller("RS384", "rs")


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[UsedTokens]:
    with Store.open(f"sqlite:///{tmp_path / 'state.sqlite'}", outbox_bytes=0) as store:
        yield UsedTokens(store)


@pytest.fixture
def keys_file(tmp_path: Path) -> str:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [ES.jwk(), ES256.jwk(), RS.jwk()]}))
    return str(path)


@pytest.fixture
def verifier(seen: UsedTokens, keys_file: str) -> Verifier:
    return make(
        seen, Client("general", (), issuer=ISSUER, jwks_file=keys_file, jwks_url="https://ehr.example.org/jwks")
    )


def make(seen: UsedTokens, *clients: Client, keys: KeySets | None = None) -> Verifier:
    return Verifier(Clients(clients), Settings(base_url=BASE), seen, keys)


def verify(verifier: Verifier, token: str, path: str = PATH, at: datetime = NOW) -> Client:
    return verifier.verify_client({"Authorization": f"Bearer {token}"}, path, at)


@pytest.mark.parametrize(
    ("caller", "header"),
    [
        (ES, {}),
        (ES256, {}),
        (RS, {}),
        (RS, {"alg": "RS256"}),
        (ES, {"typ": "jwt"}),
        (ES, {"jku": "https://ehr.example.org/jwks"}),
        (ES, {"unheardOf": 1, "x5t": "abc"}),
        (ES, {"jwk": STRANGER.jwk(), "x5u": "https://evil.example/x", "x5c": ["MIIB"]}),
    ],
)
def test_a_registered_caller_is_known(verifier: Verifier, caller: Caller, header: dict[str, Any]) -> None:
    assert verify(verifier, caller.sign(caller.claims(AUD, AT), header)).name == "general"


def test_the_audience_may_be_one_of_several(verifier: Verifier) -> None:
    assert verify(verifier, ES.token(["https://other.example.org", AUD], AT)).name == "general"


def test_a_clock_a_minute_off_is_forgiven_and_ten_minutes_are_not(verifier: Verifier) -> None:
    for seconds in (-359, -300, 0, 0.5, 59):
        verify(verifier, ES.token(AUD, AT, iat=AT + seconds, exp=AT + seconds + 300))
    for minutes in (-10, 10):
        with pytest.raises(Unauthorized):
            verify(verifier, ES.token(AUD, AT + 60 * minutes))


def pem(key: Any) -> bytes:
    return bytes(key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def shared_secret(caller: Caller, secret: bytes, alg: str) -> str:
    """By hand: the library refuses to use a public key as a secret, as a forger would."""
    signed = f"{b64({**GOOD, 'kid': caller.kid, 'alg': alg})}.{b64(caller.claims(AUD, AT))}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha' + alg[2:]))}"


def swap(token: str, part: int, new: str) -> str:
    parts = token.split(".")
    parts[part] = new
    return ".".join(parts)


def claims(**changes: Any) -> Callable[[], str]:
    return lambda: ES.token(AUD, AT, **changes)


def header(signer: Caller = ES, **changes: Any) -> Callable[[], str]:
    return lambda: signer.sign(signer.claims(AUD, AT), changes)


GOOD = {"alg": "ES384", "kid": "es", "typ": "JWT"}
FORGERIES: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "one word": lambda: "token",
    "two parts": lambda: ".".join(ES.token(AUD, AT).split(".")[:2]),
    "five parts": lambda: ES.token(AUD, AT) + ".a.b",
    "alg none": lambda: f"{b64({**GOOD, 'alg': 'none'})}.{b64(ES.claims(AUD, AT))}.",
    "alg None with a signature": lambda: f"{b64({**GOOD, 'alg': 'None'})}.{b64(ES.claims(AUD, AT))}.AAAA",
    "alg nOnE, the old signature": lambda: swap(ES.token(AUD, AT), 0, b64({**GOOD, "alg": "nOnE"})),
    "no signature": lambda: swap(ES.token(AUD, AT), 2, ""),
    "a zero signature": lambda: swap(ES.token(AUD, AT), 2, b64(b"\0" * 96)),
    "another token's signature": lambda: swap(ES.token(AUD, AT), 2, ES.token(AUD, AT).split(".")[2]),
    "claims changed after signing": lambda: swap(ES.token(AUD, AT), 1, b64(ES.claims(AUD, AT))),
    "header changed after signing": lambda: swap(ES.token(AUD, AT), 0, b64({**GOOD, "x": 1})),
    "HS256 with our copy of the EC key": lambda: shared_secret(ES, pem(ES.key), "HS256"),
    "HS384 with our copy of the RSA key": lambda: shared_secret(RS, pem(RS.key), "HS384"),
    "HS256 with the key as JSON": lambda: shared_secret(ES, json.dumps(ES.jwk()).encode(), "HS256"),
    "HS256 with the word secret": lambda: shared_secret(ES, b"secret", "HS256"),
    "a stranger's EC key": lambda: STRANGER.token(AUD, AT),
    "a stranger's RSA key": lambda: STRANGER_RSA.token(AUD, AT),
    "an unknown kid": header(kid="other"),
    "another key's kid": header(kid="rs"),
    "no kid": header(kid=...),
    "a kid that is a path": header(kid="../../../../dev/null"),
    "a kid that is SQL": header(kid="es' OR '1'='1"),
    "no typ": header(typ=...),
    "typ at+jwt": header(typ="at+jwt"),
    "PS256": header(RS, alg="PS256"),
    "RS512": header(RS, alg="RS512"),
    "jwk of a stranger": lambda: STRANGER.sign(ES.claims(AUD, AT), {"jwk": STRANGER.jwk()}),
    "jwk of a stranger, no kid": lambda: STRANGER.sign(ES.claims(AUD, AT), {"jwk": STRANGER.jwk(), "kid": ...}),
    "x5c of a stranger": lambda: STRANGER.sign(ES.claims(AUD, AT), {"x5c": ["MIIB"]}),
    "x5u of a stranger": lambda: STRANGER.sign(ES.claims(AUD, AT), {"x5u": "https://evil.example/x"}),
    "crit we do not know": lambda: ES.sign(ES.claims(AUD, AT), {"crit": ["exp2"], "exp2": 1}),
    "crit b64": lambda: ES.sign(ES.claims(AUD, AT), {"crit": ["b64"], "b64": False}),
    "empty crit": lambda: ES.sign(ES.claims(AUD, AT), {"crit": []}),
    "b64 without crit": lambda: ES.sign(ES.claims(AUD, AT), {"b64": True}),
    "jku of a stranger": header(jku="https://evil.example/jwks"),
    "jku with userinfo": header(jku="https://ehr.example.org@evil.example/jwks"),
    "jku with ours as prefix": header(jku="https://ehr.example.org/jwks.evil.example"),
    "jku with a slash more": header(jku="https://ehr.example.org/jwks/"),
    "jku with another case": header(jku="https://EHR.example.org/jwks"),
    "jku as a list": header(jku=["https://ehr.example.org/jwks"]),
    "an unknown issuer": claims(iss="https://evil.example"),
    "no issuer": claims(iss=...),
    "an empty issuer": claims(iss=""),
    "an issuer list": claims(iss=[ISSUER]),
    "an issuer with a slash more": claims(iss=ISSUER + "/"),
    "no audience": claims(aud=...),
    "the base as audience": claims(aud=BASE),
    "discovery as audience": claims(aud=f"{BASE}/cds-services"),
    "a sister service as audience": claims(aud=f"{BASE}/cds-services/cxr-insight"),
    "feedback as audience": claims(aud=f"{AUD}/feedback"),
    "http as audience": claims(aud=AUD.replace("https", "http")),
    "another host as audience": claims(aud=f"https://evil.example{PATH}"),
    "an audience with a slash more": claims(aud=AUD + "/"),
    "no exp": claims(exp=...),
    "no iat": claims(iat=...),
    "expired": claims(exp=AT - 61, iat=AT - 300),
    "exp a string": claims(exp=str(int(AT) + 300)),
    "exp true": claims(exp=True),
    "exp null": claims(exp=None),
    "issued in the future": claims(iat=AT + 120, exp=AT + 300),
    "not before the future": claims(nbf=AT + 120),
    "nbf a string": claims(nbf="now"),
    "two hours of life": claims(exp=AT + 7200),
    "expires before it was issued": claims(iat=AT + 50, exp=AT + 40),
    "no jti": claims(jti=...),
    "an empty jti": claims(jti=""),
    "a jti number": claims(jti=7),
    "an endless jti": claims(jti="x" * 513),
    "claims that are a list": lambda: ES.sign(b"[]"),
    "claims that are no JSON": lambda: ES.sign(b"iss"),
    "the issuer twice": lambda: ES.sign(
        json.dumps(ES.claims(AUD, AT))[:-1].encode() + f', "iss": "{ISSUER}"}}'.encode()
    ),
    "exp infinite": lambda: ES.sign(json.dumps(ES.claims(AUD, AT, exp=...))[:-1].encode() + b', "exp": 1e999}'),
    "a header that is no JSON": lambda: swap(ES.token(AUD, AT), 0, b64(b"{alg")),
    "an endless token": lambda: ES.token(AUD, AT, note="x" * 20_000),
    "a line break inside": lambda: ES.token(AUD, AT).replace(".", ".\n", 1),
}


def test_there_are_at_least_fifty_forgeries() -> None:
    assert len(FORGERIES) >= 50


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_token_is_refused_in_the_same_words(verifier: Verifier, name: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        verify(verifier, FORGERIES[name]())
    assert str(caught.value) == "the caller is not known here"
    assert caught.value.expression is None


@pytest.mark.parametrize(
    "authorization", ["", "Basic dXNlcjpwdw==", "Bearer", "Token {}", "{}", "Bearer {}, Bearer {}"]
)
def test_only_one_bearer_token_is_a_token(verifier: Verifier, authorization: str) -> None:
    with pytest.raises(Unauthorized):
        verifier.verify_client({"Authorization": authorization.replace("{}", ES.token(AUD, AT))}, PATH, NOW)


def test_a_token_opens_one_door_once(verifier: Verifier) -> None:
    token = ES.token(AUD, AT)
    with pytest.raises(Unauthorized):
        verify(verifier, token, "/cds-services/cxr-insight")
    with pytest.raises(Unauthorized):
        verify(verifier, token, f"{PATH}/feedback")
    verify(verifier, token)
    for _ in range(5):
        with pytest.raises(Unauthorized):
            verify(verifier, token)


def test_of_eight_callers_with_one_token_one_is_answered(verifier: Verifier) -> None:
    token = ES.token(AUD, AT)
    gate = threading.Barrier(8)

    def call() -> bool:
        gate.wait()
        try:
            verify(verifier, token)
        except Unauthorized:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(f.result() for f in [pool.submit(call) for _ in range(8)]) == 1


def test_a_used_token_stays_used_for_another_process(tmp_path: Path, keys_file: str) -> None:
    """Two stores on one file, both open: as with two workers."""
    client = Client("general", (), issuer=ISSUER, jwks_file=keys_file)
    token = ES.token(AUD, AT)
    url = f"sqlite:///{tmp_path / 't.sqlite'}"
    with Store.open(url, outbox_bytes=0) as first, Store.open(url, outbox_bytes=0) as second:
        verify(make(UsedTokens(first), client), token)
        with pytest.raises(Unauthorized):
            verify(make(UsedTokens(second), client), token)


def test_a_forged_token_does_not_burn_the_true_one(verifier: Verifier) -> None:
    honest = ES.claims(AUD, AT)
    with pytest.raises(Unauthorized):
        verify(verifier, STRANGER.sign(honest))
    verify(verifier, ES.sign(honest))


def test_when_the_list_of_used_tokens_cannot_be_read_nobody_is_let_in(tmp_path: Path, keys_file: str) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 't.sqlite'}", outbox_bytes=0)
    store.close()
    with pytest.raises(Unavailable) as caught:
        verify(make(UsedTokens(store), Client("general", (), issuer=ISSUER, jwks_file=keys_file)), ES.token(AUD, AT))
    assert caught.value.retry_after_s


def test_a_client_may_call_us_by_a_name_of_its_own(seen: UsedTokens, keys_file: str) -> None:
    own = Client("own", (), issuer=ISSUER, jwks_file=keys_file, audience="https://proxy.hospital.example/cds/")
    verify(make(seen, own), ES.token(f"https://proxy.hospital.example/cds{PATH}", AT))
    with pytest.raises(Unauthorized):
        verify(make(seen, own), ES.token(AUD, AT))
