"""`cds-service serve`: the service, until it is told to stop."""

from __future__ import annotations

import dataclasses
import gc
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cds_service.cli.errors import CommandError
from cds_service.logs import configure_logging
from cds_service.manifest import Services, load_services
from cds_service.readiness import warnings
from cds_service.settings import Settings

if TYPE_CHECKING:
    from models.rollout import ServedModels


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
    for warning in warnings(settings):
        Console(stderr=True).print(f"[bold yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
    if settings.workers > 1 or settings.engine_url != "off":
        serve_with_workers(settings, services)
    else:
        serve_alone(settings, services)


def serve_alone(settings: Settings, services: Services) -> None:
    """Hooks and models in this process."""
    from cds_service.app import create_app
    from cds_service.server import serve as serve_app

    engines = load_engines(services, settings)
    announce(settings, services, ", ".join(e.name for e in engines.values()))
    app = create_app(settings, services=services, engines=engines)
    # What is loaded stays for good: a full collection that walks all of torch's objects is a pause in somebody's call.
    gc.collect()
    gc.freeze()
    with engines.following(app.extensions["ordersight"].state.active_models):
        serve_app(app, settings)


def serve_with_workers(settings: Settings, services: Services) -> None:
    """Hooks in several processes, models in one of their own. Nothing of either is imported in this one."""
    from cds_service.binding import bind
    from cds_service.workers import supervise

    here = settings.engine_url == "off"
    if here:
        require_models(services, settings)
    listening = bind(settings)
    settings = settings.on_port(listening.getsockname()[1])
    announce(settings, services, f"{', '.join(services.models()) or 'none'}, {settings.workers} web workers")
    status = supervise(settings, listening, models=here and bool(services.models()))
    if status:
        raise typer.Exit(status)


def announce(settings: Settings, services: Services, how: str) -> None:
    Console(stderr=True).print(
        f"{len(services.on)} services, profile {settings.profile}, models: {how or 'none'}", highlight=False
    )


def require_models(services: Services, settings: Settings) -> None:
    """Raises CommandError for a service whose model is not there."""
    for name in services.models():
        if not (settings.models / name).is_dir():
            users = ", ".join(s.id for s in services.on if s.model == name)
            raise CommandError(
                f"{users}: no model {name!r} under {settings.models}; `cds-service train` makes one, "
                "or name another one in the manifest"
            )


def load_engines(services: Services, settings: Settings) -> ServedModels:
    """Load and warm the model of every service that has one. Raises CommandError for one that is not there.

    These are the shipped ones, until they follow what was activated.
    """
    require_models(services, settings)
    # torch takes two seconds to import and 200 MB to hold, and a process that only keeps others needs none of it.
    from models.backbones.manifest import accept_licences
    from models.registry import Registry
    from models.rollout import ServedModels
    from models.serving import Engine

    accept_licences(settings.accepted_licences)
    engines = {name: Engine.load(settings.models / name) for name in services.models()}
    return ServedModels(Registry(settings.models), engines)
