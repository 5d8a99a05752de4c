"""`cds-service report`: a film in a file, read with the shipped model."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest
from fhir.resources.R4B.bundle import Bundle
from film_ward import as_file
from vignettes import film

from cds_service.cli.errors import CommandError
from cds_service.cli.report import report


def real(shared: Path, mode: str) -> Path:
    folder = shared / "data/dicom/hannover_derived"
    with (folder / "manifest.csv").open() as file:
        return folder / next(row["file"] for row in csv.DictReader(file) if row["mode"] == mode)


def test_a_real_film_gives_sections_resources_and_a_structured_report_without_error(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(real(shared, "j2k_lossless"), out=tmp_path / "out")
    said = capsys.readouterr().out
    assert [line.partition(":")[0] for line in said.split("\n\n")] == [
        *("Technique", "Comparison", "Findings", "Impression", "Limits"),
    ]
    assert "not for diagnosis" in said
    assert "No earlier frontal film was available." in said
    bundle = Bundle.model_validate(json.loads((tmp_path / "out" / "report.json").read_text()))
    assert {entry.resource.get_resource_type() for entry in bundle.entry} >= {"DiagnosticReport", "Observation"}
    checked = subprocess.run(
        ["dciodvfy", tmp_path / "out" / "sr.dcm"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "ComprehensiveSR" in checked.stderr + checked.stdout
    assert not [line for line in (checked.stderr + checked.stdout).splitlines() if line.startswith("Error")]


def test_noise_in_the_shape_of_a_film_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "noise.dcm"
    as_file(film(1, "2026-03-10T13:38:00Z")[1]).save_as(path, enforce_file_format=True)
    report(path)
    assert "Findings: None stated:" in capsys.readouterr().out


def test_what_is_no_film_and_what_is_no_earlier_one_are_told_in_plain_words(tmp_path: Path) -> None:
    text = tmp_path / "letter.dcm"
    text.write_bytes(b"Dear colleague")
    with pytest.raises(CommandError, match="not a DICOM file"):
        report(text)
    with pytest.raises(CommandError, match="No such file"):
        report(tmp_path / "none.dcm")
    first, second = tmp_path / "1.dcm", tmp_path / "2.dcm"
    for path, number in ((first, 1), (second, 2)):
        as_file(film(number, "2026-03-10T13:38:00Z")[1]).save_as(path, enforce_file_format=True)
    with pytest.raises(CommandError, match="not an earlier film"):
        report(first, prior=second)
