"""Schematic chest films with exact masks: what a generated patient's radiograph looks like.

A film is a sum of attenuations (soft tissue, bone, lung as a deficit, fluid) that is turned into grey levels at
the end, so that signs overlap as they do on a radiograph. It is meant to be recognisable and to carry its truth
exactly, not to be taken for a real film.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from fhir_mappers.cohort.anatomy import (
    SIGN,
    UNITS_PER_MM,
    Build,
    Grid,
    Pose,
    Side,
    Thorax,
    Zone,
    step,
    to_pixel,
)
from fhir_mappers.cohort.exposure import Exposure, develop, leads

VISIBLE = 0.03
"""Added attenuation from which a pixel belongs to the mask of a sign."""

Pattern = Literal["consolidation", "ground_glass", "reticular"]
DENSITY: dict[Pattern, float] = {"consolidation": 0.40, "ground_glass": 0.20, "reticular": 0.24}


@dataclass(frozen=True, slots=True)
class Opacity:
    """Increased density in one zone of one lung; strength and extent from 0 to 1."""

    side: Side
    zone: Zone
    strength: float = 0.8
    extent: float = 0.5
    pattern: Pattern = "consolidation"


@dataclass(frozen=True, slots=True)
class Nodule:
    side: Side
    zone: Zone
    radius_mm: float


@dataclass(frozen=True, slots=True)
class Signs:
    """What is on the film. Effusions and the pneumothorax have a size from 0 to 1."""

    opacities: tuple[Opacity, ...] = ()
    effusions: tuple[tuple[Side, float], ...] = ()
    pneumothorax: tuple[Side, float] | None = None
    nodule: Nodule | None = None


@dataclass(frozen=True, slots=True)
class Film:
    """pixels (S, S) float32 in [0, 1] on 12-bit levels, bright is dense; masks: sign -> (S, S) bool."""

    pixels: NDArray[np.float32] = field(repr=False)
    masks: Mapping[str, NDArray[np.bool_]] = field(repr=False)


def draw_film(signs: Signs, build: Build, pose: Pose, exposure: Exposure, size: int = 256) -> Film:
    """Draw one film. The same arguments give the same pixels; `size` changes resolution, not content."""
    thorax = Thorax(build, pose, size)
    masks: dict[str, NDArray[np.bool_]] = {}
    aerated = thorax.lung
    pleura: Grid | None = None
    if signs.pneumothorax is not None:
        aerated, pleura = _pneumothorax(thorax, *signs.pneumothorax, masks)
    density = _body(thorax) - 0.50 * thorax.lung
    density += aerated * (0.05 + 0.36 * _vessels(thorax)) * (1.0 + 0.25 * (thorax.y > 0))
    if pleura is not None:
        density += pleura
    density += _bones(thorax)
    mediastinum = _mediastinum(thorax)
    # A silhouette hides what lies in the lung behind it, but not entirely.
    density += _in_the_lung(thorax, signs, aerated * (1.0 - 0.8 * np.clip(mediastinum * 1.5, 0.0, 1.0)), masks)
    density = np.maximum(density, mediastinum * 0.92)
    density = np.maximum(density, _fluid(thorax, signs, masks))
    density -= _air(thorax)
    if exposure.leads:
        density += 0.35 * leads(thorax, exposure.seed)
    heart = thorax.heart() > 0.5
    masks["heart"] = heart
    masks["lungs"] = thorax.lung > 0.5
    return Film(develop(density, thorax, exposure), masks)


def _body(thorax: Thorax) -> Grid:
    """Soft tissue of the chest wall, shoulders, abdomen and, in women, the breasts."""
    y, ax, build = thorax.y, thorax.ax, thorax.build
    inside = _half_width(thorax) - ax
    path = np.sqrt(np.clip(inside * np.float32(1.0 / 0.30), 0.0, 1.0))
    body = step(inside, 0.01) * (0.30 + 0.36 * path)
    abdomen = step(y - np.minimum(thorax.dome, thorax.angle_y), 0.06)
    body += abdomen * step(inside, 0.06) * 0.13
    # Muscle of the axilla and the upper arm beside the rib cage.
    body += 0.10 * step(np.minimum(inside, ax - thorax.outer - 0.03), 0.05)
    if build.female:
        for sign in (-1.0, 1.0):
            body += 0.07 * thorax.ellipse((sign * 0.43 * build.width, 0.22), (0.34, 0.30), soft=0.05)
    return np.asarray(body, np.float32)


def _half_width(thorax: Thorax) -> Grid:
    """Half the width of the body at every y: neck, shoulders, axilla, flank."""
    heights = np.array([-1.3, -0.93, -0.84, -0.74, -0.55, -0.30, -0.05, 0.4, 1.3], np.float32)
    widths = np.array([0.20, 0.21, 0.34, 0.95, 1.12, 0.97, 0.88, 0.84, 0.86], np.float32)
    return np.asarray(np.interp(thorax.y, heights, widths * np.float32(thorax.build.width)), np.float32)


def _bones(thorax: Thorax) -> Grid:
    """Ribs as one periodic function of the distance from a curve, the clavicles, and scapulae on AP films."""
    y, ax, build = thorax.y, thorax.ax, thorax.build
    spacing = np.float32(build.ribs)
    cage = step(np.minimum(thorax.outer + 0.035 - ax, y - thorax.top - 0.01), 0.012)
    cage = cage * step(thorax.angle_y + 0.10 - y, 0.10)

    def ribs(curve: Grid, half_width: float, offset: float) -> Grid:
        phase = (y - curve) / spacing + np.float32(offset)
        distance = np.abs(phase - np.floor(phase) - 0.5) * spacing
        inside = np.float32(half_width) - distance
        # The cortex is brighter than the marrow: two rims with a fainter band between them.
        return step(inside, 0.008) - 0.55 * step(inside - 0.011, 0.008)

    posterior = ribs(0.05 * np.cos(ax * 6.0) + 0.62 * ax * ax - 0.06 * ax, 0.026, 0.15)
    anterior = ribs(0.62 - 0.78 * ax + 0.35 * ax * ax, 0.022, 0.6)
    bones = cage * (0.15 * posterior * step(ax - 0.07, 0.02) + 0.07 * anterior * step(ax - 0.30, 0.06))
    along = np.clip((ax - 0.06) / 0.74, 0.0, 1.0)
    clavicle_y = np.float32(thorax.top + 0.10) - 0.17 * along + 0.05 * np.sin(along * 5.2)
    inside = np.minimum(0.030 - np.abs(y - clavicle_y), np.minimum(ax - 0.05, 0.80 - ax))
    bones += 0.19 * (step(inside, 0.009) - 0.35 * step(inside - 0.012, 0.009))
    # A triangle: medial border, lateral border, spine of the scapula.
    scapula = np.minimum(ax - 0.50 - 0.22 * (y + 0.62), 0.98 - ax - 0.55 * (y + 0.62))
    scapula = np.minimum(scapula, y + 0.62)
    bones += (0.09 if thorax.pose.view == "AP" else 0.045) * step(scapula, 0.03)
    spine = step(0.075 - ax, 0.012)
    disc = np.abs(((y + 0.02) * 8.5) % 1.0 - 0.5)
    bones += spine * (0.05 + 0.05 * step(disc.astype(np.float32) - 0.09, 0.04))
    return bones * step(0.97 * _half_width(thorax) - ax, 0.02)


def _mediastinum(thorax: Thorax) -> Grid:
    """Heart, great vessels, hila; as one silhouette, since overlapping soft tissue makes no inner borders."""
    y, ax = thorax.y, thorax.ax
    width = thorax.build.width
    trunk_half = (0.115 + 0.02 * np.clip((y + 0.8) * 1.2, 0.0, 1.0)) * width
    shape = step(np.minimum(trunk_half - ax, 0.45 - y), 0.02)
    shape = np.maximum(shape, thorax.ellipse((0.085 * width, -0.30), (0.105, 0.10)))
    shape = np.maximum(shape, thorax.ellipse((0.10 * width, -0.10), (0.12, 0.13), soft=0.03))
    shape = np.maximum(shape, thorax.heart())
    hila = thorax.ellipse((-0.165 * width, -0.03), (0.075, 0.13), soft=0.06)
    hila = np.maximum(hila, thorax.ellipse((0.185 * width, -0.08), (0.075, 0.12), soft=0.06))
    vertical = 0.66 + 0.10 * np.clip(y + 0.5, 0.0, 1.0)
    return np.asarray(np.maximum(shape * vertical, 0.46 * hila), np.float32)


def _air(thorax: Thorax) -> Grid:
    """Trachea, main bronchi and the stomach bubble: darker than the soft tissue around them."""
    x, y, ax = thorax.x, thorax.y, thorax.ax
    trachea = step(np.minimum(0.036 - np.abs(x - 0.005), np.minimum(-0.27 - y, y + 1.05)), 0.015)
    bronchi = step(np.minimum(0.028 - np.abs(y + 0.29 - 0.85 * ax), 0.17 - ax), 0.018)
    bubble_y = thorax.dome_y["left"] + 0.13
    bubble = thorax.ellipse((0.36 * thorax.build.width, bubble_y), (0.12, 0.07), soft=0.03)
    return np.asarray(0.13 * trachea + 0.07 * bronchi + 0.20 * bubble, np.float32)


def _vessels(thorax: Thorax) -> Grid:
    """Branching vascular markings from the hila, drawn as tapering lines and blurred once."""
    size = thorax.size
    canvas = Pillow.new("L", (size, size))
    pen = ImageDraw.Draw(canvas)
    rng = np.random.default_rng(thorax.build.texture)
    pixel = size * thorax.pose.scale / 2.0

    def branch(at: tuple[float, float], angle: float, length: float, width: float, depth: int) -> None:
        x, y = at
        steps = 3
        for _ in range(steps):
            angle += float(rng.normal(0.0, 0.14))
            end_x, end_y = x + np.cos(angle) * length / steps, y + np.sin(angle) * length / steps
            line = (to_pixel((x, y), size, thorax.pose), to_pixel((end_x, end_y), size, thorax.pose))
            pen.line(line, fill=int(90 + 130 * width / 0.02), width=max(1, round(width * pixel)))
            x, y = end_x, end_y
        if depth:
            for turn in (-0.42, 0.38):
                jitter = float(rng.normal(0.0, 0.16))
                branch((x, y), angle + turn + jitter, length * 0.80, width * 0.62, depth - 1)

    for sign in (-1.0, 1.0):
        for angle in (-1.35, -0.75, -0.20, 0.40, 0.95, 1.35):
            heading = float(rng.normal(angle, 0.10))
            length = float(rng.uniform(0.17, 0.23))
            branch((sign * 0.17, -0.04), heading if sign > 0 else np.pi - heading, length, 0.019, 3)
    blurred = ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255.0, 0.0035 * size)
    grain = _fractal(rng, size, (12, 40)) - 0.5
    return np.asarray(np.clip(blurred + 0.20 * grain, -0.1, 1.0), np.float32)


def _fractal(rng: np.random.Generator, size: int, octaves: tuple[int, ...]) -> Grid:
    """Smooth noise in [0, 1] made of coarse random grids; independent of resolution."""
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    for cells in octaves:
        coarse = Pillow.fromarray(rng.random((cells, cells), np.float32), mode="F")
        total += weight * np.asarray(coarse.resize((size, size), Pillow.Resampling.BICUBIC))
        weight *= 0.6
    return np.asarray(np.clip(total / sum(0.6**i for i in range(len(octaves))), 0.0, 1.0), np.float32)


def _in_the_lung(thorax: Thorax, signs: Signs, aerated: Grid, masks: dict[str, NDArray[np.bool_]]) -> Grid:
    added = np.zeros_like(thorax.x)
    for index, opacity in enumerate(signs.opacities):
        one = _opacity(thorax, opacity, index) * aerated
        added += one
        _merge(masks, "opacity", one > VISIBLE)
    if signs.nodule is not None:
        x, y = thorax.zone_centre(signs.nodule.side, signs.nodule.zone)
        radius = signs.nodule.radius_mm * UNITS_PER_MM
        disc = thorax.ellipse((x * 1.12, y + 0.02), (radius, radius * 0.94), soft=0.018)
        added += 0.20 * disc * aerated
        _merge(masks, "nodule", disc > 0.5)
    return added


def _fluid(thorax: Thorax, signs: Signs, masks: dict[str, NDArray[np.bool_]]) -> Grid:
    """Fluid fills the chest to the density of the abdomen; what lies behind it disappears."""
    density = np.zeros_like(thorax.x)
    for side, volume in signs.effusions:
        fluid = _effusion(thorax, side, volume)
        _merge(masks, "effusion", fluid * thorax.lung > 0.5)
        # Reaching a little past the soft edge of the lung, or air would seem to surround the fluid.
        density = np.maximum(density, fluid * np.minimum(8.0 * thorax.lung, 1.0) * 0.68)
    return density


def _merge(masks: dict[str, NDArray[np.bool_]], name: str, mask: NDArray[np.bool_]) -> None:
    masks[name] = masks[name] | mask if name in masks else mask


def _opacity(thorax: Thorax, opacity: Opacity, index: int) -> Grid:
    rng = np.random.default_rng((thorax.build.texture, index, len(opacity.zone), int(SIGN[opacity.side]) + 1))
    x, y = thorax.zone_centre(opacity.side, opacity.zone)
    x, y = x + float(rng.normal(0.0, 0.03)), y + float(rng.normal(0.0, 0.03))
    spread = 0.10 + 0.17 * opacity.extent
    distance = np.square((thorax.x - x) / np.float32(spread * 0.95)) + np.square((thorax.y - y) / np.float32(spread))
    octaves = (9, 22, 60) if opacity.pattern == "reticular" else (7, 15, 34)
    noise = _fractal(rng, thorax.size, octaves)
    if opacity.pattern == "reticular":
        noise = 1.0 - np.abs(noise - 0.5) * 5.0
    edge = 1.35 if opacity.pattern == "consolidation" else 1.0
    cloud = np.exp(-(distance**edge)) * np.clip(0.30 + 1.25 * noise, 0.0, 1.4)
    return np.asarray(DENSITY[opacity.pattern] * opacity.strength * cloud, np.float32)


def _effusion(thorax: Thorax, side: Side, volume: float) -> Grid:
    """Fluid below a meniscus that climbs the chest wall; lying films (AP) show a softer upper border."""
    level = thorax.angle_y - 0.04 - 0.62 * volume
    lateral = np.clip((thorax.ax - 0.20) / 0.50, 0.0, 1.0)
    surface = np.float32(level) + np.float32(0.10 + 0.05 * volume) * (1.0 - lateral**2) - 0.10 * lateral**6
    soft = 0.07 if thorax.pose.view == "AP" else 0.03
    return step(thorax.y - surface, soft) * thorax.of(side)


def _pneumothorax(thorax: Thorax, side: Side, size: float, masks: dict[str, NDArray[np.bool_]]) -> tuple[Grid, Grid]:
    """The lung that still holds air, and the line of its pleura."""
    collapsed = thorax.shrunken_lung(side, size)
    other = thorax.lung * ~thorax.of(side)
    aerated = collapsed + other
    masks["pneumothorax"] = (thorax.lung > 0.5) & thorax.of(side) & (collapsed < 0.5)
    away_from_centre = step(thorax.ax - thorax.inner - 0.05, 0.02) * step(thorax.dome - thorax.y - 0.04, 0.02)
    line = 4.0 * collapsed * (1.0 - collapsed) * away_from_centre * thorax.of(side)
    return aerated, 0.13 * line + 0.05 * size * collapsed - 0.05 * (thorax.lung * thorax.of(side) - collapsed)
