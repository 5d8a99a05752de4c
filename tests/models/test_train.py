"""Training: the same seed gives the same weights, broken off or not, and what is frozen stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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


EVIDENCE = [[1.0, 2.0], [0.5, -1.0], [2.0, 0.0], [-1.0, 1.0], [0.2, 0.1], [3.0, -2.0]]
LABELS = [1.0, float("nan"), 0.0, float("nan"), 1.0, 1.0]
"""Of every second row, from the second on, one label of three is known: a mean of means would weigh it double."""

PART_OF_A_LOSS = """
import sys, torch, torch.distributed as dist
from models.train import masked_bce
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
evidence, labels = (x[rank::2] for x in torch.load(f"{folder}/rows.pt"))
weight = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
masked_bce((evidence @ weight)[:, None], labels[:, None], ~torch.isnan(labels[:, None])).backward()
dist.all_reduce(weight.grad)
torch.save(weight.grad / 2, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_weigh_every_known_label_alike(tmp_path: Path) -> None:
    evidence, labels = torch.tensor(EVIDENCE), torch.tensor(LABELS)
    torch.save((evidence, labels), tmp_path / "rows.pt")
    started = [subprocess.Popen([sys.executable, "-c", PART_OF_A_LOSS, str(r), str(tmp_path)]) for r in (0, 1)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    weight = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
    masked_bce((evidence @ weight)[:, None], labels[:, None], ~torch.isnan(labels[:, None])).backward()
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), weight.grad)


def test_torchrun_trains_one_checkpoint_with_two_processes_and_logs_it(
    shards_folder: Path, recipe: Recipe, tmp_path: Path
) -> None:
    named = msgspec.structs.replace(recipe, phases=(msgspec.structs.replace(recipe.phases[0], steps=3),))
    (tmp_path / "mine.yaml").write_bytes(msgspec.yaml.encode(named))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / recipe.name).symlink_to(shards_folder, target_is_directory=True)
    said = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
         str(Path(sys.executable).parent / "cds-service"), "train", str(tmp_path / "mine.yaml"), "--threads", "1",
         "--shards", str(tmp_path / "shards"), "--out", str(tmp_path / "out"), "--tensorboard", str(tmp_path / "log")],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-2000:]
    assert load_checkpoint(tmp_path / "out").card.recipe == named
    log = EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    assert {event.step for event in log.Scalars("loss/all")} == {1, 3}
