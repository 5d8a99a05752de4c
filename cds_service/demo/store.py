"""What the demo EHR holds: the charts of the demo's patients and their films, kept current with the clock."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from PIL import Image as Pillow

from fhir_mappers.cohort.dicom import write_dicom
from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.scenarios import demo_patients

Resource = Mapping[str, Any]
Clock = Callable[[], datetime]

KEEP_CURRENT = timedelta(minutes=10)
"""A demo that is left open must not grow old: after this long the charts are told anew, relative to the clock."""
ENDPOINT_ID = "demo-dicomweb"


def wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class StoredFilm:
    """One instance in the archive. `header` is DICOM JSON without the pixels."""

    patient: GeneratedPatient
    index: int
    study_uid: str
    series_uid: str
    sop_uid: str
    header: Mapping[str, Any]
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Charts:
    """Everything at one moment."""

    as_of: datetime
    patients: Mapping[str, GeneratedPatient]
    resources: Mapping[str, Mapping[str, Resource]]
    """type -> id -> resource"""
    films: Mapping[str, StoredFilm]
    """SOP instance UID -> film, for films the archive holds"""


class Store:
    """Charts by the clock, and pixels made once: a scenario's films do not change with time."""

    def __init__(self, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._charts: Charts | None = None
        self._frames: dict[str, bytes] = {}
        self._pictures: dict[tuple[str, int], bytes] = {}

    def charts(self) -> Charts:
        now = self._clock()
        with self._lock:
            if self._charts is None or not timedelta(0) <= now - self._charts.as_of < KEEP_CURRENT:
                self._charts = _tell(now)
            return self._charts

    def frame(self, film: StoredFilm) -> bytes:
        """The pixels as stored: 16 bits little endian, row by row."""
        with self._lock:
            if film.sop_uid not in self._frames:
                self._frames[film.sop_uid] = bytes(write_dicom(film.patient, film.index).PixelData)
            return self._frames[film.sop_uid]

    def draw_films(self) -> None:
        """Draw every film now: an archive answers in milliseconds, drawing takes longer than a hook may wait."""
        for film in self.charts().films.values():
            self.frame(film)

    def picture(self, film: StoredFilm, size: int) -> bytes:
        """The film as a PNG of at most `size` pixels a side, windowed as its header says."""
        frame = self.frame(film)
        with self._lock:
            key = (film.sop_uid, size)
            if key not in self._pictures:
                rows, columns = (int(film.header[tag]["Value"][0]) for tag in ("00280010", "00280011"))
                grey = np.frombuffer(frame, "<u2").reshape(rows, columns) >> 4
                image = Pillow.fromarray(grey.astype(np.uint8))
                image.thumbnail((size, size), Pillow.Resampling.LANCZOS)
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                self._pictures[key] = buffer.getvalue()
            return self._pictures[key]


def _tell(as_of: datetime) -> Charts:
    patients = {p.id: p for p in demo_patients(as_of)}
    resources: dict[str, dict[str, Resource]] = {}
    films: dict[str, StoredFilm] = {}
    for patient in patients.values():
        for resource in patient.resources:
            # Where the archive is depends on the address the EHR is served at, so it is not part of a chart.
            where = {"endpoint": [{"reference": f"Endpoint/{ENDPOINT_ID}"}]}
            study = resource["resourceType"] == "ImagingStudy"
            held = {**resource, **where} if study else resource
            resources.setdefault(resource["resourceType"], {})[resource["id"]] = held
        for index, fact in enumerate(patient.films):
            if fact.archived:
                film = _store_film(patient, index)
                films[film.sop_uid] = film
    return Charts(as_of, patients, resources, films)


def _store_film(patient: GeneratedPatient, index: int) -> StoredFilm:
    dataset = write_dicom(patient, index, pixels=False)
    return StoredFilm(
        patient,
        index,
        str(dataset.StudyInstanceUID),
        str(dataset.SeriesInstanceUID),
        str(dataset.SOPInstanceUID),
        dataset.to_json_dict(),
        str(dataset.file_meta.TransferSyntaxUID),
    )
