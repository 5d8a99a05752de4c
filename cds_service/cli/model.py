"""`cds-service train | evaluate`: from data to a checkpoint, and a checkpoint judged again."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cds_service.cli.errors import CommandError
from cds_service.cli.imaging import evaluate_imaging, train_imaging
from cds_service.cli.model_page import page as model_page
from cds_service.settings import Settings
from fhir_mappers.export import export, export_as
from fhir_mappers.sources import SourceError
from models.backbones.manifest import accept_licences
from models.build import train as train_checkpoint
from models.card import TargetCard
from models.checkpoint import Stored, load_checkpoint, write_card
from models.config import ConfigError, Recipe, load_preset, load_recipe
from models.conformal import Coverage
from models.data import ShardError
from models.evaluate import coverage, report
from models.film_reader import NAME as FILM_READER
from models.film_reader import is_film_reader
from models.judged import Judged
from models.metrics import Estimated
from models.plots import draw
from models.rejudge import judge_again, recalibrated

Data = Annotated[Path, typer.Option(help="Folder with one folder per data set.")]
COLUMNS = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
Shards = Annotated[Path, typer.Option(help="Where exported training shards are kept.")]


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe of models/configs, e.g. chest-open or chest-anatomy, or a YAML file.")
    ],
    data: Data = Path("../shared/data"),
    shards: Shards = Path("cache/shards"),
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder [manifests/models/NAME].")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; several processes or GPUs by torchrun.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's log.")] = None,
) -> None:
    """Export the data through the same mappers as serving, train, judge, calibrate, and write a checkpoint.

    A run that was broken off goes on from its last saved step.
    """
    import torch
    import torch.distributed as dist

    from cds_service.cli.processes import log_writer, processes

    torch.set_num_threads(threads)
    accept_licences(Settings.from_env().accepted_licences)
    if Path(recipe).stem == FILM_READER:
        train_imaging(recipe, data, shards, out)
        return
    console = Console()
    try:
        plan = load_recipe(recipe)
        folder = shards / plan.name
        with processes(device) as (rank, mine), Progress(*COLUMNS, console=console, disable=rank != 0) as bar:
            if rank == 0 and not (folder / "spec.json").exists():
                task = bar.add_task("exporting", total=None)
                export(
                    data,
                    folder,
                    sources=sources_of(plan),
                    image_size=load_preset(plan.preset).image_size,
                    progress=lambda what, done: bar.update(task, description=f"exporting {what}", completed=done),
                )
                bar.remove_task(task)
            if dist.is_initialized():
                dist.barrier()
            task = bar.add_task("training")
            log = log_writer(tensorboard) if tensorboard and rank == 0 else None

            def tell(phase: str, step: int, of: int, loss: float) -> None:
                bar.update(task, description=f"{phase}, loss {loss:.4f}", completed=step, total=of)
                if log is not None:
                    log.add_scalar(f"loss/{phase}", loss, step)

            to = out or Settings.from_env().models / plan.name
            card = train_checkpoint(plan, folder, to, device=mine, state=folder / "state", progress=tell)
            if log is not None:
                log.close()
    except (ConfigError, SourceError, ShardError) as error:
        raise CommandError(str(error)) from None
    if card is not None:
        console.print(figures_table(f"{card.name} {card.version} ({card.tier} data)", card.targets))


def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A model of the models folder, a checkpoint folder, or `imaging` for what reads films"),
    ],
    data: Data = Path("../shared/data"),
    shards: Shards = Path("cache/shards"),
    stored: Annotated[bool, typer.Option("--stored", help="Only show the figures in model.json.")] = False,
    page: Annotated[Path | None, typer.Option(help="Write the page of all models (or of imaging) here.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw every target into this folder, e.g. docs/model.")] = None,
    sets: Annotated[bool, typer.Option("--sets", help="Judge what conformal sets keep, by subgroup, as well.")] = False,
    target: Annotated[list[str] | None, typer.Option(help="Only this target; may be given several times.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Fit the calibration again and write it and the figures to model.json.")
    ] = False,
) -> None:
    """Judge a checkpoint on the validation patients, who took no part in training; every figure with its CI.

    The data are exported as this model reads them, where they have not been.
    """
    settings = Settings.from_env()
    accept_licences(settings.accepted_licences)
    if model in ("imaging", FILM_READER):
        evaluate_imaging(shards, stored=stored, page_file=page)
        return
    folder = Path(model) if Path(model).is_dir() else settings.models / model
    kept = load_checkpoint(folder)
    card = kept.card
    if stored and write:
        raise CommandError("--write needs the figures judged anew; leave --stored out")
    if stored:
        found = card.targets
    else:
        found, judged = _judged(kept, data, shards / card.name, plots, sets, target)
        if write:
            write_card(folder, recalibrated(kept, judged, found))
    if page is not None:
        folders = sorted(p.parent for p in settings.models.glob("*/model.json") if not is_film_reader(p.parent))
        page.write_text(model_page(folders), encoding="utf-8")
    console = Console()
    console.print(figures_table(f"{card.name} {card.version} ({card.tier} data)", found))
    for name, said in found.items():
        for limit in said.limits:
            console.print(f"[dim]{name}:[/] {limit}", highlight=False)


def _judged(
    kept: Stored, data: Path, shards: Path, plots: Path | None, sets: bool, targets: list[str] | None
) -> tuple[dict[str, TargetCard], dict[str, Judged]]:
    if sets and find_spec("crepes") is None:
        raise CommandError("--sets needs crepes: pip install 'ordersight[train]'")
    if plots is not None and find_spec("matplotlib") is None:
        raise CommandError("--plots needs matplotlib: pip install 'ordersight[train]'")
    unknown = sorted(set(targets or ()) - set(kept.card.spec.target_names()))
    if unknown:
        raise CommandError(f"{kept.card.name} has no target {', '.join(unknown)}")
    found: dict[str, TargetCard] = {}
    cases: dict[str, Judged] = {}
    try:
        if not (shards / "spec.json").exists():
            export_as(kept.card.spec, data, shards)
        for judged in judge_again(kept, shards, targets):
            cases[judged.target.name] = judged
            card = found[judged.target.name] = report(judged)
            if plots is not None and card.figures is not None:
                draw(judged, card, plots / kept.card.name / f"{judged.target.name}.svg")
            if sets:
                found[judged.target.name] = replace(card, sets=_print_sets(judged))
    except (ShardError, SourceError) as error:
        raise CommandError(f"{error}; to export anew, name another --shards folder") from None
    return found, cases


def _print_sets(judged: Judged) -> dict[str, Coverage]:
    try:
        kept = coverage(judged)
    except ValueError as error:
        Console().print(f"{judged.target.name}: no sets ({error})", highlight=False)
        return {}
    table = Table(title=f"{judged.target.name}: conformal sets", title_justify="left", header_style="bold")
    for column in ("cases of", "number", "promised", "covered (95 % CI)", "decided", "of these right"):
        table.add_column(column)
    for name, c in kept.items():
        right = "" if c.right is None else f"{c.right:.3f}"
        table.add_row(name, str(c.cases), f"{c.nominal:.2f}", with_ci(c.covered), f"{c.decided:.3f}", right)
    Console().print(table)
    return kept


def sources_of(recipe: Recipe) -> list[str]:
    """The data sets a recipe trains on, each once, in the order it names them."""
    named = [name for phase in recipe.phases for name in phase.sources]
    return list(dict.fromkeys([*named, *(head.source for head in recipe.frozen_heads)]))


def figures_table(title: str, targets: dict[str, TargetCard]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in (
        "target",
        "cases",
        "positive",
        "AUROC (95 % CI)",
        "over baseline",
        "Brier skill",
        "slope",
        "ECE",
        "standing",
    ):
        table.add_column(column)
    for name, card in targets.items():
        f = card.figures
        table.add_row(
            name,
            str(f.cases) if f else "too few",
            str(f.positives) if f else "",
            with_ci(f.auroc if f else None),
            with_ci(card.margin),
            with_ci(f.skill if f else None),
            with_ci(f.slope if f else None),
            with_ci(f.ece if f else None),
            card.standing,
        )
    return table


def with_ci(e: Estimated | None) -> str:
    return "" if e is None else f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"
