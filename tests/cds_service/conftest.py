"""A plug-in with advice of its own, services that use it, an app over them; a client that reads, and an archive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# import-mode importlib does not put a test's folder on the path, and the helper modules lie beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from moody import Moody
from patient_p1 import archive

from cds_service.fhir_client import FhirClient
from cds_service.manifest import HOOKS, Services, load_services
from cds_service.settings import Settings
from cds_service.trust.clients import Clients

ENTRY_POINTS = "[cds_service.advice]\n" + "".join(
    f"{name} = advices:{name}\n"
    for name in ("probe", "other", "silent", "broken", "slow", "thoughts", "films", "finding")
)
MANIFEST = """
id: {id}
hooks: [{hooks}]
title: {id}
description: A service of the tests.
usage_requirements: None at all.
advice: {advice}
evidence:
  patient: {{read: "Patient/{{{{context.patientId}}}}"}}
  labs: {{search: "Observation?category=laboratory", required: {required}}}
rules: {{}}
budget_ms: {{order-sign: 3000, patient-view: 3000}}
settings: {{seconds: 0.4}}
"""


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path with an installed package that declares advice."""
    folder = tmp_path_factory.mktemp("plugin")
    info = folder / "test_advice-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: test-advice\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def services_folder(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`probe` answers all ten hooks, `twin` shares two of them, `needy` requires labs; the rest are as named."""
    folder = tmp_path_factory.mktemp("services")
    for id_, hooks, advice, required in (
        ("probe", HOOKS, "probe", False),
        ("twin", ("order-sign", "patient-view"), "other", False),
        ("needy", ("order-sign", "patient-view"), "probe", True),
        ("silent", ("patient-view",), "silent", False),
        ("broken", ("patient-view",), "broken", False),
        ("slow", ("patient-view",), "slow", False),
    ):
        text = MANIFEST.format(id=id_, hooks=", ".join(hooks), advice=advice, required=str(required).lower())
        (folder / f"{id_}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def services(services_folder: Path) -> Services:
    return load_services(services_folder)


@pytest.fixture
def make_app(services: Services, tmp_path: Path) -> Callable[..., Any]:
    """Make an app over the test services; keyword arguments are settings, `clients` and `clock`."""
    from cds_service.app import create_app  # here, so that other tests run while something below it is broken

    made = []

    def make(clients: Clients | None = None, clock: Any = None, **settings: Any) -> Any:
        whole = {"jwt": "off", "state_dir": tmp_path / "state", "outbox_mb": 1, **settings}
        app = create_app(Settings(**whole), services=services, clients=clients or Clients(), clock=clock)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["ordersight"].close()


@pytest.fixture
def fhir_client() -> Iterator[FhirClient]:
    client = FhirClient()
    yield client
    client.close()


@pytest.fixture
def pacs() -> Iterator[Moody]:
    """An archive that has whatever film it is asked for."""
    with Moody(archive) as server:
        yield server
