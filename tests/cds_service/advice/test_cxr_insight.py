"""cxr-insight: what it says about the newest film, and the many reasons to say nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.task import Task
from film_charts import (
    AIR,
    ANTIBIOTIC,
    CRP,
    FLUID,
    NAME,
    NEW_PIXELS,
    card_of,
    changed,
    chart,
    course,
    report,
    text,
    two_films,
)
from vignettes import (
    Answers,
    Chart,
    Resource,
    film,
    medication,
    observation,
    patient,
    service,
)

# --- CX-01 ----------------------------------------------------------------------------------------------------------


def test_a_probable_pneumothorax_on_an_unread_film_asks_for_an_urgent_read() -> None:
    card = card_of(chart())
    assert card.indicator == "warning"
    assert card.summary == "Possible pneumothorax (0.94) on film 2026-03-10 13:38, not yet read by radiology."
    task = msgspec.to_builtins(card.suggestions[0].actions[0])["resource"]
    Task.model_validate(task)
    assert task["focus"] == {"reference": "ImagingStudy/study1"}
    assert "0.94 (0.90 to 0.97)" in text(card)
    assert "Model estimate, not a diagnosis. Research use: not cleared." in text(card)
    assert "Rule CX-01 v1" in text(card)


def test_no_card_names_a_side_or_a_zone_the_model_does_not_give() -> None:
    words = text(card_of(chart())).lower()
    assert not any(word in words for word in ("right", "left", "apex", "apical", "upper", "lower", "zone"))


@pytest.mark.parametrize(
    "given",
    [
        chart(model=dataclasses.replace(AIR, given={"finding.pneumothorax": (0.79, 0.72, 0.85)})),
        chart(model=dataclasses.replace(AIR, abstained="not a frontal chest film")),
        chart(model=dataclasses.replace(AIR, given={"finding.pneumothorax": (0.82, 0.60, 0.95)})),  # MX-2
        chart(report("final")),
        chart(report("preliminary")),
        chart(report("final", study=None)),  # a chest report after the film, without a link to it
        chart(now="2026-03-10T15:39:00Z"),  # more than two hours old
        chart(who=patient("male", "2009-01-01")),
        chart(profile="non_device"),
        chart(user="Patient/p1"),
        chart(who=patient("male", "2002-02-14", deceasedBoolean=True)),
        chart(films=()),
    ],
)
def test_the_same_film_reported_old_doubtful_or_a_childs_gets_no_card(given: Chart) -> None:
    assert given.cards(NAME) == []


@pytest.mark.parametrize(
    "other",
    [
        report("final", study="study9"),  # of another study
        report("final", study=None, at="2026-03-08T09:00:00Z"),  # before the film
        report("final", study=None, loinc="24725-4"),  # CT of the head
        report("entered-in-error"),
        {**report("final"), "subject": {"reference": "Patient/p2"}},
    ],
)
def test_a_report_of_something_else_does_not_make_the_film_read(other: Resource) -> None:
    assert card_of(chart(other)).summary.startswith("Possible pneumothorax")


def test_a_site_may_raise_the_urgent_read_to_critical() -> None:
    manifest = service(NAME)
    rule = msgspec.structs.replace(manifest.rules["CX-01"], tier="critical")
    card = card_of(chart(), msgspec.structs.replace(manifest, rules={**manifest.rules, "CX-01": rule}))
    assert card.indicator == "critical"


# --- CX-02 ----------------------------------------------------------------------------------------------------------


def test_a_finding_that_was_not_there_before_is_new_against_the_dated_prior() -> None:
    card = card_of(two_films(CRP))
    assert card.indicator == "info"
    assert card.summary == "New pleural effusion vs 2026-03-07 (0.88), not yet reported."
    assert "| Finding | Now | Prior (2026-03-07) |" in text(card)
    assert "| Pleural effusion | 0.88 (0.81 to 0.93) | 0.06, new |" in text(card)
    assert "Inputs: film 2026-03-10 13:38 (PA), film 2026-03-07 09:00" in text(card)
    assert card.suggestions == ()


def test_laboratory_results_are_said_to_be_used_only_when_they_were() -> None:
    assert "not used by the model: C-reactive protein 120 mg/L 2026-03-10 06:00" in text(card_of(two_films(CRP)))
    fused = card_of(two_films(CRP, model=dataclasses.replace(FLUID, modalities=("imaging", "labs"))))
    assert "AP" not in text(fused)
    assert "film 2026-03-07 09:00, C-reactive protein 120 mg/L 2026-03-10 06:00." in text(fused)
    assert "no recent laboratory results" in text(card_of(two_films()))


def test_without_a_comparison_film_the_card_says_so() -> None:
    card = card_of(chart(model=FLUID))
    assert card.summary == ("Pleural effusion (0.88) on film 2026-03-10 13:38, no comparison film, not yet reported.")
    assert "Not known: an earlier film to compare with" in text(card)


@pytest.mark.parametrize(
    ("now", "before", "word"),
    [
        ((0.88, 0.81, 0.93), (0.10, 0.05, 0.20), "New"),
        ((0.95, 0.90, 0.98), (0.60, 0.50, 0.70), "Worse"),
        ((0.85, 0.78, 0.91), (0.70, 0.60, 0.79), None),  # the intervals touch
        ((0.85, 0.78, 0.91), (0.90, 0.85, 0.94), None),  # unchanged
        ((0.82, 0.80, 0.84), (0.95, 0.90, 0.98), None),  # better: CX-05 is silent
    ],
)
def test_change_is_new_or_worse_only_where_the_two_films_clearly_differ(
    now: tuple[float, float, float], before: tuple[float, float, float], word: str | None
) -> None:
    cards = two_films(model=changed(now, before)).cards(NAME)
    assert [c.summary.partition(" ")[0] for c in cards] == ([word] if word else [])


@pytest.mark.parametrize(
    "given",
    [
        two_films(report("final")),  # the report wins, whatever it says
        two_films(now="2026-03-11T13:39:00Z"),  # the film is more than a day old
        two_films(CRP, model=changed((0.40, 0.30, 0.50), (0.05, 0.02, 0.08))),  # both there, nothing high
    ],
)
def test_a_reported_an_old_or_a_clear_film_gets_no_card(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_a_preliminary_report_is_named_and_does_not_silence_a_finding() -> None:
    assert card_of(two_films(report("preliminary"))).summary.endswith("only a preliminary report.")


def test_a_comparison_film_of_less_than_six_hours_before_says_nothing() -> None:
    close, pixels = film(3, "2026-03-10T08:00:00Z")
    given = chart(close, model=FLUID, films=(NEW_PIXELS, pixels))
    assert given.cards(NAME) == []
    earlier, older_pixels = film(3, "2026-03-10T07:30:00Z")
    assert len(chart(earlier, model=FLUID, films=(NEW_PIXELS, older_pixels)).cards(NAME)) == 1


def test_a_lateral_film_is_not_judged() -> None:
    lateral, pixels = film(4, "2026-03-10T13:38:00Z", "LATERAL")
    given = Chart((patient("male", "2002-02-14"), lateral), hook="patient-view", films=(pixels,), model=AIR)
    assert given.cards(NAME) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rendered": True}, "Inputs: film 2026-03-10 13:38 (PA, rendered by the archive)"),
        ({"laterals": 1}, "Inputs: film 2026-03-10 13:38 (PA, lateral view not read)"),
        ({}, "Inputs: film 2026-03-10 13:38 (PA)"),
    ],
    ids=["rendered", "lateral beside it", "neither"],
)
def test_a_card_says_of_its_film_that_it_was_rendered_and_that_a_lateral_beside_it_was_not_read(
    change: dict[str, Any], words: str
) -> None:
    pixels = dataclasses.replace(NEW_PIXELS, **change)
    assert words in text(card_of(chart(model=FLUID, films=(pixels, film(2, "2026-03-07T09:00:00Z", "AP")[1]))))


def test_an_unknown_age_is_said_and_does_not_silence() -> None:
    assert "age" in text(card_of(two_films(who=patient("male", None)))).partition("Not known: ")[2].partition(".")[0]


# --- CX-03 ----------------------------------------------------------------------------------------------------------


def test_during_treatment_a_reported_film_is_compared_with_the_one_before_when_another_is_ordered() -> None:
    card = card_of(course(ANTIBIOTIC))
    assert card.indicator == "info"
    assert card.summary == (
        "Estimate for pleural effusion fell from 0.88 (2026-03-07) to 0.05 (2026-03-10) under treatment."
    )
    assert "resolved" not in text(card)
    assert "The final report of 2026-03-10 stands" in text(card)
    assert "Research use: not cleared." in text(card)


@pytest.mark.parametrize(
    "given",
    [
        course(),  # no treatment
        course(ANTIBIOTIC, drafts=(medication("d1", "2193", "ceftriaxone", "draft"),)),  # nothing asked of a film
        course(ANTIBIOTIC, model=changed((0.88, 0.81, 0.93), (0.88, 0.81, 0.93))),  # unchanged
        course({**ANTIBIOTIC, "authoredOn": "2026-03-10T13:45:00Z"}),  # begun after the film
        dataclasses.replace(course(ANTIBIOTIC), hook="patient-view", drafts=()),
    ],
)
def test_without_treatment_question_or_change_no_comparison_is_shown(given: Chart) -> None:
    assert given.cards(NAME) == []


# --- all ------------------------------------------------------------------------------------------------------------


def test_the_order_of_the_films_and_another_patients_film_change_nothing() -> None:
    given = two_films(CRP)
    mixed = dataclasses.replace(given, resources=given.resources[::-1], films=given.films[::-1])
    assert text(card_of(mixed)) == text(card_of(given))
    stranger, pixels = film(5, "2026-03-10T13:50:00Z")
    other = {**stranger, "subject": {"reference": "Patient/p2"}}
    with_other = dataclasses.replace(given, resources=(*given.resources, other), films=(*given.films, pixels))
    assert text(card_of(with_other)) == text(card_of(given))


def test_the_longest_fillers_stay_within_the_limits() -> None:
    names = [n for n in service(NAME).thresholds if n != "finding.pneumothorax"]
    model = Answers(
        dict.fromkeys(names, (0.99, 0.98, 0.999)),
        prior=dict.fromkeys(names, (0.01, 0.001, 0.02)),
        titles=dict.fromkeys(names, "A finding with a name of many words, as some radiology lexicons have them"),
        modalities=("imaging", "labs"),
        model="chest-open-with-a-very-long-name@2026.11.30",
    )
    labs = [
        observation(f"l{c}", c, 123456.789, u, "2026-03-10T06:00:00Z")
        for c, u in (("14804-9", "U/L"), ("33762-6", "pg/mL"))
    ]
    card = card_of(two_films(*labs, model=model, who=patient("unknown", None)))
    assert len(card.summary) < 140
    assert len(card.detail or "") <= 1200
    assert "Research use: not cleared." in text(card)
