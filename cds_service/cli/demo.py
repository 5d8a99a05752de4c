"""`cds-service demo`: the service and an EHR to try it with, on this machine, with generated patients."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cds_service.app import create_app
from cds_service.cli.serve import load_engines
from cds_service.demo.ehr import demo_blueprint
from cds_service.demo.fire import fire_demo
from cds_service.logs import configure_logging
from cds_service.manifest import load_services
from cds_service.server import listen
from cds_service.settings import Settings
from cds_service.trust.clients import Client, Clients, FhirServer

MODEL = "chest-generated"
"""Trained on patients of the same generator: what it says of the demo's patients means nothing beyond the demo."""


def demo(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    once: Annotated[bool, typer.Option("--once", help="Print the cards and exit.")] = False,
) -> None:
    """Start the service with its demo EHR, fire real hooks over HTTP, print the cards, and keep serving.

    Callers are not checked and the profile is research_imaging: this listens on the loopback address only.
    """
    console = Console()
    configure_logging(level="WARNING")
    with tempfile.TemporaryDirectory(prefix="ordersight-demo-") as state:
        console.print("Generating patients and loading the model ...", style="dim")
        settings = Settings(
            host="127.0.0.1",
            port=port,
            profile="research_imaging",
            jwt="off",
            economy="off",
            state_dir=Path(state),
            outbox_mb=1,
        )
        services = load_services(settings.manifests / "services", settings.profile, model=MODEL)
        with listen(settings) as server:
            base = server.url
            clients = Clients([Client("demo-ehr", (FhirServer(f"{base}/demo/fhir", (f"{base}/demo/dicomweb",)),))])
            app = create_app(
                server.settings, services=services, engines=load_engines(services, settings), clients=clients
            )
            app.register_blueprint(demo_blueprint())
            thread = threading.Thread(target=server.run, args=(app,), daemon=True)
            thread.start()
            fire_demo(base, console)
            console.print(
                "Here every card is shown every time (ORDERSIGHT_ECONOMY=off). By default a card is shown once: "
                "the same finding stays silent for its window, and once answered.",
                style="dim",
            )
            if once:
                return
            console.print(
                f"\nThe demo EHR: [bold link={base}/demo/]{base}/demo/[/]    "
                f"discovery: {base}/cds-services    stop with Ctrl+C\n"
            )
            try:
                thread.join()
            except KeyboardInterrupt:
                console.print("stopped", style="dim")
