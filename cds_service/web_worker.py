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
from pathlib import Path

from cds_service.app import House, create_app
from cds_service.engine_client import EngineLink, Link
from cds_service.engine_http import HttpLink
from cds_service.lifeline import end_with_parent, told
from cds_service.logs import configure_logging
from cds_service.manifest import load_services
from cds_service.server import Server
from cds_service.settings import Settings
from cds_service.shared_buckets import SharedBuckets
from cds_service.workers import ENGINE

BUCKETS = "buckets"


def share_of(settings: Settings) -> Settings:
    """What all workers together may ask of a server of others is divided among them."""
    return dataclasses.replace(
        settings,
        fhir_in_flight=math.ceil(settings.fhir_in_flight / settings.workers),
        dicomweb_in_flight=math.ceil(settings.dicomweb_in_flight / settings.workers),
    )


def open_link(settings: Settings, folder: Path) -> Link:
    return EngineLink(folder / ENGINE) if settings.engine_url == "off" else HttpLink(settings.engine_url)


def main(number: int, folder: Path, listening: int, lifeline: int) -> None:
    settings = Settings.from_env()
    configure_logging()
    services = load_services(settings.manifests / "services", settings.profile)
    with Server(settings, socket.socket(fileno=listening), number) as server:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: server.stop())
        end_with_parent(lifeline, server.stop)
        link = open_link(settings, folder) if services.models() else None
        # The first answers should not be worse than the later ones; calls wait in the backlog meanwhile.
        while link is not None and not server.stopping and not link.wait(0.5):
            pass
        if server.stopping:
            return
        app = create_app(share_of(settings), services=services, engines=link)
        house: House = app.extensions["ordersight"]
        if isinstance(link, HttpLink):
            link.active = house.state.active_models
        house.admission.buckets = SharedBuckets(folder / BUCKETS, float(settings.client_points_per_s))
        gc.collect()
        gc.freeze()
        server.run(app)


if __name__ == "__main__":
    told(lambda: main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
