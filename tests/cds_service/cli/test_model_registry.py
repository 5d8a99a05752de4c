"""The commands that add, activate and roll back a version, on a copy of a shipped model and a state of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from cds_service.cli.errors import CommandError
from cds_service.cli.model_registry import model_app
from cds_service.settings import Settings
from cds_service.source_attributes import PREDICTIVE
from cds_service.state.store import Store
from models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

NAME = "chest-generated"


@pytest.fixture
def incoming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site with the shipped model, and a folder with another version of it."""
    shutil.copytree(Settings().models / NAME, tmp_path / "models" / NAME)
    monkeypatch.setenv("ORDERSIGHT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("ORDERSIGHT_STATE_DIR", str(tmp_path / "state"))
    stored = load_checkpoint(tmp_path / "models" / NAME)
    with torch.no_grad():
        stored.model.bias.add_(0.5)
    save_checkpoint(tmp_path / "new", stored.model, msgspec.structs.replace(stored.card, version="2"), stored.gate)
    return tmp_path / "new"


def said(*words: str) -> str:
    done = CliRunner().invoke(model_app, list(words), env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_version_is_added_activated_and_rolled_back_and_the_audit_says_who_and_why(
    incoming: Path, tmp_path: Path
) -> None:
    assert "added" not in said("list")
    new = load_checkpoint(incoming).card.weights.sha256
    old = load_checkpoint(tmp_path / "models" / NAME).card.weights.sha256
    said("add", str(incoming))
    said("verify")
    with pytest.raises(CommandError, match="say why"):
        said("activate", f"{NAME}@2")
    said("activate", f"{NAME}@2", "--why", "retrained", "--who", "Dr Test")
    said("rollback", NAME, "--why", "too many alerts", "--who", "Dr Other")
    with Store.open(Settings.from_env().state_url, tmp_path / "state", outbox_bytes=0) as store:
        assert store.active_models() == {NAME: old}
        assert [(w.digest, w.who, w.why) for w in store.model_history()] == [
            (new, "Dr Test", "retrained"),
            (old, "Dr Other", "too many alerts"),
        ]
        assert store.verify_audit().ok
    assert "Dr Other" in said("list", "--history")


def test_a_spoiled_version_fails_its_verification_and_is_not_activated(incoming: Path, tmp_path: Path) -> None:
    said("add", str(incoming))
    (weights,) = (tmp_path / "models" / "versions").glob("*/*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    for words in (("verify", f"{NAME}@2"), ("activate", f"{NAME}@2", "--why", "new")):
        with pytest.raises(CheckpointError, match="sha-256"):
            said(*words)
    with Store.open(Settings.from_env().state_url, tmp_path / "state", outbox_bytes=0) as store:
        assert store.active_models() == {}


def test_nothing_is_rolled_back_where_nothing_was_activated(incoming: Path) -> None:
    with pytest.raises(CommandError, match="nothing was activated"):
        said("rollback", NAME, "--why", "x")


def test_the_card_states_all_31_source_attributes_with_figures_for_a_service_that_asks_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORDERSIGHT_PROFILE", "research_imaging")
    printed = said("card", "chest-open")
    deterioration = next(part for part in printed.split("\n# ") if "icu_care" in part)
    assert sum(f"## {cite} {title}" in deterioration for cite, title in PREDICTIVE.values()) == 31
    assert "AUROC" in deterioration
