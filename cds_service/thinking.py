"""`Thinking`: what may still be asked of a model in the time left, and what its failures cost.

A call that runs out of time gives up in a fixed order: what moved the estimate, then comparison and ranking, then
fusion, then the model, and at last the rules. A model that raises or answers nonsense costs the estimate and nothing
else.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from cds_service.deadline import Deadline, Monotonic
from cds_service.pace import Pace
from models.contract import Assessment, Assessor, Depth, EngineBusy, EngineTimeout, Estimate, FusionInput

log = logging.getLogger(__name__)

DEPTHS: tuple[Depth, ...] = ("explained", "ranked", "fused", "late")
"""Most first. From `fused` on, candidates are not put in order either."""
LEFT_OUT: Mapping[Depth, tuple[str, ...]] = {
    "explained": (),
    "ranked": ("explanation",),
    "fused": ("explanation", "ranking"),
    "late": ("explanation", "ranking", "fusion"),
}
RULES_S = 0.04
"""Kept back from the model for rules, cards and the answer."""
FAILURES_IN_A_ROW = 3

Failure = Literal["out-of-memory", "not-a-number", "error"]


class ModelFailed(Exception):
    """The model raised, or answered something that is no probability. The message is a kind of a closed set."""

    def __init__(self, kind: Failure) -> None:
        super().__init__(kind)
        self.kind: Failure = kind


@runtime_checkable
class SteppedAssessor(Protocol):
    """An engine that can do with less: `depths` it can be asked for, besides `explained`, which is what all do."""

    @property
    def depths(self) -> frozenset[Depth]: ...

    def assess(
        self, inputs: FusionInput, *, timeout: float, targets: Sequence[str] | None = None, depth: Depth = "explained"
    ) -> Assessment: ...


class Thinking:
    """Every call of every model of a process passes here. Shared by all threads.

    failures  kind -> how often, since the start
    took      told the model and the seconds of every answer and every time-out
    """

    def __init__(self, clock: Monotonic = time.monotonic) -> None:
        self._clock = clock
        self.took: Callable[[str, float], None] = lambda model, seconds: None
        self._lock = threading.Lock()
        self._paces: dict[tuple[str, Depth], Pace] = {}
        self._in_a_row: Counter[str] = Counter()
        self.failures: Counter[Failure] = Counter()

    def well(self, model: str) -> bool:
        """False after three failures in a row: then a process should be taken out and restarted."""
        with self._lock:
            return self._in_a_row[model] < FAILURES_IN_A_ROW

    def depth(self, model: str, engine: Assessor, left_s: float) -> Depth | None:
        """The most that lately fitted into so many seconds, or None: then rules alone.

        What has not been tried within the last half minute is taken to fit; its own time-out then shows.
        """
        offered = engine.depths if isinstance(engine, SteppedAssessor) else frozenset[Depth]()
        for depth in DEPTHS:
            usual_s = self._pace(model, depth).high() or 0.0
            if (depth == "explained" or depth in offered) and left_s > 0.0 and usual_s <= left_s:
                return depth
        return None

    def assess(
        self,
        model: str,
        engine: Assessor,
        inputs: FusionInput,
        deadline: Deadline,
        targets: Sequence[str] | None = None,
    ) -> tuple[Assessment, Depth]:
        """Ask as much as there is time for. Raises EngineBusy, EngineTimeout or ModelFailed; each is counted.

        The rules keep their time whatever the model does.
        """
        deadline = deadline.leaving(RULES_S)
        depth = self.depth(model, engine, deadline.remaining())
        if depth is None:
            raise EngineTimeout("no time for any of it")
        began = self._clock()
        try:
            left = deadline.remaining()
            if isinstance(engine, SteppedAssessor) and depth != "explained":
                assessment = engine.assess(inputs, timeout=left, targets=targets, depth=depth)
            else:
                assessment = engine.assess(inputs, timeout=left, targets=targets)
        except EngineBusy:
            raise
        except EngineTimeout:
            self._note(model, depth, self._clock() - began)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model raises costs the estimate, never the rules
            raise self._failed(model, _kind(error), error) from None
        self._note(model, depth, self._clock() - began)
        if not _sound(assessment):
            raise self._failed(model, "not-a-number", None)
        with self._lock:
            self._in_a_row[model] = 0
        return assessment, depth

    def _pace(self, model: str, depth: Depth) -> Pace:
        with self._lock:
            if (model, depth) not in self._paces:
                self._paces[model, depth] = Pace(self._clock)
            return self._paces[model, depth]

    def _note(self, model: str, depth: Depth, seconds: float) -> None:
        self._pace(model, depth).note(seconds)
        self.took(model, seconds)

    def _failed(self, model: str, kind: Failure, error: Exception | None) -> ModelFailed:
        with self._lock:
            self.failures[kind] += 1
            self._in_a_row[model] += 1
        log.error("model failed", exc_info=error, extra={"fields": {"model": model, "kind": kind}})
        return ModelFailed(kind)


def _kind(error: Exception) -> Failure:
    # torch.OutOfMemoryError by its name: the service does not know torch.
    names = {cls.__name__ for cls in type(error).__mro__}
    return "out-of-memory" if names & {"MemoryError", "OutOfMemoryError"} else "error"


def _sound(assessment: Assessment) -> bool:
    """Whether every number is a probability: a broken device answers NaN without raising."""
    estimates: Iterable[Estimate] = (*assessment.estimates.values(), *assessment.prior.values())
    return all(
        math.isfinite(p) and 0.0 <= p <= 1.0
        for e in estimates
        for p in (e.probability, *(e.interval or ()), *e.without.values())
        if p is not None
    )
