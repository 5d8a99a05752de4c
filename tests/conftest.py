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

ROOT = Path(__file__).resolve().parent.parent

# A busy machine makes inputs slowly, which says nothing about the code under test.
hypothesis.settings.register_profile(
    "any-machine", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None
)
hypothesis.settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of open data and reference tables beside the project; without it a test skips, and says so."""
    folder = Path(os.environ.get("ORDERSIGHT_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no open data at {folder}: set ORDERSIGHT_SHARED to the folder that holds data/ and clinical/")
    return folder
