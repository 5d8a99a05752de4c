"""Two films of one generated patient with a known course: every finding new, worse, stable, improved, resolved, absent.

What is on either film has a size, and the course follows from the two sizes: nothing is read off the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fhir_mappers.cohort.anatomy import Build, Pose
from fhir_mappers.cohort.exposure import Exposure
from fhir_mappers.cohort.films import Nodule, Opacity, Signs
from fhir_mappers.cohort.latent import SIDES, ZONES
from fhir_mappers.cohort.patients import draw_build, draw_exposure, draw_pose

FINDINGS = ("opacity", "effusion", "cardiomegaly", "pneumothorax", "nodule")
SMALLEST: Mapping[str, float] = {"opacity": 0.45, "effusion": 0.12, "pneumothorax": 0.2, "nodule": 7.0}
LARGEST: Mapping[str, float] = {"opacity": 1.0, "effusion": 0.7, "pneumothorax": 0.8, "nodule": 18.0}
NORMAL_CTR, ENLARGED_CTR = (0.40, 0.475), (0.535, 0.66)
"""The two humps of the cohort: between them nobody could say whether a heart is enlarged."""
STEP = 0.3
"""A finding is worse or improved from this share of its range on; stable means the same size."""


@dataclass(frozen=True, slots=True)
class Taken:
    """All that `draw_film` asks of one film."""

    signs: Signs
    build: Build
    pose: Pose
    exposure: Exposure


@dataclass(frozen=True, slots=True)
class Pair:
    """The newer and the older film, and by finding its size on each (0 where absent; for the heart its ratio)."""

    now: Taken
    before: Taken
    sizes_now: Mapping[str, float]
    sizes_before: Mapping[str, float]


def draw_pair(rng: np.random.Generator) -> Pair:
    """A finding is absent from both films in half of the pairs, else the five courses are equally likely."""
    sizes = {name: _sizes(rng, name) for name in FINDINGS}
    ratios = tuple(size or float(rng.uniform(*NORMAL_CTR)) for size in sizes["cardiomegaly"])
    if not any(sizes["cardiomegaly"]):
        ratios = (ratios[0], ratios[0])
    build = draw_build(rng, bool(rng.random() < 0.5), 0.45)
    places = {name: (SIDES[int(rng.integers(2))], ZONES[int(rng.integers(3))]) for name in ("opacity", "nodule")}
    sides = {name: SIDES[int(rng.integers(2))] for name in ("effusion", "pneumothorax")}
    if sides["effusion"] == sides["pneumothorax"]:
        # A film with both on one side would need an air-fluid level.
        sides["pneumothorax"] = SIDES[1 - SIDES.index(sides["effusion"])]
    taken = []
    for film in range(2):
        size = {name: sizes[name][film] for name in FINDINGS}
        side, zone = places["opacity"]
        opacities = (Opacity(side, zone, size["opacity"], 0.2 + 0.6 * size["opacity"]),) if size["opacity"] else ()
        signs = Signs(
            opacities,
            ((sides["effusion"], size["effusion"]),) if size["effusion"] else (),
            (sides["pneumothorax"], size["pneumothorax"]) if size["pneumothorax"] else None,
            Nodule(*places["nodule"], size["nodule"]) if size["nodule"] else None,
        )
        portable = bool(rng.random() < 0.3)
        taken.append(
            Taken(signs, replace(build, ctr=ratios[film]), draw_pose(rng, portable), draw_exposure(rng, portable))
        )
    now, before = ({name: sizes[name][film] for name in FINDINGS} for film in range(2))
    return Pair(taken[0], taken[1], now, before)


def _sizes(rng: np.random.Generator, name: str) -> tuple[float, float]:
    """Size on the newer and on the older film."""
    if rng.random() < 0.5:
        return 0.0, 0.0
    low, high = ENLARGED_CTR if name == "cardiomegaly" else (SMALLEST[name], LARGEST[name])
    course = int(rng.integers(5))
    if course == 0:
        return float(rng.uniform(low, high)), 0.0
    if course == 1:
        return 0.0, float(rng.uniform(low, high))
    if course == 2:
        same = float(rng.uniform(low, high))
        return same, same
    step = float(rng.uniform(STEP, 1.0)) * (high - low)
    smaller = float(rng.uniform(low, high - step))
    return (smaller + step, smaller) if course == 3 else (smaller, smaller + step)
