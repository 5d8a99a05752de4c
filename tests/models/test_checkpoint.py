"""A checkpoint is used whole and unchanged, or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.card import Card
from models.checkpoint import CheckpointError, load_checkpoint, read_card, save_checkpoint
from models.contract import collate
from models.data import Shard
from models.encoders import to_batch


@pytest.fixture
def folder(checkpoint: tuple[Path, Card], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint[0], copy)
    return copy


def edit(folder: Path, change: Any) -> None:
    card = json.loads((folder / "model.json").read_text())
    change(card)
    (folder / "model.json").write_text(json.dumps(card))


def replace_weights(folder: Path, blob: bytes) -> None:
    """Other weights with a model.json that names their hash: only what is inside can give them away."""
    (folder / "weights.safetensors").write_bytes(blob)
    edit(folder, lambda card: card["weights"].update(sha256=hashlib.sha256(blob).hexdigest()))


def replace_tensors(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "other")
    replace_weights(folder, (folder / "other").read_bytes())


def test_a_loaded_model_answers_as_the_one_that_was_saved(
    checkpoint: tuple[Path, Card], shards: dict[str, Shard], tmp_path: Path
) -> None:
    stored = load_checkpoint(checkpoint[0])
    batch = to_batch(collate([shards["generated"].inputs(i) for i in range(6)]))
    with torch.inference_mode():
        before = stored.model(batch).total
    save_checkpoint(tmp_path, stored.model, stored.card, stored.gate)
    again = load_checkpoint(tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(again.model(batch).total, before, rtol=0.0, atol=0.0)
    assert again.card == stored.card


def test_half_precision_weights_are_what_the_figures_were_made_with(checkpoint: tuple[Path, Card]) -> None:
    tensors = load_file(checkpoint[0] / "weights.safetensors")
    matrices = [t for n, t in tensors.items() if n.endswith("weight") and t.dim() > 1 and not n.startswith("gate.")]
    assert matrices
    assert all(t.dtype == torch.float16 for t in matrices)
    model = load_checkpoint(checkpoint[0]).model
    assert all(torch.equal(p, p.half().float()) for p in model.parameters() if p.dim() > 1)


def test_one_changed_byte_is_noticed(folder: Path) -> None:
    path = folder / "weights.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(CheckpointError, match="sha-256"):
        load_checkpoint(folder)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_is_refused_before_it_is_opened(folder: Path, protocol: int) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (folder / "exploded",)  # type: ignore[return-value]

    replace_weights(folder, pickle.dumps(Bomb(), protocol=protocol))
    with pytest.raises(CheckpointError, match="pickle"):
        load_checkpoint(folder)
    assert not (folder / "exploded").exists()


def test_a_torch_archive_is_refused(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "archive")
    replace_weights(folder, (folder / "archive").read_bytes())
    with pytest.raises(CheckpointError, match="torch archive"):
        load_checkpoint(folder)


def test_truncated_weights_are_refused_even_where_the_hash_fits(folder: Path) -> None:
    replace_weights(folder, (folder / "weights.safetensors").read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="not safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(bias=torch.zeros(1)), r"bias is \(1,\)"),
        (lambda t: t.pop("bias"), "bias is missing"),
        (lambda t: t.update(stowaway=torch.zeros(1)), "unknown tensor stowaway"),
        (lambda t: t["bias"].fill_(float("nan")), "not numbers"),
        (lambda t: t.update(bias=torch.zeros(len(t["bias"]), dtype=torch.int64)), "wrong kind of number"),
        (lambda t: t.pop("gate.means"), "gate's tensors"),
        (lambda t: t.update({"gate.bias": torch.zeros(2)}), r"gate\.bias is \(2,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, change: Any, message: str) -> None:
    replace_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: c.update(format=99), "format 99"),
        (lambda c: c.pop("spec"), "spec"),
        (lambda c: c["weights"].update(file="../elsewhere"), "weights.file"),
        (lambda c: c["preset"].update(width="wide"), "width"),
    ],
)
def test_a_card_that_is_not_ours_is_refused(folder: Path, change: Any, message: str) -> None:
    edit(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be read"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"model\.json: cannot be read"):
        read_card(tmp_path / "nowhere")


def test_the_card_says_where_every_figure_and_every_film_comes_from(
    checkpoint: tuple[Path, Card], shards: dict[str, Shard]
) -> None:
    card = checkpoint[1]
    source = card.sources[0]
    assert source.licence == "Apache-2.0"
    assert source.shard_sha256 == shards["generated"].digest
    assert np.isfinite([m.slope for maps in card.calibration.maps.values() for m in maps.values()]).all()
    assert any("generated patients only" in limit for limit in card.known_limits)
