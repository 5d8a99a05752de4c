"""A backbone as the trunk of the image encoder: frozen, its weights outside the checkpoint and checked against it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.backbones.families import FAMILIES, build
from models.backbones.manifest import (
    MANIFEST,
    WEIGHTS,
    Backbone,
    BackboneError,
    read_manifest,
    require_accepted,
    sha256_of,
    write_manifest,
)

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class BackboneTrunk(nn.Module):
    """Film (N, 1, H, W) in [0, 1] -> feature map (N, channels, grid, grid), by a network that never changes.

    Its weights are buffers that no state dict holds: no optimiser moves them, no average follows them, and a checkpoint
    stays small. They come from a folder, by `load_weights`, before anything can be encoded.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.net = build(backbone)
        self.layout = layout_of(self.net)
        _freeze(self.net)
        self.train(False)
        with torch.no_grad():
            size, channels = backbone.preprocessing.size, len(backbone.preprocessing.mean)
            shape = FAMILIES[backbone.family].features(self.net, torch.zeros(1, channels, size, size)).shape
        self.channels, self.grid = int(shape[1]), int(shape[2])
        self.folder: Path | None = None

    def train(self, mode: bool = True) -> BackboneTrunk:
        """Always in eval mode: no dropout, and batch norms that keep the publisher's statistics."""
        super().train(False)
        return self

    def load_weights(self, folder: Path) -> None:
        """Take the weights of a backbone folder. Raises BackboneError where they are not exactly those promised."""
        require_accepted(self.backbone)
        held = dict(self.net.named_buffers())
        for name, value in read_weights(folder, self.backbone, self.layout).items():
            held[name].copy_(value)
        self.folder = folder

    def copy_to(self, folder: Path) -> None:
        """Put the manifest and the weights into `folder`, without a second copy on disk where that can be had."""
        if self.folder is None:
            raise BackboneError(f"backbone {self.backbone.name}: its weights were never loaded")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / WEIGHTS
        if not (target.exists() and target.samefile(self.folder / WEIGHTS)):
            target.unlink(missing_ok=True)
            try:
                os.link(self.folder / WEIGHTS, target)
            except OSError:
                shutil.copyfile(self.folder / WEIGHTS, target)
        write_manifest(folder, self.backbone)

    @torch.no_grad()
    def forward(self, film: Tensor) -> Tensor:
        if self.folder is None:
            raise BackboneError(f"backbone {self.backbone.name}: its weights were never loaded")
        return FAMILIES[self.backbone.family].features(self.net, prepare(film, self.backbone))


def prepare(film: Tensor, backbone: Backbone) -> Tensor:
    """A film (N, 1, H, W) in [0, 1] as the network was trained to see it: (N, c, size, size)."""
    p = backbone.preprocessing
    if film.shape[-1] != p.size:
        film = nn.functional.interpolate(
            film, (p.size, p.size), mode=p.interpolation, antialias=True, align_corners=False
        ).clamp(0.0, 1.0)
    mean = torch.tensor(p.mean, device=film.device, dtype=film.dtype)[:, None, None]
    std = torch.tensor(p.std, device=film.device, dtype=film.dtype)[:, None, None]
    return (film - mean) / std


def load_trunk(folder: Path) -> BackboneTrunk:
    """The backbone of a folder, checked and ready."""
    trunk = BackboneTrunk(read_manifest(folder))
    trunk.load_weights(folder)
    return trunk


Layout = tuple[dict[str, torch.Size], int]
"""The shape of every tensor a file must hold, and the number of parameters."""


def layout_of(net: nn.Module) -> Layout:
    shapes = {n: v.shape for n, v in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    return shapes, sum(p.numel() for p in net.parameters())


def read_weights(folder: Path, backbone: Backbone, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a folder, whose hash, names, shapes and number are those of `backbone`. Raises BackboneError."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
        hint = (
            f"; {pickles[0]} could run code and is not read: `cds-service backbone add` converts it" if pickles else ""
        )
        raise BackboneError(f"{path}: is not there{hint}")
    digest = sha256_of(path)
    if digest != backbone.sha256:
        raise BackboneError(
            f"{path}: sha-256 is {digest[:12]}..., {MANIFEST} names {backbone.sha256[:12]}...; add the network again"
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise BackboneError(f"{path}: not safetensors ({error})") from None
    check_tensors(str(path), tensors, layout, backbone.parameters)
    return tensors


def check_tensors(where: str, tensors: Mapping[str, Tensor], layout: Layout, parameters: int) -> None:
    """Raises BackboneError unless the tensors are those of the network, each in its shape, finite, and as many."""
    shapes, count = layout
    if count != parameters:
        raise BackboneError(f"{where}: the architecture has {count:,} parameters, {MANIFEST} promises {parameters:,}")
    for name in sorted(set(shapes) - set(tensors)):
        raise BackboneError(f"{where}: tensor {name} is missing")
    for name in sorted(set(tensors) - set(shapes)):
        raise BackboneError(f"{where}: unknown tensor {name}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise BackboneError(
                f"{where}: {name} is {tuple(tensors[name].shape)}, the architecture makes it {tuple(shape)}"
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise BackboneError(f"{where}: {name} holds values that are not numbers")


def _freeze(net: nn.Module) -> None:
    for module in net.modules():
        for name, parameter in list(module._parameters.items()):
            del module._parameters[name]
            module.register_buffer(name, None if parameter is None else parameter.detach(), persistent=False)
        module._non_persistent_buffers_set.update(module._buffers)
