"""IS-07: which gadolinium agent meets which kidney."""

from __future__ import annotations

import msgspec
import pytest
from contrast import NAME, card_of, chart, creatinine, labels, text, written
from r4 import validate_r4
from safety_charts import MR_GADOLINIUM, NORMAL_KIDNEY, WEAK, WOMAN, agent
from vignettes import Chart, condition, imaging_order, observation, service

GROUP_1, GROUP_2, GROUP_3 = (
    agent("V08CA03", "gadodiamide"),
    agent("V08CA09", "gadobutrol"),
    agent("V08CA10", "gadoxetate"),
)
DIALYSIS = condition("c1", "N18.6")
INJURED = (creatinine("o1", 2.0, "2026-03-10T06:10:00Z"), creatinine("o2", 0.9, "2026-03-08T10:00:00Z"))


@pytest.mark.parametrize(
    ("kidney", "words"),
    [
        (WEAK, "eGFR 26 (2026-03-10)"),
        (INJURED, "acute kidney injury"),
        ((DIALYSIS,), "on dialysis"),
    ],
)
def test_a_group_1_agent_is_critical_where_the_kidneys_do_not_clear_it(kidney: tuple[object, ...], words: str) -> None:
    card = card_of(chart(*kidney, drafts=(MR_GADOLINIUM, GROUP_1)))  # type: ignore[arg-type]
    assert card.indicator == "critical"
    assert card.summary == f"Gadodiamide is a group I agent; {words}: switch to a group II agent."
    assert "| Agent | gadodiamide, group I |" in text(card)


@pytest.mark.parametrize("drafts", [(MR_GADOLINIUM,), (MR_GADOLINIUM, GROUP_3)])
def test_a_group_3_agent_or_none_named_informs(drafts: tuple[dict[str, object], ...]) -> None:
    card = card_of(chart(*WEAK, drafts=drafts))
    assert card.indicator == "info"
    assert card.summary.endswith("use a group II agent.")
    assert ("Not known: which agent is given" in text(card)) == (len(drafts) == 1)


@pytest.mark.parametrize(
    "given",
    [
        chart(*WEAK, drafts=(MR_GADOLINIUM, GROUP_2)),
        chart(DIALYSIS, drafts=(MR_GADOLINIUM, GROUP_2)),
        chart(*NORMAL_KIDNEY, drafts=(MR_GADOLINIUM, GROUP_1)),
        chart(drafts=(MR_GADOLINIUM, GROUP_1)),  # no kidney value: nothing is known
        chart(*WEAK, drafts=(imaging_order("d1", "24590-2", "MRI brain"),)),  # contrast not stated
        chart(*WEAK, drafts=({**MR_GADOLINIUM, "priority": "stat"}, GROUP_1)),
    ],
)
def test_a_group_2_agent_sound_kidneys_or_no_gadolinium_say_nothing(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_an_egfr_of_30_is_silent_and_a_preliminary_value_never_more_than_info() -> None:
    # CKD-EPI 2021, man of 67: 2.3 mg/dL is 30.4, 2.4 is 28.9.
    two = [(MR_GADOLINIUM, GROUP_1)] * 2
    assert chart(creatinine("o1", 2.3, "2026-03-10T06:10:00Z"), drafts=two[0]).cards(NAME) == []
    early = creatinine("o1", 2.4, "2026-03-10T06:10:00Z", status="preliminary")
    assert card_of(chart(early, drafts=two[1])).indicator == "info"


def test_the_agent_may_be_named_in_the_order_detail() -> None:
    coded = {"coding": [{"system": "http://www.whocc.no/atc", "code": "V08CA03"}]}
    card = card_of(chart(*WEAK, drafts=({**MR_GADOLINIUM, "orderDetail": [coded]},)))
    assert card.indicator == "critical"


def test_the_agent_is_removed_radiology_is_asked_and_the_plain_study_offered() -> None:
    card = card_of(chart(*WEAK, drafts=(MR_GADOLINIUM, GROUP_1)))
    assert labels(card) == [
        "Remove gadodiamide and ask radiology for a group II agent",
        "Change to MRI brain without contrast",
    ]
    first = msgspec.to_builtins(card.suggestions[0])["actions"]
    assert [(a["type"], a.get("resourceId")) for a in first] == [("delete", "MedicationRequest/g1"), ("create", None)]
    changed = msgspec.to_builtins(card.suggestions[1].actions[0])["resource"]
    assert (changed["id"], changed["code"]["coding"][0]["code"]) == ("d1", "30657-1")
    for resource in (first[1]["resource"], changed):
        validate_r4(resource)
    assert written(card_of(chart(*WEAK, drafts=(MR_GADOLINIUM,))))


def test_a_site_may_count_a_further_agent_as_group_2() -> None:
    manifest = service(NAME)
    counted = msgspec.structs.replace(manifest, settings={**manifest.settings, "group_2_agents": "V08CA10"})
    assert chart(*WEAK, drafts=(MR_GADOLINIUM, GROUP_3)).cards(NAME, counted) == []


def test_a_pregnant_patients_kidney_is_not_judged_by_egfr() -> None:
    # Pregnancy makes the formula invalid; the card is the one about pregnancy.
    pregnant = (*WEAK, condition("pr", "Z3A.20"), observation("w", "29463-7", 70, "kg", "2026-03-10T08:00:00Z"))
    card = card_of(chart(*pregnant, drafts=(MR_GADOLINIUM, GROUP_1), who=WOMAN))
    assert card.summary.startswith("Pregnant 20 weeks")
