"""A bulk FHIR export becomes the same tensors that serving would make of the same patients."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from fhir_mappers.bulk import index_studies, moments, open_export, site_source
from fhir_mappers.cohort.dicom import dicom_bytes
from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.patients import AS_OF, generate
from fhir_mappers.cohort.resources import write_chart
from fhir_mappers.read import read_record
from fhir_mappers.sources import SourceError

PATIENTS = 12


def write_export(folder: Path, patients: list[GeneratedPatient], films: Path | None = None) -> None:
    """As a bulk data server does: one file per type, patients in no order."""
    by_type: dict[str, list[str]] = {}
    for patient in reversed(patients):
        for resource in write_chart(patient):
            by_type.setdefault(resource["resourceType"], []).append(json.dumps(resource))
        for index in range(len(patient.films) if films else 0):
            assert films is not None
            (films / f"{patient.id}-{index}.dcm").write_bytes(dicom_bytes(patient, index))
    for kind, lines in by_type.items():
        (folder / f"{kind}.ndjson").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[GeneratedPatient]]:
    folder, films = tmp_path_factory.mktemp("export"), tmp_path_factory.mktemp("films")
    patients = list(generate(PATIENTS, 7, film_px=64))
    write_export(folder, patients, films)
    return folder, films, patients


def test_every_patient_is_read_from_the_lines_of_all_files(site: tuple[Path, Path, list[GeneratedPatient]]) -> None:
    folder, films, patients = site
    cases = list(site_source(open_export(folder), index_studies(films), until=AS_OF).read(folder))
    newest = {c.patient: c for c in reversed(cases)}
    assert set(newest) == {p.id for p in patients if p.labs or p.conditions or p.drugs or p.films}
    for patient in patients:
        if patient.id in newest:
            expected = read_record(write_chart(patient), as_of=newest[patient.id].record.as_of, patient_id=patient.id)
            record = newest[patient.id].record
            assert [(x.analyte, x.value, x.at) for x in record.labs] == [
                (x.analyte, x.value, x.at) for x in expected.labs
            ]
            assert {e.codes for e in record.events} == {e.codes for e in expected.events}


def test_films_are_found_by_their_study_and_none_is_newer_than_the_record(
    site: tuple[Path, Path, list[GeneratedPatient]],
) -> None:
    folder, films, patients = site
    cases = list(site_source(open_export(folder), index_studies(films), until=AS_OF).read(folder))
    with_films = [c for c in cases if c.record.images]
    assert with_films
    assert all(image.at <= case.record.as_of for case in with_films for image in case.record.images)
    one = with_films[0]
    patient = next(p for p in patients if p.id == one.patient)
    drawn = {patient.uid("instance", i): fact.film.pixels for i, fact in enumerate(patient.films)}
    image = one.record.images[0]
    assert float(np.abs(image.pixels - drawn[image.sop_uid]).max()) < 2 / 4095  # 12 bits, rounded


def test_a_line_that_cannot_be_read_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    patients = list(generate(2, 7, film_px=64))
    write_export(tmp_path, patients)
    with (tmp_path / "Observation.ndjson").open("a") as file:
        file.write('{"resourceType": "Observation", "id": "cut o\n')
        file.write('{"resourceType": "Observation", "id": "of-nobody"}\n')
    export = open_export(tmp_path)
    assert export.faults == {"Observation.ndjson": 2}
    assert set(export.lines) == {p.id for p in patients}


def test_a_folder_without_patients_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "Patient.ndjson.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(SourceError, match=r"no Patient in its \*\.ndjson files \(unpack"):
        open_export(tmp_path)


def test_a_long_history_gives_several_records_and_none_sees_results_of_another(
    site: tuple[Path, Path, list[GeneratedPatient]],
) -> None:
    patient = next(p for p in site[2] if p.labs)
    chart = list(write_chart(patient))
    older = []
    for resource in chart:
        if resource["resourceType"] == "Observation" and "effectiveDateTime" in resource:
            copy = {**resource, "id": f"{resource['id']}-old"}
            copy["effectiveDateTime"] = "2025-06-01T08:00:00+00:00"
            copy.pop("issued", None)
            older.append(copy)
    record = read_record([*chart, *older], as_of=AS_OF, patient_id=patient.id)
    found = moments(record)
    assert len(found) == 2
    assert found[0] - found[1] > timedelta(days=30)
    assert found[0] == max(x for x in [record.labs[0].at, *(s.started for s in record.studies if s.started)])
