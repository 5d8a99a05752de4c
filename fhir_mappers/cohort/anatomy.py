"""The geometry of a schematic frontal chest film: where lungs, heart, ribs and diaphragm lie.

Coordinates are the patient's, not the pixel's: x from -1 (the patient's right, left on the film) to 1, y from -1
(neck) to 1 (abdomen); one unit is half of a 430 mm detector. All shapes are schematic, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]
Side = Literal["right", "left"]
Zone = Literal["upper", "mid", "lower"]
View = Literal["PA", "AP"]

DETECTOR_MM = 430.0
UNITS_PER_MM = 2.0 / DETECTOR_MM
APEX = -0.70
"""y of the lung apex of an average build."""
SIGN: dict[Side, float] = {"right": -1.0, "left": 1.0}


@dataclass(frozen=True, slots=True)
class Build:
    """What stays the same from one film of a patient to the next.

    width, height  of the thorax relative to the average (0.9 .. 1.1)
    ctr            cardiothoracic ratio on a PA film; above 0.5 is cardiomegaly
    ribs           distance between ribs in our units
    texture        seed of the vascular tree
    """

    width: float = 1.0
    height: float = 1.0
    ctr: float = 0.45
    ribs: float = 0.135
    female: bool = False
    texture: int = 0


@dataclass(frozen=True, slots=True)
class Pose:
    """How this one film was taken. AP films magnify the heart, lift the diaphragm and show the scapulae."""

    view: View = "PA"
    rotation_deg: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    inspiration: float = 0.0
    """0 is a full breath; 0.1 lifts both domes by a tenth of a unit"""


def step(distance: Grid, soft: float = 0.012) -> Grid:
    """0 well outside, 1 well inside, smooth over `2 * soft` around a distance of 0."""
    t = np.clip(distance * np.float32(0.5 / soft) + np.float32(0.5), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


def patient_grid(size: int, pose: Pose) -> tuple[Grid, Grid]:
    """x and y of every pixel of a (size, size) film in the patient's coordinates."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2.0 / size) - 1.0
    cos, sin = np.cos(np.deg2rad(pose.rotation_deg)), np.sin(np.deg2rad(pose.rotation_deg))
    u, v = (axis - pose.shift[0])[None, :], (axis - pose.shift[1])[:, None]
    x = (u * np.float32(cos / pose.scale) + v * np.float32(sin / pose.scale)).astype(np.float32)
    y = (v * np.float32(cos / pose.scale) - u * np.float32(sin / pose.scale)).astype(np.float32)
    return x, y


def to_pixel(point: tuple[float, float], size: int, pose: Pose) -> tuple[float, float]:
    """The pixel (column, row) of a point in the patient's coordinates: the inverse of `patient_grid`."""
    cos, sin = float(np.cos(np.deg2rad(pose.rotation_deg))), float(np.sin(np.deg2rad(pose.rotation_deg)))
    u = pose.scale * (point[0] * cos - point[1] * sin) + pose.shift[0]
    v = pose.scale * (point[0] * sin + point[1] * cos) + pose.shift[1]
    return (u + 1.0) * size / 2.0 - 0.5, (v + 1.0) * size / 2.0 - 0.5


class Thorax:
    """The outlines of one film, evaluated on its grid."""

    def __init__(self, build: Build, pose: Pose, size: int) -> None:
        self.build, self.pose, self.size = build, pose, size
        self.x, self.y = patient_grid(size, pose)
        self.ax: Grid = np.abs(self.x)
        self.left: NDArray[np.bool_] = self.x > 0
        self.top = APEX * build.height
        lift = pose.inspiration + (0.05 if pose.view == "AP" else 0.0)
        self.dome_y = {"right": 0.34 * build.height - lift, "left": 0.40 * build.height - lift}
        self.angle_y = 0.56 * build.height - lift
        """y of the costophrenic angles"""
        self.outer = self._outer(self.top)
        self.inner = self._inner()
        self.dome = self._dome()
        self.lung = self._lung(self.outer, self.top)

    def _t(self, top: float) -> Grid:
        t = (self.y - np.float32(top)) * np.float32(1.0 / (self.angle_y - top))
        return np.asarray(np.clip(t, 0.0, 1.3), np.float32)

    def _outer(self, top: float) -> Grid:
        """Half width of the rib cage: round at the apex, widest at the costophrenic angle."""
        t = np.minimum(self._t(top), 1.0)
        rise = np.sqrt(np.maximum(1.0 - (1.0 - t) ** 2, 0.0))
        return np.asarray(self.build.width * (0.26 + 0.38 * rise + 0.08 * t), np.float32)

    def _inner(self) -> Grid:
        t = self._t(self.top)
        half = 0.26 - 0.17 * np.sqrt(np.clip(t * 5.0, 0.0, 1.0)) + 0.03 * np.clip(t, 0.0, 1.0)
        return np.asarray(self.build.width * half, np.float32)

    def _dome(self) -> Grid:
        """y of the diaphragm above each x; it falls steeply to the costophrenic angle."""
        height = np.where(self.left, self.dome_y["left"], self.dome_y["right"]).astype(np.float32)
        offset = (self.ax - np.float32(0.34 * self.build.width)) * np.float32(1.0 / (0.38 * self.build.width))
        lateral = np.clip(offset, 0.0, 1.1)
        return np.asarray(height + 0.10 * np.square(offset) + 0.14 * lateral**4, np.float32)

    def _lung(self, outer: Grid, top: float) -> Grid:
        inside = np.minimum(outer - self.ax, self.ax - self.inner)
        inside = np.minimum(inside, self.dome - self.y)
        return step(np.minimum(inside, self.y - np.float32(top)))

    def shrunken_lung(self, side: Side, size: float) -> Grid:
        """Soft mask of the lung of one side, retracted from the chest wall by a pneumothorax of this size (0 .. 1)."""
        top = self.top + 0.45 * size
        t = self._t(self.top)
        outer = self.outer - np.float32(size) * (0.34 - 0.16 * np.minimum(t, 1.0)) - np.float32(0.01)
        # The apex falls away first: a quarter circle replaces the corner between the wall and the top.
        return self._lung(np.minimum(outer, self._outer(top)), top) * self.of(side)

    def of(self, side: Side) -> NDArray[np.bool_]:
        return self.left if side == "left" else ~self.left

    def zone_centre(self, side: Side, zone: Zone) -> tuple[float, float]:
        """(x, y) in the middle of a third of the lung."""
        bottom = self.dome_y[side]
        fraction = {"upper": 0.25, "mid": 0.55, "lower": 0.86}[zone]
        lateral = {"upper": 0.34, "mid": 0.42, "lower": 0.40}[zone] * self.build.width
        return SIGN[side] * lateral, self.top + fraction * (bottom - self.top)

    def heart(self) -> Grid:
        """Soft mask of the heart; its width is the cardiothoracic ratio times the inner width of the thorax."""
        magnified = self.build.ctr * (1.10 if self.pose.view == "AP" else 1.0)
        thorax = 2.0 * 0.72 * self.build.width
        half = magnified * thorax / 2.0
        centre_x, centre_y = 0.32 * half, self.dome_y["left"] - 0.10 - 0.22 * (half - 0.31)
        cos, sin = np.float32(0.77), np.float32(0.64)
        dx, dy = self.x - np.float32(centre_x), self.y - np.float32(centre_y)
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        long_axis, short_axis = 1.10 * half, 0.80 * half
        radius = np.sqrt(np.square(along / np.float32(long_axis)) + np.square(across / np.float32(short_axis)))
        return step((1.0 - radius) * np.float32(short_axis), 0.014)

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float], soft: float = 0.015) -> Grid:
        dx = (self.x - np.float32(centre[0])) * np.float32(1.0 / radii[0])
        dy = (self.y - np.float32(centre[1])) * np.float32(1.0 / radii[1])
        return step((1.0 - np.sqrt(dx * dx + dy * dy)) * np.float32(min(radii)), soft)
