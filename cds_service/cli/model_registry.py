"""`cds-service model`: which versions of a model there are, which one answers, and what is known of each."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cds_service.cli.errors import CommandError
from cds_service.manifest import load_services
from cds_service.settings import Settings
from cds_service.source_attributes import load_texts, sheet
from cds_service.state.errors import StateError
from cds_service.state.store import Store
from models.backbones.manifest import accept_licences
from models.registry import Registry, Version
from models.registry import verify as verify_version

model_app = typer.Typer(help="Versions of a model, which one answers, and what is known of it.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="NAME for the shipped one, NAME@VERSION, or NAME@DIGEST (6 digits up).")]
Why = Annotated[str, typer.Option(help="The reason; it is kept with the change, and audited.")]
Who = Annotated[str, typer.Option(help="Who decided; the name of the account, if left out.")]


@model_app.command("list")
def list_(
    history: Annotated[bool, typer.Option("--history", help="Every activation, oldest first.")] = False,
) -> None:
    """Show every version, and which one answers."""
    settings = Settings.from_env()
    with _state(settings) as store:
        active, words = store.active_models(), store.model_history()
    if history:
        table = Table(title="Activations", title_justify="left")
        for column in ("model", "digest", "who", "when", "why"):
            table.add_column(column, overflow="fold")
        for w in words:
            table.add_row(w.name, w.digest[:12], w.who, f"{w.at:%Y-%m-%d %H:%M} UTC", w.why)
        Console().print(table)
        return
    table = Table(title="Models", title_justify="left")
    for column in ("model", "version", "digest", "data", "from", "answers"):
        table.add_column(column, overflow="fold")
    for v in Registry(settings.models).versions():
        answers = v.digest == active[v.name] if v.name in active else v.shipped
        table.add_row(
            v.name,
            v.card.version,
            v.digest[:12],
            v.card.tier,
            "shipped" if v.shipped else "added",
            "yes" if answers else "",
        )
    Console().print(table)


@model_app.command("add")
def add(folder: Annotated[Path, typer.Argument(help="Checkpoint folder: weights.safetensors and model.json.")]) -> None:
    """Check a checkpoint and keep it beside the shipped one. It answers nothing until it is activated."""
    settings = _prepared()
    version = Registry(settings.models).add(folder)
    _say(f"{_named(version)} added; `cds-service model activate {_named(version)} --why ...` makes it answer")


@model_app.command("verify")
def verify(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@DIGEST; all if left out.")] = "",
) -> None:
    """Check hashes, shapes and self-test vectors. Exits with 1 where a version must not serve."""
    registry = Registry(_prepared().models)
    for version in (registry.find(model),) if model else registry.versions():
        verify_version(version)
        _say(f"{_named(version)} is whole, and answers its self-test")


@model_app.command("activate")
def activate(model: Reference, why: Why = "", who: Who = "") -> None:
    """Make a version answer under its name, in every running process within ten seconds."""
    settings = _prepared()
    version = Registry(settings.models).find(model)
    _activate(settings, version, why, who)


@model_app.command("rollback")
def rollback(name: Annotated[str, typer.Argument(help="Name of the model.")], why: Why = "", who: Who = "") -> None:
    """Make the version answer that did before; the shipped one, where there was no other."""
    settings = _prepared()
    registry = Registry(settings.models)
    with _state(settings) as store:
        said = [w.digest for w in store.model_history() if w.name == name]
    if not said:
        raise CommandError(f"{name}: nothing was activated, the shipped model answers")
    before = next((digest for digest in reversed(said) if digest != said[-1]), "")
    version = registry.with_digest(name, before) if before else registry.find(name)
    _activate(settings, version, why, who)


@model_app.command("card")
def card(model: Reference) -> None:
    """Print the model card: HTI-1's 31 source attributes for every service it answers, with the figures measured."""
    settings = _prepared()
    version = Registry(settings.models).find(model)
    texts = load_texts(settings.manifests)
    services = [
        s for s in load_services(settings.manifests / "services", settings.profile).all if s.model == version.name
    ]
    if not services:
        raise CommandError(f"{version.name}: no service of {settings.manifests} asks it")
    for service in services:
        _say(f"# {service.title}, answered by {_named(version)} (version {version.card.version})\n")
        for attribute in sheet(service, version.card, texts).predictive:
            _say(f"## {attribute.cite} {attribute.title}\n\n{attribute.text}\n")
            for figure in attribute.figures:
                _say(f"- {figure}")
            if attribute.figures:
                _say("")


def _activate(settings: Settings, version: Version, why: str, who: str) -> None:
    if not why.strip():
        raise CommandError("say why: --why 'retrained on our own results'")
    verify_version(version)
    with _state(settings) as store:
        store.activate_model(version.name, version.digest, who=who or _account(), why=why)
    _say(f"{_named(version)} answers as {version.name}, in every process within ten seconds")


@contextmanager
def _state(settings: Settings) -> Iterator[Store]:
    try:
        with Store.open(
            settings.state_url, settings.state_dir, outbox_bytes=0, owner_url=settings.state_owner_url
        ) as store:
            yield store
    except StateError as error:
        raise CommandError(str(error)) from None


def _prepared() -> Settings:
    settings = Settings.from_env()
    accept_licences(settings.accepted_licences)
    return settings


def _named(version: Version) -> str:
    return f"{version.name}@{version.digest[:12]}"


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "command line"


def _say(text: str) -> None:
    Console().print(text, highlight=False, soft_wrap=True, markup=False)
