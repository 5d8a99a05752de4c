"""Cases that a target is judged on, and the scores of whoever does without the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.calibration import Floats, cross_fitted, pattern, patterns_of
from models.contract import Target
from models.data import Shard
from models.metrics import Estimated
from models.predict import Predictions, context_of


@dataclass(frozen=True, slots=True)
class Judged:
    """The cases a target is judged on: rows of one shard, their labels, and logits under every pattern.

    baseline  scores of logistic regressions without any evidence, by name, fitted on other patients
    rivals    where few patients let heads be fitted many times: the scores of each way to answer, by name
    head      which of them ships, and `over_late` its AUROC less that of calibrated late fusion
    """

    target: Target
    shard: Shard
    predictions: Predictions
    column: int
    labels: Floats
    baseline: Mapping[str, Floats]
    how: str
    folded: bool = False
    rivals: Mapping[str, Floats] = field(default_factory=dict)
    head: str | None = None
    over_late: Estimated | None = None

    @property
    def patients(self) -> NDArray[np.int64]:
        return self.shard.patient[self.predictions.rows]

    @property
    def weights(self) -> Floats:
        return self.shard.weight[self.predictions.rows].astype(np.float64)

    @property
    def used(self) -> NDArray[np.bool_]:
        """Cases with at least one of the target's modalities: on the others the model abstains."""
        return np.asarray(np.any([self.predictions.has[m] for m in self.target.modalities], axis=0))

    def probabilities(self) -> Floats:
        """(n,) as served, by the map of what each case has, fitted without its patient; NaN where it is not `used`."""
        names = tuple(self.target.modalities)
        _, served = self.predictions.as_served(names, self.column)
        known = {pattern(p) for p in patterns_of(names)} & self.predictions.logits.keys()
        logits = {n: self.predictions.logits[n][:, self.column].astype(np.float64) for n in sorted(known)}
        return cross_fitted(logits, served, self.labels, self.patients, self.weights)


def judge_on_valid(target: Target, shard: Shard, predictions: Predictions) -> Judged:
    """On the validation split, patients that no weight has seen."""
    everyone = shard.labels(target.name)
    predictions = predictions.only(np.isfinite(everyone[predictions.rows]))
    labels = everyone[predictions.rows].astype(np.float64)
    train = shard.rows("train")
    train = train[np.isfinite(everyone[train])]
    fitted = {
        name: _without_evidence(shard, train, predictions.rows, target.name, columns)
        for name, columns in baseline_columns(shard).items()
        if len(np.unique(everyone[train])) == 2 and len(predictions.rows)
    }
    column = shard.spec.target_names().index(target.name)
    return Judged(target, shard, predictions, column, labels, fitted, "validation split: patients no weight has seen")


def baseline_columns(shard: Shard) -> dict[str, tuple[str, ...]]:
    """The two rivals without evidence: who the patient is, and that plus the circumstances of the film."""
    found: dict[str, tuple[str, ...]] = {"age and sex": ("age", "sex")}
    if "ap" in shard.header.confounders:
        found["age, sex, projection, place in the series"] = ("age", "sex", *shard.header.confounders)
    return found


def design(shard: Shard, rows: NDArray[np.int64], columns: Sequence[str]) -> Floats:
    """Columns for a baseline: age with its square, sex, and confounders by name."""
    context = context_of(shard, rows).astype(np.float64)
    parts: list[Floats] = []
    if "age" in columns:
        parts += [context[:, 0], context[:, 0] ** 2, context[:, 1]]
    if "sex" in columns:
        parts += [context[:, 2], context[:, 3]]
    parts += [shard.confounder(c)[rows].astype(np.float64) for c in columns if c not in ("age", "sex")]
    return np.stack(parts, axis=1)


def _without_evidence(
    shard: Shard, fit_rows: NDArray[np.int64], rows: NDArray[np.int64], target: str, columns: Sequence[str]
) -> Floats:
    labels = shard.labels(target)[fit_rows]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=500))
    model.fit(design(shard, fit_rows, columns), labels)
    return np.asarray(model.decision_function(design(shard, rows, columns)), np.float64)


def baselines_by_fold(shard: Shard, rows: NDArray[np.int64], target: str) -> dict[str, Floats]:
    """The same rivals cross-validated by the source's own folds."""
    out: dict[str, Floats] = {}
    folds = shard.fold[rows]
    for name, columns in baseline_columns(shard).items():
        scores = np.zeros(len(rows))
        for fold in np.unique(folds):
            held = folds == fold
            scores[held] = _without_evidence(shard, rows[~held], rows[held], target, columns)
        out[name] = scores
    return out
