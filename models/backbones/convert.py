"""From what a publisher distributes to a backbone folder of ours; only here is a `.bin` read, and as data alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.backbones.families import FAMILIES, build
from models.backbones.manifest import (
    FORMAT,
    WEIGHTS,
    Backbone,
    BackboneError,
    Family,
    Licence,
    Preprocessing,
    Terms,
    sha256_of,
    write_manifest,
)
from models.backbones.trunk import PICKLES, check_tensors, layout_of

KNOWN: Mapping[str, Licence] = {
    "rad-dino": Licence("msrla", "research_only", "https://huggingface.co/microsoft/rad-dino"),
    "rad-dino-maira-2": Licence("msrla", "research_only", "https://huggingface.co/microsoft/rad-dino-maira-2"),
    "medsiglip-448": Licence("hai-def", "gated", "https://developers.google.com/health-ai-developer-foundations/terms"),
}
"""Terms of published weights that a site cannot loosen by a slip of the keyboard."""

XRV = Preprocessing(224, (0.5,), (1.0 / 2048.0,), "bilinear")
"""TorchXRayVision's `normalize`: grey 0 to 1 becomes -1024 to 1024."""

_PREFIXES = {"dinov2": ("dinov2.",), "siglip": ("vision_model.",), "xrv-densenet": ("module.",), "timm": ("module.",)}
_OTHER_PARTS = {
    "dinov2": ("classifier.",),
    "siglip": ("text_model.", "logit_scale", "logit_bias", "head."),
    "xrv-densenet": ("classifier.", "op_threshs", "classes"),
    "timm": ("head.", "classifier.", "fc.", "head_dist."),
}
"""Beginnings of tensors that are no part of the trunk: heads, text towers."""
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as preprocessor_config.json has them


def add(
    source: Path,
    out: Path,
    *,
    name: str,
    family: Family,
    licence: Licence | None = None,
    model: str | None = None,
    where: str = "",
) -> Backbone:
    """Write a backbone folder from a publisher's, or from one weights file, and return its manifest.

    source   a folder with config.json and weights as save_pretrained writes them, or a safetensors or .bin/.pt file
    licence  needed unless the name is a known one; a known one's own terms stand
    model    timm's name of the architecture, where the folder's config.json does not say
    Raises BackboneError for weights that are not the network's, and for a pickle that holds more than tensors.
    """
    terms = KNOWN.get(name, licence)
    if terms is None:
        raise BackboneError(f"{name}: say on which terms its weights may be used: --licence NAME --terms TERMS")
    config = _json(source / "config.json") if source.is_dir() else {}
    architecture, preprocessing = _described(source, family, config, model)
    tensors = _tensors(_weights_file(source))
    net = build(Backbone(FORMAT, name, family, architecture, preprocessing, terms, 0, ""))
    layout = layout_of(net)
    kept = FAMILIES[family].rename(architecture, _trunk_only(tensors, family, set(layout[0])))
    check_tensors(str(source), kept, layout, layout[1])
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: v.contiguous().clone() for n, v in kept.items()}, out / WEIGHTS)
    backbone = Backbone(
        FORMAT, name, family, architecture, preprocessing, terms, layout[1], sha256_of(out / WEIGHTS), where
    )
    write_manifest(out, backbone)
    return backbone


def licence_of(name: str, terms: str) -> Licence:
    allowed: tuple[Terms, ...] = ("commercial_ok", "gated", "research_only")
    for term in allowed:
        if terms == term:
            return Licence(name, term)
    raise BackboneError(f"terms are {', '.join(allowed)}, not {terms!r}")


def _described(
    source: Path, family: Family, config: Mapping[str, Any], model: str | None
) -> tuple[dict[str, Any], Preprocessing]:
    if family == "xrv-densenet":
        return dict(config), XRV
    if family == "timm":
        said = config.get("pretrained_cfg", config)
        name = model or config.get("architecture")
        if not name:
            raise BackboneError(f"{source}: config.json names no architecture; give it with --model")
        channels, size, _ = said.get("input_size", (3, 224, 224))
        mean, std = said.get("mean", (0.485, 0.456, 0.406)), said.get("std", (0.229, 0.224, 0.225))
        architecture = {"model": name, **config.get("model_args", {})}
        if channels != 3:
            architecture["in_chans"] = channels
        interpolation = said.get("interpolation", "bicubic")
        return architecture, _preprocessing(source, size, mean[:channels], std[:channels], interpolation)
    architecture = dict(config.get("vision_config", config)) if family == "siglip" else dict(config)
    if not architecture:
        raise BackboneError(f"{source}: a folder with config.json is needed, as save_pretrained writes it")
    if family == "siglip":
        architecture["vision_use_head"] = False  # we read the map of patches, not the pooled vector
    path = source / "preprocessor_config.json"
    said = _json(path)
    size = said.get("crop_size", said.get("size", architecture.get("image_size")))
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if not {"image_mean", "image_std"} <= set(said) or size is None:
        raise BackboneError(f"{path}: has no image_mean, image_std and size; films cannot be prepared without them")
    interpolation = _RESAMPLE.get(said.get("resample", 3), "bicubic")
    return architecture, _preprocessing(source, size, said["image_mean"], said["image_std"], interpolation)


def _preprocessing(source: Path, size: int, mean: Any, std: Any, interpolation: str) -> Preprocessing:
    try:
        return Preprocessing(
            int(size),
            tuple(map(float, mean)),
            tuple(map(float, std)),
            "bilinear" if interpolation == "bilinear" else "bicubic",
        )
    except (TypeError, ValueError) as error:
        raise BackboneError(f"{source}: its preprocessing cannot be used ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BackboneError(f"{path}: is no JSON object")
    return found


def _weights_file(source: Path) -> Path:
    if source.is_file():
        return source
    for pattern in ("*.safetensors", *(f"*{suffix}" for suffix in PICKLES)):
        found = sorted(source.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise BackboneError(f"{source}: holds {len(found)} files {pattern}; name the one to read")
    raise BackboneError(f"{source}: no weights here (*.safetensors, {', '.join('*' + s for s in PICKLES)})")


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            found: dict[str, Tensor] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise BackboneError(f"{path}: not safetensors ({error})") from None
        return found
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError):
        raise BackboneError(
            f"{path}: holds more than tensors, which could run code. Where you trust it, open it elsewhere with "
            "the library it is of, and save its state_dict()"
        ) from None
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise BackboneError(f"{path}: is no state dict, name to tensor")
    return held


def _trunk_only(tensors: Mapping[str, Tensor], family: Family, wanted: set[str]) -> dict[str, Tensor]:
    """The trunk's tensors under our names; what belongs to no trunk falls away, anything else stays, to be refused."""
    kept: dict[str, Tensor] = {}
    for full, value in tensors.items():
        name = next((full.removeprefix(p) for p in _PREFIXES[family] if full.startswith(p)), full)
        if name in wanted or not (name.endswith("num_batches_tracked") or name.startswith(_OTHER_PARTS[family])):
            kept[name] = value
    return kept
