from __future__ import annotations

from pathlib import Path

import pytest

from cds_service.trust.clients import Client, Clients, ClientsError, FhirServer, load_clients

ONE = """
- name: General Hospital
  issuer: https://ehr.example.org
  fhir:
    - base: https://ehr.example.org/fhir/R4/
      dicomweb: [https://pacs.example.org/dicom-web]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "clients.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_client_is_found_by_its_issuer_and_its_servers_by_their_base(tmp_path: Path) -> None:
    clients = load_clients(write(tmp_path, ONE))
    client = clients.by_issuer("https://ehr.example.org")
    assert client is not None
    server = client.server("https://ehr.example.org/fhir/R4")
    assert server is not None
    assert str(server.fhir_base()) == "https://ehr.example.org/fhir/R4"
    assert [str(a) for a in server.archives()] == ["https://pacs.example.org/dicom-web"]


def test_no_client_has_an_empty_issuer() -> None:
    anonymous = Client("x", (FhirServer("https://a.example.org"),))
    assert Clients([anonymous]).by_issuer("") is None


def test_without_a_clients_file_nobody_may_call(tmp_path: Path) -> None:
    assert load_clients(tmp_path / "none.yaml").all == ()
    assert load_clients(write(tmp_path, "")).all == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- name: x\n  fhir: [{base: https://e.example.org, dicom: []}]", "dicom"),
        ("- name: x", "fhir"),
        ("- {name: x, fhir: [], framed_by: ['https://e.example.org/chart']}", "an origin alone"),
        ("- {name: x, fhir: [], framed_by: ['https://*.example.org']}", "plain http or https"),
        ("- {name: x, fhir: [], framed_by: ['http://e.example.org']}", "without TLS"),
        ('- {name: x, fhir: [], framed_by: ["https://e.example.org; script-src *"]}', "plain http or https"),
        ("name: x", "clients.yaml"),
        ("- [", "clients.yaml"),
        ("- name: x\n  fhir: [{base: http://ehr.example.org/fhir}]", "without TLS"),
        (
            "- name: x\n  fhir: [{base: 'https://e.example.org', dicomweb: ['http://10.1.2.3/dicom-web']}]",
            "without TLS",
        ),
        ("- name: x\n  fhir: [{base: ehr.example.org/fhir}]", "https://ehr.example.org/fhir/R4"),
        ("- name: x\n  fhir: [{base: 'https://user:pw@ehr.example.org/fhir'}]", "with a password"),
        ("- name: x\n  fhir: [{base: 'https://ehr.example.org/fhir?x=1'}]", "query"),
        ("- name: x\n  fhir: [{base: 'https://2130706433/fhir'}]", "four decimal numbers"),
        ("- name: x\n  fhir: [{base: 'https://127.1/fhir'}]", "four decimal numbers"),
        ("- name: x\n  fhir: [{base: 'https://0177.0.0.1/fhir'}]", "four decimal numbers"),
        ("- name: x\n  fhir: [{base: 'https://0x7f000001/fhir'}]", "four decimal numbers"),
        ("- name: x\n  fhir: [{base: 'https://ehr..example.org/fhir'}]", "no name"),
        ("- name: x\n  fhir: [{base: 'https://[::1]/fhir'}]", "plain http or https"),
        ("- name: x\n  fhir: [{base: 'https://ehr.example.org/a/../fhir'}]", "two ways"),
    ],
)
def test_a_wrong_entry_is_refused_with_the_file_and_what_would_be_right(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ClientsError) as refused:
        load_clients(path)
    assert str(path) in str(refused.value)
    assert named in str(refused.value)


def test_plain_http_is_for_a_server_on_this_machine(tmp_path: Path) -> None:
    text = "- name: demo\n  fhir: [{base: 'http://127.0.0.1:8080/fhir', dicomweb: ['http://localhost:8042/dicom-web']}]"
    (client,) = load_clients(write(tmp_path, text)).all
    assert client.server("http://127.0.0.1:8080/fhir") is not None
