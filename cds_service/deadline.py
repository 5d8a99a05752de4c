"""`Deadline`: the only clock of a request. Made once, handed on, only ever tightened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Monotonic = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which something must be done."""

    at: float
    _clock: Monotonic = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Monotonic = time.monotonic) -> Deadline:
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self._clock())

    def late_by(self) -> float:
        """Seconds since it passed, 0 before."""
        return max(0.0, self._clock() - self.at)

    @property
    def passed(self) -> bool:
        return self._clock() >= self.at

    def leaving(self, seconds: float) -> Deadline:
        """An earlier deadline that keeps `seconds` back for what comes after."""
        return Deadline(self.at - max(0.0, seconds), self._clock)

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.at, self._clock() + max(0.0, seconds)), self._clock)
