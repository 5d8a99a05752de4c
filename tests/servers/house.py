"""The whole house behind a real socket, for tests: settings, clients file, manifests, engines, server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ehr import ISSUER, KEY, Ehr
from joserfc.jwk import KeySet

from cds_service.app import create_app
from cds_service.manifest import load_services
from cds_service.server import Server
from cds_service.settings import Settings
from models.contract import Assessor


def write_clients(folder: Path, audience: str, fhir_base: str, dicomweb: list[str]) -> Path:
    """A clients file that registers this EHR, its key, its FHIR server and the archives beside it."""
    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps(KeySet([KEY]).as_dict(private=False)))
    client = {
        "name": "test-ehr",
        "tenant": "test-ehr",
        "issuer": ISSUER,
        "jwks_file": str(jwks),
        "audience": audience,
        "fhir": [{"base": fhir_base, "dicomweb": dicomweb}],
    }
    path = folder / "clients.yaml"
    path.write_text(yaml.safe_dump([client]))
    return path


@contextmanager
def running_house(
    folder: Path,
    fhir_base: str,
    dicomweb: list[str],
    engines: Mapping[str, Assessor],
    clock: datetime,
    model: str | None = None,
    **settings: Any,
) -> Iterator[Ehr]:
    """Serve the manifests of this repository on loopback, callers checked; yields an EHR that is registered there.

    The house and its EHR both live at the moment `clock`, and every card is shown every time unless the settings say
    otherwise, so that two calls differ in nothing but their uuids. Films are not fetched ahead unless they say so.
    `model` takes the place of those the manifests name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = Settings(
        port=0,
        clients=folder / "clients.yaml",
        state_dir=folder / "state",
        threads=8,
        outbox_mb=1,
        drain_s=1,
        **{"profile": "research_imaging", "economy": "off", "films_workers": 0, **settings},
    )
    with Server(asked) as server:
        chosen = server.settings
        write_clients(folder, server.url, fhir_base, dicomweb)
        services = load_services(chosen.manifests / "services", chosen.profile, model=model)
        app = create_app(chosen, services=services, engines=engines, clock=lambda: clock)
        thread = threading.Thread(target=server.run, args=(app,), name="cds-service", daemon=True)
        thread.start()
        yield Ehr(server.url, fhir_base, clock=clock.timestamp)
