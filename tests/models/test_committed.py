"""The checkpoints in the repository: whole, small, honest, and as good as they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from fhir_mappers.codes import analytes
from fhir_mappers.cohort.patients import generate
from fhir_mappers.cohort.records import to_record
from fhir_mappers.export import write_shard
from fhir_mappers.record import Image, Source
from fhir_mappers.sources import EPOCH, load_sources
from fhir_mappers.tensors import film_tensor, to_fusion_input
from models.answers import Answerer
from models.card import Card
from models.checkpoint import Stored, load_checkpoint, read_card
from models.config import load_recipe
from models.contract import MODALITIES
from models.rejudge import evaluate

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "models"
NAMES = ("chest-open", "chest-generated")


@pytest.fixture(scope="module", params=NAMES)
def stored(request: pytest.FixtureRequest) -> Stored:
    return load_checkpoint(FOLDER / request.param)


def test_together_they_are_small_enough_to_live_in_the_repository() -> None:
    assert sum(f.stat().st_size for n in NAMES for f in (FOLDER / n).iterdir()) < 20e6


def test_a_checkpoint_was_made_by_the_recipe_in_the_package(stored: Stored) -> None:
    assert stored.card.recipe == load_recipe(stored.card.name)


def test_every_analyte_a_model_reads_arrives_in_the_unit_it_was_trained_in(stored: Stored) -> None:
    for feature in stored.card.spec.labs:
        assert analytes()[feature.name].unit == feature.unit


def test_every_source_names_its_licence_and_whom_to_thank(stored: Stored) -> None:
    targets = {t.source for t in stored.card.spec.targets}
    assert targets == {s.name for s in stored.card.sources}
    for source in stored.card.sources:
        assert source.tier == stored.card.tier
        assert source.licence
        assert source.attribution
        assert len(source.shard_sha256) == 64
        assert "NC" not in source.licence  # nothing for research only goes into released weights


def test_every_target_has_figures_with_intervals_and_is_calibrated(stored: Stored) -> None:
    for target in stored.card.spec.targets:
        card = stored.card.targets[target.name]
        assert card.figures is not None
        assert card.figures.auroc.low <= card.figures.auroc.value <= card.figures.auroc.high
        assert card.figures.ece is not None
        assert set(target.modalities) <= set(card.ablation)
        maps = stored.card.calibration.maps[target.name]
        assert "+".join(sorted(target.modalities)) in maps
        assert (card.standing == "withheld") == (card.figures.auroc.low <= 0.5)


def test_hannover_is_judged_by_folds_against_context_alone_and_on_portable_films_alone() -> None:
    card = read_card(FOLDER / "chest-open").targets["icu_care"]
    assert "5-fold cross-validation by patient" in card.evaluated
    assert set(card.ablation) == {"imaging", "labs", "imaging+labs"}
    assert any("projection" in name for name in card.baselines)
    assert {"imaging", "labs", "imaging+labs"} <= set(card.slices["AP films only"])
    assert card.fusion_gain is not None
    assert card.figures is not None
    assert (card.figures.patients, card.figures.cases) == (53, 188)


def test_what_is_not_shown_to_help_is_said_so(stored: Stored) -> None:
    text = "\n".join(stored.card.known_limits)
    for name, card in stored.card.targets.items():
        if card.margin is not None and card.margin.low <= 0.0:
            assert card.standing != "usable"
            assert f"{name}: Not shown to add to" in text
        if card.fusion_gain is not None and card.fusion_gain.low <= 0.0:
            assert f"{name}: Fusion not shown to beat" in text


def generated() -> Card:
    return read_card(FOLDER / "chest-generated")


def test_on_generated_patients_three_modalities_know_what_none_knows_alone() -> None:
    card = generated().targets["drug_pneumonitis"]
    assert card.fusion_gain is not None
    assert card.fusion_gain.low > 0.0
    assert card.ablation["genomics+history+imaging"].auroc.value > 0.80  # 0.86 is attainable, 0.76 with two
    singles = [card.ablation[m].auroc.value for m in ("imaging", "history", "genomics")]
    assert max(singles) < 0.76


def test_a_coin_toss_stays_a_coin_toss() -> None:
    card = generated().targets["null_control"]
    assert card.standing == "withheld"
    assert card.figures is not None
    assert card.figures.auroc.low <= 0.5 <= card.figures.auroc.high


def test_a_generated_patient_is_answered_on_all_four_modalities() -> None:
    answerer = Answerer(load_checkpoint(FOLDER / "chest-generated"))
    spec = answerer.card.spec
    rested: set[str] = set()
    answers = 0
    for patient in generate(20, 977):  # another seed than the training patients'
        inputs = to_fusion_input(to_record(patient), spec)
        (found,) = answerer.answer([(inputs, spec.target_names())])
        for estimate in found.estimates.values():
            answers += estimate.probability is not None
            rested |= estimate.rested_on if estimate.probability is not None else set()
            assert all(abs(p - (estimate.probability or 0.0)) <= 1.0 for p in estimate.without.values())
    assert rested == set(MODALITIES)
    assert answers > 60


def test_the_figures_of_a_target_come_out_again(shared: Path, tmp_path: Path) -> None:
    # Tongji is small enough to be read and judged in seconds; the other targets go the same way.
    card = read_card(FOLDER / "chest-open")
    source = load_sources()["tongji"]
    folder = shared / "data" / source.folder
    path = tmp_path / "tongji.safetensors"
    write_shard(source, source.read(folder), card.spec, path, folder=folder, tell=lambda _s, _d: None)
    again = evaluate(FOLDER / "chest-open", tmp_path, targets=["covid_death"])["covid_death"]
    committed = card.targets["covid_death"]
    assert again.figures is not None
    assert committed.figures is not None
    assert again.figures.cases == committed.figures.cases
    for name in ("auroc", "auprc", "brier"):
        found, stated = getattr(again.figures, name), getattr(committed.figures, name)
        assert found.value == pytest.approx(stated.value, abs=2e-3)
        assert np.allclose([found.low, found.high], [stated.low, stated.high], atol=5e-3)
    listed = next(s for s in card.sources if s.name == "tongji")
    assert listed.table_sha256 == {"timeseries_wide.csv.gz": _sha256(folder / "timeseries_wide.csv.gz")}


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_no_human_chest_film_is_refused_and_a_real_one_is_not(shared: Path) -> None:
    stored = load_checkpoint(FOLDER / "chest-open")
    encoder = stored.model.image_encoder()
    assert stored.gate is not None
    assert encoder is not None
    folder = shared / "data" / "dicom" / "public_samples"
    refused: dict[str, bool] = {}
    for name in ("RG1_J2KI.dcm", "RG3_J2KI.dcm", "dx_image.dcm", "jpeg_baseline_8bit.dcm"):
        dataset = pydicom.dcmread(folder / name)
        pixels = dataset.pixel_array.astype(np.float32)
        pixels = pixels[len(pixels) // 2] if getattr(dataset, "NumberOfFrames", 1) > 1 else pixels
        pixels = (pixels - pixels.min()) / np.ptp(pixels)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            pixels = 1.0 - pixels
        film = film_tensor(
            Image(pixels, "unknown", EPOCH, "1", "1", Source("ImagingStudy/1")), stored.card.spec.image.size
        )
        with torch.inference_mode():
            features = encoder.films(torch.from_numpy(film)[None, None])[0].numpy()
        refused[name] = stored.gate.refusal(film[None], features) is not None
    # A chest, a hand, the thorax of a dog, a coronary angiogram.
    assert list(refused.values()) == [False, True, True, True]
