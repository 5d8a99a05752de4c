from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
import time
from concurrent.futures import wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
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
    FIRST,
    LABS,
    SLACK_S,
    always,
    bundle,
    call_of,
    client_of,
    in_turn,
    read,
    soon,
    timed,
)

from cds_service.deadline import Deadline
from cds_service.fhir_client import FhirClient
from cds_service.prefetch import Answer, Failed, Sent
from cds_service.trust.clients import Client, FhirServer
from cds_service.trust.origins import Resolver

pytestmark = pytest.mark.in_time

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
    "too many requests": (reply({}, 429), "error"),
    "not found": (reply({}, 404), "error"),
    "server error": (reply({}, 500), "error"),
    "unavailable": (reply({}, 503, Retry_After="soon"), "error"),
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


def authority_and_server(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate authority of our own, as a file, and a server's TLS context with a certificate of it for `name`."""

    def certificate(
        subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=subject == issuer, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
            .sign(signer, hashes.SHA256())
        )

    signer, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    authority, chain = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(certificate("authority", "authority", signer, signer).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(private + certificate(name, "authority", key, signer).public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return authority, context


def read_over_tls(server: Moody, ca_bundle: Path | None, deadline: Deadline | None = None) -> Answer:
    base = f"https://localhost:{server.port}/fhir"
    client = FhirClient(ca_bundle=str(ca_bundle) if ca_bundle else None)
    reads = client.for_request(call_of(base), Client("x", (FhirServer(base),)))
    deadline = deadline or soon()
    future = reads.read(LABS, None, deadline)
    wait([future], deadline.remaining())
    reads.abandon()
    client.close()
    return future.result(1)


def test_a_server_is_read_over_tls_when_its_certificate_is_good_and_the_token_never_leaves_when_it_is_not(
    tmp_path: Path,
) -> None:
    authority, context = authority_and_server(tmp_path, "localhost")
    with Moody(always(reply(bundle(FIRST))), tls=context) as server:
        assert read_over_tls(server, authority) == Sent((FIRST,))
        assert read_over_tls(server, None) == Failed("unreachable")  # an authority nobody knows
        assert len(server.seen) == 1
    authority, context = authority_and_server(tmp_path, "other.example.org")
    with Moody(always(reply(bundle(FIRST))), tls=context) as server:
        assert read_over_tls(server, authority) == Failed("unreachable")  # a certificate of another name
        assert server.seen == []


@pytest.mark.parametrize("mood", [hang, drip_headers, drip_body])
def test_the_deadline_holds_over_tls(tmp_path: Path, mood: Mood) -> None:
    authority, context = authority_and_server(tmp_path, "localhost")
    with Moody(always(mood), tls=context) as server:
        answer, took = timed(lambda: read_over_tls(server, authority, Deadline.after(0.5)))
        assert answer == Failed("timeout")
        assert took < 0.5 + SLACK_S
        assert server.wait_until_idle(2.0)


def test_a_server_that_never_finishes_its_handshake_costs_the_deadline(tmp_path: Path) -> None:
    authority, _ = authority_and_server(tmp_path, "localhost")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = f"https://localhost:{listener.getsockname()[1]}/fhir"
        client = FhirClient(ca_bundle=str(authority))
        reads = client.for_request(call_of(base), Client("x", (FhirServer(base),)))
        future = reads.read(LABS, None, Deadline.after(5.0))
        connection, _ = listener.accept()
        hello = connection.recv(65536)
        assert hello.startswith(b"\x16\x03")  # a TLS handshake record
        _, took = timed(reads.abandon)
        assert future.result(1) == Failed("timeout")
        assert took < SLACK_S
        connection.close()
        client.close()
