"""Frames and their headers as an archive sends them, in every transfer syntax."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import get_encoder
from pydicom.uid import RLELossless

from fhir_mappers.dicom import FileFrame
from fhir_mappers.imaging import decode_film
from fhir_mappers.record import Gap, Image

STARTED = datetime(2026, 3, 10, 8, 0, tzinfo=UTC)
EXPLICIT = "1.2.840.10008.1.2.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
RNG = np.random.default_rng(7)


def element(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def header(pixels: NDArray[Any], stored: int | None = None, **more: Any) -> dict[str, Any]:
    allocated = pixels.dtype.itemsize * 8
    stored = stored or allocated
    tags = {
        "00080016": element("UI", CR),
        "00080018": element("UI", "1.2.3.1.1"),
        "00080060": element("CS", "CR"),
        "0020000D": element("UI", "1.2.3"),
        "0020000E": element("UI", "1.2.3.1"),
        "00180015": element("CS", "CHEST"),
        "00185101": element("CS", "PA"),
        "00280002": element("US", 1),
        "00280004": element("CS", "MONOCHROME2"),
        "00280010": element("US", pixels.shape[0]),
        "00280011": element("US", pixels.shape[1]),
        "00280100": element("US", allocated),
        "00280101": element("US", stored),
        "00280102": element("US", stored - 1),
        "00280103": element("US", int(pixels.dtype.kind == "i")),
    }
    return tags | {f"{tag}": value for tag, value in more.items()}


def film(
    pixels: NDArray[Any],
    frame: bytes | None = None,
    syntax: str = EXPLICIT,
    *,
    stored: int | None = None,
    tags: dict[str, Any] | None = None,
) -> FileFrame:
    little = pixels.astype(pixels.dtype.newbyteorder("<"))
    metadata = header(pixels, stored) | (tags or {})
    return FileFrame(
        "1.2.3",
        "1.2.3.1",
        "1.2.3.1.1",
        metadata,
        little.tobytes() if frame is None else frame,
        syntax,
        "ImagingStudy/s1",
    )


def image(frame: FileFrame) -> Image:
    decoded = decode_film(frame, STARTED)
    assert isinstance(decoded, Image), decoded
    return decoded


def refusal(frame: FileFrame, **more: Any) -> tuple[str, str]:
    decoded = decode_film(frame, STARTED, **more)
    assert isinstance(decoded, Gap), decoded
    assert decoded.reference == "ImagingStudy/s1"
    return decoded.code, decoded.subject


def picture(bits: int, shape: tuple[int, int] = (37, 53)) -> NDArray[Any]:
    """A smooth picture with noise that uses all `bits`, odd in both directions."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = (np.sin(x / 9) + np.cos(y / 7) + 2) / 4
    noisy = np.clip(smooth + RNG.normal(0, 0.02, shape), 0, 1)
    kind: Any = np.uint8 if bits <= 8 else np.uint16
    return np.asarray(noisy * ((1 << bits) - 1), kind)


def rle(pixels: NDArray[Any]) -> bytes:
    encoded = get_encoder(RLELossless).encode(
        pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(),
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        bits_allocated=pixels.dtype.itemsize * 8,
        bits_stored=pixels.dtype.itemsize * 8,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
        encoding_plugin="pydicom",
    )
    return bytes(encoded)


def j2k(pixels: NDArray[Any], bits: int) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k", bitspersample=bits))


LOSSLESS: dict[str, Callable[[NDArray[Any], int], bytes]] = {
    "1.2.840.10008.1.2": lambda p, _: p.astype(p.dtype.newbyteorder("<")).tobytes(),
    "1.2.840.10008.1.2.1": lambda p, _: p.astype(p.dtype.newbyteorder("<")).tobytes(),
    "1.2.840.10008.1.2.1.99": lambda p, _: p.astype(p.dtype.newbyteorder("<")).tobytes(),
    "1.2.840.10008.1.2.2": lambda p, _: p.astype(p.dtype.newbyteorder(">")).tobytes(),
    "1.2.840.10008.1.2.5": lambda p, _: rle(p),
    "1.2.840.10008.1.2.4.57": lambda p, b: bytes(
        imagecodecs.jpeg8_encode(p, lossless=True, predictor=4, bitspersample=b)
    ),
    "1.2.840.10008.1.2.4.70": lambda p, b: bytes(imagecodecs.ljpeg_encode(p, bitspersample=b)),
    "1.2.840.10008.1.2.4.80": lambda p, _: bytes(imagecodecs.jpegls_encode(p)),
    "1.2.840.10008.1.2.4.81": lambda p, _: bytes(imagecodecs.jpegls_encode(p)),
    "1.2.840.10008.1.2.4.90": j2k,
    "1.2.840.10008.1.2.4.91": j2k,
    "1.2.840.10008.1.2.4.201": lambda p, _: bytes(imagecodecs.htj2k_encode(p, reversible=True)),
    "1.2.840.10008.1.2.4.202": lambda p, _: bytes(imagecodecs.htj2k_encode(p, reversible=True)),
    "1.2.840.10008.1.2.4.203": lambda p, _: bytes(imagecodecs.htj2k_encode(p, reversible=True)),
}
