"""Masked pretraining of the encoders on a site's own records: parts are hidden, and restored from all that is left.

Hidden are all results of some analytes (their values are to be restored), concepts of history and genomics (which
concept it was), and squares of the newest film (their grey levels). No labels are needed. `fit` starts from what is
written here where its recipe says so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.config import Preset, Start, load_preset
from models.contract import InputSpec
from models.data import Shard, ShardError
from models.encoders import AgeEncoding, Batch, Block, Encoded, build_encoders
from models.encoders.image import ImageEncoder
from models.encoders.labs import LabsEncoder
from models.fusion import FusionModel, on_seen_rows
from models.masking import CELL_GREYS, CELLS, KINDS, Asked, Masker
from models.vocabulary import transfer

FORMAT = 1
ENCODERS, CARD = "encoders.safetensors", "pretraining.json"
SAVE_EVERY = 200
JUDGED = 512
"""Records kept apart that the losses on the card are of, at most."""

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with the step, the steps in all and the running loss by kind."""


class PretrainingError(ValueError):
    """A pretraining that cannot be run or used; says which file and why."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """mask: share of analytes and concepts hidden; regions: share of a film's squares."""

    preset: str
    seed: int = 1
    steps: int = 2000
    batch: int = 64
    rate: float = 1e-3
    weight_decay: float = 0.05
    mask: float = 0.3
    regions: float = 0.4
    max_tokens: int = 192


class Losses(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On records kept apart, per hidden item: values and greys mean squared error, codes cross-entropy in nats.

    `first` before training, `last` after it; a kind that no such record has is absent.
    """

    first: dict[str, float]
    last: dict[str, float]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """pretraining.json; `sha256` is of encoders.safetensors, and what a recipe's `start` names."""

    format: int
    sha256: str
    plan: Plan
    spec: InputSpec
    preset: Preset
    shard_sha256: str
    records: int
    losses: Losses
    torch: str


class Restorer(nn.Module):
    """The encoders, and a decoder that asks them for what was hidden. `forward` gives, per kind, sum and number."""

    def __init__(self, spec: InputSpec, preset: Preset) -> None:
        super().__init__()
        width = preset.width
        self.encoders = build_encoders(spec, preset)
        missing = set(KINDS) - set(self.encoders)
        if missing:
            raise PretrainingError(f"the spec has no {', '.join(sorted(missing))}; export the shard for pretraining")
        self.signal = nn.Embedding(len(self.encoders), width)
        self.kind = nn.Embedding(len(KINDS), width)
        self.analyte = nn.Embedding(len(spec.labs) + 1, width)
        self.cell = nn.Embedding(CELLS * CELLS, width)
        self.age = AgeEncoding(width)
        self.blocks = nn.ModuleList(Block(width, preset.fusion.heads, preset.dropout) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.value = nn.Linear(width, 1)
        self.codes = nn.ModuleDict(
            {"history": nn.Linear(width, len(spec.history) + 1), "genomics": nn.Linear(width, len(spec.genomics) + 1)}
        )
        self.greys = nn.Linear(width, CELL_GREYS)
        for table in (self.signal, self.kind, self.analyte, self.cell):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, shown: Batch, asked: Asked) -> tuple[Tensor, Tensor]:
        """Losses (len(KINDS),), each a sum over the hidden items of its kind, and how many those are."""
        tokens, visible = self._tokens(shown)
        queries = {
            "labs": self.analyte(asked.labs.code) + self.age(asked.labs.age_h),
            "history": self.age(asked.history.age_h),
            "genomics": self.age(asked.genomics.age_h),
            "imaging": self.cell.weight.expand(len(asked.cells), -1, -1),
        }
        x = torch.cat([queries[name] + self.kind.weight[i] for i, name in enumerate(KINDS)], dim=1)
        for block in self.blocks:
            x = block(x, tokens, visible)
        parts = self.norm(x).split([queries[name].shape[1] for name in KINDS], dim=1)
        said = dict(zip(KINDS, parts, strict=True))
        sums, counts = [], []
        for name in KINDS:
            each, hidden = self._each(name, said[name], asked)
            sums.append(torch.where(hidden, each, 0.0).sum())
            counts.append(hidden.sum())
        return torch.stack(sums), torch.stack(counts)

    def _each(self, name: str, said: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
        """The loss of every slot of a kind, and which slots were hidden."""
        if name == "imaging":
            return (self.greys(said) - asked.greys).square().mean(dim=-1), asked.cells
        if name == "labs":
            return (self.value(said)[..., 0] - asked.labs.values[..., 0]).square(), asked.labs.seen
        signal = asked.history if name == "history" else asked.genomics
        logits = self.codes[name](said)
        each = nn.functional.cross_entropy(logits.flatten(0, 1), signal.code.flatten(), reduction="none")
        return each.view_as(signal.seen), signal.seen

    def _tokens(self, shown: Batch) -> tuple[Tensor, Tensor]:
        encoded: list[Encoded] = [
            encoder(shown[name]) if isinstance(encoder, ImageEncoder) else on_seen_rows(encoder, shown[name])
            for name, encoder in self.encoders.items()
        ]
        # The pooled vectors too: the late-fusion heads will read those.
        parts = [torch.cat([e.tokens, e.pooled[:, None]], dim=1) + self.signal.weight[i] for i, e in enumerate(encoded)]
        tokens = torch.cat(parts, dim=1)
        visible = torch.cat([torch.cat([e.visible, e.seen[:, None]], dim=1) for e in encoded], dim=1)
        return tokens * visible[..., None], visible


def pretrain(
    plan: Plan,
    shard: Shard,
    out: Path,
    *,
    device: str = "cpu",
    state: Path | None = None,
    progress: Progress | None = None,
) -> Card | None:
    """Pretrain and write `out`; the card, or None in every process but the first.

    Deterministic for a plan, a shard, a device and a number of processes. Where a process group is up (torchrun) each
    process takes its share of every batch, and all hold the same weights. With `state` a broken run is taken up again.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    preset = load_preset(plan.preset)
    if shard.spec.image.size != preset.image_size:
        raise ShardError(f"films of {shard.spec.image.size} pixels; preset {preset.name} reads {preset.image_size}")
    masker = Masker(shard, plan.seed, batch=plan.batch, mask=plan.mask, regions=plan.regions)
    torch.manual_seed(plan.seed)
    model = Restorer(shard.spec, preset).to(device)
    if world > 1 and device.startswith("cuda"):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    first = judge(model, masker, device)
    decay = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}], lr=plan.rate
    )
    begun = _resume(state, model, optimiser, plan, shard)
    trained = DistributedDataParallel(model, find_unused_parameters=True) if world > 1 else model
    model.train()
    results = model.encoders["labs"]
    assert isinstance(results, LabsEncoder)
    results.attend_to = plan.max_tokens
    running: dict[str, float] = {}
    for step in range(begun, plan.steps):
        torch.manual_seed((plan.seed * 1_000_003 + step) * 64 + rank)  # dropout; a resumed step draws as it would have
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * _schedule(step, plan.steps)
        shown, asked = masker.step(step, device, rank=rank, world=world)
        sums, counts = trained(shown, asked)
        total = _over_all(counts)
        # DDP averages gradients over processes; each holds its part of a mean over the whole batch.
        loss = (sums / total.clamp(min=1)).sum() * world
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        means = _over_all(sums.detach()) / total.clamp(min=1)
        for name, mean, count in zip(KINDS, means.tolist(), total.tolist(), strict=True):
            if count:
                running[name] = mean if name not in running else 0.95 * running[name] + 0.05 * mean
        if progress is not None and rank == 0:
            progress(step + 1, plan.steps, running)
        if state is not None and rank == 0 and (step + 1) % SAVE_EVERY == 0:
            _save(state, model, optimiser, plan, shard, step + 1)
    results.attend_to = None
    if rank != 0:
        return None
    card = Card(
        format=FORMAT,
        sha256="",
        plan=plan,
        spec=shard.spec,
        preset=_recorded(model, preset),
        shard_sha256=shard.digest,
        records=len(shard.rows("train")),
        losses=Losses(first, judge(model, masker, device)),
        torch=str(torch.__version__),
    )
    card = _write(out, model, card)
    for file in ("state.safetensors", "state.json"):
        if state is not None:
            (state / file).unlink(missing_ok=True)
    return card


@torch.no_grad()
def judge(model: Restorer, masker: Masker, device: str) -> dict[str, float]:
    """The loss by kind on records kept apart, hidden the same way every time."""
    was = model.training
    model.eval()
    sums, counts = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))
    for shown, asked in masker.kept_apart(device, JUDGED):
        more, many = model(shown, asked)
        sums, counts = sums + more.cpu(), counts + many.cpu()
    model.train(was)
    return {n: round(float(s / c), 5) for n, s, c in zip(KINDS, sums, counts, strict=True) if c}


def start_from(model: FusionModel, start: Start) -> tuple[str, ...]:
    """Give a model's encoders the pretrained weights, analyte by analyte and concept by concept.

    Returns the tensors that keep their random start, since the pretrained model had none for them. Raises
    PretrainingError where the weights are others than `start` names, or no part of them fits.
    """
    folder = Path(start.folder)
    try:
        card = msgspec.json.decode((folder / CARD).read_bytes(), type=Card)
        blob = (folder / ENCODERS).read_bytes()
        tensors = load(blob)
    except (OSError, msgspec.DecodeError, SafetensorError) as error:
        raise PretrainingError(f"{folder}: not a pretraining ({error})") from None
    if hashlib.sha256(blob).hexdigest() != card.sha256 or card.sha256 != start.sha256:
        raise PretrainingError(f"{folder / ENCODERS}: sha-256 is not {start.sha256[:12]}..., which the recipe names")
    fresh = {n: v for n, v in model.state_dict().items() if n.startswith("encoders.")}
    taken = transfer(fresh, tensors, model.spec, card.spec)
    if not taken:
        raise PretrainingError(f"{folder}: preset {card.preset.name} fits no encoder of preset {model.preset.name}")
    model.load_state_dict(taken, strict=False)
    return tuple(sorted(set(fresh) - set(taken)))


def _recorded(model: Restorer, preset: Preset) -> Preset:
    """The preset with a backbone named by what it is instead of where it lies."""
    encoder = model.encoders["imaging"]
    if isinstance(encoder, ImageEncoder) and encoder.backbone is not None:
        image = msgspec.structs.replace(preset.image, backbone=encoder.backbone.backbone)
        return msgspec.structs.replace(preset, image=image)
    return preset


def _over_all(counts: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_initialized():
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a half cosine to a hundredth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _write(out: Path, model: Restorer, card: Card) -> Card:
    kept = {n: v.detach().cpu().contiguous() for n, v in model.state_dict().items() if n.startswith("encoders.")}
    blob = save(kept)
    card = msgspec.structs.replace(card, sha256=hashlib.sha256(blob).hexdigest())
    out.mkdir(parents=True, exist_ok=True)
    (out / ENCODERS).write_bytes(blob)
    (out / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n")
    return card


def _save(state: Path, model: Restorer, optimiser: torch.optim.AdamW, plan: Plan, shard: Shard, step: int) -> None:
    tensors = {f"model.{n}": v for n, v in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value)
    state.mkdir(parents=True, exist_ok=True)
    partial = state / "state.partial"
    save_file({n: v.detach().cpu().contiguous().clone() for n, v in tensors.items()}, partial)
    partial.replace(state / "state.safetensors")
    (state / "state.json").write_text(json.dumps({"of": _run(plan, shard), "step": step}))


def _resume(state: Path | None, model: Restorer, optimiser: torch.optim.AdamW, plan: Plan, shard: Shard) -> int:
    if state is None or not (state / "state.json").exists():
        return 0
    said = json.loads((state / "state.json").read_text())
    if said["of"] != _run(plan, shard):
        raise PretrainingError(f"{state}: holds a run of another plan or shard; remove it or pretrain elsewhere")
    tensors = load_file(state / "state.safetensors")
    model.load_state_dict({n[6:]: v for n, v in tensors.items() if n.startswith("model.")})
    for name, parameter in model.named_parameters():
        found = {k: tensors[f"{k}.{name}"] for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}.{name}" in tensors}
        if found:
            optimiser.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in found.items()}
    return int(said["step"])


def _run(plan: Plan, shard: Shard) -> str:
    return msgspec.json.encode(plan).decode() + shard.digest
