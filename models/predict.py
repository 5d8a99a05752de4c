"""Logits of whole shards under every missing pattern; the encoders run once per case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.batches import predict_batch
from models.calibration import Floats, pattern, patterns_of
from models.contract import MODALITIES
from models.data import Shard
from models.encoders import Encoded
from models.fusion import FusionModel
from models.heads import Pooled

BATCH = 64


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of some rows of a shard.

    logits   pattern (`imaging+labs`, `` for context alone) -> (n, T) logits with only those modalities shown; NaN
             where the row lacks one of them
    has      modality -> (n,) whether the row has it
    context  (n, 5): age in decades (0 unknown), age known, female, male, newest film is AP
    """

    rows: NDArray[np.int64]
    logits: dict[str, NDArray[np.float32]]
    has: dict[str, NDArray[np.bool_]]
    context: NDArray[np.float32]

    def only(self, rows: NDArray[np.bool_]) -> Predictions:
        """The same for some of the rows."""
        return Predictions(
            self.rows[rows],
            {name: logits[rows] for name, logits in self.logits.items()},
            {name: has[rows] for name, has in self.has.items()},
            self.context[rows],
        )

    def as_served(self, modalities: tuple[str, ...], column: int) -> tuple[Floats, NDArray[np.str_]]:
        """Logits with everything a row has of these modalities, and the name of its pattern."""
        names = np.array(
            [pattern(m for m in modalities if self.has[m][i]) for i in range(len(self.rows))], dtype=np.str_
        )
        logits = np.array([self.logits[name][i, column] for i, name in enumerate(names)], np.float64)
        return logits, names


Tell = Callable[[int, int], None]


@torch.inference_mode()
def predict(model: FusionModel, shard: Shard, rows: NDArray[np.int64], tell: Tell | None = None) -> Predictions:
    """Logits under every pattern of the modalities this shard has."""
    device = next(model.parameters()).device
    present = [m for m in MODALITIES if m in model.signals and bool(shard.has(m)[rows].any())]
    patterns = [(), *patterns_of(present)]
    parts: dict[str, list[NDArray[np.float32]]] = {pattern(p): [] for p in patterns}
    has: dict[str, list[NDArray[np.bool_]]] = {m: [] for m in model.signals if m != "context"}
    for start in range(0, len(rows), BATCH):
        encoded = model.encode(predict_batch(shard, rows[start : start + BATCH], device))
        for m, found in has.items():
            found.append(encoded[m].seen.cpu().numpy())
        for shown in patterns:
            logits = model.fuse(show_only(encoded, shown)).total
            lacks = torch.stack([~encoded[m].seen for m in shown]).any(dim=0) if shown else None
            if lacks is not None:
                logits = torch.where(lacks[:, None], torch.full_like(logits, float("nan")), logits)
            parts[pattern(shown)].append(logits.cpu().numpy())
        if tell is not None:
            tell(min(start + BATCH, len(rows)), len(rows))
    return Predictions(
        rows,
        {name: np.concatenate(found) for name, found in parts.items()},
        {m: np.concatenate(found) for m, found in has.items()},
        context_of(shard, rows),
    )


def show_only(encoded: dict[str, Encoded], shown: tuple[str, ...]) -> dict[str, Encoded]:
    """The encodings with every modality but these masked; context stays."""
    out: dict[str, Encoded] = {}
    for name, e in encoded.items():
        out[name] = e if name == "context" or name in shown else e.masked(torch.zeros_like(e.seen))
    return out


def context_of(shard: Shard, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Age, sex and projection of every row, as the record gives them."""
    out = np.zeros((len(rows), 5), np.float32)
    context, films = shard.arrays["context.offsets"], shard.arrays["imaging.offsets"]
    ap = shard.spec.image.views.index("AP") + 1
    for i, row in enumerate(rows):
        if context[row + 1] > context[row]:
            slot = context[row]
            decades, female, male = shard.arrays["context.values"][slot]
            known = float(shard.arrays["context.code"][slot] == 1)
            out[i, :4] = decades * known, known, female, male
        if films[row + 1] > films[row]:
            out[i, 4] = float(shard.arrays["imaging.code"][films[row]] == ap)
    return out


@torch.inference_mode()
def pooled_encodings(model: FusionModel, shard: Shard, rows: NDArray[np.int64], modalities: tuple[str, ...]) -> Pooled:
    """The frozen towers' pooled vectors of these rows."""
    device = next(model.parameters()).device
    vectors: dict[str, list[Floats]] = {m: [] for m in modalities}
    seen: dict[str, list[NDArray[np.bool_]]] = {m: [] for m in modalities}
    for start in range(0, len(rows), BATCH):
        encoded = model.encode(predict_batch(shard, rows[start : start + BATCH], device))
        for m in modalities:
            vectors[m].append(encoded[m].pooled.cpu().numpy().astype(np.float64))
            seen[m].append(encoded[m].seen.cpu().numpy())
    return Pooled({m: np.concatenate(v) for m, v in vectors.items()}, {m: np.concatenate(s) for m, s in seen.items()})
