"""`cds-service watch`: fetch and encode films apart from the service, and ask for new studies where nobody tells us."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from threading import Event
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from cds_service.cli.errors import CommandError
from cds_service.cli.serve import load_engines
from cds_service.decoding import Decoders
from cds_service.durable import open_state
from cds_service.fhir_client import FhirClient
from cds_service.films.ahead import open_ahead
from cds_service.films.polling import Poller
from cds_service.logs import configure_logging
from cds_service.manifest import load_services
from cds_service.settings import Settings
from cds_service.state.errors import StateError
from cds_service.trust.authorization_servers import Directory
from cds_service.trust.clients import WatchedClients
from cds_service.trust.keys import check_sources
from cds_service.trust.smart_backend import BackendTokens


def watch(
    every: Annotated[int, typer.Option(min=5, help="Seconds between two questions for new studies.")] = 60,
    once: Annotated[bool, typer.Option("--once", help="Ask once, work the queue off, and end.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="First give films that were given up a new try.")] = False,
) -> None:
    """Keep films encoded ahead of any order, with the settings of the service: see docs/operations.md."""
    settings = Settings.from_env()
    if settings.profile != "research_imaging":
        raise CommandError("image analysis is switched off here: ORDERSIGHT_PROFILE is not research_imaging")
    configure_logging()
    engines = load_engines(load_services(settings.manifests / "services", settings.profile), settings)
    clients = WatchedClients(settings.clients, check_sources)
    fetcher = FhirClient(
        fhir_in_flight=settings.fhir_in_flight,
        dicomweb_in_flight=settings.dicomweb_in_flight,
        ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
    )
    stopped, decoders, console = Event(), Decoders(), Console(stderr=True)

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with open_state(settings) as state, engines.following(state.active_models):
        tokens = BackendTokens(Directory(fetcher.transport))
        ahead = open_ahead(settings, state, clients, fetcher, decoders, engines, _now, tokens, workers=0)
        poller = Poller(ahead, state.films, clients, fetcher, tokens, _now)
        try:
            if retry:
                console.print(f"{state.films.revive(_now())} given-up jobs get a new try", highlight=False)
            if once:
                found = poller.poll_all()
                while ahead.work_once() and not stopped.is_set():
                    pass
                depth = state.films.depth()
                console.print(
                    f"{found} studies new, {depth.films} films kept, {depth.waiting} jobs wait, {depth.dead} given up",
                    highlight=False,
                )
                return
            ahead.start(max(1, settings.films_workers))
            while not stopped.is_set():
                try:
                    poller.poll_all()
                except StateError as error:
                    console.print(f"the state is not reachable: {error}", highlight=False)
                stopped.wait(every)
        finally:
            ahead.close()
            fetcher.close()
            decoders.close()


def _now() -> datetime:
    return datetime.now(UTC)
