"""Changes to films while the imaging networks learn: those that a chest film survives, and those it does not."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.anatomy import Kind
from models.gates import spoilt

SPOILT: dict[str, Kind] = {
    "turned left": "turned",
    "turned right": "turned",
    "upside down": "turned",
    "inverted": "inverted",
    "magnified": "broken",
    "torn": "broken",
}
"""What a film that was changed so is to the gate; `noise` of `gates.CHANGES` is a picture of its own."""
SHARPNESS = (56, 72, 96, 128)
"""Films arrive in the size of the model that is served, which may be smaller than the network's own."""


def vary(
    films: Tensor, generator: torch.Generator, *, turn: float = 10.0, mirror: bool = False
) -> tuple[Tensor, Tensor]:
    """Films (N, 1, S, S) turned, scaled and moved each by its own draw, and the grid (N, S, S, 2) that did it.

    Films are never mirrored unless asked: left and right are what the outlines are about.
    """
    n, size = len(films), films.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle = uniform(-turn, turn) * math.pi / 180.0
    stretch, scale = uniform(0.9, 1.1), uniform(0.78, 1.3)
    flip = torch.where(uniform(0.0, 1.0) < 0.5, -1.0, 1.0) if mirror else torch.ones(n)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * stretch * torch.cos(angle) * flip, -scale * torch.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = scale * stretch * torch.sin(angle) * flip, scale * torch.cos(angle)
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.10, 0.10), uniform(-0.10, 0.10)
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    return F.grid_sample(films, grid, padding_mode="zeros", align_corners=False), grid


def exposed(films: Tensor, generator: torch.Generator) -> Tensor:
    """Another exposure, shading, sharpness and grain, burnt-in marks, a dark border: each film its own draw."""
    n, _, size, _ = films.shape

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(n, generator=generator) * (high - low) + low).view(n, 1, 1, 1)

    out = films.clamp(0.0, 1.0) ** torch.exp(uniform(-0.5, 0.5))
    out = (out - 0.5) * uniform(0.75, 1.25) + 0.5 + uniform(-0.1, 0.1)
    shade = F.interpolate(torch.randn(n, 1, 4, 4, generator=generator), size=(size, size), mode="bicubic")
    out = out + uniform(0.0, 0.12) * shade
    sharpness = SHARPNESS[int(torch.randint(len(SHARPNESS), (1,), generator=generator))]
    if sharpness < size:
        soft = F.interpolate(out, size=(sharpness, sharpness), mode="bilinear", antialias=True, align_corners=False)
        soft = F.interpolate(soft, size=(size, size), mode="bilinear", align_corners=False)
        out = torch.where(uniform(0.0, 1.0) < 0.5, soft, out)
    out = out + uniform(0.0, 0.05) * torch.randn(out.shape, generator=generator)
    axis = (torch.arange(size) + 0.5) / size
    for _ in range(2):
        # Markers, text, plates and electrodes: bright or dark, anywhere, small.
        top, left, tall, wide = (
            uniform(*limits)[:, 0, 0] for limits in ((0.0, 1.0), (0.0, 1.0), (0.02, 0.15), (0.02, 0.15))
        )
        inside_rows = (axis >= top) & (axis < top + tall)
        inside_columns = (axis >= left) & (axis < left + wide)
        patch = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]) & (uniform(0.0, 1.0) < 0.5)
        out = torch.where(patch, uniform(0.0, 1.0), out)
    edge = uniform(0.0, 0.10) * (uniform(0.0, 1.0) < 0.3)
    border = torch.minimum(axis, 1.0 - axis).view(1, 1, 1, size) < edge
    return torch.where(border, torch.zeros(()), out).clamp(0.0, 1.0)


def torn(films: Tensor, generator: torch.Generator) -> Tensor:
    """Films in 2 to 4 by 2 to 4 pieces, in another order."""
    size = films.shape[-1]
    parts = int(torch.randint(2, 5, (1,), generator=generator))
    side = size // parts
    cut = films[..., : side * parts, : side * parts]
    tiles = cut.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)
    order = torch.randperm(parts * parts, generator=generator)
    while bool((order == torch.arange(parts * parts)).all()):
        order = torch.randperm(parts * parts, generator=generator)
    tiles = tiles[:, :, order].reshape(len(films), 1, parts, parts, side, side)
    joined = tiles.permute(0, 1, 2, 4, 3, 5).reshape(len(films), 1, side * parts, side * parts)
    return F.pad(joined, (0, size - side * parts, 0, size - side * parts))


def magnified(films: Tensor, generator: torch.Generator) -> Tensor:
    """A part of a film, a quarter to a half of it wide, anywhere."""
    size = films.shape[-1]
    side = int(size * (0.25 + 0.2 * float(torch.rand(1, generator=generator))))
    top, left = (int(torch.randint(size - side, (1,), generator=generator)) for _ in range(2))
    part = films[:, :, top : top + side, left : left + side]
    return F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)


def spoil(films: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """As `gates.spoilt`, the torn and the magnified in more ways than one."""
    if kind == "torn":
        return torn(films, generator)
    if kind == "magnified":
        return magnified(films, generator)
    return spoilt(films, kind, generator)
