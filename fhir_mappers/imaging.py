"""One DICOM frame -> `Image` in its true grey scale, or the `Gap` that says why not.

What a model of frontal chest films must not be shown is refused by name: another modality, another body part,
an animal, colour, several frames of which none is named as representative, an image the study does not hold or of
another patient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhir_mappers.dicom import BadDicom, DicomFrame, FileFrame, Header, read_dicom_file
from fhir_mappers.pixels import LARGEST_PIXELS, SYNTAXES, BadPixels, Grid, jpeg_size, unpack
from fhir_mappers.record import Gap, Image, Source
from fhir_mappers.studies import FILM_CLASSES, FILM_MODALITIES, choose_films

__all__ = [
    "BadDicom",
    "DicomFrame",
    "FileFrame",
    "as_rendered",
    "choose_films",
    "decode_film",
    "grid_to_decode",
    "read_dicom_file",
    "representative_frame",
    "view_of",
]

_NOT_RENDERED = frozenset(
    {
        # applied already, or true of the stored pixels alone: sign, rescale, windows, tables, padding, spacing, frames
        *("00280103", "00281052", "00281053", "00281054", "00283000", "00281050", "00281051", "00281055", "00281056"),
        *("00283010", "00280120", "00280121", "00280030", "00181164", "00280034", "00280008", "00286010", "7FE00010"),
    }
)

Scale = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_CHEST_PARTS = re.compile(r"CHEST|THORAX|LUNG|RIB|HEART|TSPINE")
_ANIMAL = re.compile(r"(?i)\b(canine|feline|equine|bovine|veterinary|dog|cat|horse)\b")
_VIEWS = {"PA": "PA", "AP": "AP", "LL": "LATERAL", "RL": "LATERAL", "LATERAL": "LATERAL", "LAT": "LATERAL"}
_VIEW_CODES = {
    # PS3.16 CID 4010; SNOMED CT codes of the views, and the SNOMED-RT ones older devices write
    **dict.fromkeys(("272479007", "R-10214"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399067008", "399173006", "399198007", "R-10236", "R-10232", "R-10228"), "LATERAL"),
}


@dataclass(frozen=True, slots=True)
class _Refused(Exception):
    """Not an error of ours but an answer, turned into a Gap at once."""

    code: str
    subject: str


def decode_film(frame: DicomFrame, started: datetime | None, patient_ids: Set[str] = frozenset()) -> Image | Gap:
    """Decode one film.

    started      when its study began, used where the header has no acquisition time with an offset from UTC
    patient_ids  what the archive may know this patient by; empty where the EHR did not say: then PatientID is
                 not compared

    Gap codes: `wrong-image` (other UIDs than asked for), `other-patient`, `not-an-image`, `unsupported-image` with
    what is not supported as its subject, `malformed` (the bytes do not hold the image), `no-time`.
    """
    header = Header(frame.metadata)
    try:
        _check_identity(frame, header, patient_ids)
        _check_kind(frame, header)
        grid = _grid(header)
        at = header.time() or started
        if at is None:
            raise _Refused("no-time", "film")
        values = unpack(frame.frame, frame.transfer_syntax, grid)
        pixels = _looked_up(_grey_table(header, grid), values)
    except _Refused as refused:
        return Gap(refused.code, refused.subject, frame.reference)
    except BadPixels:
        return Gap("malformed", "film pixels", frame.reference)
    return Image(
        pixels=pixels,
        view=view_of(header),
        at=at,
        sop_uid=frame.sop_uid,
        study_uid=frame.study_uid,
        source=Source(frame.reference),
        modality=header.text("00080060"),
        spacing_mm=_spacing(header),
        burned_in=header.text("00280301") == "YES",
        rendered=frame.rendered,
        laterals=frame.laterals,
    )


def grid_to_decode(frame: DicomFrame) -> Grid | None:
    """The size of the image to decode, or None for one that `decode_film` refuses by its header alone."""
    header = Header(frame.metadata)
    try:
        _check_kind(frame, header)
        return _grid(header)
    except _Refused:
        return None


def as_rendered(metadata: Mapping[str, Any], frame: bytes) -> Mapping[str, Any]:
    """The header of a film for the JPEG its archive rendered: 8 bits as displayed, of no known spacing.

    Raises BadDicom for a frame that is none.
    """
    try:
        rows, columns = jpeg_size(frame)
    except BadPixels:
        raise BadDicom("a rendered frame that is no JPEG") from None
    image = {"00280002": 1, "00280010": rows, "00280011": columns, "00280100": 8, "00280101": 8, "00280102": 7}
    kept = {tag: value for tag, value in metadata.items() if tag not in _NOT_RENDERED}
    kept |= {tag: {"vr": "US", "Value": [value]} for tag, value in image.items()}
    return {**kept, "00280004": {"vr": "CS", "Value": ["MONOCHROME2"]}}


def _looked_up(table: NDArray[np.float32], values: NDArray[np.uint16]) -> NDArray[np.float32]:
    """`table[values]`, some rows at a time: numpy makes every index 8 bytes wide, half a gigabyte for 64 megapixels."""
    out = np.empty(values.shape, np.float32)
    step = max(1, 1_000_000 // values.shape[1])
    for row in range(0, len(values), step):
        # All values are in the table; "clip" is only faster than looking.
        np.take(table, values[row : row + step], out=out[row : row + step], mode="clip")
    return out


def _check_identity(frame: DicomFrame, header: Header, patient_ids: Set[str]) -> None:
    for tag, uid in (("0020000D", frame.study_uid), ("0020000E", frame.series_uid), ("00080018", frame.sop_uid)):
        if header.text(tag) not in ("", uid):
            raise _Refused("wrong-image", "film")
    patient_id = header.text("00100020")
    if patient_id and patient_ids and patient_id not in patient_ids:
        raise _Refused("other-patient", "film")


def _check_kind(frame: DicomFrame, header: Header) -> None:
    if header.text("00080060") not in FILM_MODALITIES:
        raise _Refused("unsupported-image", "film modality")
    if header.text("00080016") not in FILM_CLASSES | {""}:
        raise _Refused("unsupported-image", "film class")
    part = header.text("00180015").upper()
    if part and not _CHEST_PARTS.search(part):
        raise _Refused("unsupported-image", "film body part")
    # Species and breed; else the name of the exposure programme, since veterinary devices are human ones re-labelled.
    if header.text("00102201") or header.items("00102202") or _ANIMAL.search(header.text("00181400")):
        raise _Refused("unsupported-image", "film species")
    if (header.whole("00280008") or 1) != 1 and representative_frame(header) != frame.number:
        raise _Refused("unsupported-image", "film frames")
    if (header.whole("00280002") or 1) != 1 or header.text("00280004") not in ("MONOCHROME1", "MONOCHROME2"):
        raise _Refused("unsupported-image", "film colour")
    if frame.transfer_syntax not in SYNTAXES:
        raise _Refused("unsupported-image", "film transfer syntax")


def representative_frame(header: Header) -> int | None:
    """Which of several frames stands for them (0028,6010); None where the header does not say, or names none."""
    number, frames = header.whole("00286010"), header.whole("00280008") or 1
    return number if number is not None and 1 <= number <= frames else None


def _grid(header: Header) -> Grid:
    rows, columns = header.whole("00280010"), header.whole("00280011")
    allocated, stored = header.whole("00280100"), header.whole("00280101")
    if not rows or not columns or rows < 0 or columns < 0:
        raise _Refused("not-an-image", "film")
    if rows * columns > LARGEST_PIXELS:
        raise _Refused("unsupported-image", "film size")
    if allocated not in (8, 16) or stored is None or not 1 <= stored <= allocated:
        raise _Refused("unsupported-image", "film depth")
    if header.whole("00280102") not in (None, stored - 1):  # retired since 2004: values not at the low end of the word
        raise _Refused("unsupported-image", "film depth")
    return Grid(rows, columns, allocated, stored, header.whole("00280103") == 1)


def _grey_table(header: Header, grid: Grid) -> NDArray[np.float32]:
    """What every possible stored value looks like, in [0, 1], bright is dense; index 0 is the lowest stored value.

    Stored value -> modality LUT or rescale -> VOI LUT or window -> inverted for MONOCHROME1; padding is black.
    Working on at most 65,536 values instead of on every pixel takes the cost of the grey scale off large films.
    """
    lowest = -(1 << (grid.stored - 1)) if grid.signed else 0
    stored = np.arange(lowest, lowest + (1 << grid.stored), dtype=np.float64)
    scaled, may_be_signed = _modality(header, stored, grid)
    grey = _voi(header, may_be_signed)(scaled)
    if header.text("00280004") == "MONOCHROME1":
        grey = 1.0 - grey
    padding = header.whole("00280120")
    if padding is not None:
        limit = header.whole("00280121")
        first, last = sorted((padding, padding if limit is None else limit))
        grey[(stored >= first) & (stored <= last)] = 0.0
    return grey.astype(np.float32)


def _modality(header: Header, stored: NDArray[np.float64], grid: Grid) -> tuple[NDArray[np.float64], bool]:
    """Modality LUT (PS3.3 C.11.1), and whether its output may be negative (that decides how a VOI LUT is read)."""
    for item in header.items("00283000")[:1]:
        first, table, _ = _lookup_table(item, grid.signed)
        return table[np.clip(stored - first, 0, len(table) - 1).astype(np.int64)], False
    slope, intercept = header.number("00281053"), header.number("00281052")
    slope = 1.0 if slope is None else slope
    if slope == 0.0:
        raise _Refused("malformed", "film rescale")
    return stored * slope + (intercept or 0.0), grid.signed or (intercept or 0.0) < 0


def _voi(header: Header, signed: bool) -> Scale:
    """The VOI LUT (PS3.3 C.11.2): the table if there is one, else the first window, else the whole range of values."""
    for item in header.items("00283010")[:1]:
        try:
            first, table, bits = _lookup_table(item, signed)
        except _Refused:
            break  # bulk data behind a URI: a window may be there as well
        return lambda x: table[np.clip(x - first, 0, len(table) - 1).astype(np.int64)] / ((1 << bits) - 1)
    centre, width = header.number("00281050"), header.number("00281051")
    function = header.text("00281056") or "LINEAR"
    if centre is not None and width is not None:
        return window(centre, width, function)
    return lambda x: (x - x.min()) / max(float(x.max() - x.min()), 1e-12)


def window(centre: float, width: float, function: str = "LINEAR") -> Scale:
    """The window functions of PS3.3 C.11.2.1.2 and C.11.2.1.3, with output 0 to 1.

    A width the function does not allow (below 1 for LINEAR, not above 0 for the others) or an unknown function is
    malformed: the header's author meant something we cannot know.
    """
    if function == "LINEAR" and width >= 1:
        if width == 1:
            return lambda x: np.where(x <= centre - 0.5, 0.0, 1.0)
        return lambda x: np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    if function == "LINEAR_EXACT" and width > 0:
        return lambda x: np.clip((x - centre) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID" and width > 0:
        # beyond 60 the exponential is 0 or beyond float; clipping keeps numpy from warning about it
        return lambda x: 1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - centre) / width, -60.0, 60.0)))
    raise _Refused("malformed", "film window")


def _lookup_table(item: Header, signed: bool) -> tuple[int, NDArray[np.float64], int]:
    """(first value mapped, table, bits per entry) of a LUT sequence item (PS3.3 C.11.1.1.1).

    The number of entries 0 means 65,536. The first value is stored as US or SS; as what, the values mapped decide.
    """
    descriptor = item.numbers("00283002")
    if len(descriptor) != 3:
        raise _Refused("malformed", "film LUT")
    entries, first, bits = (int(v) for v in descriptor)
    entries = entries & 0xFFFF or 65536
    first = first - 65536 if signed and first > 32767 else first
    data = item.numbers("00283006")
    raw = item.binary("00283006")
    if not data and raw is not None:
        data = list(np.frombuffer(raw[: len(raw) // 2 * 2], "<u2") if len(raw) >= 2 * entries else raw)
    if len(data) < entries or not 8 <= bits <= 16:
        raise _Refused("malformed", "film LUT")
    table = np.asarray(data[:entries], np.float64)
    return first, np.clip(table, 0, (1 << bits) - 1), bits


def view_of(header: Header) -> str:
    """PA, AP, LATERAL or unknown, by ViewPosition, ViewCodeSequence or the name of the exposure's programme."""
    view = _VIEWS.get(header.text("00185101").upper())
    if view:
        return view
    codes = [item.text("00080100") for item in header.items("00540220")]
    coded = next((_VIEW_CODES[c] for c in codes if c in _VIEW_CODES), None)
    return coded or ("LATERAL" if re.search(r"(?i)\blateral\b", header.text("00181400")) else "unknown")


def _spacing(header: Header) -> tuple[float, float] | None:
    """Row and column spacing; PixelSpacing where it is real (zeros occur), else the detector's."""
    for tag in ("00280030", "00181164"):
        found = header.numbers(tag)
        if len(found) == 2 and min(found) > 0:
            return found[0], found[1]
    return None
