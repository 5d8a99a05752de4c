"""Charts of patients about to be scanned for pulmonary embolism, and what a card of pe-imaging holds."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from imaging_charts import answered
from vignettes import Chart, Resource, encounter, imaging_order, observation, patient

from cds_service.cards import Card

NAME = "pe-imaging"
CTPA = imaging_order("d1", "36147-7", "CT pulmonary angiogram", "urgent")
LUNG_SCAN = imaging_order("d2", "39943-6", "Lung ventilation-perfusion scan", "urgent")
UNLIKELY = answered(CTPA, pe_most_likely=False)
ALL_NO = answered(CTPA, pe_most_likely=False, dvt_signs=False, haemoptysis=False)
WOMAN_68, WOMAN_30, MAN_40 = (
    patient("female", "1957-12-01"),
    patient("female", "1996-01-01"),
    patient("male", "1986-01-01"),
)
EMERGENCY_ROOM = encounter("EMER")


def ddimer(value: float, unit: str = "ng/mL FEU", at: str = "2026-03-10T12:40:00Z", **more: Any) -> Resource:
    code = more.pop("code", "48065-7")
    return observation(more.pop("id", "dd"), code, value, unit, at, **more)


def pulse(value: float, at: str = "2026-03-10T13:30:00Z", **more: Any) -> Resource:
    return observation("hr", "8867-4", value, "/min", at, **more)


def saturation(value: float, at: str = "2026-03-10T13:30:00Z") -> Resource:
    return observation("sat", "59408-5", value, "%", at)


PULSE, SATURATION = pulse(88), saturation(97)
LOW = ddimer(640)


def chart(
    *resources: Resource, drafts: tuple[Resource, ...] = (UNLIKELY,), who: Resource = WOMAN_68, **more: Any
) -> Chart:
    """A patient in the emergency room with a normal pulse, unless the resources say otherwise."""
    visit = more.pop("visit", EMERGENCY_ROOM)
    vitals = [v for v in (PULSE, SATURATION) if v["id"] not in {r.get("id") for r in resources}]
    return Chart((who, visit, *vitals, *resources), drafts, **more)


def card_of(given: Chart, manifest: Any = None) -> Card:
    (card,) = given.cards(NAME, manifest)
    return card


def rule_of(given: Chart, manifest: Any = None) -> str | None:
    """The id of the rule that fired, from the card's own rule line; None where the service is silent."""
    cards = given.cards(NAME, manifest)
    if not cards:
        return None
    (card,) = cards
    return (card.detail or "").rpartition("Rule ")[2].partition(" ")[0]


def labels(card: Card) -> list[str]:
    return [s.label for s in card.suggestions]


def actions(card: Card) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(a) for s in card.suggestions for a in s.actions]


def text(card: Card) -> str:
    return f"{card.summary}\n{card.detail}"


def without_uuids(cards: list[Card]) -> str:
    body = json.dumps(msgspec.to_builtins(cards), sort_keys=True)
    for card in cards:
        for uuid in (card.uuid, *(s.uuid for s in card.suggestions)):
            body = body.replace(uuid, "")
    return body
