"""`Breaker`: stop asking a server that fails or is slow, and find out by single trials when it is well again.

In our trade slow is failed: without a breaker every call to a dead server costs the whole of its budget.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cds_service.deadline import Monotonic

log = logging.getLogger(__name__)

State = Literal["closed", "open", "half-open"]
Kind = Literal["fhir", "dicomweb"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a breaker opens and closes.

    window_calls, window_s  what is looked at: the newest calls, none of them older
    at_least                calls in the window before anything follows from them
    share                   of them failed or slow opens it
    open_s, longest_open_s  first pause, doubled each time a trial fails, and where that ends
    trials                  good trials, one at a time, that close it
    """

    window_calls: int = 20
    window_s: float = 30.0
    at_least: int = 8
    share: float = 0.5
    open_s: float = 5.0
    longest_open_s: float = 60.0
    trials: int = 3


class Permit:
    """Leave to make one call. Exactly one of `ended` and `without_evidence` is said afterwards; more do no harm."""

    __slots__ = ("_breaker", "_round", "_used")

    def __init__(self, breaker: Breaker, round_: int) -> None:
        self._breaker = breaker
        self._round = round_
        self._used = False

    def ended(self, *, good: bool, wait_s: float | None = None) -> None:
        """How the call went. `wait_s` is the pause the server itself asked for (Retry-After)."""
        if not self._used:
            self._used = True
            self._breaker._ended(self._round, good, wait_s)

    def without_evidence(self) -> None:
        """The call says nothing about the server: refused access, an unknown resource, given up by ourselves."""
        if not self._used:
            self._used = True
            self._breaker._without_evidence(self._round)


class Breaker:
    """One server as one tenant sees it. Shared by all threads.

    jitter  a number in [0, 1); a pause is shortened by up to a fifth, so that replicas do not try at the same moment
    """

    def __init__(
        self,
        limits: Limits | None = None,
        clock: Monotonic = time.monotonic,
        jitter: Callable[[], float] = random.random,
        changed: Callable[[State], None] = lambda state: None,
    ) -> None:
        self._limits = limits or Limits()
        self._clock = clock
        self._jitter = jitter
        self._changed = changed
        self._lock = threading.Lock()
        self._results: deque[tuple[float, bool]] = deque(maxlen=self._limits.window_calls)
        self._state: State = "closed"
        self._round = 0
        self._opened_in_a_row = 0
        self._until = 0.0
        self._trial_under_way = False
        self._good_trials = 0

    @property
    def state(self) -> State:
        with self._lock:
            return "half-open" if self._state == "open" and self._clock() >= self._until else self._state

    def refuses(self) -> bool:
        """Whether a call begun now would be refused; takes nothing."""
        with self._lock:
            if self._state == "open":
                return self._clock() < self._until
            return self._state == "half-open" and self._trial_under_way

    def allow(self) -> Permit | None:
        """Leave for one call, or None: then the server is not to be asked. Half open, one call at a time is a trial."""
        with self._lock:
            if self._state == "open" and self._clock() >= self._until:
                self._turn("half-open")
                self._good_trials = 0
                self._trial_under_way = False
            if self._state == "open" or (self._state == "half-open" and self._trial_under_way):
                return None
            self._trial_under_way = self._state == "half-open"
            return Permit(self, self._round)

    def _ended(self, round_: int, good: bool, wait_s: float | None) -> None:
        with self._lock:
            if round_ != self._round:
                return  # begun before the state changed: it says nothing about now
            if wait_s is not None and not good:
                self._open(wait_s)
            elif self._state == "half-open":
                self._trial_under_way = False
                self._good_trials += good
                if not good:
                    self._open()
                elif self._good_trials >= self._limits.trials:
                    self._opened_in_a_row = 0
                    self._results.clear()
                    self._turn("closed")
            else:
                self._results.append((self._clock(), good))
                self._judge()

    def _without_evidence(self, round_: int) -> None:
        with self._lock:
            if round_ == self._round:
                self._trial_under_way = False

    def _judge(self) -> None:
        oldest = self._clock() - self._limits.window_s
        while self._results and self._results[0][0] < oldest:
            self._results.popleft()
        bad = sum(not good for _, good in self._results)
        if len(self._results) >= self._limits.at_least and bad >= self._limits.share * len(self._results):
            self._open()

    def _open(self, wait_s: float = 0.0) -> None:
        longest = self._limits.longest_open_s
        pause = min(longest, max(wait_s, self._limits.open_s * 2.0**self._opened_in_a_row))
        self._opened_in_a_row = min(self._opened_in_a_row + 1, 10)
        self._until = self._clock() + pause * (1.0 - 0.2 * self._jitter())
        self._results.clear()
        self._turn("open")

    def _turn(self, state: State) -> None:
        self._state = state
        self._round += 1
        self._changed(state)


@dataclass(frozen=True, slots=True)
class BreakerState:
    """One breaker for metrics and the console. `base` is the registered base URL, never one out of a request."""

    tenant: str
    kind: Kind
    base: str
    state: State


class Breakers:
    """The breakers of a process, by tenant, kind and registered base: one tenant's outage is no other's."""

    def __init__(
        self,
        limits: Limits | None = None,
        clock: Monotonic = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._all: dict[tuple[str, Kind, str], Breaker] = {}

    def of(self, tenant: str, kind: Kind, base: str) -> Breaker:
        with self._lock:
            breaker = self._all.get((tenant, kind, base))
            if breaker is None:

                def changed(state: State) -> None:
                    log.warning("breaker", extra={"fields": {"tenant": tenant, "kind": kind, "state": state}})

                breaker = Breaker(self._limits, self._clock, self._jitter, changed)
                self._all[tenant, kind, base] = breaker
            return breaker

    def states(self) -> tuple[BreakerState, ...]:
        with self._lock:
            found = tuple(self._all.items())
        return tuple(BreakerState(*key, breaker.state) for key, breaker in sorted(found, key=lambda item: item[0]))


class RetryBudget:
    """At most a tenth of all calls may be retries: a failing server must not get twice the load of a healthy one.

    A quiet process may retry a few times before it has made ten calls: `spare` retries are saved up at most.
    """

    def __init__(self, share: float = 0.1, spare: float = 10.0) -> None:
        self._share = share
        self._spare = spare
        self._left = spare
        self._lock = threading.Lock()

    def called(self) -> None:
        with self._lock:
            self._left = min(self._spare, self._left + self._share)

    def retry(self) -> bool:
        """Whether one more retry may be made; it is then counted."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True
