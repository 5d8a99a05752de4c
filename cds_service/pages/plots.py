"""Where the marks of a plot go: laboratory and vital trends over time, and a probability with its interval.

Pure geometry in the units of an SVG's viewBox; the templates draw it, and escape what is written on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Literal

from cds_service.advice.writing import moment, number, unit
from cds_service.pages.snapshot import EstimateView, Mark, Point, Series

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 20, 30
"""Room for value labels, for the last mark, for the deciding value's label, for the dates."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
HOUR, DAY = 3600.0, 86400.0
TIME_STEPS = tuple(
    timedelta(seconds=s)
    for s in (
        *(HOUR * h for h in (1, 2, 3, 6, 12)),
        *(DAY * d for d in (1, 2, 7, 14, 30.4375, 91.3125, 182.625, 365.25)),
    )
)
FEWEST_TICKS, MOST_TICKS = 2, 3


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis. `anchor` keeps a label at the edge within the picture."""

    at: float
    label: str
    anchor: Literal["start", "middle", "end"] = "middle"


@dataclass(frozen=True, slots=True)
class Spot:
    """One result on the plot. `shape`: up and down for > and <, else a circle."""

    x: float
    y: float
    value: float
    shape: Literal["circle", "up", "down"]
    mark: Mark
    preliminary: bool
    label: str


@dataclass(frozen=True, slots=True)
class Label:
    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Plot:
    """A trend. `band` is top and bottom of the reference range, None without one; `line` joins the results."""

    title: str
    description: str
    values: tuple[Tick, ...]
    times: tuple[Tick, ...]
    band: tuple[float, float] | None
    line: str
    spots: tuple[Spot, ...]
    deciding: Label | None

    width, height, left, right, top, bottom = WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM


def trend(series: Series) -> Plot:
    """The plot of one analyte; the reference range is that of its newest result."""
    points = sorted(series.points, key=lambda p: p.at)
    newest = points[-1]
    low, high = newest.low, newest.high
    bottom, top = _range([p.value for p in points], low, high)
    values = value_ticks(bottom, top)
    bottom, top = min(bottom, values[0]), max(top, values[-1])
    first, last = points[0].at, newest.at
    whole = max((last - first).total_seconds(), HOUR)

    def x(at: datetime) -> float:
        if first == last:
            return (LEFT + WIDTH - RIGHT) / 2
        return round(LEFT + 8 + (at - first).total_seconds() / whole * (WIDTH - RIGHT - LEFT - 16), 1)

    def y(value: float) -> float:
        clipped = min(max(value, bottom), top)
        return round(HEIGHT - BOTTOM - (clipped - bottom) / (top - bottom) * (HEIGHT - BOTTOM - TOP), 1)

    spots = tuple(_spot(p, x(p.at), y(p.value)) for p in points)
    deciding = next((s for s in reversed(spots) if s.mark == "deciding"), None)
    has_range = low is not None or high is not None
    return Plot(
        title=f"{series.name}, {unit(series.unit) or 'score'}",
        description=_description(series, points),
        values=tuple(Tick(y(v), _short(v, values)) for v in values),
        times=tuple(_time(x(at), label) for at, label in time_ticks(first, last)),
        band=(y(high if high is not None else top), y(low if low is not None else bottom)) if has_range else None,
        line=" ".join(f"{s.x:g},{s.y:g}" for s in spots) if len(spots) > 1 else "",
        spots=spots,
        deciding=_deciding(points[spots.index(deciding)], deciding, newest=deciding is spots[-1]) if deciding else None,
    )


def _time(x: float, label: str) -> Tick:
    half = 3.2 * len(label)
    return Tick(x, label, "end" if x + half > WIDTH else "start" if x - half < 0 else "middle")


def _range(values: Sequence[float], low: float | None, high: float | None) -> tuple[float, float]:
    """What the axis shows: every result and the limits of the reference range, with a little air."""
    known = [*values, *(v for v in (low, high) if v is not None)]
    least, most = min(known), max(known)
    air = (most - least) * 0.08 or abs(most) * 0.1 or 1.0
    return (max(0.0, least - air) if least >= 0 else least - air), most + air


def value_ticks(low: float, high: float, aim: int = 4) -> tuple[float, ...]:
    """Round values from at or below `low` to at or above `high`, some four of them."""
    rough = (high - low) / (aim - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in STEPS if s * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    count = math.ceil(high / step - 1e-9) - first
    return tuple(round((first + i) * step, 10) for i in range(count + 1))


def _short(value: float, ticks: Sequence[float]) -> str:
    decimals = max((len(f"{t:.10f}".rstrip("0").partition(".")[2]) for t in ticks), default=0)
    return f"{value:.{decimals}f}"


def time_ticks(first: datetime, last: datetime) -> tuple[tuple[datetime, str], ...]:
    """Round moments between the first and the last result; the first and last themselves where none is."""
    zone = last.tzinfo
    whole = last - first
    if whole <= timedelta(0):
        return ((last, moment(last)),)
    step = next((s for s in TIME_STEPS if whole / s <= MOST_TICKS), whole / 3)
    ticks = _months(first, last, zone, step) if step >= timedelta(days=30) else _rounds(first, last, zone, step)
    if len(ticks) < FEWEST_TICKS:
        ticks = [first.astimezone(zone), last]
    patterns = ((timedelta(days=1), "%m-%d %H:%M"), (timedelta(days=30), "%Y-%m-%d"), (timedelta.max, "%Y-%m"))
    pattern = next(p for longest, p in patterns if step < longest)
    return tuple((t, t.strftime(pattern)) for t in ticks[: MOST_TICKS + 1])


def _rounds(first: datetime, last: datetime, zone: tzinfo | None, step: timedelta) -> list[datetime]:
    midnight = first.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    count = math.ceil((first - midnight) / step)
    ticks = []
    while (tick := midnight + count * step) <= last:
        ticks.append(tick)
        count += 1
    return ticks


def _months(first: datetime, last: datetime, zone: tzinfo | None, step: timedelta) -> list[datetime]:
    months = max(1, round(step / timedelta(days=30.4375)))
    start = first.astimezone(zone)
    index = math.ceil((start.year * 12 + start.month - 1 + 0.01) / months) * months
    ticks = []
    while (tick := datetime(index // 12, index % 12 + 1, 1, tzinfo=zone)) <= last:
        ticks.append(tick)
        index += months
    return ticks


def _spot(point: Point, x: float, y: float) -> Spot:
    shape: Literal["circle", "up", "down"] = "circle"
    if point.comparator:
        shape = "up" if point.comparator.startswith(">") else "down"
    words = [f"{moment(point.at)}: {point.printed}"]
    words += [
        {"deciding": "deciding value", "on the card": "on the card", "model": "used by the model", "": ""}[point.mark]
    ]
    words += ["preliminary"] if point.preliminary else []
    return Spot(x, y, point.value, shape, point.mark, point.preliminary, ", ".join(w for w in words if w))


def _deciding(point: Point, spot: Spot, *, newest: bool) -> Label:
    """The value beside its mark, on the side where there is room."""
    text = point.comparator + _number_of(point)
    anchor: Literal["start", "middle", "end"] = "middle"
    if newest and spot.x > WIDTH - RIGHT - 24:
        anchor = "end"
    y = spot.y - 10 if spot.y > TOP + 8 else spot.y + 20
    return Label(min(spot.x, WIDTH - 4.0), round(y, 1), text, anchor)


def _number_of(point: Point) -> str:
    """The number as the laboratory wrote it; our own where it wrote another unit's."""
    written = point.printed.removeprefix(point.comparator).partition(" ")[0]
    try:
        return written if float(written) == point.value else number(point.value)
    except ValueError:
        return number(point.value)


def _description(series: Series, points: Sequence[Point]) -> str:
    """What a reader who does not see the plot should know of it."""
    newest = points[-1]
    count = f"{len(points)} results" if len(points) > 1 else "One result"
    text = f"{count}, newest {newest.printed} at {moment(newest.at)}."
    if newest.low is not None or newest.high is not None:
        text += f" Reference range {reference_range(newest.low, newest.high, series.unit)}."
    deciding = next((p for p in points if p.mark == "deciding"), None)
    return text + (f" Deciding value {deciding.printed} at {moment(deciding.at)}." if deciding else "")


def reference_range(low: float | None, high: float | None, ucum: str) -> str:
    """`0.6 to 1.1 mg/dL`, `up to 5 mg/L`, or "" where none is known."""
    if low is None and high is None:
        return ""
    if high is None:
        text = f"{_plain(low or 0.0)} and above"
    elif low == high:
        text = _plain(high)
    elif low is None or low == 0:
        text = f"up to {_plain(high)}"
    else:
        text = f"{_plain(low)} to {_plain(high)}"
    return f"{text} {unit(ucum)}".strip()


def _plain(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


# --- A single result --------------------------------------------------------------------------------------------------

STRIP_WIDTH, STRIP_HEIGHT = 180, 22
STRIP_EDGE = 8


@dataclass(frozen=True, slots=True)
class Strip:
    """One result against its reference range, from left to right."""

    title: str
    band: tuple[float, float] | None
    spot: Spot

    width, height, middle = STRIP_WIDTH, STRIP_HEIGHT, STRIP_HEIGHT / 2


def strip(series: Series) -> Strip:
    point = series.points[0]
    bottom, top = _range([point.value], point.low, point.high)

    def x(value: float) -> float:
        return round(STRIP_EDGE + (value - bottom) / (top - bottom) * (STRIP_WIDTH - 2 * STRIP_EDGE), 1)

    band = None
    if point.low is not None or point.high is not None:
        low, high = point.low if point.low is not None else bottom, point.high if point.high is not None else top
        band = (x(low), x(high))
    title = f"{point.printed}, reference range {reference_range(point.low, point.high, series.unit) or 'not given'}"
    return Strip(title, band, _spot(point, x(point.value), STRIP_HEIGHT / 2))


# --- Probability ---------------------------------------------------------------------------------------------------

SCALE_WIDTH = 260
"""Of the narrowest column it stands in, so that its words are never printed smaller than the page's."""
SCALE_LEFT, SCALE_RIGHT = 8, 252
ROW_HEIGHT = 26


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """One probability on the 0 to 1 scale; `bar` is its interval."""

    label: str
    value: float
    x: float
    y: float
    bar: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Scale:
    rows: tuple[ScaleRow, ...]
    thresholds: tuple[Tick, ...]
    height: int

    width, left, right = SCALE_WIDTH, SCALE_LEFT, SCALE_RIGHT


def scale(estimate: EstimateView) -> Scale | None:
    """The estimate with its interval, then the same with each kind of evidence hidden. None where it abstained."""
    if estimate.probability is None:
        return None

    def x(p: float) -> float:
        return round(SCALE_LEFT + min(max(p, 0.0), 1.0) * (SCALE_RIGHT - SCALE_LEFT), 1)

    shown: list[tuple[str, float, tuple[float, float] | None]] = [
        ("With everything", estimate.probability, estimate.interval)
    ]
    shown += [(f"Without {name}", p, None) for name, p in estimate.without]
    if estimate.prior is not None:
        shown.append(("On the film before alone", estimate.prior, None))
    rows = tuple(
        ScaleRow(label, p, x(p), ROW_HEIGHT * (i + 1) - 6.0, (x(bar[0]), x(bar[1])) if bar else None)
        for i, (label, p, bar) in enumerate(shown)
    )
    thresholds = tuple(Tick(x(p), name) for name, p in estimate.thresholds)
    return Scale(rows, thresholds, ROW_HEIGHT * len(rows) + 18)
