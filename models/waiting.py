"""What waits for an engine's thread: patients in the order of their deadlines, then films, then maps of findings."""

from __future__ import annotations

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
