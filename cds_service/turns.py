"""`Turns`: services asked at once for one hook event speak in the order of their cards, the most important first.

Only what is under way in this process is waited for; between processes the order is that of arrival.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

Rank = tuple[int, int]


class Turn:
    """One call's part in its event. `rank` is None while it is not known whether it has a card at all."""

    def __init__(self, turns: Turns, event: str) -> None:
        self._turns = turns
        self.event = event
        self.rank: Rank | None = None

    def wait(self, rank: Rank, seconds: float) -> bool:
        """Let those speak first that may have something more important; False when the time ran out before."""
        return self._turns.wait(self, rank, seconds)


class Turns:
    """Shared by all threads. Every call publishes its rank before it waits, so no two wait for each other."""

    def __init__(self, others: int = 2) -> None:
        """`others`: how many calls of an event there must be beside one before the order can matter."""
        self._others = others
        self._changed = threading.Condition()
        self._events: dict[str, list[Turn]] = {}

    @contextmanager
    def part(self, event: str) -> Iterator[Turn]:
        turn = Turn(self, event)
        with self._changed:
            self._events.setdefault(event, []).append(turn)
        try:
            yield turn
        finally:
            with self._changed:
                self._events[event].remove(turn)
                if not self._events[event]:
                    del self._events[event]
                self._changed.notify_all()

    def wait(self, turn: Turn, rank: Rank, seconds: float) -> bool:
        with self._changed:
            turn.rank = rank
            self._changed.notify_all()
            if len(self._events[turn.event]) <= self._others:
                return True
            return self._changed.wait_for(lambda: self._is_next(turn, rank), max(0.0, seconds))

    def _is_next(self, turn: Turn, rank: Rank) -> bool:
        others = (other for other in self._events[turn.event] if other is not turn)
        return not any(other.rank is None or other.rank < rank for other in others)
