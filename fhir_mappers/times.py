"""FHIR's dates and times, which may be partial, as moments with a time zone."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta
from typing import NamedTuple

SKEW = timedelta(minutes=10)
"""How far ahead of our clock a time may lie and still be believed (CLINICAL.md 3.1, DQ-9)."""


class Moment(NamedTuple):
    """A FHIR date or dateTime. `has_time` is False for a date; `at` is then the end of that day."""

    at: datetime
    has_time: bool


_TIMED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?")
_DATED = re.compile(r"\d{4}-\d\d-\d\d")
_PARTIAL = re.compile(r"(\d{4})(?:-(\d\d))?")


def read_time(text: str | None, as_of: datetime) -> Moment | None:
    """Read a dateTime or instant; None for what is absent, partial or no time at all.

    A time without an offset, which FHIR forbids, is taken as UTC. A date counts as the end of its day in the
    time zone of `as_of`, and the day of `as_of` itself as `as_of`: it happened today, we cannot say when.
    """
    if not text:
        return None
    try:
        if _TIMED.fullmatch(text):
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            if not 1 < at.year < MAXYEAR:
                at.astimezone(UTC)  # raises where an offset leads out of the calendar
            return Moment(at, True)
        if _DATED.fullmatch(text):
            day = date.fromisoformat(text)
            end = datetime.combine(day, time(23, 59, 59), as_of.tzinfo or UTC)
            end.astimezone(UTC)
            return Moment(as_of if day == as_of.date() else end, False)
    except (ValueError, OverflowError):
        return None
    return None


def read_start(text: str | None, as_of: datetime) -> datetime | None:
    """Like `read_time` for onsets, where a month or a year is worth having: its first day."""
    moment = read_time(text, as_of)
    if moment:
        return moment.at
    first = date_bounds(text)
    return datetime.combine(first[0], time(), as_of.tzinfo or UTC) if first else None


def date_bounds(text: str | None) -> tuple[date, date] | None:
    """The first and last day that a date, a month or a year allows."""
    if not text:
        return None
    try:
        if _DATED.fullmatch(text[:10]):
            day = date.fromisoformat(text[:10])
            return day, day
        match = _PARTIAL.fullmatch(text)
        if not match:
            return None
        year, month = int(match[1]), match[2]
        if month is None:
            return date(year, 1, 1), date(year, 12, 31)
        return date(year, int(month), 1), date(year, int(month), monthrange(year, int(month))[1])
    except ValueError:
        return None


def in_future(at: datetime | None, as_of: datetime) -> bool:
    return at is not None and at > as_of + SKEW
