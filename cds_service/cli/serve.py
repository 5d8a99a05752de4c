"""`cds-service serve`: the service, until it is told to stop."""

from __future__ import annotations

import dataclasses
import gc
from typing import Annotated

import typer
from rich.console import Console

from cds_service.app import create_app
from cds_service.cli.errors import CommandError
from cds_service.logs import configure_logging
from cds_service.manifest import Services, load_services
from cds_service.readiness import warnings
from cds_service.server import serve as serve_app
from cds_service.settings import Settings
from models.backbones.manifest import accept_licences
from models.registry import Registry
from models.rollout import ServedModels
from models.serving import Engine


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [ORDERSIGHT_HOST].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one [ORDERSIGHT_PORT].")] = None,
) -> None:
    """Serve the hooks. Everything else is in the environment and the manifests: see docs/operations.md."""
    settings = Settings.from_env()
    if host is not None or port is not None:
        settings = dataclasses.replace(
            settings, host=host or settings.host, port=settings.port if port is None else port
        )
    configure_logging()
    services = load_services(settings.manifests / "services", settings.profile)
    engines = load_engines(services, settings)
    Console(stderr=True).print(
        f"{len(services.on)} services, profile {settings.profile}, models: "
        + (", ".join(e.name for e in engines.values()) or "none"),
        highlight=False,
    )
    for warning in warnings(settings):
        Console(stderr=True).print(f"[bold yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
    app = create_app(settings, services=services, engines=engines)
    # What is loaded stays for good: a full collection that walks all of torch's objects is a pause in somebody's call.
    gc.collect()
    gc.freeze()
    with engines.following(app.extensions["ordersight"].state.active_models):
        serve_app(app, settings)


def load_engines(services: Services, settings: Settings) -> ServedModels:
    """Load and warm the model of every service that has one. Raises CommandError for one that is not there.

    These are the shipped ones, until they follow what was activated.
    """
    accept_licences(settings.accepted_licences)
    engines: dict[str, Engine] = {}
    for name in services.models():
        folder = settings.models / name
        if not folder.is_dir():
            users = ", ".join(s.id for s in services.on if s.model == name)
            raise CommandError(
                f"{users}: no model {name!r} under {settings.models}; `cds-service train` makes one, "
                "or name another one in the manifest"
            )
        engines[name] = Engine.load(folder)
    return ServedModels(Registry(settings.models), engines)
