"""All Hannover patients in servers of their own, once for the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_servers import FhirServer, Orthanc, running_fhir_server, running_orthanc

sys.path.insert(0, str(Path(__file__).parent))

from hannover import import_all

from cds_service.cli.importing import Imported


@pytest.fixture(scope="session")
def imported(shared: Path) -> Iterator[tuple[Imported, FhirServer, Orthanc]]:
    """All Hannover patients moved to NOW: what the import said, the FHIR server, the archive."""
    with running_fhir_server() as fhir, running_orthanc() as archive:
        yield import_all(shared, fhir, archive), fhir, archive
