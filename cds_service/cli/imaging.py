"""`cds-service train chest-anatomy` and `evaluate imaging`: the imaging networks from data, and judged again."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cds_service.cli.errors import CommandError
from cds_service.cli.imaging_page import findings, page, sections
from cds_service.settings import Settings
from fhir_mappers.film_shards import export_films
from fhir_mappers.sources import SourceError
from models.card import Card
from models.checkpoint import read_card
from models.config import ConfigError
from models.data import ShardError
from models.film_reader import NAME, is_film_reader, load_film_reader, read_film_card
from models.imaging_build import build_film_reader, judge_again
from models.imaging_train import load_imaging_recipe


def train_imaging(recipe: str, data: Path, shards: Path, out: Path | None) -> None:
    """Draw and export the films, train, set the gate, fit the courses, judge, and write weights and card."""
    console, settings = Console(), Settings.from_env()
    try:
        plan = load_imaging_recipe(recipe)
        folder = shards / plan.name
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        ) as bar:
            if not (folder / "pairs-nih14.safetensors").exists():
                task = bar.add_task("exporting", total=None)
                export_films(
                    data,
                    folder,
                    tell=lambda what, done: bar.update(task, description=f"exporting {what}", completed=done),
                )
                bar.remove_task(task)
            task = bar.add_task("training")
            card = build_film_reader(
                plan,
                folder,
                settings.models,
                out or settings.models / plan.name,
                progress=lambda what, step, of, loss: bar.update(
                    task, description=f"{what}, loss {loss:.4f}", completed=step, total=of
                ),
            )
    except (ConfigError, SourceError, ShardError) as error:
        raise CommandError(str(error)) from None
    console.print("\n".join(sections(card.figures)), highlight=False, markup=False)


def evaluate_imaging(shards: Path, *, stored: bool, page_file: Path | None) -> None:
    """Print the figures of the imaging networks, made anew unless `stored`; the page always tells of those stored."""
    models = Settings.from_env().models
    card = read_film_card(models / NAME)
    if page_file is not None:
        page_file.write_text(page(card, finding_cards(models)), encoding="utf-8")
    figures = card.figures
    if not stored:
        try:
            figures = judge_again(load_film_reader(models / NAME), shards / card.name, models)
        except ShardError as error:
            raise CommandError(f"{error}; `cds-service train {card.name}` exports the shards") from None
    console = Console()
    console.print("\n".join(sections(figures) + findings(finding_cards(models))), highlight=False, markup=False)
    for limit in card.known_limits:
        console.print(f"[dim]{limit}[/]", highlight=False)


def finding_cards(models: Path) -> tuple[Card, ...]:
    """The cards of the fusion models that have findings."""
    folders = sorted(p.parent for p in models.glob("*/model.json") if not is_film_reader(p.parent))
    cards = (read_card(folder) for folder in folders)
    return tuple(c for c in cards if any(name.startswith("finding.") for name in c.targets))
