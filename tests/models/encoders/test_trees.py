"""Trees as plain arrays answer as the library that fitted them, also where numbers are missing or on a threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from models.contract import FusionInput, InputSpec, Signal, Target, collate
from models.encoders import to_batch
from models.encoders.trees import LEAVES, TREES, TreeTable, fit_trees
from models.fusion import FusionModel

from ..conftest import make_input


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    table = np.round(rng.normal(0, 1, (count, 6)), 2).astype(np.float32)  # rounded: many ties on thresholds
    labels = (table[:, 0] * table[:, 1] + rng.normal(0, 0.5, count) > 0).astype(np.float64)
    table[rng.random(table.shape) < 0.2] = np.nan
    table[:, 5] = 1.0  # a column that says nothing
    return table, labels


def test_the_arrays_answer_as_scikit_learn_does_on_rows_neither_has_seen() -> None:
    table, labels = rows(1, 700)
    nodes, start = fit_trees(table, labels, seed=3)
    ours = TreeTable()
    ours.put(nodes, 1.0)
    theirs = HistGradientBoostingClassifier(
        learning_rate=0.06, max_iter=TREES, max_leaf_nodes=LEAVES, l2_regularization=1.0, random_state=3
    ).fit(table[:, :5], labels)
    fresh, _ = rows(2, 400)
    found = ours(torch.from_numpy(fresh)).numpy() + start
    np.testing.assert_allclose(found, theirs.decision_function(fresh[:, :5]), atol=1e-5)


@pytest.fixture(scope="module")
def boosted(spec: InputSpec, preset: object) -> FusionModel:
    """A model with fitted trees for a target on results alone."""
    import msgspec

    mine = msgspec.structs.replace(spec, targets=(*spec.targets, Target("labs", "labs", ("labs",), "made-up")))
    torch.manual_seed(1)
    model = FusionModel(mine, preset).eval()  # type: ignore[arg-type]
    model.add_trees(["labs"])
    rng = np.random.default_rng(0)
    table = rng.normal(0, 1, (600, len(spec.labs) * 10)).astype(np.float32)
    nodes, _ = fit_trees(table, (table[:, 4] + table[:, 12] > 0).astype(np.float64))
    encoder = model.labs_encoder()
    assert encoder is not None
    encoder.table(3).put(nodes, 1.0)
    return model


def total(model: FusionModel, *inputs: FusionInput) -> np.ndarray:
    with torch.inference_mode():
        return model(to_batch(collate(inputs))).total.numpy()


def test_trees_move_their_own_target_and_no_other(boosted: FusionModel) -> None:
    inputs = make_input(boosted.spec, 2)
    before = total(boosted, inputs)[0]
    encoder = boosted.labs_encoder()
    assert encoder is not None
    kept = encoder.table(3).value.clone()
    encoder.table(3).value.zero_()
    after = total(boosted, inputs)[0]
    encoder.table(3).value.copy_(kept)
    np.testing.assert_array_equal(before[:3], after[:3])
    assert abs(before[3] - after[3]) > 0.1


def test_without_results_the_trees_are_silent(boosted: FusionModel) -> None:
    inputs = make_input(boosted.spec, 2, seen=frozenset({"imaging"}))
    encoded = boosted.encode(to_batch(collate([inputs, make_input(boosted.spec, 3)])))
    votes = encoded["labs"].votes
    assert votes is not None
    assert float(votes[0].abs().sum()) == 0.0
    assert float(votes[1].abs().sum()) > 0.0


def test_the_order_of_results_cannot_send_a_row_down_another_branch(boosted: FusionModel) -> None:
    for seed in range(30):
        plain = make_input(boosted.spec, seed, results=40)
        labs, order = plain.signals["labs"], np.random.default_rng(seed).permutation(40)
        mixed = Signal(labs.code[order], labs.values[order], labs.age_h[order], labs.seen[order])
        shuffled = FusionInput({**plain.signals, "labs": mixed})
        np.testing.assert_allclose(total(boosted, shuffled), total(boosted, plain), atol=1e-5)


def test_trees_are_refused_for_a_target_that_rests_on_more_than_results(boosted: FusionModel) -> None:
    with pytest.raises(ValueError, match="results alone"):
        boosted.add_trees(["both"])
