"""Gradient-boosted trees as plain arrays: fitted with scikit-learn, kept and evaluated without it.

A forest is a table of nodes; a row walks it by looking at one number after another. Nothing of it is a pickle.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TREES, LEAVES = 200, 15
NODES = 2 * LEAVES - 1


class TreeTable(nn.Module):
    """TREES trees of at most LEAVES leaves; the answer is the sum of one leaf of each.

    feature, left, right (TREES, NODES) int32; threshold, value float32: at a node go left where the number is at most
    the threshold, or missing (NaN) and `missing_left`; a leaf's children are itself. All zero until trees are `put`.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    missing_left: Tensor
    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        shape = (TREES, NODES)
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int32))
        for name in ("threshold", "value"):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("missing_left", torch.zeros(shape, dtype=torch.bool))

    @torch.no_grad()
    def forward(self, table: Tensor) -> Tensor:
        """Numbers (B, F), NaN where missing -> (B,) sums of leaves."""
        trees = torch.arange(TREES, device=table.device)
        at = torch.zeros((len(table), TREES), dtype=torch.int64, device=table.device)
        for _ in range(LEAVES - 1):  # no path is longer
            x = table.gather(1, self.feature[trees, at].long())
            left = torch.where(x.isnan(), self.missing_left[trees, at], x <= self.threshold[trees, at])
            after = torch.where(left, self.left[trees, at], self.right[trees, at]).long()
            if torch.equal(after, at):
                break
            at = after
        return self.value[trees, at].double().sum(dim=1).float()

    @torch.no_grad()
    def put(self, nodes: dict[str, NDArray[np.generic]], share: float) -> None:
        """Take over fitted trees, their values times `share`."""
        for name, array in nodes.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.from_numpy(np.ascontiguousarray(array)).to(buffer.dtype))
        self.value.mul_(share)


def fit_trees(
    table: NDArray[np.float32], labels: NDArray[np.float64], *, seed: int = 0
) -> tuple[dict[str, NDArray[np.generic]], float]:
    """The nodes of boosted trees on these rows, and the log-odds they start from.

    Raises RuntimeError where the arrays do not answer as scikit-learn does, whose nodes are not a public interface.
    """
    # Only fitting needs scikit-learn; a server that starts does without its import of a second.
    from sklearn.ensemble import HistGradientBoostingClassifier

    usable = np.array([len(np.unique(c[np.isfinite(c)])) > 1 for c in table.T])
    place = np.flatnonzero(usable)
    model = HistGradientBoostingClassifier(
        learning_rate=0.06, max_iter=TREES, max_leaf_nodes=LEAVES, l2_regularization=1.0, random_state=seed
    )
    model.fit(table[:, usable], labels)
    shape = (TREES, NODES)
    out: dict[str, NDArray[np.generic]] = {
        "feature": np.zeros(shape, np.int32),
        "threshold": np.zeros(shape, np.float32),
        "left": np.tile(np.arange(NODES, dtype=np.int32), (TREES, 1)),
        "right": np.tile(np.arange(NODES, dtype=np.int32), (TREES, 1)),
        "missing_left": np.zeros(shape, np.bool_),
        "value": np.zeros(shape, np.float32),
    }
    for number, (tree,) in enumerate(model._predictors):
        for place_in_tree, node in enumerate(tree.nodes):
            if node["is_leaf"]:
                out["value"][number, place_in_tree] = node["value"]
                continue
            out["feature"][number, place_in_tree] = place[node["feature_idx"]]
            out["threshold"][number, place_in_tree] = _rounded_down(float(node["num_threshold"]))
            out["left"][number, place_in_tree] = node["left"]
            out["right"][number, place_in_tree] = node["right"]
            out["missing_left"][number, place_in_tree] = node["missing_go_to_left"]
    start = float(np.ravel(model._baseline_prediction)[0])
    check = TreeTable()
    check.put(out, 1.0)
    some = table[:256]
    ours = check(torch.from_numpy(some)).numpy() + start
    if not np.allclose(ours, model.decision_function(some[:, usable]), atol=1e-4):
        raise RuntimeError("the tree table does not answer as scikit-learn's trees do; was scikit-learn changed?")
    return out, start


def _rounded_down(threshold: float) -> np.float32:
    """So that a float32 is at most the rounded threshold exactly where it is at most the threshold."""
    near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf), dtype=np.float32)
