"""Heads fitted after the towers: logistic regression for targets with too few patients, boosted trees for results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from models.calibration import patterns_of
from models.data import Shard
from models.encoders.statistics import statistics
from models.encoders.trees import fit_trees
from models.fusion import FusionModel

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pooled:
    """Frozen encodings of one source: per modality (n, D) and (n,) whether it was seen."""

    vectors: dict[str, Floats]
    seen: dict[str, NDArray[np.bool_]]

    def only(self, names: tuple[str, ...]) -> Pooled:
        return Pooled({m: self.vectors[m] for m in names}, {m: self.seen[m] for m in names})

    def rows(self, index: NDArray[np.int64]) -> Pooled:
        return Pooled({m: v[index] for m, v in self.vectors.items()}, {m: s[index] for m, s in self.seen.items()})


@dataclass(frozen=True, slots=True)
class LinearHead:
    """logit = bias + sum over modalities of (seen ? weights . vector : absent)."""

    weights: dict[str, Floats]
    absent: dict[str, float]
    bias: float

    def logits(self, pooled: Pooled, shown: tuple[str, ...]) -> Floats:
        """Logits with only these modalities shown."""
        total = np.full(len(next(iter(pooled.seen.values()))), self.bias)
        for m, w in self.weights.items():
            seen = pooled.seen[m] & (m in shown)
            total = total + np.where(seen, pooled.vectors[m] @ w, self.absent[m])
        return np.asarray(total, np.float64)


def fit_head(pooled: Pooled, labels: Floats, patients: NDArray[np.int64], l2: float) -> LinearHead:
    """Fit under every missing pattern at once, every patient with the same weight whatever the number of films."""
    names = tuple(pooled.vectors)
    blocks: list[Floats] = []
    targets: list[Floats] = []
    weights: list[Floats] = []
    _, index, count = np.unique(patients, return_inverse=True, return_counts=True)
    each = 1.0 / count[index]
    centre: dict[str, Floats] = {}
    scale: dict[str, float] = {}
    for m in names:
        vectors, share = pooled.vectors[m][pooled.seen[m]], each[pooled.seen[m]]
        centre[m] = np.average(vectors, axis=0, weights=share)
        # One scale for the whole vector: a direction that hardly varies must not be blown up into a predictor.
        variance = np.average((vectors - centre[m]) ** 2, axis=0, weights=share)
        scale[m] = float(np.sqrt(variance).mean()) + 1e-6
    for shown in patterns_of(names):
        seen = {m: pooled.seen[m] & (m in shown) for m in names}
        used = np.any(list(seen.values()), axis=0)
        columns = [(pooled.vectors[m] - centre[m]) / scale[m] * seen[m][:, None] for m in names]
        columns += [(~seen[m])[:, None].astype(np.float64) for m in names]
        blocks.append(np.concatenate(columns, axis=1)[used])
        targets.append(labels[used])
        weights.append(each[used])
    w = np.concatenate(weights)
    model = LogisticRegression(C=1.0 / l2, max_iter=2000)
    model.fit(np.concatenate(blocks), np.concatenate(targets), sample_weight=w)
    coefficients, bias = model.coef_[0], float(model.intercept_[0])
    head: dict[str, Floats] = {}
    absent: dict[str, float] = {}
    start = 0
    for position, m in enumerate(names):
        width = pooled.vectors[m].shape[1]
        head[m] = coefficients[start : start + width] / scale[m]
        start += width
        offset = float(head[m] @ centre[m])
        bias -= offset
        absent[m] = float(coefficients[len(coefficients) - len(names) + position]) + offset
    return LinearHead(head, absent, bias)


def fit_one(modality: str) -> Callable[[Pooled, Floats, NDArray[np.int64], float], LinearHead]:
    """A way to fit a head that looks at one modality only."""

    def fit(pooled: Pooled, labels: Floats, patients: NDArray[np.int64], l2: float) -> LinearHead:
        return fit_head(pooled.only((modality,)), labels, patients, l2)

    return fit


def fit_late(pooled: Pooled, labels: Floats, patients: NDArray[np.int64], l2: float) -> LinearHead:
    """Calibrated late fusion: a head per modality, weighed by a regression on logits of patients no head has seen.

    Two heads on one vector each have far less to overfit than one head on both; the weighing has one number a modality.
    """
    names = tuple(pooled.vectors)
    _, index, count = np.unique(patients, return_inverse=True, return_counts=True)
    inner = (np.random.default_rng(0).permutation(len(count)) % 4).astype(np.int8)[index]
    singles = {m: pooled.only((m,)) for m in names}
    held = {m: cross_validate(singles[m], labels, patients, inner, l2)[(m,)] for m in names}
    columns = [np.where(pooled.seen[m], held[m], 0.0) for m in names] + [(~pooled.seen[m]) * 1.0 for m in names]
    stack = LogisticRegression(C=1.0, max_iter=500)
    stack.fit(np.stack(columns, axis=1), labels, sample_weight=1.0 / count[index])
    bias = float(stack.intercept_[0])
    weights: dict[str, Floats] = {}
    absent: dict[str, float] = {}
    for place, m in enumerate(names):
        # A negative weight would turn a modality's own ranking round on the strength of a small sample.
        share = max(0.0, float(stack.coef_[0, place]))
        head = fit_head(singles[m], labels, patients, l2)
        weights[m] = share * head.weights[m]
        bias += share * head.bias
        absent[m] = float(stack.coef_[0, len(names) + place]) - share * head.bias
    return LinearHead(weights, absent, bias)


def cross_validate(
    pooled: Pooled,
    labels: Floats,
    patients: NDArray[np.int64],
    folds: NDArray[np.int8],
    l2: float,
    fit: Callable[[Pooled, Floats, NDArray[np.int64], float], LinearHead] = fit_head,
) -> dict[tuple[str, ...], Floats]:
    """Logits of every case by a head that never saw its patient, for every missing pattern."""
    out = {shown: np.zeros(len(labels)) for shown in patterns_of(tuple(pooled.vectors))}
    for fold in np.unique(folds):
        held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        head = fit(pooled.rows(rest), labels[rest], patients[rest], l2)
        for shown, logits in out.items():
            logits[held] = head.logits(pooled.rows(held), shown)
    return out


def install(model: FusionModel, target: str, head: LinearHead) -> None:
    """Put a fitted head into the model's own columns; the residual of this target stays zero."""
    column = model.spec.target_names().index(target)
    with torch.no_grad():
        for name in model.signals:
            weights, late = head.weights.get(name), model.heads[name].weight
            assert isinstance(late, torch.Tensor)
            late[column] = 0.0 if weights is None else torch.from_numpy(weights).float()
            model.absent[name][column] = head.absent.get(name, 0.0)
        model.bias[column] = head.bias
        model.readout[column] = 0.0


def boost(model: FusionModel, target: str, shard: Shard, share: float, *, seed: int = 0) -> None:
    """Fit trees on the training rows and let them give `share` of this target's logit, the towers the rest."""
    labels = shard.labels(target)
    rows = shard.rows("train")
    rows = rows[np.isfinite(labels[rows])]
    nodes, start = fit_trees(statistics_of(shard, rows), labels[rows].astype(np.float64), seed=seed)
    model.add_trees([target])
    column = model.spec.target_names().index(target)
    encoder = model.labs_encoder()
    assert encoder is not None, "add_trees found it"
    encoder.table(column).put(nodes, share)
    with torch.no_grad():
        for name in model.signals:
            late = model.heads[name].weight
            assert isinstance(late, torch.Tensor)
            late[column] *= 1.0 - share
            model.absent[name][column] *= 1.0 - share
        model.readout[column] *= 1.0 - share
        model.bias[column] = (1.0 - share) * model.bias[column] + share * start


def statistics_of(shard: Shard, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(len(rows), analytes x statistics), NaN where unmeasured: what the trees read, as the encoder makes it."""
    found = []
    for row in rows:
        labs = shard.inputs(int(row)).signals["labs"]
        code, values, age_h, seen = (
            torch.from_numpy(np.ascontiguousarray(a))[None]
            for a in (labs.code, labs.values[:, 0], labs.age_h, labs.seen)
        )
        found.append(statistics(code, values, age_h, seen, len(shard.spec.labs)).flatten(1))
    return torch.cat(found).numpy()
