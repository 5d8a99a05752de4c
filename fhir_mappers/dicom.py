"""DICOM as it reaches us: the DICOM JSON of one instance (PS3.18 F) and the bytes of its frame; or a whole file."""

from __future__ import annotations

import base64
import binascii
import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from typing import Any, Protocol

import pydicom
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

PIXEL_DATA = 0x7FE00010
LARGEST_FILE = 256 * 1024 * 1024
"""Bytes, also after inflating: a deflated file of 783 KB can ask for gigabytes."""


class DicomFrame(Protocol):
    """What DICOMweb gave for one instance; `cds_service.evidence.DicomFile` is one."""

    @property
    def study_uid(self) -> str: ...
    @property
    def series_uid(self) -> str: ...
    @property
    def sop_uid(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def frame(self) -> bytes: ...
    @property
    def transfer_syntax(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def number(self) -> int:
        """Of the frame, from 1."""
        ...

    @property
    def rendered(self) -> bool:
        """As the archive displays the film, not as it was taken."""
        ...

    @property
    def laterals(self) -> int:
        """Views from the side in the same study."""
        ...


@dataclass(frozen=True, slots=True)
class FileFrame:
    """One frame of a DICOM file, as a `DicomFrame`."""

    study_uid: str
    series_uid: str
    sop_uid: str
    metadata: Mapping[str, Any]
    frame: bytes
    transfer_syntax: str
    reference: str
    number: int = 1
    rendered: bool = False
    laterals: int = 0


class BadDicom(ValueError):
    """A file is not DICOM, or not one we read. Says what is wrong, nothing of what is in it."""


class Header:
    """Values of a DICOM JSON header by tag (`00280010`); what is absent or of a wrong kind is None."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def values(self, tag: str) -> list[Any]:
        element = self._metadata.get(tag)
        value = element.get("Value") if isinstance(element, Mapping) else None
        return [v for v in value if v is not None] if isinstance(value, list) else []

    def text(self, tag: str) -> str:
        found = self.values(tag)
        return found[0].strip() if found and isinstance(found[0], str) else ""

    def numbers(self, tag: str) -> list[float]:
        """All values as finite numbers; DS and IS may come as text. Empty if any of them is none."""
        try:
            found = [float(v) for v in self.values(tag) if not isinstance(v, bool)]
        except (TypeError, ValueError, OverflowError):
            return []
        return found if all(math.isfinite(v) for v in found) else []

    def number(self, tag: str) -> float | None:
        found = self.numbers(tag)
        return found[0] if found else None

    def whole(self, tag: str) -> int | None:
        value = self.number(tag)
        return int(value) if value is not None and value == int(value) else None

    def items(self, tag: str) -> list[Header]:
        return [Header(v) for v in self.values(tag) if isinstance(v, Mapping)]

    def binary(self, tag: str) -> bytes | None:
        """InlineBinary, decoded; bulk data behind a URI is not fetched."""
        element = self._metadata.get(tag)
        coded = element.get("InlineBinary") if isinstance(element, Mapping) else None
        try:
            return base64.b64decode(coded, validate=True) if isinstance(coded, str) else None
        except (binascii.Error, ValueError):
            return None

    def time(self) -> datetime | None:
        """When the image was acquired, only where the header gives the offset from UTC too.

        Without it a local time may be wrong by half a day; the study's start in FHIR has an offset.
        """
        stamp = self.text("0008002A")
        offset = _offset(stamp[-5:]) or _offset(self.text("00080201"))
        pairs = (("00080022", "00080032"), ("00080023", "00080033"))
        both = ((self.text(d), self.text(t)) for d, t in pairs)
        stamp = stamp or next((d + t for d, t in both if d and t), "")
        if offset is None or not stamp[:12].isdigit() or len(stamp[:12]) < 12:
            return None
        try:
            return datetime.strptime(stamp[:12], "%Y%m%d%H%M").replace(tzinfo=offset)
        except ValueError:
            return None


def _offset(text: str) -> timezone | None:
    """`+0130` as a time zone (PS3.3 C.12.1.1.8)."""
    if len(text) != 5 or text[0] not in "+-" or not text[1:].isdigit():
        return None
    shift = timedelta(hours=int(text[1:3]), minutes=int(text[3:]))
    if shift > timedelta(hours=14):
        return None
    return UTC if not shift else timezone(-shift if text[0] == "-" else shift)


def read_dicom_file(data: bytes, reference: str = "") -> FileFrame:
    """Read a whole DICOM file (PS3.10) as its header and the frame that stands for it. Raises BadDicom.

    Of several frames that is the one its header calls representative, else the first.

    A deflated file is inflated within `LARGEST_FILE` and then read as what it is inside, Explicit VR Little Endian;
    a big-endian one is turned to little endian. A header without the preamble of a file is refused.
    """
    if len(data) > LARGEST_FILE:
        raise BadDicom(f"larger than {LARGEST_FILE >> 20} MiB")
    if data[128:132] != b"DICM":
        raise BadDicom("no DICM mark at byte 128: not a DICOM file")
    try:
        dataset = pydicom.dcmread(io.BytesIO(_inflated(data)))
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        element = dataset.get(PIXEL_DATA)
        pixels, vr = (bytes(element.value), element.VR) if element is not None else (b"", "OW")
        frames = int(dataset.get("NumberOfFrames") or 1)
        number = int(dataset.get("RepresentativeFrameNumber") or 1)
        if not 1 <= number <= frames:
            raise BadDicom("the representative frame is none of its frames")
        if pixels and dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            pixels = next(islice(generate_frames(pixels, number_of_frames=frames), number - 1, None), b"")
        elif frames > 1:
            size = len(pixels) // frames
            pixels = pixels[(number - 1) * size : number * size]
        if syntax == ExplicitVRBigEndian:
            if vr == "OW":
                pixels = _swapped(pixels)
            syntax = str(ExplicitVRLittleEndian)
        uids = (str(dataset.get(k, "")) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
        study, series, sop = uids
        if not sop:
            raise BadDicom("no SOP instance UID: not a DICOM object")
        if element is not None:
            del dataset.PixelData
        metadata = dataset.to_json_dict(bulk_data_threshold=1 << 20, suppress_invalid_tags=True)
    except BadDicom:
        raise
    except Exception:  # noqa: BLE001 - a parser of hostile bytes may raise anything; which of it says nothing more
        raise BadDicom("damaged: cannot be parsed as DICOM") from None
    return FileFrame(study, series, sop, metadata, pixels, syntax, reference, number)


def _swapped(data: bytes) -> bytes:
    even = bytearray(data[: len(data) // 2 * 2])
    even[0::2], even[1::2] = even[1::2], even[0::2]
    return bytes(even)


_SYNTAX_TAG = b"\x02\x00\x10\x00UI"


def _inflated(data: bytes) -> bytes:
    """The same file with its data set inflated and its transfer syntax named accordingly, if it is a deflated one.

    By hand, because pydicom inflates without a limit. The file meta group is always Explicit VR Little Endian and
    begins with its own length (PS3.10 7.1).
    """
    end = 144 + int.from_bytes(data[140:144], "little")
    meta = data[144:end]
    at = meta.find(_SYNTAX_TAG)
    size = int.from_bytes(meta[at + 6 : at + 8], "little")
    if at < 0 or meta[at + 8 : at + 8 + size].rstrip(b"\0 ") != str(DeflatedExplicitVRLittleEndian).encode():
        return data
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    inside = unpack.decompress(data[end:], LARGEST_FILE)
    if unpack.unconsumed_tail:
        raise BadDicom(f"inflates to more than {LARGEST_FILE >> 20} MiB")
    plain = str(ExplicitVRLittleEndian).encode() + b"\0"
    meta = meta[: at + 6] + len(plain).to_bytes(2, "little") + plain + meta[at + 8 + size :]
    return data[:140] + len(meta).to_bytes(4, "little") + meta + inside
