from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from moody import Mood, Moody, Seen, drip_body, hang, reply, reset
from reading import NOON, SLACK_S, TOKEN, always, call_of, client_of, in_turn, soon, timed

from cds_service.deadline import Deadline
from cds_service.dicomweb import read_frame, read_instances, read_metadata
from cds_service.evidence import Frame
from cds_service.fhir_client import FhirClient, Reads
from cds_service.multipart import BadAnswer
from cds_service.prefetch import Failed
from cds_service.trust.clients import Client, FhirServer
from fhir_mappers.record import Instance, Source, Study

pytestmark = pytest.mark.in_time

EXPLICIT, IMPLICIT, JPEG2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"
STUDY = Study("1.2.3", NOON, frozenset({"DX"}), "Chest", (), (), (), Source("ImagingStudy/s1"))
IMAGE = Instance("1.2.3", "1.2.3.1", "1.2.3.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "DX", 1)
METADATA = {"00080018": {"vr": "UI", "Value": ["1.2.3.1.1"]}, "00280010": {"vr": "US", "Value": [2]}}
PIXELS = bytes(range(256)) * 4


def multipart(data: bytes, part_type: str = "", boundary: str = "b0", length: bool = True) -> bytes:
    headers = [f"Content-Type: {part_type}"] if part_type else []
    headers += [f"Content-Length: {len(data)}"] if length else []
    head = "".join(f"{line}\r\n" for line in headers).encode()
    mark = boundary.encode()
    return b"--" + mark + b"\r\n" + head + b"\r\n" + data + b"\r\n--" + mark + b"--\r\n"


@pytest.mark.parametrize(
    ("outer", "part", "syntax"),
    [
        # Orthanc 1.10.1: the transfer syntax stands inside the quotes of `type`; the part says it properly.
        (
            'multipart/related; type="image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90"; boundary=b0',
            "image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90",
            JPEG2000,
        ),
        ('multipart/related; type="image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90"; boundary=b0', "", JPEG2000),
        (
            'multipart/related; type="application/octet-stream"; boundary="b0"',
            "application/octet-stream; transfer-syntax=1.2.840.10008.1.2",
            IMPLICIT,
        ),
        ("multipart/related;type=application/octet-stream;boundary=b0", "application/octet-stream", EXPLICIT),
        ("Multipart/Related; Boundary=b0", "", EXPLICIT),
        ("multipart/related; boundary=b0; transfer-syntax=1.2.840.10008.1.2", "", IMPLICIT),
        ("multipart/related; boundary=b0; transfer-syntax=*", "application/octet-stream", EXPLICIT),
        # PS3.18: what each media type of image bulk data stands for when it names no transfer syntax.
        ("multipart/related; boundary=b0", "image/jp2", JPEG2000),
        ("multipart/related; boundary=b0", "image/jls", "1.2.840.10008.1.2.4.80"),
        ("multipart/related; boundary=b0", "image/dicom-rle", "1.2.840.10008.1.2.5"),
        ("multipart/related; boundary=b0", "image/jpeg", "1.2.840.10008.1.2.4.70"),
        (
            "multipart/related; boundary=b0",
            'image/jpeg; transfer-syntax="1.2.840.10008.1.2.4.50"',
            "1.2.840.10008.1.2.4.50",
        ),
    ],
)
def test_the_transfer_syntax_is_learnt_where_it_is_right(outer: str, part: str, syntax: str) -> None:
    assert read_frame(outer, multipart(PIXELS, part)) == Frame(PIXELS, syntax)


def test_a_single_part_answer_is_a_frame_too() -> None:
    assert read_frame("application/octet-stream; transfer-syntax=1.2.840.10008.1.2", PIXELS) == Frame(PIXELS, IMPLICIT)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/related", multipart(PIXELS)),
        ("multipart/related; boundary=", multipart(PIXELS)),
        ("multipart/related; boundary=other", multipart(PIXELS)),
        (f"multipart/related; boundary={'b' * 71}", multipart(PIXELS, boundary="b" * 71)),
        ("multipart/related; boundary=b0", b""),
        ("multipart/related; boundary=b0", b"--b0"),
        ("multipart/related; boundary=b0", b"--b0--\r\n"),
        ("multipart/related; boundary=b0", b"--b0\r\nContent-Type: image/jp2\r\n"),
        ("multipart/related; boundary=b0", b"--b0\r\n\r\n" + PIXELS),
        ("multipart/related; boundary=b0", b"--b0\r\n\r\n\r\n--b0--"),
        ("multipart/related; boundary=b0", b"--b0\r\nX: " + b"x" * 10_000 + b"\r\n\r\n" + PIXELS + b"\r\n--b0--"),
        ("multipart/related; boundary=b0", multipart(PIXELS, "image/png")),
        ("multipart/related; boundary=b0", multipart(PIXELS, "image/jp2; transfer-syntax=evil")),
        ("text/html", b"<html>"),
        ("application/json", b"{}"),
        ("application/octet-stream", b""),
        ("", PIXELS),
    ],
)
def test_what_is_no_frame_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_frame(content_type, body)


def test_any_cut_through_an_answer_is_refused_or_leaves_the_whole_frame() -> None:
    body = multipart(PIXELS, "image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90")
    for end in range(len(body)):
        try:
            frame = read_frame("multipart/related; boundary=b0", body[:end])
        except BadAnswer:
            continue
        assert frame.data == PIXELS


def test_metadata_of_another_instance_is_not_taken() -> None:
    other = {"00080018": {"vr": "UI", "Value": ["9.9"]}}
    assert read_metadata(json.dumps([other, METADATA]).encode(), IMAGE.sop_uid) == METADATA
    for body in (b"[]", b"", b"{}", b"[7]", b"junk", json.dumps([other]).encode(), b'[{"00080018": 7}]'):
        with pytest.raises(BadAnswer):
            read_metadata(body, IMAGE.sop_uid)


def test_a_search_for_instances_is_read_and_what_has_no_uid_is_left_out() -> None:
    def found(**tags: Any) -> dict[str, Any]:
        return {tag.removeprefix("t"): {"vr": "UI", "Value": [value]} for tag, value in tags.items()}

    body = [
        found(t0020000D="1.2.3", t0020000E="1.2.3.1", t00080018="1.2.3.1.1", t00080060="CR", t00200013=2),
        found(t0020000E="1.2.3.1", t00080018="1.2.3.1.2"),
        found(t0020000E="1.2.3.1"),
        found(t0020000D="6.6.6", t0020000E="1.2.3.1", t00080018="1.2.3.1.3"),
    ]
    assert read_instances(json.dumps(body).encode(), STUDY) == (
        Instance("1.2.3", "1.2.3.1", "1.2.3.1.1", "", "CR", 2),
        Instance("1.2.3", "1.2.3.1", "1.2.3.1.2", "", "DX", 0),
    )
    assert read_instances(b"", STUDY) == ()  # 204 No Content


ORTHANC = 'multipart/related; type="image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90"; boundary=b0'
AS_STORED = reply(multipart(PIXELS, "image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90"), content_type=ORTHANC)
CONVERTED = reply(multipart(PIXELS, "application/octet-stream"), content_type="multipart/related; boundary=b0")


@pytest.fixture
def fhir() -> Iterator[Moody]:
    """A FHIR server that has one Endpoint."""
    with Moody(always(hang)) as server:
        yield server


def reads_of(client: FhirClient, fhir: Moody, *roots: str) -> Reads:
    return client.for_request(call_of(fhir.base), client_of(fhir, dicomweb=roots))


def archive(metadata: Mood, frame: Mood) -> Callable[[Seen], Mood]:
    return lambda seen: metadata if seen.path.endswith("/metadata") else frame


def test_a_frame_is_asked_for_as_stored_and_below_the_registered_root(fhir_client: FhirClient, fhir: Moody) -> None:
    with Moody(archive(reply([METADATA], content_type="application/dicom+json"), AS_STORED)) as pacs:
        reads = reads_of(fhir_client, fhir, f"{pacs.origin}/dicom-web")
        assert reads.frame(STUDY, IMAGE, soon()).result() == Frame(PIXELS, JPEG2000)
        assert reads.metadata(STUDY, IMAGE, soon()).result() == METADATA
        frame, metadata = pacs.seen
    path = "/dicom-web/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.1"
    assert (frame.path, metadata.path) == (f"{path}/frames/1", f"{path}/metadata")
    assert frame.headers["accept"] == 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
    # zlib makes Orthanc eight times slower (COMPONENTS.md section 2).
    assert frame.headers["accept-encoding"] == "identity"
    assert metadata.headers["accept"] == "application/dicom+json"


@pytest.mark.parametrize("status", [500, 400, 406])
def test_a_frame_the_archive_cannot_give_as_stored_is_asked_for_uncompressed(
    fhir_client: FhirClient, fhir: Moody, status: int
) -> None:
    with Moody(in_turn(reply({}, status), CONVERTED)) as pacs:
        reads = reads_of(fhir_client, fhir, f"{pacs.origin}/dicom-web")
        assert reads.frame(STUDY, IMAGE, soon()).result() == Frame(PIXELS, EXPLICIT)
        assert pacs.seen[1].headers["accept"].endswith(f"transfer-syntax={EXPLICIT}")


def test_the_token_goes_to_an_archive_on_the_fhir_servers_own_origin_and_to_no_other(fhir_client: FhirClient) -> None:
    with Moody(always(AS_STORED)) as ehr, Moody(always(AS_STORED)) as pacs:
        reads_of(fhir_client, ehr, f"{ehr.origin}/dicom-web").frame(STUDY, IMAGE, soon()).result()
        reads_of(fhir_client, ehr, f"{pacs.origin}/dicom-web").frame(STUDY, IMAGE, soon()).result()
        assert ehr.seen[0].headers["authorization"] == f"Bearer {TOKEN}"
        assert "authorization" not in pacs.seen[0].headers


MOODS: list[tuple[Mood, str]] = [
    (hang, "timeout"),
    (drip_body, "timeout"),
    (reset, "unreachable"),
    (reply(b"junk"), "bad-answer"),
    (reply(gzip.compress(b"0" * 100_000_000), Content_Encoding="gzip"), "bad-answer"),
    (reply(b"0" * 65_000_000, content_type="application/octet-stream"), "bad-answer"),
    (reply({}, 401), "refused"),
    (reply({}, 404), "error"),
    (reply(b"", 302, Location="http://127.0.0.2/"), "error"),
]


@pytest.mark.parametrize(("mood", "reason"), MOODS, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(MOODS)])
def test_an_archive_in_a_bad_mood_is_a_named_shortfall(
    fhir_client: FhirClient, fhir: Moody, mood: Mood, reason: str
) -> None:
    with Moody(always(mood)) as pacs:
        reads = reads_of(fhir_client, fhir, f"{pacs.origin}/dicom-web")
        deadline = Deadline.after(0.4 if reason == "timeout" else 5.0)
        futures: list[Future[Any]] = [reads.frame(STUDY, IMAGE, deadline), reads.metadata(STUDY, IMAGE, deadline)]
        if reason == "timeout":
            _, took = timed(lambda: [f.result(2) for f in futures])
            assert took < 2 * 0.4 + SLACK_S  # not yet abandoned: the read's own clock ends it
        assert {f.result(5) for f in futures} == {Failed(reason)}  # type: ignore[arg-type]
        reads.abandon()
        assert reason != "timeout" or pacs.wait_until_idle(2.0)


@pytest.mark.parametrize("uid", ["", "1.2.3/../..", "1.2.3?x=1", "a.b", "1" * 65, "1..2", "%2e"])
def test_a_uid_that_is_none_is_not_put_into_a_url(fhir_client: FhirClient, fhir: Moody, uid: str) -> None:
    with Moody(always(AS_STORED)) as pacs:
        reads = reads_of(fhir_client, fhir, f"{pacs.origin}/dicom-web")
        for image in (replace(IMAGE, study_uid=uid), replace(IMAGE, series_uid=uid), replace(IMAGE, sop_uid=uid)):
            assert reads.frame(STUDY, image, soon()).result() == Failed("bad-answer")
        assert reads.instances(replace(STUDY, uid=uid), soon()).result() == Failed("bad-answer")
        assert pacs.contacts == 0


def test_without_a_registered_archive_nothing_is_asked(fhir_client: FhirClient, fhir: Moody) -> None:
    named = replace(STUDY, endpoints=("http://127.0.0.1:1/dicom-web",))
    assert reads_of(fhir_client, fhir).frame(named, IMAGE, soon()).result() == Failed("no-access")
    unregistered = fhir_client.for_request(call_of(fhir.base), None)
    assert unregistered.frame(named, IMAGE, soon()).result() == Failed("not-allowed")


def endpoint(address: str) -> Mood:
    return reply({"resourceType": "Endpoint", "id": "pacs2", "status": "active", "address": address})


@pytest.mark.parametrize("named", ["address", "study below it", "reference", "absolute reference"])
def test_a_study_is_read_from_the_registered_archive_it_names(fhir_client: FhirClient, fhir: Moody, named: str) -> None:
    with Moody(always(AS_STORED)) as first, Moody(always(AS_STORED)) as second:
        root = f"{second.origin}/dicom-web"
        fhir.answer = always(endpoint(f"{root}/"))
        address = {
            "address": f"{root}/",
            "study below it": f"{root}/studies/1.2.3",
            "reference": "Endpoint/pacs2",
            "absolute reference": f"{fhir.base}/Endpoint/pacs2",
        }[named]
        reads = reads_of(fhir_client, fhir, f"{first.origin}/dicom-web", root)
        study = replace(STUDY, endpoints=(address,))
        futures = [reads.frame(study, IMAGE, soon()) for _ in range(3)]
        assert [f.result() for f in futures] == [Frame(PIXELS, JPEG2000)] * 3
        assert (first.contacts, len(second.seen)) == (0, 3)
        assert len(fhir.seen) == (1 if "reference" in named else 0)  # asked once for all the films of a call


def test_an_endpoint_that_is_not_registered_is_not_contacted_and_registered_archives_are(
    fhir_client: FhirClient, fhir: Moody
) -> None:
    with (
        Moody(always(AS_STORED), host="127.0.0.2") as elsewhere,
        Moody(always(AS_STORED)) as first,
        Moody(always(AS_STORED)) as second,
    ):
        there = f"{elsewhere.origin}/dicom-web"
        fhir.answer = always(endpoint(there))
        roots = f"{first.origin}/dicom-web", f"{second.origin}/dicom-web"
        for named in (
            there,
            f"//127.0.0.2:{elsewhere.port}/dicom-web",
            f"http://127.0.0.1:{first.port}@127.0.0.2:{elsewhere.port}/dicom-web",
            f"{roots[1]}/../..",
            "Endpoint/pacs2",
            "Endpoint/../Patient",
            f"{elsewhere.base}/Endpoint/pacs2",
            "",
            "#contained",
        ):
            reads = reads_of(fhir_client, fhir, *roots)
            study = replace(STUDY, endpoints=(named,))
            assert reads.frame(study, IMAGE, soon()).result() == Frame(PIXELS, JPEG2000), named
        assert elsewhere.contacts == 0


def test_where_there_is_one_archive_the_endpoint_is_not_looked_up(fhir_client: FhirClient, fhir: Moody) -> None:
    with Moody(always(AS_STORED)) as pacs:
        reads = reads_of(fhir_client, fhir, f"{pacs.origin}/dicom-web")
        study = replace(STUDY, endpoints=("Endpoint/pacs2",))
        assert reads.frame(study, IMAGE, soon()).result() == Frame(PIXELS, JPEG2000)
        assert fhir.contacts == 0


def test_an_endpoint_that_cannot_be_read_leaves_the_first_archive(fhir_client: FhirClient, fhir: Moody) -> None:
    with Moody(always(AS_STORED)) as first, Moody(always(AS_STORED)) as second:
        fhir.answer = always(reply({}, 404))
        reads = reads_of(fhir_client, fhir, f"{first.origin}/dicom-web", f"{second.origin}/dicom-web")
        study = replace(STUDY, endpoints=("Endpoint/gone",))
        assert reads.frame(study, IMAGE, soon()).result() == Frame(PIXELS, JPEG2000)
        assert not any("frames" in path for path in second.paths())


def test_two_clients_with_one_archive_share_its_bulkhead(fhir: Moody) -> None:
    client = FhirClient(dicomweb_in_flight=2)
    with Moody(always(hang)) as pacs, Moody(always(hang)) as other:
        root = f"{pacs.origin}/dicom-web"
        one = client.for_request(call_of(fhir.base), Client("a", (FhirServer(fhir.base, (root,)),)))
        two = client.for_request(call_of(other.base), Client("b", (FhirServer(other.base, (root,)),)))
        futures = [reads.frame(STUDY, IMAGE, Deadline.after(1.5)) for reads in (one, two) for _ in range(5)]
        # Looked at while all wait: the archive may count a read that ran out until it sees that nobody listens.
        time.sleep(0.5)
        assert not any(f.done() for f in futures)
        assert pacs.most_at_once <= 2
        assert all(f.result(5) == Failed("timeout") for f in futures)
    client.close()
