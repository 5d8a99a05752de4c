"""When an estimate is an alarm: raised by calls that agree, and ended only by some time well below the threshold.

One call above a threshold may be noise, and an estimate that hovers about it would come and go with every call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Terms:
    """What makes and ends it.

    threshold      probability from which a call counts as above
    confirm_after  what lies between the first and the last of the calls above, none below among them
    margin         share of the threshold that an estimate must fall below it to count as over
    leave_after    how long all calls must count as over
    """

    threshold: float
    confirm_after: timedelta
    margin: float
    leave_after: timedelta


def alarm(calls: Iterable[tuple[datetime, float | None]], terms: Terms) -> bool:
    """Whether the alarm stands after these calls, oldest first. None, a call without an answer, changes nothing."""
    standing = False
    above_since: datetime | None = None
    over_since: datetime | None = None
    for at, p in calls:
        if p is None:
            continue
        if standing:
            over_since = (over_since or at) if p < terms.threshold * (1.0 - terms.margin) else None
            if over_since is not None and at - over_since >= terms.leave_after:
                standing, above_since = False, None
            continue
        above_since = (above_since or at) if p >= terms.threshold else None
        if above_since is not None and at - above_since >= terms.confirm_after:
            standing, over_since = True, None
    return standing
