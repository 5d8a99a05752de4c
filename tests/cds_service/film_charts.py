"""Charts of one patient with a chest film or two, for the tests of cxr-insight."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
from vignettes import (
    Answers,
    Chart,
    Resource,
    concept,
    encounter,
    film,
    imaging_order,
    medication,
    observation,
    patient,
)

from cds_service.cards import Card
from models.contract import Anatomy, Change, Course, FilmReading, Place, Zone

NAME = "cxr-insight"
NEW, NEW_PIXELS = film(1, "2026-03-10T13:38:00Z")
OLD, OLD_PIXELS = film(2, "2026-03-07T09:00:00Z", "AP")
AIR = Answers(
    {"finding.pneumothorax": (0.94, 0.90, 0.97)},
    titles={"finding.pneumothorax": "Pneumothorax"},
    modalities=("imaging",),
)
FLUID = Answers(
    {"finding.effusion": (0.88, 0.81, 0.93)},
    prior={"finding.effusion": (0.06, 0.03, 0.10)},
    titles={"finding.effusion": "Pleural effusion"},
    modalities=("imaging",),
)
CRP = observation("l1", "1988-5", 120, "mg/L", "2026-03-10T06:00:00Z")


def chart(*resources: Resource, model: Answers = AIR, who: Resource | None = None, **more: Any) -> Chart:
    given = {"hook": "patient-view", "films": (NEW_PIXELS,), **more}
    studies = (NEW, OLD) if len(given["films"]) > 1 else (NEW,)
    return Chart((who or patient("male", "2002-02-14"), encounter("EMER"), *studies, *resources), model=model, **given)


def two_films(*resources: Resource, model: Answers = FLUID, **more: Any) -> Chart:
    return chart(*resources, model=model, films=(NEW_PIXELS, OLD_PIXELS), **more)


def report(
    status: str, *, study: str | None = "study1", at: str = "2026-03-10T13:50:00Z", loinc: str = "36643-5"
) -> Resource:
    linked = {"imagingStudy": [{"reference": f"ImagingStudy/{study}"}]} if study else {}
    return {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": status,
        "category": [concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD")],
        "code": concept("http://loinc.org", loinc),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": at,
        "conclusion": "No pneumothorax.",
        **linked,
    }


def card_of(given: Chart, manifest: Any = None) -> Card:
    (card,) = given.cards(NAME, manifest)
    return card


def text(card: Card) -> str:
    return f"{card.summary}\n{card.detail}"


def changed(now: tuple[float, float, float], before: tuple[float, float, float]) -> Answers:
    return dataclasses.replace(FLUID, given={"finding.effusion": now}, prior={"finding.effusion": before})


ANTIBIOTIC = medication("a1", "2193", "ceftriaxone 2 g daily", authoredOn="2026-03-07T10:00:00Z")
NEXT = imaging_order("d1", "36643-5", "Chest X-ray")
RESOLVED = changed((0.05, 0.02, 0.08), (0.88, 0.81, 0.93))


def course(*resources: Resource, model: Answers = RESOLVED, **more: Any) -> Chart:
    drafts = more.pop("drafts", (NEXT,))
    return two_films(report("final"), *resources, model=model, hook="order-select", drafts=drafts, **more)


def film_reading(
    zone: Zone | None, course: Course | None = None, sure: float = 0.9, finding: str = "effusion"
) -> FilmReading:
    """One finding's place and, with a course, how it stands against the film before, as the networks hand it over."""
    places = {finding: Place(finding, np.full((4, 4), 1 / 16, np.float32), zone, 0.7 if zone else 0.1)}
    rest = dict.fromkeys(get_args(Course), 0.0)
    changes = {finding: Change(finding, course, {**rest, course or "stable": sure})}
    return FilmReading(Anatomy({}, {}, None, "no lungs found"), places, changes, "c" * 64)
