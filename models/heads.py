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
    """Late fusion as a product of experts: what a head on each modality says beyond the prevalence, added up.

    Nothing is fitted across modalities, so there is nothing to overfit there; a modality not seen adds nothing.
    """
    _, index, count = np.unique(patients, return_inverse=True, return_counts=True)
    share = float(np.average(labels, weights=1.0 / count[index]))
    prior = float(np.log(share / (1.0 - share)))
    heads = {m: fit_head(pooled.only((m,)), labels, patients, l2) for m in pooled.vectors}
    bias = prior + sum(head.bias - prior for head in heads.values())
    weights = {m: head.weights[m] for m, head in heads.items()}
    return LinearHead(weights, {m: prior - head.bias for m, head in heads.items()}, bias)


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
