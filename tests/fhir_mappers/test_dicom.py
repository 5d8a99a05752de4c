"""Whole DICOM files: the same film in every syntax, and no damage is an exception of the parser."""

from __future__ import annotations

import copy
import csv
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from films import CR, EXPLICIT, STARTED, header, image, picture
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.dataset import FileDataset, FileMetaDataset

from fhir_mappers.dicom import LARGEST_FILE, BadDicom, read_dicom_file
from fhir_mappers.imaging import decode_film
from fhir_mappers.record import Gap, Image


def part10(pixels: NDArray[Any], syntax: str, big: bool = False) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    meta.MediaStorageSOPClassUID = pydicom.uid.UID(CR)
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3.1.1")
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    tags = copy.deepcopy(header(pixels))
    for tag, value in pydicom.Dataset.from_json(tags).items():
        dataset[tag] = value
    dataset.add_new(0x7FE00010, "OW", pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes())
    out = BytesIO()
    pydicom.dcmwrite(
        out, dataset, implicit_vr=syntax == "1.2.840.10008.1.2", little_endian=not big, enforce_file_format=True
    )
    return out.getvalue()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", EXPLICIT, "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"])
def test_a_whole_file_gives_the_same_film_in_every_native_syntax(syntax: str) -> None:
    pixels = picture(16, (36, 52))
    frame = read_dicom_file(part10(pixels, syntax, big=syntax.endswith(".2.2")), "ImagingStudy/s1")
    np.testing.assert_array_equal(image(frame).pixels, (pixels / 65535).astype(np.float32))
    assert (frame.study_uid, frame.series_uid, frame.sop_uid) == ("1.2.3", "1.2.3.1", "1.2.3.1.1")


@pytest.mark.parametrize(
    "data", [b"", b"x" * 400, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\x02\0\x10\0UI\xff\xff"]
)
def test_what_is_no_dicom_file_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(BadDicom):
        read_dicom_file(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_file_is_never_an_exception_of_the_parser() -> None:
    whole = part10(picture(8), EXPLICIT)
    rng = np.random.default_rng(3)
    for _ in range(200):
        data = bytearray(whole[: int(rng.integers(140, len(whole)))])
        for at in rng.integers(132, len(data), 4):
            data[at] = int(rng.integers(0, 256))
        try:
            decoded = decode_film(read_dicom_file(bytes(data)), STARTED)
        except BadDicom:
            continue
        assert isinstance(decoded, Gap | Image)


def test_a_deflated_file_is_not_inflated_without_limit() -> None:
    import zlib

    plain = part10(picture(8), "1.2.840.10008.1.2.1.99")
    length = 144 + int.from_bytes(plain[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = plain[:length] + packer.compress(b"\0" * (LARGEST_FILE + 1024)) + packer.flush()
    assert len(bomb) < 1_000_000
    with pytest.raises(BadDicom, match="inflates"):
        read_dicom_file(bomb)


def test_the_hannover_files_equal_the_films_they_were_made_from_in_all_eight_variants(shared: Path) -> None:
    folder = shared / "data" / "dicom" / "hannover_derived"
    rows = list(csv.DictReader((folder / "manifest.csv").read_text().splitlines()))
    seen = set()
    for row in rows:
        frame = read_dicom_file((folder / row["file"]).read_bytes(), "ImagingStudy/s1")
        decoded = image(frame)
        source = shared / "data" / "cxr_hannover_paired" / "images" / f"{row['image_id']}.jpg"
        grey = np.asarray(Pillow.open(source).convert("L"), np.float64)
        seen.add(row["mode"])
        # The 12-bit variant holds 4095 - 16 x grey, shown through a window of 4096; JPEG is lossy once more.
        pixels = grey * 16 / 4095 if row["mode"] == "mono1_12bit" else grey / 255
        limit = 0.1 if row["mode"] == "jpeg" else 1e-6
        assert decoded.pixels.shape == pixels.shape
        assert np.abs(decoded.pixels - pixels).max() <= limit, (row["file"], np.abs(decoded.pixels - pixels).max())
    assert len(seen) == 8
