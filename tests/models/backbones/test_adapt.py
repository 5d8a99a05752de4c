"""A site adapts a published network to its own films: it learns, and merged it is the same network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from models.adapt import ADAPTER, Adapter, Plan, adapt, adapted_net, merge
from models.backbones.convert import add
from models.backbones.extras import extra
from models.backbones.families import FAMILIES
from models.backbones.manifest import Backbone, BackboneError, Licence, read_manifest, sha256_of
from models.backbones.trunk import load_trunk, prepare
from models.data import Shard, ShardError

PLAN = Plan(target="finding.opacity", rank=8, alpha=32, steps=40, batch=32, rate=2e-2, seed=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The network is far too small for two, which wait for each other on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = extra("transformers")
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(4)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder / "published")
    (folder / "published" / "preprocessor_config.json").write_text(
        '{"size": {"height": 56, "width": 56}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    add(folder / "published", folder / "ours", name="small", family="dinov2", licence=Licence("mit", "commercial_ok"))
    return folder / "ours"


@pytest.fixture(scope="module")
def made(base: Path, shards: dict[str, Shard], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    out, losses = tmp_path_factory.mktemp("adapter"), list[float]()
    adapt(base, shards["generated"], PLAN, out, progress=lambda _step, _steps, loss: losses.append(loss))
    return out, losses


def test_adapting_lowers_the_loss_and_leaves_the_published_weights_alone(
    base: Path, made: tuple[Path, list[float]], shards: dict[str, Shard]
) -> None:
    out, losses = made
    assert losses[-1] < 0.8 * losses[0]
    assert sha256_of(base / "model.safetensors") == read_manifest(base).sha256
    said = msgspec.json.decode((out / ADAPTER).read_bytes(), type=Adapter)
    assert (said.base, said.shard) == (read_manifest(base).sha256, shards["generated"].digest)
    assert said.gain.low <= said.gain.value <= said.gain.high
    assert said.gain.value == pytest.approx(said.adapted.value - said.frozen.value, abs=2e-4)


def test_the_same_plan_gives_the_same_adapter(
    base: Path, made: tuple[Path, list[float]], shards: dict[str, Shard], tmp_path: Path
) -> None:
    short = msgspec.structs.replace(PLAN, steps=4)
    for run in ("one", "two"):
        adapt(base, shards["generated"], short, tmp_path / run)
    first, second = (sha256_of(tmp_path / run / "adapter.safetensors") for run in ("one", "two"))
    assert first == second != sha256_of(made[0] / "adapter.safetensors")


def test_a_merged_network_says_what_the_network_with_its_adapter_says(
    base: Path, made: tuple[Path, list[float]], tmp_path: Path
) -> None:
    film = torch.rand((3, 1, 96, 96), generator=torch.Generator().manual_seed(1))
    backbone, net, _ = adapted_net(base, made[0])
    with torch.no_grad():
        beside = FAMILIES["dinov2"].features(net, prepare(film, backbone))
    merged = merge(base, made[0], tmp_path / "merged")
    assert isinstance(merged, Backbone)
    assert merged.adapted_from == backbone.sha256
    assert merged.licence == backbone.licence
    found = load_trunk(tmp_path / "merged")(film)
    torch.testing.assert_close(found, beside, rtol=1e-4, atol=1e-5)
    assert float((found - load_trunk(base)(film)).abs().max()) > 1e-2  # and it is no longer the published one


def test_an_adapter_of_other_weights_is_refused(base: Path, made: tuple[Path, list[float]], tmp_path: Path) -> None:
    merge(base, made[0], tmp_path / "merged")
    with pytest.raises(BackboneError, match="adapt again"):
        adapted_net(tmp_path / "merged", made[0])


def test_a_damaged_adapter_is_refused(base: Path, made: tuple[Path, list[float]], tmp_path: Path) -> None:
    for file in made[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "adapter.safetensors").write_bytes(b"\0" + (tmp_path / "adapter.safetensors").read_bytes()[1:])
    with pytest.raises(BackboneError, match="copy both again"):
        adapted_net(base, tmp_path)


def test_a_target_with_too_few_films_is_not_learned_from(base: Path, shards: dict[str, Shard], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"finding\.pneumothorax has fewer than 10 films of either label"):
        adapt(base, shards["generated"], msgspec.structs.replace(PLAN, target="finding.pneumothorax"), tmp_path)


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "convnextv2_atto", "mobilenetv4_conv_small"])
def test_every_family_has_layers_that_are_adapted(model: str) -> None:
    net = extra("timm").create_model(model, pretrained=False, num_classes=0)
    found = [name for name, _ in net.named_modules() if name.endswith(tuple(f".{a}" for a in FAMILIES["timm"].adapt))]
    assert len(found) > 10
