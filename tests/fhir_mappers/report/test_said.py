"""What a final report says of a finding, and when that is not what the model says."""

from __future__ import annotations

import dataclasses

import pytest
from film_readings import NEW, assessment, estimate, report

from fhir_mappers.report.said import disagreements, said_of
from fhir_mappers.report.statements import state_findings

LEVELS = {"finding.effusion": {"high": 0.8, "low": 0.1}, "finding.pneumothorax": {"high": 0.8, "low": 0.1}}


@pytest.mark.parametrize(
    ("words", "effusion"),
    [
        ("Large right pleural effusion.", True),
        ("No pleural effusion.", False),
        ("No pneumothorax, effusion or consolidation.", False),
        ("No pneumothorax. Small left effusion, unchanged.", True),
        ("No pneumothorax but a small left effusion.", True),
        ("Effusion has resolved.", False),
        ("Possible small effusion.", None),
        ("Effusion versus atelectasis.", None),
        ("Heart size normal.", None),
        ("No effusion on the right. Left effusion.", None),
        ("", None),
    ],
)
def test_a_report_affirms_denies_or_leaves_a_finding_open(words: str, effusion: bool | None) -> None:
    assert said_of(report("final", words)).get("effusion") is effusion


def test_a_coded_conclusion_affirms() -> None:
    coded = dataclasses.replace(report("final", ""), findings=(("http://snomed.info/sct", "36118008"),))
    assert dict(said_of(coded)) == {"pneumothorax": True}


@pytest.mark.parametrize(
    ("words", "p", "found"),
    [
        ("No effusion.", 0.90, ("effusion",)),
        ("No effusion.", 0.79, ()),
        ("Left effusion.", 0.05, ("effusion",)),
        ("Left effusion.", 0.11, ()),
        ("Left effusion.", 0.90, ()),
        ("Possible effusion.", 0.05, ()),
        ("Normal.", 0.95, ()),
    ],
)
def test_they_disagree_only_beyond_the_thresholds_and_only_where_the_report_speaks(
    words: str, p: float, found: tuple[str, ...]
) -> None:
    statements = state_findings(assessment(estimate("effusion", p, p - 0.02, p + 0.02)), NEW, None)
    assert disagreements(statements, report("final", words), LEVELS) == found
