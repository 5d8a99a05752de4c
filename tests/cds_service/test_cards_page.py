"""docs/cards.md, read as a clinician reads it: nothing to look up, nothing without unit, date and source."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cds_service.cards import DETAIL_LIMIT, SUMMARY_LIMIT
from cds_service.cli.cards import Answer, demo_answers, render
from cds_service.manifest import load_services

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cards.md"
Card = Mapping[str, Any]

CONTRACT = {"eGFR", "CT", "MRI", "CXR", "QTc", "NEWS2", "PE"}
"""The abbreviations a card may use: card contract, 2.1."""
ALSO = {
    "IV": "stands in the EHR's own name of an order, which is quoted as it is",
    "XR": "likewise: LOINC's short name of the study, quoted from the order",
    "PA": "the projection of a chest film; every film carries it and no word for it is in use",
    "AP": "likewise",
    "SpO2": "the item's own name in NEWS2 and in tables/vitals.csv",
}
GUIDELINES = {
    "AAAAI": "American Academy of Allergy, Asthma and Immunology",
    "ACR": "American College of Radiology",
    "NKF": "National Kidney Foundation",
    "ASCO": "American Society of Clinical Oncology",
    "CDS": "in the title of the FDA's guidance",
    "CPIC": "Clinical Pharmacogenetics Implementation Consortium",
    "FDA": "Food and Drug Administration",
    "RCP": "Royal College of Physicians",
    "US": "country, of a drug's label",
}
"""Names of who wrote what a rule rests on: they are looked up, not read."""
UNITS = {"mmHg", "mEq"}
"""Units with more than one capital."""
SHORTHAND = re.compile(r"\b(?:pts?|hx|tx|rx|dx|abx|bp|hr|rr|sob|prn|bid|tid|c/o|w/|s/p|w/o|f/u|mets)\b")
COLOURS = re.compile(r"\b(?:red|amber|orange|yellow|green|blue|purple|black|grey)\b", re.IGNORECASE)
RULE_ID = re.compile(r"\b[A-Z]{2,3}-\d+\b")
PROTEIN = re.compile(r"\bp\.[A-Z][a-z]{2}\d+\w*")
WITH_UNIT = re.compile(
    r"\d(?:\.\d+)?\)? ?(?:mg/dL|umol/L|mmol/L|mg/L|ng/mL|g/dL|g/L|10\^[39]/u?L|mL/min/1\.73 m2|mmHg|/min|L/min|°[CF]|%|"
    r"mg|ug|g|ms|mm|cm|kg|years|y|d|h|min|points?|items|times|once|signs|criteria)(?![A-Za-z])"
)
DATED = re.compile(r"\d{4}-\d{2}-\d{2}")


@pytest.fixture(scope="module")
def heard() -> Iterator[tuple[list[Answer], list[logging.LogRecord]]]:
    """Every answer, and the line each consultation left in the log."""
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]
    log = logging.getLogger("cds_service.consult")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield demo_answers(), lines
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@pytest.fixture(scope="module")
def answers(heard: tuple[list[Answer], list[logging.LogRecord]]) -> list[Answer]:
    return heard[0]


@pytest.fixture(scope="module")
def cards(answers: list[Answer]) -> list[Card]:
    found = [card for answer in answers for card in answer.cards]
    assert len(found) > 20
    return found


def texts(card: Card) -> Iterator[str]:
    """Every word of a card that a clinician reads, but for the names of its sources."""
    yield card["summary"]
    yield card["detail"]
    yield from (s["label"] for s in card.get("suggestions", ()))
    yield from (r["display"] for r in card.get("overrideReasons", ()))


def rows(card: Card) -> list[tuple[str, str, str, str]]:
    """The evidence table: fact, value, when, source. A comparison of films has a table of its own kind."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in card["detail"].splitlines() if line[:1] == "|"]
    return [(r[0], r[1], r[2], r[3]) for r in lines[2:]] if lines and len(lines[0]) == 4 else []


def table_column(name: str, column: str) -> set[str]:
    path = ROOT / "fhir_mappers" / "tables" / name
    return {row[column] for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())}


def masked(page: str) -> str:
    """Without the numbers of the model, whose last digit another processor may round the other way."""
    page = re.sub(r"moved by [^.]*\.", "moved by ...", page)
    return re.sub(r"\b0\.\d\d\b", "0.--", page)


def test_the_page_is_what_the_service_says_today(answers: list[Answer]) -> None:
    assert masked(render(answers)) == masked(PAGE.read_text(encoding="utf-8")), (
        "docs/cards.md is out of date: read what changed after `cds-service cards --page docs/cards.md`"
    )


def test_the_page_names_every_service_and_nothing_that_changes_from_run_to_run(answers: list[Answer]) -> None:
    page = render(answers)
    for service in load_services(ROOT / "manifests" / "services", "research_imaging").all:
        assert service.id in page
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-|127\.0\.0\.1", page)


def test_the_card_in_the_readme_is_the_one_the_service_gives(answers: list[Answer]) -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("│", " ").split())
    card = next(c for a in answers if a.patient.id == "demo-alder" for c in a.cards)
    assert card["summary"] in readme
    for suggestion in card["suggestions"]:
        assert f"[ {suggestion['label']} ]" in readme
    for sentence in card["detail"].split("\n\n"):
        assert sentence.startswith("|") or sentence in readme


def test_every_card_is_short_enough_to_be_read_between_two_patients(cards: list[Card]) -> None:
    assert max(len(c["summary"]) for c in cards) < SUMMARY_LIMIT == 140
    assert max(len(c["detail"]) for c in cards) <= DETAIL_LIMIT == 1200
    assert max(len(rows(c)) for c in cards) <= 6


def test_no_abbreviation_has_to_be_looked_up(cards: list[Card]) -> None:
    genes = table_column("genes.csv", "symbol") | table_column("drivers.csv", "gene")
    allowed = CONTRACT | ALSO.keys() | UNITS | genes
    for card in cards:
        sources = {word for word in GUIDELINES if word in card["source"]["label"]}
        for text in texts(card):
            words = re.findall(r"[A-Za-z][A-Za-z0-9]*", PROTEIN.sub("", RULE_ID.sub("", text)))
            capitals = {w for w in words if len(re.findall("[A-Z]", w)) > 1}
            assert capitals <= allowed | sources, text
            assert not SHORTHAND.search(text), text


def test_the_names_of_guidelines_are_those_we_know(cards: list[Card]) -> None:
    genes = table_column("genes.csv", "symbol")
    for card in cards:
        label = card["source"]["label"]
        words = {w for w in re.findall(r"[A-Za-z][A-Za-z0-9]*", label) if len(re.findall("[A-Z]", w)) > 1}
        assert words <= GUIDELINES.keys() | genes | CONTRACT, label


def test_every_number_of_the_evidence_has_a_unit_a_date_and_a_source(cards: list[Card]) -> None:
    genes = table_column("genes.csv", "symbol")
    for card in cards:
        for fact, value, when, source in rows(card):
            assert source, (fact, value)
            # Scores have no unit; a probability is named by its source; dates are dates.
            numbers = PROTEIN.sub("", DATED.sub("", f"{fact} {value}"))
            numbers = re.sub(
                r"\bNEWS2(?: \d+)?|CURB-65 \d|stage \d|\b0\.\d\d\b"
                if source == "Model"
                else r"\bNEWS2(?: \d+)?|CURB-65 \d|stage \d|activity score [\d. or]+",
                "",
                numbers,
            )
            numbers = re.sub("|".join(map(re.escape, sorted(genes, key=len, reverse=True))), "", numbers)
            if re.search(r"\d", value):
                assert DATED.search(when), (fact, value, when)
            if re.search(r"\d", numbers):
                assert WITH_UNIT.search(numbers), (fact, value)


def test_no_card_shouts_pleads_or_paints(cards: list[Card]) -> None:
    for card in cards:
        for text in texts(card):
            assert not COLOURS.search(text), text
            assert not re.search(r"\bplease\b|!", text, re.IGNORECASE), text
            assert not re.search(r"\b[A-Z]{5,}\b", re.sub(r"CYP\w+", "", text)), text


def test_what_could_not_be_had_is_named_on_the_card(heard: tuple[list[Answer], list[logging.LogRecord]]) -> None:
    """The demo's Sumac has a film the archive does not hold; whoever sees a card of hers or his is told."""
    answers, lines = heard
    short = {line.fields["hookInstance"]: line.fields["missing"] for line in lines if line.fields["missing"]}  # type: ignore[attr-defined]
    said = [(a, card) for a in answers if a.call in short for card in a.cards]
    assert "demo-sumac" in {a.patient.id for a, _ in said}
    for answer, card in said:
        assert "\n\nNot known: " in card["detail"], (answer.patient.id, answer.service, short[answer.call])


def test_a_card_of_a_model_says_how_sure_it_is_and_that_it_is_no_diagnosis(cards: list[Card]) -> None:
    spoke = [c["detail"] for c in cards if "Model chest-generated" in c["detail"]]
    assert spoke
    for detail in spoke:
        assert "Model estimate, not a diagnosis." in detail
        assert "trained on generated patients: demonstration only" in detail
