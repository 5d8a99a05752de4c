"""Move every date of a patient by one constant, so that data of years ago can be shown as if they were of today.

Whole days only: times of day stay as they are, dates without a time move exactly, and all intervals are kept. A
year or a month alone (`2012`, `2012-05`) moves as its first day would and keeps its precision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pydicom import Dataset

_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?(T\d\d:\d\d.*)?")
# The elements of FHIR R4 that are dates, by name: a text or a postal code may look like one and must stay.
_ENDINGS = ("Date", "DateTime", "Instant")
_NAMES = frozenset(
    {"start", "end", "date", "issued", "started", "authoredOn", "recorded", "created", "sent", "received"}
    | {"time", "timestamp", "occurred", "event", "creation"}
)
# What did not happen at its date, or not to this patient's present: never the newest item.
_NOT_EVENTS = frozenset({"birthDate", "deceasedDateTime", "dueDate", "startDate", "expirationDate", "nextDate"})


def _is_date(key: str) -> bool:
    return key in _NAMES or key.endswith(_ENDINGS)


def _dates(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            if name != "meta":
                yield from _dates(member, name)
    elif isinstance(value, list):
        for member in value:
            yield from _dates(member, key)
    elif isinstance(value, str) and _is_date(key) and _DATE.fullmatch(value):
        yield key, value


def _moment(text: str) -> datetime | None:
    """The last moment a full date may mean; None for a year or month alone and for what is not a date."""
    try:
        if len(text) == len("2020-01-01"):
            return datetime.fromisoformat(text).replace(hour=23, minute=59, second=59, tzinfo=UTC)
        moment = datetime.fromisoformat(text) if "T" in text else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def newest(resources: Iterable[Mapping[str, Any]]) -> datetime | None:
    """When the newest thing in these resources happened; None when nothing in them has a date."""
    found = (_moment(text) for r in resources for key, text in _dates(r) if key not in _NOT_EVENTS)
    return max((moment for moment in found if moment is not None), default=None)


def days_until(resources: Iterable[Mapping[str, Any]], shift_to: datetime) -> int:
    """The whole days that bring the newest item into the last 24 hours before `shift_to`; 0 without any date."""
    last = newest(resources)
    return 0 if last is None else (shift_to - last) // timedelta(days=1)


def _shift_text(text: str, days: int) -> str:
    match = _DATE.fullmatch(text)
    assert match is not None
    year, month, day, rest = match.groups()
    try:
        moved = date(int(year), int(month or 1), int(day or 1)) + timedelta(days=days)
    except (ValueError, OverflowError):
        return text
    return moved.isoformat()[: len(text) - len(rest or "")] + (rest or "")


def shift_resource(value: Any, days: int, key: str = "") -> Any:
    """A copy of a resource (or any part of one) with every date in it moved; `meta` is the server's and stays."""
    if isinstance(value, Mapping):
        return {name: m if name == "meta" else shift_resource(m, days, name) for name, m in value.items()}
    if isinstance(value, list):
        return [shift_resource(member, days, key) for member in value]
    if isinstance(value, str) and _is_date(key) and _DATE.fullmatch(value):
        return _shift_text(value, days)
    return value


def shift_dicom(dataset: Dataset, days: int) -> None:
    """Move every DA and DT element of a data set, in place and in its sequences; times of day (TM) stay."""

    def move(_: Dataset, element: Any) -> None:
        if element.VR not in ("DA", "DT") or not element.value:
            return
        text = str(element.value)
        if re.match(r"\d{8}", text):
            moved = _shift_text(f"{text[:4]}-{text[4:6]}-{text[6:8]}", days)
            element.value = moved.replace("-", "") + text[8:]

    dataset.walk(move)
