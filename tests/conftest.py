"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
from canaries import (  # noqa: F401 - hooks
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_unconfigure,
)
from real_servers import fhir_server, orthanc  # noqa: F401 - fixtures

from cds_service import ledger
from cds_service.manifest import Service

ROOT = Path(__file__).resolve().parent.parent

# On a busy machine the threads of a small product wait for each other; in child processes, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine makes inputs slowly, which says nothing about the code under test.
hypothesis.settings.register_profile(
    "any-machine", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None
)
hypothesis.settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is late in time once was held up by the machine, perhaps; three times in a row it was not."""
    for item in items:
        if item.get_closest_marker("in_time") is not None:
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


@pytest.fixture(autouse=True)
def unhurried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the time for whatever is answered in this process, unless the test is `in_time`.

    What a card says must not hang on how busy the machine is that runs the tests.
    """
    if request.node.get_closest_marker("in_time") is None:
        shipped = Service.budget_s
        monkeypatch.setattr(Service, "budget_s", lambda service, hook: 10 * shipped(service, hook))
        monkeypatch.setattr(ledger, "HISTORY_S", 10 * ledger.HISTORY_S)
        monkeypatch.setattr(ledger, "KEEP_S", 10 * ledger.KEEP_S)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of open data and reference tables beside the project; without it a test skips, and says so."""
    folder = Path(os.environ.get("ORDERSIGHT_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no open data at {folder}: set ORDERSIGHT_SHARED to the folder that holds data/ and clinical/")
    return folder
