"""The image gate: what is no chest film is not judged, and few chest films are turned away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.card import Card
from models.checkpoint import load_checkpoint
from models.data import Shard
from models.gates import CHANGES, ImageGate, pixel_statistics, quantile_by_source, spoilt


@pytest.fixture(scope="module")
def films(shards: dict[str, Shard]) -> torch.Tensor:
    pixels = shards["generated"].arrays["imaging.values"][:6].astype(np.float32) / 255.0
    return torch.from_numpy(pixels)


@pytest.mark.parametrize("kind", CHANGES)
def test_a_spoilt_film_keeps_its_shape_and_is_another_film(films: torch.Tensor, kind: str) -> None:
    changed = spoilt(films, kind, torch.Generator().manual_seed(0))
    assert changed.shape == films.shape
    assert float((changed - films).abs().mean()) > 0.01
    assert 0.0 <= float(changed.min()) <= float(changed.max()) <= 1.0


def test_a_torn_film_is_the_same_tiles_in_another_order(films: torch.Tensor) -> None:
    torn = spoilt(films, "torn", torch.Generator().manual_seed(0))
    torch.testing.assert_close(torn.flatten(1).sort(dim=1).values, films.flatten(1).sort(dim=1).values)
    corner = torn[0, 0, :24, :24]
    tiles = [films[0, 0, r : r + 24, c : c + 24] for r in range(0, 96, 24) for c in range(0, 96, 24)]
    assert any(torch.equal(corner, tile) for tile in tiles)


def test_pixel_statistics_of_films_drawn_by_hand() -> None:
    half = np.zeros((1, 1, 4, 4), np.float32)
    half[..., :2] = 1.0  # left half white: its mirror image is its negative
    found = pixel_statistics(half)
    assert found["mean"][0] == pytest.approx(0.5)
    assert found["spread"][0] == pytest.approx(0.5)
    assert found["dark"][0] == pytest.approx(0.5)
    assert found["mirrored"][0] == pytest.approx(-1.0)


def test_a_black_picture_is_refused_and_a_film_is_not(checkpoint: tuple[Path, Card], films: torch.Tensor) -> None:
    stored = load_checkpoint(checkpoint[0])
    gate, encoder = stored.gate, stored.model.image_encoder()
    assert isinstance(gate, ImageGate)
    assert encoder is not None
    with torch.inference_mode():
        features = encoder.films(films).numpy()
        black = encoder.films(torch.zeros_like(films[:1])).numpy()
    kept = [gate.refusal(p.numpy(), f) for p, f in zip(films, features, strict=True)]
    assert kept.count(None) >= 4
    assert (
        gate.refusal(np.zeros(films.shape[1:], np.float32), black[0]) == "its grey levels are not those of a chest film"
    )


def test_the_share_of_films_turned_away_is_measured_and_small(checkpoint: tuple[Path, Card]) -> None:
    numbers = checkpoint[1].gate
    assert numbers is not None
    assert 0.0 <= numbers.false_refusals["all"] <= 0.2  # 5 % aimed at, on some 30 films
    assert set(numbers.refused) == set(CHANGES)


def test_a_small_source_counts_as_much_as_a_large_one() -> None:
    # A hundred films at 0 and one at 1: half the weight lies on either value.
    values = np.array([0.0] * 100 + [1.0])
    assert quantile_by_source(values, [100, 1], 0.45) == 0.0
    assert quantile_by_source(values, [100, 1], 0.55) == 1.0
