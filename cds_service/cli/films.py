"""Films for an archive: DICOM files as they are, and pictures wrapped into DICOM under the UIDs of an ImagingStudy."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image, UnidentifiedImageError
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

from cds_service.cli.shifting import shift_dicom

TABLE = "images_labs_outcomes.csv"
BOUNDARY = "ordersight-stow"
TIMEOUT_S = 60.0
FOR_PRESENTATION = "FOR PRESENTATION"


class FilmError(Exception):
    """A film cannot be had or sent; the message says which and why, and holds nothing of the patient."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One row of the table of pictures.

    day    days since admission; only differences between a patient's rows are used
    order  the picture's place among the patient's own
    """

    path: Path
    day: int
    order: int
    modality: str
    view: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """An instance an ImagingStudy names, with what its DICOM header needs."""

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    number: int
    modality: str
    view: str
    description: str
    started: datetime


def read_pictures(folder: Path) -> dict[str, list[Picture]]:
    """The pictures of every patient, in their order, from the folder's table `images_labs_outcomes.csv`.

    Raises FilmError when the table is missing or lacks a column.
    """
    table = folder / TABLE
    pictures: dict[str, list[Picture]] = defaultdict(list)
    try:
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                day, order = int(row["days_since_admission"]), int(row["image_index"])
                path = folder / row["file"]
                picture = Picture(path, day, order, row["modality"].upper(), row["projection"].upper())
                pictures[row["patient_id"]].append(picture)
    except OSError as error:
        raise FilmError(f"{table}: {error.strerror}; --images takes the folder that holds it") from None
    except (KeyError, ValueError) as error:
        raise FilmError(f"{table}: column missing or not a whole number ({error})") from None
    return {patient: sorted(rows, key=lambda p: p.order) for patient, rows in pictures.items()}


def index_dicom(folder: Path) -> dict[str, Path]:
    """SOP instance UID -> file, for every DICOM file below a folder; other files are passed over."""
    if not folder.is_dir():
        raise FilmError(f"{folder}: no such folder; --dicom takes a folder of DICOM files")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        except (InvalidDicomError, OSError):
            continue
        if "SOPInstanceUID" in header:
            found[str(header.SOPInstanceUID)] = path
    return found


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def wanted_instances(study: Mapping[str, Any]) -> Iterator[Wanted]:
    """Every instance of an ImagingStudy. Raises FilmError where the study lacks what a DICOM header must have."""
    try:
        uids = [i["value"] for i in study["identifier"] if i.get("system") == "urn:dicom:uid"]
        description = str(study.get("description", ""))
        words = description.upper().split()
        view = words[-1] if words and words[-1] in ("PA", "AP", "LATERAL") else ""
        for series in study.get("series", ()):
            for instance in series.get("instance", ()):
                yield Wanted(
                    study_uid=uids[0].removeprefix("urn:oid:"),
                    series_uid=series["uid"],
                    sop_uid=instance["uid"],
                    sop_class=instance["sopClass"]["code"].removeprefix("urn:oid:"),
                    number=int(instance.get("number", 1)),
                    modality=series["modality"]["code"],
                    view=view,
                    description=description,
                    started=_aware(datetime.fromisoformat(study["started"])),
                )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise FilmError("an ImagingStudy lacks its UID, start, series modality or SOP class") from None


def match_pictures(wanted: Sequence[Wanted], pictures: Sequence[Picture]) -> dict[str, Picture]:
    """SOP instance UID -> picture: a patient's n-th study by start is his n-th picture.

    Two films of one day have the same start, so the order of the Bundle decides between them. Everything both
    sides know must agree (number of films, days between them, view, modality): raises FilmError otherwise, since
    a film under the wrong study would be worse than none.
    """
    in_time = sorted(wanted, key=lambda w: w.started)
    if len(in_time) != len(pictures):
        raise FilmError(f"the Bundle names {len(in_time)} films and the table of pictures {len(pictures)}")
    for place, (film, picture) in enumerate(zip(in_time, pictures, strict=True), 1):
        days = (film.started.date() - in_time[0].started.date()).days
        if (days, film.view, film.modality) != (picture.day - pictures[0].day, picture.view, picture.modality):
            raise FilmError(f"film {place} of the Bundle differs from the table in day, view or modality")
    return {film.sop_uid: picture for film, picture in zip(in_time, pictures, strict=True)}


def wrap(picture: Path, film: Wanted, patient_id: str, sex: str) -> Dataset:
    """A CR or DX object around a picture, under the film's UIDs, dated as the film.

    A grey JPEG goes in byte for byte (JPEG Baseline); anything else is decoded to 8-bit grey first.
    No pixel spacing is written, since a picture does not know it. Raises FilmError when it cannot be read.
    """
    try:
        content = picture.read_bytes()
        with Image.open(BytesIO(content)) as image:
            as_it_is = image.format == "JPEG" and image.mode == "L" and not image.info.get("progressive")
            grey = np.asarray(image.convert("L"))
            lossy = image.format == "JPEG"
    except (OSError, UnidentifiedImageError):
        raise FilmError(f"{picture}: not a picture that can be read") from None
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if as_it_is else ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(film.sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(film.sop_uid)
    dataset.SOPClassUID, dataset.SOPInstanceUID = film.sop_class, film.sop_uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = film.study_uid, film.series_uid
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    for name in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, name, film.started.strftime("%Y%m%d"))
    for name in ("StudyTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, name, film.started.strftime("%H%M%S"))
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.PatientBirthDate = ""
    dataset.Modality, dataset.PresentationIntentType = film.modality, FOR_PRESENTATION
    dataset.ConversionType, dataset.Manufacturer = "WSD", "wrapped by ordersight from a picture"
    dataset.StudyDescription = film.description
    dataset.PatientName = dataset.PatientID = patient_id
    dataset.PatientSex = sex
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", film.view
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, film.number
    dataset.PatientOrientation = ["L", "F"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = grey.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.LossyImageCompression = "01" if lossy else "00"
    if lossy:
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
        dataset.LossyImageCompressionRatio = round(grey.size / len(content), 2)
    raw = grey.tobytes()
    dataset.PixelData = encapsulate([content]) if as_it_is else raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB"
    return dataset


def read_film(path: Path, days: int) -> Dataset:
    """A DICOM file with its dates moved; pixels stay in their transfer syntax. Raises FilmError if unreadable."""
    try:
        dataset = dcmread(path)
    except (InvalidDicomError, OSError):
        raise FilmError(f"{path}: not a DICOM file that can be read") from None
    shift_dicom(dataset, days)
    return dataset


def store(session: requests.Session, dicomweb: str, films: Sequence[Dataset]) -> None:
    """Store films by STOW-RS (PS3.18 10.5) in one request. Raises FilmError when the archive refuses any of them."""
    body = BytesIO()
    for film in films:
        body.write(f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode())
        part = BytesIO()
        dcmwrite(part, film, enforce_file_format=True)
        body.write(part.getvalue())
        body.write(b"\r\n")
    body.write(f"--{BOUNDARY}--\r\n".encode())
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    answer = session.post(
        f"{dicomweb}/studies",
        data=body.getvalue(),
        headers={"Content-Type": kind, "Accept": "application/dicom+json"},
        timeout=TIMEOUT_S,
        allow_redirects=False,
    )
    if answer.status_code != 200:
        raise FilmError(f"the archive answered {answer.status_code} to a STOW-RS request of {len(films)} films")
    try:
        refused = len(answer.json().get("00081198", {}).get("Value", []))
    except (ValueError, AttributeError):
        refused = 0
    if refused:
        raise FilmError(f"the archive refused {refused} of {len(films)} films")
