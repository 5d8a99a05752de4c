"""Heads on frozen towers: fitted outside, said by the model, judged on patients they never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.contract import InputSpec, collate
from models.encoders import to_batch
from models.fusion import FusionModel
from models.heads import Pooled, cross_validate, fit_head, install

from .conftest import make_input


def cohort(n: int = 120, seed: int = 0) -> tuple[Pooled, np.ndarray, np.ndarray]:
    """Imaging carries the label, labs are noise, and some patients lack either."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(float)
    imaging = rng.normal(0.0, 1.0, (n, 6))
    imaging[:, 0] += 2.5 * labels
    seen = {"imaging": rng.random(n) < 0.8, "labs": rng.random(n) < 0.8}
    return Pooled({"imaging": imaging, "labs": rng.normal(0.0, 1.0, (n, 4))}, seen), labels, np.arange(n)


def test_the_model_says_what_the_fitted_head_says(model: FusionModel, spec: InputSpec) -> None:
    inputs = [make_input(spec, i, seen=frozenset({"imaging", "labs"} if i % 3 else {"labs"})) for i in range(30)]
    with torch.inference_mode():
        encoded = model.encode(to_batch(collate(inputs)))
    pooled = Pooled(
        {m: encoded[m].pooled.numpy().astype(float) for m in ("imaging", "labs")},
        {m: encoded[m].seen.numpy() for m in ("imaging", "labs")},
    )
    labels = np.tile([0.0, 1.0], 15)
    head = fit_head(pooled, labels, np.arange(30), l2=1.0)
    install(model, "both", head)
    with torch.inference_mode():
        said = model.fuse(encoded).total[:, spec.target_names().index("both")].numpy()
    np.testing.assert_allclose(said, head.logits(pooled, ("imaging", "labs")), atol=2e-3)


def test_a_held_out_patients_label_does_not_reach_its_own_logit() -> None:
    pooled, labels, patients = cohort()
    folds = (np.arange(len(labels)) % 5).astype(np.int8)
    before = cross_validate(pooled, labels, patients, folds, l2=1.0)
    turned = labels.copy()
    turned[folds == 2] = 1.0 - turned[folds == 2]
    after = cross_validate(pooled, turned, patients, folds, l2=1.0)
    for shown, logits in before.items():
        np.testing.assert_array_equal(logits[folds == 2], after[shown][folds == 2])
        assert not np.array_equal(logits[folds == 1], after[shown][folds == 1])


def test_a_modality_that_carries_nothing_hardly_matters() -> None:
    pooled, labels, patients = cohort(400)
    head = fit_head(pooled, labels, patients, l2=10.0)
    assert np.abs(head.weights["imaging"]).max() > 4 * np.abs(head.weights["labs"]).max()
    assert int(np.argmax(np.abs(head.weights["imaging"]))) == 0


def test_a_patient_with_many_films_counts_once() -> None:
    pooled, labels, patients = cohort(40)
    many = np.concatenate([np.arange(40), np.repeat(0, 200)])
    copied = fit_head(pooled.rows(many), labels[many], patients[many], l2=1.0)
    once = fit_head(pooled, labels, patients, l2=1.0)
    for m in ("imaging", "labs"):
        assert copied.weights[m] == pytest.approx(once.weights[m], abs=0.05)
