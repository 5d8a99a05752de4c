"""One of several web workers: the service without its models, which it reaches over a socket.

    python -P -m cds_service.web_worker NUMBER FOLDER LISTENING LIFELINE

LISTENING is the inherited descriptor of the socket all workers accept from; LIFELINE that of a pipe whose other end
the parent holds. No torch is imported here: a worker is a tenth of what the engine's process is.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cds_service.app import House, create_app
from cds_service.durable import open_state
from cds_service.engine_client import EngineLink, Link
from cds_service.engine_http import HttpLink
from cds_service.lifeline import end_with_parent, told
from cds_service.logs import configure_logging
from cds_service.manifest import load_services
from cds_service.server import Server
from cds_service.settings import Settings
from cds_service.shared_buckets import SharedBuckets
from cds_service.state.store import Store
from cds_service.workers import ENGINE

BUCKETS = "buckets"
PATIENCE_S = 60.0
"""What a worker waits for word of its models at most before it answers by rules alone, until they come."""


def share_of(settings: Settings) -> Settings:
    """What all workers together may ask of a server of others is divided among them."""
    return dataclasses.replace(
        settings,
        fhir_in_flight=math.ceil(settings.fhir_in_flight / settings.workers),
        dicomweb_in_flight=math.ceil(settings.dicomweb_in_flight / settings.workers),
    )


def open_link(settings: Settings, folder: Path, state: Store) -> Link:
    if settings.engine_url == "off":
        return EngineLink(folder / ENGINE)
    return HttpLink(settings.engine_url, state.active_models)


def await_models(link: Link, stopping: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """The first answers should not be worse than the later ones; calls wait in the backlog meanwhile."""
    until = time.monotonic() + seconds
    while not stopping() and time.monotonic() < until and not link.wait(0.5):
        pass


def main(number: int, folder: Path, listening: int, lifeline: int) -> None:
    settings = Settings.from_env()
    configure_logging()
    services = load_services(settings.manifests / "services", settings.profile)
    with Server(settings, socket.socket(fileno=listening), number) as server:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: server.stop())
        end_with_parent(lifeline, server.stop)
        state = open_state(settings)
        link = open_link(settings, folder, state) if services.models() else None
        if link is not None:
            await_models(link, lambda: server.stopping)
        if server.stopping:
            state.close()
            return
        app = create_app(share_of(settings), services=services, engines=link, state=state)
        house: House = app.extensions["ordersight"]
        house.admission.buckets = SharedBuckets(folder / BUCKETS, float(settings.client_points_per_s))
        gc.collect()
        gc.freeze()
        server.run(app)


if __name__ == "__main__":
    told(lambda: main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
