"""Where a finding is: heat and zones by hand, and maps that are nothing without the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from fhir_mappers.cohort.anatomy import Build, Pose
from fhir_mappers.cohort.exposure import Exposure
from fhir_mappers.cohort.films import Nodule, Opacity, Signs, draw_film
from fhir_mappers.record import Image, Source
from fhir_mappers.sources import EPOCH
from fhir_mappers.tensors import film_tensor
from models.checkpoint import load_checkpoint
from models.contract import Zone
from models.fusion import FusionModel
from models.places import evidence, explain, findings_of, neighbourhoods, place

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "models" / "chest-generated"


def zones() -> dict[Zone, np.ndarray]:
    found = {}
    for left, side in ((10, "right"), (60, "left")):
        for top, level in ((10, "upper"), (35, "mid"), (60, "lower")):
            mask = np.zeros((96, 96), np.bool_)
            mask[top : top + 25, left : left + 26] = True
            found[f"{side}_{level}"] = mask
    return found  # type: ignore[return-value]


def heat(row: int, column: int) -> np.ndarray:
    cells = np.zeros((6, 6), np.float32)
    cells[row, column] = 1.0
    return cells


def test_evidence_in_a_zone_names_it_with_its_share() -> None:
    found = place("opacity", heat(4, 4), neighbourhoods(zones()))  # rows 64 to 80, columns 64 to 80
    assert found.zone == "left_lower"
    assert found.share > 0.8


def test_evidence_far_outside_the_lungs_names_no_zone() -> None:
    upper: dict[Zone, np.ndarray] = {z: m for z, m in zones().items() if z.endswith("upper")}
    assert place("opacity", heat(5, 2), neighbourhoods(upper)).zone is None


def test_evidence_at_the_chest_wall_belongs_to_the_zone_beside_it() -> None:
    near = neighbourhoods(zones())
    assert near is not None
    # The left lung ends at column 86; 5 % of 96 are 4 columns.
    assert near.names[near.nearest[70, 88]] == "left_lower"
    assert near.nearest[70, 92] == -1


def test_even_evidence_names_no_zone() -> None:
    found = place("opacity", np.full((6, 6), 1 / 36, np.float32), neighbourhoods(zones()))
    assert found.zone is None
    assert found.share < 0.25


def test_without_lungs_or_without_evidence_there_is_no_zone() -> None:
    assert place("opacity", heat(4, 4), neighbourhoods({})).zone is None
    assert place("opacity", np.zeros((6, 6), np.float32), neighbourhoods(zones())).zone is None


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small products on two busy cores wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> FusionModel:
    return load_checkpoint(FOLDER).model


def drawn(signs: Signs) -> np.ndarray:
    film = draw_film(signs, Build(texture=5), Pose(), Exposure(seed=5), 256)
    return film_tensor(Image(film.pixels, "PA", EPOCH, "1", "1", Source("ImagingStudy/1")), 96)[None]


FILMS = (
    ("opacity", Signs(opacities=(Opacity("right", "lower", 0.9, 0.6),))),
    ("effusion", Signs(effusions=(("left", 0.4),))),
    ("nodule", Signs(nodule=Nodule("right", "upper", 16.0))),
)


def test_a_map_says_how_much_of_the_finding_each_cell_carries(model: FusionModel) -> None:
    encoder = model.image_encoder()
    assert encoder is not None
    with torch.inference_mode():
        grid = encoder.grid(torch.from_numpy(drawn(FILMS[1][1])[None]))
    found = evidence(model, encoder, grid)
    assert set(found) == set(findings_of(model))
    for one in found.values():
        assert one.shape == grid.shape[2:]
        assert one.min() >= 0.0
        assert one.sum() == pytest.approx(1.0, abs=1e-4) or not one.any()


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(spearmanr(first[::6, ::6].ravel(), second[::6, ::6].ravel()).statistic)


def test_random_weights_destroy_an_explanation_and_a_little_grain_does_not(model: FusionModel) -> None:
    # Adebayo et al., Sanity checks for saliency maps (NeurIPS 2018): a map that survives random weights shows edges.
    random = FusionModel(model.spec, model.preset).eval()
    same, other = [], []
    for n, (finding, signs) in enumerate(FILMS):
        torch.manual_seed(n)
        for parameter in random.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        pixels = drawn(signs)
        found = explain(model, pixels, finding, parts=12)
        grain = np.random.default_rng(n).normal(0.0, 0.005, pixels.shape).astype(np.float32)
        same.append(correlation(found, explain(model, pixels + grain, finding, parts=12)))
        other.append(correlation(found, explain(random, pixels, finding, parts=12)))
        assert found.shape == pixels.shape[1:]
    assert min(same) > 0.8
    assert np.mean(np.abs(other)) < 0.4
    assert max(other) < min(same)


def test_a_finding_that_the_model_does_not_have_is_not_explained(model: FusionModel) -> None:
    with pytest.raises(ValueError, match="no films to explain"):
        explain(model, drawn(Signs()), "fracture")
