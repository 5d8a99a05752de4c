"""The models under the models' folder as their cards tell of them."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from flask import Blueprint, Response

from cds_service.pages.console_page import Console
from models.card import Card
from models.checkpoint import CheckpointError, read_card
from models.film_reader import is_film_reader

log = logging.getLogger(__name__)
FILE = "model.json"


def add_models(blueprint: Blueprint, console: Console) -> None:
    house = console.house

    @blueprint.get("/models")
    def models() -> Response:
        cards = model_cards(house.settings.models)
        users = {c.name: [s for s in house.services.all if s.model == c.name] for c in cards}
        serving = {name: getattr(engine, "digest", "") for name, engine in house.engines.items()}
        return console.page(
            "models",
            cards=cards,
            titles={c.name: {t.name: t.title for t in c.spec.targets} for c in cards},
            users=users,
            serving=serving,
            active=house.state.active_models(),
            missing=sorted(set(house.services.models()) - {c.name for c in cards}),
            limits={c.name: general_limits(c) for c in cards},
            ahead=house.ahead,
        )


def general_limits(card: Card) -> tuple[str, ...]:
    """The limits that concern the whole model; those of a target stand with it."""
    return tuple(text for text in card.known_limits if not text.startswith(tuple(f"{t}:" for t in card.targets)))


def model_cards(folder: Path) -> tuple[Card, ...]:
    """The cards that can be read, by name; one that cannot is left out with a line in the log."""
    paths = (p for p in sorted(folder.glob(f"*/{FILE}")) if not is_film_reader(p.parent))
    found = (_card(p.parent, p.stat().st_mtime_ns) for p in paths)
    return tuple(card for card in found if card is not None)


def model_names(folder: Path) -> dict[str, str]:
    """`chest-open@1` by the digest of its weights."""
    return {card.weights.sha256: card.model for card in model_cards(folder)}


@lru_cache(maxsize=16)
def _card(folder: Path, changed: int) -> Card | None:
    try:
        return read_card(folder)
    except CheckpointError:
        log.warning("model card unreadable", extra={"fields": {"model": folder.name}})
        return None
