"""The models as their cards tell of them, their versions, and which one answers: activated and rolled back here."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response as AnyResponse

from cds_service.pages.console_page import Console, admin, reason
from models.card import Card

if TYPE_CHECKING:
    from models.registry import Version

log = logging.getLogger(__name__)
FILE = "model.json"


def add_models(blueprint: Blueprint, console: Console) -> None:
    house = console.house

    def versions() -> dict[str, list[tuple[Version, bool, bool]]]:
        """By name, each version, whether it is said to answer, and whether it did before."""
        from models.checkpoint import CheckpointError  # here: torch comes with it, and a web worker is without
        from models.registry import Registry

        said: dict[str, list[str]] = {}
        for word in house.state.model_history():
            said.setdefault(word.name, []).append(word.digest)
        found: dict[str, list[tuple[Version, bool, bool]]] = {}
        try:
            known = Registry(house.settings.models).versions()
        except CheckpointError:
            return {}
        for version in known:
            spoken = said.get(version.name, [])
            answers = version.digest == spoken[-1] if spoken else version.shipped
            before = next((digest for digest in reversed(spoken) if digest != spoken[-1]), None)
            earlier = version.digest == before if before else version.shipped and bool(spoken) and not answers
            found.setdefault(version.name, []).append((version, answers, earlier))
        return found

    @blueprint.post("/models/activate")
    def activate() -> AnyResponse:
        """A version answers from here on, in every process within ten seconds; going back is the same word."""
        from models.checkpoint import CheckpointError
        from models.registry import Registry, verify

        why = reason()
        try:
            version = Registry(house.settings.models).with_digest(
                request.form.get("name", ""), request.form.get("digest", "")
            )
            verify(version)
        except CheckpointError:
            log.warning("a version that was to be activated cannot be used", exc_info=True)
            raise BadRequest(
                "This version is not there, or does not pass its self-test: nothing was changed."
            ) from None
        house.state.activate_model(version.name, version.digest, who=admin().name, why=why)
        return console.to(f"models#{version.name}")

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
            versions=versions(),
            words=list(reversed(house.state.model_history())),
            missing=sorted(set(house.services.models()) - {c.name for c in cards}),
            limits={c.name: general_limits(c) for c in cards},
            ahead=house.ahead,
        )


def general_limits(card: Card) -> tuple[str, ...]:
    """The limits that concern the whole model; those of a target and of a data set stand with these."""
    elsewhere = tuple(f"{name}:" for name in (*card.targets, *(source.name for source in card.sources)))
    return tuple(text for text in card.known_limits if not text.startswith(elsewhere))


def model_cards(folder: Path) -> tuple[Card, ...]:
    """The cards that can be read, by name; one that cannot is left out with a line in the log."""
    from models.film_reader import is_film_reader

    paths = (p for p in sorted(folder.glob(f"*/{FILE}")) if not is_film_reader(p.parent))
    found = (_card(p.parent, p.stat().st_mtime_ns) for p in paths)
    return tuple(card for card in found if card is not None)


def model_names(folder: Path) -> dict[str, str]:
    """`chest-open@1` by the digest of its weights."""
    return {card.weights.sha256: card.model for card in model_cards(folder)}


@lru_cache(maxsize=16)
def _card(folder: Path, changed: int) -> Card | None:
    from models.checkpoint import CheckpointError, read_card

    try:
        return read_card(folder)
    except CheckpointError:
        log.warning("model card unreadable", extra={"fields": {"model": folder.name}})
        return None
