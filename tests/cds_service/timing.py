"""Charts of patients whose study may have been done already, and what a card of imaging-timing holds."""

from __future__ import annotations

from typing import Any

from imaging_charts import LOINC, SNOMED, SUBJECT, coded, report, study
from vignettes import Chart, Resource, encounter, imaging_order, observation, patient

from cds_service.cards import Card

NAME = "imaging-timing"
FILM = imaging_order("d1", "30746-2", "Portable chest X-ray")
CT = imaging_order("d1", "29252-4", "CT chest without contrast")
ADULT = patient("female", "1948-08-08")
WARD, CLINIC = encounter("IMP"), encounter("AMB")
DONE = report("r1", "36643-5", "2026-03-10T09:05:00Z", "No acute cardiopulmonary process.")
FINE = (
    observation("hr", "8867-4", 84, "/min", "2026-03-10T13:00:00Z"),
    observation("sat", "59408-5", 96, "%", "2026-03-10T13:00:00Z"),
)
LEFT, RIGHT = coded(SNOMED, "7771000"), coded(SNOMED, "24028007")

__all__ = ["LOINC", "SNOMED", "SUBJECT", "coded", "report", "study"]


def chart(*resources: Resource, drafts: tuple[Resource, ...] = (FILM,), **more: Any) -> Chart:
    """A patient on a ward with vital signs that are fine, about to have a chest film."""
    who, visit, vitals = more.pop("who", ADULT), more.pop("visit", WARD), more.pop("vitals", FINE)
    return Chart((who, visit, *vitals, *resources), drafts, **more)


def procedure(id_: str, at: str | None, category: str | None = None, **more: Any) -> Resource:
    return {
        "resourceType": "Procedure",
        "id": id_,
        "status": "completed",
        "code": coded(SNOMED, "112798008", "Insertion of endotracheal tube"),
        "subject": SUBJECT,
        **({"performedDateTime": at} if at else {}),
        **({"category": coded(SNOMED, category)} if category else {}),
        **more,
    }


def standing(id_: str, loinc: str, text: str, at: str = "2026-03-10T08:00:00Z", **more: Any) -> Resource:
    """An order that stands in the chart already."""
    return imaging_order(id_, loinc, text, **{"status": "active", "authoredOn": at, **more})


def card_of(given: Chart, manifest: Any = None) -> Card:
    (card,) = given.cards(NAME, manifest)
    return card
