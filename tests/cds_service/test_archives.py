"""Which registered archive a study is read from, and what an archive is asked for besides frames as stored."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from moody import Mood, Moody, Seen, hang, reply, reset
from PIL import Image as Picture
from reading import NOON, SLACK_S, always, call_of, client_of, soon, timed

from cds_service.deadline import Deadline
from cds_service.evidence import Frame
from cds_service.fhir_client import FhirClient, Reads
from cds_service.prefetch import Failed
from fhir_mappers.record import Instance, Source, Study

pytestmark = pytest.mark.in_time

EXPLICIT, JPEG2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
STUDY = Study("1.2.3", NOON, frozenset({"DX"}), "Chest", (), (), (), Source("ImagingStudy/s1"))
IMAGE = Instance("1.2.3", "1.2.3.1", "1.2.3.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "DX", 1)
METADATA = {"00080018": {"vr": "UI", "Value": ["1.2.3.1.1"]}, "00280010": {"vr": "US", "Value": [2]}}
PIXELS = bytes(range(256)) * 4


def multipart(data: bytes, part_type: str) -> bytes:
    return f"--b0\r\nContent-Type: {part_type}\r\n\r\n".encode() + data + b"\r\n--b0--\r\n"


def found(**tags: Any) -> dict[str, Any]:
    return {tag.removeprefix("t"): {"vr": "UI", "Value": [value]} for tag, value in tags.items()}


AS_STORED = reply(multipart(PIXELS, f"image/jp2; transfer-syntax={JPEG2000}"),
                  content_type="multipart/related; boundary=b0")  # fmt: skip


@pytest.fixture
def fhir() -> Iterator[Moody]:
    with Moody(always(hang)) as server:
        yield server


def reads_of(client: FhirClient, fhir: Moody, *roots: str) -> Reads:
    return client.for_request(call_of(fhir.base), client_of(fhir, dicomweb=roots))


def archive(metadata: Mood, frame: Mood) -> Callable[[Seen], Mood]:
    return lambda seen: metadata if seen.path.endswith("/metadata") else frame


HERE = reply(
    [found(t0020000D="1.2.3", t0020000E="1.2.3.1", t00080018="1.2.3.1.1")], content_type="application/dicom+json"
)


def holding(search: Mood, frame: Mood = AS_STORED) -> Callable[[Seen], Mood]:
    return lambda seen: frame if "/frames/" in seen.path else search


@pytest.mark.parametrize("other", [reply(b"", 204), reply({}, 404), reply({}, 503), reply(b"junk"), reset, hang])
def test_a_study_without_an_endpoint_is_read_from_whichever_registered_archive_holds_it(
    fhir_client: FhirClient, fhir: Moody, other: Mood
) -> None:
    with Moody(always(other)) as first, Moody(holding(HERE)) as second:
        reads = reads_of(fhir_client, fhir, f"{first.origin}/dicom-web", f"{second.origin}/dicom-web")
        futures = [reads.frame(STUDY, IMAGE, soon()) for _ in range(2)]
        assert [f.result(5) for f in futures] == [Frame(PIXELS, JPEG2000)] * 2
        searches = [path for path in second.paths() if "frames" not in path]
        fields = "includefield=00080060&includefield=00185101&includefield=0008103E"
        assert searches == [f"/dicom-web/studies/1.2.3/instances?{fields}"]  # once for all of a call
        assert len(first.seen) <= 2  # the search alone, and once more after a passing fault
        reads.abandon()


def test_an_archive_that_names_another_study_does_not_hold_this_one(fhir_client: FhirClient, fhir: Moody) -> None:
    other = reply([found(t0020000D="1.2.9", t0020000E="1.2.9.1", t00080018="1.2.9.1.1")])
    with Moody(holding(other)) as first, Moody(holding(HERE)) as second:
        reads = reads_of(fhir_client, fhir, f"{first.origin}/dicom-web", f"{second.origin}/dicom-web")
        assert reads.frame(STUDY, IMAGE, soon()).result(5) == Frame(PIXELS, JPEG2000)
        assert not any("frames" in path for path in first.paths())


def test_where_every_archive_hangs_the_search_ends_with_half_of_the_time_left(
    fhir_client: FhirClient, fhir: Moody
) -> None:
    with Moody(always(hang)) as first, Moody(always(hang)) as second:
        reads = reads_of(fhir_client, fhir, f"{first.origin}/dicom-web", f"{second.origin}/dicom-web")
        answer, took = timed(lambda: reads.frame(STUDY, IMAGE, Deadline.after(0.6)).result(3))
        assert answer == Failed("timeout")
        assert took < 0.6 + SLACK_S
        assert second.contacts == 1


def jpeg(rows: int, columns: int) -> bytes:
    out = io.BytesIO()
    Picture.fromarray(np.full((rows, columns), 77, np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


def test_a_frame_nobody_here_can_decode_is_asked_for_as_the_archive_displays_it_and_said_to_be_that(
    fhir_client: FhirClient, fhir: Moody
) -> None:
    video = reply(multipart(PIXELS, "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.102"),
                  content_type="multipart/related; boundary=b0")  # fmt: skip
    picture = jpeg(24, 16)

    def pacs(seen: Seen) -> Mood:
        if seen.path.endswith("/frames/1/rendered"):
            return reply(picture, content_type="image/jpeg")
        return reply({}, 406) if EXPLICIT in seen.headers["accept"] else video

    with Moody(pacs) as archive_:
        reads = reads_of(fhir_client, fhir, f"{archive_.origin}/dicom-web")
        frame = reads.frame(STUDY, IMAGE, soon()).result()
        assert frame == Frame(picture, "1.2.840.10008.1.2.4.50", rendered=True)
        assert [s.headers["accept"].partition(";")[0] for s in archive_.seen] == [
            "multipart/related", "multipart/related", "image/jpeg"
        ]  # fmt: skip


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xd8\xff\xd9", b""])
def test_a_rendered_frame_that_is_no_jpeg_is_refused(fhir_client: FhirClient, fhir: Moody, body: bytes) -> None:
    def pacs(seen: Seen) -> Mood:
        return reply(body, content_type="image/jpeg") if seen.path.endswith("rendered") else reply({}, 406)

    with Moody(pacs) as archive_:
        reads = reads_of(fhir_client, fhir, f"{archive_.origin}/dicom-web")
        assert reads.frame(STUDY, IMAGE, soon()).result() == Failed("bad-answer")


def table_at(uri: str) -> dict[str, Any]:
    table = {"00283002": {"vr": "US", "Value": [4, 0, 8]}, "00283006": {"vr": "OW", "BulkDataURI": uri}}
    return {**METADATA, "00283010": {"vr": "SQ", "Value": [table]}}


BULK = reply(multipart(b"\x00\x40\x80\xff", "application/octet-stream"), content_type="multipart/related; boundary=b0")


@pytest.mark.parametrize("relative", [False, True])
def test_a_lookup_table_left_behind_a_uri_is_fetched_below_the_registered_root(
    fhir_client: FhirClient, fhir: Moody, relative: bool
) -> None:
    with Moody(always(BULK)) as pacs:
        path = "/dicom-web/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.1"
        header = table_at("bulk/00283010/1" if relative else f"{pacs.origin}{path}/bulk/00283010/1")
        pacs.answer = archive(reply([header], content_type="application/dicom+json"), BULK)
        reads = reads_of(fhir_client, fhir, f"{pacs.origin}/dicom-web")
        metadata = reads.metadata(STUDY, IMAGE, soon()).result()
        assert not isinstance(metadata, Failed)
        # base 64 of 00 40 80 ff
        assert metadata["00283010"]["Value"][0]["00283006"] == {"vr": "OW", "InlineBinary": "AECA/w=="}
        assert pacs.paths()[1] == f"{path}/bulk/00283010/1"


def test_a_lookup_table_elsewhere_is_not_fetched_and_the_header_stays_as_it_came(
    fhir_client: FhirClient, fhir: Moody
) -> None:
    with Moody(always(BULK), host="127.0.0.2") as elsewhere, Moody(always(BULK)) as pacs:
        reads = reads_of(fhir_client, fhir, f"{pacs.origin}/dicom-web")
        for uri in (
            f"{elsewhere.origin}/dicom-web/bulk/1",
            f"{pacs.origin}/other/bulk/1",
            f"{pacs.origin}/dicom-web/../other",
            "../../../../../../../etc/passwd",
            f"//127.0.0.2:{elsewhere.port}/bulk",
            "file:///etc/passwd",
            "http://[",
        ):
            header = table_at(uri)
            pacs.answer = archive(reply([header], content_type="application/dicom+json"), BULK)
            assert reads.metadata(STUDY, IMAGE, soon()).result() == header, uri
        assert elsewhere.contacts == 0
        assert all(path.endswith("/metadata") for path in pacs.paths())


def test_a_lookup_table_that_is_too_large_is_left_out(fhir_client: FhirClient, fhir: Moody) -> None:
    large = reply(b"0" * 300_000, content_type="application/octet-stream")
    with Moody(always(large)) as pacs:
        header = table_at(f"{pacs.origin}/dicom-web/bulk/1")
        pacs.answer = archive(reply([header], content_type="application/dicom+json"), large)
        assert reads_of(fhir_client, fhir, f"{pacs.origin}/dicom-web").metadata(STUDY, IMAGE, soon()).result() == header
