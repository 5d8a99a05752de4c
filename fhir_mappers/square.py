"""Where a film lies on the square the model sees, and the way back from the square to the film's own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Placement:
    """A film of `rows` x `columns` pixels, resized to `height` x `width`, at (top, left) of a square of `size`."""

    rows: int
    columns: int
    size: int
    height: int
    width: int
    top: int
    left: int

    @classmethod
    def of(cls, rows: int, columns: int, size: int) -> Placement:
        scale = size / max(rows, columns)
        height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
        return cls(rows, columns, size, height, width, (size - height) // 2, (size - width) // 2)

    def onto_film(self, square: NDArray[Any]) -> NDArray[Any]:
        """What the square shows at every pixel of the film, (rows, columns): nothing between pixels is made up.

        Resizing lays pixel centres on each other at (i + 1/2) * rows / height, so the centre of film row r lies in
        row floor((r + 1/2) * height / rows) of the resized film. Raises ValueError for a square of another size.
        """
        if square.shape != (self.size, self.size):
            raise ValueError(f"a square of {square.shape}, where the film was laid on one of {self.size}")
        row = ((np.arange(self.rows) + 0.5) * self.height / self.rows).astype(np.int64) + self.top
        column = ((np.arange(self.columns) + 0.5) * self.width / self.columns).astype(np.int64) + self.left
        return square[np.ix_(row, column)]
