"""Onboarding an EHR from the console: the demo EHR's FHIR server on a socket of its own, asked as a hospital's is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path

import pytest
from callers import Caller, key_server
from console_house import ConsoleHouse, Visitor, console_house
from demo_server import demo_only, served
from typer.testing import CliRunner

from cds_service.cli.main import assemble
from cds_service.manifest import load_services
from cds_service.registration_sheet import registration_sheet
from cds_service.settings import Settings
from cds_service.trust.clients import Client, Clients, FhirServer, load_clients
from cds_service.trust.private_keys import new_key
from cds_service.trust.registrations import Backend, Launch, Smart

PATIENT = "demo-alder"
ISSUER = "https://ehr.example.org"


@pytest.fixture(scope="module")
def ehr() -> Iterator[str]:
    with served(demo_only()) as base:
        yield f"{base}/demo/fhir"


@contextmanager
def known(tmp_path: Path, base: str, jwks_url: str = "") -> Iterator[tuple[ConsoleHouse, Visitor]]:
    client = Client("north", (FhirServer(base),), issuer=ISSUER, jwks_url=jwks_url)
    with console_house(tmp_path, clients=Clients([client])) as house:
        visitor = house.logged_in("ada")
        visitor.see("/admin/onboarding")
        yield house, visitor


def check(visitor: Visitor, base: str, patient: str = "") -> tuple[int, str]:
    from evidence_house import words_of

    got = visitor.post("/admin/onboarding/check", client="north", fhir=base, patient=patient, why="go-live")
    return got.status_code, words_of(got.text)


def test_every_prefetch_key_is_read_live_and_each_stage_of_a_call_is_timed(tmp_path: Path, ehr: str) -> None:
    with known(tmp_path, ehr) as (house, visitor):
        status, words = check(visitor, ehr, PATIENT)
        assert status == 200
        assert "its capability statement ok" in words
        assert "FHIR version: 4.0.1" in words
        # The demo's server has no SMART configuration.
        assert "its SMART configuration error" in words
        assert "Patient 1" in words
        assert "evidence " in words.partition("Round trip per stage")[2]
        noted = [row for row in house.audited() if row.get("did") == "EHR checked"]
        assert [(row["client"], row["why"]) for row in noted] == [("north", "go-live")]
        assert PATIENT not in json.dumps(noted)
        # A trial is no call: nothing was shown, nothing recorded.
        assert [row for row in house.audited() if row["kind"] == "answer"] == []


def test_a_server_that_is_not_registered_is_never_contacted(tmp_path: Path, ehr: str) -> None:
    with key_server(b"{}") as (elsewhere, asked), known(tmp_path, ehr) as (_, visitor):
        status, words = check(visitor, elsewhere.rsplit("/", 1)[0], PATIENT)
        assert (status, asked) == (400, [])
        assert "nothing was contacted" in words


def test_a_server_that_is_gone_is_named_as_unreachable_and_a_patient_nobody_has_leaves_keys_unread(
    tmp_path: Path, ehr: str
) -> None:
    gone = "http://127.0.0.1:9/fhir"
    with known(tmp_path, gone) as (_, visitor):
        status, words = check(visitor, gone, PATIENT)
        assert status == 200
        assert "its capability statement unreachable" in words
        assert "0 of " in words


def test_who_may_only_look_contacts_nobody(tmp_path: Path, ehr: str) -> None:
    with known(tmp_path, ehr) as (house, _):
        vic = house.logged_in("vic")
        assert "Check a FHIR server" not in vic.see("/admin/onboarding")
        assert check(vic, ehr, PATIENT)[0] == 403
        assert vic.post("/admin/onboarding/clients", name="x", why="w").status_code == 403


def test_a_token_of_the_ehr_holds_once_it_is_right_and_is_not_used_up(tmp_path: Path, ehr: str) -> None:
    caller = Caller()
    with (
        key_server(json.dumps({"keys": [caller.jwk()]}).encode()) as (jwks_url, _),
        known(tmp_path, ehr, jwks_url) as (house, visitor),
    ):
        at = house.clock.now.timestamp()
        aud = f"{Settings().base_url}/cds-services/imaging-safety"
        right, wrong = caller.token(aud, at, iss=ISSUER), caller.token(f"{aud}/feedback", at, iss=ISSUER)

        def tried(token: str) -> str:
            got = visitor.post("/admin/onboarding/token", client="north", service="imaging-safety", token=token)
            assert got.status_code == 200
            return got.text

        for _ in range(2):
            assert ">holds<" in tried(right)
        assert "not the URL of this very endpoint" in tried(wrong)
        stranger = Caller().token(aud, at, iss=ISSUER)
        assert "no key that the client publishes has signed it" in tried(stranger)
        assert "It was signed here with a key made for this trial" in tried("")
        assert "three parts of base64url" in tried("<script>alert(1)</script>")


def test_a_client_registered_here_is_allowed_from_then_on_and_the_audit_says_who_did_it(
    tmp_path: Path, ehr: str
) -> None:
    file = tmp_path / "clients.yaml"
    with console_house(tmp_path, clients=None, clients_file=file) as house:
        visitor = house.logged_in("ada")
        assert "None yet" in visitor.see("/admin/onboarding")
        asked = {"name": "south", "fhir": ehr, "issuer": ISSUER, "jwks_url": f"{ISSUER}/jwks.json", "why": "pilot"}
        wrong = visitor.post("/admin/onboarding/clients", **(asked | {"fhir": "ftp://<b>x</b>"}))
        assert wrong.status_code == 400
        assert "<b>" not in wrong.text
        assert visitor.post("/admin/onboarding/clients", **asked).status_code == 200
        assert "south" in visitor.words("/admin/onboarding").partition("Registered clients")[2]
        (noted,) = [row for row in house.audited() if row.get("did") == "client registered"]
        assert (noted["who"], noted["client"], noted["why"]) == ("ada", "south", "pilot")


@pytest.mark.parametrize("ehr_name", ["generic", "epic", "oracle-health", "medplum"])
def test_the_command_prints_the_sheet_that_the_page_shows(
    tmp_path: Path, ehr_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORDERSIGHT_BASE_URL", raising=False)
    with console_house(tmp_path, profile="non_device") as house:
        visitor = house.logged_in("vic")
        shown = json.loads(visitor.see(f"/admin/onboarding/sheet/{ehr_name}.json"))
        words = unescape(visitor.words(f"/admin/onboarding/sheet/{ehr_name}"))
    printed = CliRunner().invoke(assemble(["register"]), ["register", ehr_name, "--json"])
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.output) == shown
    for service in shown["services"]:
        assert service["audience"] in words
        assert all(query in words for query in service["prefetch"].values())


def test_a_sheet_asks_for_no_more_scopes_than_the_templates_read() -> None:
    services = load_services(Settings().manifests / "services", "non_device")
    sheet = registration_sheet(Settings(), services, "epic")
    templates = [t for s in services.on for t in s.prefetch().values()]
    for scope in sheet.scopes:
        type_ = scope.removeprefix("patient/").removesuffix(".rs")
        assert any(t.startswith((f"{type_}?", f"{type_}/")) for t in templates) or type_ in ("Endpoint", "Medication")
    # Epic's own documents name three hooks; what it does not send stands apart.
    assert {hook for s in sheet.services for hook in s.hooks} <= {"patient-view", "order-select", "order-sign"}


def test_a_client_is_registered_with_its_archives_its_key_file_and_our_smart_registrations(
    tmp_path: Path, ehr: str
) -> None:
    file, theirs, ours = tmp_path / "clients.yaml", tmp_path / "theirs.json", tmp_path / "ours.json"
    theirs.write_text(json.dumps({"keys": [Caller().jwk()]}))
    new_key(ours)
    asked = {
        "name": "south",
        "tenant": "south-clinic",
        "issuer": ISSUER,
        "jwks_file": str(theirs),
        "audience": "https://cds.example.org",
        "fhir": ehr,
        "dicomweb": "http://127.0.0.1:8042/dicom-web\nhttp://127.0.0.1:8043/dicom-web\n",
        "origins": "https://login.example.org",
        "token_url": "https://login.example.org/token",
        "backend_id": "ordersight-backend",
        "backend_key": str(ours),
        "backend_scopes": "system/Patient.rs system/Observation.rs",
        "launch_id": "ordersight-evidence",
        "launch_link": "absolute",
        "why": "pilot",
    }
    backend = Backend("ordersight-backend", str(ours), ("system/Patient.rs", "system/Observation.rs"))
    smart = Smart(
        ("https://login.example.org",),
        "https://login.example.org/token",
        backend,
        Launch("ordersight-evidence", link="absolute"),
    )
    roots = ("http://127.0.0.1:8042/dicom-web", "http://127.0.0.1:8043/dicom-web")
    with console_house(tmp_path, clients=None, clients_file=file) as house:
        visitor = house.logged_in("ada")
        visitor.see("/admin/onboarding")
        for wrong, why in (
            ({"jwks_file": ""}, "its keys at an address or in a file"),
            ({"jwks_file": str(tmp_path / "none.json")}, "there is no such file"),
            ({"backend_scopes": "system/Patient.cud"}, "write scopes that read"),
            ({"backend_key": str(tmp_path / "none.json")}, "none.json"),
            ({"dicomweb": "http://archive.example.org/dicom-web"}, "http://archive.example.org"),
            ({"launch_link": "both"}, "both"),
        ):
            got = visitor.post("/admin/onboarding/clients", **(asked | wrong))
            assert (got.status_code, file.exists()) == (400, False)
            alert = unescape(got.text).rpartition('role="alert">')[2].partition("</p>")[0]
            assert why in alert
            # What was typed is still there to be mended.
            assert 'value="ordersight-backend"' in got.text
        assert visitor.post("/admin/onboarding/clients", **asked).status_code == 200
        (client,) = load_clients(file).all
        assert client == Client(
            "south",
            (FhirServer(ehr, roots, smart=smart),),
            issuer=ISSUER,
            tenant="south-clinic",
            jwks_file=str(theirs),
            audience="https://cds.example.org",
        )
        row = visitor.words("/admin/onboarding").partition("Registered clients")[2]
        assert f"south-clinic {ISSUER} in a file {ehr} {', '.join(roots)} reads ahead of calls" in row
