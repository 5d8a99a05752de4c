"""Training: the same seed gives the same weights, broken off or not, and what is frozen stays."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from models import train
from models.build import train as train_checkpoint
from models.checkpoint import load_checkpoint
from models.config import ConfigError, Phase, Recipe, load_preset, load_recipe
from models.data import Shard, ShardError
from models.fusion import FusionModel
from models.train import fit, frozen, masked_bce


def same(a: FusionModel, b: FusionModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(shards: dict[str, Shard], recipe: Recipe) -> None:
    first = fit(recipe, shards)
    assert same(first, fit(recipe, shards))
    assert not same(first, fit(msgspec.structs.replace(recipe, seed=10), shards))


def test_a_run_broken_off_and_taken_up_again_ends_where_an_unbroken_one_does(
    shards: dict[str, Shard], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 2)

    class PowerCut(Exception):
        pass

    def cut(_phase: str, step: int, _steps: int, _loss: float) -> None:
        if step == 6:
            raise PowerCut

    with pytest.raises(PowerCut):
        fit(recipe, shards, state=tmp_path, progress=cut)
    assert (tmp_path / "state.safetensors").exists()
    steps: list[int] = []
    resumed = fit(recipe, shards, state=tmp_path, progress=lambda _p, step, _s, _l: steps.append(step))
    assert steps == [6]  # steps 5 and 6 were left to do; progress is told of the last
    assert same(resumed, fit(recipe, shards))
    # The towers stay until a checkpoint holds them: a run broken off while judging trains nothing anew.
    steps.clear()
    assert same(resumed, fit(recipe, shards, state=tmp_path, progress=lambda _p, step, _s, _l: steps.append(step)))
    assert steps == []
    train.forget(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_state_of_another_recipe_is_not_taken_up(shards: dict[str, Shard], recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"recipe": "something else", "phase": 0, "step": 2}')
    with pytest.raises(ShardError, match="another recipe"):
        fit(recipe, shards, state=tmp_path)


def test_a_frozen_tower_keeps_its_weights_and_the_rest_learns(shards: dict[str, Shard], recipe: Recipe) -> None:
    phase = msgspec.structs.replace(recipe.phases[0], freeze=("imaging", "fusion"))
    start = fit(msgspec.structs.replace(recipe, phases=()), shards).state_dict()
    end = fit(msgspec.structs.replace(recipe, phases=(phase,)), shards).state_dict()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert not [name for name in moved if frozen(name, ("imaging", "fusion"))]
    assert any(name.startswith("encoders.labs") for name in moved)


def test_unknown_labels_cost_nothing_and_teach_nothing() -> None:
    logits = torch.tensor([[0.3, -2.0]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")]])
    loss = masked_bce(logits, labels, ~torch.isnan(labels))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.554355, abs=1e-5)  # -ln(1 / (1 + e^-0.3))
    assert float(logits.grad[0, 1]) == 0.0


def test_a_trained_checkpoint_is_written_whole_and_can_be_served(
    shards_folder: Path, recipe: Recipe, tmp_path: Path
) -> None:
    card = train_checkpoint(recipe, shards_folder, tmp_path / "out")
    stored = load_checkpoint(tmp_path / "out")
    assert stored.card == card
    assert set(card.targets) == set(card.spec.target_names())
    assert card.sources[0].cases == {"train": 64, "valid": 32}  # every third of 96


def test_a_recipe_asking_for_a_shard_that_is_not_there_says_which(shards: dict[str, Shard], recipe: Recipe) -> None:
    phase = Phase(name="x", sources={"elsewhere": 1.0}, steps=1, batch=2, rate=1e-3)
    with pytest.raises(ShardError, match="no shard of elsewhere"):
        fit(msgspec.structs.replace(recipe, phases=(phase,)), shards)


def test_the_recipes_in_the_package_can_be_read() -> None:
    assert load_recipe("chest-open").tier == "open"
    assert load_recipe("chest-generated").tier == "generated"
    assert {load_recipe(n).preset for n in ("chest-open", "chest-generated")} == {"small", "tiny"}


def test_a_misspelt_key_in_a_preset_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nwidht: 64\n")
    with pytest.raises(ConfigError, match="widht"):
        load_preset(path)
    with pytest.raises(ConfigError, match="no preset or recipe 'nowhere'"):
        load_preset("nowhere")


def test_the_average_leaves_an_untrained_start_behind_at_once(model: FusionModel) -> None:
    average = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    train._follow(average, model, ema=0.998, step=0)
    value = model.state_dict()["queries"]
    torch.testing.assert_close(average["queries"], 0.9 * value)  # keeps (1 + 0) / (10 + 0) of what was there
    train._follow(average, model, ema=0.998, step=100_000)
    torch.testing.assert_close(average["queries"], (1 - 0.1 * 0.998) * value)
