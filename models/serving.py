"""The engine: one thread owns the model and answers in the order of deadlines.

A call puts its patient in a bounded queue and waits no longer than it may. The thread takes whoever waits, as one
micro-batch, without waiting for more. Every patient is answered several times over in that batch: as they are, with
each modality masked in turn, and with the film before alone. A film is encoded once and its encoding kept.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from models.answers import Answerer
from models.card import Card, TargetCard
from models.checkpoint import CARD, Stored, load_checkpoint
from models.contract import (
    Assessment,
    Depth,
    EncodedFilm,
    EngineBusy,
    EngineTimeout,
    FusionInput,
    InputSpec,
    Tier,
    empty_signal,
)
from models.film_reader import NAME as FILM_READER
from models.film_reader import load_film_reader
from models.waiting import Arrived, Asked, Rest, Waiting

log = logging.getLogger(__name__)

QUEUE = 64
MICRO_BATCH = 8
MAPS = 4
"""Maps asked for at once: each takes a second or two."""
REST_LOOK_S = 0.05


class EngineClosed(EngineBusy):
    """The engine is closing and takes no more."""


class Engine:
    """Assess patients with one checkpoint. Safe to call from many threads; close it, or use it as a context."""

    def __init__(
        self, answerer: Answerer, *, queue: int = QUEUE, micro_batch: int = MICRO_BATCH, warm_up: bool = True
    ) -> None:
        self._answerer = answerer
        self._limit, self._micro_batch = queue, micro_batch
        self._waiting: list[Waiting] = []
        self._arrived: deque[Arrived] = deque()
        self._asked: deque[Asked] = deque()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._began: float | None = None
        self._rest = Rest()
        if warm_up:
            self._warm_up()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str | None = None,
        queue: int = QUEUE,
        micro_batch: int = MICRO_BATCH,
        threads: int | None = None,
    ) -> Engine:
        """An engine from a checkpoint folder, warm and ready. Raises CheckpointError where it must not be used.

        device: `cuda` where there is one unless said otherwise. threads: what torch may use on the CPU.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        return cls.of(load_checkpoint(folder), folder.parent, device=device, queue=queue, micro_batch=micro_batch)

    @classmethod
    def of(
        cls,
        stored: Stored,
        models: Path,
        *,
        device: str | None = None,
        queue: int = QUEUE,
        micro_batch: int = MICRO_BATCH,
    ) -> Engine:
        """An engine from a checkpoint in memory; the networks that read its films are looked for under `models`."""
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # The imaging networks lie beside the models they serve; without them a film has findings and no reading.
        beside = models / FILM_READER
        reader = load_film_reader(beside, device=chosen) if (beside / CARD).is_file() else None
        return cls(Answerer(stored, device=chosen, reader=reader), queue=queue, micro_batch=micro_batch)

    @property
    def card(self) -> Card:
        """Everything `model.json` says."""
        return self._answerer.card

    @property
    def spec(self) -> InputSpec:
        return self.card.spec

    @property
    def name(self) -> str:
        """`chest-open@1`."""
        return self.card.model

    @property
    def digest(self) -> str:
        """sha-256 of the weights, hex."""
        return self.card.weights.sha256

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._answerer.device

    @property
    def encoder(self) -> str:
        """`EncodedFilm.encoder` of the films it makes and takes; empty for a model that reads none."""
        return self._answerer.encoder

    @property
    def tier(self) -> Tier:
        return self.card.tier

    @property
    def ready(self) -> bool:
        """Whether a call has a thread to answer it."""
        return self._thread.is_alive() and not self._closing

    @property
    def busy_s(self) -> float:
        """For how many seconds the batch, film or piece of a map under way has been; 0.0 while there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def target_card(self, target: str) -> TargetCard:
        """Figures, standing and limits of one target."""
        return self.card.targets[target]

    @property
    def depths(self) -> frozenset[Depth]:
        """What may be asked for besides everything."""
        return frozenset({"ranked", "fused", "late"})

    def assess(
        self, inputs: FusionInput, *, timeout: float, targets: Sequence[str] | None = None, depth: Depth = "explained"
    ) -> Assessment:
        """Assess one patient within `timeout` seconds; `targets` names those wanted, all by default.

        Raises EngineBusy when the queue is full, EngineTimeout when the time ran out, ValueError for a target the
        model does not have or an input that is not laid out by its spec.
        """
        names = tuple(targets) if targets is not None else self.spec.target_names()
        unknown = [t for t in names if t not in self.card.targets]
        if unknown:
            raise ValueError(f"{self.name} has no target {unknown[0]!r}")
        self._answerer.check(inputs)
        if timeout <= 0.0:
            raise EngineTimeout("no time was left for the model")
        waiting = Waiting(time.monotonic() + timeout, next(self._numbers), inputs, names, depth, Future())
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise EngineClosed("the model engine is not running")
            if len(self._waiting) >= self._limit:
                raise EngineBusy(f"{self._limit} patients wait already")
            heapq.heappush(self._waiting, waiting)
            self._rest.patient_came()
            self._changed.notify()
        try:
            return waiting.answer.result(max(0.0, waiting.deadline - time.monotonic()))
        except FutureTimeout:
            waiting.answer.cancel()
            raise EngineTimeout("the model did not answer in time") from None

    def encode(self, pixels: NDArray[np.float32], *, timeout: float) -> EncodedFilm:
        """Encode one film (1, H, W) in [0, 1] within `timeout` seconds; patients who wait come first.

        Raises as `assess` does.
        """
        arrived = Arrived(time.monotonic() + timeout, pixels, Future())
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise EngineClosed("the model engine is not running")
            if len(self._arrived) >= self._limit:
                raise EngineBusy(f"{self._limit} films wait already")
            self._arrived.append(arrived)
            self._changed.notify()
        try:
            return arrived.answer.result(max(0.0, timeout))
        except FutureTimeout:
            arrived.answer.cancel()
            raise EngineTimeout("the film was not encoded in time") from None

    def explain(self, pixels: NDArray[np.float32], finding: str, *, timeout: float) -> NDArray[np.float32]:
        """How much of one finding's score each part of a film (1, H, W) carries, (H, W), within `timeout` seconds.

        Patients and films that wait come first, also in between. Raises as `assess` does.
        """
        asked = Asked(time.monotonic() + timeout, pixels, finding, Future())
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise EngineClosed("the model engine is not running")
            if len(self._asked) >= MAPS:
                raise EngineBusy(f"{MAPS} maps are asked for already")
            self._asked.append(asked)
            self._changed.notify()
        try:
            return asked.answer.result(max(0.0, timeout))
        except FutureTimeout:
            asked.answer.cancel()
            raise EngineTimeout("the map was not worked out in time") from None

    def close(self) -> None:
        """Take no more, end the thread; whoever still waits gets EngineClosed."""
        with self._changed:
            self._closing = True
            left: list[Waiting | Arrived | Asked] = [*self._waiting, *self._arrived, *self._asked]
            self._waiting = []
            self._arrived.clear()
            self._asked.clear()
            self._changed.notify_all()
        for waiting in left:
            if waiting.answer.set_running_or_notify_cancel():
                waiting.answer.set_exception(EngineClosed("the model engine is closing"))
        self._thread.join(timeout=10.0)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warm_up(self) -> None:
        """Answer a made-up patient with everything seen, so that the first real one does not pay for it."""
        slots = {"imaging": self.spec.image.films, "context": 1}
        signals = {}
        for name in ("imaging", "labs", "history", "genomics", "context"):
            signal = empty_signal(self.spec, name, slots.get(name, 16))
            signal.seen[:] = True
            known = {"labs": self.spec.labs, "history": self.spec.history, "genomics": self.spec.genomics}
            signal.seen[:] = bool(known.get(name, True))
            signal.code[:] = signal.seen
            signals[name] = signal
        for _ in range(2):
            self._answerer.answer([(FusionInput(signals), self.spec.target_names())], remember=False)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._asked or self._film_is_due() or self._closing):
                    self._changed.wait(REST_LOOK_S if self._arrived else None)
                if self._closing:
                    return
                asked = None if self._waiting or self._film_is_due() or not self._asked else self._asked.popleft()
            if asked is not None:
                self._began = time.monotonic()
                self._explain(asked)
            else:
                self._next()
            self._began = None

    def _next(self) -> None:
        """Answer whoever waits, else encode a film that does."""
        self._began = time.monotonic()
        with self._changed:
            batch = self._take()
            # One film at a time, and only when nobody waits: it costs a patient who comes now one encoding.
            arrived = self._arrived.popleft() if not batch and self._film_is_due() else None
        if batch:
            self._answer(batch)
        elif arrived is not None:
            self._encode(arrived)

    def _film_is_due(self) -> bool:
        return bool(self._arrived) and self._rest.over

    def _take(self) -> list[Waiting]:
        """The most urgent, up to a micro-batch, and as long as the next wants the same depth; those whose time is over
        are left behind."""
        batch: list[Waiting] = []
        now = time.monotonic()
        while self._waiting and len(batch) < self._micro_batch:
            if batch and self._waiting[0].depth != batch[0].depth:
                break
            waiting = heapq.heappop(self._waiting)
            if waiting.deadline > now and waiting.answer.set_running_or_notify_cancel():
                batch.append(waiting)
        return batch

    def _encode(self, arrived: Arrived) -> None:
        began = time.monotonic()
        if arrived.deadline <= began or not arrived.answer.set_running_or_notify_cancel():
            return
        try:
            arrived.answer.set_result(self._answerer.encode(arrived.pixels))
        except Exception as error:  # noqa: BLE001 - the thread must outlive one bad film; its caller gets the error
            log.error("the model failed on a film: %s", type(error).__name__)
            arrived.answer.set_exception(error)
        self._rest.film_took(time.monotonic() - began)

    def _explain(self, asked: Asked) -> None:
        def between() -> None:
            self._next()
            if self._closing:
                raise EngineClosed("the model engine is closing")
            if asked.deadline <= time.monotonic():
                raise EngineTimeout("the map was not worked out in time")

        if asked.deadline <= time.monotonic() or not asked.answer.set_running_or_notify_cancel():
            return
        try:
            asked.answer.set_result(self._answerer.explain(asked.pixels, asked.finding, between))
        except (EngineBusy, EngineTimeout) as error:
            asked.answer.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the thread must outlive one bad film; its caller gets the error
            log.error("the model failed on a map: %s", type(error).__name__)
            asked.answer.set_exception(error)

    def _answer(self, batch: Sequence[Waiting]) -> None:
        try:
            found = self._answerer.answer([(w.inputs, w.targets) for w in batch], depth=batch[0].depth)
        except Exception as error:  # noqa: BLE001 - the thread must outlive one bad batch; every caller gets the error
            log.error("the model failed on a batch of %d: %s", len(batch), type(error).__name__)
            if len(batch) > 1:
                # One patient's fault must not be the others': answer them one by one.
                for waiting in batch:
                    self._answer([waiting])
                return
            batch[0].answer.set_exception(error)
            return
        for waiting, assessment in zip(batch, found, strict=True):
            waiting.answer.set_result(assessment)
