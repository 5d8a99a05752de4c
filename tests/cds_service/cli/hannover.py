"""The files of the Hannover patients, for the tests beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from real_servers import FhirServer, Orthanc

from cds_service.cli.films import Picture, match_pictures, wanted_instances
from cds_service.cli.importing import Imported, import_bundles, read_bundle

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


def hannover(shared: Path) -> list[Path]:
    return sorted((shared / "data/fhir_hannover/bundles").iterdir())


def films_of(resources: list[dict[str, Any]]) -> list[Any]:
    return [w for r in resources if r["resourceType"] == "ImagingStudy" for w in wanted_instances(r)]


def matched(path: Path, pictures: dict[str, list[Picture]]) -> dict[str, Picture]:
    return match_pictures(films_of(read_bundle(path)), pictures[path.name.split(".")[0]])


def import_all(shared: Path, fhir: FhirServer, archive: Orthanc) -> Imported:
    data = shared / "data"
    return import_bundles(
        [data / "fhir_hannover/bundles"],
        fhir.base,
        archive.dicomweb,
        images_folder=data / "cxr_hannover_paired",
        dicom_folder=data / "dicom/hannover_derived",
        shift_to=NOW,
    )
