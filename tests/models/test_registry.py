"""Versions of a model: what is refused, what is kept, and a change of version under load."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.card import Card
from models.checkpoint import CheckpointError, load_checkpoint, read_card, save_checkpoint
from models.contract import Assessment, FusionInput
from models.data import Shard
from models.registry import Registry, verify
from models.rollout import LOOK_S, ServedModels
from models.serving import Engine


def write_version(source: Path, to: Path, version: str, shift: float) -> str:
    """The same model with every logit `shift` higher and every target usable, as another version; its digest."""
    stored = load_checkpoint(source)
    with torch.no_grad():
        stored.model.bias.add_(shift)
    targets = {n: msgspec.structs.replace(t, standing="usable") for n, t in stored.card.targets.items()}
    card = msgspec.structs.replace(stored.card, version=version, targets=targets)
    return save_checkpoint(to, stored.model, card, stored.gate).weights.sha256


@dataclass(frozen=True)
class Site:
    registry: Registry
    incoming: Path
    old: str
    new: str


@pytest.fixture
def site(checkpoint: tuple[Path, Card], tmp_path: Path) -> Site:
    """A folder of models with version 0 of `test`, and version 1 that has just arrived."""
    old = write_version(checkpoint[0], tmp_path / "models" / "test", "0", 0.0)
    new = write_version(checkpoint[0], tmp_path / "incoming", "1", 1.0)
    return Site(Registry(tmp_path / "models"), tmp_path / "incoming", old, new)


def make_pickle(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(pickle.dumps({"bias": [0.0]}, protocol=4))


def make_bad_hash(folder: Path) -> None:
    blob = bytearray((folder / "weights.safetensors").read_bytes())
    blob[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(bytes(blob))


def make_truncated(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


def make_bad_shape(folder: Path) -> None:
    import hashlib

    tensors = load_file(folder / "weights.safetensors")
    tensors["bias"] = torch.zeros(1)
    save_file(tensors, folder / "weights.safetensors")
    card = json.loads((folder / "model.json").read_text())
    card["weights"]["sha256"] = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (make_pickle, "pickle"),
        (make_bad_hash, "sha-256"),
        (make_truncated, "sha-256"),
        (make_bad_shape, r"bias is \(1,\)"),
    ],
)
def test_a_wrong_file_is_refused_and_leaves_nothing_behind(site: Site, spoil: Callable[[Path], None], why: str) -> None:
    spoil(site.incoming)
    with pytest.raises(CheckpointError, match=why):
        site.registry.add(site.incoming)
    assert [v.digest for v in site.registry.versions()] == [site.old]
    assert not list((site.registry.models / "versions").iterdir())


def test_a_single_file_is_no_checkpoint(site: Site, tmp_path: Path) -> None:
    torch.save({"bias": torch.zeros(1)}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="pickles and archives are never read"):
        site.registry.add(tmp_path / "bad.pt")


def test_an_added_version_is_found_by_version_and_by_digest_and_the_name_alone_means_the_shipped_one(
    site: Site,
) -> None:
    site.registry.add(site.incoming)
    assert site.registry.find("test").digest == site.old
    assert site.registry.find("test@1").digest == site.new
    assert site.registry.find(f"test@{site.new[:8]}").digest == site.new
    with pytest.raises(CheckpointError, match="no version"):
        site.registry.find("test@7")


def test_only_the_files_of_a_checkpoint_are_copied(site: Site) -> None:
    (site.incoming / "stowaway.py").write_text("raise SystemExit")
    folder = site.registry.add(site.incoming).folder
    assert {p.name for p in folder.iterdir()} == {"weights.safetensors", "model.json", "self-test.json"}


def test_adding_a_version_again_changes_nothing_and_the_same_weights_under_another_card_are_refused(site: Site) -> None:
    assert site.registry.add(site.incoming) == site.registry.add(site.incoming)
    card = json.loads((site.incoming / "model.json").read_text())
    card["version"] = "2"
    (site.incoming / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"there already, with another model\.json"):
        site.registry.add(site.incoming)


def test_a_card_altered_after_it_was_added_is_noticed(site: Site) -> None:
    version = site.registry.add(site.incoming)
    verify(version)
    path = version.folder / "model.json"
    path.write_text(path.read_text().replace('"version": "1"', '"version": "9"'))
    assert read_card(version.folder).version == "9"
    with pytest.raises(CheckpointError, match="changed since it was added"):
        verify(version)


def test_a_model_that_answers_otherwise_than_when_it_was_added_is_noticed(site: Site) -> None:
    version = site.registry.add(site.incoming)
    path = version.folder / "self-test.json"
    kept = json.loads(path.read_text())
    kept["logits"][0][0] += 0.01
    path.write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match="self-test"):
        verify(version)


@pytest.fixture
def patient(shards: dict[str, Shard]) -> FusionInput:
    return shards["generated"].inputs(0)


@pytest.fixture
def served(site: Site) -> ServedModels:
    return ServedModels(site.registry, {"test": Engine.load(site.registry.models / "test")}, drain_s=1.0)


def probabilities(assessment: Assessment) -> dict[str, float | None]:
    return {name: e.probability for name, e in assessment.estimates.items()}


def test_a_version_that_cannot_be_used_leaves_the_old_one_answering(
    site: Site, served: ServedModels, patient: FusionInput
) -> None:
    folder = site.registry.add(site.incoming).folder
    make_bad_hash(folder)
    for digest in (site.new, "0" * 64):
        served.turn_to(lambda digest=digest: {"test": digest})  # type: ignore[misc]
        assert served["test"].assess(patient, timeout=20.0).digest == site.old


def test_swap_and_rollback_under_load_fail_no_call_and_mix_no_versions(
    site: Site, served: ServedModels, patient: FusionInput
) -> None:
    site.registry.add(site.incoming)
    active: dict[str, str] = {}
    answers: list[tuple[float, Assessment]] = []
    failed: list[Exception] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            engine = served["test"]
            spec = engine.spec  # what a call reads before it asks, so that it must be one version's
            try:
                answers.append((time.monotonic(), engine.assess(patient, timeout=20.0, targets=spec.target_names())))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed call
                failed.append(error)

    def wait_for(digest: str) -> float:
        began = time.monotonic()
        active["test"] = digest
        while time.monotonic() < began + 30:
            if answers and answers[-1][1].digest == digest:
                return time.monotonic() - began
            time.sleep(0.05)
        raise AssertionError("never came into force")

    with served.following(lambda: dict(active)):
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        forth = wait_for(site.new)
        back = wait_for(site.old)
        time.sleep(2 * LOOK_S)  # past the drain: the engine that was taken over from is closed
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert forth < 10.0
    assert back < 10.0
    by_digest = {d: [a for _, a in answers if a.digest == d] for d in (site.old, site.new)}
    assert all(len(found) > 5 for found in by_digest.values())
    assert len(answers) == sum(map(len, by_digest.values()))
    said = {d: probabilities(found[0]) for d, found in by_digest.items()}
    for digest, found in by_digest.items():
        for assessment in found:
            assert assessment.model == ("test@0" if digest == site.old else "test@1")
            for target, p in probabilities(assessment).items():
                expected = said[digest][target]
                assert p == expected if expected is None else p == pytest.approx(expected, abs=1e-5)
    # The second version's logits are one higher, so what it says differs where anything is said.
    differing = [
        t for t, p in said[site.old].items() if p is not None and said[site.new][t] != pytest.approx(p, abs=1e-3)
    ]
    assert differing
