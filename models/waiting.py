"""What waits for an engine's thread: patients in the order of their deadlines, then films, then maps of findings."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.contract import Assessment, Depth, EncodedFilm, FusionInput


@dataclass(order=True, slots=True)
class Waiting:
    deadline: float
    number: int
    inputs: FusionInput = field(compare=False)
    targets: tuple[str, ...] = field(compare=False)
    depth: Depth = field(compare=False)
    answer: Future[Assessment] = field(compare=False)


@dataclass(slots=True)
class Arrived:
    """A film to encode ahead of any order."""

    deadline: float
    pixels: NDArray[np.float32]
    answer: Future[EncodedFilm]


@dataclass(slots=True)
class Asked:
    """A map somebody wants to see of a finding on a film."""

    deadline: float
    pixels: NDArray[np.float32]
    finding: str
    answer: Future[NDArray[np.float32]]


class Rest:
    """Films encoded ahead of any order take a thirtieth of the engine's time while patients come, and all of it else.

    So few patients then meet a film under way that nineteen in twenty notice nothing.
    """

    def __init__(self, share: float = 1 / 30, lately_s: float = 1.0, most_s: float = 5.0) -> None:
        """`lately_s`: so long after a patient another may come. `most_s`: the longest rest."""
        self._share, self._lately_s, self._most_s = share, lately_s, most_s
        self._came_at = self._until = float("-inf")

    def patient_came(self) -> None:
        self._came_at = time.monotonic()

    def film_took(self, seconds: float) -> None:
        self._until = time.monotonic() + min(self._most_s, seconds * (1 / self._share - 1))

    @property
    def over(self) -> bool:
        """Whether the next film may be encoded."""
        now = time.monotonic()
        return now - self._came_at > self._lately_s or now >= self._until
