"""A small trained world on the CPU: generated patients, their shard, a tiny model, a checkpoint and an engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fhir_mappers.cohort.patients import generate
from fhir_mappers.export import export
from fhir_mappers.sources import Case, load_sources
from fhir_mappers.sources.cohort import _case
from models.build import finish
from models.card import Card
from models.config import FusionPreset, ImagePreset, LabsPreset, Phase, Preset, Recipe, load_preset
from models.contract import (
    MODALITIES,
    FusionInput,
    ImageSpec,
    InputSpec,
    LabFeature,
    Modality,
    Signal,
    Target,
    empty_signal,
)
from models.data import Shard, read_shards
from models.fusion import FusionModel
from models.train import fit

SIZE = 96


@pytest.fixture(scope="session")
def spec() -> InputSpec:
    """Five analytes, four concepts, three genes; targets on one, two and all modalities."""

    def target(name: str, *modalities: Modality) -> Target:
        return Target(name, name, modalities, "made-up")

    return InputSpec(
        image=ImageSpec(size=SIZE),
        labs=tuple(LabFeature(f"analyte{i}", "mg/dL", 0.0, 1.0) for i in range(5)),
        history=tuple(f"concept{i}" for i in range(4)),
        genomics=tuple(f"gene{i}" for i in range(3)),
        targets=(target("film", "imaging"), target("both", "imaging", "labs"), target("all", *MODALITIES)),
    )


@pytest.fixture(scope="session")
def preset() -> Preset:
    return Preset(
        name="test",
        width=32,
        image_size=SIZE,
        image=ImagePreset(channels=(8, 8, 16, 16), blocks=(0, 0, 0, 1), regions=3),
        labs=LabsPreset(knots=5, heads=4, layers=1, tokens=2),
        codes=load_preset("tiny").codes,
        fusion=FusionPreset(heads=4, layers=1),
    )


@pytest.fixture
def model(spec: InputSpec, preset: Preset) -> FusionModel:
    """Untrained, but with a residual that is not zero, so that fusion has something to say."""
    torch.manual_seed(5)
    model = FusionModel(spec, preset).eval()
    with torch.no_grad():
        model.readout.normal_(generator=torch.Generator().manual_seed(6))
        model.bias.normal_(generator=torch.Generator().manual_seed(7))
        for absent in model.absent.values():
            absent.normal_(generator=torch.Generator().manual_seed(8))
    return model


def make_input(
    spec: InputSpec, seed: int, *, seen: frozenset[str] = frozenset(MODALITIES), films: int = 2, results: int = 7
) -> FusionInput:
    """A patient with random evidence of the modalities named, and always an age and a sex."""
    rng = np.random.default_rng(seed)
    slots = {"imaging": films, "labs": results, "history": 3, "genomics": 2}
    vocabulary = {
        "imaging": len(spec.image.views),
        "labs": len(spec.labs),
        "history": len(spec.history),
        "genomics": len(spec.genomics),
    }
    signals: dict[str, Signal] = {}
    for name, n in slots.items():
        empty = empty_signal(spec, name, n)
        if name not in seen or not vocabulary[name]:
            signals[name] = empty_signal(spec, name)
            continue
        signals[name] = Signal(
            code=rng.integers(1, vocabulary[name] + 1, n),
            values=rng.random(empty.values.shape, np.float32),
            age_h=rng.random(n, np.float32) * 48,
            seen=np.ones(n, np.bool_),
        )
    signals["context"] = Signal(
        np.array([1]),
        np.array([[rng.uniform(2.0, 9.0), 1.0, 0.0]], np.float32),
        np.zeros(1, np.float32),
        np.ones(1, np.bool_),
    )
    return FusionInput(signals)


@pytest.fixture(scope="session")
def shards_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 generated patients as a shard, every third in the validation split."""

    def read(_: Path) -> Iterator[Case]:
        for number, patient in enumerate(generate(96, 3, film_px=128)):
            yield replace(_case(patient), split="valid" if number % 3 == 0 else "train")

    folder = tmp_path_factory.mktemp("shards")
    source = replace(load_sources()["generated"], read=read, skim=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fhir_mappers.export.MIN_RESULTS", 3)  # 64 training patients: else no concept is frequent enough
        export(folder, folder, sources=[source], image_size=SIZE, labs_max=64)
    return folder


@pytest.fixture(scope="session")
def shards(shards_folder: Path) -> dict[str, Shard]:
    return read_shards(shards_folder)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    phase = Phase(name="all", sources={"generated": 1.0}, steps=6, batch=8, rate=1e-3, max_tokens=48)
    return Recipe(name="test", version="0", tier="generated", preset="tiny", seed=9, phases=(phase,))


@pytest.fixture(scope="session")
def checkpoint(shards: dict[str, Shard], recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """A checkpoint of a model that has hardly been trained: everything in it is real but good."""
    folder = tmp_path_factory.mktemp("checkpoint")
    card = finish(recipe, fit(recipe, shards), shards, folder)
    return folder, card
