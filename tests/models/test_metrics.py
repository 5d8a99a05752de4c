"""Figures against scikit-learn and against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.metrics import auprc, auroc, brier, difference, ece, figures


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
