"""`cds-service`: the command line. Each group of commands has its own file; this one puts them together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType

import typer
from rich.console import Console

Mount = Callable[[typer.Typer, ModuleType], None]


def _commands(**functions: str) -> Mount:
    def mount(app: typer.Typer, module: ModuleType) -> None:
        for command, function in functions.items():
            app.command(command)(getattr(module, function))

    return mount


GROUPS: Mapping[str, tuple[tuple[str, ...], Mount]] = {
    "serve": (("serve",), _commands(serve="serve")),
    "watch": (("watch",), _commands(watch="watch")),
    "demo": (("demo",), _commands(demo="demo")),
    "ask": (("services", "invoke", "import"), _commands(services="services", invoke="invoke", **{"import": "import_"})),
    "check": (("check",), _commands(check="check")),
    "replay": (("replay",), _commands(replay="replay")),
    "openapi": (("openapi",), _commands(openapi="openapi")),
    "cards": (("cards",), _commands(cards="cards")),
    "report": (("report",), _commands(report="report")),
    "backbone": (("backbone", "adapt"), lambda app, module: module.mount(app)),
    "pretrain": (("pretrain",), _commands(pretrain="pretrain")),
    "model": (("train", "evaluate"), _commands(train="train", evaluate="evaluate")),
    "model_registry": (("model",), lambda app, module: app.add_typer(module.model_app, name="model")),
    "state": (
        ("audit", "feedback", "retention", "state", "backup", "restore", "erase"),
        lambda app, module: module.mount(app),
    ),
    "register": (("register",), _commands(register="register")),
    "clients": (("clients",), lambda app, module: app.add_typer(module.clients_app, name="clients")),
    "switch": (("switch", "switches"), _commands(switch="switch", switches="switches")),
    "admin": (("admin",), lambda app, module: app.add_typer(module.admin_app, name="admin")),
}
"""module of cds_service.cli -> the words it answers to, and how they are added."""

EXPECTED = (
    "cds_service.advice.UnknownAdvice",
    "cds_service.cli.errors.CommandError",
    "cds_service.demo.fire.DemoError",
    "cds_service.manifest.ManifestError",
    "cds_service.binding.CannotListen",
    "cds_service.settings.SettingsError",
    "cds_service.trust.clients.ClientsError",
    "models.backbones.manifest.BackboneError",
    "models.checkpoint.CheckpointError",
    "models.pretrain.PretrainingError",
)
"""Errors that say what to do; everything else is a bug and keeps its traceback. By name, so that none is imported."""


def assemble(arguments: Sequence[str] = ()) -> typer.Typer:
    """The commands of the group the first word belongs to; all of them where it is no command.

    torch, scikit-learn and SQLAlchemy take seconds to import, and `cds-service services` needs none of them.
    """
    app = typer.Typer(
        name="cds-service",
        help="Clinical decision support inside the order: CDS Hooks in, cards out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    # With a callback a lone command keeps its name.
    app.callback()(lambda: None)
    word = arguments[0] if arguments else ""
    asked = [name for name, (words, _) in GROUPS.items() if word in words]
    for name in asked or GROUPS:
        GROUPS[name][1](app, import_module(f"cds_service.cli.{name}"))
    return app


def expected(error: BaseException) -> bool:
    """Whether the error's message is all that whoever typed the command needs."""
    return any(f"{kind.__module__}.{kind.__qualname__}" in EXPECTED for kind in type(error).__mro__)


def run() -> None:
    try:
        assemble(sys.argv[1:])()
    except Exception as error:
        # What somebody can do something about is told in a line; anything else is ours and keeps its trace.
        if not expected(error):
            raise
        Console(stderr=True).print(f"[bold red]cds-service:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
