"""What fusion has to beat: the best single modality under every pattern, and calibrated late fusion of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.calibration import Floats
from models.card import Attained
from models.heads import LinearHead, Pooled
from models.metrics import RESAMPLES, Estimated, Figures, auroc, bootstrap, difference, figures

Keys = NDArray[np.int64]
Fit = Callable[[Pooled, Floats, Keys, float], LinearHead]

REPEATS, FOLDS = 5, 5


def patient_folds(labels: Floats, patients: Keys, folds: int, seed: int) -> NDArray[np.int8]:
    """(n,) folds of whole patients, those ever positive spread evenly."""
    keys, index = np.unique(patients, return_inverse=True)
    ever = np.zeros(len(keys))
    np.maximum.at(ever, index, labels)
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(keys), np.int8)
    for value in (0.0, 1.0):
        these = rng.permutation(np.flatnonzero(ever == value))
        fold[these] = np.arange(len(these)) % folds
    return fold[index]


def late_fusion_scores(singles: Floats, labels: Floats, patients: Keys, weights: Floats) -> Floats:
    """Log odds of a logistic regression over single-modality logits (n, M), cross-fitted by patient."""
    fold = patient_folds(labels, patients, FOLDS, 0)
    out = np.zeros(len(labels))
    for number in range(FOLDS):
        held = fold == number
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e3, max_iter=500))
        model.fit(singles[~held], labels[~held], logisticregression__sample_weight=weights[~held])
        out[held] = model.decision_function(singles[held])
    return out


def pattern_margins(
    scores: Mapping[str, Floats], labels: Floats, patients: Keys, weights: Floats, resamples: int
) -> dict[str, Estimated]:
    """Per pattern of two or more: its AUROC less that of the best single modality in it, on the same cases."""
    single = {name: auroc(labels, score, weights) for name, score in scores.items() if "+" not in name}
    found: dict[str, Estimated] = {}
    for name, score in scores.items():
        parts = name.split("+")
        if len(parts) > 1 and all(p in single for p in parts):
            best = max(parts, key=single.__getitem__)
            found[name] = difference(labels, score, scores[best], patients, weights, resamples=resamples)
    return found


def attained(
    scores: Mapping[str, Floats], whole: str, optimal: Floats, labels: Floats, patients: Keys, resamples: int
) -> Attained:
    """How much of what the generator's own probability reaches is reached, on cases that hold all that decides."""
    ones = np.ones(len(labels))
    singles = {name: auroc(labels, s, ones) for name, s in scores.items() if "+" not in name}
    best = max(singles, key=singles.__getitem__)

    def shares(weights: Floats) -> tuple[float, float]:
        top, ours, alone = (auroc(labels, s, weights) for s in (optimal, scores[whole], scores[best]))
        return (ours - 0.5) / max(top - 0.5, 1e-6), (ours - alone) / max(top - alone, 1e-6)

    found = bootstrap(
        {
            "optimum": lambda w: auroc(labels, optimal, w),
            "above_chance": lambda w: shares(w)[0],
            "gain": lambda w: shares(w)[1],
        },
        patients,
        labels,
        resamples=resamples,
    )
    several = len(singles) > 1
    return Attained(len(labels), found["optimum"], found["above_chance"], found["gain"] if several else None)


# ------------------------------------------------------------------------------------ few patients, frozen towers


def repeated(
    fits: Mapping[str, Fit], pooled: Pooled, labels: Floats, patients: Keys, l2: float, *, repeats: int = REPEATS
) -> dict[str, Floats]:
    """Mean logit of every case over cross-validations by patient, each by heads that never saw the patient."""
    out = {name: np.zeros(len(labels)) for name in fits}
    for repeat in range(repeats):
        folds = patient_folds(labels, patients, FOLDS, repeat)
        for fold in range(FOLDS):
            held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            for name, fit in fits.items():
                head = fit(pooled.rows(rest), labels[rest], patients[rest], l2)
                out[name][held] += head.logits(pooled.rows(held), tuple(pooled.vectors)) / repeats
    return out


def repeated_tables(
    tables: Mapping[str, tuple[Floats, str]], labels: Floats, patients: Keys, *, repeats: int = REPEATS
) -> dict[str, Floats]:
    """The same for tables of numbers (NaN where missing), by `regression` or `trees`."""
    out = {name: np.zeros(len(labels)) for name in tables}
    for repeat in range(repeats):
        folds = patient_folds(labels, patients, FOLDS, repeat)
        for fold in range(FOLDS):
            held = folds == fold
            for name, (table, kind) in tables.items():
                # A column without a number in the training fold says nothing, and neither model takes it.
                usable = np.array([len(np.unique(c[np.isfinite(c)])) > 1 for c in table[~held].T])
                model = (
                    make_pipeline(
                        SimpleImputer(strategy="median", add_indicator=True),
                        StandardScaler(),
                        LogisticRegression(C=0.1),
                    )
                    if kind == "regression"
                    else HistGradientBoostingClassifier(
                        max_iter=60, max_leaf_nodes=7, learning_rate=0.06, random_state=0
                    )
                )
                model.fit(table[~held][:, usable], labels[~held])
                out[name][held] += model.decision_function(table[held][:, usable]) / repeats
    return out


def compared(
    scores: Mapping[str, Floats], labels: Floats, patients: Keys, rows: NDArray[np.bool_], resamples: int = RESAMPLES
) -> dict[str, Figures]:
    """The figures of each score on some of the cases."""
    return {
        name: figures(labels[rows], score[rows], patients[rows], resamples=resamples) for name, score in scores.items()
    }
