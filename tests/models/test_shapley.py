"""What each modality adds to an answer: the axioms, and the answers of the shipped model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fhir_mappers.cohort.patients import generate
from fhir_mappers.cohort.records import to_record
from fhir_mappers.tensors import to_fusion_input
from models.answers import Answerer
from models.checkpoint import load_checkpoint
from models.contract import MODALITIES, Assessment, FusionInput, without
from models.shapley import shapley, subsets

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "models"
WORTHS = st.lists(st.floats(-8.0, 8.0), min_size=16, max_size=16)


def game(worths: list[float]) -> dict[frozenset[str], float]:
    return dict(zip(subsets(MODALITIES), worths, strict=True))


@given(WORTHS)
def test_shares_sum_to_the_worth_of_all_less_that_of_none(worths: list[float]) -> None:
    worth = game(worths)
    total = worth[frozenset(MODALITIES)] - worth[frozenset()]
    assert sum(shapley(worth, MODALITIES).values()) == pytest.approx(total, abs=1e-9)


@given(WORTHS)
def test_what_adds_the_same_whoever_is_there_gets_just_that_and_what_adds_nothing_gets_nothing(
    worths: list[float],
) -> None:
    """The dummy axiom: genomics adds 0.7 to every subset here, then nought."""
    for added in (0.7, 0.0):
        rest = {s: w for s, w in game(worths).items() if "genomics" not in s}
        worth = rest | {s | {"genomics"}: w + added for s, w in rest.items()}
        assert shapley(worth, MODALITIES)["genomics"] == pytest.approx(added, abs=1e-9)


def test_two_that_only_know_together_share_alike() -> None:
    """Shapley 1953: film and gene are worth 3 together and nothing apart, so 1.5 each."""
    worth = dict.fromkeys(subsets(("imaging", "genomics")), 0.0) | {frozenset({"imaging", "genomics"}): 3.0}
    assert shapley(worth, ("imaging", "genomics")) == {"imaging": 1.5, "genomics": 1.5}


def test_a_glove_game_gives_the_rare_glove_two_thirds() -> None:
    """One left glove and two right ones, a pair is worth 1: 2/3, 1/6, 1/6 (the textbook's worked example)."""
    worth = {s: float("left" in s and len(s) > 1) for s in subsets(("left", "right", "other right"))}
    found = shapley(worth, ("left", "right", "other right"))
    assert found == pytest.approx({"left": 2 / 3, "right": 1 / 6, "other right": 1 / 6})


# --- the shipped model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(load_checkpoint(FOLDER / "chest-generated"))


@pytest.fixture(scope="module")
def asked(answerer: Answerer) -> list[FusionInput]:
    return [to_fusion_input(to_record(patient), answerer.card.spec) for patient in generate(3, 977)]


def answers(answerer: Answerer, inputs: FusionInput) -> Assessment:
    return answerer.answer([(inputs, answerer.card.spec.target_names())])[0]


def odds(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def test_the_shares_of_an_answer_are_what_its_log_odds_lose_with_all_evidence_hidden(
    answerer: Answerer, asked: list[FusionInput]
) -> None:
    """The efficiency axiom through the whole answer: hidden by the inputs' own masks, not by the pass that explains."""
    told = 0
    for inputs in asked:
        bare = inputs
        for modality in MODALITIES:
            bare = without(bare, modality)
        with torch.inference_mode():
            nothing = answerer._model.fuse(answerer._encode([answerer._gated(bare, (), False)])).total[0]
        for column, (name, found) in enumerate(answers(answerer, inputs).estimates.items()):
            if found.probability is None or not 1e-6 < found.probability < 1.0 - 1e-6:
                continue
            fitted = answerer.card.calibration.find(name, found.rested_on)
            assert fitted is not None
            assert set(found.shares) == found.rested_on
            none = fitted.slope * float(nothing[column]) + fitted.intercept
            assert sum(found.shares.values()) == pytest.approx(odds(found.probability) - none, abs=1e-3)
            told += len(found.shares) > 1
    assert told > 2


def test_an_answer_in_a_hurry_explains_nothing(answerer: Answerer, asked: list[FusionInput]) -> None:
    for depth in ("ranked", "fused", "late"):
        (quick,) = answerer.answer([(asked[0], answerer.card.spec.target_names())], depth=depth)
        assert all(not e.shares for e in quick.estimates.values())


def test_deleting_what_an_answer_is_said_to_rest_on_changes_it_to_what_was_said(
    answerer: Answerer, asked: list[FusionInput]
) -> None:
    """Item evidence by ablation: each kind of evidence deleted from the input itself, one after the other."""
    name, moved = "deterioration_24h", 0
    for inputs in asked:
        found = answers(answerer, inputs).estimates[name]
        for modality, said in found.without.items():
            (gone,) = answerer.answer([(without(inputs, modality), (name,))], depth="fused")
            assert gone.estimates[name].probability == pytest.approx(said, abs=1e-6)
            assert modality not in gone.estimates[name].rested_on
            moved += abs(said - (found.probability or 0.0)) > 0.005
    assert moved > 2
