"""NEWS2 (Royal College of Physicians 2017, reproduced with acknowledgement): one set of vital signs, scored.

An item that was not measured adds nothing and is named: the score is then a minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from fhir_mappers.record import Coded, Lab, PatientRecord

ONE_SET = timedelta(hours=1)
NEVER = float("inf")

# (highest value of the band, points), the value rounded as it is charted; RCP 2017, chart 1.
RESP_RATE = ((8, 3), (11, 1), (20, 0), (24, 2), (NEVER, 3))
SPO2_SCALE_1 = ((91, 3), (93, 2), (95, 1), (NEVER, 0))
SPO2_SCALE_2_AIR = ((83, 3), (85, 2), (87, 1), (NEVER, 0))
SPO2_SCALE_2_OXYGEN = ((83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (NEVER, 3))
SBP = ((90, 3), (100, 2), (110, 1), (219, 0), (NEVER, 3))
HEART_RATE = ((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (NEVER, 3))
TEMPERATURE = ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (NEVER, 2))
ON_OXYGEN = 2
NOT_ALERT = 3
AIR_PERCENT = 21.0
RESPONSES = {
    "alert": "alert",
    "confusion": "new confusion",
    "voice": "responds to voice only",
    "pain": "responds to pain only",
    "unresponsive": "unresponsive",
}

Bands = tuple[tuple[float, int], ...]
ITEMS = (
    "respiratory rate",
    "oxygen saturation",
    "oxygen",
    "systolic pressure",
    "heart rate",
    "consciousness",
    "temperature",
)


@dataclass(frozen=True, slots=True)
class Item:
    """One of the seven: its points, and the result or coded answer behind them. `value` is for a summary: `24/min`."""

    name: str
    points: int
    value: str
    source: Lab | Coded

    @property
    def words(self) -> str:
        """As in a sentence: `respiratory rate 24/min`, `on oxygen`, `new confusion`."""
        return self.value if self.name in ("oxygen", "consciousness") else f"{self.name} {self.value}"


@dataclass(frozen=True, slots=True)
class News2:
    """A score. It is a minimum when anything is missing.

    at           the newest measurement of the set;  items  worst first
    preliminary  at least one measurement is not final
    """

    total: int
    items: tuple[Item, ...]
    missing: tuple[str, ...]
    at: datetime
    scale: Literal[1, 2]
    preliminary: bool

    @property
    def single_three(self) -> bool:
        return any(item.points == 3 for item in self.items)


def points(bands: Bands, value: float, decimals: int = 0) -> int:
    """The points of a value, rounded as it is charted (temperature to one decimal: 100.4 F is 38.0 C)."""
    step = Decimal(1).scaleb(-decimals)
    # First to 1e-4: a converted 38.05 must not fall to 38.0 for want of the last binary digit.
    charted = float(Decimal(f"{value:.4f}").quantize(step, ROUND_HALF_UP))
    return next(score for highest, score in bands if charted <= highest)


def news2(
    record: PatientRecord, within: timedelta, *, hypercapnia_target: bool = False, until: datetime | None = None
) -> News2 | None:
    """The score of the newest set of vital signs, or None when there is none within `within` before `until` (now).

    A set is what was measured in the hour up to the newest measurement. `hypercapnia_target`: a clinician has
    recorded a target saturation of 88 to 92 %, or hypercapnia; only then is saturation scale 2 used.
    """
    newest = until or record.as_of
    oldest = newest - within
    labs = [x for x in record.labs if x.analyte in _ANALYTES and oldest <= x.at <= newest and x.has_time]
    words = [
        x
        for x in record.coded
        if x.name == "avpu" and x.meaning in RESPONSES and x.at is not None and oldest <= x.at <= newest
    ]
    times = [x.at for x in labs] + [x.at for x in words if x.at is not None]
    if not times:
        return None
    at = max(times)
    found: dict[str, Lab] = {}
    for lab in labs:  # newest first
        if at - lab.at <= ONE_SET:
            found.setdefault(lab.analyte, lab)
    spoken = next((x for x in words if x.at is not None and at - x.at <= ONE_SET), None)

    oxygen = _oxygen(found)
    spo2_bands: Bands = SPO2_SCALE_1
    if hypercapnia_target:
        # Oxygen not charted: scored as on air, which can only be the lower of the two.
        spo2_bands = SPO2_SCALE_2_OXYGEN if oxygen is not None and oxygen.points else SPO2_SCALE_2_AIR
    items = [
        _banded("respiratory rate", found.get("resp_rate"), RESP_RATE, "/min"),
        _banded("oxygen saturation", found.get("spo2"), spo2_bands, " %"),
        oxygen,
        _banded("systolic pressure", found.get("sbp"), SBP, " mmHg"),
        _banded("heart rate", found.get("heart_rate"), HEART_RATE, "/min"),
        _consciousness(spoken, found.get("gcs_total")),
        _banded("temperature", found.get("temperature"), TEMPERATURE, " °C", decimals=1),
    ]
    scored = [item for item in items if item is not None]
    if not scored:
        return None
    return News2(
        total=sum(item.points for item in scored),
        items=tuple(sorted(scored, key=lambda item: -item.points)),
        missing=tuple(name for name, item in zip(ITEMS, items, strict=True) if item is None),
        at=at,
        scale=2 if hypercapnia_target else 1,
        preliminary=any(isinstance(item.source, Lab) and item.source.preliminary for item in scored),
    )


def rise(record: PatientRecord, now: News2, within: timedelta, *, hypercapnia_target: bool = False) -> News2 | None:
    """The lowest earlier score within `within` before `now`, from a set with all seven items; None without one.

    An incomplete set is no start: what was not measured then may have been abnormal already.
    """
    vitals = [x.at for x in record.labs if x.analyte in _ANALYTES and x.has_time]
    times = {at for at in vitals if now.at - within <= at < now.at}
    scores = (news2(record, ONE_SET, hypercapnia_target=hypercapnia_target, until=at) for at in sorted(times))
    complete = [score for score in scores if score is not None and not score.missing and not score.preliminary]
    return min(complete, key=lambda score: score.total, default=None)


_ANALYTES = frozenset({"resp_rate", "spo2", "fio2", "o2_flow", "sbp", "heart_rate", "gcs_total", "temperature"})


def _banded(name: str, lab: Lab | None, bands: Bands, unit: str, decimals: int = 0) -> Item | None:
    """An item whose comparator leaves the band open counts as missing (DQ-8)."""
    if lab is None:
        return None
    score = points(bands, lab.value, decimals)
    if lab.comparator is not None:
        beyond: Callable[[float], float] = (lambda v: v / 2) if "<" in lab.comparator else (lambda v: v * 2)
        if points(bands, beyond(lab.value), decimals) != score:
            return None
    return Item(name, score, f"{lab.value:.{decimals}f}{unit}", lab)


def _oxygen(found: dict[str, Lab]) -> Item | None:
    """On oxygen when the newest of flow and inspired fraction says so; of two charted together, either may say so."""
    given = [x for x in (found.get("o2_flow"), found.get("fio2")) if x is not None]
    if not given:
        return None
    newest = max(x.at for x in given)
    scored = [(x, x.value > (AIR_PERCENT if x.analyte == "fio2" else 0.0)) for x in given if x.at == newest]
    lab, on = max(scored, key=lambda pair: pair[1])
    return Item("oxygen", ON_OXYGEN if on else 0, "on oxygen" if on else "air", lab)


def _consciousness(spoken: Coded | None, coma: Lab | None) -> Item | None:
    """The newer of the level of response and the coma score; the worse of two charted together."""
    items = []
    if spoken is not None:
        alert = spoken.meaning == "alert"
        items.append((spoken.at, Item("consciousness", 0 if alert else NOT_ALERT, RESPONSES[spoken.meaning], spoken)))
    if coma is not None and coma.comparator is None:
        words = f"coma score {coma.value:.0f}"
        items.append((coma.at, Item("consciousness", NOT_ALERT if coma.value < 15 else 0, words, coma)))
    if not items:
        return None
    return max(items, key=lambda pair: (pair[0], pair[1].points))[1]
