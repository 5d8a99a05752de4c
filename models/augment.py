"""Changes to films that a finding survives: small turns, crops, exposure, burnt-in markers covered."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def augment(films: Tensor, generator: torch.Generator) -> Tensor:
    """Films (N, 1, H, W) in [0, 1] -> the same shape; every film its own draw.

    Mirroring is included: none of the findings depends on the side, and small sets need the variety.
    """
    n, _, height, width = films.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle = uniform(-10.0, 10.0) * math.pi / 180.0
    scale = uniform(0.85, 1.1)
    mirror = torch.where(uniform(0.0, 1.0) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * torch.cos(angle) * mirror, -scale * torch.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = scale * torch.sin(angle) * mirror, scale * torch.cos(angle)
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.08, 0.08), uniform(-0.08, 0.08)
    theta = theta.to(films.device)
    grid = torch.nn.functional.affine_grid(theta, list(films.shape), align_corners=False)
    out = torch.nn.functional.grid_sample(films, grid, padding_mode="zeros", align_corners=False)
    shape = (n, 1, 1, 1)
    gamma = torch.exp(uniform(-0.35, 0.35)).view(shape).to(films.device)
    contrast = uniform(0.8, 1.2).view(shape).to(films.device)
    brightness = uniform(-0.1, 0.1).view(shape).to(films.device)
    out = (out.clamp(0.0, 1.0) ** gamma - 0.5) * contrast + 0.5 + brightness
    rows, columns = torch.arange(height, device=films.device), torch.arange(width, device=films.device)
    for _ in range(2):
        # Markers and text sit in the corners and tell the hospital, the machine and the ward apart.
        top, left = uniform(0.0, 1.0).to(films.device), uniform(0.0, 1.0).to(films.device)
        tall, wide = uniform(0.05, 0.2).to(films.device), uniform(0.05, 0.2).to(films.device)
        inside_rows = (rows >= top[:, None] * height) & (rows < (top + tall)[:, None] * height)
        inside_columns = (columns >= left[:, None] * width) & (columns < (left + wide)[:, None] * width)
        out = out * ~(inside_rows[:, None, :, None] & inside_columns[:, None, None, :])
    return out.clamp(0.0, 1.0)
