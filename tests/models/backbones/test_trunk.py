"""A model whose films are read by a published network: one line of its preset, frozen, checked again with the model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace as replace_field
from pathlib import Path

import pytest
import torch
import yaml
from msgspec.structs import replace

from models.answers import Answerer
from models.backbones.convert import add
from models.backbones.extras import extra
from models.backbones.manifest import Backbone, Licence, accept_licences, sha256_of
from models.build import finish
from models.card import Card
from models.checkpoint import CheckpointError, load_checkpoint
from models.config import ConfigError, Recipe, load_preset
from models.contract import without
from models.data import Shard
from models.fusion import FusionModel
from models.predict import predict
from models.serving import Engine
from models.train import fit

LICENCE = Licence("made-up-terms", "research_only")


@pytest.fixture(scope="module")
def built(
    shards: dict[str, Shard], recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Card, FusionModel]]:
    """A checkpoint of the tiny preset with a randomly initialised Dinov2 as its trunk, six steps of training."""
    transformers = extra("transformers")
    folder = tmp_path_factory.mktemp("trunk")
    torch.manual_seed(2)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=70, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder / "published")
    (folder / "published" / "preprocessor_config.json").write_text(
        '{"size": {"height": 70, "width": 70}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    add(folder / "published", folder / "ours", name="small-dino", family="dinov2", licence=LICENCE)
    said = yaml.safe_load((Path(load_preset.__code__.co_filename).parent / "configs" / "tiny.yaml").read_text())
    said["image"]["backbone"] = str(folder / "ours")  # the one line
    (folder / "preset.yaml").write_text(yaml.safe_dump(said))
    accept_licences([LICENCE.name])
    plan = replace(recipe, preset=str(folder / "preset.yaml"))
    model = fit(plan, shards)
    yield folder, finish(plan, model, shards, folder / "checkpoint"), model
    accept_licences(())


def test_training_never_moves_the_published_network_and_a_checkpoint_brings_it_along(
    built: tuple[Path, Card, FusionModel], shards: dict[str, Shard]
) -> None:
    folder, card, model = built
    assert not any("trunk" in name for name in model.state_dict())
    assert sha256_of(folder / "checkpoint" / "backbone" / "model.safetensors") == sha256_of(
        folder / "ours" / "model.safetensors"
    )
    held = card.preset.image.backbone
    assert isinstance(held, Backbone)
    assert str(folder) not in repr(card.preset)  # a card does not tell where the site keeps its files
    shard = shards["generated"]
    rows = shard.rows("valid")[:6]
    stored = load_checkpoint(folder / "checkpoint")
    for name, logits in predict(stored.model, shard, rows).logits.items():
        torch.testing.assert_close(
            torch.from_numpy(logits), torch.from_numpy(predict(model, shard, rows).logits[name]), equal_nan=True
        )


def test_the_pixels_reach_the_answer_through_the_published_network(built: tuple[Path, Card, FusionModel]) -> None:
    encoder = built[2].image_encoder()
    assert encoder is not None
    one, other = torch.rand((2, 1, 1, 96, 96), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not torch.allclose(encoder.films(one), encoder.films(other))


def test_a_model_is_not_loaded_where_the_licence_of_its_network_is_not_accepted(
    built: tuple[Path, Card, FusionModel],
) -> None:
    accept_licences(())
    try:
        with pytest.raises(CheckpointError, match=r"small-dino.*ORDERSIGHT_ACCEPTED_LICENCES=made-up-terms"):
            load_checkpoint(built[0] / "checkpoint")
    finally:
        accept_licences([LICENCE.name])


def test_an_assessment_that_rests_on_a_film_says_what_the_licence_asks_for(
    built: tuple[Path, Card, FusionModel], shards: dict[str, Shard]
) -> None:
    shard = shards["generated"]
    both = next(int(r) for r in shard.rows() if shard.has("imaging")[r] and shard.has("labs")[r])
    stored = replace_field(load_checkpoint(built[0] / "checkpoint"), gate=None)
    with Engine(Answerer(stored), warm_up=False) as engine:
        film = engine.assess(shard.inputs(both), timeout=60.0)
        results = engine.assess(without(shard.inputs(both), "imaging"), timeout=60.0)
    assert "small-dino, licensed for research only (made-up-terms)" in film.notice
    assert results.notice == ""


def test_the_weights_of_another_network_beside_a_checkpoint_are_refused(
    built: tuple[Path, Card, FusionModel], tmp_path: Path
) -> None:
    shutil.copytree(built[0] / "checkpoint", tmp_path / "copy")
    path = tmp_path / "copy" / "backbone" / "model.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(CheckpointError, match="sha-256"):
        load_checkpoint(tmp_path / "copy")


def test_a_preset_without_convolutions_names_a_backbone(tmp_path: Path) -> None:
    said = yaml.safe_load((Path(load_preset.__code__.co_filename).parent / "configs" / "tiny.yaml").read_text())
    said["image"] = {"regions": 4}
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(ConfigError, match="channels and as many blocks, or a backbone"):
        load_preset(tmp_path / "preset.yaml")
