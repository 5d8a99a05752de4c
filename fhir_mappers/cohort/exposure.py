"""How attenuation becomes a film: what the tube, the detector and the ward add to the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from scipy import ndimage

from fhir_mappers.cohort.anatomy import Grid, Thorax, to_pixel

GREY_LEVELS = 4095
"""Films are quantised to 12 bits when drawn, so that the DICOM file holds exactly the same pixels."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the tube, the detector and the ward add: none of it says anything about the patient."""

    gamma: float = 1.0
    noise: float = 0.012
    marker: str | None = None
    leads: bool = False
    collimation: float = 0.0
    seed: int = 0


def leads(thorax: Thorax, seed: int) -> Grid:
    """Monitoring leads: three electrodes with cables that leave the film below."""
    size = thorax.size
    rng = np.random.default_rng((seed, 7))
    canvas = Pillow.new("L", (size, size))
    pen = ImageDraw.Draw(canvas)
    width = max(1, round(size / 190))
    for x, y in ((-0.50, -0.45), (0.52, -0.42), (0.56, 0.30)):
        bend = float(rng.normal(0.0, 0.10))
        steps = np.linspace(0.0, 1.0, 14)
        points = [
            to_pixel((x + bend * np.sin(3.1 * s) + (0.15 - x) * 0.5 * s, y + (1.05 - y) * s), size, thorax.pose)
            for s in steps
        ]
        pen.line(points, fill=150, width=width, joint="curve")
        column, row = points[0]
        pen.ellipse((column - 3 * width, row - 3 * width, column + 3 * width, row + 3 * width), fill=235)
    blurred = ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255.0, 0.002 * size)
    return np.asarray(blurred, np.float32)


def develop(density: Grid, thorax: Thorax, exposure: Exposure) -> NDArray[np.float32]:
    """Attenuation to grey levels: scatter, characteristic curve, quantum noise, marker, collimation, 12 bits."""
    rng = np.random.default_rng((exposure.seed, 1))
    size = thorax.size
    film = np.clip(density, 0.0, 1.3) * np.float32(1.0 / 1.12)
    film = np.clip(film, 0.0, 1.0) ** np.float32(exposure.gamma)
    film = ndimage.gaussian_filter(film, 0.0022 * size)
    grain = rng.standard_normal((size, size), np.float32)
    film += np.float32(exposure.noise) * (0.4 + 0.6 * np.sqrt(np.clip(film, 0.0, 1.0))) * grain
    if exposure.marker:
        _burn_in(film, exposure.marker)
    if exposure.collimation > 0:
        edge = max(1, round(exposure.collimation * size))
        film[:, :edge] = film[:, -edge:] = 0.0
        film[: edge // 2] = 0.0
    return np.asarray(np.rint(np.clip(film, 0.0, 1.0) * GREY_LEVELS) / GREY_LEVELS, np.float32)


def _burn_in(film: Grid, marker: str) -> None:
    size = film.shape[0]
    canvas = Pillow.new("L", (size, size))
    column = 0.06 if marker.startswith("R") else 0.88
    font = ImageFont.load_default(size=max(10, size // 18))
    ImageDraw.Draw(canvas).text((column * size, 0.07 * size), marker, fill=255, font=font)
    np.maximum(film, np.asarray(canvas, np.float32) / 255.0, out=film)
