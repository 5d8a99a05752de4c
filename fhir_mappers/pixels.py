"""The stored values of one grey frame, out of the transfer syntax they travelled in.

Decoders are C libraries fed by strangers: what a codestream says of its own size is read and compared with the
header before any of them is called, so that an 80 KB file cannot ask for 6 GB. All of them come with imagecodecs
(BSD); pylibjpeg-libjpeg is GPL-3 and stays out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

LARGEST_PIXELS = 64_000_000

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
NATIVE_LE = frozenset({IMPLICIT_LE, EXPLICIT_LE, "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.1.99"})
BIG_ENDIAN = "1.2.840.10008.1.2.2"
UNCOMPRESSED = NATIVE_LE | {BIG_ENDIAN}
RLE = "1.2.840.10008.1.2.5"
JPEG = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
HTJ2K = frozenset({"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"})
SYNTAXES = UNCOMPRESSED | {RLE} | JPEG | JPEG_LOSSLESS | JPEG_LS | JPEG_2000 | HTJ2K


class BadPixels(ValueError):
    """The bytes of a frame do not hold the image that its header promises."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The image a header promises: size, bits per stored value (1 to 16) in 8 or 16 allocated ones, and sign."""

    rows: int
    columns: int
    allocated: int
    stored: int
    signed: bool

    @property
    def count(self) -> int:
        return self.rows * self.columns


def unpack(frame: bytes, syntax: str, grid: Grid) -> NDArray[np.uint16]:
    """Decode a frame to its stored values, (rows, columns), counted from the lowest one. Raises BadPixels.

    The lowest stored value is 0, or for signed values -2 ** (stored - 1). Bits above the stored ones (old overlays)
    are cut off.
    """
    values = _decoded(frame, syntax, grid)
    mask = (1 << grid.stored) - 1
    if values.dtype.kind == "i" or grid.stored < 8 * values.dtype.itemsize:
        # Cast first: what is wider than 16 bits has been refused, and what is narrower cannot hold the mask.
        values = values.astype(np.uint16) & np.uint16(mask)
    return (values ^ np.uint16(1 << (grid.stored - 1)) if grid.signed else values).astype(np.uint16, copy=False)


def to_native(frame: bytes, syntax: str, grid: Grid) -> NDArray[Any]:
    """The same frame as an uncompressed one has it (Explicit VR Little Endian), (rows, columns). Raises BadPixels.

    This is the part that calls decoders, and that a process of its own can do.
    """
    values = _decoded(frame, syntax, grid)
    return values.astype(f"<u{grid.allocated // 8}", copy=False)


def _decoded(frame: bytes, syntax: str, grid: Grid) -> NDArray[Any]:
    if syntax in UNCOMPRESSED:
        return _native(frame, grid, ">" if syntax == BIG_ENDIAN else "<")
    if syntax == RLE:
        return _run_length(frame, grid)
    if syntax in SYNTAXES:
        return _codestream(frame, syntax, grid)
    raise BadPixels("transfer syntax not read here")


def _native(frame: bytes, grid: Grid, order: str) -> NDArray[Any]:
    size = grid.count * grid.allocated // 8
    if not size <= len(frame) <= size + 1:  # an odd length is padded to an even one
        raise BadPixels("not as many bytes as rows, columns and bits ask for")
    return np.frombuffer(frame, f"{order}u{grid.allocated // 8}", grid.count).reshape(grid.rows, grid.columns)


def _run_length(frame: bytes, grid: Grid) -> NDArray[Any]:
    """RLE (PS3.5 G): a header of 16 words, then one PackBits segment per byte of a value, most significant first."""
    planes = grid.allocated // 8
    if len(frame) < 64:
        raise BadPixels("no RLE header")
    segments, *offsets = struct.unpack("<16I", frame[:64])
    if segments != planes or offsets[0] < 64 or sorted(offsets[:planes]) != offsets[:planes]:
        raise BadPixels("RLE segments do not match the allocated bits")
    values: NDArray[Any] = np.zeros(grid.count, np.uint16)
    for start, end in zip(offsets[:planes], [*offsets[1:planes], len(frame)], strict=True):
        plane = _plane(frame[start:end], grid.count)
        values = (values << 8) | np.frombuffer(plane, np.uint8, grid.count)
    return values.reshape(grid.rows, grid.columns)


def _plane(segment: bytes, count: int) -> bytes:
    # A segment of odd length ends in a zero byte, which PackBits would read as one more value.
    for data in (segment, segment[:-1]):
        try:
            plane = imagecodecs.packbits_decode(data, out=count)
        except Exception:  # noqa: BLE001, S112 - the codec's own error type; what failed is told below
            continue
        if len(plane) == count:
            return bytes(plane)
    raise BadPixels("an RLE segment holds another number of values than the header says")


def _codestream(frame: bytes, syntax: str, grid: Grid) -> NDArray[Any]:
    j2k = syntax in JPEG_2000 or syntax in HTJ2K
    markers, decode = next((m, d) for syntaxes, m, d in _DECODERS if syntax in syntaxes)
    marker, precision, rows, columns, components = _j2k_size(frame) if j2k else _jpeg_size(frame)
    if marker not in markers:
        raise BadPixels("a codestream of another kind than the transfer syntax names")
    if (rows, columns) != (grid.rows, grid.columns) or components != 1:
        raise BadPixels("the codestream has another size than the header")
    if precision > 16 or (precision < grid.stored and not j2k):  # JPEG 2000 may leave unused bits out
        raise BadPixels("the codestream has another depth than the header")
    # libjpeg and OpenJPEG fill what a cut stream lacks with grey and call it a success. All four families end in
    # FFD9 (EOI, EOC), after which a fragment may be padded.
    if frame[-8:].rstrip(b"\0")[-2:] != b"\xff\xd9":
        raise BadPixels("a codestream cut short")
    try:
        values = np.asarray(decode(frame))
        whole = syntax not in JPEG | JPEG_LOSSLESS or np.array_equal(values, decode(_lengthened(frame)))
    except Exception:  # noqa: BLE001 - every codec has an error type of its own, and all mean this
        raise BadPixels("a damaged codestream") from None
    if not whole:
        raise BadPixels("a codestream cut short, with an end put to it again")
    if values.shape != (grid.rows, grid.columns) or values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        raise BadPixels("the codestream holds another image than it said")
    return values


_DECODERS: tuple[tuple[frozenset[str], frozenset[int], Callable[[bytes], Any]], ...] = (
    # syntaxes; the marker that begins the frame: SOF0 and SOF1, SOF3, SOF55, SIZ; the decoder
    (JPEG, frozenset({0xC0, 0xC1}), imagecodecs.jpeg8_decode),
    (JPEG_LOSSLESS, frozenset({0xC3}), imagecodecs.jpeg8_decode),
    (JPEG_LS, frozenset({0xF7}), imagecodecs.jpegls_decode),
    # OpenJPEG reads HTJ2K as well. OpenJPH is twice as fast (17 and 39 ms for 2048 x 2048), but its wrapper swallows
    # a decoding error and returns memory that was never written.
    (JPEG_2000 | HTJ2K, frozenset({0x51}), imagecodecs.jpeg2k_decode),
)

_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})


def _lengthened(frame: bytes) -> bytes:
    """A JPEG codestream with bits more before its end marker.

    A decoder that has all its values does not look at them. One that ran out of bits, which libjpeg only warns of,
    had zeros to go on with and now has these, and decodes another image.
    """
    return frame[: frame.rindex(b"\xff\xd9")] + b"\xaa" * 64 + b"\xff\xd9"


def jpeg_size(frame: bytes) -> tuple[int, int]:
    """Rows and columns that a JPEG says it has. Raises BadPixels."""
    _, _, rows, columns, _ = _jpeg_size(frame)
    return rows, columns


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int, int]:
    """(marker, precision, rows, columns, components) of a JPEG or JPEG-LS codestream, from its frame header."""
    if frame[:2] != b"\xff\xd8":
        raise BadPixels("not a JPEG codestream")
    at = 2
    while at + 4 <= len(frame):
        if frame[at] != 0xFF:
            break
        marker = frame[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker in _FRAMES and at + 10 <= len(frame):
            precision, rows, columns, components = struct.unpack(">BHHB", frame[at + 4 : at + 10])
            return marker, precision, rows, columns, components
        if marker in (0xD9, 0xDA) or length < 2:
            break
        at += 2 + length
    raise BadPixels("a JPEG codestream without a frame header")


def _j2k_size(frame: bytes) -> tuple[int, int, int, int, int]:
    """(marker, precision, rows, columns, components) of a JPEG 2000 codestream, from its SIZ segment.

    Some archives keep the JP2 boxes around it, which DICOM does not allow and every viewer accepts.
    """
    at = 0 if frame[:4] == b"\xff\x4f\xff\x51" else frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at < 0 or len(frame) < at + 45:
        raise BadPixels("not a JPEG 2000 codestream")
    width, height, left, top = struct.unpack(">4I", frame[at + 8 : at + 24])
    components = int.from_bytes(frame[at + 40 : at + 42], "big")
    depth, across, down = frame[at + 42 : at + 45]
    if (across, down) != (1, 1) or left >= width or top >= height:
        raise BadPixels("a subsampled or empty JPEG 2000 codestream")
    return 0x51, (depth & 0x7F) + 1, height - top, width - left, components
