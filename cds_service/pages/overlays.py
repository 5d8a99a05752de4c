"""What may be laid over a film: lungs, heart and zones as lines, the evidence of a finding as shades. SVG paths.

Coordinates are half pixels of the square the model saw (`Placement`), so that each is a whole number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cds_service.pages.snapshot import Frame, Shape
from fhir_mappers.report.statements import FilmReport
from fhir_mappers.report.terms import in_a_sentence, zone_words
from fhir_mappers.square import Placement
from models.contract import Place, Structure

Mask = NDArray[np.bool_]
Spot = tuple[int, int]

STRUCTURES: tuple[tuple[Structure, str], ...] = (
    ("right_lung", "Right lung"),
    ("left_lung", "Left lung"),
    ("heart", "Heart"),
)
LEVELS = (0.25, 0.5, 0.75)
"""Shades begin at these shares of a heat's greatest value."""


def frame_of(report: FilmReport) -> Frame | None:
    """Where the newest film lies on the square its outlines are drawn on; None where nothing was outlined."""
    masks = report.reading.anatomy.masks if report.reading is not None else {}
    mask = next(iter(masks.values()), None)
    if mask is None:
        return None
    at = Placement.of(*report.film.shape, mask.shape[0])
    return Frame(left=2 * at.left, top=2 * at.top, width=2 * at.width, height=2 * at.height)


def shapes_of(report: FilmReport) -> tuple[Shape, ...]:
    """What was outlined on the newest film, and where the evidence lies for each finding that may be there."""
    if report.reading is None:
        return ()
    anatomy = report.reading.anatomy
    shapes = [
        Shape(name=name, kind="outline", title=title, paths=(outline(anatomy.masks[name]),))
        for name, title in STRUCTURES
        if name in anatomy.masks
    ]
    if anatomy.zones:
        paths = tuple(outline(mask) for mask in anatomy.zones.values())
        note = "Upper, mid and lower thirds of each lung's height."
        shapes.append(Shape(name="zones", kind="zone", title="Zones", paths=paths, note=note))
    size = next((mask.shape[0] for mask in anatomy.masks.values()), 0)
    for statement in report.statements:
        place = report.reading.places.get(statement.term.finding)
        # Without a share nothing was found to bear out that the evidence lies where the finding is.
        if statement.there and place is not None and place.share > 0.0 and size:
            title = statement.term.title
            shapes.append(
                Shape(
                    name=f"heat.{statement.term.finding}",
                    kind="heat",
                    title=title,
                    paths=shades(place.heat, size),
                    note=_note(title, place),
                )
            )
    return tuple(shapes)


def _note(title: str, place: Place) -> str:
    if place.zone is None:
        return f"The evidence for {in_a_sentence(title)} lies in no one zone."
    share, zone = round(100 * place.share), zone_words(place.zone)
    return f"{share} % of the evidence for {in_a_sentence(title)} lies in the patient's {zone}."


def shades(heat: NDArray[np.float32], size: int) -> tuple[str, ...]:
    """Paths around what lies above each of LEVELS, the widest first, of a coarse heat drawn on a square of `size`."""
    factors = (size / heat.shape[0], size / heat.shape[1])
    fine = ndimage.zoom(heat, factors, order=1, mode="nearest", grid_mode=True)
    return tuple(outline(fine >= level * fine.max()) for level in LEVELS)


def outline(mask: Mask) -> str:
    """The edge of a mask (H, W), through the middle of the border of each of its pixels; holes are edges as well."""
    return "".join(_path(loop) for loop in _loops(mask))


def _loops(mask: Mask) -> Iterator[list[Spot]]:
    """Closed ways along the borders of pixels, in half pixels, the mask at their right hand."""
    inside = np.pad(mask.astype(np.int8), 1)
    ways: dict[Spot, list[Spot]] = {}
    across, down = np.diff(inside, axis=0)[:, 1:-1], np.diff(inside, axis=1)[1:-1]
    for rise, (dx, dy) in ((across, (2, 0)), (-down, (0, 2))):
        for y, x in np.argwhere(rise):
            ends = (2 * int(x), 2 * int(y)), (2 * int(x) + dx, 2 * int(y) + dy)
            start, end = ends if rise[y, x] > 0 else ends[::-1]
            ways.setdefault(start, []).append(end)
    while ways:
        first = here = next(iter(ways))
        loop = []
        while True:
            onward = ways[here]
            there = onward.pop()
            if not onward:
                del ways[here]
            loop.append(((here[0] + there[0]) // 2, (here[1] + there[1]) // 2))
            here = there
            if here == first:
                break
        yield loop


def _path(loop: list[Spot]) -> str:
    """SVG path data, without the points that lie on a straight line between their neighbours."""
    bends = [
        (x, y)
        for (x0, y0), (x, y), (x1, y1) in zip([loop[-1], *loop], loop, [*loop[1:], loop[0]], strict=False)
        if (x - x0) * (y1 - y) != (y - y0) * (x1 - x)
    ]
    (x, y), *rest = bends
    said = [f"M{x} {y}"]
    for to_x, to_y in rest:
        said.append(f"l{to_x - x} {to_y - y}")
        x, y = to_x, to_y
    return "".join(said) + "z"
