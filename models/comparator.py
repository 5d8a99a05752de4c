"""The bar for results: gradient-boosted trees on a table of summaries, fitted on the same cases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from models.calibration import Floats
from models.data import Shard
from models.predict import context_of

SUMMARIES = ("first", "last", "lowest", "highest", "mean", "count")


def summarise(shard: Shard, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(len(rows), 6 A + 4): per analyte the SUMMARIES of its scaled values, NaN where unmeasured; age and sex."""
    analytes = len(shard.spec.labs)
    table = np.full((len(rows), analytes, len(SUMMARIES)), np.nan, np.float32)
    offsets = shard.arrays["labs.offsets"]
    for i, row in enumerate(rows):
        start, stop = offsets[row : row + 2]
        code = shard.arrays["labs.code"][start:stop] - 1
        value = shard.arrays["labs.values"][start:stop, 0]
        order = np.lexsort((-shard.arrays["labs.age_h"][start:stop], code))  # oldest first within an analyte
        code, value = code[order], value[order]
        starts = np.flatnonzero(np.diff(code, prepend=-1))
        if not len(starts):
            continue
        count = np.diff(np.append(starts, len(code)))
        table[i, code[starts]] = np.stack(
            [
                value[starts],
                value[starts + count - 1],
                np.minimum.reduceat(value, starts),
                np.maximum.reduceat(value, starts),
                np.add.reduceat(value, starts) / count,
                count,
            ],
            axis=1,
        )
    return np.concatenate([table.reshape(len(rows), -1), context_of(shard, rows)[:, :4]], axis=1)


def boosted_scores(shard: Shard, target: str, rows: NDArray[np.int64], *, seed: int = 0) -> Floats:
    """Scores for `rows` by trees fitted on the training rows of the same shard."""
    labels = shard.labels(target)
    train = shard.rows("train")
    train = train[np.isfinite(labels[train])]
    model = HistGradientBoostingClassifier(
        learning_rate=0.06, max_iter=200, max_leaf_nodes=15, l2_regularization=1.0, random_state=seed
    )
    table = summarise(shard, train)
    measured = np.isfinite(table).any(axis=0)  # a column without one number cannot be binned
    model.fit(table[:, measured], labels[train])
    return np.asarray(model.decision_function(summarise(shard, rows)[:, measured]), np.float64)
