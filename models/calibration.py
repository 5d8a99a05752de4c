"""From logits to probabilities that mean what they say: Platt scaling per target and missing pattern, as plain numbers.

Fitted on predictions the towers were not trained on, then kept in `model.json`. Few patients hardly tell the slope, so
it is pulled towards one, the model's own word; how hard is chosen by cross-validation by patient. The interval is what
the calibration itself does not know: the same map fitted again on patients drawn anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BOOTSTRAPS = 200
FREE = 1e-4
"""Next to no pull: enough to keep a sample finite whose labels the logits part without overlap."""
PULLS = (FREE, 1.0, 4.0)
"""What is chosen from: a normal prior of the slope about one with standard deviation 100, 1 and 1/2."""


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
    logits: Floats,
    labels: Floats,
    patients: NDArray[np.int64],
    weights: Floats | None = None,
    *,
    pull: float | None = FREE,
    seed: int = 0,
) -> PlattMap:
    """Fit slope and intercept by penalised likelihood, and again on BOOTSTRAPS draws of the patients.

    pull  strength of the slope's prior about one; None chooses it from PULLS by cross-validation
    Raises ValueError with fewer than two patients of either label: there is nothing to calibrate on.
    """
    weights = np.ones(len(logits)) if weights is None else np.asarray(weights, np.float64)
    keys, index = np.unique(patients, return_inverse=True)
    if min(len(np.unique(patients[labels == v])) for v in (0.0, 1.0)) < 2:
        raise ValueError("calibration needs at least two patients of either label")
    strength = chosen_pull(logits, labels, patients, weights, seed=seed) if pull is None else pull
    slope, intercept = likeliest(logits, labels, weights, strength)
    rng = np.random.default_rng(seed)
    draws: list[tuple[float, float]] = []
    while len(draws) < BOOTSTRAPS:
        times = rng.multinomial(len(keys), np.full(len(keys), 1.0 / len(keys)))[index]
        drawn = weights * times
        if drawn[labels == 1].sum() > 0 and drawn[labels == 0].sum() > 0:
            a, b = likeliest(logits, labels, drawn, strength, (slope, intercept))
            draws.append((round(a, 4), round(b, 4)))
    return PlattMap(slope, intercept, tuple(draws), len(keys), len(np.unique(patients[labels == 1])))


def likeliest(
    logits: Floats, labels: Floats, weights: Floats, pull: float, start: tuple[float, float] = (1.0, 0.0)
) -> tuple[float, float]:
    """Slope and intercept of greatest penalised likelihood, by Newton's method.

    A negative slope would turn the model's ranking round on the strength of a small sample: then it is nought, and
    the intercept the log odds of the labels.
    """
    used = weights > 0
    x, y, w = logits[used], labels[used], weights[used] / weights[used].mean()
    sign = 1.0 - 2.0 * y

    def loss(a: float, b: float) -> float:
        return float((w * np.logaddexp(0.0, sign * (a * x + b))).sum()) + pull * (a - 1.0) ** 2 / 2.0

    a, b = start
    now = loss(a, b)
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(a * x + b, -40.0, 40.0)))
        error, curve = w * (y - p), w * p * (1.0 - p) + 1e-12
        gradient = np.array([(error * x).sum() - pull * (a - 1.0), error.sum()])
        cross = (curve * x).sum()
        hessian = np.array([[(curve * x * x).sum() + pull, cross], [cross, curve.sum()]])
        step = np.linalg.solve(hessian, gradient)
        # Far from the maximum a whole step may go past it, and then back and forth for ever; a step of bounded length
        # would not get there where the logits differ little.
        share, then = 1.0, loss(a + step[0], b + step[1])
        while then > now and share > 1e-4:
            share /= 2.0
            then = loss(a + share * step[0], b + share * step[1])
        a, b, now = a + share * float(step[0]), b + share * float(step[1]), then
        if share * float(np.abs(step).max()) < 1e-5:
            break
    if a > 0.0:
        return a, b
    share = float(np.average(y, weights=w))
    return 0.0, math.log(share / (1.0 - share))


def chosen_pull(
    logits: Floats, labels: Floats, patients: NDArray[np.int64], weights: Floats, *, seed: int = 0
) -> float:
    """The pull whose maps give patients they were not fitted on the greatest likelihood."""
    folds = list(_folds(patients, seed))

    def loss(pull: float) -> float:
        total = 0.0
        for held in folds:
            rest = ~held
            if len(np.unique(labels[rest])) == 2:
                a, b = likeliest(logits[rest], labels[rest], weights[rest], pull)
                odds_against = (1.0 - 2.0 * labels[held]) * (a * logits[held] + b)
                total += float((weights[held] * np.logaddexp(0.0, odds_against)).sum())
        return total

    return min(PULLS, key=loss)


def _folds(patients: NDArray[np.int64], seed: int, folds: int = 5) -> Iterable[NDArray[np.bool_]]:
    keys, index = np.unique(patients, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(keys)) % folds)[index]
    return (fold == number for number in range(folds))


def cross_fitted(
    logits: Mapping[str, Floats],
    served: NDArray[np.str_],
    labels: Floats,
    patients: NDArray[np.int64],
    weights: Floats,
    *,
    folds: int = 5,
    seed: int = 0,
) -> Floats:
    """Probabilities by maps fitted without the patient they are applied to: for figures that do not flatter.

    logits  by missing pattern, NaN where a case lacks one of its modalities; each pattern has a map of its own
    served  (n,) the pattern each case is answered under; NaN comes back for one that `logits` does not name
    """
    out = np.full(len(labels), np.nan)
    for held in _folds(patients, seed, folds):
        for name, z in logits.items():
            asked, known = held & (served == name), ~held & np.isfinite(z)
            if not asked.any():
                continue
            if len(np.unique(labels[known])) < 2:
                rest = known if known.any() else ~held
                out[asked] = float(np.average(labels[rest], weights=weights[rest]))
                continue
            pull = chosen_pull(z[known], labels[known], patients[known], weights[known], seed=seed)
            a, b = likeliest(z[known], labels[known], weights[known], pull)
            out[asked] = 1.0 / (1.0 + np.exp(-np.clip(a * z[asked] + b, -40.0, 40.0)))
    return out


def patterns_of(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset of a target's modalities."""
    return [
        tuple(m for bit, m in enumerate(modalities) if number >> bit & 1) for number in range(1, 2 ** len(modalities))
    ]
