"""Every transfer syntax an archive may send gives the same film, and no frame can do harm."""

from __future__ import annotations

import struct
import time
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from films import LOSSLESS, STARTED, film, image, picture, refusal

from fhir_mappers.imaging import decode_film
from fhir_mappers.record import Gap


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_every_lossless_transfer_syntax_gives_the_very_same_film(syntax: str, bits: int) -> None:
    pixels = picture(bits)
    decoded = image(film(pixels, LOSSLESS[syntax](pixels, bits), syntax, stored=bits))
    np.testing.assert_array_equal(decoded.pixels, (pixels / ((1 << bits) - 1)).astype(np.float32))
    assert (decoded.view, decoded.modality, decoded.at) == ("PA", "CR", STARTED)


@pytest.mark.parametrize(
    ("syntax", "bits"), [("1.2.840.10008.1.2.4.50", 8), ("1.2.840.10008.1.2.4.51", 8), ("1.2.840.10008.1.2.4.51", 12)]
)
def test_lossy_jpeg_stays_near_the_film(syntax: str, bits: int) -> None:
    pixels = picture(bits)
    frame = bytes(imagecodecs.jpeg8_encode(pixels, level=97, bitspersample=bits))
    decoded = image(film(pixels, frame, syntax, stored=bits))
    assert np.abs(decoded.pixels - pixels / ((1 << bits) - 1)).max() < 0.05


def test_signed_values_are_extended_from_their_stored_sign_bit() -> None:
    values = np.array([[-2048, -1, 0, 2047]], np.int16)
    decoded = image(film(values, (values & 0x0FFF).astype("<u2").tobytes(), stored=12))
    np.testing.assert_allclose(decoded.pixels, [[0, 2047 / 4095, 2048 / 4095, 1]], atol=1e-6)
    frame = bytes(imagecodecs.jpeg2k_encode(values.repeat(8, 0), level=0, reversible=True, codecformat="j2k"))
    again = image(film(values.repeat(8, 0), frame, "1.2.840.10008.1.2.4.90", stored=12))
    np.testing.assert_array_equal(again.pixels, decoded.pixels.repeat(8, 0))


def test_bits_above_the_stored_ones_are_an_old_overlay_and_cut_off() -> None:
    pixels = np.array([[0x8001, 0x0FFF]], np.uint16)
    np.testing.assert_allclose(image(film(pixels, stored=12)).pixels, [[1 / 4095, 1]])


# --- hostile frames ----------------------------------------------------------------------------------------------


def broken_sizes() -> list[tuple[str, str, bytes]]:
    small = picture(8)
    frames = []
    for syntax in (
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.201",
    ):
        encode = LOSSLESS.get(syntax) or (lambda p, b: bytes(imagecodecs.jpeg8_encode(p, level=90)))
        frame = bytearray(encode(small, 8))
        if frame[:2] == b"\xff\xd8":
            at = next(i for i in range(len(frame)) if frame[i] == 0xFF and frame[i + 1] in (0xC0, 0xC1, 0xC3, 0xF7))
            frame[at + 5 : at + 9] = struct.pack(">HH", 65535, 65535)
        else:
            frame[8:16] = struct.pack(">II", 65535, 65535)
        frames.append((syntax, "claims 65,535 rows and columns", bytes(frame)))
    return frames


@pytest.mark.parametrize(("syntax", "what", "frame"), broken_sizes(), ids=lambda x: x if isinstance(x, str) else "")
def test_a_codestream_larger_than_its_header_is_refused_before_it_is_decoded(
    syntax: str, what: str, frame: bytes
) -> None:
    tracemalloc.start()
    began = time.perf_counter()
    assert refusal(film(picture(8), frame, syntax)) == ("malformed", "film pixels")
    assert time.perf_counter() - began < 10
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_an_rle_bomb_is_stopped_at_the_size_of_the_header() -> None:
    bomb = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 40_000  # 80 KB that unpack to 5 MB
    assert refusal(film(picture(8), bomb, "1.2.840.10008.1.2.5")) == ("malformed", "film pixels")


@pytest.mark.parametrize("offsets", [(0, 0), (64, 10), (10**9, 10**9), (63, 64)])
def test_rle_segments_that_lie_outside_the_frame_are_malformed(offsets: tuple[int, int]) -> None:
    frame = struct.pack("<16I", 2, *offsets, *[0] * 13) + b"\x00" * 100
    assert refusal(film(picture(12), frame, "1.2.840.10008.1.2.5", stored=12)) == ("malformed", "film pixels")


@pytest.mark.parametrize("syntax", [*LOSSLESS, "1.2.840.10008.1.2.4.50"])
def test_a_frame_cut_short_or_scrambled_is_a_gap_or_an_image_of_the_right_size_and_never_an_exception(
    syntax: str,
) -> None:
    pixels = picture(8)
    whole = LOSSLESS[syntax](pixels, 8) if syntax in LOSSLESS else bytes(imagecodecs.jpeg8_encode(pixels, level=90))
    rng = np.random.default_rng(1)
    damaged = [whole[:n] for n in (0, 1, 3, 20, len(whole) // 2)]
    for _ in range(30):
        copy_ = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            copy_[at] = int(rng.integers(0, 256))
        damaged.append(bytes(copy_))
    for frame in damaged:
        decoded = decode_film(film(pixels, frame, syntax), STARTED)
        assert isinstance(decoded, Gap) or decoded.pixels.shape == pixels.shape
    assert isinstance(decode_film(film(pixels, whole[: len(whole) // 3], syntax), STARTED), Gap)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize(
    "syntax", [s for s in LOSSLESS if s[:20] == "1.2.840.10008.1.2.4."] + ["1.2.840.10008.1.2.4.51"]
)
def test_a_codestream_cut_short_is_refused_even_where_its_end_marker_was_put_back(syntax: str, bits: int) -> None:
    pixels = picture(bits, (64, 80))
    encode = LOSSLESS.get(syntax) or (lambda p, b: bytes(imagecodecs.jpeg8_encode(p, level=90, bitspersample=b)))
    whole = encode(pixels, bits)
    image(film(pixels, whole, syntax, stored=bits))
    for kept in (0.5, 0.9, 0.99):
        cut = whole[: int(len(whole) * kept)] + b"\xff\xd9"
        assert refusal(film(pixels, cut, syntax, stored=bits)) == ("malformed", "film pixels"), kept
