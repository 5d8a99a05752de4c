"""imaging-timing: the study that has just been done (TM-01), and the order that stands already (TM-02)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from embolism import actions, labels, text
from timing import (
    CLINIC,
    DONE,
    FILM,
    LEFT,
    LOINC,
    NAME,
    RIGHT,
    card_of,
    chart,
    coded,
    procedure,
    report,
    standing,
    study,
)
from vignettes import ICD10CM, Answers, Chart, condition, encounter, film, imaging_order, observation, patient, service

from cds_service.evidence import Shortfall


def rule_of(given: Chart, manifest: Any = None) -> str | None:
    cards = given.cards(NAME, manifest)
    return (cards[0].detail or "").rpartition("Rule ")[2].partition(" ")[0] if cards else None


def setting(**changed: Any) -> Any:
    manifest = service(NAME)
    return msgspec.structs.replace(manifest, settings={**manifest.settings, **changed})


# --- TM-01 ----------------------------------------------------------------------------------------------------------


def test_a_film_five_hours_after_a_final_one_shows_its_report_and_offers_to_remove_the_order() -> None:
    # Vignette S06.
    card = card_of(chart(DONE))
    assert card.indicator == "info"
    assert card.summary == "Chest film done 2026-03-10 09:05: No acute cardiopulmonary process."
    assert [(a["type"], a["resourceId"]) for a in actions(card)] == [("delete", "ServiceRequest/d1")]
    assert card.suggestions[0].is_recommended
    assert "no procedure, no new problem, vital signs no worse" in text(card)


def test_the_time_of_the_study_counts_and_not_that_of_its_report() -> None:
    linked = DONE | {"effectiveDateTime": "2026-03-10T12:00:00Z", "imagingStudy": [{"reference": "ImagingStudy/s1"}]}
    card = card_of(chart(linked, study("s1", "36643-5", "2026-03-10T09:05:00Z")))
    assert "done 2026-03-10 09:05" in card.summary
    old = study("s1", "36643-5", "2026-03-09T20:00:00Z")
    assert chart(linked, old).cards(NAME) == []  # eighteen hours ago


@pytest.mark.parametrize(
    ("given", "speaks"),
    [
        (chart(DONE | {"effectiveDateTime": "2026-03-10T02:05:00Z"}), True),  # 11 h 55 min
        (chart(DONE | {"effectiveDateTime": "2026-03-10T01:55:00Z"}), False),  # 12 h 5 min: the table's window is 12 h
        (chart(DONE | {"effectiveDateTime": "2026-03-09T15:00:00Z"}, visit=CLINIC), True),  # outside hospital 24 h
        (chart(DONE | {"effectiveDateTime": "2026-03-09T13:00:00Z"}, visit=CLINIC), False),
        (chart(DONE, drafts=(FILM | {"occurrenceDateTime": "2026-03-10T20:00:00Z"},)), True),
        (chart(DONE, drafts=(FILM | {"occurrenceDateTime": "2026-03-11T08:00:00Z"},)), False),  # for tomorrow
    ],
)
def test_the_window_is_the_tables_from_the_study_to_the_day_of_the_order(given: Chart, speaks: bool) -> None:
    assert (rule_of(given) == "TM-01") is speaks


@pytest.mark.parametrize(
    "given",
    [
        chart(DONE, visit=encounter("IMP", period={"start": "2026-03-10T11:00:00Z"})),  # admitted after the film
        chart(DONE, procedure("p1", "2026-03-10T10:00:00Z")),
        chart(DONE, procedure("p1", None, status="in-progress")),
        chart(DONE, condition("c1", "S22.41XA", onsetDateTime="2026-03-10T10:00:00Z")),
        chart(DONE, condition("c1", "R07.1", onsetDateTime="2026-03-10")),  # today, nobody knows when
        chart(DONE, observation("o2", "3151-8", 2, "L/min", "2026-03-10T13:00:00Z")),
        chart(DONE, vitals=(observation("rr", "9279-1", 26, "/min", "2026-03-10T13:00:00Z"),)),
        chart(DONE, drafts=(FILM | {"reasonCode": [coded(ICD10CM, "R04.2")]},)),
        chart(DONE, drafts=(FILM | {"reasonReference": [{"reference": "Condition/new"}]},)),
    ],
)
def test_something_new_since_the_study_makes_another_one_a_new_question(given: Chart) -> None:
    assert given.cards(NAME) == []


@pytest.mark.parametrize(
    "given",
    [
        chart(DONE, procedure("p1", "2026-03-10T08:00:00Z")),  # before the film
        chart(DONE, procedure("p1", "2026-03-10T10:00:00Z", "103693007")),  # diagnostic
        chart(DONE, procedure("p1", "2026-03-10T10:00:00Z", code=coded(LOINC, "36643-5"))),  # the film itself
        chart(DONE, procedure("p1", "2026-03-10T10:00:00Z", status="not-done")),
        chart(DONE, condition("c1", "J18.9", onsetDateTime="2026-03-08")),
        chart(DONE, condition("c1", "J18.9"), drafts=(FILM | {"reasonCode": [coded(ICD10CM, "J18.9")]},)),
        chart(DONE, condition("c1", "J18.9"), drafts=(FILM | {"reasonReference": [{"reference": "Condition/c1"}]},)),
        chart(
            DONE,
            vitals=(
                observation("rr1", "9279-1", 26, "/min", "2026-03-10T08:00:00Z"),
                observation("rr2", "9279-1", 26, "/min", "2026-03-10T13:00:00Z"),
            ),
        ),
    ],
)
def test_what_was_so_before_the_study_is_no_new_question(given: Chart) -> None:
    assert rule_of(given) == "TM-01"


@pytest.mark.parametrize(
    "given",
    [
        chart(DONE, drafts=(FILM | {"priority": "stat"},)),
        chart(DONE, observation("bp", "8480-6", 84, "mm[Hg]", "2026-03-10T13:50:00Z")),
        chart(DONE, visit=encounter("IMP", serviceType=coded("", "ICU"))),
        chart(DONE | {"status": "entered-in-error"}),
        chart(DONE | {"status": "cancelled"}),
        chart(DONE | {"code": coded(LOINC, "29252-4")}),  # a CT is no film
        chart(DONE | {"subject": {"reference": "Patient/p2"}}),
        chart(DONE | {"effectiveDateTime": None}),
        chart(DONE, user="RelatedPerson/r1"),
        chart(DONE, hook="order-select", selections=("ServiceRequest/other",)),
        chart(study("s1", "36643-5", "2026-03-10T09:05:00Z", status="registered")),  # not complete
        chart(study("s1", "36643-5", "2026-03-10T09:05:00Z", status="entered-in-error")),
        chart(study("s1", "36643-5", "2026-03-10T09:05:00Z", procedureCode=[])),  # from elsewhere, of no known code
    ],
)
def test_the_repeat_is_not_mentioned(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_a_study_without_a_report_shows_its_date_and_suggests_nothing() -> None:
    card = card_of(chart(study("s1", "36643-5", "2026-03-10T09:05:00Z")))
    assert card.summary == "Chest film done 2026-03-10 09:05, not reported yet: look at its images before another."
    assert card.suggestions == ()


def test_a_preliminary_report_is_named_as_such_and_recommends_nothing() -> None:
    card = card_of(chart(DONE | {"status": "preliminary"}))
    assert card.summary == "Chest film done 2026-03-10 09:05, preliminary report: No acute cardiopulmonary process."
    assert not card.suggestions[0].is_recommended


def test_of_a_preliminary_and_a_final_report_of_one_study_the_final_one_speaks() -> None:
    at = {"imagingStudy": [{"reference": "ImagingStudy/s1"}]}
    first = report("r0", "36643-5", "2026-03-10T09:10:00Z", "Something.", "preliminary", **at)
    both = chart(first, DONE | at, study("s1", "36643-5", "2026-03-10T09:05:00Z"))
    assert card_of(both).summary.endswith(": No acute cardiopulmonary process.")


@pytest.mark.parametrize(
    "conclusion", ["Limited study. Repeat recommended.", "Suboptimal inspiration.", "Opacity, follow-up in 6 weeks."]
)
def test_a_report_that_asks_for_more_is_shown_and_no_removal_is_suggested(conclusion: str) -> None:
    card = card_of(chart(DONE | {"conclusion": conclusion}))
    assert card.suggestions == ()
    assert "removing the order is not suggested" in text(card)


def test_without_what_would_show_a_new_event_nothing_is_recommended() -> None:
    card = card_of(chart(DONE, shortfalls=(Shortfall("procedures", "timeout"),)))
    assert not card.suggestions[0].is_recommended
    assert "procedures (did not arrive in time)" in text(card)
    unmeasured = card_of(chart(DONE, vitals=()))
    assert not unmeasured.suggestions[0].is_recommended
    assert "Not known: vital signs since then." in text(unmeasured)


def test_restaging_of_a_cancer_has_intervals_of_its_own() -> None:
    done = report("r1", "29252-4", "2026-03-10T09:05:00Z", "No change.")
    ct = imaging_order("d1", "29252-4", "CT chest")
    assert rule_of(chart(done, drafts=(ct,))) == "TM-01"
    assert chart(done, condition("c1", "C34.11"), drafts=(ct,)).cards(NAME) == []
    assert rule_of(chart(DONE, condition("c1", "C34.11"))) == "TM-01"  # a film is no restaging


DUPLEX = imaging_order("d1", "30881-7", "Leg vein ultrasound")


@pytest.mark.parametrize(
    ("ordered", "done", "same"),
    [(LEFT, LEFT, True), (LEFT, RIGHT, False), (None, LEFT, False), (LEFT, None, False), (None, None, False)],
)
def test_another_or_an_unknown_side_is_another_study(ordered: Any, done: Any, same: bool) -> None:
    draft = DUPLEX | ({"bodySite": [ordered]} if ordered else {})
    series = {"uid": "2.25.9", "modality": {"code": "US"}, **({"laterality": done["coding"][0]} if done else {})}
    given = chart(
        study("s1", "30881-7", "2026-03-10T09:05:00Z", series=[series]),
        report(
            "r1", "30881-7", "2026-03-10T09:30:00Z", "No thrombus.", imagingStudy=[{"reference": "ImagingStudy/s1"}]
        ),
        drafts=(draft,),
    )
    assert (rule_of(given) == "TM-01") is same


def test_films_taken_as_a_pair_are_no_repeat_where_the_site_has_named_them() -> None:
    pair = FILM | {"orderDetail": [coded("urn:site", "EXPIRATION")]}
    assert rule_of(chart(DONE, drafts=(pair,))) == "TM-01"
    assert chart(DONE, drafts=(pair,)).cards(NAME, setting(comparison_codes="urn:site|EXPIRATION")) == []


def test_the_sites_viewer_opens_the_earlier_images() -> None:
    shown = study("s1", "36643-5", "2026-03-10T09:05:00Z")
    given = chart(DONE | {"imagingStudy": [{"reference": "ImagingStudy/s1"}]}, shown)
    (link,) = [k for k in card_of(given, setting(viewer_url="https://pacs.example/view?study={study}")).links
               if "Images" in k.label]  # fmt: skip
    assert link.label == "Images of 2026-03-10"
    assert link.url.startswith("https://pacs.example/view?study=2.25.")
    assert not [k for k in card_of(given).links if "Images" in k.label]


def test_two_films_and_a_model_give_one_line_about_change_and_alter_nothing_else() -> None:
    older, one = film(1, "2026-03-09T08:00:00Z")
    newer, two = film(2, "2026-03-10T09:05:00Z")
    linked = DONE | {"imagingStudy": [{"reference": "ImagingStudy/study2"}]}
    model = Answers(
        {"finding.effusion": (0.14, 0.08, 0.21)}, {"finding.effusion": (0.12, 0.07, 0.19)}, modalities=("imaging",)
    )
    plain = chart(linked, older, newer)
    given = Chart(plain.resources, plain.drafts, (one, two), model=model)
    card = card_of(given)
    assert "films 2026-03-09 and 2026-03-10: no change in 1 finding, effusion 0.12 to 0.14." in text(card)
    assert "Research use: not cleared." in text(card)
    assert (card.summary, labels(card)) == (card_of(plain).summary, labels(card_of(plain)))
    off = Chart(plain.resources, plain.drafts, (one, two), model=model, profile="non_device")
    assert "Model" not in text(card_of(off))


# --- TM-02 ----------------------------------------------------------------------------------------------------------

DUE = {"occurrenceDateTime": "2026-03-10T18:00:00Z"}
STANDING = standing("x1", "36643-5", "Chest X-ray", requester={"display": "Dr Ada Byron"}) | DUE
UNDATED = {k: v for k, v in STANDING.items() if k != "occurrenceDateTime"}


def test_an_order_that_stands_already_warns_and_removes_the_new_one() -> None:
    card = card_of(chart(STANDING))
    assert card.indicator == "warning"
    assert card.summary == "Chest film already ordered for 2026-03-10 by Dr Ada Byron: remove the duplicate."
    assert [(a["type"], a["resourceId"]) for a in actions(card)] == [("delete", "ServiceRequest/d1")]
    assert card.suggestions[0].is_recommended


@pytest.mark.parametrize(
    "given",
    [
        chart(STANDING | {"status": "completed"}),
        chart(STANDING | {"status": "revoked"}),
        chart(STANDING | {"status": "entered-in-error"}),
        chart(UNDATED | {"authoredOn": "2026-03-09T20:00:00Z"}),  # eighteen hours ago, never closed
        chart(STANDING | {"occurrenceDateTime": "2026-03-12T08:00:00Z"}),
        chart(STANDING | {"code": coded(LOINC, "29252-4")}),
        chart(STANDING | {"subject": {"reference": "Patient/p2"}}),
        chart(STANDING, drafts=(FILM | {"replaces": [{"reference": "ServiceRequest/x1"}]},)),
        chart(STANDING, drafts=(FILM | {"basedOn": [{"reference": "ServiceRequest/x1"}]},)),
        chart(STANDING, drafts=(FILM | {"id": "x1"},)),  # the same order, signed again
        chart(STANDING, drafts=(FILM | {"priority": "stat"},)),
        chart(STANDING, procedure("p1", "2026-03-10T10:00:00Z")),  # a film after a tube was placed
        chart(STANDING, visit=encounter("IMP", serviceType=coded("", "ICU"))),
    ],
)
def test_another_order_is_no_duplicate(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_an_order_that_does_not_say_when_it_is_due_informs_and_recommends_nothing() -> None:
    card = card_of(chart(UNDATED))
    assert card.indicator == "info"
    assert card.summary == (
        "Chest film already ordered on 2026-03-10 by Dr Ada Byron: no date given, look before ordering another."
    )
    assert "Not known: when the earlier order is to be done" in text(card)
    assert not card.suggestions[0].is_recommended


def test_an_order_whose_film_was_taken_since_is_carried_out_and_the_film_is_shown_instead() -> None:
    open_still = STANDING | {"authoredOn": "2026-03-10T08:00:00Z"}  # the film of 09:05 answers it
    assert rule_of(chart(open_still, DONE)) == "TM-01"
    assert rule_of(chart(STANDING | {"authoredOn": "2026-03-10T12:00:00Z"}, DONE)) == "TM-02"


def test_of_two_drafts_the_later_written_is_removed_in_either_order() -> None:
    first = FILM | {"id": "d7", "authoredOn": "2026-03-10T13:00:00Z"}
    second = FILM | {"id": "d2", "authoredOn": "2026-03-10T13:30:00Z"}
    for drafts in ((first, second), (second, first)):
        card = card_of(chart(drafts=drafts))
        assert card.summary == "Chest film is drafted twice for 2026-03-10: remove the duplicate."
        assert [a["resourceId"] for a in actions(card)] == ["ServiceRequest/d2"]


def test_a_whole_set_of_duplicates_is_one_card() -> None:
    ct = imaging_order("d3", "24628-0", "CT chest with contrast")
    card = card_of(chart(STANDING, standing("x2", "29252-4", "CT chest") | DUE, drafts=(FILM, ct)))
    assert [a["resourceId"] for a in actions(card)] == ["ServiceRequest/d1", "ServiceRequest/d3"]
    assert card.summary.endswith("and 1 more.")


def test_an_order_on_hold_counts_and_removes_nothing_by_recommendation() -> None:
    card = card_of(chart(STANDING | {"status": "on-hold"}))
    assert not card.suggestions[0].is_recommended


def test_a_requester_without_a_name_is_not_made_up() -> None:
    card = card_of(chart({k: v for k, v in STANDING.items() if k != "requester"}))
    assert card.summary == "Chest film already ordered for 2026-03-10: remove the duplicate."


def test_on_selection_only_a_selected_draft_is_spoken_of() -> None:
    other = imaging_order("d9", "30799-1", "CT head")
    assert (
        chart(STANDING, drafts=(FILM, other), hook="order-select", selections=("ServiceRequest/d9",)).cards(NAME) == []
    )
    chosen = chart(STANDING, drafts=(FILM, other), hook="order-select", selections=("ServiceRequest/d1",))
    assert rule_of(chosen) == "TM-02"


def test_a_child_s_film_is_repeated_no_more_than_an_adult_s() -> None:
    card = card_of(chart(DONE, who=patient("male", "2016-01-01")))
    assert "NEWS2 is for 16 and over" in text(card)
    assert not card.suggestions[0].is_recommended


def test_without_two_films_or_without_an_answer_on_both_nothing_is_said_about_change() -> None:
    older, one = film(1, "2026-03-09T08:00:00Z")
    newer, two = film(2, "2026-03-10T09:05:00Z")
    now = {"finding.effusion": (0.14, 0.08, 0.21)}
    plain = chart(DONE | {"imagingStudy": [{"reference": "ImagingStudy/study2"}]}, older, newer)
    for films, before in (((two,), now), ((one, two), {})):
        given = Chart(plain.resources, plain.drafts, films, model=Answers(now, before, modalities=("imaging",)))
        assert "Model" not in text(card_of(given))
