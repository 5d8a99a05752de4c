"""Charts of patients about to have contrast, and what a card of imaging-safety holds."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from vignettes import Chart, Resource, encounter, imaging_order, medication, observation, patient

from cds_service.cards import Card

NAME = "imaging-safety"
CT = imaging_order("d1", "24628-0", "CT chest with IV contrast")
METFORMIN = medication("a1", "6809", "metformin 1000 mg twice daily")


def creatinine(id_: str, value: float, at: str, unit: str | None = "mg/dL", **more: Any) -> Resource:
    return observation(id_, "2160-0", value, unit, at, **more)


LOW = creatinine("o1", 2.6, "2026-03-10T06:10:00Z")
STEADY = creatinine("o2", 2.5, "2026-03-08T06:00:00Z")
NORMAL = creatinine("o1", 0.9, "2026-03-10T06:10:00Z")


def chart(
    *resources: Resource, drafts: tuple[Resource, ...] = (CT,), who: Resource | None = None, **more: Any
) -> Chart:
    visit = more.pop("visit", encounter())
    return Chart((who or patient(), visit, *resources), drafts, **more)


def card_of(given: Chart, manifest: Any = None) -> Card:
    (card,) = given.cards(NAME, manifest)
    return card


def labels(card: Card) -> list[str]:
    return [s.label for s in card.suggestions]


def written(card: Card) -> list[Resource]:
    return [msgspec.to_builtins(a)["resource"] for s in card.suggestions for a in s.actions]


def text(card: Card) -> str:
    return f"{card.summary}\n{card.detail}"


def without_uuids(card: Card) -> Any:
    plain = msgspec.to_builtins(card)
    body = json.dumps(plain)
    for uuid in [plain["uuid"], *(s["uuid"] for s in plain.get("suggestions", []))]:
        body = body.replace(uuid, "")
    return body
