"""`cds-service backbone add | show | merge` and `cds-service adapt`: published networks that read films."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cds_service.cli.errors import CommandError
from cds_service.cli.model import with_ci
from cds_service.settings import Settings
from models.adapt import Plan
from models.adapt import adapt as adapt_backbone
from models.adapt import merge as merge_adapter
from models.backbones.convert import KNOWN, licence_of
from models.backbones.convert import add as add_backbone
from models.backbones.families import FAMILIES
from models.backbones.manifest import Backbone, BackboneError, accept_licences, read_manifest, require_accepted
from models.data import ShardError, read_shard

backbone_app = typer.Typer(help="Published networks that can read films in place of our own.", no_args_is_help=True)


def mount(app: typer.Typer) -> None:
    app.add_typer(backbone_app, name="backbone")
    app.command("adapt")(adapt)


Folder = Annotated[Path, typer.Argument(help="A backbone folder, as `backbone add` makes it.")]


@backbone_app.command("add")
def add(
    source: Annotated[Path, typer.Argument(help="The publisher's folder, or its one file of weights.")],
    out: Annotated[Path, typer.Argument(help="The backbone folder to make.")],
    name: Annotated[str, typer.Option(help="What it is called on cards, e.g. rad-dino.")],
    family: Annotated[str, typer.Option(help=f"One of {', '.join(FAMILIES)}.")],
    licence: Annotated[str, typer.Option(help="Name of its licence; needed unless the network is a known one.")] = "",
    terms: Annotated[str, typer.Option(help="commercial_ok, gated or research_only.")] = "",
    model: Annotated[str, typer.Option(help="timm's name of the architecture, where no config.json says.")] = "",
    where: Annotated[str, typer.Option(help="Where the weights came from, in your words.")] = "",
) -> None:
    """Check a published network and write it as safetensors with its manifest. A .bin is read as tensors, never run."""
    chosen = next((f for f in FAMILIES if f == family), None)
    if chosen is None:
        raise CommandError(f"--family is {family!r}; there are {', '.join(FAMILIES)}")
    if not licence and name not in KNOWN:
        raise CommandError(f"{name}: --licence and --terms say on which terms its weights may be used")
    given = licence_of(licence, terms) if licence else None
    made = add_backbone(source, out, name=name, family=chosen, licence=given, model=model or None, where=where)
    _tell(made)
    Console().print(f"In a preset: [bold]image: {{backbone: {out}}}[/]", highlight=False, soft_wrap=True)


@backbone_app.command("show")
def show(folder: Folder) -> None:
    """What a backbone is, and whether this site may use it."""
    found = read_manifest(folder)
    _tell(found)
    accept_licences(Settings.from_env().accepted_licences)
    try:
        require_accepted(found)
    except BackboneError as error:
        Console().print(f"[yellow]not used here:[/] {error}", highlight=False, soft_wrap=True)


@backbone_app.command("merge")
def merge(folder: Folder, adapter: Annotated[Path, typer.Argument(help="What `adapt` wrote.")], out: Path) -> None:
    """Add an adapter to the weights it was trained on: a backbone folder of the site's own."""
    accept_licences(Settings.from_env().accepted_licences)
    _tell(merge_adapter(folder, adapter, out))


def adapt(
    folder: Folder,
    shard: Annotated[Path, typer.Argument(help="A training shard with the site's films, NAME.safetensors.")],
    target: Annotated[str, typer.Option(help="The label to learn from, e.g. finding.effusion.")],
    out: Annotated[Path, typer.Option(help="Where the adapter goes.")],
    rank: Annotated[int, typer.Option(min=1, max=256)] = 8,
    steps: Annotated[int, typer.Option(min=1)] = 300,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Adapt a published network to this site's films by low-rank updates, and say what that gained, with its CI."""
    accept_licences(Settings.from_env().accepted_licences)
    plan = Plan(target=target, rank=rank, alpha=2 * rank, steps=steps, batch=batch, seed=seed)
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("adapting", total=steps)
            found = adapt_backbone(
                folder,
                read_shard(shard),
                plan,
                out,
                device=device,
                progress=lambda step, of, loss: bar.update(
                    task, description=f"adapting, loss {loss:.4f}", completed=step, total=of
                ),
            )
    except ShardError as error:
        raise CommandError(str(error)) from None
    console.print(
        f"{target}, AUROC on patients kept apart (95 % CI): as published {with_ci(found.frozen)}, adapted "
        f"{with_ci(found.adapted)}, gain {with_ci(found.gain)}",
        highlight=False,
        soft_wrap=True,
    )


def _tell(found: Backbone) -> None:
    p = found.preprocessing
    Console().print(
        f"{found.name} ({found.family}, {found.parameters:,} parameters), sha-256 {found.sha256}\n"
        f"films: {p.size} pixels, {len(p.mean)} channels, {p.interpolation}\n"
        f"licence: {found.licence.name} ({found.licence.terms})",
        highlight=False,
        soft_wrap=True,
    )
