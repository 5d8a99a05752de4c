"""Where on a film a finding's probability comes from: how much of it goes when a part of the film is blotted out.

At order time the parts are the cells of the encoder's own grid, all blotted out in one small pass, so that every
finding is placed for less than a film's encoding costs. `explain` blots out the film itself, finer and
slower: for the evidence page, when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from models.anatomy import Mask
from models.contract import Place, Zone
from models.encoders.image import ImageEncoder
from models.fusion import FusionModel

Heat = NDArray[np.float32]

MARGIN = 0.05
"""Evidence this far outside a lung (as a share of the film) is taken for the zone's next to it: a finding at the chest
wall has half of its cell there."""
LEAST_SHARE = 0.25
"""A zone is named only where this share of the evidence lies in it; of six zones even evidence leaves at most 0.17."""
PREFIX = "finding."
PATCHES = 4
"""Of a map, worked out in one go: somebody who waits for an order waits no longer than for these."""


def findings_of(model: FusionModel) -> dict[str, int]:
    """The columns of the model's findings, by the finding's name: `effusion` of target `finding.effusion`."""
    named = {t.name: n for n, t in enumerate(model.spec.targets)}
    return {name[len(PREFIX) :]: n for name, n in named.items() if name.startswith(PREFIX)}


def finding_logits(model: FusionModel, films: Tensor, columns: Sequence[int]) -> Tensor:
    """What the imaging head says of films' encodings (N, 1 + K, D) by themselves -> (N, T), without bias."""
    head = model.heads["imaging"].weight
    assert isinstance(head, Tensor)
    return films.mean(dim=1) @ head[list(columns)].T


@torch.inference_mode()
def evidence(model: FusionModel, encoder: ImageEncoder, grid: Tensor) -> dict[str, Heat]:
    """Heat (h, w) by finding for one film's grid (1, C, h, w): the logit lost without each cell, where any is lost.

    A cell is blotted out with the mean of the film's others, and a heat sums to 1 or is zero everywhere.
    """
    columns = findings_of(model)
    _, channels, height, width = grid.shape
    cells = height * width
    flat = grid.reshape(channels, cells)
    mean = (flat.sum(dim=1, keepdim=True) - flat) / max(cells - 1, 1)
    blotted = flat.expand(cells, channels, cells).clone()
    index = torch.arange(cells)
    blotted[index, :, index] = mean.T
    films = encoder.read_out(torch.cat([grid, blotted.reshape(cells, channels, height, width)]))
    logits = finding_logits(model, films, list(columns.values()))
    lost = (logits[:1] - logits[1:]).clamp(min=0.0).T.reshape(len(columns), height, width).cpu().numpy()
    return {name: normalised(heat) for name, heat in zip(columns, lost, strict=True)}


def normalised(heat: NDArray[np.float32]) -> Heat:
    total = float(heat.sum())
    return np.asarray(heat / total if total > 1e-9 else np.zeros_like(heat), np.float32)


@dataclass(frozen=True, slots=True)
class Neighbourhoods:
    """Which zone a pixel belongs to: its own, or the nearest within MARGIN. nearest (S, S) indexes names, -1 none."""

    names: tuple[Zone, ...]
    nearest: NDArray[np.int64]


def neighbourhoods(zones: Mapping[Zone, Mask]) -> Neighbourhoods | None:
    """Worked out once per film, for all of its findings; None without zones."""
    if not zones:
        return None
    own = np.full(next(iter(zones.values())).shape, -1, np.int64)
    for n, mask in enumerate(zones.values()):
        own[mask] = n
    away, (row, column) = ndimage.distance_transform_edt(own < 0, return_indices=True)
    return Neighbourhoods(tuple(zones), np.where(away <= MARGIN * len(own), own[row, column], -1))


def place(finding: str, heat: Heat, near: Neighbourhoods | None) -> Place:
    """Which zone the evidence lies in."""
    if near is None or not heat.any():
        return Place(finding, heat, None, 0.0)
    fine = _spread(heat, near.nearest.shape)
    shares = np.bincount(near.nearest.ravel() + 1, fine.ravel(), len(near.names) + 1)[1:]
    best = int(shares.argmax())
    share = float(shares[best])
    return Place(finding, heat, near.names[best] if share >= LEAST_SHARE else None, round(share, 3))


def _spread(heat: Heat, shape: tuple[int, ...]) -> Heat:
    """Heat on a coarse grid over a finer one, with the same sum."""
    fine = F.interpolate(torch.from_numpy(heat)[None, None], size=shape, mode="bilinear", align_corners=False)
    return normalised(fine[0, 0].numpy())


@torch.inference_mode()
def explain(
    model: FusionModel,
    pixels: NDArray[np.float32],
    finding: str,
    *,
    parts: int = 12,
    between: Callable[[], None] = lambda: None,
) -> Heat:
    """A map (H, W) of one finding on one film (1, H, W) for the evidence page: the logit lost where a patch, an eighth
    of the film wide, is replaced by its own blur. `parts` patches a side; sums to 1 or is zero everywhere.

    `between` is called after every few patches, and ends the work by raising. Raises ValueError for a model without
    films or without this finding.
    """
    encoder, columns = model.image_encoder(), findings_of(model)
    if encoder is None or finding not in columns:
        raise ValueError(f"no films to explain {finding!r} on")
    head = model.heads["imaging"].weight
    assert isinstance(head, Tensor)
    film = torch.from_numpy(np.ascontiguousarray(pixels, np.float32))[None].to(head.device)
    size = film.shape[-1]
    blur = F.interpolate(
        F.interpolate(film, size=(6, 6), mode="area"), size=(size, size), mode="bilinear", align_corners=False
    )
    axis = (torch.arange(size, device=film.device) + 0.5) / size
    centres = (torch.arange(parts, device=film.device) + 0.5) / parts
    inside = ((axis[None] - centres[:, None]).abs() < 1.0 / 16.0).float()  # (parts, size)
    column = [columns[finding]]
    whole = finding_logits(model, encoder.films(film), column)[0, 0]
    lost = []
    for row in range(parts):
        for few in torch.split(inside, PATCHES):
            patch = (inside[row][None, :, None] * few[:, None, :])[:, None]  # (few, 1, size, size)
            blotted = film * (1.0 - patch) + blur * patch
            lost.append(whole - finding_logits(model, encoder.films(blotted), column)[:, 0])
            between()
    found = torch.cat(lost).clamp(min=0.0).reshape(parts, parts).cpu().numpy()
    return _spread(normalised(found), (size, size))
