"""Figures against scikit-learn and against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.metrics import auprc, auroc, brier, difference, ece, figures, skill


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(2, 40), n=st.integers(4, 60))
def test_ranking_figures_agree_with_scikit_learn_whatever_the_ties_and_weights(seed: int, levels: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0.0, 1.0], rng.integers(0, 2, n - 2)])
    scores, weights = rng.integers(0, levels, n) / levels, rng.random(n) + 0.01
    assert auroc(labels, scores, weights) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    expected = average_precision_score(labels, scores, sample_weight=weights)
    assert auprc(labels, scores, weights) == pytest.approx(expected)


def test_auroc_counts_pairs_put_in_the_right_order() -> None:
    # Positives 0.9 and 0.4, negatives 0.5 and 0.1: three of four pairs are right.
    labels, scores = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.9, 0.4, 0.5, 0.1])
    assert auroc(labels, scores, np.ones(4)) == pytest.approx(0.75)


def test_calibration_error_is_the_weighted_gap_between_promise_and_outcome() -> None:
    # Ten bins of one case each; every promise is 0.1 off: 0.1 where it should be 0, 0.9 where it should be 1.
    labels = np.array([0.0] * 5 + [1.0] * 5)
    scores = np.where(labels == 1, 0.9, 0.1)
    assert ece(labels, scores, np.ones(10)) == pytest.approx(0.1)
    assert brier(labels, scores, np.ones(10)) == pytest.approx(0.01)


def test_the_interval_is_wider_when_cases_belong_to_few_patients() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400).astype(float)
    scores = labels + rng.normal(0, 1.5, 400)
    alone = figures(labels, scores, np.arange(400), resamples=300).auroc
    clustered_scores = np.repeat(scores[:40], 10)
    clustered = figures(np.repeat(labels[:40], 10), clustered_scores, np.repeat(np.arange(40), 10), resamples=300)
    assert clustered.patients == 40
    assert clustered.auroc.high - clustered.auroc.low > 2 * (alone.high - alone.low)


def test_a_score_has_no_advantage_over_itself() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 100).astype(float), rng.random(100)
    gain = difference(labels, scores, scores, np.arange(100), resamples=50)
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_skill_is_the_share_of_the_prevalences_brier_score_that_is_saved() -> None:
    # Prevalence 1/2 scores 0.25. (0.2**2 + 0.2**2 + 0.4**2 + 0.4**2) / 4 = 0.1, so 0.15 of 0.25 is saved.
    labels, scores = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.8, 0.2, 0.6, 0.4])
    assert skill(labels, scores, np.ones(4)) == pytest.approx(0.6)
    assert skill(labels, np.full(4, 0.5), np.ones(4)) == pytest.approx(0.0)
    assert skill(labels, 1.0 - scores, np.ones(4)) < 0.0


def test_probabilities_too_bold_by_half_have_a_reliability_slope_of_two_thirds_and_honest_ones_of_one() -> None:
    """Log odds 1.5 times the true ones: the slope that takes them back is 1 / 1.5 (Cox 1958)."""
    chance = np.random.default_rng(2)
    odds = chance.normal(0.0, 1.5, 20_000)
    labels = (chance.random(20_000) < 1.0 / (1.0 + np.exp(-odds))).astype(float)
    for boldness, expected in ((1.0, 1.0), (1.5, 1 / 1.5)):
        p = 1.0 / (1.0 + np.exp(-boldness * odds))
        found = figures(labels, p, np.arange(20_000), None, p, resamples=10)
        assert found.slope is not None
        assert found.intercept is not None
        assert found.slope.value == pytest.approx(expected, abs=0.03)
        assert found.intercept.value == pytest.approx(0.0, abs=0.05)


def test_probabilities_that_part_the_labels_have_no_slope() -> None:
    labels, p = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.8, 0.9])
    found = figures(labels, p, np.arange(4), None, p, resamples=20)
    assert found.slope is None
    assert found.skill is not None
    assert found.skill.value > 0.8
