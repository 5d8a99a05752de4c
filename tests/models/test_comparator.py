"""The table that boosted trees see, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.comparator import SUMMARIES, boosted_scores, summarise
from models.data import Shard


def test_the_summaries_of_a_patient_are_those_of_its_results(shards: dict[str, Shard]) -> None:
    shard = shards["generated"]
    row = int(np.argmax(np.diff(shard.arrays["labs.offsets"])))
    labs = shard.inputs(row).signals["labs"]
    table = summarise(shard, np.array([row]))[0]
    width = len(SUMMARIES)
    measured = 0
    for index in range(len(shard.spec.labs)):
        mine = labs.code == index + 1
        found = table[index * width : (index + 1) * width]
        if not mine.any():
            assert np.isnan(found).all()
            continue
        values, ages = labs.values[mine, 0], labs.age_h[mine]
        oldest, newest = values[np.argmax(ages)], values[np.argmin(ages)]
        expected = [oldest, newest, values.min(), values.max(), values.mean(), len(values)]
        assert found == pytest.approx(expected, abs=1e-5)
        measured += 1
    assert measured > 10


def test_an_analyte_that_no_training_patient_has_is_left_out(shards: dict[str, Shard]) -> None:
    shard = shards["generated"]
    only = np.where(shard.arrays["labs.code"] > 3, 1, shard.arrays["labs.code"])
    poorer = Shard(shard.header, shard.spec, {**shard.arrays, "labs.code": only}, shard.digest)
    assert np.isfinite(boosted_scores(poorer, "finding.opacity", shard.rows("valid"))).all()


def test_trees_are_fitted_on_training_patients_only(shards: dict[str, Shard]) -> None:
    shard = shards["generated"]
    valid = shard.rows("valid")
    before = boosted_scores(shard, "finding.opacity", valid)
    labels = shard.arrays["labels"].copy()
    labels[valid] = 1.0 - labels[valid]
    turned = Shard(shard.header, shard.spec, {**shard.arrays, "labels": labels}, shard.digest)
    np.testing.assert_array_equal(boosted_scores(turned, "finding.opacity", valid), before)
