"""A film of 600 x 400 pixels as the imaging networks read it, and one of three days before: a case with its answer.

Outlines are boxes on the square of 192 pixels that the film lies on from column 32 to 160.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from evidence_house import Evidence, advised, case_of, with_record
from vignettes import Answers, Chart, concept, encounter, film, patient

from cds_service.consult import Case
from cds_service.pages.collect import collect
from cds_service.pages.films import encode
from models.contract import Anatomy, Change, FilmReading, Place, Structure, Zone

SIZE = 192
BOXES: dict[Structure, tuple[int, int, int, int]] = {
    "right_lung": (30, 40, 70, 150),
    "left_lung": (110, 40, 150, 150),
    "heart": (75, 90, 125, 140),
}
"""Left, top, right, bottom."""


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def reading(share: float = 0.62, zone: Zone | None = "right_lower") -> FilmReading:
    """Fluid at the right base, on a grid of 12 x 12: a cell has half of the evidence, its neighbours the rest."""
    heat = np.zeros((12, 12), np.float32)
    heat[7:10, 2:5] = 1 / 16
    heat[8, 3] = 0.5
    zones: dict[Zone, Any] = {"right_upper": box(30, 40, 70, 77), "right_lower": box(30, 113, 70, 150)}
    return FilmReading(
        anatomy=Anatomy({name: box(*edges) for name, edges in BOXES.items()}, zones, 0.56),
        places={"effusion": Place("effusion", heat, zone, share)},
        changes={"effusion": Change("effusion", "new", {"new": 0.9, "worse": 0.1})},
        digest="f" * 64,
    )


def read_case(seen: FilmReading | None = None, *more: dict[str, Any]) -> Case:
    """The case of `cxr-insight`; `more` resources are in the chart as well."""
    newest, newest_file = film(1, "2026-03-10T13:38:00Z")
    before, before_file = film(2, "2026-03-07T09:00:00Z", "AP")
    model = Answers(
        {"finding.effusion": (0.88, 0.81, 0.93), "finding.edema": (0.2, 0.1, 0.3)},
        prior={"finding.effusion": (0.06, 0.03, 0.10)},
        masked={"imaging": 0.31},
        titles={"finding.effusion": "Pleural effusion", "finding.edema": "Edema"},
        modalities=("imaging",),
        reading=seen or reading(),
    )
    resources = (patient("male", "1950-02-14"), encounter("EMER"), newest, before, *more)
    case = case_of(Chart(resources, hook="patient-view", films=(newest_file, before_file), model=model), "cxr-insight")
    tall = np.tile(np.linspace(0, 1, 400, dtype=np.float32), (600, 1))
    images = (dataclasses.replace(image, pixels=tall, shape=(600, 400)) for image in case.record.images)
    return with_record(case, images=tuple(images))


def final_report() -> dict[str, Any]:
    """Radiology's own, of the newest film."""
    return {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": "final",
        "category": [concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD")],
        "code": concept("http://loinc.org", "36643-5"),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-10T13:50:00Z",
        "imagingStudy": [{"reference": "ImagingStudy/study1"}],
        "conclusion": "Small right pleural effusion.",
    }


def read_film(house: Evidence) -> str:
    """A link to the evidence of a film of 600 x 400 pixels that was read, beside one of three days before."""
    case = read_case()
    pictures = [(image.sop_uid, encode(image.pixels)) for image in case.record.images]
    snapshot = collect(case, advised(case), None, pictures)
    return house.keep(snapshot, [picture.data for _, picture in pictures])
