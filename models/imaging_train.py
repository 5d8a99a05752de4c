"""Train the anatomy network: outlines where somebody drew them, the kind of picture for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.anatomy import KINDS, AnatomyNet, AnatomyPreset, resized
from models.config import ConfigError
from models.film_changes import SPOILT, exposed, spoil, vary
from models.film_data import (
    HEART,
    HEART_KNOWN,
    LEFT_LUNG,
    LUNGS_KNOWN,
    RIGHT_LUNG,
    SOURCES,
    TRAIN,
    FilmShard,
    bit,
    to_films,
)

Progress = Callable[[str, int, int, float], None]


class ImagingRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole training run of the imaging networks, reproducible from this file, the shards and the seed.

    films    pictures of a step: frontal films by source, films that are spoilt, foreign pictures
    compares which checkpoints' findings are placed and compared: model -> shard of its pairs
    """

    name: str
    version: str
    seed: int
    steps: int
    rate: float
    films: dict[str, int]
    spoilt: int
    foreign: int
    compares: dict[str, str]
    weight_decay: float = 0.01
    preset: AnatomyPreset = AnatomyPreset()


def load_imaging_recipe(name_or_path: str | Path) -> ImagingRecipe:
    """A recipe by name (`chest-anatomy`) or from a YAML file."""
    path = Path(name_or_path)
    file = path if path.suffix == ".yaml" else resources.files("models").joinpath("configs", f"{name_or_path}.yaml")
    try:
        return msgspec.convert(yaml.safe_load(file.read_text(encoding="utf-8")), ImagingRecipe)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{name_or_path}: {error}") from None


class _Draw:
    """Batches of one shard, the same for the same seed."""

    def __init__(self, shard: FilmShard, recipe: ImagingRecipe) -> None:
        a = shard.arrays
        train, frontal = a["split"] == TRAIN, a["kind"] == 0
        self._shard, self._recipe = shard, recipe
        drawn = bit(a["masks"], LUNGS_KNOWN).any(axis=(1, 2))
        self._pools: dict[str, NDArray[np.int64]] = {}
        for name in recipe.films:
            source, _, only = name.partition(" ")
            chosen = train & frontal & (a["source"] == SOURCES.index(source))
            self._pools[name] = np.flatnonzero(chosen & drawn if only == "outlined" else chosen)
        self._foreign = np.flatnonzero(train & ~frontal)
        self._all = np.flatnonzero(train & frontal)
        self._rng = np.random.default_rng(recipe.seed)
        self._generator = torch.Generator().manual_seed(recipe.seed)

    def _films(self, rows: NDArray[np.int64]) -> Tensor:
        return resized(torch.from_numpy(to_films(self._shard.arrays["pixels"][rows])))

    def step(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """films (N, 1, 128, 128), outlines (N, 3, 128, 128), which of them are known, kinds (N,)."""
        rng, recipe, g = self._rng, self._recipe, self._generator
        rows = np.concatenate([rng.choice(self._pools[n], count) for n, count in recipe.films.items()])
        bits = self._shard.arrays["masks"][rows]
        outlines = torch.from_numpy(np.stack([bit(bits, b) for b in (LEFT_LUNG, RIGHT_LUNG, HEART)], axis=1)).float()
        known = torch.from_numpy(
            np.stack([bit(bits, b) for b in (LUNGS_KNOWN, LUNGS_KNOWN, HEART_KNOWN)], axis=1)
        ).float()
        films, grid = vary(self._films(rows), g)
        outlines = F.grid_sample(outlines, grid, align_corners=False)
        known = F.grid_sample(known, grid, mode="nearest", align_corners=False)
        kinds = [0] * len(rows)
        parts = [films]
        # Foreign pictures hold no lung and no heart: that is known of them too.
        others = rng.choice(self._foreign, recipe.foreign)
        parts.append(vary(self._films(others), g, turn=25.0, mirror=True)[0])
        named = [self._shard.kinds[k] for k in self._shard.arrays["kind"][others]]
        kinds += [KINDS.index("lateral" if name == "lateral" else "other") for name in named]
        for row in rng.choice(self._all, recipe.spoilt):
            how = str(rng.choice(list(SPOILT)))
            film = vary(self._films(np.array([row])), g)[0]
            parts.append(spoil(film, how, g))
            kinds.append(KINDS.index(SPOILT[how]))
        x = exposed(torch.cat(parts), g)
        blank = torch.zeros(len(x) - len(rows), *outlines.shape[1:])
        unknown = blank.clone()
        unknown[: recipe.foreign] = 1.0
        return x, torch.cat([outlines, blank]), torch.cat([known, unknown]), torch.tensor(kinds)


def train_anatomy(shard: FilmShard, recipe: ImagingRecipe, *, progress: Progress | None = None) -> AnatomyNet:
    """The network in eval mode, weights rounded to float16 as they are stored. Deterministic for shard, recipe and
    number of threads."""
    torch.manual_seed(recipe.seed)
    net = AnatomyNet(recipe.preset)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decay = [p for p in net.parameters() if p.dim() > 1]
    plain = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate)
    draw, running = _Draw(shard, recipe), math.nan
    net.train()
    for step in range(recipe.steps):
        share = step / recipe.steps
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * min(1.0, share * 20.0 + 0.02) * (0.51 + 0.49 * math.cos(math.pi * share))
        films, outlines, known, kinds = draw.step()
        with torch.autocast("cpu", torch.bfloat16):
            seen = net(films)
        loss = _outline_loss(seen.outlines.float(), outlines, known) + F.cross_entropy(seen.kinds.float(), kinds)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        value = float(loss.detach())
        running = value if math.isnan(running) else 0.97 * running + 0.03 * value
        if progress is not None and (step % 20 == 0 or step + 1 == recipe.steps):
            progress("outlines", step + 1, recipe.steps, running)
    net.eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.half().float())
    return net


def _outline_loss(logits: Tensor, outlines: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy and soft Dice where the outline is known."""
    each = F.binary_cross_entropy_with_logits(logits, outlines, reduction="none")
    entropy = (each * known).sum() / known.sum().clamp(min=1.0)
    p = torch.sigmoid(logits) * known
    overlap = (p * outlines).sum(dim=(2, 3))
    total = p.sum(dim=(2, 3)) + (outlines * known).sum(dim=(2, 3))
    dice = 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)
    drawn = (outlines * known).sum(dim=(2, 3)) > 0
    return 2.0 * entropy + (dice * drawn).sum() / drawn.sum().clamp(min=1)
