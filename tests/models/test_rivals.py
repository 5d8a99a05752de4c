"""What fusion is measured against: honest rivals, and the generator's own optimum."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.heads import Pooled, fit_head, fit_late, fit_one
from models.rivals import attained, late_fusion_scores, patient_folds, pattern_margins, repeated


def test_a_patient_is_in_one_fold_and_the_ill_are_spread_over_all() -> None:
    patients = np.repeat(np.arange(40), 3)
    labels = (patients < 10).astype(np.float64)
    folds = patient_folds(labels, patients, 5, 1)
    assert all(len(set(folds[patients == p])) == 1 for p in range(40))
    assert [len(np.unique(patients[(folds == f) & (labels == 1)])) for f in range(5)] == [2] * 5


def test_late_fusion_of_two_independent_hints_beats_either() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(2000) < 0.5).astype(np.float64)
    hints = (labels[:, None] - 0.5) + rng.normal(0, 1, (2000, 2))
    fused = late_fusion_scores(hints, labels, np.arange(2000), np.ones(2000))
    # Two normal hints of equal strength, distance 1: AUROC Phi(1 / sqrt 2) = 0.760 alone, Phi(1) = 0.841 together.
    assert roc_auc_score(labels, hints[:, 0]) == pytest.approx(0.760, abs=0.03)
    assert roc_auc_score(labels, fused) == pytest.approx(0.841, abs=0.025)


def test_the_share_attained_is_one_for_the_optimum_and_nought_for_the_best_single_modality() -> None:
    rng = np.random.default_rng(1)
    optimal = rng.choice([0.1, 0.5, 0.9], 3000)
    labels = (rng.random(3000) < optimal).astype(np.float64)
    hint = optimal + rng.normal(0, 0.6, 3000)
    patients = np.arange(3000)
    best = attained({"a": hint, "b": hint * 0.0, "a+b": optimal}, "a+b", optimal, labels, patients, 50)
    none = attained({"a": hint, "b": hint * 0.0, "a+b": hint}, "a+b", optimal, labels, patients, 50)
    assert best.above_chance.value == pytest.approx(1.0)
    assert best.gain is not None
    assert best.gain.value == pytest.approx(1.0)
    assert none.gain is not None
    assert none.gain.value == pytest.approx(0.0)
    assert 0.0 < none.above_chance.value < 1.0


def test_a_pattern_that_is_worse_than_its_best_part_is_shown_as_worse() -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random(800) < 0.4).astype(np.float64)
    good, noise = labels + rng.normal(0, 0.7, 800), rng.normal(0, 3.0, 800)
    scores = {"a": good, "b": noise, "a+b": good + noise}
    margins = pattern_margins(scores, labels, np.arange(800), np.ones(800), 100)
    assert set(margins) == {"a+b"}
    assert margins["a+b"].high < 0.0


@pytest.fixture(scope="module")
def pooled() -> tuple[Pooled, np.ndarray, np.ndarray]:
    """60 patients of two cases each; films know the label, results half of it and are missing in every third case."""
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(60), 2)
    labels = (patients % 2 == 0).astype(np.float64)
    vectors = {"imaging": rng.normal(0, 1, (120, 6)), "labs": rng.normal(0, 1, (120, 6))}
    vectors["imaging"][:, 0] += 2.0 * labels
    vectors["labs"][:, 0] += 1.0 * labels
    seen = {"imaging": np.ones(120, np.bool_), "labs": np.arange(120) % 3 > 0}
    return Pooled(vectors, seen), labels, patients


def test_late_fusion_of_heads_learns_from_both_modalities(pooled: tuple[Pooled, np.ndarray, np.ndarray]) -> None:
    encodings, labels, patients = pooled
    ways = {"late": fit_late, "joint": fit_head, "imaging": fit_one("imaging"), "labs": fit_one("labs")}
    scores = repeated(ways, encodings, labels, patients, 10.0, repeats=2)
    found = {name: roc_auc_score(labels, score) for name, score in scores.items()}
    assert found["late"] > 0.8
    assert found["late"] > found["labs"]


def test_chance_stays_chance_when_heads_never_see_the_patient(pooled: tuple[Pooled, np.ndarray, np.ndarray]) -> None:
    encodings, _, patients = pooled
    coin = (np.random.default_rng(5).random(60) < 0.5).astype(np.float64)[patients]
    score = repeated({"joint": fit_head}, encodings, coin, patients, 10.0, repeats=2)["joint"]
    assert 0.3 < roc_auc_score(coin, score) < 0.7
