"""`Admission`: which calls are taken on, so that the ones that are keep their budget.

Three reasons not to: the caller has used up its share (429), its calls already hold as many threads as one tenant may
(429), or more wait than can be answered in time (503). All three are said in JSON within milliseconds.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol

from cds_service.deadline import Deadline, Monotonic
from cds_service.errors import Throttled, Unavailable
from cds_service.pace import Pace

POINTS: Mapping[str, int] = {"order-sign": 5, "order-select": 3, "order-dispatch": 3}
"""What a call of a hook costs its caller; 1 where nothing stands here. Order-time hooks read more, and films."""
BURST_S = 2.0
"""Seconds' worth of points a caller that has been quiet may use at once."""
SHARE = 0.5
"""Of all threads, what one tenant of several may hold: a server of theirs that hangs leaves the rest to the others."""

Reason = Literal["client", "tenant", "queue", "late"]


class TokenBuckets:
    """One bucket of points for each caller; they fill at `points_per_s`. Shared by all threads."""

    def __init__(self, points_per_s: float, clock: Monotonic = time.monotonic) -> None:
        self._rate = points_per_s
        self._most = points_per_s * BURST_S
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, caller: str, points: float) -> float:
        """0.0 and the points are taken; else the seconds until there are so many, and nothing is taken."""
        with self._lock:
            now = self._clock()
            left, at = self._buckets.get(caller, (self._most, now))
            left = min(self._most, left + (now - at) * self._rate)
            if left < points:
                self._buckets[caller] = left, now
                return (points - left) / self._rate
            self._buckets[caller] = left - points, now
            return 0.0


class Buckets(Protocol):
    """The points of all callers, of this process or of several."""

    def take(self, caller: str, points: float) -> float: ...


class Admission:
    """Shared by all threads, and by the server, which asks before it lets a call wait.

    threads       calls answered at the same time
    tenants       says how many there are now; a single one may use all threads
    points_per_s  what each caller may use; see POINTS
    shed          reason -> how many calls were turned away, since the start
    """

    def __init__(
        self,
        threads: int,
        tenants: Callable[[], int] = lambda: 1,
        points_per_s: float = 1000.0,
        clock: Monotonic = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.threads = threads
        self._tenants = tenants
        self.shed: Counter[Reason] = Counter()
        self.buckets: Buckets = TokenBuckets(points_per_s, clock)
        self._jitter = jitter
        self._clock = clock
        self._paces: dict[str, Pace] = {}
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()

    def in_flight(self) -> Mapping[str, int]:
        """Calls under way by tenant."""
        with self._lock:
            return {tenant: n for tenant, n in self._in_flight.items() if n}

    def per_tenant(self) -> int:
        """How many calls of one tenant may be under way."""
        return self.threads if self._tenants() <= 1 else max(1, math.floor(self.threads * SHARE))

    @contextmanager
    def call(self, tenant: str, hook: str, deadline: Deadline) -> Iterator[None]:
        """Hold a place for one call. Raises Throttled or Unavailable."""
        if deadline.passed:
            raise self.turned_away("late")
        wait_s = self.buckets.take(tenant, POINTS.get(hook, 1))
        if wait_s:
            self.shed["client"] += 1
            raise Throttled("this client has made more calls than it may; come back later", self._retry_after(wait_s))
        most = self.per_tenant()
        with self._lock:
            if self._in_flight[tenant] >= most:
                self.shed["tenant"] += 1
                raise Throttled("this client has as many calls under way as it may", self._retry_after(1.0))
            self._in_flight[tenant] += 1
            pace = self._paces.setdefault(tenant, Pace(self._clock))
        began = self._clock()
        try:
            yield
        finally:
            pace.note(self._clock() - began)
            with self._lock:
                self._in_flight[tenant] -= 1

    def room_to_wait(self, waiting: int, budget_s: float) -> bool:
        """Whether a call may join `waiting` others and still be answered within its budget.

        Little's law: it waits for those before it, shared among the threads, at the pace of the last half minute. Whose
        call it is nobody knows yet, and of several tenants the quickest one's pace is taken: a server of another's that
        hangs must not have its calls turned away. Who waits too long for that is turned away when its turn comes.
        """
        if waiting >= self.threads:
            return False
        with self._lock:
            paces = list(self._paces.values())
        usual_s = min((mean for pace in paces if (mean := pace.mean()) is not None), default=0.0)
        return usual_s * (waiting + 1) / self.threads + usual_s <= budget_s

    def turned_away(self, reason: Reason) -> Unavailable:
        """The 503 for a call there is no time for; counted."""
        self.shed[reason] += 1
        return Unavailable("more calls are waiting than can be answered in time", retry_after_s=self._retry_after(1.0))

    def _retry_after(self, seconds: float) -> int:
        """Whole seconds, spread so that those who were turned away together do not come back together."""
        return math.ceil(seconds + 2.0 * self._jitter())
