"""A manifest as an administrator writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cds_service.manifest import ManifestError, load_service, load_services, schema

TEXT = """
id: plain
hooks: [patient-view]
title: Plain
description: A service of the tests.
advice: probe
evidence: {}
rules:
  X-01:
    {tier: info, citation: Somebody 2020, url: "https://example.org", owner: nobody, review_by: 2027-01-01, on: SWITCH}
"""


def manifest(folder: Path, switch: str) -> Path:
    path = folder / "plain.yaml"
    path.write_text(TEXT.replace("SWITCH", switch))
    return path


@pytest.mark.parametrize(("switch", "on"), [("false", False), ("true", True)])
def test_a_rule_is_switched_by_the_word_on_as_it_is_documented(tmp_path: Path, switch: str, on: bool) -> None:
    # YAML 1.1 reads the key `on` as the value true.
    assert load_service(manifest(tmp_path, switch)).rules["X-01"].on is on


def test_a_switch_that_says_neither_true_nor_false_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"plain\.yaml: .*bool.*"):
        load_service(manifest(tmp_path, "off"))


def edited(folder: Path, old: str, new: str) -> Path:
    path = manifest(folder, "true")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("id: plain", "id: Plain Text", "lower-case letters, digits and dashes"),
        ("id: plain", "id: other", r"named after it, other\.yaml"),
        ("[patient-view]", "[patient-opened]", "the hooks are patient-view"),
        ("[patient-view]", "[patient-view]\nthinking_ms: 500", "leaves nothing of the budget of patient-view"),
        ("[patient-view]", "[patient-view]\nthresholds: {icu_care: {info: 60}}", "a probability from 0 to 1"),
        ("evidence: {}", "evidence: {labs: {}}", "exactly one of `read` and `search`"),
        ("evidence: {}", 'evidence: {labs: {search: "Observation?patient=7"}}', "without the patient"),
        ("evidence: {}", "evidnce: {}", "evidnce"),
        ("evidence: {}", "evidence: {", "not valid YAML"),
    ],
)
@pytest.mark.in_time
def test_a_fault_names_the_file_and_what_would_be_right(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ManifestError, match=said) as fault:
        load_service(edited(tmp_path, old, new))
    assert "plain.yaml" in str(fault.value)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no service"):
        load_services(tmp_path)


def test_a_demonstration_may_replace_the_model_of_services_that_have_one(tmp_path: Path) -> None:
    edited(tmp_path, "advice: probe", "advice: probe\nmodel: chest-open")
    assert load_services(tmp_path, model="chest-generated").models() == ("chest-generated",)


def test_the_schema_for_editors_is_the_one_manifests_are_read_by() -> None:
    committed = Path(__file__).resolve().parents[2] / "manifests" / "service.schema.json"
    assert json.loads(committed.read_text(encoding="utf-8")) == json.loads(json.dumps(schema()))
