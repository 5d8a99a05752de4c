"""A stored checkpoint judged again, from its weights and the exported data alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from models.build import calibrate, judge_frozen, known_limits
from models.calibration import Calibration
from models.card import Card, TargetCard
from models.checkpoint import Stored, load_checkpoint
from models.data import Shard, ShardError, read_shard
from models.evaluate import report
from models.judged import Judged, judge_on_valid
from models.metrics import RESAMPLES
from models.predict import Predictions, predict


def judge_again(stored: Stored, shards: Path, targets: Sequence[str] | None = None) -> Iterator[Judged]:
    """The cases and scores of every target, or of those named; towers frozen at training are cross-validated anew.

    Raises ShardError where a shard is missing or laid out otherwise than the checkpoint reads.
    """
    frozen = {head.target: head for head in stored.card.recipe.frozen_heads}
    known: dict[str, tuple[Shard, Predictions | None]] = {}
    for target in stored.card.spec.targets:
        if targets is not None and target.name not in targets:
            continue
        if target.source not in known:
            shard = read_shard(shards / f"{target.source}.safetensors")
            if shard.spec != stored.card.spec:
                raise ShardError(f"{shards}: {target.source} was exported for another model than {stored.card.name}")
            known[target.source] = (shard, None)
        shard, predictions = known[target.source]
        if target.name in frozen:
            yield judge_frozen(stored.model, target, shard, frozen[target.name])
            continue
        if predictions is None:
            predictions = predict(stored.model, shard, shard.rows("valid"))
            known[target.source] = (shard, predictions)
        yield judge_on_valid(target, shard, predictions)


def recalibrated(stored: Stored, judged: Mapping[str, Judged], cards: Mapping[str, TargetCard]) -> Card:
    """The stored card with the calibration of the judged targets fitted again, and their figures; weights stay."""
    card = stored.card
    targets = {name: cards.get(name, found) for name, found in card.targets.items()}
    fitted = {name: calibrate(cases) for name, cases in judged.items()}
    return msgspec.structs.replace(
        card,
        calibration=Calibration({name: fitted.get(name, maps) for name, maps in card.calibration.maps.items()}),
        targets=targets,
        known_limits=known_limits(targets, card.sources, card.gate, card.recipe),
    )


def evaluate(
    checkpoint: Path, shards: Path, *, targets: Sequence[str] | None = None, resamples: int = RESAMPLES
) -> dict[str, TargetCard]:
    """All figures of a stored checkpoint. Raises ShardError or CheckpointError where the two do not fit."""
    stored = load_checkpoint(checkpoint)
    return {j.target.name: report(j, resamples=resamples) for j in judge_again(stored, shards, targets)}
