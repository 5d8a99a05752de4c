"""Films as they are kept: grey levels, size, and which two."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image as Pictures
from records import record

from cds_service.pages.films import chosen, encode
from fhir_mappers.record import Image, Source

NOW = datetime(2026, 3, 10, 14, tzinfo=UTC)


def film(uid: str, ago_h: float, pixels: np.ndarray | None = None) -> Image:
    grey = np.zeros((8, 8), np.float32) if pixels is None else pixels
    return Image(grey, "PA", NOW - timedelta(hours=ago_h), uid, "study", Source(f"ImagingStudy/{uid}"))


def decoded(data: bytes) -> np.ndarray:
    picture = Pictures.open(io.BytesIO(data))
    assert (picture.format, picture.mode) == ("JPEG", "L")
    return np.asarray(picture)


def test_grey_levels_are_255_times_the_value() -> None:
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (256, 1))
    kept = decoded(encode(ramp).data)
    assert np.abs(kept.astype(int) - np.arange(256)).max() <= 3  # what JPEG at 92 loses


@pytest.mark.parametrize(
    ("height", "width", "kept"),
    [(2048, 2048, (1024, 1024)), (3000, 2400, (1024, 819)), (600, 500, (600, 500)), (4300, 3500, (1024, 833))],
)
def test_a_film_keeps_its_shape_and_at_most_1024_pixels(height: int, width: int, kept: tuple[int, int]) -> None:
    picture = encode(np.full((height, width), 0.5, np.float32))
    assert (picture.of_height, picture.of_width) == (height, width)
    assert decoded(picture.data).shape == (picture.height, picture.width)
    assert abs(picture.height - kept[0]) <= 1
    assert abs(picture.width - kept[1]) <= 1


def test_a_thin_line_is_still_there_when_a_film_is_reduced() -> None:
    """Averaging dims a line of one pixel to about half; leaving out every other pixel could lose it whole."""
    pixels = np.zeros((2048, 2048), np.float32)
    pixels[:, 1001] = 1.0
    assert decoded(encode(pixels).data)[:, 495:506].max() > 90


def test_values_outside_0_to_1_do_not_wrap_around() -> None:
    pixels = np.full((64, 64), 1.02, np.float32)
    pixels[:32] = -0.02
    kept = decoded(encode(pixels).data)
    assert kept[:20].max() <= 3
    assert kept[44:].min() >= 252


def test_the_films_the_model_used_come_before_any_other() -> None:
    films = (film("c", 1), film("b", 2), film("a", 3))
    whole = record(images=films)
    assert [f.sop_uid for f in chosen(whole, frozenset({"a", "b"}))] == ["b", "a"]
    assert [f.sop_uid for f in chosen(whole, frozenset())] == ["c", "b"]
    assert chosen(record(), frozenset()) == ()
