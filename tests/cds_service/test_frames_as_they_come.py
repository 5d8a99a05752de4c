"""Large frames are taken as they come: held once, within their limit, and complete once their part is."""

from __future__ import annotations

import os
import socket
import tracemalloc
from collections.abc import Iterator

import pytest
from moody import Mood, Moody, reply
from reading import NOON, always, call_of, client_of

from cds_service import archives
from cds_service.deadline import Deadline
from cds_service.evidence import Frame
from cds_service.fhir_client import FhirClient
from cds_service.prefetch import Failed
from fhir_mappers.record import Instance, Source, Study

STUDY = Study("1.2.3", NOON, frozenset({"DX"}), "Chest", (), (), (), Source("ImagingStudy/s1"))
IMAGE = Instance("1.2.3", "1.2.3.1", "1.2.3.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "DX", 1)
JPEG2000 = "1.2.840.10008.1.2.4.90"
HEAD = b"HTTP/1.1 200 X\r\nContent-Type: multipart/related; boundary=b0\r\nTransfer-Encoding: chunked\r\n\r\n"
PART = f"--b0\r\nContent-Type: image/jp2; transfer-syntax={JPEG2000}\r\n\r\n".encode()
WIDE_S = 60.0
MEGABYTE = os.urandom(1 << 20)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def frame_of(megabytes: int) -> Mood:
    """A frame of so many megabytes, a megabyte at a time."""

    def send(connection: socket.socket) -> bool:
        connection.sendall(HEAD + chunk(PART))
        for _ in range(megabytes):
            connection.sendall(chunk(MEGABYTE))
        connection.sendall(chunk(b"\r\n--b0--\r\n") + chunk(b""))
        return True

    return send


@pytest.fixture
def fhir() -> Iterator[Moody]:
    with Moody(always(reply({}, 404))) as server:
        yield server


def frame(client: FhirClient, fhir: Moody, pacs: Moody, seconds: float = WIDE_S) -> Frame | Failed:
    reads = client.for_request(call_of(fhir.base), client_of(fhir, dicomweb=(f"{pacs.origin}/dicom-web",)))
    return reads.frame(STUDY, IMAGE, Deadline.after(seconds)).result(WIDE_S)


def test_a_frame_of_many_megabytes_is_held_once_while_it_comes(fhir_client: FhirClient, fhir: Moody) -> None:
    with Moody(always(frame_of(40))) as pacs:
        frame(fhir_client, fhir, pacs)  # whatever the first call of a process allocates for good
        tracemalloc.start()
        try:
            found = frame(fhir_client, fhir, pacs)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert isinstance(found, Frame)
    assert found.data == MEGABYTE * 40
    # A growing buffer has an eighth to spare. Collected, copied and cut out of the body it was three times.
    assert peak < 1.25 * len(found.data)


def test_a_connection_serves_the_next_frame_after_one_that_ended_with_its_body(
    fhir_client: FhirClient, fhir: Moody
) -> None:
    with Moody(always(frame_of(1))) as pacs:
        for _ in range(24):
            assert isinstance(frame(fhir_client, fhir, pacs), Frame)
        assert len(pacs.seen) == 24
        assert pacs.contacts < 12  # each thread of the pool, of which there are few, has a connection of its own


def test_parts_that_nobody_asked_for_are_not_read(fhir_client: FhirClient, fhir: Moody) -> None:
    def without_end(connection: socket.socket) -> bool:
        connection.sendall(HEAD + chunk(PART) + chunk(MEGABYTE) + chunk(b"\r\n--b0\r\n\r\n"))
        while True:
            connection.sendall(chunk(MEGABYTE))  # until the other side has enough

    with Moody(always(without_end)) as pacs:
        found = frame(fhir_client, fhir, pacs)
    assert isinstance(found, Frame)
    assert found.data == MEGABYTE


def test_a_frame_beyond_the_limit_is_refused_before_all_of_it_came(fhir_client: FhirClient, fhir: Moody) -> None:
    megabytes = archives.MAX_FRAME_BYTES // len(MEGABYTE) + 60
    with Moody(always(frame_of(megabytes))) as pacs:
        assert frame(fhir_client, fhir, pacs) == Failed("bad-answer")


def test_a_frame_whose_body_never_ends_is_late_and_one_that_has_no_end_is_bad(
    fhir_client: FhirClient, fhir: Moody
) -> None:
    def stops(connection: socket.socket) -> bool:
        connection.sendall(HEAD + chunk(PART) + chunk(MEGABYTE))
        connection.recv(1)
        return False

    def cut(connection: socket.socket) -> bool:
        connection.sendall(HEAD + chunk(PART) + chunk(MEGABYTE) + chunk(b""))
        return True

    with Moody(always(stops)) as pacs:
        assert frame(fhir_client, fhir, pacs, 0.5) == Failed("timeout")
        pacs.answer = always(cut)
        assert frame(fhir_client, fhir, pacs) == Failed("bad-answer")
