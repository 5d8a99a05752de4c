"""The committed imaging networks: what they read, what they refuse, and that they are worth what their card says."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fhir_mappers import film_shards
from fhir_mappers.cohort.exposure import Exposure
from fhir_mappers.cohort.films import Signs, draw_film
from fhir_mappers.cohort.foreign import BODY_PARTS, Foreign, draw_foreign
from fhir_mappers.cohort.pairs import Taken, draw_pair
from fhir_mappers.record import Image, Source
from fhir_mappers.sources import EPOCH
from fhir_mappers.tensors import film_tensor
from models.checkpoint import CheckpointError, read_card
from models.contract import Assessment, FusionInput, Signal, empty_signal
from models.film_data import FilmShard
from models.film_reader import NAME, is_film_reader, load_film_reader, read_film_card
from models.gates import spoilt
from models.imaging_evaluate import judge_outlines
from models.imaging_train import load_imaging_recipe
from models.progression import COURSES, REVERSED, course_of
from models.serving import Engine

MODELS = Path(__file__).resolve().parents[2] / "manifests" / "models"
FOLDER = MODELS / NAME
SEED = 977
"""Another seed than that of the training films."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(MODELS / "chest-generated", device="cpu") as engine:
        yield engine


def tensor(pixels: np.ndarray, size: int) -> np.ndarray:
    return film_tensor(Image(pixels, "PA", EPOCH, "1", "1", Source("ImagingStudy/1")), size)[None]


def draw(taken: Taken, size: int) -> np.ndarray:
    return tensor(draw_film(taken.signs, taken.build, taken.pose, taken.exposure, 256).pixels, size)


def assess(engine: Engine, *films: np.ndarray, view: str = "PA") -> Assessment:
    """One patient with these films, newest first, and nothing else."""
    spec = engine.spec
    signals = {name: empty_signal(spec, name) for name in ("labs", "history", "genomics", "context")}
    code = np.full(len(films), spec.image.views.index(view) + 1, np.int64)
    ages = np.arange(len(films), dtype=np.float32) * 24.0
    signals["imaging"] = Signal(code, np.stack(films), ages, np.ones(len(films), np.bool_))
    return engine.assess(FusionInput(signals), timeout=30.0)


def test_they_are_small_and_were_made_by_the_recipe_in_the_package() -> None:
    card = read_film_card(FOLDER)
    assert (FOLDER / "weights.safetensors").stat().st_size <= 2e6
    assert card.recipe == load_imaging_recipe(NAME)
    assert all("NC" not in source.licence for source in card.sources)


def test_courses_and_places_belong_to_the_committed_models() -> None:
    # Where a model is trained anew, `cds-service train chest-anatomy` fits its courses to it; until then none is said.
    for name, compared in read_film_card(FOLDER).compared.items():
        assert compared.sha256 == read_card(MODELS / name).weights.sha256


def test_the_figures_are_as_good_as_was_asked_for() -> None:
    figures = read_film_card(FOLDER).figures
    assert figures.invented == 0.0
    for found in figures.courses.values():
        assert all(f.swapped == 1.0 for f in found.values())
    assert all(kind.refused.value >= 0.95 for kind in figures.gate.values())
    assert all(rate.value <= 0.05 for rate in figures.false_refusals.values())
    assert set(figures.outlines["open"]) == {"left_lung", "right_lung"}  # nobody has drawn a heart
    assert min(f.dice.value for f in figures.outlines["open"].values()) > 0.9


def test_the_figures_on_human_outlines_come_out_again(shared: Path) -> None:
    rows = [r for r in film_shards._hannover(shared / "data") if r[4] == "valid" and r[1].any()]
    count = len(rows)
    arrays = {
        "pixels": np.stack([r[0] for r in rows]),
        "masks": np.stack([r[1] for r in rows]),
        "kind": np.zeros(count, np.uint8),
        "source": np.ones(count, np.uint8),
        "split": np.ones(count, np.uint8),
        "patient": np.array([film_shards._key(r[5]) for r in rows]),
    }
    drawn = {k: np.zeros((1, *v.shape[1:]), v.dtype) for k, v in arrays.items()}
    drawn["masks"][:] = film_shards.LUNGS_KNOWN
    drawn["split"][:] = 1  # the figures ask for a generated film as well
    whole = {k: np.concatenate([v, drawn[k]]) for k, v in arrays.items()}
    reader = load_film_reader(FOLDER)
    found = judge_outlines(reader, FilmShard(whole, (), ("frontal",), ""))["open"]
    for name, stored in reader.card.figures.outlines["open"].items():
        assert found[name].films == stored.films
        assert found[name].dice.value == pytest.approx(stored.dice.value, abs=2e-3)
        assert found[name].iou.value == pytest.approx(stored.iou.value, abs=2e-3)


def test_a_film_is_read_with_outlines_zones_ratio_and_places(engine: Engine) -> None:
    taken = draw_pair(np.random.default_rng((SEED, 1))).now
    found = assess(engine, draw(taken, engine.spec.image.size)).reading
    assert found is not None
    assert set(found.anatomy.masks) == {"left_lung", "right_lung", "heart"}
    assert all(m.shape == (96, 96) for m in found.anatomy.masks.values())
    assert len(found.anatomy.zones) == 6
    drawn = taken.build.ctr * (1.10 if taken.pose.view == "AP" else 1.0)
    assert found.anatomy.ctr == pytest.approx(drawn, abs=0.05)
    assert {"opacity", "effusion", "cardiomegaly", "pneumothorax", "nodule"} == set(found.places)
    assert found.digest == read_film_card(FOLDER).weights.sha256


def test_without_a_prior_film_nothing_is_compared(engine: Engine) -> None:
    for number in range(10):
        film = draw(draw_pair(np.random.default_rng((SEED, number))).now, engine.spec.image.size)
        found = assess(engine, film).reading
        assert found is not None
        assert found.changes == {}


def test_the_film_before_is_read_by_itself_as_it_would_be_alone(engine: Engine) -> None:
    pair = draw_pair(np.random.default_rng((SEED, 3)))
    now, then = (draw(taken, engine.spec.image.size) for taken in (pair.now, pair.before))
    both, alone = assess(engine, now, then).reading, assess(engine, then).reading
    assert both is not None
    assert alone is not None
    before = both.before
    assert before is not None
    assert alone.before is None
    assert before.anatomy.ctr == alone.anatomy.ctr
    assert before.changes == {}
    for name, mask in alone.anatomy.masks.items():
        assert np.array_equal(before.anatomy.masks[name], mask)
    for name, place in alone.places.items():
        assert (before.places[name].zone, before.places[name].share) == (place.zone, place.share)


def test_a_prior_that_is_no_chest_film_is_not_compared_with(engine: Engine) -> None:
    size = engine.spec.image.size
    newest = draw(draw_pair(np.random.default_rng((SEED, 2))).now, size)
    hand = tensor(draw_foreign("hand", np.random.default_rng(2)), size)
    found = assess(engine, newest, hand).reading
    assert found is not None
    assert found.changes == {}


def test_courses_turn_exactly_when_the_films_are_exchanged_and_are_mostly_right(engine: Engine) -> None:
    right = named = 0
    for number in range(30):
        pair = draw_pair(np.random.default_rng((SEED, 100 + number)))
        now, before = (draw(taken, engine.spec.image.size) for taken in (pair.now, pair.before))
        forth, back = assess(engine, now, before).reading, assess(engine, before, now).reading
        assert forth is not None
        assert back is not None
        assert set(forth.changes) == set(back.changes)
        for finding, change in forth.changes.items():
            reverse = back.changes[finding]
            assert all(change.probabilities[c] == reverse.probabilities[REVERSED[c]] for c in COURSES)
            assert reverse.course == (None if change.course is None else REVERSED[change.course])
            if change.course is not None:
                named += 1
                right += change.course == course_of(pair.sizes_now[finding], pair.sizes_before[finding])
    assert named > 30
    assert right / named > 0.65  # one in five would be right by chance


@pytest.mark.parametrize("kind", ["lateral", *BODY_PARTS, "scene", "noise"])
def test_what_is_no_frontal_chest_film_is_refused_and_not_read(engine: Engine, kind: Foreign) -> None:
    found = assess(engine, tensor(draw_foreign(kind, np.random.default_rng(SEED)), engine.spec.image.size))
    assert found.reading is None
    assert "imaging" in found.unused
    assert "imaging" not in found.seen


@pytest.mark.parametrize(
    ("change", "words"),
    [("upside down", "turned or upside down"), ("inverted", "grey levels look inverted"), ("torn", "in pieces")],
)
def test_a_spoilt_film_is_refused_with_what_is_wrong_with_it(engine: Engine, change: str, words: str) -> None:
    film = draw(draw_pair(np.random.default_rng((SEED, 3))).now, engine.spec.image.size)
    changed = spoilt(torch.from_numpy(film[None]), change, torch.Generator().manual_seed(1))[0].numpy()
    found = assess(engine, changed)
    assert words in found.unused["imaging"]
    assert found.reading is None


def test_a_blank_picture_is_refused(engine: Engine) -> None:
    blank = np.full((1, 96, 96), 0.5, np.float32)
    assert assess(engine, blank).unused["imaging"] == "its grey levels are not those of a chest film"


def test_a_reading_from_a_kept_encoding_needs_no_pixels(engine: Engine) -> None:
    pair = draw_pair(np.random.default_rng((SEED, 4)))
    films = [draw(taken, 96) for taken in (pair.now, pair.before)]
    fresh = assess(engine, *films).reading
    kept = {n: engine.encode(film, timeout=30.0) for n, film in enumerate(films)}
    signals = {name: empty_signal(engine.spec, name) for name in ("labs", "history", "genomics", "context")}
    blank = np.zeros((2, 1, 96, 96), np.float32)
    code = np.full(2, engine.spec.image.views.index("PA") + 1, np.int64)
    signals["imaging"] = Signal(code, blank, np.array([0.0, 24.0], np.float32), np.ones(2, np.bool_))
    again = engine.assess(FusionInput(signals, films=kept), timeout=30.0).reading
    assert fresh is not None
    assert again is not None
    assert again.anatomy.ctr == fresh.anatomy.ctr
    assert again.changes == fresh.changes
    assert {n: (p.zone, p.share) for n, p in again.places.items()} == {
        n: (p.zone, p.share) for n, p in fresh.places.items()
    }


def test_a_film_of_a_fresh_exposure_keeps_its_ratio(engine: Engine) -> None:
    taken = draw_pair(np.random.default_rng((SEED, 5))).now
    ratios = []
    for seed in range(4):
        other = dataclasses.replace(taken, exposure=Exposure(gamma=0.85 + 0.1 * seed, seed=seed), signs=Signs())
        found = assess(engine, draw(other, 96)).reading
        assert found is not None
        ratios.append(found.anatomy.ctr)
    assert None not in ratios
    assert max(r for r in ratios if r) - min(r for r in ratios if r) < 0.03


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER, tmp_path / NAME)
    return tmp_path / NAME


def test_weights_other_than_the_card_names_are_not_loaded(copy: Path) -> None:
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="sha-256"):
        load_film_reader(copy)


@pytest.mark.parametrize(("key", "value"), [("format", 9), ("surprise", 1), ("threshold", "low")])
def test_a_card_that_says_something_else_is_not_read(copy: Path, key: str, value: object) -> None:
    card = json.loads((copy / "model.json").read_text())
    card[key] = value
    (copy / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"model\.json"):
        read_film_card(copy)


def test_imaging_networks_are_told_from_models(copy: Path) -> None:
    assert is_film_reader(copy)
    assert not is_film_reader(MODELS / "chest-open")
    with pytest.raises(CheckpointError):
        read_card(copy)
