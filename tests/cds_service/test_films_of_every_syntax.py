"""Every transfer syntax an archive keeps, stored in Orthanc by STOW-RS and read back by the service's own client.

The reference of a lossless film is the array it was made from; of a lossy one, what Pillow decodes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from PIL import Image as Pictures
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import RLELossless, generate_uid
from real_servers import Orthanc

from cds_service.cli.films import store
from cds_service.deadline import Deadline
from cds_service.decoding import Decoders
from cds_service.evidence import DicomFile, Frame
from cds_service.fhir_client import FhirClient, Reads
from cds_service.trust.clients import FhirServer
from fhir_mappers.imaging import decode_film
from fhir_mappers.record import Gap, Image, Instance, Source, Study

pytestmark = pytest.mark.servers

CR = "1.2.840.10008.5.1.4.1.1.1"
STARTED = datetime(2026, 3, 10, 8, tzinfo=UTC)
DICOM = "1.2.840.10008.1.2"
NATIVE = (DICOM, f"{DICOM}.1", f"{DICOM}.1.99", f"{DICOM}.2")
LOSSLESS = (*NATIVE, f"{DICOM}.5", *(f"{DICOM}.4.{n}" for n in (57, 70, 80, 81, 90, 91)))
RNG = np.random.default_rng(11)


@dataclass(frozen=True)
class Film:
    """One instance: its data set, the reference grey levels in [0, 1], and how near they must be."""

    data: Dataset
    grey: NDArray[np.float64]
    within: float
    name: str


def picture(bits: int) -> NDArray[Any]:
    """A smooth picture with noise that uses all bits, odd in both directions."""
    y, x = np.mgrid[:181, :213]
    smooth = (np.sin(x / 19) + np.cos(y / 17) + 2) / 4
    noisy = np.clip(smooth + RNG.normal(0, 0.01, smooth.shape), 0, 1)
    kind: Any = np.uint8 if bits <= 8 else np.uint16
    return np.asarray(noisy * ((1 << bits) - 1), kind)


def encoded(pixels: NDArray[Any], syntax: str, bits: int) -> bytes:
    kind = syntax.rpartition(".")[2]
    if syntax.endswith(".2.5"):
        little = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        depth = pixels.dtype.itemsize * 8
        return bytes(
            get_encoder(RLELossless).encode(
                little, rows=pixels.shape[0], columns=pixels.shape[1], samples_per_pixel=1, bits_allocated=depth,
                bits_stored=depth, pixel_representation=0, photometric_interpretation="MONOCHROME2",
                number_of_frames=1, encoding_plugin="pydicom",
            )
        )  # fmt: skip
    if kind == "57":
        return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=4, bitspersample=bits))
    if kind == "70":
        return bytes(imagecodecs.ljpeg_encode(pixels, bitspersample=bits))
    if kind in ("80", "81"):
        return bytes(imagecodecs.jpegls_encode(pixels))
    if kind in ("90", "91"):
        return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k", bitspersample=bits))
    return bytes(imagecodecs.jpeg8_encode(pixels, level=95, bitspersample=bits))


def dataset(pixels: NDArray[Any], syntax: str, bits: int, frame: bytes | None = None) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CR
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = generate_uid(), generate_uid(), "CR"
    data.PatientID, data.PatientName, data.BodyPartExamined, data.ViewPosition = "syntax", "Test", "CHEST", "PA"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = pixels.dtype.itemsize * 8, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if syntax in NATIVE:
        order = ">" if syntax.endswith(".2.2") and syntax != DICOM else "<"
        stored = (pixels & ((1 << bits) - 1)).astype(f"{order}u{pixels.dtype.itemsize}")
        data.add_new(0x7FE00010, "OB" if pixels.dtype.itemsize == 1 else "OW", stored.tobytes())
        if len(data.PixelData) % 2:
            data.PixelData += b"\0"
    else:
        data.PixelData = encapsulate([frame if frame is not None else encoded(pixels, syntax, bits)])
        data["PixelData"].VR = "OB"
    return data


def films() -> Iterator[Film]:
    for syntax in LOSSLESS:
        for bits in (8, 12, 16):
            pixels = picture(bits)
            yield Film(dataset(pixels, syntax, bits), pixels / ((1 << bits) - 1), 1e-6, f"{syntax}, {bits} bits")
    for syntax in NATIVE:
        signed = picture(12).astype(np.int16) - 2048
        yield Film(dataset(signed, syntax, 12), (signed + 2048.0) / 4095, 1e-6, f"{syntax}, signed")
    for syntax in (f"{DICOM}.4.50", f"{DICOM}.4.51"):
        pixels = picture(8)
        frame = encoded(pixels, syntax, 8)
        # Pillow brings a libjpeg of its own.
        other = np.asarray(Pictures.open(BytesIO(frame)), np.float64) / 255
        yield Film(dataset(pixels, syntax, 8, frame), other, 1.5 / 255, f"{syntax}, lossy")
    dark = picture(12)
    inverted = dataset(4095 - dark, f"{DICOM}.4.90", 12)
    inverted.PhotometricInterpretation = "MONOCHROME1"
    yield Film(inverted, dark / 4095, 1e-6, "MONOCHROME1")
    padded = picture(12)
    padded[:, :20] = 4000
    data = dataset(padded, f"{DICOM}.1", 12)
    data.PixelPaddingValue = 4000
    yield Film(data, np.where(padded == 4000, 0.0, padded / 4095), 1e-6, "padding")
    overlaid = picture(12)
    data = dataset(overlaid, f"{DICOM}.1", 12)
    data.add_new(0x60000010, "US", overlaid.shape[0])
    data.add_new(0x60000011, "US", overlaid.shape[1])
    data.add_new(0x60000040, "CS", "G")
    data.add_new(0x60000050, "SS", [1, 1])
    data.add_new(0x60000100, "US", 1)
    data.add_new(0x60000102, "US", 0)
    data.add_new(0x60003000, "OW", b"\xff" * (-(-overlaid.size // 16) * 2))
    yield Film(data, overlaid / 4095, 1e-6, "overlay")


@contextmanager
def client() -> Iterator[FhirClient]:
    made = FhirClient()
    try:
        yield made
    finally:
        made.close()


def fetched(made: FhirClient, orthanc: Orthanc, data: Dataset) -> DicomFile:
    """What the service's own client reads of one instance."""
    image = Instance(data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID, CR, "CR", 1)
    study = Study(image.study_uid, STARTED, frozenset({"CR"}), "XR Chest", ("Chest",), (image,), (), Source("s"))
    reads = Reads(made, FhirServer("http://127.0.0.1:1/fhir", (orthanc.dicomweb,)), None)
    header = reads.metadata(study, image, Deadline.after(10)).result(10)
    frame = reads.frame(study, image, Deadline.after(10)).result(10)
    assert isinstance(header, dict), header
    assert isinstance(frame, Frame), frame
    return DicomFile(image.study_uid, image.series_uid, image.sop_uid, header, frame.data, frame.transfer_syntax, "s")


def test_at_least_forty_films_of_every_syntax_come_back_through_the_archive_equal_to_their_reference(
    orthanc: Orthanc,
) -> None:
    sent = list(films())
    assert len(sent) >= 40
    before = orthanc.instances()
    with requests.Session() as session:
        store(session, orthanc.dicomweb, [film.data for film in sent])
    assert orthanc.instances() - before == len(sent)
    decoders = Decoders(workers=1)
    try:
        with client() as made:
            for film in sent:
                file = fetched(made, orthanc, film.data)
                with decoders.native([file], Deadline.after(10)) as native:
                    decoded = decode_film(native.files[0], STARTED)
                assert isinstance(decoded, Image), (film.name, decoded)
                assert decoded.pixels.shape == film.grey.shape
                assert np.abs(decoded.pixels - film.grey).max() <= film.within, film.name
    finally:
        decoders.close()


def test_films_cut_short_in_the_archive_are_refused_in_little_time_and_memory(orthanc: Orthanc) -> None:
    pixels = picture(12)
    cut = []
    for number in (57, 70, 80, 90):
        whole = encoded(pixels, f"{DICOM}.4.{number}", 12)
        for data in (whole[: len(whole) // 2], whole[: len(whole) // 2] + b"\xff\xd9"):
            cut.append(dataset(pixels, f"{DICOM}.4.{number}", 12, data + b"\0" * (len(data) % 2)))
    half = encoded(pixels, f"{DICOM}.5", 12)
    cut.append(dataset(pixels, f"{DICOM}.5", 12, half[: len(half) // 4 * 2]))
    with requests.Session() as session:
        store(session, orthanc.dicomweb, cut)
    others = children()  # those of an earlier test may be ending
    decoders = Decoders(workers=1)
    decoders.warm()
    until = time.monotonic() + 60
    while not (ours := children() - others) and time.monotonic() < until:
        time.sleep(0.05)
    try:
        with client() as made:
            for data in cut:
                file = fetched(made, orthanc, data)
                began = time.monotonic()
                with decoders.native([file], Deadline.after(10)) as native:
                    said = decode_film(native.files[0], STARTED)
                assert time.monotonic() - began < 5.0
                assert isinstance(said, Gap), data.file_meta.TransferSyntaxUID
                assert said.code == "malformed"
        assert decoders.counts["refused"] == len(cut)
        assert len(ours) == 1
        assert children() - others == ours  # the same process decoded, and refused, all of them
        assert peak_mb(ours) < 400
    finally:
        decoders.close()


def children() -> set[int]:
    """The decoding children of this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread, or a child, that has just ended
            for pid in (task / "children").read_text().split():
                if b"decode_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(int(pid))
    return found


def peak_mb(pids: set[int]) -> float:
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line]
    return max(int(line.split()[1]) / 1024 for line in lines)
