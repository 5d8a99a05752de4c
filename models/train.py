"""Training the towers and the fusion, readable from top to bottom: phases of masked cross-entropy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.batches import Sampler
from models.config import Phase, Preset, Recipe, load_preset
from models.contract import MODALITIES, InputSpec
from models.data import Shard, ShardError, read_shards
from models.fusion import FusionModel, Logits
from models.pretrain import start_from

Progress = Callable[[str, int, int, float], None]
"""Called with the phase, the step, the steps in all and the running loss."""

SAVE_EVERY = 200
RESIDUAL_PENALTY = 1e-3


def fit(
    recipe: Recipe,
    shards: Mapping[str, Shard],
    *,
    device: str = "cpu",
    state: Path | None = None,
    progress: Progress | None = None,
) -> FusionModel:
    """Run all phases and return the averaged model, in eval mode.

    The same recipe, shards, device and number of processes give the same weights. Where a process group is up
    (torchrun) each process takes its part of every batch, and all hold the same weights. With `state` the run can be
    broken off and goes on from the last saved step; `forget` clears the folder once what was trained is kept.
    """
    spec = next(iter(shards.values())).spec
    preset = load_preset(recipe.preset)
    torch.manual_seed(recipe.seed)
    model = FusionModel(spec, preset).to(device)
    if _processes()[1] > 1 and device.startswith("cuda"):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if recipe.start is not None:
        start_from(model, recipe.start)
    set_prevalence(model, shards)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    begun, begun_step, moments = _resume(state, model, average, recipe)
    for number in range(begun, len(recipe.phases)):
        _run_phase(
            model,
            average,
            shards,
            recipe=recipe,
            number=number,
            first=begun_step if number == begun else 0,
            moments=moments if number == begun else None,
            state=state,
            progress=progress,
        )
        model.load_state_dict(average)
        if state is not None and _processes()[0] == 0:
            _save(state, model, average, None, (_name(recipe), number + 1, 0))
    return model.eval()


def forget(state: Path) -> None:
    """Clear the folder of a run that has ended."""
    for file in ("state.safetensors", "state.json"):
        (state / file).unlink(missing_ok=True)


def set_prevalence(model: FusionModel, shards: Mapping[str, Shard]) -> None:
    """Start every target at its log-odds in the training rows, which would else take a thousand steps to learn."""
    with torch.no_grad():
        for index, target in enumerate(model.spec.targets):
            shard = shards.get(target.source)
            if shard is not None:
                known = shard.labels(target.name)[shard.rows("train")]
                known = known[np.isfinite(known)]
                p = (float(known.sum()) + 0.5) / (len(known) + 1.0)
                model.bias[index] = math.log(p / (1.0 - p))


def _run_phase(
    model: FusionModel,
    average: dict[str, Tensor],
    shards: Mapping[str, Shard],
    *,
    recipe: Recipe,
    number: int,
    first: int,
    moments: Mapping[str, Tensor] | None,
    state: Path | None,
    progress: Progress | None,
) -> None:
    phase = recipe.phases[number]
    missing = set(phase.sources) - set(shards)
    if missing:
        raise ShardError(f"phase {phase.name}: no shard of {', '.join(sorted(missing))}")
    device = next(model.parameters()).device
    sampler = Sampler(shards, phase, recipe.seed * 1000 + number)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen(name, phase.freeze))
    optimiser = _optimiser(model, phase)
    if moments:
        _load_moments(optimiser, model, moments)
    model.train()
    for name, module in model.encoders.items():
        if name in phase.freeze:
            module.eval()
    imaging, results = model.image_encoder(), model.labs_encoder()
    if imaging is not None:
        imaging.fast = True
    if results is not None:
        results.attend_to = phase.max_tokens
    running = math.nan
    rank, world = _processes()
    trained = DistributedDataParallel(model, find_unused_parameters=True) if world > 1 else model
    for step in range(first, phase.steps):
        torch.manual_seed(recipe.seed * 7_919 + number * 1_000_003 + step + rank * 1_000_000_007)
        for group in optimiser.param_groups:
            group["lr"] = phase.rate * _schedule(step, phase.steps)
        batch = sampler.step(step, device, rank=rank, world=world)
        loss = _loss(trained(batch.batch), batch.labels, phase, model)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimiser.step()
        _follow(average, model, recipe.ema, step)
        value = float(over_all(loss.detach())) / world
        running = value if math.isnan(running) else 0.98 * running + 0.02 * value
        if progress is not None and rank == 0 and (step % 20 == 0 or step + 1 == phase.steps):
            progress(phase.name, step + 1, phase.steps, running)
        if state is not None and rank == 0 and (step + 1) % SAVE_EVERY == 0:
            _save(state, model, average, optimiser, (_name(recipe), number, step + 1))
    if imaging is not None:
        imaging.fast = False
    if results is not None:
        results.attend_to = None


def frozen(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to one of these modules: an encoder, or `fusion` for queries, blocks and readout.

    Heads are never frozen: without labels in a phase a target's column has no gradient, and heads do not decay.
    """
    first, _, rest = name.partition(".")
    if first == "encoders":
        return rest.partition(".")[0] in modules
    return "fusion" in modules and first in ("queries", "blocks", "norm", "readout", "modality")


def _optimiser(model: FusionModel, phase: Phase) -> torch.optim.AdamW:
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decay = [p for n, p in trained if p.dim() > 1 and not n.startswith("heads.")]
    plain = [p for n, p in trained if p.dim() <= 1 or n.startswith("heads.")]
    return torch.optim.AdamW(
        [{"params": decay, "weight_decay": phase.weight_decay}, {"params": plain, "weight_decay": 0.0}], lr=phase.rate
    )


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a half cosine to a hundredth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _loss(logits: Logits, labels: Tensor, phase: Phase, model: FusionModel) -> Tensor:
    """Cross-entropy over known labels, plus every modality's own answer against them, plus a cost on the residual."""
    loss = masked_bce(logits.total, labels, ~torch.isnan(labels))
    allowed = model.allowed
    assert isinstance(allowed, Tensor)
    for index, name in enumerate(model.signals):
        if name in MODALITIES and phase.auxiliary > 0.0:
            part = logits.parts[name]
            seen = part.abs().sum(dim=1, keepdim=True) > 0
            known = ~torch.isnan(labels) & allowed[index] & seen
            loss = loss + phase.auxiliary * masked_bce(part + logits.bias, labels, known)
    return loss + RESIDUAL_PENALTY * logits.residual.square().mean()


def masked_bce(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Mean binary cross-entropy over the known entries; zero where there are none."""
    target = torch.where(known, labels, torch.zeros_like(labels))
    each = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # Averaging gradients over processes averages their losses: each counts its part of what all of them know.
    return (each * known).sum() / (over_all(known.sum()) / _processes()[1]).clamp(min=1.0 / _processes()[1])


def over_all(sums: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_initialized():
        sums = sums.clone()
        dist.all_reduce(sums)
    return sums


def _processes() -> tuple[int, int]:
    """This process's rank and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _follow(average: dict[str, Tensor], model: FusionModel, ema: float, step: int) -> None:
    """Move the average towards the model: quickly at the start of a phase, or an untrained tower would linger in it."""
    keep = min(ema, (1.0 + step) / (10.0 + step))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1.0 - keep)
            else:
                average[name].copy_(value)


def _save(
    state: Path,
    model: FusionModel,
    average: Mapping[str, Tensor],
    optimiser: torch.optim.AdamW | None,
    where: tuple[str, int, int],
) -> None:
    """`where` is the recipe, the phase and the steps of it that are done; between phases there is no optimiser."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for name, parameter in model.named_parameters():
        for key, value in (optimiser.state.get(parameter, {}) if optimiser is not None else {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value)
    state.mkdir(parents=True, exist_ok=True)
    partial = state / "state.partial"
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, partial)
    partial.replace(state / "state.safetensors")
    (state / "state.json").write_text(json.dumps(dict(zip(("recipe", "phase", "step"), where, strict=True))))


def _resume(
    state: Path | None, model: FusionModel, average: dict[str, Tensor], recipe: Recipe
) -> tuple[int, int, dict[str, Tensor] | None]:
    if state is None or not (state / "state.json").exists():
        return 0, 0, None
    where = json.loads((state / "state.json").read_text())
    if where["recipe"] != _name(recipe):
        raise ShardError(f"{state}: holds a run of another recipe; remove it or train elsewhere")
    tensors = load_file(state / "state.safetensors")
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for name, value in tensors.items():
        if name.startswith("average."):
            average[name[8:]].copy_(value)
    return int(where["phase"]), int(where["step"]), tensors


def _load_moments(optimiser: torch.optim.AdamW, model: FusionModel, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        found = {k: tensors[f"{k}.{name}"] for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}.{name}" in tensors}
        if found and parameter.requires_grad:
            optimiser.state[parameter] = found


def _name(recipe: Recipe) -> str:
    return msgspec.json.encode(recipe).decode()


def load_training(shards: Path, recipe: Recipe) -> tuple[dict[str, Shard], InputSpec, Preset]:
    """The shards a recipe needs, their spec, and its preset; checks that they fit."""
    names = sorted({n for p in recipe.phases for n in p.sources} | {h.source for h in recipe.frozen_heads})
    found = read_shards(shards, names)
    spec, preset = next(iter(found.values())).spec, load_preset(recipe.preset)
    if spec.image.size != preset.image_size:
        raise ShardError(f"{shards}: films of {spec.image.size} pixels; preset {preset.name} reads {preset.image_size}")
    return found, spec, preset
