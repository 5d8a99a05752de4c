"""Batches for training: mixed from several shards by fixed shares, the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.augment import augment
from models.config import Phase
from models.contract import FusionInput, Signal, collate
from models.data import Shard, label_matrix, thin_labs
from models.encoders import Batch, Tokens, to_batch


@dataclass(frozen=True, slots=True)
class Step:
    """One training batch: signals and labels (B, T), NaN where unknown."""

    batch: Batch
    labels: Tensor


class Sampler:
    """Draw batches from the training rows of several shards.

    Every source goes through its own rows in a shuffled order before any comes again, at its share of each batch.
    Any step can be made without making those before it, so that a resumed run sees what an unbroken one would.
    """

    def __init__(self, shards: Mapping[str, Shard], phase: Phase, seed: int) -> None:
        total = sum(phase.sources.values())
        self.phase, self.seed = phase, seed
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.parts: list[tuple[Shard, NDArray[np.int64], int]] = []
        for name, share in phase.sources.items():
            count = max(1, round(phase.batch * share / total))
            self.parts.append((shards[name], shards[name].rows("train"), count))

    def step(self, number: int, device: torch.device, *, rank: int = 0, world: int = 1) -> Step:
        """The batch of a step, or of several processes' batch the part of the one with this rank."""
        rng = np.random.default_rng((self.seed, number) if world == 1 else (self.seed, number, rank))
        inputs: list[FusionInput] = []
        labels: list[NDArray[np.float32]] = []
        for part, (shard, rows, count) in enumerate(self.parts):
            chosen = self._rows(part, rows, number * count, count)[rank::world]
            labels.append(label_matrix(shard, chosen))
            for row in chosen:
                keep = {"labs": thin_labs(shard, int(row), rng, self.phase.drop_tokens)}
                inputs.append(self._drop(shard.inputs(int(row), keep), rng))
        batch = dict(_collate(inputs, device))
        imaging = batch["imaging"]
        if self.phase.augment and bool(imaging.seen.any()):
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            values = imaging.values.clone()
            values[imaging.seen] = augment(values[imaging.seen], generator)
            batch["imaging"] = Tokens(imaging.code, values, imaging.age_h, imaging.seen)
        return Step(batch, torch.from_numpy(np.concatenate(labels)).to(device))

    def _rows(self, part: int, rows: NDArray[np.int64], start: int, count: int) -> NDArray[np.int64]:
        chosen = []
        for position in range(start, start + count):
            epoch, place = divmod(position, len(rows))
            order = self._order(part, len(rows), epoch)
            chosen.append(rows[order[place]])
        return np.asarray(chosen)

    def _order(self, part: int, n: int, epoch: int) -> NDArray[np.int64]:
        key = (part, epoch)
        if key not in self._orders:
            if len(self._orders) > 4 * len(self.parts):
                self._orders.clear()
            self._orders[key] = np.random.default_rng((self.seed, part, epoch, n)).permutation(n)
        return self._orders[key]

    def _drop(self, inputs: FusionInput, rng: np.random.Generator) -> FusionInput:
        """Hide a random proper subset of the modalities present, and sometimes the context."""
        present = sorted(inputs.present())
        hidden: set[str] = set()
        if len(present) > 1 and rng.random() < self.phase.drop_modality:
            pattern = int(rng.integers(1, 2 ** len(present) - 1))  # neither all nor none
            hidden = {name for bit, name in enumerate(present) if not pattern >> bit & 1}
        if rng.random() < 0.1:
            hidden.add("context")
        signals = {n: (_hide(s) if n in hidden else s) for n, s in inputs.signals.items()}
        return FusionInput(signals)


def _hide(signal: Signal) -> Signal:
    return Signal(signal.code, signal.values, signal.age_h, np.zeros_like(signal.seen))


def _collate(inputs: Sequence[FusionInput], device: torch.device) -> Batch:
    if not any(bool(i.signals["imaging"].seen.any()) for i in inputs):
        # No film in the batch: do not carry its empty pixels about.
        slim = Signal(
            np.zeros(1, np.int64), np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32), np.zeros(1, np.bool_)
        )
        inputs = [FusionInput({**i.signals, "imaging": slim}) for i in inputs]
    return to_batch(collate(inputs), device)


def predict_batch(shard: Shard, rows: NDArray[np.int64], device: torch.device) -> Batch:
    """The rows as they are, nothing dropped or changed."""
    return _collate([shard.inputs(int(row)) for row in rows], device)
