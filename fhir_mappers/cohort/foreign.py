"""Pictures that are no frontal chest film: lateral views, other parts of the body, scenes, noise; schematic all.

The image gate learns from them what to refuse. They are drawn as the films are, as sums of attenuations, and with the
same exposure, so that neither grain nor marker tells them from a chest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from fhir_mappers.cohort.anatomy import Build, Grid, Thorax, step
from fhir_mappers.cohort.exposure import develop
from fhir_mappers.cohort.patients import draw_exposure, draw_pose

Foreign = Literal["lateral", "hand", "pelvis", "skull", "limb", "abdomen", "axial", "scene", "noise"]
FOREIGN: tuple[Foreign, ...] = get_args(Foreign)
BODY_PARTS: tuple[Foreign, ...] = ("hand", "pelvis", "skull", "limb", "abdomen", "axial")


def draw_foreign(kind: Foreign, rng: np.random.Generator, size: int = 192) -> NDArray[np.float32]:
    """One picture (S, S) in [0, 1]; the same generator state gives the same pixels."""
    if kind == "scene":
        return _scene(rng, size)
    if kind == "noise":
        return _noise(rng, size)
    pose = draw_pose(rng, True)
    canvas = Thorax(Build(), pose, size)
    density = _PARTS[kind](canvas, rng)
    return develop(density, canvas, draw_exposure(rng, False))


def _u(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _texture(rng: np.random.Generator, size: int, cells: tuple[int, ...]) -> Grid:
    """Smooth noise in about [0, 1], coarse grids first."""
    total, weight = np.zeros((size, size), np.float32), 1.0
    for n in cells:
        coarse = Pillow.fromarray(rng.random((n, n), np.float32), mode="F")
        total += weight * np.asarray(coarse.resize((size, size), Pillow.Resampling.BICUBIC))
        weight *= 0.6
    return np.asarray(total / sum(0.6**i for i in range(len(cells))), np.float32)


def _bone(t: Thorax, start: tuple[float, float], end: tuple[float, float], half: float) -> Grid:
    """A shaft with bright cortex and wider ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = float(np.hypot(dx, dy)) + 1e-6
    along = ((t.x - start[0]) * dx + (t.y - start[1]) * dy) / length**2
    away = np.abs((t.x - start[0]) * dy - (t.y - start[1]) * dx) / length
    flare = np.float32(half) * (0.75 + 1.6 * np.square(np.clip(along, 0.0, 1.0) - 0.5))
    inside = np.minimum(flare - away, np.minimum(along, 1.0 - along) * length).astype(np.float32)
    return np.asarray(0.42 * step(inside, 0.012) - 0.14 * step(inside - np.float32(0.4 * half), 0.015), np.float32)


def _flesh(t: Thorax, start: tuple[float, float], end: tuple[float, float], half: float) -> Grid:
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((t.x - start[0]) * dx + (t.y - start[1]) * dy) / (dx * dx + dy * dy + 1e-6), 0.0, 1.0)
    away = np.hypot(t.x - start[0] - along * dx, t.y - start[1] - along * dy)
    return np.asarray(0.34 * step((half - away).astype(np.float32), 0.02), np.float32)


def _lateral(t: Thorax, rng: np.random.Generator) -> Grid:
    """A chest from the side: sternum, heart against it, clear spaces before and behind, spine, both domes."""
    facing = 1.0 if rng.random() < 0.5 else -1.0
    x, y = t.x * np.float32(facing), t.y
    depth = _u(rng, 0.58, 0.78)
    outer = np.minimum(depth + 0.06 * np.cos(y * 2.2) - np.abs(x), y + 0.98)
    body = step(outer.astype(np.float32), 0.02) * 0.62
    front = depth - 0.12 - 0.30 * np.square(np.clip(-y - 0.1, 0.0, 1.0))
    back = -(depth - 0.16) + 0.08 * np.square(y)
    dome = _u(rng, 0.34, 0.5) + 0.25 * np.square(x - 0.1) + 0.30 * np.clip(-x - 0.1, 0.0, 1.0)
    inside = np.minimum(np.minimum(front - x, x - back), np.minimum(dome - y, y + _u(rng, 0.62, 0.75)))
    lung = step(inside.astype(np.float32), 0.03)
    density = body - _u(rng, 0.34, 0.48) * lung
    heart = t.ellipse((0.20 * facing, 0.20), (_u(rng, 0.26, 0.36), _u(rng, 0.24, 0.34)), soft=0.06)
    density = np.maximum(density, 0.62 * heart * lung)
    spine_x = back + _u(rng, 0.05, 0.12)
    column = (_u(rng, 0.08, 0.11) - np.abs(x - spine_x)).astype(np.float32)
    spine = step(column, 0.02) * step(y + 0.95, 0.02)
    discs = step(np.abs(((y + _u(rng, 0.0, 0.1)) * 7.0) % 1.0 - 0.5).astype(np.float32) - 0.12, 0.06)
    density += spine * (0.08 + 0.14 * discs)
    slope = _u(rng, 0.45, 0.8)
    ribs = np.abs(((y + slope * x) / _u(rng, 0.13, 0.16)) % 1.0 - 0.5)
    density += 0.08 * step((0.16 - ribs).astype(np.float32), 0.06) * lung
    hilum = np.exp(-(np.square(x - 0.02) + np.square(y + 0.08)) / 0.02)
    density += 0.14 * hilum * lung
    if rng.random() < 0.5:
        density += 0.5 * _flesh(t, (0.1 * facing, -0.75), (0.6 * facing, -1.1), 0.16)
    return np.asarray(density, np.float32)


def _hand(t: Thorax, rng: np.random.Generator) -> Grid:
    density = np.zeros_like(t.x)
    base_y, spread = _u(rng, 0.2, 0.5), _u(rng, 0.16, 0.24)
    for finger in range(5):
        x0 = (finger - 2) * spread * 0.7
        angle = (finger - 2) * _u(rng, 0.10, 0.22) + (0.5 if finger == 4 else 0.0)
        length = (0.28, 0.34, 0.37, 0.34, 0.26)[finger] * _u(rng, 0.9, 1.15)
        start = (x0, base_y)
        density = np.maximum(density, _flesh(t, (x0 * 0.6, 0.9), start, 0.17))
        for bone in range(4):
            end = (start[0] + length * np.sin(angle), start[1] - length * np.cos(angle))
            density = np.maximum(density, _flesh(t, start, end, 0.085))
            density += _bone(t, start, end, 0.040 - 0.005 * bone)
            start, length = end, length * 0.68
    for _ in range(7):
        centre = (_u(rng, -0.25, 0.25), base_y + _u(rng, 0.08, 0.25))
        density += 0.25 * t.ellipse(centre, (0.08, 0.07))
    for x in (-0.12, 0.14):
        density += _bone(t, (x, base_y + 0.3), (x * 0.9, 1.1), 0.07)
    return np.asarray(density, np.float32)


def _pelvis(t: Thorax, rng: np.random.Generator) -> Grid:
    density = 0.60 * step(_u(rng, 0.85, 1.05) - 0.15 * t.y - t.ax, 0.03)
    wide = _u(rng, 0.5, 0.62)
    for side in (-1.0, 1.0):
        density += 0.20 * t.ellipse((side * wide, -0.28), (0.34, 0.42), soft=0.03)
        density += 0.24 * t.ellipse((side * wide, 0.30), (0.17, 0.17), soft=0.02)
        density += _bone(t, (side * (wide + 0.12), 0.40), (side * (wide + 0.10), 1.2), 0.12)
        density += 0.22 * t.ellipse((side * 0.25, 0.55), (0.22, 0.14), soft=0.02)
        density -= 0.20 * t.ellipse((side * 0.24, 0.55), (0.12, 0.08), soft=0.02)
    density += 0.22 * step(np.minimum(0.20 - 0.12 * t.y - t.ax, 0.1 - t.y), 0.03)
    density -= 0.14 * _texture(rng, t.size, (6, 14)) * t.ellipse((0.0, -0.3), (0.5, 0.5), soft=0.2)
    return np.asarray(density, np.float32)


def _skull(t: Thorax, rng: np.random.Generator) -> Grid:
    wide, tall = _u(rng, 0.52, 0.68), _u(rng, 0.62, 0.8)
    shift = _u(rng, -0.1, 0.3) if rng.random() < 0.5 else 0.0
    vault = t.ellipse((0.0, -0.15), (wide, tall), soft=0.02)
    inner = t.ellipse((0.0, -0.15), (wide - 0.06, tall - 0.06), soft=0.02)
    density = 0.85 * vault - 0.38 * inner
    for side in (-1.0, 1.0):
        density -= 0.14 * t.ellipse((shift + side * 0.22, 0.12), (0.14, 0.11), soft=0.03)
        density += 0.18 * t.ellipse((shift + side * 0.4, 0.3), (0.1, 0.2), soft=0.04)
    density += 0.24 * t.ellipse((shift, 0.52), (_u(rng, 0.25, 0.38), 0.22), soft=0.03)
    density += 0.30 * step(np.minimum(0.2 - np.abs(t.x + shift * 0.5), t.y - 0.5), 0.03)
    return np.asarray(density, np.float32)


def _limb(t: Thorax, rng: np.random.Generator) -> Grid:
    tilt, half = _u(rng, -0.35, 0.35), _u(rng, 0.22, 0.5)
    start, end = (-tilt, -1.25), (tilt, 1.25)
    density = 1.2 * _flesh(t, start, end, half)
    if rng.random() < 0.5:
        for offset in (-0.35 * half, 0.35 * half):
            density += _bone(t, (start[0] + offset, -1.2), (end[0] + offset, 1.2), 0.16 * half)
    else:
        joint = _u(rng, -0.2, 0.2)
        density += _bone(t, start, (0.0, joint), 0.30 * half)
        density += _bone(t, (0.0, joint + 0.03), end, 0.28 * half)
        density += 0.15 * t.ellipse((0.0, joint - 0.05), (0.25 * half, 0.12))
    return np.asarray(density, np.float32)


def _abdomen(t: Thorax, rng: np.random.Generator) -> Grid:
    density = 0.70 * step(_u(rng, 0.78, 1.0) + 0.05 * t.y - t.ax, 0.03)
    spine = step(0.12 - t.ax, 0.02)
    discs = step(np.abs((t.y * 4.5 + _u(rng, 0.0, 1.0)) % 1.0 - 0.5).astype(np.float32) - 0.12, 0.05)
    density += spine * (0.06 + 0.16 * discs)
    for _ in range(int(rng.integers(4, 14))):
        radii = (_u(rng, 0.05, 0.22), _u(rng, 0.04, 0.12))
        density -= _u(rng, 0.10, 0.25) * t.ellipse((_u(rng, -0.65, 0.65), _u(rng, -0.6, 0.8)), radii, soft=0.04)
    density += 0.08 * _texture(rng, t.size, (8, 20))
    for side in (-1.0, 1.0):
        density += 0.16 * t.ellipse((side * 0.55, 0.95), (0.4, 0.4), soft=0.03)
    return np.asarray(density, np.float32)


def _axial(t: Thorax, rng: np.random.Generator) -> Grid:
    """A CT slice through the chest or the belly, on a lung or soft-tissue window."""
    wide, tall = _u(rng, 0.7, 0.92), _u(rng, 0.5, 0.68)
    body = t.ellipse((0.0, 0.0), (wide, tall), soft=0.015)
    density = 0.62 * body
    if rng.random() < 0.6:
        for side in (-1.0, 1.0):
            lung = t.ellipse((side * 0.42, -0.02), (_u(rng, 0.24, 0.34), _u(rng, 0.30, 0.44)), soft=0.015)
            density -= 0.56 * lung
            density += 0.3 * lung * (_texture(rng, t.size, (24, 60)) > 0.62)
        density = np.maximum(density, 0.66 * t.ellipse((0.08, -0.08), (0.26, 0.28), soft=0.02))
    else:
        density += 0.12 * t.ellipse((-0.35, -0.05), (0.38, 0.34), soft=0.02)
        density -= 0.40 * t.ellipse((0.35, -0.25), (0.18, 0.12), soft=0.02)
    density += 0.42 * t.ellipse((0.0, tall - 0.24), (0.12, 0.13), soft=0.02)
    for angle in np.linspace(0.2, 6.1, 12):
        centre = (0.93 * wide * float(np.cos(angle)), 0.9 * tall * float(np.sin(angle)))
        density += 0.30 * t.ellipse(centre, (0.05, 0.028), soft=0.012)
    return np.asarray(density, np.float32)


_PARTS: dict[Foreign, Callable[[Thorax, np.random.Generator], Grid]] = {
    "lateral": _lateral,
    "hand": _hand,
    "pelvis": _pelvis,
    "skull": _skull,
    "limb": _limb,
    "abdomen": _abdomen,
    "axial": _axial,
}


def _scene(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """As photographs are: a sky or a wall, a ground, objects with edges and shade, a texture; or a page of text."""
    canvas = Pillow.new("L", (size, size), int(rng.integers(60, 256)))
    pen = ImageDraw.Draw(canvas)
    if rng.random() < 0.25:
        for row in range(int(rng.integers(4, 12)), size - 8, int(rng.integers(7, 14))):
            pen.text((size // 16, row), "".join(rng.choice(list("abcdefghi nopqrstu klm"), 60)), fill=20)
    else:
        horizon = int(size * _u(rng, 0.3, 0.8))
        pen.rectangle((0, horizon, size, size), fill=int(rng.integers(0, 200)))
        for _ in range(int(rng.integers(3, 26))):
            x, y = _u(rng, -0.1, 1.0) * size, _u(rng, -0.1, 1.0) * size
            box = (x, y, x + _u(rng, 0.03, 0.5) * size, y + _u(rng, 0.03, 0.5) * size)
            grey = int(rng.integers(0, 256))
            shape = int(rng.integers(3))
            if shape == 0:
                pen.rectangle(box, fill=grey)
            elif shape == 1:
                pen.ellipse(box, fill=grey)
            else:
                pen.polygon([(float(a), float(b)) for a, b in rng.uniform(0, size, (3, 2))], fill=grey)
    picture = np.asarray(canvas, np.float32) / 255.0
    picture = ndimage.gaussian_filter(picture, _u(rng, 0.0, 0.015) * size)
    picture = picture * (0.6 + 0.6 * _texture(rng, size, (3, 6)))
    picture += _u(rng, 0.0, 0.5) * (_texture(rng, size, (12, 40, size // 2)) - 0.5)
    return np.asarray(np.clip(picture, 0.0, 1.0), np.float32)


def _noise(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """White to very smooth noise, stripes, checks, ramps."""
    kind = int(rng.integers(4))
    if kind == 0:
        return rng.random((size, size), np.float32)
    if kind == 1:
        rough = ndimage.gaussian_filter(rng.standard_normal((size, size)), _u(rng, 0.5, 0.12 * size), mode="wrap")
        rough = (rough - rough.min()) / np.ptp(rough)
        return np.asarray(rough, np.float32)
    axis = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    angle = _u(rng, 0.0, 6.28)
    ramp = axis[None, :] * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle))
    if kind == 2:
        ramp = np.sin(ramp * _u(rng, 4.0, 60.0)) * (np.sin(ramp.T * _u(rng, 4.0, 60.0)) if rng.random() < 0.5 else 1.0)
    ramp = ramp + _u(rng, 0.0, 0.3) * rng.standard_normal((size, size))
    return np.asarray((ramp - ramp.min()) / np.ptp(ramp), np.float32)
