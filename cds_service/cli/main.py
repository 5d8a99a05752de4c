"""`cds-service`: the command line. Each group of commands has its own file; this one puts them together."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from cds_service.advice import UnknownAdvice
from cds_service.cli import ask, check, demo, model, serve, state
from cds_service.cli.errors import CommandError
from cds_service.demo.fire import DemoError
from cds_service.manifest import ManifestError
from cds_service.server import CannotListen
from cds_service.settings import SettingsError
from cds_service.trust.clients import ClientsError
from models.checkpoint import CheckpointError

app = typer.Typer(
    name="cds-service",
    help="Clinical decision support inside the order: CDS Hooks in, cards out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("services")(ask.services)
app.command("invoke")(ask.invoke)
app.command("check")(check.check)
app.command("import")(ask.import_)
app.command("train")(model.train)
app.command("evaluate")(model.evaluate)
state.mount(app)

EXPECTED = (
    CannotListen,
    CheckpointError,
    ClientsError,
    CommandError,
    DemoError,
    ManifestError,
    SettingsError,
    UnknownAdvice,
)
"""Errors that say what to do; everything else is a bug and keeps its traceback."""


def run() -> None:
    try:
        app()
    except EXPECTED as error:
        Console(stderr=True).print(f"[bold red]cds-service:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
