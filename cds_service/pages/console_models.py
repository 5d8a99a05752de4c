"""The models under the models' folder as their cards tell of them."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from models.card import Card
from models.checkpoint import CheckpointError, read_card

log = logging.getLogger(__name__)
FILE = "model.json"


def model_cards(folder: Path) -> tuple[Card, ...]:
    """The cards that can be read, by name; one that cannot is left out with a line in the log."""
    found = (_card(p.parent, p.stat().st_mtime_ns) for p in sorted(folder.glob(f"*/{FILE}")))
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
