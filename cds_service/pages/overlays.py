"""What may be laid over a film: lungs, heart and zones as lines, the evidence of a finding as shades. SVG paths.

Coordinates are half pixels of the square the model saw (`Placement`), so that each is a whole number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cds_service.pages.snapshot import Frame, Shape
from fhir_mappers.record import Image
from fhir_mappers.report.statements import FilmReport
from fhir_mappers.report.terms import certainty, in_a_sentence, there, zone_words
from fhir_mappers.square import Placement
from models.contract import FilmReading, Place, Structure

Mask = NDArray[np.bool_]
Spot = tuple[int, int]

STRUCTURES: tuple[tuple[Structure, str], ...] = (
    ("right_lung", "Right lung"),
    ("left_lung", "Left lung"),
    ("heart", "Heart"),
)
MAP = "map."
LEVELS = (0.25, 0.5, 0.75)
"""Shades begin at these shares of a heat's greatest value."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What may be laid over one film. Without a frame, which outlines give, no shape has paths."""

    frame: Frame | None = None
    shapes: tuple[Shape, ...] = ()


def layers_of(report: FilmReport) -> dict[str, Layers]:
    """By SOP instance UID of the newest film and of the one before it: what was outlined on each, and where the
    evidence lies for each finding that may be there on that very film.
    """
    reading = report.reading
    if reading is None:
        return {}
    now = {s.term.finding: s.term.title for s in report.statements if s.there}
    layers = {report.film.sop_uid: _layers(report.film, reading, now)}
    if report.prior is not None and reading.before is not None:
        then = [s for s in report.statements if s.prior is not None and there(certainty(s.prior))]
        layers[report.prior.sop_uid] = _layers(
            report.prior, reading.before, {s.term.finding: s.term.title for s in then}, "On the film before: "
        )
    return layers


def _layers(film: Image, reading: FilmReading, found: Mapping[str, str], where: str = "") -> Layers:
    anatomy = reading.anatomy
    mask = next(iter(anatomy.masks.values()), None)
    maps = tuple(_map(finding, title) for finding, title in found.items())
    if mask is None:
        return Layers(None, maps)
    at = Placement.of(*film.shape, mask.shape[0])
    frame = Frame(left=2 * at.left, top=2 * at.top, width=2 * at.width, height=2 * at.height)
    shapes = [
        Shape(name=name, kind="outline", title=title, paths=(outline(anatomy.masks[name]),))
        for name, title in STRUCTURES
        if name in anatomy.masks
    ]
    if anatomy.zones:
        paths = tuple(outline(mask) for mask in anatomy.zones.values())
        note = "Upper, mid and lower thirds of each lung's height."
        shapes.append(Shape(name="zones", kind="zone", title="Zones", paths=paths, note=note))
    for finding, title in found.items():
        place = reading.places.get(finding)
        # Without a share nothing was found to bear out that the evidence lies where the finding is.
        if place is not None and place.share > 0.0:
            note = where + _note(title, place)
            paths = shades(place.heat, mask.shape[0])
            shapes.append(Shape(name=f"heat.{finding}", kind="heat", title=title, paths=paths, note=note))
    return Layers(frame, (*shapes, *maps))


def _map(finding: str, title: str) -> Shape:
    note = (
        f"Shaded where blurring a part of the film lowers the model's score for {in_a_sentence(title)} most: what the "
        "score rests on, not where disease is, nor that it is there."
    )
    return Shape(name=f"{MAP}{finding}", kind="map", title=title, paths=(), note=note)


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
