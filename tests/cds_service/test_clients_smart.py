"""Registering ourselves at an EHR's authorization server: by command, by hand, and never with a key others may read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cds_service.cli.errors import CommandError
from cds_service.cli.main import assemble
from cds_service.trust.clients import Client, ClientsError, load_clients
from cds_service.trust.keys import check_sources
from cds_service.trust.private_keys import KeyFileError, load_keys, new_key, published
from cds_service.trust.registrations import Backend, Launch, Smart

FHIR = "https://north.example.org/fhir"
COMMENTED = f"""\
# Changes go through the security office.
- name: north
  issuer: https://north.example.org
  jwks_url: https://north.example.org/jwks
  fhir: [{{base: '{FHIR}', allow_private: true}}, {{base: 'https://north.example.org/other'}}]
- name: south  # the new hospital
  issuer: https://south.example.org
  jwks_url: https://south.example.org/jwks
  fhir: []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clients.yaml"
    path.write_text(COMMENTED)
    return path


def run(file: Path, *words: str | Path, wrong: bool = False) -> str:
    env = {"ORDERSIGHT_CLIENTS": str(file), "ORDERSIGHT_BASE_URL": "https://cds.example.org", "COLUMNS": "250"}
    done = CliRunner().invoke(assemble(["clients"]), ["clients", *(str(word) for word in words)], env=env)
    if wrong:
        assert isinstance(done.exception, CommandError | ClientsError), (done.output, done.exception)
        return str(done.exception)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def client(file: Path, name: str = "north") -> Client:
    return next(c for c in load_clients(file).all if c.name == name)


def test_what_is_registered_by_command_is_what_the_service_reads(file: Path, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "ours.jwk"
    assert "ES384 key" in run(file, "keys", "new", key)
    said = run(
        *(file, "smart", "north", "--fhir", FHIR, "--origin", "https://login.example.org"),
        *("--backend-id", "b", "--backend-key", key, "--scope", "system/Patient.rs", "--scope", "system/*.read"),
        *("--launch-id", "l", "--link", "absolute"),
    )
    for shown in ("/launch", "/launch/callback", "/.well-known/jwks.json"):
        assert f"https://cds.example.org{shown}" in said
    first, second = client(file).fhir
    assert first.smart == Smart(
        ("https://login.example.org",),
        backend=Backend("b", str(key), ("system/Patient.rs", "system/*.read")),
        launch=Launch("l", link="absolute"),
    )
    assert first.allow_private
    assert second.smart is None
    assert "# the new hospital" in file.read_text()
    run(file, "smart", "north", "--fhir", FHIR)
    assert client(file).fhir[0].smart is None


def test_the_key_is_for_its_owner_alone_and_only_its_public_half_is_shown(file: Path, tmp_path: Path) -> None:
    key = tmp_path / "ours.jwk"
    for algorithm, rotate in (("ES384", ()), ("RS384", ("--rotate",))):
        run(file, "keys", "new", key, "--algorithm", algorithm, *rotate)
        assert key.stat().st_mode & 0o777 == 0o600
    shown = json.loads(run(file, "keys", "show", key))
    assert [jwk["alg"] for jwk in shown["keys"]] == ["RS384", "ES384"]
    # RFC 7518 sections 6.2.2 and 6.3.2: the members that make a key private.
    assert not {"d", "p", "q", "dp", "dq", "qi", "oth"} & {name for jwk in shown["keys"] for name in jwk}
    assert len({jwk["kid"] for jwk in shown["keys"]}) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("smart", "west", "--fhir", FHIR), "registered: north, south"),
        (("smart", "north", "--fhir", "https://west.example.org", "--launch-id", "x"), "has no FHIR server"),
        (("smart", "north", "--fhir", FHIR, "--backend-id", "x"), "keys new FILE"),
        (("smart", "north", "--fhir", FHIR, "--backend-id", "x", "--backend-key", "k"), "scopes is empty"),
        (
            ("smart", "north", "--fhir", FHIR, "--backend-id", "x", "--backend-key", "k", "--scope", "system/*.cruds"),
            "scopes that read",
        ),
        (("smart", "north", "--fhir", FHIR, "--launch-id", "a b"), "without blanks"),
        (("smart", "north", "--fhir", FHIR, "--launch-id", "x", "--link", "popup"), "popup"),
        (("smart", "north", "--fhir", FHIR, "--launch-id", "x", "--launch-key", "/nowhere.jwk"), "cannot be read"),
        (
            ("smart", "north", "--fhir", FHIR, "--launch-id", "x", "--origin", "https://a.org/x"),
            "without a path",
        ),
        (("smart", "north", "--fhir", FHIR, "--launch-id", "x", "--origin", "http://a.example.org"), "TLS"),
        (
            ("smart", "north", "--fhir", FHIR, "--launch-id", "x", "--token-url", "https://u:p@a.org"),
            "token_url",
        ),
        (("keys", "new", "/proc/nowhere/x.jwk"), "cannot be written"),
        (("keys", "new", "x.jwk", "--algorithm", "HS256"), "ES384 or RS384"),
        (("keys", "new", "x.jwk", "--rotate"), "no key to rotate"),
        (("keys", "show", "/nowhere.jwk"), "cannot be read"),
    ],
)
def test_a_wrong_registration_changes_nothing_and_says_what_would_be_right(
    file: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert said in run(file, *words, wrong=True)
    assert file.read_text() == COMMENTED


def test_a_key_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    made = new_key(tmp_path / "ours.jwk")
    with pytest.raises(KeyFileError, match="--rotate"):
        new_key(tmp_path / "ours.jwk")
    assert load_keys(tmp_path / "ours.jwk")[0].kid == made.kid


def write(path: Path, value: Any, mode: int = 0o600) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    path.chmod(mode)
    return path


def test_a_file_without_a_key_that_signs_for_us_alone_is_refused(tmp_path: Path) -> None:
    (good,) = json.loads(_made(tmp_path / "good.jwk").read_text())["keys"]
    for value in (
        "",
        "[]",
        "{}",
        {"keys": []},
        {"keys": [7]},
        {k: v for k, v in good.items() if k != "d"},
        good | {"alg": "ES256"},
        good | {"crv": "P-256"},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB"},
    ):
        with pytest.raises(KeyFileError) as refused:
            load_keys(write(tmp_path / "bad.jwk", value))
        assert good["d"] not in str(refused.value)
    for mode in (0o640, 0o604, 0o660, 0o644):
        with pytest.raises(KeyFileError, match="chmod 600"):
            load_keys(write(tmp_path / "open.jwk", good, mode))
    assert load_keys(write(tmp_path / "one.jwk", good))[0].kid == good["kid"]


def _made(path: Path) -> Path:
    new_key(path)
    return path


def test_a_clients_file_whose_key_others_may_read_is_refused_as_a_whole(file: Path, tmp_path: Path) -> None:
    key = _made(tmp_path / "ours.jwk")
    run(file, "smart", "north", "--fhir", FHIR, "--launch-id", "l", "--launch-key", key)
    check_sources(load_clients(file).all)
    key.chmod(0o644)
    with pytest.raises(ClientsError, match="chmod 600"):
        check_sources(load_clients(file).all)
    assert published(load_clients(file).all) == {"keys": []}


@pytest.mark.parametrize(
    ("smart", "said"),
    [
        ({"backand": {}}, "backand"),
        ({"launch": {"client_id": "x", "scopes": ["openid profile"]}}, "launch.scopes"),
        ({"launch": {"client_id": "x", "scopes": ["offline_access"]}}, "launch.scopes"),
        ({"launch": {"client_id": ""}}, "client_id"),
        ({"backend": {"client_id": "x", "key_file": "k", "scopes": ["user/*.rs"]}}, "backend.scopes"),
        ({"backend": {"client_id": "x", "key_file": "k", "scopes": ["system/*.rs offline_access"]}}, "backend.scopes"),
    ],
)
def test_a_wrong_entry_is_refused_with_what_would_be_right(file: Path, smart: Any, said: str) -> None:
    entry = {"name": "x", "fhir": [{"base": FHIR, "smart": smart}]}
    file.write_text(yaml.safe_dump([entry]))
    with pytest.raises(ClientsError, match=said):
        load_clients(file)
