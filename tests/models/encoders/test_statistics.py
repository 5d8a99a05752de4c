"""The statistics of each analyte: right by hand, and the same whatever the order and whatever the padding."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoders.statistics import STATISTICS, statistics


def one(code: list[int], value: list[float], age_h: list[float], seen: list[bool] | None = None) -> torch.Tensor:
    shown = [True] * len(code) if seen is None else seen
    return statistics(
        torch.tensor([code]), torch.tensor([value]), torch.tensor([age_h]), torch.tensor([shown]), analytes=2
    )[0]


def test_what_is_said_of_three_results_is_what_a_hand_calculation_says() -> None:
    """Values 3, 1, 2 at 0, e - 1 and e**2 - 1 hours ago: log-hours 0, 1, 2. Mean 2, variance 2 / 3. Covariance of
    value and log-hours (3*0 + 1*1 + 2*2) / 3 - 2*1 = -1/3, variance of log-hours 2/3: slope (1/3) / (2/3 + 0.05).
    """
    found = dict(
        zip(STATISTICS, one([1, 1, 1], [3.0, 1.0, 2.0], [0.0, math.e - 1, math.e**2 - 1])[0].tolist(), strict=True)
    )
    expected = {
        "last": 3.0,
        "first": 2.0,
        "lowest": 1.0,
        "highest": 3.0,
        "mean": 2.0,
        "spread": math.sqrt(2 / 3),
        "slope": (1 / 3) / (2 / 3 + 0.05),
        "count": math.log(4),
        "newest": 0.0,
        "oldest": 2.0,
    }
    assert {k: round(v, 4) for k, v in found.items()} == {k: round(v, 4) for k, v in expected.items()}


def test_an_analyte_that_was_not_measured_has_no_statistics() -> None:
    found = one([1, 2], [0.5, 0.5], [1.0, 1.0], [True, False])
    assert bool(found[0].isfinite().all())
    assert bool(found[1].isnan().all())


def test_two_results_of_the_same_moment_are_one_as_far_as_the_last_is_asked_for() -> None:
    found = one([1, 1, 1], [4.0, 2.0, 9.0], [1.0, 1.0, 5.0])[0]
    assert (float(found[0]), float(found[1])) == (3.0, 9.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 300), padding=st.integers(0, 9))
def test_no_order_and_no_padding_moves_a_statistic_by_a_single_bit(seed: int, count: int, padding: int) -> None:
    rng = np.random.default_rng(seed)
    code, value = rng.integers(1, 3, count), rng.normal(0, 2, count).astype(np.float32)
    age = rng.choice([0.0, 1.5, 24.0, 700.0], count).astype(np.float32)
    order = rng.permutation(count + padding)
    junk = [np.nan, np.inf, -7.0]
    padded = [
        np.concatenate([a, np.resize(np.array(b, a.dtype), padding)])[order]
        for a, b in ((code, [1, 99]), (value, junk), (age, junk), (np.ones(count, np.bool_), [False]))
    ]
    plain = [torch.from_numpy(a)[None] for a in (code, value, age, np.ones(count, np.bool_))]
    shuffled = [torch.from_numpy(np.ascontiguousarray(a))[None] for a in padded]
    first, second = statistics(*plain, analytes=2), statistics(*shuffled, analytes=2)  # type: ignore[misc]
    assert torch.equal(first.nan_to_num(), second.nan_to_num())
    assert torch.equal(first.isnan(), second.isnan())
