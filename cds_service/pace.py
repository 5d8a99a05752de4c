"""`Pace`: how long something took lately. What has not happened for half a minute is no longer known."""

from __future__ import annotations

import threading
import time
from collections import deque

from cds_service.deadline import Monotonic

WINDOW_S = 30.0


class Pace:
    """Durations of the last 30 seconds, the newest 256 at most. Shared by all threads."""

    def __init__(self, clock: Monotonic = time.monotonic, window_s: float = WINDOW_S, most: int = 256) -> None:
        self._clock = clock
        self._window_s = window_s
        self._lock = threading.Lock()
        self._found: deque[tuple[float, float]] = deque(maxlen=most)

    def note(self, seconds: float) -> None:
        with self._lock:
            self._found.append((self._clock(), seconds))

    def mean(self) -> float | None:
        found = self._recent()
        return sum(found) / len(found) if found else None

    def high(self) -> float | None:
        """What nine of ten stayed within."""
        found = sorted(self._recent())
        return found[min(len(found) - 1, int(0.9 * len(found)))] if found else None

    def _recent(self) -> list[float]:
        oldest = self._clock() - self._window_s
        with self._lock:
            while self._found and self._found[0][0] < oldest:
                self._found.popleft()
            return [seconds for _, seconds in self._found]
