"""Clients come and go while the service runs: by command, by hand, and never by half."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from callers import Caller
from contexts import call
from served import served
from typer.testing import CliRunner

from cds_service.cli.errors import CommandError
from cds_service.cli.main import assemble
from cds_service.trust import registering
from cds_service.trust.clients import Client, ClientsError, FhirServer, load_clients

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
BASE = "https://cds.example.org"
PATH = "/cds-services/silent"
SILENT = {"hooks": ["patient-view"], "advice": "silent", "evidence": {}}
NORTH, SOUTH = "https://north.example.org", "https://south.example.org"
COMMENTED = """\
# Who may call us. Changes go through the security office.
- name: north  # the old hospital
  issuer: https://north.example.org
  jwks_url: https://north.example.org/jwks
  fhir:
    # since the move
    - base: https://north.example.org/fhir
- name: middle
  issuer: https://middle.example.org
  jwks_url: https://middle.example.org/jwks
  fhir: []
- {name: south, issuer: 'https://south.example.org', jwks_url: 'https://south.example.org/jwks', fhir: []}
"""


class Shell:
    """Runs a command as `cds-service` does; errors that say what to do are their one sentence."""

    def __init__(self, clients: Path) -> None:
        self.env = {"ORDERSIGHT_CLIENTS": str(clients), "COLUMNS": "250"}

    def __call__(self, *words: str | Path, wrong: bool = False) -> str:
        done = CliRunner().invoke(assemble(["clients"]), ["clients", *(str(word) for word in words)], env=self.env)
        if wrong:
            assert isinstance(done.exception, CommandError | ClientsError), (done.output, done.exception)
            return str(done.exception)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "clients.yaml"


@pytest.fixture
def shell(file: Path) -> Shell:
    return Shell(file)


def keys_of(caller: Caller, folder: Path) -> Path:
    path = folder / f"{caller.kid}.json"
    path.write_text(json.dumps({"keys": [caller.jwk()]}))
    return path


def test_what_is_added_listed_and_removed_by_command_is_what_the_service_reads(shell: Shell, file: Path) -> None:
    shell(
        *("add", "north", "--issuer", NORTH, "--jwks-url", f"{NORTH}/jwks", "--tenant", "n", "--audience", BASE),
        *("--fhir", f"{NORTH}/fhir", "--dicomweb", f"{NORTH}/dicom", "--allow-private", "--framed-by", NORTH),
    )
    shell("add", "south", "--issuer", SOUTH, "--jwks-url", f"{SOUTH}/jwks")
    north = Client(
        name="north",
        fhir=(FhirServer(f"{NORTH}/fhir", (f"{NORTH}/dicom",), allow_private=True),),
        issuer=NORTH,
        tenant="n",
        jwks_url=f"{NORTH}/jwks",
        audience=BASE,
        framed_by=(NORTH,),
    )
    assert load_clients(file).all[0] == north
    listed = shell("list")
    assert f"{NORTH}/fhir (private)" in listed
    assert f"{SOUTH}/jwks" in listed
    shell("remove", "north")
    assert [client.name for client in load_clients(file).all] == ["south"]
    shell("remove", "south")
    assert load_clients(file).all == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "x", "--issuer", NORTH), "--jwks-url or in --jwks-file"),
        (("add", "x", "--issuer", NORTH, "--jwks-url", "ftp://x.example.org"), "jwks_url"),
        (("add", "x", "--issuer", "i", "--jwks-url", "https://x.example.org/j", "--fhir", "http://a.org"), "TLS"),
        (("add", "north", "--issuer", "i", "--jwks-url", "https://x.example.org/j"), "registered already"),
        (("add", "x", "--issuer", NORTH, "--jwks-url", "https://x.example.org/j"), "has this issuer already"),
        (("add", "x", "--issuer", "i", "--jwks-file", "/nowhere.json"), "no such file"),
        (("remove", "nobody"), "registered: north, middle, south"),
    ],
)
def test_a_wrong_command_changes_nothing_and_says_what_would_be_right(
    shell: Shell, file: Path, words: tuple[str, ...], said: str
) -> None:
    file.parent.mkdir()
    file.write_text(COMMENTED)
    assert said in shell(*words, wrong=True)
    assert file.read_text() == COMMENTED


def test_comments_stay_where_they_stand(shell: Shell, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(COMMENTED)
    shell("add", "east", "--issuer", "https://east.example.org", "--jwks-url", "https://east.example.org/jwks")
    assert file.read_text().startswith(COMMENTED)
    shell("remove", "middle")
    text = file.read_text()
    for comment in ("Changes go through the security office", "the old hospital", "since the move"):
        assert comment in text
    assert [client.name for client in load_clients(file).all] == ["north", "south", "east"]
    shell("remove", "south")
    assert [client.name for client in load_clients(file).all] == ["north", "east"]


def test_a_file_in_one_line_is_written_anew(shell: Shell, file: Path) -> None:
    file.parent.mkdir()
    entry = {"name": "north", "issuer": NORTH, "jwks_url": f"{NORTH}/jwks", "fhir": []}
    file.write_text(yaml.safe_dump([entry], default_flow_style=True))
    shell("add", "south", "--issuer", SOUTH, "--jwks-url", f"{SOUTH}/jwks")
    shell("remove", "north")
    assert [client.name for client in load_clients(file).all] == ["south"]


def test_a_reader_never_sees_half_a_file(file: Path) -> None:
    stop, seen, wrong = threading.Event(), set(), []

    def watch() -> None:
        while not stop.is_set():
            try:
                seen.add(len(load_clients(file).all))
            except ClientsError as error:
                wrong.append(error)

    reader = threading.Thread(target=watch)
    reader.start()
    for n in range(60):
        registering.add(
            file, Client(f"c{n}", (), issuer=f"https://{n}.example.org", jwks_url="https://k.example.org/j")
        )
    stop.set()
    reader.join()
    assert not wrong
    assert len(load_clients(file).all) == 60


# While the service runs ---------------------------------------------------------------------------------------


class Checked:
    """An app that checks its callers, by a clients file, at a moment that stands still."""

    def __init__(self, app: Any) -> None:
        self.client = app.test_client()

    def status(self, caller: Caller, issuer: str) -> int:
        token = caller.token(f"{BASE}{PATH}", NOW.timestamp(), iss=issuer)
        headers = {"Authorization": f"Bearer {token}"}
        status: int = self.client.post(PATH, json=call("patient-view"), headers=headers).status_code
        return status


@pytest.fixture
def checked(services: Any, file: Path, tmp_path: Path) -> Iterator[Callable[[], Checked]]:
    from cds_service.app import create_app
    from cds_service.settings import Settings

    made = []

    def make() -> Checked:
        settings = Settings(base_url=BASE, clients=file, state_dir=tmp_path / "state", outbox_mb=1)
        made.append(create_app(settings, services=services, clock=lambda: NOW))
        return Checked(made[-1])

    yield make
    for app in made:
        app.extensions["ordersight"].close()


def test_a_client_may_call_once_it_is_added_and_no_longer_once_it_is_removed(
    checked: Callable[[], Checked], shell: Shell, tmp_path: Path
) -> None:
    house, caller = checked(), Caller(kid="north")
    assert house.status(caller, NORTH) == 401
    shell("add", "north", "--issuer", NORTH, "--jwks-file", keys_of(caller, tmp_path))
    began = time.monotonic()
    assert house.status(caller, NORTH) == 200
    assert time.monotonic() - began < 1.0
    shell("remove", "north")
    assert house.status(caller, NORTH) == 401


def test_a_client_registered_anew_with_other_keys_does_not_keep_the_old_ones(
    checked: Callable[[], Checked], shell: Shell, tmp_path: Path
) -> None:
    house, old, new = checked(), Caller(kid="old"), Caller(kid="new")
    shell("add", "north", "--issuer", NORTH, "--jwks-file", keys_of(old, tmp_path))
    assert (house.status(old, NORTH), house.status(new, NORTH)) == (200, 401)
    shell("remove", "north")
    shell("add", "north", "--issuer", NORTH, "--jwks-file", keys_of(new, tmp_path))
    assert (house.status(old, NORTH), house.status(new, NORTH)) == (401, 200)


def test_a_broken_file_leaves_the_clients_before_it_in_force_and_is_told_once(
    checked: Callable[[], Checked], shell: Shell, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house, caller = checked(), Caller(kid="north")
    shell("add", "north", "--issuer", NORTH, "--jwks-file", keys_of(caller, tmp_path))
    assert house.status(caller, NORTH) == 200
    right = file.read_text()
    for broken in ("- [", "- name: north", f"{right}\n- name: x\n  fhir: []\n  jwks_url: ftp://x.example.org\n"):
        caplog.clear()
        file.write_text(broken)
        assert [house.status(caller, NORTH) for _ in range(3)] == [200, 200, 200]
        assert sum("clients file cannot be used" in r.message for r in caplog.records) == 1
    file.write_text(right)
    assert house.status(caller, NORTH) == 200


# Tokens ---------------------------------------------------------------------------------------


def test_a_token_is_used_once_among_processes_and_after_kill_9(plugin: Path, tmp_path: Path) -> None:
    caller = Caller()
    clients = [{"name": "n", "issuer": NORTH, "jwks_file": str(keys_of(caller, tmp_path)), "fhir": []}]
    shared = {"state_dir": str(tmp_path / "state"), "jwt": "required", "base_url": BASE}

    def status(url: str, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.post(f"{url}{PATH}", json=call("patient-view"), headers=headers, timeout=20).status_code

    def token() -> str:
        return caller.token(f"{BASE}{PATH}", time.time(), iss=NORTH)

    services = {"silent": SILENT}
    with contextlib.ExitStack() as running:
        one = running.enter_context(served(tmp_path / "one", services, clients, **shared))
        two = running.enter_context(served(tmp_path / "two", services, clients, **shared))
        first, second = token(), token()
        assert (status(one.url, first), status(two.url, first), status(one.url, first)) == (200, 401, 401)
        assert (status(two.url, second), status(one.url, second)) == (200, 401)
        one.process.kill()
        two.process.kill()
    with served(tmp_path / "three", services, clients, **shared) as again:
        assert [status(again.url, used) for used in (first, second)] == [401, 401]
        assert status(again.url, token()) == 200
