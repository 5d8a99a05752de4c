"""A checkpoint on disk: `weights.safetensors` and `model.json`. Nothing in it can run code, and nothing is trusted.

Read strictly: the hash of the weights must be the one `model.json` names, every tensor must be there, be asked for and
have its shape, and `model.json` may hold no key we do not know. Pickles are refused by what they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.backbones.manifest import BackboneError
from models.card import Card, Weights
from models.fusion import FusionModel
from models.gates import ImageGate

FORMAT = 1
BACKBONE = "backbone"
"""Folder beside both files with the published network that a model reads films with, where it has one."""
WEIGHTS, CARD = "weights.safetensors", "model.json"
MAX_BYTES = 1 << 30
GATE = "gate."
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class CheckpointError(ValueError):
    """A checkpoint that must not be used; says which file and why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint in memory: the model in eval mode and float32, the card, and the gate where it reads films."""

    model: FusionModel
    card: Card
    gate: ImageGate | None


def round_weights(model: FusionModel, precision: str) -> None:
    """Round matrices to what will be stored before anything is measured: figures are then the stored model's."""
    if precision == "float32":
        return
    if precision != "float16":
        raise ValueError(f"weights are kept in float32 or float16, not {precision!r}")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(parameter.half().float())


def save_checkpoint(folder: Path, model: FusionModel, card: Card, gate: ImageGate | None) -> Card:
    """Write both files and return the card with the weights' hash; `card.weights` is filled here."""
    half = card.recipe.precision == "float16"
    parameters = dict(model.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        plain = value.detach().cpu().contiguous()
        tensors[name] = plain.half() if half and name in parameters and plain.dim() >= 2 else plain
    if gate is not None:
        tensors |= {GATE + name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in gate.tensors.items()}
    blob = save(tensors)
    encoder = model.image_encoder()
    if encoder is not None and encoder.backbone is not None:
        encoder.backbone.copy_to(folder / BACKBONE)
    weights = Weights(
        file=WEIGHTS,
        sha256=hashlib.sha256(blob).hexdigest(),
        precision=card.recipe.precision,
        parameters=sum(p.numel() for p in parameters.values()),
    )
    card = msgspec.structs.replace(card, weights=weights)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(blob)
    write_card(folder, card)
    return card


def write_card(folder: Path, card: Card) -> None:
    """The card alone, beside weights that stay as they are."""
    (folder / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n")


def read_card(folder: Path) -> Card:
    """The card alone. Raises CheckpointError for a missing or unreadable file, an unknown key or another format."""
    path = folder / CARD
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        card = msgspec.json.decode(blob, type=Card)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if card.format != FORMAT:
        raise CheckpointError(f"{path}: format {card.format}; this version reads format {FORMAT}")
    return card


def load_checkpoint(folder: Path) -> Stored:
    """Read and check a checkpoint. Raises CheckpointError, and runs nothing of what it read."""
    card = read_card(folder)
    if card.weights.file != WEIGHTS:
        raise CheckpointError(f"{folder / CARD}: weights.file is {card.weights.file!r}; it must be {WEIGHTS}")
    tensors = _read_tensors(folder / WEIGHTS, card.weights.sha256)
    try:
        model = FusionModel(card.spec, card.preset)
        encoder = model.image_encoder()
        if encoder is not None and encoder.backbone is not None:
            encoder.backbone.load_weights(folder / BACKBONE)
    except BackboneError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    try:
        model.add_trees([head.target for head in card.recipe.boosted_heads])
    except ValueError as error:
        raise CheckpointError(f"{folder / CARD}: {error}") from None
    _check_shapes(folder / WEIGHTS, model.state_dict(), tensors)
    model.load_state_dict({n: v for n, v in tensors.items() if not n.startswith(GATE)})
    gate = None
    if card.gate is not None:
        gate = ImageGate(card.gate, _gate_tensors(folder / WEIGHTS, tensors, 2 * card.preset.width))
    return Stored(model.eval(), card, gate)


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_BYTES} bytes")
        blob = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if blob.startswith(_PICKLES):
        raise CheckpointError(
            f"{path}: is a pickle or a torch archive, which could run code; only safetensors are read"
        )
    digest = hashlib.sha256(blob).hexdigest()
    if digest != sha256:
        raise CheckpointError(
            f"{path}: sha-256 is {digest[:12]}..., model.json names {sha256[:12]}...; copy both again"
        )
    try:
        found: dict[str, Tensor] = load(blob)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not safetensors ({error})") from None
    return found


def _check_shapes(path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    names = {n for n in tensors if not n.startswith(GATE)}
    for name in sorted(set(expected) - names):
        raise CheckpointError(f"{path}: tensor {name} is missing")
    for name in sorted(names - set(expected)):
        raise CheckpointError(f"{path}: unknown tensor {name}")
    for name, value in expected.items():
        found = tensors[name]
        if found.shape != value.shape:
            raise CheckpointError(f"{path}: {name} is {tuple(found.shape)}, the preset makes it {tuple(value.shape)}")
        if found.is_floating_point() != value.is_floating_point():
            raise CheckpointError(f"{path}: {name} has the wrong kind of number")
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{path}: {name} holds values that are not numbers")


def _gate_tensors(path: Path, tensors: Mapping[str, Tensor], width: int) -> dict[str, NDArray[np.float32]]:
    found = {n[len(GATE) :]: v.numpy().astype(np.float32) for n, v in tensors.items() if n.startswith(GATE)}
    shapes = {"centre": (width,), "scale": (width,), "weight": (width,), "bias": (1,), "precision": (width, width)}
    if set(found) != {*shapes, "means"}:
        raise CheckpointError(f"{path}: the gate's tensors are {sorted(found)}")
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise CheckpointError(f"{path}: gate.{name} is {found[name].shape}, not {shape}")
    if found["means"].ndim != 2 or found["means"].shape[1] != width:
        raise CheckpointError(f"{path}: gate.means is {found['means'].shape}")
    return found
