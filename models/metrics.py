"""Discrimination and calibration with confidence intervals from drawing patients anew."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.calibration import FREE, Floats, likeliest

RESAMPLES = 1000
BINS = 15
HELD = 1e9
"""A pull that holds the slope at one."""


class Estimated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure with its 95 % interval (2.5th and 97.5th percentile over RESAMPLES draws of the patients)."""

    value: float
    low: float
    high: float


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model on one set of cases; from `brier` on of cross-fitted probabilities, None for a bare score.

    skill      share of the Brier score of always answering the prevalence that is saved; below nought it does harm
    slope      of the labels' log odds on those of the probabilities (Cox 1958): below one they are too bold; None
               where labels and probabilities part without overlap, so that no slope is the likeliest
    intercept  log odds the labels lie above the probabilities, the slope held at one: calibration in the large
    """

    cases: int
    patients: int
    positives: int
    prevalence: float
    auroc: Estimated
    auprc: Estimated
    brier: Estimated | None = None
    ece: Estimated | None = None
    skill: Estimated | None = None
    slope: Estimated | None = None
    intercept: Estimated | None = None


class Ranked:
    """Cases sorted once by score, so that each draw of patients costs two cumulative sums.

    Equal to scikit-learn's roc_auc_score and average_precision_score with sample weights, ties included.
    """

    def __init__(self, labels: Floats, scores: Floats) -> None:
        self.order = np.argsort(-scores, kind="stable")
        self.labels = labels[self.order] == 1
        ranked = scores[self.order]
        self.ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        """The last case of each run of equal scores."""

    def _counts(self, weights: Floats) -> tuple[Floats, Floats]:
        w = weights[self.order]
        positive = np.cumsum(w * self.labels)[self.ends]
        return positive, np.cumsum(w * ~self.labels)[self.ends]

    def auroc(self, weights: Floats) -> float:
        positive, negative = self._counts(weights)
        steps = np.diff(negative, prepend=0.0)
        height = (positive + np.concatenate([[0.0], positive[:-1]])) / 2.0
        return float((steps * height).sum() / (positive[-1] * negative[-1]))

    def auprc(self, weights: Floats) -> float:
        positive, negative = self._counts(weights)
        shown = positive + negative
        precision = np.divide(positive, shown, out=np.zeros_like(positive), where=shown > 0)
        return float((np.diff(positive, prepend=0.0) * precision).sum() / positive[-1])


def auroc(labels: Floats, scores: Floats, weights: Floats) -> float:
    return Ranked(labels, scores).auroc(weights)


def auprc(labels: Floats, scores: Floats, weights: Floats) -> float:
    return Ranked(labels, scores).auprc(weights)


def brier(labels: Floats, scores: Floats, weights: Floats) -> float:
    return float(np.average((scores - labels) ** 2, weights=weights))


def skill(labels: Floats, scores: Floats, weights: Floats) -> float:
    """Brier skill score against the prevalence of the same cases."""
    prevalence = float(np.average(labels, weights=weights))
    return 1.0 - brier(labels, scores, weights) / (prevalence * (1.0 - prevalence))


def log_odds(probabilities: Floats) -> Floats:
    p = np.clip(probabilities, 1e-9, 1.0 - 1e-9)
    return np.asarray(np.log(p / (1.0 - p)))


def ece(labels: Floats, scores: Floats, weights: Floats) -> float:
    """Expected calibration error over BINS bins of equal weight."""
    order = np.argsort(scores, kind="stable")
    y, p, w = labels[order], scores[order], weights[order]
    place = np.minimum((np.cumsum(w) - w / 2) / w.sum() * BINS, BINS - 1e-9).astype(int)
    total = 0.0
    for number in range(BINS):
        inside = place == number
        mass = w[inside].sum()
        if mass > 0:
            total += abs(float((w[inside] * (y[inside] - p[inside])).sum()))
    return total / float(w.sum())


def bootstrap(
    metrics: dict[str, Callable[[Floats], float]],
    patients: NDArray[np.int64],
    labels: Floats,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimated]:
    """Every metric, a function of case weights, with its interval; all on the same draws, so differences are paired."""
    keys, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(resamples):
        times = rng.multinomial(len(keys), np.full(len(keys), 1.0 / len(keys)))[index].astype(np.float64)
        if times[labels == 1].sum() == 0 or times[labels == 0].sum() == 0:
            continue
        for name, metric in metrics.items():
            found[name].append(metric(times))
    ones = np.ones(len(labels))
    return {
        name: Estimated(round(metric(ones), 4), *(round(float(x), 4) for x in np.percentile(found[name], (2.5, 97.5))))
        for name, metric in metrics.items()
    }


def figures(
    labels: Floats,
    scores: Floats,
    patients: NDArray[np.int64],
    weights: Floats | None = None,
    probabilities: Floats | None = None,
    *,
    resamples: int = RESAMPLES,
) -> Figures:
    """All figures of one score; `weights` restore the source's own proportions where cases were sampled."""
    w = np.ones(len(labels)) if weights is None else weights
    ranked = Ranked(labels, scores)
    metrics: dict[str, Callable[[Floats], float]] = {
        "auroc": lambda times: ranked.auroc(w * times),
        "auprc": lambda times: ranked.auprc(w * times),
    }
    if probabilities is not None:
        p = probabilities
        metrics["brier"] = lambda times: brier(labels, p, w * times)
        metrics["ece"] = lambda times: ece(labels, p, w * times)
        metrics["skill"] = lambda times: skill(labels, p, w * times)
        odds = log_odds(p)
        lifted, bent = likeliest(odds, labels, w, HELD), likeliest(odds, labels, w, FREE)
        metrics["intercept"] = lambda times: likeliest(odds, labels, w * times, HELD, lifted)[1]
        if p[labels == 1].min() <= p[labels == 0].max():
            metrics["slope"] = lambda times: likeliest(odds, labels, w * times, FREE, bent)[0]
    found = bootstrap(metrics, patients, labels, resamples=resamples)
    return Figures(
        cases=len(labels),
        patients=len(np.unique(patients)),
        positives=len(np.unique(patients[labels == 1])),
        prevalence=round(float(np.average(labels, weights=w)), 4),
        auroc=found["auroc"],
        auprc=found["auprc"],
        brier=found.get("brier"),
        ece=found.get("ece"),
        skill=found.get("skill"),
        slope=found.get("slope"),
        intercept=found.get("intercept"),
    )


def difference(
    labels: Floats,
    first: Floats,
    second: Floats,
    patients: NDArray[np.int64],
    weights: Floats | None = None,
    *,
    resamples: int = RESAMPLES,
) -> Estimated:
    """AUROC of the first score less that of the second, paired over the same draws of patients."""
    w = np.ones(len(labels)) if weights is None else weights
    one, other = Ranked(labels, first), Ranked(labels, second)
    metric = {"difference": lambda times: one.auroc(w * times) - other.auroc(w * times)}
    return bootstrap(metric, patients, labels, resamples=resamples)["difference"]
