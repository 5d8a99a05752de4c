"""Probabilities that mean what they say, and intervals that own up to how few patients they rest on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from models.calibration import Calibration, PlattMap, _refit, cross_fitted, fit_platt, pattern, patterns_of, sigmoid


def sample(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits twice as bold as the truth and one too high: P(y) = sigmoid(0.5 z - 0.5)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 2.0, n)
    labels = (rng.random(n) < 1.0 / (1.0 + np.exp(-(0.5 * logits - 0.5)))).astype(float)
    return logits, labels, np.arange(n)


def test_an_overbold_model_is_taken_back_to_the_truth() -> None:
    found = fit_platt(*sample(20_000))
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.intercept == pytest.approx(-0.5, abs=0.05)
    assert found.probability(1.0) == pytest.approx(0.5, abs=0.02)  # 0.5 * 1 - 0.5 = 0


def test_the_interval_holds_the_probability_and_narrows_with_patients() -> None:
    few, many = fit_platt(*sample(60)), fit_platt(*sample(6_000))
    for found in (few, many):
        low, high = found.interval(1.5)
        assert 0.0 <= low <= found.probability(1.5) <= high <= 1.0
    assert few.interval(1.5)[1] - few.interval(1.5)[0] > 4 * (many.interval(1.5)[1] - many.interval(1.5)[0])


def test_a_draw_of_all_patients_once_is_the_fit_itself() -> None:
    logits, labels, _ = sample(500)
    expected = LogisticRegression(C=1e4).fit(logits[:, None], labels)
    slope, intercept = _refit(logits, labels, np.ones(500), 0.1, 0.0)
    assert slope == pytest.approx(float(expected.coef_[0, 0]), rel=1e-3)
    assert intercept == pytest.approx(float(expected.intercept_[0]), rel=1e-3)


def test_a_ranking_that_is_wrong_way_round_is_not_turned_round_but_says_nothing() -> None:
    logits, labels, patients = sample(400)
    found = fit_platt(-logits, labels, patients)
    assert found.slope == 0.0
    assert found.probability(5.0) == found.probability(-5.0)


def test_sampled_cases_count_for_what_they_stand_for() -> None:
    # Every negative stands for ten: the share of positives falls from one half to one in eleven.
    logits, labels = np.zeros(400), np.array([1.0, 0.0] * 200)
    weights = np.where(labels == 1, 1.0, 10.0)
    found = fit_platt(logits, labels, np.arange(400), weights)
    assert found.probability(0.0) == pytest.approx(1 / 11, abs=0.005)


def test_one_patient_of_a_label_is_nothing_to_calibrate_on() -> None:
    with pytest.raises(ValueError, match="two patients"):
        fit_platt(np.arange(4.0), np.array([1.0, 1.0, 0.0, 0.0]), np.array([7, 7, 1, 2]))


def test_cross_fitted_probabilities_do_not_know_their_own_patient() -> None:
    logits, labels = np.zeros(10), np.array([1.0] + [0.0] * 9)
    found = cross_fitted(logits, labels, np.arange(10), np.ones(10), folds=10)
    assert found[0] < 0.05  # the only positive, judged by nine negatives
    assert found[1] == pytest.approx(1 / 9, abs=0.03)


def test_patterns_are_named_the_same_in_any_order_and_cover_every_subset() -> None:
    assert pattern(["labs", "imaging"]) == pattern({"imaging", "labs"}) == "imaging+labs"
    assert {pattern(p) for p in patterns_of(("imaging", "labs"))} == {"imaging", "labs", "imaging+labs"}
    maps = {"t": {"labs": PlattMap(1.0, 0.0, ((1.0, 0.0),), 2, 1)}}
    assert Calibration(maps).find("t", {"labs"}) is not None
    assert Calibration(maps).find("t", {"imaging"}) is None


def test_extreme_logits_stay_probabilities() -> None:
    assert 0.0 < sigmoid(-1e9) < sigmoid(1e9) <= 1.0
    assert not math.isnan(PlattMap(3.0, 1.0, ((3.0, 1.0),), 2, 1).probability(1e300))
