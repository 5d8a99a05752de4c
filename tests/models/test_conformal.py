"""Conformal sets on made-up patients whose true probabilities are known."""

from __future__ import annotations

import numpy as np
import pytest

from models.conformal import conformal_sets, coverage_of


def cohort(cases: int, seed: int, base: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, labels drawn from them, and patients of two cases each; `base` moves how rare the label is."""
    chance = np.random.default_rng(seed)
    logits = base + 2.0 * chance.standard_normal(cases)
    p = 1.0 / (1.0 + np.exp(-logits))
    return p, (chance.random(cases) < p).astype(float), np.arange(cases) // 2


def test_the_rare_answer_is_covered_as_often_as_the_common_one() -> None:
    p, labels, patients = cohort(8000, 1, base=-2.5)
    assert labels.mean() < 0.2
    sets = conformal_sets(p, labels, patients, confidence=0.9)
    found = coverage_of(sets, labels, patients, {})
    # The theory promises 0.9 in either class; 0.02 is three standard errors of the rarer one.
    for name in ("all", "with", "without"):
        assert found[name].covered.value == pytest.approx(0.9, abs=0.02)


def test_a_model_that_knows_nothing_rules_almost_nothing_out_and_still_keeps_its_promise() -> None:
    chance = np.random.default_rng(2)
    p, labels = chance.random(4000), (chance.random(4000) < 0.5).astype(float)
    found = coverage_of(conformal_sets(p, labels, np.arange(4000)), labels, np.arange(4000), {})["all"]
    assert found.covered.value == pytest.approx(0.9, abs=0.02)
    # Of p uniform, one answer is ruled out below 0.1 and the other above 0.9: a fifth is decided, half of it rightly.
    assert found.decided == pytest.approx(0.2, abs=0.03)
    assert found.right == pytest.approx(0.5, abs=0.06)


def test_a_subgroup_that_differs_shows_its_own_coverage_and_a_small_one_is_not_shown() -> None:
    p, labels, patients = cohort(6000, 3, base=0.0)
    odd = np.arange(6000) < 1000
    labels[odd] = 1.0 - labels[odd]  # the model is wrong about this thousand, and right about the others
    sets = conformal_sets(p, labels, patients)
    found = coverage_of(sets, labels, patients, {"odd": odd, "others": ~odd, "few": np.arange(6000) < 199})
    assert "few" not in found
    assert found["odd"].covered.high < 0.85
    assert found["others"].covered.low > 0.92


def test_too_few_cases_to_promise_nine_in_ten_are_refused() -> None:
    p, labels, patients = cohort(400, 4, base=0.0)
    labels[:] = 0.0
    labels[:4] = 1.0
    with pytest.raises(ValueError, match="too few"):
        conformal_sets(p, labels, patients)
