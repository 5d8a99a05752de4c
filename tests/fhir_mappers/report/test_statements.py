"""A film's report: what it states, in which words, and what it never says."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from film_readings import NEW, OLD, assessment, estimate, film, reading, record, report
from pydicom.sr.codedict import codes

from fhir_mappers.report.statements import FilmReport, report_film
from fhir_mappers.report.terms import COURSES, ZONES, certainty, terms
from fhir_mappers.report.text import write_report
from models.contract import Assessment, Course, Zone

CHANGE = re.compile(
    r"(?i)\b(new|newly|worse\w*|worsen\w*|stable|unchanged|improv\w+|resolv\w+|progress\w+|increas\w+|decreas\w+"
    r"|since|previous\w*|prior|interval change|compared|no longer|again)\b"
)
"""Words of a report that speak of an earlier film."""


def made(answer: Assessment, *, prior: bool = True, reports: tuple[object, ...] = (), **more: object) -> FilmReport:
    films = (NEW, OLD) if prior else (NEW,)
    return report_film(record(*films), answer, NEW, OLD if prior else None, reports, **more)  # type: ignore[arg-type]


def test_a_statement_says_finding_place_change_certainty_and_evidence() -> None:
    answer = assessment(
        estimate("effusion", 0.88, 0.81, 0.93),
        prior=(estimate("effusion", 0.06),),
        read=reading({"effusion": "right_lower"}, {"effusion": "new"}),
    )
    (said,) = made(answer).statements
    assert (said.term.finding, said.side, said.zone, said.change) == ("effusion", "right", "right_lower", "new")
    assert (said.certainty, said.probability, said.interval, said.prior) == ("probable", 0.88, (0.81, 0.93), 0.06)
    assert said.evidence == ("ImagingStudy/study1", "ImagingStudy/study2")
    assert said.severity is None


def test_the_sections_say_the_same_in_words() -> None:
    answer = assessment(
        estimate("effusion", 0.88, 0.81, 0.93),
        estimate("pneumothorax", 0.02, 0.01, 0.04),
        estimate("atelectasis", None, why="Withheld: not shown to be better than chance on patients kept apart."),
        prior=(estimate("effusion", 0.06),),
        read=reading({"effusion": "right_lower"}, {"effusion": "new"}, ctr=0.5432, ctr_why="AP film: overstated"),
    )
    text = write_report(made(answer))
    assert text.technique == (
        "Chest film of 2026-03-10 13:38, PA view. Read by the model chest-open@1 (trained on open data sets), not by a "
        "person."
    )
    assert text.comparison == "Chest film of 2026-03-07 09:00, AP view."
    assert text.findings == (
        "Probable pleural effusion, right lower zone (0.88, 90% interval 0.81 to 0.93), new since 2026-03-07. "
        "Unlikely pneumothorax (0.02, 90% interval 0.01 to 0.04). "
        "Cardiothoracic ratio 0.54, measured on this film (AP film: overstated)."
    )
    assert text.impression == "1. Probable pleural effusion, right lower zone, new since 2026-03-07."
    assert "Not assessed: atelectasis (Withheld: not shown to be better than chance" in text.limits
    assert text.limits.endswith("Research use: not cleared, not for diagnosis.")


@pytest.mark.parametrize(
    ("p", "word"),
    # Panicek and Hricak 2016: more than 90 %, about 75 %, about 50 %, about 25 %, less than 10 %.
    [(0.95, "consistent with"), (0.75, "probable"), (0.50, "possible"), (0.25, "less likely"), (0.05, "unlikely")],
)
def test_the_word_of_certainty_is_the_lexicons_for_that_probability(p: float, word: str) -> None:
    assert certainty(p) == word


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("course", COURSES)
def test_every_zone_and_course_is_said_with_its_side_and_the_date_of_the_prior(zone: Zone, course: Course) -> None:
    p = 0.05 if course == "resolved" else 0.88
    answer = assessment(
        estimate("effusion", p, p - 0.04, p + 0.04), read=reading({"effusion": zone}, {"effusion": course})
    )
    text = write_report(made(answer)).findings
    assert "2026-03-07" in text
    side, height = zone.split("_")
    # What is not there any more is nowhere.
    assert (f"{side} {height} zone" in text) is (course != "resolved")


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("p", [0.02, 0.30, 0.50, 0.80, 0.97])
def test_without_an_earlier_film_no_word_speaks_of_one(course: Course, p: float) -> None:
    # The network breaks its promise here and gives courses all the same.
    answer = assessment(
        *(estimate(name, p, p - 0.01, p + 0.01) for name in terms()),
        prior=tuple(estimate(name, 0.5) for name in terms()),
        read=reading(dict.fromkeys(terms(), "left_mid"), dict.fromkeys(terms(), course)),
    )
    found = made(answer, prior=False)
    text = write_report(found)
    assert all(s.change is None and s.prior is None for s in found.statements)
    assert text.comparison == "No earlier frontal film was available."
    assert not [m.group() for part in (text.findings, text.impression, text.limits) for m in CHANGE.finditer(part)]


def test_a_lateral_film_is_no_comparison() -> None:
    lateral = film(2, "2026-03-07T09:00:00+00:00", "LATERAL")
    answer = assessment(estimate("effusion", 0.88), read=reading(None, {"effusion": "worse"}))
    found = report_film(record(NEW, lateral), answer, NEW, lateral)
    assert found.prior is None
    assert [s.change for s in found.statements] == [None]


@pytest.mark.parametrize(
    ("course", "p"), [("new", 0.05), ("worse", 0.20), ("stable", 0.05), ("improved", 0.10), ("resolved", 0.90)]
)
def test_a_course_that_the_newest_film_speaks_against_is_not_said(course: Course, p: float) -> None:
    answer = assessment(estimate("effusion", p, p - 0.02, p + 0.02), read=reading(None, {"effusion": course}))
    assert made(answer).statements[0].change is None


@pytest.mark.parametrize("status", ["final", "amended", "corrected", "appended"])
def test_nothing_is_stated_beside_a_final_report(status: str) -> None:
    answer = assessment(estimate("effusion", 0.95), estimate("pneumothorax", 0.95), read=reading())
    found = made(answer, reports=(report(status, "No effusion. No pneumothorax. Heart size normal."),))
    text = write_report(found)
    assert found.statements == ()
    assert text.impression == "The final radiology report of 2026-03-10 stands."
    assert not re.search(r"(?i)effusion|pneumothorax|ratio", text.text())


def test_a_preliminary_report_does_not_end_the_reading() -> None:
    answer = assessment(estimate("effusion", 0.95), read=reading())
    assert made(answer, reports=(report("preliminary"),)).statements


def test_a_lateral_film_and_one_the_gate_refused_are_said_to_be_unread() -> None:
    lateral = film(view="LATERAL")
    answer = assessment(estimate("effusion", 0.95), read=reading())
    text = write_report(report_film(record(lateral), answer, lateral, None))
    assert text.findings == "None stated: a lateral film, which no network here reads."
    refused = assessment(estimate("effusion", None), unused={"imaging": "it does not look like a chest film"})
    text = write_report(made(refused))
    assert text.findings == "None stated: it does not look like a chest film."
    assert text.comparison == "No earlier frontal film was available."


def test_what_no_network_looks_at_is_named_tubes_and_lines_among_it_and_severity_is_not_graded() -> None:
    made = report_film(record(NEW), assessment(estimate("effusion", 0.85)), NEW, None)
    limits = write_report(made).limits
    assert "Severity: not graded." in limits
    assert "Tubes and lines, their tips, bones and soft tissue: not assessed." in limits
    assert [s.severity for s in made.statements] == [None]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rendered": True}, "PA view, rendered by the archive and not as it was taken."),
        ({"laterals": 1}, "not by a person. A lateral view of the same study was not read."),
        ({"laterals": 2}, "not by a person. 2 lateral views of the same study were not read."),
    ],
)
def test_the_technique_says_how_the_film_came_and_what_was_beside_it(change: dict[str, Any], words: str) -> None:
    newest = dataclasses.replace(NEW, **change)
    made = report_film(record(newest), assessment(estimate("effusion", 0.85)), newest, None)
    assert words in write_report(made).technique
    plain = report_film(record(NEW), assessment(estimate("effusion", 0.85)), NEW, None)
    assert not {"rendered", "lateral"} & set(write_report(plain).technique.split())


def test_no_finding_is_no_normal_film() -> None:
    text = write_report(made(assessment(estimate("effusion", 0.03, 0.01, 0.05), read=reading())))
    assert "does not say that the film is normal" in text.impression


def test_a_wide_interval_around_there_or_not_is_not_assessed() -> None:
    (said,) = made(assessment(estimate("effusion", 0.50, 0.20, 0.80))).statements
    assert (said.certainty, said.probability) == ("not assessed", None)
    (said,) = made(assessment(estimate("effusion", 0.90, 0.80, 0.95)), open_={"finding.effusion"}).statements
    assert said.certainty == "not assessed"


def test_an_estimate_that_rests_on_no_film_is_not_stated_of_one() -> None:
    from_labs = estimate("pneumonia", 0.9)
    object.__setattr__(from_labs, "rested_on", frozenset({"labs"}))
    assert made(assessment(from_labs)).statements == ()


def test_the_codes_are_those_of_the_standard_and_ours_stand_in_our_own_scheme() -> None:
    known = {"SCT": codes.SCT, "DCM": codes.DCM}
    for term in terms().values():
        if term.scheme in known:
            name = "".join(word.capitalize() for word in term.meaning.split())
            assert (term.code, term.meaning) == (getattr(known[term.scheme], name).value, term.meaning)
        else:
            assert term.scheme == "99ORDERSIGHT"
