"""A film encoded when it arrived stands for its pixels when an order is signed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.answers import Answerer
from models.card import Card
from models.checkpoint import load_checkpoint
from models.contract import Assessment, EncodedFilm, FilmEncoder, FusionInput, Signal, collate, empty_signal
from models.data import Shard
from models.serving import Engine, EngineTimeout


@pytest.fixture(scope="module")
def engine(checkpoint: tuple[Path, Card]) -> Iterator[Engine]:
    with Engine(Answerer(load_checkpoint(checkpoint[0]))) as engine:
        yield engine


@pytest.fixture(scope="module")
def with_films(shards: dict[str, Shard]) -> list[FusionInput]:
    shard = shards["generated"]
    return [p for i in range(24) if "imaging" in (p := shard.inputs(i)).present()][:4]


def encoded(engine: Engine, inputs: FusionInput) -> FusionInput:
    """The same patient with every film encoded and no pixel left."""
    imaging = inputs.signals["imaging"]
    films = {int(s): engine.encode(imaging.values[s], timeout=20) for s in np.flatnonzero(imaging.seen)}
    blank = Signal(imaging.code, np.zeros_like(imaging.values), imaging.age_h, imaging.seen)
    return FusionInput({**inputs.signals, "imaging": blank}, inputs.used, films)


def test_an_encoded_film_gives_the_very_assessment_its_pixels_give(
    checkpoint: tuple[Path, Card], with_films: list[FusionInput]
) -> None:
    # Two engines, so that the second has never seen a pixel of these films.
    with Engine(Answerer(load_checkpoint(checkpoint[0]))) as saw, Engine(Answerer(load_checkpoint(checkpoint[0]))) as e:
        assert isinstance(e, FilmEncoder)
        assert saw.encoder == e.encoder
        for patient in with_films:
            from_pixels = saw.assess(patient, timeout=20)
            again = e.assess(encoded(saw, patient), timeout=20)
            assert again == from_pixels


def test_the_verdict_of_the_gate_comes_with_the_encoding(engine: Engine, with_films: list[FusionInput]) -> None:
    patient = with_films[0]
    noise = np.random.default_rng(3).random(patient.signals["imaging"].values[0].shape, np.float32)
    film = engine.encode(noise, timeout=20)
    assert film.refusal is not None
    blank = empty_signal(engine.spec, "imaging", 1)
    imaging = Signal(np.ones(1, np.int64), blank.values, blank.age_h, np.ones(1, np.bool_))
    said = engine.assess(FusionInput({**patient.signals, "imaging": imaging}, {}, {0: film}), timeout=20)
    assert said.unused == {"imaging": film.refusal}
    assert "imaging" not in said.seen


def test_a_film_encoded_by_another_model_is_refused_and_never_mixed_in(
    engine: Engine, with_films: list[FusionInput]
) -> None:
    known = encoded(engine, with_films[0])
    slot, film = next(iter(known.films.items()))
    for wrong in (replace(film, encoder="0" * 64), replace(film, features=film.features[:, :-1])):
        with pytest.raises(ValueError, match="encoded"):
            engine.assess(replace(known, films={slot: wrong}), timeout=20)


def test_another_gate_makes_kept_encodings_void(checkpoint: tuple[Path, Card]) -> None:
    stored = load_checkpoint(checkpoint[0])
    assert stored.gate is not None
    moved = {**stored.gate.tensors, "bias": stored.gate.tensors["bias"] + 1}
    other = replace(stored, gate=replace(stored.gate, tensors=moved))
    assert Answerer(stored).encoder != Answerer(other).encoder


def test_patients_with_and_without_encoded_films_are_answered_in_one_batch_as_alone(
    checkpoint: tuple[Path, Card], engine: Engine, with_films: list[FusionInput]
) -> None:
    answerer = Answerer(load_checkpoint(checkpoint[0]))
    targets = engine.spec.target_names()
    mixed = [encoded(engine, with_films[0]), *with_films[1:]]
    together = answerer.answer([(p, targets) for p in mixed])
    alone: list[Assessment] = [answerer.answer([(p, targets)])[0] for p in mixed]
    for one, other in zip(together, alone, strict=True):
        for name, estimate in one.estimates.items():
            assert estimate.probability == pytest.approx(other.estimates[name].probability, abs=1e-6)
    assert collate(mixed).films == {}


def test_a_film_to_encode_does_not_keep_its_caller_longer_than_asked(
    engine: Engine, with_films: list[FusionInput]
) -> None:
    pixels = with_films[0].signals["imaging"].values[0]
    began = time.monotonic()
    with pytest.raises(EngineTimeout):
        engine.encode(np.array(pixels), timeout=0.0)
    assert time.monotonic() - began < 10
    assert isinstance(engine.encode(pixels, timeout=20), EncodedFilm)
