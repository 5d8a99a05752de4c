"""IS-04: an earlier reaction to iodinated contrast, graded; what it is not about stays silent."""

from __future__ import annotations

import pytest
from contrast import CT, NAME, card_of, chart, labels, text, written
from imaging_charts import allergy
from r4 import validate_r4
from safety_charts import CTPA, IOHEXOL, NORMAL_KIDNEY, WEAK, agent, reaction
from vignettes import Chart, Resource, condition, imaging_order, medication, observation

from cds_service.advice.writing import OWN_REASONS


def about(*resources: Resource, draft: Resource = CT) -> Chart:
    return chart(*NORMAL_KIDNEY, *resources, drafts=(draft,))


@pytest.mark.parametrize(
    ("severity", "words", "tier", "said"),
    [
        ("severe", "Anaphylaxis", "critical", "Prior anaphylaxis to iohexol (2023-05-02): choose non-contrast study"),
        ("moderate", "Bronchospasm", "warning", "Prior bronchospasm to iohexol (2023-05-02)"),
        (None, "Reaction", "warning", "Prior reaction to iohexol (2023-05-02)"),
        ("mild", "Hives", "info", "Prior hives to iohexol (2023-05-02): ask radiology for another agent."),
    ],
)
def test_the_worse_the_reaction_the_louder_the_card(severity: str | None, words: str, tier: str, said: str) -> None:
    card = card_of(about(reaction(severity, words)))
    assert card.indicator == tier
    assert card.summary.startswith(said)
    assert card.source.label == "ACR-AAAAI 2025"


def test_the_study_without_contrast_and_a_word_with_radiology_are_offered_and_none_recommended() -> None:
    card = card_of(about(reaction()))
    assert labels(card) == [
        "Change to CT chest without contrast",
        "Ask radiology for another study or another agent",
    ]
    changed, asked = written(card)
    assert (changed["id"], changed["code"]["coding"][0]["code"]) == ("d1", "29252-4")
    assert asked["code"]["text"] == "Radiology consult"
    assert not any(s.is_recommended for s in card.suggestions)
    for resource in (changed, asked):
        validate_r4(resource)
    own = [r.display for r in card.override_reasons if r.system == OWN_REASONS]
    assert own == ["Emergency, benefit clear", "Radiologist already agreed"]


def test_ct_pulmonary_angiography_becomes_a_lung_scan() -> None:
    assert labels(card_of(about(reaction(), draft=CTPA)))[0] == "Change to lung ventilation-perfusion scan"


def test_a_severe_reaction_is_said_in_an_emergency_and_a_moderate_one_is_not() -> None:
    stat = imaging_order("d1", "24628-0", "CT chest", priority="stat")
    shock = observation("v1", "8480-6", 82, "mm[Hg]", "2026-03-10T13:50:00Z")
    assert card_of(about(reaction(), draft=stat)).indicator == "critical"
    assert card_of(about(reaction(), shock)).indicator == "critical"
    assert about(reaction("moderate"), draft=stat).cards(NAME) == []
    assert about(reaction(None), shock).cards(NAME) == []


@pytest.mark.parametrize(
    "given",
    [
        about(),
        about(reaction(), draft=imaging_order("d1", "29252-4", "CT chest without contrast")),
        about(reaction(), draft=imaging_order("d1", "24589-4", "MRI brain with gadolinium")),
        about(reaction(verificationStatus={"coding": [{"code": "refuted"}]})),
        about(reaction(verificationStatus={"coding": [{"code": "entered-in-error"}]})),
        about(reaction(clinicalStatus={"coding": [{"code": "resolved"}]})),
        about(reaction("moderate", "Nausea", type="intolerance")),
        about(reaction(patient={"reference": "Patient/p2"})),
        about(reaction(recordedDate="2026-05-02")),  # from the future
        # SNOMED CT: shellfish, povidone iodine
        about(reaction(code={"coding": [{"system": "http://snomed.info/sct", "code": "227037002"}]})),
        about(reaction(code={"coding": [{"system": "http://snomed.info/sct", "code": "387149004"}]})),
        about(reaction(code={"coding": [{"system": "http://www.whocc.no/atc", "code": "V08CA09"}]})),
    ],
)
def test_a_reaction_to_something_else_or_not_believed_says_nothing(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_a_reaction_without_a_date_is_said_without_one() -> None:
    undated = reaction()
    del undated["recordedDate"]
    assert "(date not recorded)" in card_of(about(undated)).summary


def test_contrast_allergy_as_a_diagnosis_warns_and_says_that_its_severity_is_not_known() -> None:
    card = card_of(about(condition("c1", "Z91.041")))
    assert card.indicator == "warning"
    assert card.summary.startswith("Prior reaction to iodinated contrast (date not recorded)")
    assert "Not known: how severe the reaction was" in text(card)
    assert "| Problem list |" in text(card)


def test_of_two_reactions_the_worse_decides_whatever_their_order() -> None:
    mild = {**allergy("al2", {**IOHEXOL, "reactions": ["Hives"], "severity": "mild", "recorded": "2025-01-01"})}
    for pair in ((reaction(), mild), (mild, reaction())):
        card = card_of(about(*pair))
        assert card.indicator == "critical"
        assert "hives" in text(card).lower()


def test_a_contrast_agent_drafted_without_a_study_is_asked_about_too() -> None:
    alone = medication("m1", "5956", "iohexol 350 mg/mL 100 mL IV", "draft")
    card = card_of(about(reaction(), draft=alone))
    assert labels(card) == ["Ask radiology for another study or another agent"]
    assert chart(reaction(), drafts=(agent("V08CA09", "gadobutrol"),)).cards(NAME) == []


def test_a_weak_kidney_is_named_on_the_card_of_the_reaction() -> None:
    card = card_of(chart(*WEAK, reaction()))
    assert card.indicator == "critical"
    assert "Also: eGFR 26 (2026-03-10): plan fluid prophylaxis" in text(card)
    mild = card_of(chart(*WEAK, reaction("mild", "Hives")))
    assert mild.summary.startswith("eGFR 26")
