"""Training of the imaging networks: reproducible, on films that stay what they are said to be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from fhir_mappers import film_shards
from models.anatomy import AnatomyPreset
from models.config import ConfigError
from models.data import ShardError
from models.film_changes import SPOILT, exposed, magnified, spoil, torn, vary
from models.film_data import FilmShard, read_film_shards
from models.imaging_train import load_imaging_recipe, train_anatomy


@pytest.fixture(scope="module")
def shard() -> FilmShard:
    counts = {"generated": (5, 1), "foreign": (1, 1)}
    rows = [*film_shards._generated_films(counts), *film_shards._foreign(counts)]
    pixels, masks, kind, _, split, *_ = zip(*rows, strict=True)
    arrays = {
        "pixels": np.stack(pixels),
        "masks": np.stack(masks),
        "kind": np.array([film_shards.KINDS.index(k) for k in kind], np.uint8),
        "source": np.zeros(len(rows), np.uint8),
        "split": np.array([film_shards.SPLITS.index(s) for s in split], np.uint8),
    }
    return FilmShard(arrays, (), film_shards.KINDS, "")


def test_the_same_recipe_gives_the_same_weights_as_they_are_stored(shard: FilmShard) -> None:
    recipe = msgspec.structs.replace(
        load_imaging_recipe("chest-anatomy"),
        steps=2,
        films={"generated outlined": 2},
        spoilt=1,
        foreign=2,
        preset=AnatomyPreset(channels=(8, 8, 16, 16), hidden=8),
    )
    first, again = (train_anatomy(shard, recipe).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    matrices = [v for v in first.values() if v.dim() > 1]
    assert all(torch.equal(m, m.half().float()) for m in matrices)
    other = train_anatomy(shard, msgspec.structs.replace(recipe, seed=6)).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def test_films_are_turned_and_moved_but_never_mirrored() -> None:
    films = torch.zeros(40, 1, 64, 64)
    films[:, :, 24:40, 8:24] = 1.0  # a block in the left half
    changed, grid = vary(films, generator())
    centre = (changed * torch.arange(64.0)).sum(dim=(1, 2, 3)) / changed.sum(dim=(1, 2, 3))
    assert float(centre.max()) < 32.0
    assert grid.shape == (40, 64, 64, 2)
    mirrored, _ = vary(films, generator(), mirror=True)
    centre = (mirrored * torch.arange(64.0)).sum(dim=(1, 2, 3)) / mirrored.sum(dim=(1, 2, 3))
    assert float(centre.max()) > 32.0


def test_another_exposure_keeps_grey_levels_in_range_and_the_picture_recognisable(shard: FilmShard) -> None:
    films = torch.from_numpy(shard.arrays["pixels"][:4, None].astype(np.float32) / 255.0)
    changed = exposed(films, generator())
    assert 0.0 <= float(changed.min()) <= float(changed.max()) <= 1.0
    for before, after in zip(films, changed, strict=True):
        assert np.corrcoef(before.flatten().numpy(), after.flatten().numpy())[0, 1] > 0.5


def test_a_torn_film_has_the_same_grey_levels_elsewhere_and_a_magnified_one_is_a_part_of_it() -> None:
    film = torch.rand(1, 1, 96, 96, generator=generator())
    pieces = torn(film, generator())
    assert not torch.equal(pieces, film)
    torch.testing.assert_close(pieces.flatten().sort().values, film.flatten().sort().values)  # 96 divides by 2, 3, 4
    ramp = torch.linspace(0.0, 1.0, 96).expand(1, 1, 96, 96)
    part = magnified(ramp, generator())
    assert float(part.max() - part.min()) < 0.5
    assert part.shape == ramp.shape


def test_every_way_to_spoil_a_film_is_known_to_the_gate() -> None:
    film = torch.rand(1, 1, 32, 32, generator=generator())
    for how, kind in SPOILT.items():
        assert kind != "frontal"
        assert not torch.equal(spoil(film, how, generator()), film)


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("name: x\nsurprise: 1\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml"):
        load_imaging_recipe(path)


def test_shards_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"films\.safetensors"):
        read_film_shards(tmp_path)
