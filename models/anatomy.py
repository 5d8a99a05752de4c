"""Where the lungs and the heart lie on a film, and what kind of picture it is: one small network for both.

A U-Net on films of 128 pixels. Its lungs were learned from outlines that people drew and from generated films, its
heart from generated films alone. What it outlines is believed only where it looks like a chest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract import Anatomy, Structure, Zone

SIZE = 128
STRUCTURES: tuple[Structure, ...] = get_args(Structure)
ZONES: tuple[Zone, ...] = get_args(Zone)
Kind = Literal["frontal", "lateral", "other", "turned", "inverted", "broken"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a picture may be: an upright frontal chest film first; `other` is another part of the body, a scene or noise,
`turned` a chest film turned or upside down, `broken` one that is torn or a magnified part."""

Mask = NDArray[np.bool_]


class AnatomyPreset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Channels at 64, 32, 16 and 8 pixels."""

    channels: tuple[int, int, int, int] = (24, 48, 96, 128)
    hidden: int = 64


class _Twice(nn.Sequential):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """outlines (N, 3, 128, 128) logits of `STRUCTURES`; kinds (N, 6) logits of `KINDS`."""

    outlines: Tensor
    kinds: Tensor


class AnatomyNet(nn.Module):
    """Films (N, 1, 128, 128) in [0, 1] -> `Seen`. Works on 2 x 2 pixel blocks: the full grid is never convolved."""

    def __init__(self, preset: AnatomyPreset) -> None:
        super().__init__()
        c = preset.channels
        self.down = nn.ModuleList(_Twice(before, after) for before, after in zip((4, *c), c, strict=False))
        self.up = nn.ModuleList(_Twice(below + here, here) for below, here in zip(c[:0:-1], c[-2::-1], strict=True))
        self.outline = nn.Conv2d(c[0], 4 * len(STRUCTURES), 1)
        self.kind = nn.Sequential(nn.Linear(4 * c[-1], preset.hidden), nn.ReLU(), nn.Linear(preset.hidden, len(KINDS)))

    def forward(self, films: Tensor) -> Seen:
        x = F.pixel_unshuffle((films - 0.5).contiguous(memory_format=torch.channels_last), 2)
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        # Where in the picture something lies tells a turned film from an upright one: top and bottom pooled apart.
        upper, lower = x[:, :, : x.shape[2] // 2], x[:, :, x.shape[2] // 2 :]
        pooled = torch.cat([half.float().amax(dim=(2, 3)) for half in (upper, lower)], dim=1)
        pooled = torch.cat([pooled, *(half.float().mean(dim=(2, 3)) for half in (upper, lower))], dim=1)
        kinds = self.kind(pooled)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))
        return Seen(F.pixel_shuffle(self.outline(x), 2).float(), kinds)


def resized(films: Tensor, size: int = SIZE) -> Tensor:
    """Films (N, 1, H, W) as the network reads them: every model's films are squares of its own size."""
    if films.shape[-1] == size:
        return films
    return F.interpolate(films, size=(size, size), mode="bilinear", antialias=True, align_corners=False).clamp(0.0, 1.0)


# ---------------------------------------------------------------------------------------------- from logits to anatomy

LUNG_AREA = (0.03, 0.36)
"""Share of the square that one lung may take. The human outlines lie between 0.09 and 0.22."""
LUNG_RATIO = 3.0
HEART_AREA = (0.02, 0.22)
CTR_RANGE = (0.30, 0.85)
HEART_LEARNED = "the outline of the heart was learned from generated films only"
OVERSTATES = "an AP film magnifies the heart, so the ratio overstates"
UNKNOWN_VIEW = "the projection is not known; on an AP film the ratio overstates"


def believed(logits: NDArray[np.float32], size: int) -> dict[Structure, Mask]:
    """One film's outlines (3, 128, 128) as masks on a square of `size`, those that are plausible."""
    tensor = torch.from_numpy(np.ascontiguousarray(logits))[None]
    if size != logits.shape[-1]:
        tensor = F.interpolate(tensor, size=(size, size), mode="bilinear", align_corners=False)
    return _plausible({name: _largest(tensor[0, n].numpy() > 0.0) for n, name in enumerate(STRUCTURES)})


def anatomy_of(masks: Mapping[Structure, Mask], view: str) -> Anatomy:
    """`Anatomy` of plausible masks; `view` as in `ImageSpec.views`."""
    zones = thirds({name: mask for name, mask in masks.items() if name != "heart"})
    ratio, why = _ratio(masks, view)
    return Anatomy(masks, zones, ratio, why)


def _largest(mask: Mask) -> Mask:
    """The largest connected part, its holes filled."""
    labels, parts = ndimage.label(mask)
    if parts == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    filled: Mask = ndimage.binary_fill_holes(labels == int(sizes.argmax()))
    return filled


def _plausible(found: Mapping[Structure, Mask]) -> dict[Structure, Mask]:
    """Those that can be what they are called: lungs of a lung's size with the right one left on the film, a heart
    between the middles of two lungs and below theirs."""
    left, right, heart = found["left_lung"], found["right_lung"], found["heart"]
    areas = {name: float(mask.mean()) for name, mask in found.items()}
    masks: dict[Structure, Mask] = {}
    lungs: tuple[Structure, ...] = ("left_lung", "right_lung")
    for name in lungs:
        if LUNG_AREA[0] <= areas[name] <= LUNG_AREA[1]:
            masks[name] = found[name]
    if len(masks) < 2:
        return masks
    if columns(right).mean() >= columns(left).mean():
        return {}
    if max(areas["left_lung"], areas["right_lung"]) > LUNG_RATIO * min(areas["left_lung"], areas["right_lung"]):
        return masks
    if not HEART_AREA[0] <= areas["heart"] <= HEART_AREA[1]:
        return masks
    middle_x, middle_y = columns(heart).mean(), rows(heart).mean()
    between = columns(right).mean() < middle_x < columns(left).mean() + 0.02 * heart.shape[1]
    if between and middle_y > rows(left | right).mean():
        masks["heart"] = heart
    return masks


def columns(mask: Mask) -> NDArray[np.int64]:
    return np.nonzero(mask)[1]


def rows(mask: Mask) -> NDArray[np.int64]:
    return np.nonzero(mask)[0]


def thirds(lungs: Mapping[Structure, Mask]) -> dict[Zone, Mask]:
    """Upper, mid and lower third of every lung, by its own height from apex to base."""
    zones: dict[Zone, Mask] = {}
    sides: tuple[tuple[str, Structure], ...] = (("right", "right_lung"), ("left", "left_lung"))
    for side, name in sides:
        mask = lungs.get(name)
        if mask is None or not mask.any():
            continue
        top, bottom = int(rows(mask).min()), int(rows(mask).max()) + 1
        edges = [top + round((bottom - top) * n / 3) for n in range(4)]
        for level, (start, stop) in zip(("upper", "mid", "lower"), pairwise(edges), strict=True):
            zone = np.zeros_like(mask)
            zone[start:stop] = mask[start:stop]
            zones[f"{side}_{level}"] = zone  # type: ignore[index]
    return zones


def cardiothoracic_ratio(heart: Mask, left: Mask, right: Mask) -> float:
    """Greatest width of the heart over the greatest width from the outer border of one lung to that of the other."""
    width = int(columns(heart).max()) - int(columns(heart).min()) + 1
    thorax = 0
    for row in np.flatnonzero(left.any(axis=1) & right.any(axis=1)):
        thorax = max(thorax, int(np.flatnonzero(left[row]).max()) - int(np.flatnonzero(right[row]).min()) + 1)
    return width / thorax if thorax else 0.0


def _ratio(masks: Mapping[Structure, Mask], view: str) -> tuple[float | None, str]:
    if not {"left_lung", "right_lung"} <= set(masks):
        return None, "the outlines of the lungs are not those of two lungs"
    if "heart" not in masks:
        return None, "no outline of a heart between the lungs was found"
    ratio = cardiothoracic_ratio(masks["heart"], masks["left_lung"], masks["right_lung"])
    if not CTR_RANGE[0] <= ratio <= CTR_RANGE[1]:
        return None, "the measured ratio is outside what a chest can have"
    projection = {"PA": None, "AP": OVERSTATES}.get(view, UNKNOWN_VIEW)
    return round(ratio, 3), "; ".join(filter(None, (projection, HEART_LEARNED)))
