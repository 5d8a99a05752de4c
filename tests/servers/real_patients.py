"""The Hannover patients in a FHIR server and an archive, and what those hold of each, read without our own readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from ehr import patient_view

from cds_service.cli.importing import import_bundles

IDENTIFIERS = "urn:oid:2.25.20200612275009"


@dataclass(frozen=True)
class Patient:
    """What the FHIR server holds of one patient, read from it without the code under test."""

    id: str
    encounter: str
    studies: tuple[dict[str, Any], ...]
    observations: tuple[dict[str, Any], ...]

    def view(self) -> dict[str, Any]:
        return {**patient_view(self.id), "encounterId": self.encounter}

    def film_times(self) -> set[str]:
        return {minute(study["started"]) for study in self.studies}

    def results_beside_the_newest_film(self) -> int:
        day = self.studies[-1]["started"][:10]
        return sum(o["effectiveDateTime"][:10] == day for o in self.observations)

    def results(self) -> set[tuple[str, str]]:
        """(value and unit, when) of every result with a plain number, as a card prints them."""
        return {
            (f"{o['valueQuantity']['value']:g} {readable(o['valueQuantity']['unit'])}", minute(o["effectiveDateTime"]))
            for o in self.observations
            if "value" in o.get("valueQuantity", {})
        }


def readable(unit: str) -> str:
    """The two UCUM spellings in these data that a card writes as clinicians do."""
    return unit.replace("10*3", "10^3").replace("mm[Hg]", "mmHg")


def minute(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")


def everything(fhir: str, search: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    url = f"{fhir}/{search}"
    while url:
        page = requests.get(url, timeout=30).json()
        found += [entry["resource"] for entry in page.get("entry", [])]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), "")
    return found


def put(fhir: str, *resources: Mapping[str, Any]) -> None:
    for resource in resources:
        url = f"{fhir}/{resource['resourceType']}/{resource['id']}"
        requests.put(url, json=resource, timeout=60).raise_for_status()


def load_hannover(data: Path, fhir: str, dicomweb: str, moment: datetime) -> list[Patient]:
    """Import all of them, moved so that each one's newest item lies in the day before `moment`."""
    done = import_bundles(
        [data / "fhir_hannover/bundles"],
        fhir,
        dicomweb,
        images_folder=data / "cxr_hannover_paired",
        dicom_folder=data / "dicom/hannover_derived",
        shift_to=moment,
    )
    assert done.faults == ()
    found = []
    for person in everything(fhir, "Patient?_count=1000"):
        if IDENTIFIERS not in [i.get("system") for i in person.get("identifier", ())]:
            continue
        search = f"?patient={person['id']}&_count=1000"
        (encounter,) = everything(fhir, f"Encounter{search}")
        studies = sorted(everything(fhir, f"ImagingStudy{search}"), key=lambda s: s["started"])
        observations = everything(fhir, f"Observation{search}")
        found.append(Patient(person["id"], encounter["id"], tuple(studies), tuple(observations)))
    return found
