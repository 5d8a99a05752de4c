"""Published networks are read in their publishers' formats bit for bit, or refused with what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.backbones.convert import add
from models.backbones.extras import extra
from models.backbones.manifest import (
    BackboneError,
    Licence,
    accept_licences,
    read_manifest,
    require_accepted,
    sha256_of,
    write_manifest,
)
from models.backbones.trunk import load_trunk

OPEN = Licence("apache-2.0", "commercial_ok")


@pytest.fixture(autouse=True)
def nothing_accepted() -> Iterator[None]:
    accept_licences(())
    yield
    accept_licences(())


def preprocessor(folder: Path, size: int) -> None:
    """As the folder of RAD-DINO has it, but for the size."""
    said = {
        "crop_size": {"height": size, "width": size},
        "image_mean": [0.5307, 0.5307, 0.5307],
        "image_std": [0.2583, 0.2583, 0.2583],
        "resample": 3,
        "size": {"shortest_edge": size},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def dinov2(folder: Path) -> nn.Module:
    transformers = extra("transformers")
    torch.manual_seed(1)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    net: nn.Module = transformers.Dinov2Model(config).eval()
    net.save_pretrained(folder)  # type: ignore[operator]
    preprocessor(folder, 70)
    return net


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, nn.Module]:
    return tmp_path / "published", dinov2(tmp_path / "published")


def films(size: int, count: int = 2) -> Tensor:
    return torch.rand((count, 1, size, size), generator=torch.Generator().manual_seed(3))


def as_published(film: Tensor) -> Tensor:
    """What the publisher's processor does to a square grey film of the right size: three channels, (x - mean) / std."""
    return (film.repeat(1, 3, 1, 1) - 0.5307) / 0.2583


def test_a_dinov2_folder_gives_the_patch_tokens_of_its_publishers_own_class(
    published: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    source, net = published
    added = add(source, tmp_path / "ours", name="made-up", family="dinov2", licence=OPEN)
    trunk = load_trunk(tmp_path / "ours")
    with torch.no_grad():
        tokens = net(pixel_values=as_published(films(70))).last_hidden_state[:, 1:]
    assert trunk(films(70)).shape == (2, 32, 5, 5)  # 70 / 14 patches a side
    assert torch.equal(trunk(films(70)).flatten(2).transpose(1, 2), tokens)
    assert added.parameters == sum(p.numel() for p in net.parameters())


def test_the_vision_tower_is_taken_out_of_a_whole_siglip(tmp_path: Path) -> None:
    transformers = extra("transformers")
    torch.manual_seed(1)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    whole = transformers.SiglipModel(
        transformers.SiglipConfig(
            vision_config={**tower, "image_size": 56, "patch_size": 14},
            text_config={**tower, "vocab_size": 40, "max_position_embeddings": 8},
        )
    ).eval()
    # The names of MedSigLIP's published file, which were those of transformers 4.
    renamed = {n: v.contiguous() for n, v in whole.state_dict().items()}
    assert any(n.startswith("vision_model.") for n in renamed)
    source = tmp_path / "published"
    source.mkdir()
    save_file(renamed, source / "model.safetensors")
    whole.config.save_pretrained(source)  # the towers' configurations side by side
    preprocessor(source, 56)
    accept_licences(["hai-def"])
    added = add(source, tmp_path / "ours", name="medsiglip-448", family="siglip", where="made here")
    assert added.licence.terms == "gated"
    with torch.no_grad():
        tokens = whole.vision_model(pixel_values=as_published(films(56))).last_hidden_state
    assert torch.equal(load_trunk(tmp_path / "ours")(films(56)).flatten(2).transpose(1, 2), tokens)


def test_a_densenet_under_the_names_of_torchxrayvision_gives_what_timms_densenet_gives(tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = extra("timm").create_model("densenet121", pretrained=False, in_chans=1, num_classes=18).eval()
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    # Both libraries took torchvision's names; TorchXRayVision adds its operating points and publishes pickles.
    torch.save({**other.state_dict(), "op_threshs": torch.rand(18)}, tmp_path / "densenet.pt")
    added = add(tmp_path / "densenet.pt", tmp_path / "ours", name="xrv-all", family="xrv-densenet", licence=OPEN)
    # torchvision's densenet121 has 7,978,856 parameters with 3 input channels (6,272 more than one channel has)
    # and 1,000 classes (1,025,000 in the classifier, which is no part of the trunk).
    assert added.parameters == 7_978_856 - 6_272 - 1_025_000
    with torch.no_grad():
        theirs = torch.relu(other.forward_features((films(224, 1) * 2 - 1) * 1024))
    ours = load_trunk(tmp_path / "ours")(films(224, 1))
    assert ours.shape == (1, 1024, 7, 7)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "shape"),
    [("convnextv2_atto", (320, 3, 3)), ("mobilenetv4_conv_small", (960, 3, 3)), ("vit_tiny_patch16_224", (192, 6, 6))],
)
def test_a_timm_folder_gives_the_feature_map_of_timm(model: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    options = {"img_size": 96} if model.startswith("vit") else {}
    torch.manual_seed(1)
    net = extra("timm").create_model(model, pretrained=False, num_classes=5, **options).eval()
    source = tmp_path / "published"
    source.mkdir()
    save_file({n: v.contiguous() for n, v in net.state_dict().items()}, source / "model.safetensors")
    said = {"mean": [0.5307] * 3, "std": [0.2583] * 3, "input_size": [3, 96, 96], "interpolation": "bicubic"}
    (source / "config.json").write_text(
        json.dumps({"architecture": model, "pretrained_cfg": said, "model_args": options})
    )
    add(source, tmp_path / "ours", name=model, family="timm", licence=OPEN)
    trunk = load_trunk(tmp_path / "ours")
    with torch.no_grad():
        theirs = net.forward_features(as_published(films(96)))
    found = trunk(films(96))
    assert found.shape == (2, *shape)
    if theirs.dim() == 3:
        theirs, found = theirs[:, 1:], found.flatten(2).transpose(1, 2)
    assert torch.equal(found, theirs)


def test_weights_that_are_not_those_that_were_added_are_refused(
    published: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    add(published[0], tmp_path / "ours", name="made-up", family="dinov2", licence=OPEN)
    path = tmp_path / "ours" / "model.safetensors"
    tensors = load_file(path)
    tensors["layernorm.bias"] += 1.0
    save_file(tensors, path)
    with pytest.raises(BackboneError, match=r"sha-256 is .*add the network again"):
        load_trunk(tmp_path / "ours")


@pytest.mark.parametrize("fault", ["shape", "missing", "unknown", "number", "parameters"])
def test_tensors_that_do_not_fit_the_architecture_are_refused_by_name(
    published: tuple[Path, nn.Module], tmp_path: Path, fault: str
) -> None:
    backbone = add(published[0], tmp_path / "ours", name="made-up", family="dinov2", licence=OPEN)
    path = tmp_path / "ours" / "model.safetensors"
    tensors, promised = load_file(path), backbone.parameters
    if fault == "shape":
        tensors["layernorm.bias"] = torch.zeros(31)
    elif fault == "missing":
        del tensors["layernorm.bias"]
    elif fault == "unknown":
        tensors["layernorm.bias2"] = torch.zeros(2)
    elif fault == "number":
        tensors["layernorm.bias"][3] = float("nan")
    else:
        promised += 1
    save_file(tensors, path)
    write_manifest(tmp_path / "ours", replace(backbone, sha256=sha256_of(path), parameters=promised))
    with pytest.raises(BackboneError, match="parameters" if fault == "parameters" else r"layernorm\.bias"):
        load_trunk(tmp_path / "ours")


def test_a_pickle_is_not_read_where_weights_belong(published: tuple[Path, nn.Module], tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    add(published[0], ours, name="made-up", family="dinov2", licence=OPEN)
    torch.save(load_file(ours / "model.safetensors"), ours / "pytorch_model.bin")
    (ours / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="could run code and is not read"):
        load_trunk(ours)
    (ours / "pytorch_model.bin").rename(ours / "model.safetensors")
    with pytest.raises(BackboneError, match="sha-256"):
        load_trunk(ours)


def test_a_published_pickle_of_tensors_is_converted_and_one_that_holds_more_is_not(
    published: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    source, net = published
    torch.save(net.state_dict(), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    add(source, tmp_path / "ours", name="made-up", family="dinov2", licence=OPEN)
    held = load_file(tmp_path / "ours" / "model.safetensors")
    assert all(torch.equal(held[name], value) for name, value in net.state_dict().items())
    torch.save(net, source / "pytorch_model.bin")  # the whole object: reading it would run what its classes say
    with pytest.raises(BackboneError, match="holds more than tensors"):
        add(source, tmp_path / "again", name="made-up", family="dinov2", licence=OPEN)


def test_research_only_weights_are_refused_until_the_site_accepts_their_licence(
    published: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    # RAD-DINO's own terms stand, whatever whoever added it said.
    added = add(published[0], tmp_path / "ours", name="rad-dino", family="dinov2", licence=OPEN)
    assert (added.licence.name, added.licence.terms) == ("msrla", "research_only")
    with pytest.raises(BackboneError, match=r"for research only \(msrla\).*ORDERSIGHT_ACCEPTED_LICENCES=msrla"):
        load_trunk(tmp_path / "ours")
    accept_licences(["hai-def"])
    with pytest.raises(BackboneError, match="research only"):
        load_trunk(tmp_path / "ours")
    accept_licences(["msrla"])
    assert load_trunk(tmp_path / "ours").channels == 32
    assert "for research only (msrla)" in added.licence.notice("rad-dino")
    assert OPEN.notice("x") == ""


def test_weights_without_known_terms_are_not_added(published: tuple[Path, nn.Module], tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="on which terms"):
        add(published[0], tmp_path / "ours", name="found-somewhere", family="dinov2")


def test_a_film_of_another_size_is_resized_as_the_network_was_trained(
    published: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    add(published[0], tmp_path / "ours", name="made-up", family="dinov2", licence=OPEN)
    trunk = load_trunk(tmp_path / "ours")
    assert read_manifest(tmp_path / "ours").preprocessing.size == 70
    even = torch.full((1, 1, 140, 140), 0.25)
    torch.testing.assert_close(trunk(even), trunk(torch.full((1, 1, 70, 70), 0.25)), rtol=1e-4, atol=1e-5)


def test_an_accepted_licence_is_asked_for_by_name_only(published: tuple[Path, nn.Module], tmp_path: Path) -> None:
    free = add(published[0], tmp_path / "ours", name="made-up", family="dinov2", licence=OPEN)
    require_accepted(free)  # raises nothing
