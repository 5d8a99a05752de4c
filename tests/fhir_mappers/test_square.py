"""The way from the model's square back to the film."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from fhir_mappers.record import Image, Source
from fhir_mappers.square import Placement
from fhir_mappers.tensors import film_tensor


@pytest.mark.parametrize(("rows", "columns", "size"), [(64, 48, 32), (48, 64, 32), (96, 96, 32), (128, 40, 64)])
def test_a_film_a_whole_number_of_times_the_square_comes_back_exactly(rows: int, columns: int, size: int) -> None:
    at = Placement.of(rows, columns, size)
    factor = rows // at.height
    small = np.random.default_rng(1).random((at.height, at.width))
    square = np.zeros((size, size))
    square[at.top : at.top + at.height, at.left : at.left + at.width] = small
    # Each pixel of the square is a block of factor x factor pixels of the film.
    assert np.array_equal(at.onto_film(square), small.repeat(factor, 0).repeat(factor, 1))


@pytest.mark.parametrize(("rows", "columns"), [(2544, 3056), (2021, 1777), (333, 1000), (30, 41)])
def test_every_pixel_of_the_square_that_the_film_covers_is_found_again_and_no_other(rows: int, columns: int) -> None:
    size = 224
    at = Placement.of(rows, columns, size)
    square = np.arange(size * size).reshape(size, size)
    covered = square[at.top : at.top + at.height, at.left : at.left + at.width]
    found = np.unique(at.onto_film(square))
    assert set(found.tolist()) <= set(covered.ravel().tolist())
    if min(rows, columns) >= size:
        assert np.array_equal(found, np.unique(covered))


@pytest.mark.parametrize(("rows", "columns"), [(2544, 3056), (1777, 2021)])
def test_what_is_bright_on_the_film_comes_back_to_where_it_was(rows: int, columns: int) -> None:
    pixels = np.zeros((rows, columns), np.float32)
    pixels[400:1200, 300:900] = 1.0
    film = Image(pixels, "PA", datetime(2026, 3, 1, tzinfo=UTC), "1.2", "1.3", Source("ImagingStudy/s"))
    square = film_tensor(film, 224) > 0.5
    back = Placement.of(rows, columns, 224).onto_film(square)
    # One pixel of the square is 13.6 or 9 pixels of the film: no edge may be further off than that.
    edge = max(rows, columns) / 224
    found_rows, found_columns = np.flatnonzero(back.any(1)), np.flatnonzero(back.any(0))
    for found, first, last in ((found_rows, 400, 1199), (found_columns, 300, 899)):
        assert abs(found[0] - first) <= edge
        assert abs(found[-1] - last) <= edge


def test_a_square_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="laid on one of 32"):
        Placement.of(64, 64, 32).onto_film(np.zeros((64, 64)))
