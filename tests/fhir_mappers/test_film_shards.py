"""What the imaging networks learn from: masks where the film is, pairs of known course, pictures of other things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fhir_mappers import film_shards
from fhir_mappers.cohort.films import draw_film
from fhir_mappers.cohort.foreign import FOREIGN, Foreign, draw_foreign
from fhir_mappers.cohort.pairs import FINDINGS, LARGEST, SMALLEST, Pair, draw_pair
from fhir_mappers.film_shards import square_mask, two_lungs
from fhir_mappers.record import Image, Source
from fhir_mappers.sources import EPOCH, SourceError
from fhir_mappers.tensors import film_tensor
from models import film_data
from models.progression import course_of


def test_a_mask_lies_where_the_film_lies_on_the_square() -> None:
    drawn = np.zeros((400, 500), np.bool_)
    drawn[100:300, 50:250] = True
    film = Image(drawn.astype(np.float32), "PA", EPOCH, "1", "1", Source("ImagingStudy/1"))
    on_film = film_tensor(film, 192) > 0.5
    assert (square_mask(drawn, 192) != on_film).mean() < 0.002
    # 400 of 500 rows on 192: a border of 19 rows above and below.
    assert np.flatnonzero(square_mask(np.ones_like(drawn), 192).any(axis=1)).tolist() == list(range(19, 173))


def test_the_right_lung_lies_left_on_the_film_and_specks_are_no_lungs() -> None:
    mask = np.zeros((50, 50), np.bool_)
    mask[5:40, 5:20] = mask[5:45, 28:45] = mask[48, 48] = True
    right, left = two_lungs(mask)
    assert right.sum() == 35 * 15
    assert left.sum() == 40 * 17
    with pytest.raises(SourceError, match="without two lungs"):
        two_lungs(left)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_picture_is_drawn_the_same_from_the_same_seed_and_never_twice(kind: Foreign) -> None:
    first, again, other = (draw_foreign(kind, np.random.default_rng(seed), 96) for seed in (1, 1, 2))
    assert first.shape == (96, 96)
    assert (first == again).all()
    assert np.abs(first - other).mean() > 0.001
    assert 0.0 <= first.min() < first.max() <= 1.0


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [draw_pair(np.random.default_rng((9, n))) for n in range(300)]


def test_all_five_courses_of_every_finding_occur_and_half_of_the_pairs_have_none(pairs: list[Pair]) -> None:
    for finding in FINDINGS:
        courses = [course_of(p.sizes_now[finding], p.sizes_before[finding]) for p in pairs]
        assert 0.35 < courses.count(None) / len(courses) < 0.65
        assert {"new", "worse", "stable", "improved", "resolved"} <= set(courses)


def test_a_worse_finding_is_larger_by_a_third_of_its_range_and_a_stable_one_is_the_same(pairs: list[Pair]) -> None:
    for finding, smallest in SMALLEST.items():
        for pair in pairs:
            now, before = pair.sizes_now[finding], pair.sizes_before[finding]
            if now and before and now != before:
                assert abs(now - before) >= 0.3 * (LARGEST[finding] - smallest) - 1e-9
            assert all(size == 0.0 or smallest <= size <= LARGEST[finding] for size in (now, before))


def test_what_a_pair_says_is_what_its_films_show(pairs: list[Pair]) -> None:
    for pair in pairs[:12]:
        for taken, sizes in ((pair.now, pair.sizes_now), (pair.before, pair.sizes_before)):
            film = draw_film(taken.signs, taken.build, taken.pose, taken.exposure, 96)
            for sign in ("opacity", "effusion", "pneumothorax", "nodule"):
                assert (sign in film.masks) == (sizes[sign] > 0.0)
            assert (taken.build.ctr > 0.5) == (sizes["cardiomegaly"] > 0.0)


def test_both_films_of_a_pair_are_of_one_patient(pairs: list[Pair]) -> None:
    for pair in pairs[:50]:
        assert pair.now.build.texture == pair.before.build.texture
        assert pair.now.build.width == pair.before.build.width
        assert pair.now.exposure.seed != pair.before.exposure.seed


def test_writer_and_reader_of_the_shards_mean_the_same_by_a_bit() -> None:
    # models may not import fhir_mappers, so the layout is written down on both sides.
    for name in ("LEFT_LUNG", "RIGHT_LUNG", "HEART", "LUNGS_KNOWN", "HEART_KNOWN", "SIGN_BITS"):
        assert getattr(film_shards, name) == getattr(film_data, name)
    assert tuple(name for name, _ in film_shards.NIH_FINDINGS.values()) == film_data.NIH_FINDINGS
    assert FINDINGS == film_data.PAIR_FINDINGS


def test_human_outlines_are_read_with_what_their_reader_never_looked_at(shared: Path) -> None:
    rows = [row for row in film_shards._hannover(shared / "data") if row[1].any()]
    assert len(rows) == 48
    for _, masks, kind, *_ in rows:
        lungs = film_data.bit(masks, film_data.LEFT_LUNG) | film_data.bit(masks, film_data.RIGHT_LUNG)
        assert not (lungs & ~film_data.bit(masks, film_data.LUNGS_KNOWN)).any()
        assert not film_data.bit(masks, film_data.HEART_KNOWN).any()
        assert kind == "frontal"
        assert 0.1 < lungs.mean() < 0.45
