"""Films: a compact convolutional network, read out by learned region queries."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.backbones.trunk import BackboneTrunk, load_trunk
from models.config import ImagePreset, Preset
from models.contract import InputSpec
from models.encoders import AgeEncoding, Attention, Encoded, Tokens


class Residual(nn.Module):
    """Two 3x3 convolutions around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def trunk(channels: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Sequential:
    """Grey film (N, 1, H, W) -> feature map (N, channels[-1], H / 2**n, W / 2**n), n stages that halve the film."""
    layers: list[nn.Module] = []
    before = 1
    for stage, (after, depth) in enumerate(zip(channels, blocks, strict=True)):
        kernel = 5 if stage == 0 else 3
        layers += [
            nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            *(Residual(after) for _ in range(depth)),
        ]
        before = after
    return nn.Sequential(*layers)


def build_trunk(p: ImagePreset) -> nn.Sequential | BackboneTrunk:
    """The convolutions of a preset, or the backbone it names: loaded from a folder, or bare for a checkpoint's own."""
    if p.backbone is None:
        return trunk(p.channels, p.blocks)
    return load_trunk(Path(p.backbone)) if isinstance(p.backbone, str) else BackboneTrunk(p.backbone)


class ImageEncoder(nn.Module):
    """Encode the current film and the one before it.

    code (B, S) 1 + index of the view; values (B, S, 1, H, W) grey levels in [0, 1]; newest film first. Each film
    gives `regions` tokens, to which view, age and slot (current or prior) are added. `pooled` is the newest seen
    film's and holds pixels only: what the late-fusion head says of a film does not read the view from the header.
    """

    def __init__(self, spec: InputSpec, preset: Preset) -> None:
        super().__init__()
        width, p = preset.width, preset.image
        self.regions, self.width = p.regions, width
        self.trunk = build_trunk(p)
        if isinstance(self.trunk, BackboneTrunk):
            channels, side = self.trunk.channels, self.trunk.grid
        else:
            channels, side = p.channels[-1], -(-spec.image.size // 2 ** len(p.channels))
        self.project = nn.Conv2d(channels, width, 1)
        self.place = nn.Parameter(torch.randn(1, width, side, side) * 0.02)
        self.queries = nn.Parameter(torch.randn(p.regions, width) * 0.2)
        self.attention = Attention(width, 4)
        self.norm = nn.LayerNorm(width)
        self.whole = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width))
        self.dropout = nn.Dropout(preset.dropout)
        self.view = nn.Embedding(len(spec.image.views) + 1, width)
        self.slot = nn.Embedding(spec.image.films, width)
        nn.init.normal_(self.view.weight, std=0.1)
        nn.init.normal_(self.slot.weight, std=0.1)
        self.age = AgeEncoding(width)
        self.fast = False
        """Run the convolutions in bfloat16: for training speed only."""

    @property
    def backbone(self) -> BackboneTrunk | None:
        """The published network that reads the films, None where our own convolutions do."""
        return self.trunk if isinstance(self.trunk, BackboneTrunk) else None

    def films(self, pixels: Tensor) -> Tensor:
        """Encode films (N, 1, H, W) on their own -> (N, 1 + regions, D): the whole film, then its regions.

        Depends on the pixels alone, so it may be kept and used again for the same film.
        """
        if not len(pixels):
            return pixels.new_zeros((0, 1 + self.regions, self.width))
        return self.read_out(self.grid(pixels))

    def grid(self, pixels: Tensor) -> Tensor:
        """Films (N, 1, H, W) -> the feature map (N, C, h, w) that `read_out` turns into tokens."""
        if not isinstance(self.trunk, BackboneTrunk):  # a backbone has its own scale
            pixels = (pixels - 0.5).contiguous(memory_format=torch.channels_last)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.fast):
            features: Tensor = self.trunk(pixels)
        return features.float()

    def read_out(self, features: Tensor) -> Tensor:
        """Feature maps (N, C, h, w) of `grid` -> (N, 1 + regions, D)."""
        whole = self.whole(self.dropout(features.mean(dim=(2, 3))))
        spots = self.project(features)
        keys = spots.flatten(2).transpose(1, 2)
        keys = keys + self.place[:, :, : spots.shape[2], : spots.shape[3]].flatten(2).transpose(1, 2)
        queries = self.queries.expand(len(features), -1, -1)
        everywhere = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
        regions = self.norm(self.attention(queries, keys, everywhere))
        return torch.cat([whole[:, None], regions], dim=1)

    def forward(self, signal: Tokens, films: Tensor | None = None) -> Encoded:
        """`films` (M, 1 + regions, D) are the seen films' encodings in row-major order, where already at hand."""
        seen = signal.seen
        batch, slots = seen.shape
        if films is None:
            films = self.films(signal.values[seen])
        encoded = films.new_zeros((batch, slots, 1 + self.regions, self.width))
        encoded[seen] = films
        meta = (
            self.view(torch.where(seen, signal.code, 0))
            + self.age(torch.where(seen, signal.age_h, 0.0))
            + self.slot.weight[:slots]
        )
        tokens = (encoded + meta[:, :, None]) * seen[:, :, None, None]
        newest = seen.to(torch.int64).argmax(dim=1)
        pooled = encoded[torch.arange(batch, device=seen.device), newest].mean(dim=1)
        return Encoded(
            tokens.flatten(1, 2),
            seen[:, :, None].expand(-1, -1, 1 + self.regions).flatten(1, 2),
            pooled,
            seen.any(dim=1),
        )
