"""The models' page and the checkpoints it tells of."""

from __future__ import annotations

from pathlib import Path

from cds_service.cli.model_page import page
from models.checkpoint import read_card
from models.film_reader import is_film_reader

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = sorted(p.parent for p in (ROOT / "manifests" / "models").glob("*/model.json") if not is_film_reader(p.parent))


def test_the_committed_page_is_what_the_models_say_of_themselves() -> None:
    assert (ROOT / "docs" / "model.md").read_text(encoding="utf-8") == page(FOLDERS)


def test_results_on_generated_and_on_open_data_never_share_a_table() -> None:
    sections = page(FOLDERS).split("\n## ")[1:]
    assert len(sections) == len(FOLDERS)
    for section, folder in zip(sections, FOLDERS, strict=True):
        card = read_card(folder)
        assert section.startswith(f"{card.name} {card.version} ({card.tier} data)")
        assert {source.tier for source in card.sources} == {card.tier}


def test_every_known_limit_and_attribution_of_a_model_is_on_its_page() -> None:
    text = page(FOLDERS)
    for folder in FOLDERS:
        card = read_card(folder)
        assert card.known_limits
        assert all(limit in text for limit in card.known_limits)
        assert all(source.attribution in text and source.licence in text for source in card.sources)
