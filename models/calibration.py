"""From logits to probabilities that mean what they say: Platt scaling per target and missing pattern, as plain numbers.

Fitted with scikit-learn on predictions the towers were not trained on, then kept in `model.json` and applied without
it. The interval is what the calibration itself does not know: the same map fitted again on patients drawn anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BOOTSTRAPS = 200
PRIOR_STRENGTH = 1e4
"""scikit-learn's C: next to no shrinkage of the slope, enough to keep a separable sample finite."""


class PlattMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """probability = sigmoid(slope * logit + intercept); `draws` are (slope, intercept) over bootstrapped patients."""

    slope: float
    intercept: float
    draws: tuple[tuple[float, float], ...]
    patients: int
    positives: int

    def probability(self, logit: float) -> float:
        return sigmoid(self.slope * logit + self.intercept)

    def interval(self, logit: float) -> tuple[float, float]:
        """5th and 95th percentile of the probability over the draws."""
        found = sorted(sigmoid(a * logit + b) for a, b in self.draws)
        low, high = np.percentile(found, (5.0, 95.0))
        p = self.probability(logit)
        return min(float(low), p), max(float(high), p)

    def apply(self, logits: Floats) -> Floats:
        """`probability` of many logits."""
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(self.slope * logits + self.intercept, -40.0, 40.0))))


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """target -> missing pattern -> map. A pattern names the target's own modalities that were seen: `imaging+labs`."""

    maps: dict[str, dict[str, PlattMap]]

    def find(self, target: str, seen: Iterable[str]) -> PlattMap | None:
        """The map for what was seen; None where this pattern was never calibrated."""
        return self.maps.get(target, {}).get(pattern(seen))


def pattern(seen: Iterable[str]) -> str:
    """The name of a missing pattern: sorted modalities joined by `+`; empty where none was seen."""
    return "+".join(sorted(seen))


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, x))))


def fit_platt(
    logits: Floats, labels: Floats, patients: NDArray[np.int64], weights: Floats | None = None, *, seed: int = 0
) -> PlattMap:
    """Fit slope and intercept by weighted maximum likelihood, and again on BOOTSTRAPS draws of the patients.

    Raises ValueError with fewer than two patients of either label: there is nothing to calibrate on.
    """
    weights = np.ones(len(logits)) if weights is None else np.asarray(weights, np.float64)
    keys, index = np.unique(patients, return_inverse=True)
    if min(len(np.unique(patients[labels == v])) for v in (0.0, 1.0)) < 2:
        raise ValueError("calibration needs at least two patients of either label")
    slope, intercept = _platt(logits, labels, weights)
    rng = np.random.default_rng(seed)
    draws: list[tuple[float, float]] = []
    while len(draws) < BOOTSTRAPS:
        times = rng.multinomial(len(keys), np.full(len(keys), 1.0 / len(keys)))[index]
        drawn = weights * times
        if drawn[labels == 1].sum() > 0 and drawn[labels == 0].sum() > 0:
            a, b = _refit(logits, labels, drawn, slope, intercept)
            draws.append((round(a, 4), round(b, 4)))
    return PlattMap(slope, intercept, tuple(draws), len(keys), len(np.unique(patients[labels == 1])))


def _platt(logits: Floats, labels: Floats, weights: Floats) -> tuple[float, float]:
    # Only fitting needs scikit-learn; a server that starts does without its import of a second.
    from sklearn.linear_model import LogisticRegression

    used = weights > 0
    model = LogisticRegression(C=PRIOR_STRENGTH, max_iter=200)
    scale = weights[used] / weights[used].mean()
    model.fit(logits[used, None], labels[used], sample_weight=scale)
    # A negative slope would turn the model's ranking round on the strength of a small sample: then it says nothing.
    return max(0.0, float(model.coef_[0, 0])), float(model.intercept_[0])


def _refit(logits: Floats, labels: Floats, weights: Floats, slope: float, intercept: float) -> tuple[float, float]:
    """The same maximum by Newton's method from the fit on all patients: 200 of them in the time of one."""
    used = weights > 0
    x, y, w = logits[used], labels[used], weights[used] / weights[used].mean()
    a, b = slope, intercept
    for _ in range(12):
        p = 1.0 / (1.0 + np.exp(-np.clip(a * x + b, -40.0, 40.0)))
        error, curve = w * (y - p), w * p * (1.0 - p) + 1e-12
        gradient = np.array([(error * x).sum() - a / PRIOR_STRENGTH, error.sum()])
        cross = (curve * x).sum()
        hessian = np.array([[(curve * x * x).sum() + 1.0 / PRIOR_STRENGTH, cross], [cross, curve.sum()]])
        step = np.clip(np.linalg.solve(hessian, gradient), -2.0, 2.0)
        a, b = a + float(step[0]), b + float(step[1])
        if float(np.abs(step).max()) < 1e-5:
            break
    return max(0.0, a), b


def cross_fitted(
    logits: Floats, labels: Floats, patients: NDArray[np.int64], weights: Floats, *, folds: int = 5, seed: int = 0
) -> Floats:
    """Probabilities by maps fitted without the patient they are applied to: for figures that do not flatter."""
    keys, index = np.unique(patients, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(keys)) % folds
    out = np.zeros(len(logits))
    for number in range(folds):
        held = fold[index] == number
        rest = ~held
        if len(np.unique(labels[rest])) < 2:
            out[held] = float(np.average(labels[rest], weights=weights[rest]))
            continue
        slope, intercept = _platt(logits[rest], labels[rest], weights[rest])
        out[held] = 1.0 / (1.0 + np.exp(-np.clip(slope * logits[held] + intercept, -40.0, 40.0)))
    return out


def patterns_of(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset of a target's modalities."""
    return [
        tuple(m for bit, m in enumerate(modalities) if number >> bit & 1) for number in range(1, 2 ** len(modalities))
    ]
