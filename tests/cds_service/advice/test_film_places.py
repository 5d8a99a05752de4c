"""cxr-insight where the networks say more: the place of a finding, its course, and a final report that disagrees."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, get_args

import msgspec
import pytest
from film_charts import (
    AIR,
    ANTIBIOTIC,
    CRP,
    FLUID,
    NAME,
    RESOLVED,
    card_of,
    chart,
    course,
    film_reading,
    report,
    text,
    two_films,
)
from vignettes import Answers, Chart, patient, service

from cds_service.advice.film_change import change_line
from cds_service.consult import Case
from cds_service.traces import silences
from fhir_mappers.tensors import to_fusion_input
from models.contract import Course, FilmReading, Zone


def read_as(model: Answers, reading: FilmReading) -> Answers:
    return dataclasses.replace(model, reading=reading)


def test_the_card_names_side_zone_change_and_prior_as_the_networks_give_them() -> None:
    card = card_of(two_films(model=read_as(FLUID, film_reading("right_lower", "new"))))
    assert card.summary == "New right lower zone pleural effusion vs 2026-03-07 (0.88), not yet reported."
    assert "| Finding | Where | Now | Prior (2026-03-07) |" in text(card)
    assert "| Pleural effusion | right lower zone | 0.88 (0.81 to 0.93) | 0.06, new |" in text(card)


def test_an_urgent_finding_is_named_with_its_zone() -> None:
    card = card_of(chart(model=read_as(AIR, film_reading("right_upper", finding="pneumothorax"))))
    assert card.summary.startswith("Possible right upper zone pneumothorax (0.94) on film 2026-03-10 13:38")


@pytest.mark.parametrize("zone", get_args(Zone))
@pytest.mark.parametrize("course", get_args(Course))
def test_every_zone_is_named_and_only_new_or_worse_speaks(zone: Zone, course: Course) -> None:
    cards = two_films(model=read_as(FLUID, film_reading(zone, course))).cards(NAME)
    said = [c.summary for c in cards]
    if course in ("new", "worse"):
        where = f"{zone.replace('_', ' ')} zone"
        assert said == [f"{course.capitalize()} {where} pleural effusion vs 2026-03-07 (0.88), not yet reported."]
    else:
        assert said == []  # CX-05: unchanged, improved and resolved are silent


def test_a_change_the_network_is_not_sure_of_is_no_news() -> None:
    # CLINICAL 4.4: p_change >= 0.80
    assert two_films(model=read_as(FLUID, film_reading(None, "new", 0.79))).cards(NAME) == []
    assert two_films(model=read_as(FLUID, film_reading(None, "new", 0.80))).cards(NAME) != []


def test_where_the_network_abstains_the_films_are_said_not_to_be_compared() -> None:
    card = card_of(two_films(model=read_as(FLUID, film_reading("left_mid", None))))
    assert card.summary == (
        "Left mid zone pleural effusion (0.88) on film 2026-03-10 13:38, not compared, not yet reported."
    )


@pytest.mark.parametrize("course", get_args(Course))
def test_without_an_earlier_film_no_card_speaks_of_change_whatever_the_network_says(course: Course) -> None:
    card = card_of(chart(model=read_as(FLUID, film_reading("right_lower", course))))
    assert "no comparison film" in card.summary
    words = text(card).lower().replace("no comparison film", "").replace("an earlier film to compare with", "")
    assert not re.search(r"\b(new|worse|stable|unchanged|improved|resolved|prior|vs)\b", words)


def test_during_treatment_the_place_of_what_has_gone_is_not_named() -> None:
    gone = read_as(RESOLVED, film_reading("right_lower", "resolved"))
    card = card_of(course(ANTIBIOTIC, model=gone))
    assert "zone" not in text(card)
    assert card.summary.startswith("Estimate for pleural effusion fell from 0.88")


def test_the_longest_fillers_stay_within_the_limits_with_places_too() -> None:
    names = [n for n in service(NAME).thresholds if n != "finding.pneumothorax"]
    readings = [film_reading("right_upper", "worse", finding=n.removeprefix("finding.")) for n in names]
    every = FilmReading(
        readings[0].anatomy,
        {k: v for r in readings for k, v in r.places.items()},
        {k: v for r in readings for k, v in r.changes.items()},
        "c" * 64,
    )
    model = Answers(
        dict.fromkeys(names, (0.99, 0.98, 0.999)),
        prior=dict.fromkeys(names, (0.01, 0.001, 0.02)),
        titles=dict.fromkeys(names, "A finding with a name of many words, as some radiology lexicons have them"),
        modalities=("imaging", "labs"),
        model="chest-open-with-a-very-long-name@2026.11.30",
        reading=every,
    )
    card = card_of(two_films(CRP, model=model, who=patient("unknown", None)))
    assert len(card.summary) < 140
    assert len(card.detail or "") <= 1200
    assert "right upper zone" in (card.detail or "")
    assert "Research use: not cleared." in text(card)


# --- CX-04: for radiology, never a card -----------------------------------------------------------------------------


def case_of(given: Chart, manifest: Any = None) -> Case:
    assert given.model is not None
    record, inputs = given.record(NAME), to_fusion_input(given.record(NAME), given.model.spec)
    answer = given.model.assess(inputs, timeout=1.0)
    chosen = manifest or service(NAME)
    return Case(chosen, given.request(NAME), record, answer, (), given.profile, "", dict(inputs.used))


def test_a_final_report_that_denies_what_the_model_sees_is_kept_for_radiology_and_shows_no_card() -> None:
    given = chart(report("final"))  # "No pneumothorax." against 0.94
    assert given.cards(NAME) == []
    assert [(d.rule, d.outcome, d.cause) for d in silences(case_of(given))] == [
        ("CX-04", "silent", "model and final report disagree: pneumothorax")
    ]


@pytest.mark.parametrize(
    "given",
    [
        chart(),  # no report
        chart(report("preliminary")),
        chart({**report("final"), "conclusion": "Right pneumothorax."}),  # they agree
        chart({**report("final"), "conclusion": "Possible pneumothorax."}),  # the report leaves it open
        chart(report("final"), profile="non_device"),
        chart(report("final"), who=patient("male", "2012-01-01")),
        chart(report("final"), now="2026-03-11T13:39:00Z"),  # history
    ],
)
def test_without_a_final_report_that_says_otherwise_nothing_is_kept(given: Chart) -> None:
    assert silences(case_of(given)) == []


def test_a_site_may_switch_the_comparison_with_reports_off() -> None:
    manifest = service(NAME)
    off = msgspec.structs.replace(manifest.rules["CX-04"], on=False)
    without = msgspec.structs.replace(manifest, rules={**manifest.rules, "CX-04": off})
    assert silences(case_of(chart(report("final")), without)) == []


# --- the same words beside the rules of other services --------------------------------------------------------------


def test_the_line_of_change_beside_a_repeated_film_names_the_place() -> None:
    model = read_as(FLUID, film_reading("right_lower", "worse"))
    given = two_films(model=model)
    assert change_line(case_of(given)).startswith(
        "Model chest-open@1 (trained on open data sets), films 2026-03-07 and 2026-03-10: "
        "right lower zone pleural effusion worse 0.06 to 0.88."
    )
