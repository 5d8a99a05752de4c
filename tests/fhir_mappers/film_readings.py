"""Films, assessments and readings written down by hand, as the networks would hand them over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from fhir_mappers.record import Image, PatientRecord, Person, Report, Source, Study
from fhir_mappers.report.terms import ZONES
from models.contract import (
    Anatomy,
    Assessment,
    Change,
    Course,
    Estimate,
    FilmReading,
    Place,
    Target,
    Tier,
    Zone,
)

NOON = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
SIZE = 32
STUDY, SERIES = "1.2.826.0.1.3680043.9.7133.1.1", "1.2.826.0.1.3680043.9.7133.1.2"


def film(number: int = 1, at: str = "2026-03-10T13:38:00+00:00", view: str = "PA", rows: int = 64) -> Image:
    """A film of `rows` x 48 pixels."""
    pixels = np.random.default_rng(number).random((rows, 48), dtype=np.float32)
    study = STUDY if number == 1 else f"{STUDY}.{number}"
    source = Source(f"ImagingStudy/study{number}")
    return Image(pixels, view, datetime.fromisoformat(at), f"{SERIES}.{number}", study, source, "DX", (0.2, 0.2))


NEW = film()
OLD = film(2, "2026-03-07T09:00:00+00:00", "AP")


def estimate(
    finding: str, p: float | None, low: float | None = None, high: float | None = None, *, why: str | None = None
) -> Estimate:
    title = {"effusion": "Pleural effusion", "edema": "Pulmonary oedema"}.get(finding, finding.capitalize())
    target = Target(f"finding.{finding}", title, ("imaging",), "hand")
    if p is None:
        return Estimate(target, None, None, {}, frozenset(), why or "Withheld: not better than chance.")
    interval = (p - 0.05 if low is None else low, min(1.0, p + 0.05) if high is None else high)
    return Estimate(target, p, interval, {}, frozenset({"imaging"}))


def lungs() -> dict[Any, Any]:
    """A right lung, a left lung and a heart as boxes on the square; the film covers columns 4 to 27 of it."""
    masks = {name: np.zeros((SIZE, SIZE), np.bool_) for name in ("right_lung", "left_lung", "heart")}
    masks["right_lung"][4:28, 5:14] = True
    masks["left_lung"][4:28, 18:27] = True
    masks["heart"][16:27, 12:22] = True
    return masks


def reading(
    places: Mapping[str, Zone | None] | None = None,
    changes: Mapping[str, Course | None] | None = None,
    *,
    ctr: float | None = 0.46,
    ctr_why: str | None = None,
) -> FilmReading:
    masks = lungs()
    zones: dict[Zone, Any] = {zone: np.zeros((SIZE, SIZE), np.bool_) for zone in ZONES}
    heat = np.full((4, 4), 1 / 16, np.float32)
    return FilmReading(
        Anatomy(masks, zones, ctr, ctr_why),
        {name: Place(name, heat, zone, 0.7 if zone else 0.2) for name, zone in (places or {}).items()},
        {name: Change(name, course, {course or "stable": 1.0}) for name, course in (changes or {}).items()},
        "b" * 64,
    )


def assessment(
    *estimates: Estimate,
    prior: tuple[Estimate, ...] = (),
    read: FilmReading | None = None,
    unused: Mapping[str, str] | None = None,
    tier: Tier = "open",
    model: str = "chest-open@1",
) -> Assessment:
    return Assessment(
        model,
        "a" * 64,
        tier,
        {e.target.name: e for e in estimates},
        frozenset() if unused else frozenset({"imaging"}),
        {e.target.name: e for e in prior},
        unused or {},
        read,
    )


def record(*films: Image, reports: tuple[Report, ...] = ()) -> PatientRecord:
    studies = tuple(
        Study(
            f.study_uid,
            f.at,
            frozenset({"DX"}),
            "XR chest",
            ("CHEST",),
            (),
            (),
            f.source,
            (("http://loinc.org", "36643-5"),),
        )
        for f in films
    )
    person = Person("p1", "female", date(1958, 11, 2), date(1958, 11, 2), source=Source("Patient/p1"))
    return PatientRecord(person, NOON, studies=studies, images=films, reports=reports)


def report(status: str = "final", conclusion: str = "No pneumothorax.", at: datetime | None = NOON) -> Report:
    return Report((), status, at, conclusion, ("ImagingStudy/study1",), Source("DiagnosticReport/r1"))
