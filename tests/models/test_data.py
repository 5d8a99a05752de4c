"""Shards: what is read is what was written, and what is damaged is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.data import Shard, ShardError, label_matrix, read_shard, read_shards, thin_labs


def rewrite(path: Path, to: Path, change) -> Path:  # type: ignore[no-untyped-def]
    blob = path.read_bytes()
    length = int.from_bytes(blob[:8], "little")
    metadata, arrays = json.loads(blob[8 : 8 + length])["__metadata__"], load_file(path)
    change(arrays, metadata)
    save_file(arrays, to, metadata=metadata)
    return to


@pytest.fixture
def path(shards_folder: Path) -> Path:
    return shards_folder / "generated.safetensors"


def test_an_example_is_one_patient_with_what_is_known_and_what_is_not(shards: dict[str, Shard]) -> None:
    shard = shards["generated"]
    example = shard.example(0)
    assert example.split == "valid"
    assert example.source == "generated"
    assert example.labels["finding.opacity"] in (0.0, 1.0)
    unknown = np.isnan(shard.labels("drug_pneumonitis"))
    assert 0 < unknown.sum() < len(shard)  # asked of the oncology stratum only


def test_labels_of_a_target_the_source_does_not_know_are_unknown(shards: dict[str, Shard]) -> None:
    assert np.isnan(shards["generated"].labels("no_such_target")).all()
    matrix = label_matrix(shards["generated"], np.array([0, 1]))
    assert matrix.shape == (2, len(shards["generated"].spec.targets))


def test_no_patient_is_in_two_splits(shards: dict[str, Shard]) -> None:
    shard = shards["generated"]
    assert not set(shard.patient[shard.rows("train")]) & set(shard.patient[shard.rows("valid")])


def test_a_truncated_shard_is_refused(path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ShardError, match=r"broken\.safetensors: not a training shard"):
        read_shard(broken)


def test_offsets_that_run_backwards_are_refused(path: Path, tmp_path: Path) -> None:
    def backwards(arrays: dict[str, np.ndarray], _: dict[str, str]) -> None:
        arrays["labs.offsets"] = arrays["labs.offsets"][::-1].copy()

    with pytest.raises(ShardError, match="offsets of labs"):
        read_shard(rewrite(path, tmp_path / "x.safetensors", backwards))


def test_labels_that_do_not_match_the_header_are_refused(path: Path, tmp_path: Path) -> None:
    def narrow(arrays: dict[str, np.ndarray], _: dict[str, str]) -> None:
        arrays["labels"] = arrays["labels"][:, :-1].copy()

    with pytest.raises(ShardError, match="labels do not match"):
        read_shard(rewrite(path, tmp_path / "x.safetensors", narrow))


def test_a_header_with_an_unknown_key_is_refused(path: Path, tmp_path: Path) -> None:
    def extend(_: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        metadata["header"] = json.dumps({**json.loads(metadata["header"]), "surprise": 1})

    with pytest.raises(ShardError, match="surprise"):
        read_shard(rewrite(path, tmp_path / "x.safetensors", extend))


def test_a_folder_without_shards_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="run the export first"):
        read_shards(tmp_path)


def test_shards_of_two_specs_do_not_mix(path: Path, tmp_path: Path) -> None:
    def widen(_: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        header, spec = json.loads(metadata["header"]), json.loads(metadata["spec"])
        metadata["header"] = json.dumps({**header, "source": "other"})
        metadata["spec"] = json.dumps({**spec, "labs_max": 7})

    rewrite(path, tmp_path / "other.safetensors", widen)
    (tmp_path / "generated.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(ShardError, match="different specs"):
        read_shards(tmp_path)


def test_thinning_keeps_a_part_by_chance_and_all_without_one(shards: dict[str, Shard]) -> None:
    shard, rng = shards["generated"], np.random.default_rng(0)
    row = int(np.argmax(np.diff(shard.arrays["labs.offsets"])))
    whole = int(np.diff(shard.arrays["labs.offsets"])[row])
    assert len(thin_labs(shard, row, rng, 0.0)) == whole
    sizes = [len(thin_labs(shard, row, rng, 1.0)) for _ in range(30)]
    assert 0 < min(sizes) < max(sizes) <= whole
