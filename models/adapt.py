"""Adapt a published network to a site's own films, by low-rank updates of its attention (LoRA, Hu et al. 2021).

An adapter is `adapter.safetensors` with `adapter.json`, which names the weights it belongs to by their sha-256. Merged
into them it makes a backbone folder like any other, under the licence of the network it came from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save, save_file
from torch import Tensor, nn

from models.backbones.extras import extra
from models.backbones.families import FAMILIES, build
from models.backbones.manifest import (
    WEIGHTS,
    Backbone,
    BackboneError,
    read_manifest,
    require_accepted,
    sha256_of,
    write_manifest,
)
from models.backbones.trunk import layout_of, prepare, read_weights
from models.data import Shard, ShardError
from models.metrics import Estimated, difference, figures

ADAPTER, TENSORS = "adapter.json", "adapter.safetensors"
LEAST = 10
"""Films of either label that a target needs among those for training and among those kept apart."""

Progress = Callable[[int, int, float], None]
"""Called with the step, the steps in all and the running loss."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to adapt. `rank` and `alpha` as in the paper: the update is alpha / rank times B A, and B starts at zero."""

    target: str
    rank: int = 8
    alpha: int = 16
    steps: int = 300
    batch: int = 16
    rate: float = 1e-3
    seed: int = 0


class Adapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """adapter.json.

    base     sha-256 of the weights it changes; it fits no others
    sha256   of adapter.safetensors
    shard    sha-256 of the shard it was trained on
    frozen   AUROC on films kept apart, of a linear head on the network as published; adapted likewise, after adapting
    gain     adapted less frozen, on the same draws of patients; where it holds zero, nothing was shown
    """

    name: str
    base: str
    sha256: str
    shard: str
    plan: Plan
    frozen: Estimated
    adapted: Estimated
    gain: Estimated


def adapt(
    folder: Path, shard: Shard, plan: Plan, out: Path, *, device: str = "cpu", progress: Progress | None = None
) -> Adapter:
    """Train an adapter on the newest films of the shard's training cases, and judge it on the others.

    Deterministic for a plan, a shard and a device. Raises ShardError where the target has too few films.
    """
    backbone, net = _load(folder)
    train, labels = _films(shard, plan.target, "train")
    valid, truth = _films(shard, plan.target, "valid")
    frozen = _probe(backbone, net.to(device), shard, (train, labels), valid)
    torch.manual_seed(plan.seed)
    tuner = _with_adapter(net, backbone, plan)
    head = nn.Linear(_width(backbone, net, device), 1)
    tuner.to(device).eval()  # no dropout and fixed batch statistics, as when it is used
    head.to(device)
    trained = [p for p in tuner.parameters() if p.requires_grad] + list(head.parameters())
    optimiser = torch.optim.AdamW(trained, lr=plan.rate, weight_decay=0.01)
    rng = np.random.default_rng(plan.seed)
    running = math.nan
    for step in range(plan.steps):
        chosen = rng.choice(len(train), min(plan.batch, len(train)), replace=False)
        film = prepare(_pixels(shard, train[chosen]).to(device), backbone)
        logits = head(FAMILIES[backbone.family].features(net, film).mean(dim=(2, 3)))[:, 0]
        wanted = torch.from_numpy(labels[chosen]).to(device)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        value = float(loss.detach())
        running = value if math.isnan(running) else 0.95 * running + 0.05 * value
        if progress is not None:
            progress(step + 1, plan.steps, running)
    adapted = _probe(backbone, net, shard, (train, labels), valid)
    known, patients = truth.astype(np.float64), shard.patient[valid]
    out.mkdir(parents=True, exist_ok=True)
    tensors = extra("peft").get_peft_model_state_dict(tuner)
    blob = save({n: v.detach().cpu().contiguous() for n, v in sorted(tensors.items())})
    (out / TENSORS).write_bytes(blob)
    found = Adapter(
        name=backbone.name,
        base=backbone.sha256,
        sha256=hashlib.sha256(blob).hexdigest(),
        shard=shard.digest,
        plan=plan,
        frozen=figures(known, frozen, patients).auroc,
        adapted=figures(known, adapted, patients).auroc,
        gain=difference(known, adapted, frozen, patients),
    )
    (out / ADAPTER).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return found


def adapted_net(folder: Path, adapter: Path) -> tuple[Backbone, nn.Module, Any]:
    """A backbone with an adapter beside its weights, not merged: its manifest, the network in eval mode, peft's tuner.

    Raises BackboneError where the adapter was trained on other weights, or is damaged.
    """
    backbone, net = _load(folder)
    path = adapter / ADAPTER
    try:
        said = msgspec.json.decode(path.read_bytes(), type=Adapter)
        blob = (adapter / TENSORS).read_bytes()
        if hashlib.sha256(blob).hexdigest() != said.sha256:
            raise BackboneError(f"{adapter / TENSORS}: is not what {ADAPTER} names; copy both again")
        tensors = load(blob)
    except (OSError, msgspec.DecodeError, SafetensorError) as error:
        raise BackboneError(f"{path}: not an adapter ({error})") from None
    if said.base != backbone.sha256:
        raise BackboneError(
            f"{adapter}: adapts weights {said.base[:12]}..., {folder} holds {backbone.sha256[:12]}...; adapt again"
        )
    tuner = _with_adapter(net, backbone, said.plan)
    wanted = extra("peft").get_peft_model_state_dict(tuner)
    if {n: v.shape for n, v in wanted.items()} != {n: v.shape for n, v in tensors.items()}:
        raise BackboneError(f"{adapter / TENSORS}: its tensors are not those of a rank {said.plan.rank} adapter")
    extra("peft").set_peft_model_state_dict(tuner, tensors)
    tuner.eval()
    return backbone, net, tuner


def merge(folder: Path, adapter: Path, out: Path) -> Backbone:
    """Write the backbone with the adapter added to its weights; a preset can name that folder as it could the first."""
    backbone, _, tuner = adapted_net(folder, adapter)
    merged = tuner.merge_and_unload()
    shapes, _ = layout_of(merged)
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: merged.state_dict()[n].contiguous().clone() for n in shapes}, out / WEIGHTS)
    adapted = msgspec.structs.replace(
        backbone,
        name=f"{backbone.name}-adapted",
        sha256=sha256_of(out / WEIGHTS),
        source=f"adapted by this site from {backbone.name}",
        adapted_from=backbone.sha256,
    )
    write_manifest(out, adapted)
    return adapted


def _load(folder: Path) -> tuple[Backbone, nn.Module]:
    """The network with parameters that can be trained, unlike a `BackboneTrunk`."""
    backbone = read_manifest(folder)
    require_accepted(backbone)
    net = build(backbone)
    net.load_state_dict(read_weights(folder, backbone, layout_of(net)), strict=False)
    return backbone, net.eval()


def _with_adapter(net: nn.Module, backbone: Backbone, plan: Plan) -> Any:
    peft = extra("peft")
    targets = list(FAMILIES[backbone.family].adapt)
    config = peft.LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=targets)
    try:
        return peft.LoraModel(net, config, "default")
    except ValueError:
        raise BackboneError(
            f"{backbone.name}: has none of the layers that are adapted ({', '.join(targets)})"
        ) from None


def _films(shard: Shard, target: str, split: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of a split with a film and a label, and the labels."""
    rows = shard.rows(split)
    known = shard.has("imaging")[rows] & np.isfinite(shard.labels(target)[rows])
    rows = rows[known]
    labels = shard.labels(target)[rows]
    if min(int((labels == 1).sum()), int((labels == 0).sum())) < LEAST:
        raise ShardError(f"{shard.header.source}: {target} has fewer than {LEAST} films of either label in {split}")
    return rows, labels


def _pixels(shard: Shard, rows: NDArray[np.int64]) -> Tensor:
    """The newest film of each row, (n, 1, H, W) in [0, 1]."""
    newest = shard.arrays["imaging.values"][shard.arrays["imaging.offsets"][rows]]
    return torch.from_numpy(newest.astype(np.float32) / np.float32(255.0))


def _width(backbone: Backbone, net: nn.Module, device: str) -> int:
    p = backbone.preprocessing
    with torch.no_grad():
        film = torch.zeros((1, len(p.mean), p.size, p.size), device=device)
        return int(FAMILIES[backbone.family].features(net, film).shape[1])


@torch.no_grad()
def pooled(backbone: Backbone, net: nn.Module, films: Tensor, device: str = "cpu") -> NDArray[np.float64]:
    """The mean of the feature map of each film, (n, C)."""
    parts = [
        FAMILIES[backbone.family].features(net, prepare(films[i : i + 32].to(device), backbone)).mean(dim=(2, 3)).cpu()
        for i in range(0, len(films), 32)
    ]
    found: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return found


def _probe(
    backbone: Backbone,
    net: nn.Module,
    shard: Shard,
    train: tuple[NDArray[np.int64], NDArray[np.float32]],
    valid: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Scores of the films of `valid` by a logistic regression fitted on those of `train` and their labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    device = str(next(net.parameters()).device)
    x, y = (pooled(backbone, net, _pixels(shard, rows), device) for rows in (train[0], valid))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x, train[1])
    scores: NDArray[np.float64] = model.decision_function(y).astype(np.float64)
    return scores
