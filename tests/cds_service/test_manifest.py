"""A manifest as an administrator writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cds_service.manifest import ManifestError, load_service

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
