"""Outlines: what is believed of them, zones, and the cardiothoracic ratio, on masks drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.anatomy import (
    HEART_LEARNED,
    KINDS,
    OVERSTATES,
    STRUCTURES,
    UNKNOWN_VIEW,
    AnatomyNet,
    AnatomyPreset,
    Mask,
    anatomy_of,
    believed,
    cardiothoracic_ratio,
    resized,
    thirds,
)
from models.contract import Structure


def box(top: int, bottom: int, left: int, right: int, size: int = 128) -> Mask:
    mask = np.zeros((size, size), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


RIGHT, LEFT, HEART = box(20, 95, 20, 55), box(20, 95, 75, 110), box(65, 95, 48, 90)
"""On the film the patient's right lung lies left. The heart is 42 wide, the thorax 110 - 20 = 90: ratio 0.467."""


def logits(**masks: Mask) -> np.ndarray:
    return np.stack([np.where(masks[name], 4.0, -4.0) for name in STRUCTURES]).astype(np.float32)


def chest(**changed: Mask) -> dict[Structure, Mask]:
    return believed(logits(**{"right_lung": RIGHT, "left_lung": LEFT, "heart": HEART, **changed}), 128)


def test_the_ratio_is_the_width_of_the_heart_over_that_of_the_thorax() -> None:
    assert cardiothoracic_ratio(HEART, LEFT, RIGHT) == pytest.approx(42 / 90)
    found = anatomy_of(chest(), "PA")
    assert found.ctr == pytest.approx(0.467)
    assert found.ctr_why == HEART_LEARNED


@pytest.mark.parametrize(("view", "words"), [("AP", OVERSTATES), ("unknown", UNKNOWN_VIEW)])
def test_a_ratio_that_may_overstate_says_so(view: str, words: str) -> None:
    found = anatomy_of(chest(), view)
    assert found.ctr is not None
    assert found.ctr_why == f"{words}; {HEART_LEARNED}"


def test_zones_are_thirds_of_each_lungs_own_height() -> None:
    lower = box(50, 80, 75, 110)  # a left lung of 30 rows: thirds of 10
    zones = thirds({"right_lung": RIGHT, "left_lung": lower})
    assert set(zones) == {f"{side}_{level}" for side in ("left", "right") for level in ("upper", "mid", "lower")}
    assert np.flatnonzero(zones["left_mid"].any(axis=1)).tolist() == list(range(60, 70))
    assert np.flatnonzero(zones["right_upper"].any(axis=1)).tolist() == list(range(20, 45))  # 75 rows: thirds of 25
    assert (zones["right_upper"] | zones["right_mid"] | zones["right_lower"]).sum() == RIGHT.sum()


def test_a_speck_beside_a_lung_and_a_hole_in_it_are_not_believed() -> None:
    torn = RIGHT.copy()
    torn[50:55, 30:35] = False
    torn[2:5, 2:5] = True
    assert (chest(right_lung=torn)["right_lung"] == RIGHT).all()


def test_lungs_on_the_wrong_sides_are_no_lungs() -> None:
    assert chest(right_lung=LEFT, left_lung=RIGHT) == {}


def test_one_lung_gives_its_zones_and_no_ratio() -> None:
    masks = chest(left_lung=box(20, 25, 75, 80))
    assert set(masks) == {"right_lung"}
    found = anatomy_of(masks, "PA")
    assert found.ctr is None
    assert found.ctr_why == "the outlines of the lungs are not those of two lungs"
    assert set(found.zones) == {"right_upper", "right_mid", "right_lower"}


@pytest.mark.parametrize(
    "heart", [box(20, 50, 48, 90), box(65, 95, 90, 125), box(0, 1, 0, 1)], ids=["above the lungs", "aside", "a speck"]
)
def test_a_heart_where_none_can_be_gives_no_ratio(heart: Mask) -> None:
    found = anatomy_of(chest(heart=heart), "PA")
    assert "heart" not in found.masks
    assert found.ctr is None
    assert found.ctr_why == "no outline of a heart between the lungs was found"


def test_a_heart_wider_than_any_is_not_measured() -> None:
    wide = box(70, 90, 22, 108)  # 86 of 90
    found = anatomy_of(chest(heart=wide), "PA")
    assert found.ctr is None
    assert found.ctr_why == "the measured ratio is outside what a chest can have"


def test_outlines_are_given_on_the_square_that_the_model_sees() -> None:
    for size in (96, 192):
        masks = believed(logits(right_lung=RIGHT, left_lung=LEFT, heart=HEART), size)
        assert masks["right_lung"].shape == (size, size)
        assert masks["right_lung"].mean() == pytest.approx(RIGHT.mean(), abs=0.005)


def test_the_network_reads_films_of_any_model_and_a_film_does_not_change_its_neighbour() -> None:
    torch.manual_seed(1)
    net = AnatomyNet(AnatomyPreset(channels=(8, 8, 16, 16), hidden=8)).eval()
    films = torch.rand(3, 1, 96, 96)
    with torch.inference_mode():
        together, alone = net(resized(films)), net(resized(films[1:2]))
    assert together.outlines.shape == (3, 3, 128, 128)
    assert together.kinds.shape == (3, len(KINDS))
    torch.testing.assert_close(together.outlines[1:2], alone.outlines, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.kinds[1:2], alone.kinds, rtol=1e-4, atol=1e-4)
