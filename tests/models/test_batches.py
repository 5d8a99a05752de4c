"""Training batches: fixed shares, nobody left out, hidden modalities really hidden, films changed within bounds."""

from __future__ import annotations

import msgspec
import numpy as np
import torch

from models.augment import augment
from models.batches import Sampler
from models.config import Phase, Recipe, load_preset
from models.data import Shard
from models.fusion import FusionModel

CPU = torch.device("cpu")


def phase(**changes: object) -> Phase:
    plain = Phase(name="p", sources={"generated": 1.0}, steps=1, batch=16, rate=1e-3, drop_modality=0.0, augment=False)
    return msgspec.structs.replace(plain, **changes)


def test_every_training_patient_comes_once_before_any_comes_twice(shards: dict[str, Shard]) -> None:
    shard = shards["generated"]
    sampler, rows = Sampler(shards, phase(), 1), shard.rows("train")
    drawn = [sampler._rows(0, rows, step * 16, 16) for step in range(4)]  # 64 training patients, 4 batches of 16
    assert sorted(np.concatenate(drawn)) == sorted(rows)
    again = [sampler._rows(0, rows, step * 16, 16) for step in range(4, 8)]
    assert sorted(np.concatenate(again)) == sorted(rows)
    assert not np.array_equal(np.concatenate(drawn), np.concatenate(again))


def test_no_validation_patient_is_trained_on(shards: dict[str, Shard]) -> None:
    shard = shards["generated"]
    sampler = Sampler(shards, phase(), 1)
    assert not set(sampler.parts[0][1]) & set(shard.rows("valid"))


def test_a_step_can_be_made_without_those_before_it(shards: dict[str, Shard]) -> None:
    first, second = (
        Sampler(shards, phase(augment=True, drop_modality=0.5), 1),
        Sampler(shards, phase(augment=True, drop_modality=0.5), 1),
    )
    for number in range(3):
        first.step(number, CPU)
    one, other = first.step(3, CPU), second.step(3, CPU)
    for name in one.batch:
        torch.testing.assert_close(one.batch[name].values, other.batch[name].values, equal_nan=True)
        torch.testing.assert_close(one.batch[name].seen, other.batch[name].seen)


def test_hiding_leaves_at_least_one_modality_and_takes_at_least_one(shards: dict[str, Shard]) -> None:
    hidden = Sampler(shards, phase(drop_modality=1.0, drop_tokens=0.0), 1).step(0, CPU)
    shown = Sampler(shards, phase(drop_tokens=0.0), 1).step(0, CPU)
    names = ("imaging", "labs", "history", "genomics")
    before = torch.stack([shown.batch[n].seen.any(dim=1) for n in names]).sum(dim=0)
    after = torch.stack([hidden.batch[n].seen.any(dim=1) for n in names]).sum(dim=0)
    several = before > 1
    assert bool(several.any())
    assert bool((after[several] < before[several]).all())
    assert bool((after >= 1).all())


def test_attention_never_looks_at_more_results_of_a_row_than_a_step_may(shards: dict[str, Shard]) -> None:
    labs = Sampler(shards, phase(), 1).step(0, CPU).batch["labs"]
    encoder = FusionModel(shards["generated"].spec, load_preset("tiny")).labs_encoder()
    assert encoder is not None
    some = encoder._some(labs, 5)
    assert int(labs.seen.sum(dim=1).max()) > 5
    assert torch.equal(some.seen.sum(dim=1), labs.seen.sum(dim=1).clamp(max=5))


def test_a_changed_film_stays_a_film_and_every_film_changes_its_own_way(
    shards: dict[str, Shard], recipe: Recipe
) -> None:
    pixels = torch.from_numpy(shards["generated"].arrays["imaging.values"][:1].astype(np.float32) / 255.0)
    films = pixels.repeat(4, 1, 1, 1)
    changed = augment(films, torch.Generator().manual_seed(0))
    assert changed.shape == films.shape
    assert 0.0 <= float(changed.min()) <= float(changed.max()) <= 1.0
    assert not torch.equal(changed[0], changed[1])
    torch.testing.assert_close(changed, augment(films, torch.Generator().manual_seed(0)))
