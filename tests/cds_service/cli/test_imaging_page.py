"""The imaging page, and the command that writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cds_service.cli.imaging import finding_cards
from cds_service.cli.imaging_page import page
from cds_service.cli.main import assemble
from models.checkpoint import read_card
from models.film_reader import NAME, read_film_card

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "manifests" / "models"


def test_the_committed_page_is_what_the_networks_say_of_themselves() -> None:
    assert (ROOT / "docs" / "imaging.md").read_text(encoding="utf-8") == page(
        read_film_card(MODELS / NAME), finding_cards(MODELS)
    )


def test_the_command_writes_the_page_and_prints_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERSIGHT_MODELS", str(MODELS))
    out = tmp_path / "imaging.md"
    command = ["evaluate", "imaging", "--stored", "--page", str(out)]
    done = CliRunner().invoke(assemble(command), command)
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8") == (ROOT / "docs" / "imaging.md").read_text(encoding="utf-8")
    dice = read_film_card(MODELS / NAME).figures.outlines["open"]["left_lung"].dice
    assert f"{dice.value:.3f} ({dice.low:.3f} to {dice.high:.3f})" in done.output
    judged = read_card(MODELS / "chest-open").targets["finding.pneumonia"].figures
    assert judged is not None
    auroc = judged.auroc
    assert auroc is not None
    assert f"| pneumonia | {judged.cases} ({judged.positives}) | {auroc.value:.3f} ({auroc.low:.3f} to" in done.output


def test_without_shards_the_command_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERSIGHT_MODELS", str(MODELS))
    command = ["evaluate", "imaging", "--shards", str(tmp_path)]
    done = CliRunner().invoke(assemble(command), command)
    assert done.exit_code != 0
    assert "`cds-service train chest-anatomy` exports the shards" in str(done.exception)


def test_results_on_generated_and_on_open_data_never_share_a_table() -> None:
    text = page(read_film_card(MODELS / NAME), finding_cards(MODELS))
    generated = (
        "Against the exact outlines of generated films",
        "Generated films",
        "Generated pairs",
        "Drawn pictures",
    )
    tables = text.split("\n### ")[1:]
    titles = [table.partition("\n")[0] for table in tables]
    assert sum(title.startswith(generated) for title in titles) == 5
    for title, table in zip(titles, tables, strict=True):
        rows = [line for line in table.split("\n## ")[0].splitlines() if line.startswith("|")]
        if not title.startswith(generated) and "generated data" not in title:
            assert not any("generated" in row for row in rows)


def test_every_limit_and_everybody_to_thank_is_on_the_page() -> None:
    card = read_film_card(MODELS / NAME)
    text = page(card, finding_cards(MODELS))
    assert card.known_limits
    assert all(limit in text for limit in card.known_limits)
    assert all(source.attribution in text and source.licence in text for source in card.sources)
    assert "CC BY 4.0" in text
