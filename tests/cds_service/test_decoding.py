"""Films decoded in children: the same pixels, and whatever happens to a child costs one film."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "fhir_mappers"))

from films import LOSSLESS, STARTED, film, picture

from cds_service.deadline import Deadline
from cds_service.decoding import Decoders
from cds_service.evidence import DicomFile, Shortfall
from fhir_mappers.dicom import FileFrame
from fhir_mappers.imaging import decode_film
from fhir_mappers.pixels import EXPLICIT_LE, UNCOMPRESSED
from fhir_mappers.record import Gap, Image

JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
COMPRESSED = [s for s in LOSSLESS if s not in UNCOMPRESSED]


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders(1)
    yield made
    made.close()


def fetched(made: FileFrame) -> DicomFile:
    return DicomFile(
        made.study_uid, made.series_uid, made.sop_uid, made.metadata, made.frame, made.transfer_syntax, made.reference
    )


def packed(syntax: str, bits: int = 12, shape: tuple[int, int] = (37, 53)) -> DicomFile:
    pixels = picture(bits, shape)
    return fetched(film(pixels, LOSSLESS[syntax](pixels, bits), syntax, stored=bits))


def slow_film() -> DicomFile:
    """A second or two of one core: 9 megapixels in JPEG 2000."""
    pixels = np.random.default_rng(1).integers(0, 4096, (3000, 3000)).astype(np.uint16)
    return fetched(film(pixels, LOSSLESS[JPEG_2000](pixels, 12), JPEG_2000, stored=12))


def read(decoders: Decoders, file: DicomFile, seconds: float = 10.0) -> Image | Gap | Shortfall:
    with decoders.native([file], Deadline.after(seconds)) as films:
        if films.shortfalls:
            assert films.files == ()
            return films.shortfalls[0]
        return decode_film(films.files[0], STARTED)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_film_decoded_in_a_child_is_the_film_decoded_here(decoders: Decoders, syntax: str, bits: int) -> None:
    file = packed(syntax, bits)
    here, there = decode_film(file, STARTED), read(decoders, file)
    assert isinstance(here, Image)
    assert isinstance(there, Image)
    assert np.array_equal(here.pixels, there.pixels)
    assert decoders.counts == {"decoded": 1}


def test_signed_values_survive_the_way_through_a_child(decoders: Decoders) -> None:
    pixels = np.array([[-2048, -1, 0, 2047]] * 4, np.int16)
    plain = decode_film(fetched(film(pixels, stored=12)), STARTED)
    coded = fetched(film(pixels, LOSSLESS[RLE](pixels.view(np.uint16), 16), RLE, stored=12))
    through = read(decoders, coded)
    assert isinstance(plain, Image)
    assert isinstance(through, Image)
    assert np.array_equal(plain.pixels, through.pixels)
    # No window, so the whole range of 4,096 values: -2048 is black, 2047 white, 0 at 2048/4095.
    np.testing.assert_allclose(through.pixels[0], [0.0, 2047 / 4095, 2048 / 4095, 1.0], atol=1e-6)


@pytest.mark.parametrize("syntax", sorted(UNCOMPRESSED))
def test_an_uncompressed_film_needs_no_child(decoders: Decoders, syntax: str) -> None:
    pixels = picture(12)
    order = ">" if syntax.endswith("1.2.2") else "<"
    file = fetched(film(pixels, pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(), syntax, stored=12))
    assert isinstance(read(decoders, file), Image)
    assert decoders.counts == {}


def test_a_film_refused_by_its_header_is_not_decoded(decoders: Decoders) -> None:
    big = fetched(film(picture(8), b"x", RLE, tags={"00280010": {"vr": "US", "Value": [65535]}}))
    huge = fetched(
        film(picture(8), b"x", RLE, tags={t: {"vr": "US", "Value": [65535]} for t in ("00280010", "00280011")})
    )
    assert read(decoders, huge) == Gap("unsupported-image", "film size", "ImagingStudy/s1")
    assert decoders.counts == {}
    assert read(decoders, big) == Gap("malformed", "film pixels", "ImagingStudy/s1")


def test_a_child_that_dies_costs_the_film_it_held(decoders: Decoders) -> None:
    decoders.warm()
    assert isinstance(read(decoders, packed(RLE)), Image)
    (worker,) = decoders._idle
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(read, decoders, slow_film())
        time.sleep(0.3)
        os.kill(worker.process.pid, signal.SIGSEGV)
        assert held.result() == Gap("malformed", "film pixels", "ImagingStudy/s1")
    assert isinstance(read(decoders, packed(RLE)), Image)
    assert decoders.counts == {"decoded": 2, "crashed": 1}


def test_a_child_that_hangs_is_killed_at_the_deadline_and_replaced(decoders: Decoders) -> None:
    assert isinstance(read(decoders, packed(RLE)), Image)
    (worker,) = decoders._idle
    os.kill(worker.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert read(decoders, packed(RLE), 0.3) == Shortfall("films", "no-time")
    assert time.monotonic() - began < 0.6
    assert isinstance(read(decoders, packed(RLE)), Image)
    assert worker.process.wait(5) == -signal.SIGKILL
    assert decoders.counts == {"decoded": 2, "late": 1}


def test_a_film_that_takes_too_long_stops_burning_the_processor(decoders: Decoders) -> None:
    decoders.warm()
    film = slow_film()
    assert isinstance(read(decoders, packed(RLE)), Image)
    (worker,) = decoders._idle
    assert read(decoders, film, 0.2) == Shortfall("films", "no-time")
    assert worker.process.wait(5) == -signal.SIGKILL


def test_a_codestream_that_needs_more_memory_than_a_child_may_have_is_refused(decoders: Decoders) -> None:
    """200 KB that become 64 megapixels, which the budget of pixels allows."""
    black = np.zeros((8000, 8000), np.uint16)
    bomb = bytes(imagecodecs.jpeg2k_encode(black, level=0, reversible=True, codecformat="j2k"))
    assert len(bomb) < 200_000
    size = {t: {"vr": "US", "Value": [8000]} for t in ("00280010", "00280011")}
    file = fetched(film(picture(12), bomb, JPEG_2000, tags=size))
    assert isinstance(read(decoders, packed(RLE)), Image)
    (worker,) = decoders._idle
    resource.prlimit(worker.process.pid, resource.RLIMIT_AS, (400 << 20, 400 << 20))
    assert read(decoders, file, 30) == Gap("malformed", "film pixels", "ImagingStudy/s1")
    assert isinstance(read(decoders, packed(RLE)), Image)


def test_two_films_wait_for_one_child_and_only_as_long_as_they_may(decoders: Decoders) -> None:
    decoders.warm()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read, decoders, slow_film())
        time.sleep(0.2)
        assert read(decoders, packed(RLE), 0.1) == Shortfall("films", "no-time")
        second = pool.submit(read, decoders, packed(RLE))
        assert isinstance(first.result(), Image)
        assert isinstance(second.result(), Image)


def test_pixels_of_calls_that_have_not_ended_count_against_the_room_there_is() -> None:
    decoders = Decoders(1, pixels_at_once=3000)  # one film is 37 x 53 = 1961 pixels
    try:
        plain = fetched(film(picture(8)))
        with decoders.native([plain], Deadline.after(5)) as films:
            assert len(films.files) == 1
            with decoders.native([plain], Deadline.after(0.05)) as others:
                assert others.shortfalls == (Shortfall("films", "no-time"),)
            freed = threading.Event()

            def waits() -> bool:
                with decoders.native([plain], Deadline.after(5)) as third:
                    return freed.is_set() and len(third.files) == 1

            pool = ThreadPoolExecutor(1)
            waiting = pool.submit(waits)
            time.sleep(0.05)
            freed.set()
        assert waiting.result()
        pool.shutdown()
    finally:
        decoders.close()


def test_a_film_too_large_for_all_the_room_there_is_does_not_wait_for_ever() -> None:
    decoders = Decoders(1, pixels_at_once=1000)
    assert read(decoders, fetched(film(picture(8))), 0.1) == Shortfall("films", "no-time")
    decoders.close()


def test_children_know_nothing_of_the_service(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERSIGHT_STATE_URL", "postgresql://user:Zebra7Canary@db/x")
    decoders.warm()
    assert isinstance(read(decoders, packed(RLE)), Image)
    (worker,) = decoders._idle
    process = Path(f"/proc/{worker.process.pid}")
    assert b"Zebra7Canary" not in (process / "environ").read_bytes()
    loaded = (process / "maps").read_text()
    assert "torch" not in loaded
    assert "ssl" not in loaded
    files = [os.readlink(fd) for fd in (process / "fd").iterdir()]
    assert len(files) == 3, "one socket, and nothing to read or write"
    limits = (process / "limits").read_text()
    for limit in ("Max address space", "Max core file size", "Max file size", "Max cpu time"):
        assert "unlimited" not in next(line for line in limits.splitlines() if line.startswith(limit))[:50]


TRIES = """
import os, socket
from cds_service import decode_worker
decode_worker.confine()
for tried in (
    socket.socket,
    lambda: socket.socket(socket.AF_INET6),
    lambda: socket.socket(socket.AF_UNIX),
    lambda: open("/etc/passwd"),
    os.pipe,
):
    try:
        print("got", tried())
    except OSError as error:
        print(error.errno)
"""


def test_a_decoder_taken_over_by_its_film_can_open_neither_a_file_nor_a_connection() -> None:
    tried = subprocess.run([sys.executable, "-c", TRIES], capture_output=True, text=True, check=True)
    assert tried.stdout.split() == [str(errno.EMFILE)] * 5


def test_children_go_when_their_service_is_killed(tmp_path: Path) -> None:
    program = (
        "import time; from cds_service.decoding import Decoders; d = Decoders(2); d.warm(); "
        "print(*(w.process.pid for w in d._idle), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    until = time.monotonic() + 5
    while time.monotonic() < until and any(map(cmdline, children)):
        time.sleep(0.02)
    assert not any(map(cmdline, children))


def cmdline(pid: int) -> bytes:
    """Empty once the process has ended, whoever has to collect it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_what_comes_back_is_plain_and_nothing_else_of_the_film_changes(decoders: Decoders) -> None:
    file = packed(JPEG_LS)
    with decoders.native([file], Deadline.after(5)) as films:
        (native,) = films.files
    assert native.transfer_syntax == EXPLICIT_LE
    assert len(native.frame) == 37 * 53 * 2
    assert (native.sop_uid, native.metadata, native.reference) == (file.sop_uid, file.metadata, file.reference)
