"""Probabilities that mean what they say, and intervals that own up to how few patients they rest on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from models.calibration import (
    FREE,
    Calibration,
    PlattMap,
    chosen_pull,
    cross_fitted,
    fit_platt,
    likeliest,
    pattern,
    patterns_of,
    sigmoid,
)


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


def test_without_a_pull_the_fit_is_the_logistic_regressions() -> None:
    logits, labels, _ = sample(500)
    expected = LogisticRegression(C=np.inf).fit(logits[:, None], labels)
    slope, intercept = likeliest(logits, labels, np.ones(500), FREE, (0.1, 0.0))
    assert slope == pytest.approx(float(expected.coef_[0, 0]), rel=1e-3)
    assert intercept == pytest.approx(float(expected.intercept_[0]), rel=1e-3)


def test_logits_that_hardly_differ_are_fitted_as_their_multiples_are() -> None:
    """Of the same ranking a thousand times narrower, the likeliest slope is a thousand times greater."""
    rng = np.random.default_rng(1)
    y = (rng.random(300) < 0.5).astype(np.float64)
    x = 2.0 * (y - 0.5) + rng.normal(0.0, 1.0, 300)
    wide = likeliest(x, y, np.ones(300), 0.0)
    narrow = likeliest(x / 1000.0, y, np.ones(300), 0.0)
    assert narrow == pytest.approx((1000.0 * wide[0], wide[1]), rel=1e-4)


def test_a_slope_held_at_one_moves_the_mean_probability_to_the_prevalence() -> None:
    logits, labels, _ = sample(500)
    slope, intercept = likeliest(logits, labels, np.ones(500), 1e9)
    assert slope == pytest.approx(1.0, abs=1e-6)
    assert np.mean([sigmoid(z + intercept) for z in logits]) == pytest.approx(labels.mean(), abs=1e-6)


def test_few_patients_are_calibrated_close_to_the_models_own_word_and_many_by_what_they_say() -> None:
    """Logits that mean what they say, of 40 patients; and logits four times too bold, of 4,000."""
    chance = np.random.default_rng(3)
    few = chance.normal(0.0, 1.0, 40)
    labels = (chance.random(40) < 1.0 / (1.0 + np.exp(-few))).astype(float)
    free, pulled = likeliest(few, labels, np.ones(40), FREE)[0], likeliest(few, labels, np.ones(40), 4.0)[0]
    assert abs(pulled - 1.0) < abs(free - 1.0)
    bold = chance.normal(0.0, 4.0, 4000)
    said = (chance.random(4000) < 1.0 / (1.0 + np.exp(-bold / 4.0))).astype(float)
    found = fit_platt(bold, said, np.arange(4000), pull=None)
    assert found.slope == pytest.approx(0.25, abs=0.02)
    assert chosen_pull(bold, said, np.arange(4000), np.ones(4000)) == FREE


def test_a_ranking_that_is_wrong_way_round_is_not_turned_round_but_says_nothing() -> None:
    logits, labels, patients = sample(400)
    found = fit_platt(-logits, labels, patients)
    assert found.slope == 0.0
    assert found.probability(5.0) == found.probability(-5.0) == pytest.approx(labels.mean())


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
    logits, labels = {"labs": np.zeros(10)}, np.array([1.0] + [0.0] * 9)
    found = cross_fitted(logits, np.full(10, "labs"), labels, np.arange(10), np.ones(10), folds=10)
    assert found[0] < 0.05  # the only positive, judged by nine negatives
    assert found[1] == pytest.approx(1 / 9, abs=0.03)


def test_each_missing_pattern_is_judged_by_a_map_of_its_own_and_a_case_without_evidence_by_none() -> None:
    """Results alone know nothing here and the film tells all: the answer to results alone is the prevalence."""
    chance = np.random.default_rng(5)
    labels = (np.arange(400) % 4 == 0).astype(float)
    logits = {"imaging": np.where(labels == 1, 2.0, -2.0) + chance.normal(0, 1, 400), "labs": chance.normal(0, 1, 400)}
    served = np.array((["imaging"] * 4 + ["labs"] * 4) * 49 + ["labs"] * 4 + [""] * 4)
    found = cross_fitted(logits, served, labels, np.arange(400), np.ones(400))
    assert np.isnan(found[served == ""]).all()
    assert np.abs(found[served == "labs"] - 0.25).max() < 0.15
    assert found[(served == "imaging") & (labels == 1)].mean() > 0.75


def test_patterns_are_named_the_same_in_any_order_and_cover_every_subset() -> None:
    assert pattern(["labs", "imaging"]) == pattern({"imaging", "labs"}) == "imaging+labs"
    assert {pattern(p) for p in patterns_of(("imaging", "labs"))} == {"imaging", "labs", "imaging+labs"}
    maps = {"t": {"labs": PlattMap(1.0, 0.0, ((1.0, 0.0),), 2, 1)}}
    assert Calibration(maps).find("t", {"labs"}) is not None
    assert Calibration(maps).find("t", {"imaging"}) is None


def test_extreme_logits_stay_probabilities() -> None:
    assert 0.0 < sigmoid(-1e9) < sigmoid(1e9) <= 1.0
    assert not math.isnan(PlattMap(3.0, 1.0, ((3.0, 1.0),), 2, 1).probability(1e300))
