"""What `model.json` says of the model that answered: how good, on whom, and where it must not be trusted.

Read leniently and only as far as the page shows it: the file belongs to `models/card.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import msgspec

from cds_service.advice.estimates import TRAINED_ON
from cds_service.pages.snapshot import Answering, Figure, ModelView
from cds_service.pages.words import FIGURES
from models.contract import Assessment

log = logging.getLogger(__name__)
FILE = "model.json"


class _Estimated(msgspec.Struct):
    value: float
    low: float | None = None
    high: float | None = None


class _Target(msgspec.Struct):
    ages: tuple[int, int | None]
    evaluated: str
    figures: dict[str, _Estimated | float | None]
    standing: str
    limits: tuple[str, ...]


class _Source(msgspec.Struct):
    title: str
    licence: str
    url: str
    name: str = ""


class _Weights(msgspec.Struct):
    sha256: str


class _Card(msgspec.Struct):
    weights: _Weights
    targets: dict[str, _Target]
    known_limits: tuple[str, ...]
    sources: tuple[_Source, ...]


_card = msgspec.json.Decoder(_Card)


def _limits(card: _Card) -> Iterator[str]:
    """Of the whole model: those of a target stand with it, and those of a data set lose the name it has in our code."""
    for text in card.known_limits:
        if not text.startswith(tuple(f"{target}:" for target in card.targets)):
            named = next((s.name for s in card.sources if s.name and text.startswith(f"{s.name}: ")), None)
            yield text if named is None else text.removeprefix(f"{named}: ")


def model_view(assessment: Assessment, folder: Path | None) -> ModelView:
    """The model that answered, with its card where the card on disk is of the very same weights."""
    card = _read(folder / FILE) if folder is not None else None
    name, trained = assessment.model, TRAINED_ON[assessment.tier]
    if card is None or card.weights.sha256 != assessment.digest:
        return ModelView(name=name, digest=assessment.digest, trained_on=trained, card_found=False)
    titles = {target: estimate.target.title for target, estimate in assessment.estimates.items()}
    return ModelView(
        name=name,
        digest=assessment.digest,
        trained_on=trained,
        card_found=True,
        limits=tuple(_limits(card)),
        targets=tuple(_answering(title, card.targets[t]) for t, title in titles.items() if t in card.targets),
        sources=tuple((s.title, s.licence, s.url) for s in card.sources),
    )


def _answering(title: str, target: _Target) -> Answering:
    low, high = target.ages
    return Answering(
        title=title,
        standing=target.standing,
        evaluated=target.evaluated,
        ages=f"{low} years and older" if high is None else f"{low} to {high} years",
        patients=_count(target.figures, "patients"),
        positives=_count(target.figures, "positives"),
        figures=tuple(
            Figure(name=words, value=found.value, low=found.low, high=found.high)
            for name, words in FIGURES.items()
            if isinstance(found := target.figures.get(name), _Estimated)
        ),
        limits=target.limits,
    )


def _count(figures: Mapping[str, _Estimated | float | None], name: str) -> int:
    found = figures.get(name)
    return int(found) if isinstance(found, int | float) else 0


def _read(path: Path) -> _Card | None:
    try:
        return _decoded(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=8)
def _decoded(path: Path, changed: int) -> _Card | None:
    try:
        return _card.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        log.warning("model card unreadable", extra={"fields": {"model": path.parent.name}})
        return None
