"""IS-06: radiation to the abdomen and gadolinium in a pregnancy known or not asked about."""

from __future__ import annotations

import pytest
from contrast import NAME, card_of, chart, labels, text, written
from r4 import validate_r4
from safety_charts import CT_ABDOMEN, MR_GADOLINIUM, NORMAL_KIDNEY, PREGNANT, WOMAN, device, hcg
from vignettes import Chart, Resource, condition, encounter, imaging_order, observation, patient

from cds_service.evidence import Shortfall

PLAIN_ABDOMEN = imaging_order("d1", "36424-0", "CT abdomen without contrast")


def woman(*resources: Resource, draft: Resource = CT_ABDOMEN, who: Resource = WOMAN, **more: object) -> Chart:
    return chart(*NORMAL_KIDNEY, *resources, drafts=(draft,), who=who, **more)


def test_ct_of_the_abdomen_in_pregnancy_warns_and_offers_a_study_without_radiation() -> None:
    card = card_of(woman(PREGNANT))
    assert card.indicator == "warning"
    assert card.summary == "Pregnant 20 weeks: ultrasound or MRI can answer most abdominal questions."
    assert labels(card) == ["Change to MRI abdomen without contrast", "Ask radiology for ultrasound or MRI instead"]
    assert "not withheld when they are needed" in text(card)
    changed, asked = written(card)
    assert (changed["id"], changed["code"]["coding"][0]["code"]) == ("d1", "30668-8")
    for resource in (changed, asked):
        validate_r4(resource)


def test_gadolinium_in_pregnancy_is_changed_to_the_study_without_it() -> None:
    card = card_of(woman(PREGNANT, draft=MR_GADOLINIUM))
    assert card.indicator == "warning"
    assert labels(card)[0] == "Change to MRI brain without contrast"


def test_mri_is_not_offered_to_a_patient_with_a_pacemaker() -> None:
    card = card_of(woman(PREGNANT, device("C106047")))
    assert labels(card) == ["Ask radiology for ultrasound or MRI instead"]


@pytest.mark.parametrize(
    "given",
    [
        woman(PREGNANT, draft=imaging_order("d1", "24628-0", "CT chest with IV contrast")),
        woman(PREGNANT, draft=imaging_order("d1", "36643-5", "XR chest")),
        woman(PREGNANT, draft=imaging_order("d1", "30799-1", "CT head")),
        woman(PREGNANT, draft=imaging_order("d1", "30657-1", "MRI brain")),
        woman(PREGNANT, draft={**CT_ABDOMEN, "priority": "stat"}),
        woman(condition("pr", "O80"), hcg("negative")),  # delivered
        woman(hcg("negative")),
        woman(condition("c1", "Z90.710")),  # no uterus
    ],
)
def test_chest_head_and_limbs_emergencies_and_no_pregnancy_say_nothing(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_an_elective_ct_of_the_abdomen_of_a_woman_of_33_asks_for_a_test_when_nobody_has() -> None:
    card = card_of(woman())
    assert card.indicator == "info"
    assert card.summary == "Pregnancy status not known before CT of the abdomen or pelvis: order a pregnancy test."
    (test,) = written(card)
    assert test["code"]["coding"][0]["code"] == "2106-3"
    validate_r4(test)


@pytest.mark.parametrize(
    "given",
    [
        woman(who=patient("male", "1992-04-01")),
        woman(who=patient("other", "1992-04-01")),
        woman(who=patient("female", "1969-04-01")),  # 56 years
        woman(who=patient("female", "2015-04-01")),  # 10 years
        woman(who=patient("female", None)),
        woman(draft={**CT_ABDOMEN, "priority": "urgent"}),
        woman(hcg("positive", "2026-03-01T08:00:00Z"), draft=imaging_order("d1", "24628-0", "CT chest")),
        woman(observation("h2", "2110-5", "indeterminate", None, "2026-03-09T08:00:00Z")),
        woman(imaging_order("r1", "2106-3", "hCG", status="active")),
        woman(shortfalls=(Shortfall("preg", "timeout"),)),
    ],
)
def test_nobody_is_asked_twice_nor_who_cannot_be_pregnant_nor_when_the_answer_could_not_be_fetched(
    given: Chart,
) -> None:
    assert given.cards(NAME) == []


def test_a_partial_birth_date_that_may_be_56_years_asks_nothing() -> None:
    assert woman(who=patient("female", "1970")).cards(NAME) == []
    assert len(woman(who=patient("female", "1980")).cards(NAME)) == 1


def test_a_plain_ct_in_pregnancy_warns_as_one_with_contrast_does() -> None:
    assert card_of(woman(PREGNANT, draft=PLAIN_ABDOMEN)).indicator == "warning"
    assert card_of(woman(PREGNANT, draft=PLAIN_ABDOMEN, visit=encounter("AMB"))).indicator == "warning"
