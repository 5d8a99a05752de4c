"""Which parts of a record are hidden in a step of pretraining, the same however many processes share the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.contract import FusionInput, Signal, collate
from models.data import Shard, thin_labs
from models.encoders import Batch, Tokens, to_batch

KINDS = ("labs", "history", "genomics", "imaging")
"""What is hidden, in the order of the losses."""
CELLS = 8
"""A film is CELLS x CELLS squares."""
CELL_SIDE = 3
CELL_GREYS = CELL_SIDE * CELL_SIDE
"""Grey levels a hidden square is restored to."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was hidden. In labs, history and genomics, `seen` marks the hidden slots; the rest of them is padding.

    cells (B, CELLS**2) bool, hidden squares of the newest film; greys (B, CELLS**2, CELL_GREYS), in standard deviations
    of that film about its mean
    """

    labs: Tokens
    history: Tokens
    genomics: Tokens
    cells: Tensor
    greys: Tensor


@dataclass(frozen=True, slots=True)
class _Row:
    shown: FusionInput
    asked: FusionInput
    cells: NDArray[np.bool_]
    greys: NDArray[np.float32]


class Masker:
    """Batches of a shard with parts hidden. A row's part depends on the seed, the step and its place in the batch."""

    def __init__(self, shard: Shard, seed: int, *, batch: int, mask: float, regions: float) -> None:
        self.shard, self.seed, self.batch = shard, seed, batch
        self.mask, self.regions = mask, regions
        self.rows = shard.rows("train")

    def step(self, number: int, device: str, *, rank: int = 0, world: int = 1) -> tuple[Batch, Asked]:
        """One step's rows, or the share of them that is this process's."""
        places = range(number * self.batch + rank, (number + 1) * self.batch, world)
        found = [self._row(int(self._nth(place)), (self.seed, place), thin=True) for place in places]
        return self._together(found, device)

    def kept_apart(self, device: str, most: int) -> Iterator[tuple[Batch, Asked]]:
        """The validation rows, hidden the same way in every run."""
        rows = self.shard.rows("valid")[:most]
        for start in range(0, len(rows), self.batch):
            chosen = rows[start : start + self.batch]
            yield self._together([self._row(int(row), (0, int(row)), thin=False) for row in chosen], device)

    def _nth(self, place: int) -> np.int64:
        """Every row comes once, shuffled, before any comes again."""
        epoch, within = divmod(place, len(self.rows))
        row: np.int64 = self.rows[np.random.default_rng((self.seed, epoch, 7)).permutation(len(self.rows))[within]]
        return row

    def _row(self, row: int, key: tuple[int, int], *, thin: bool) -> _Row:
        rng = np.random.default_rng(key)
        inputs = self.shard.inputs(row, {"labs": thin_labs(self.shard, row, rng, 0.5 if thin else 0.0)})
        shown, asked = dict(inputs.signals), dict(inputs.signals)
        for name in ("labs", "history", "genomics"):
            signal = inputs.signals[name]
            # Every result of an analyte is hidden together: the one an hour before would give it away.
            drawn = rng.random(int(signal.code.max()) + 1 if name == "labs" else len(signal.code))
            hidden = signal.seen & ((drawn[signal.code] if name == "labs" else drawn) < self.mask)
            shown[name] = Signal(signal.code, signal.values, signal.age_h, signal.seen & ~hidden)
            asked[name] = Signal(signal.code, signal.values, signal.age_h, hidden)
        cells, greys = np.zeros(CELLS**2, np.bool_), np.zeros((CELLS**2, CELL_GREYS), np.float32)
        imaging = inputs.signals["imaging"]
        if imaging.seen[0]:
            cells = rng.random(CELLS**2) < self.regions
            greys = _greys(imaging.values[0, 0])
            values = imaging.values.copy()
            values[0, 0] = _painted(values[0, 0], cells)
            shown["imaging"] = Signal(imaging.code, values, imaging.age_h, imaging.seen)
        del asked["imaging"]
        return _Row(FusionInput(shown), FusionInput(asked), cells, greys)

    def _together(self, rows: Sequence[_Row], device: str) -> tuple[Batch, Asked]:
        shown = to_batch(collate([r.shown for r in rows]), device)
        one = np.zeros(1, np.float32)
        slim = Signal(np.zeros(1, np.int64), one[None], one, np.zeros(1, np.bool_))
        asked = to_batch(collate([FusionInput({**r.asked.signals, "imaging": slim}) for r in rows]), device)
        cells = torch.from_numpy(np.stack([r.cells for r in rows])).to(device)
        greys = torch.from_numpy(np.stack([r.greys for r in rows])).to(device)
        return shown, Asked(asked["labs"], asked["history"], asked["genomics"], cells, greys)


def _squares(size: int) -> NDArray[np.int64]:
    """(H,) the index along one side of the square each pixel lies in."""
    return np.arange(size) * CELLS // size


def _painted(film: NDArray[np.float32], hidden: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The film with its hidden squares at its own mean."""
    at = _squares(len(film))
    return np.where(hidden.reshape(CELLS, CELLS)[at][:, at], film.mean(), film).astype(np.float32)


def _greys(film: NDArray[np.float32]) -> NDArray[np.float32]:
    """(CELLS**2, CELL_GREYS) mean grey of each part of each square, standardised over the film."""
    side = CELLS * CELL_SIDE
    at = np.arange(len(film)) * side // len(film)
    row_sums = np.zeros((side, len(film)))
    np.add.at(row_sums, at, film)
    sums = np.zeros((side, side))
    np.add.at(sums.T, at, row_sums.T)
    count = np.bincount(at, minlength=side).astype(np.float64)
    means = sums / (count[:, None] * count[None, :])
    means = (means - film.mean()) / max(float(film.std()), 1e-3)
    parts = means.reshape(CELLS, CELL_SIDE, CELLS, CELL_SIDE).transpose(0, 2, 1, 3)
    found: NDArray[np.float32] = parts.reshape(CELLS**2, CELL_GREYS).astype(np.float32)
    return found
