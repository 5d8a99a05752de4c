"""What the fused model may and may not do on cards: MX-1 to MX-4 of CLINICAL 3.5, through the services."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import film_charts as films
import msgspec
import pytest
from embolism import MAN_40
from every_rule import Pair
from imaging_charts import report as radiology_report
from model_charts import (
    OPEN,
    RESEARCH,
    RISK,
    SHIPPED,
    VITALS,
    WITH_MODEL,
    advised,
    case_of,
    clear_by,
    created,
    text,
    ward,
)
from vignettes import SERVICES, Answers, Chart, Resource, encounter, film, patient

from cds_service.cards import Card
from cds_service.manifest import load_services
from cds_service.traces import silences
from fhir_mappers.tensors import to_fusion_input
from models.checkpoint import Stored, load_checkpoint
from models.serving import Engine

RANK = {"info": 0, "warning": 1, "critical": 2}
ASKED = sorted({t for s in load_services(SERVICES).all for t in s.targets} & SHIPPED.targets.keys())
"""What the shipped services ask of the shipped model."""


@pytest.fixture(scope="module")
def shipped() -> Iterator[Engine]:
    with Engine.load(OPEN, device="cpu") as engine:
        yield engine


# --- MX-1: calibrated, or not printed -------------------------------------------------------------------------------


def allowed(**changed: object) -> Stored:
    """The shipped weights with `icu_care` judged good enough, which it is not: what would then be printed."""
    stored = load_checkpoint(OPEN)
    usable = msgspec.structs.replace(SHIPPED.targets["icu_care"], standing="usable", withheld="")
    card = msgspec.structs.replace(stored.card, targets={**SHIPPED.targets, "icu_care": usable}, **changed)
    return dataclasses.replace(stored, card=card)


def said_by(stored: Stored) -> str:
    with Engine.of(stored, OPEN.parent, device="cpu") as engine:
        return text(advised(case_of(ward(*VITALS), "deterioration", engine)))


def test_what_was_seen_was_calibrated_and_the_card_prints_a_probability() -> None:
    """MX-1: the twin of the next two tests."""
    said = said_by(allowed())
    assert "NEWS2 10" in said
    assert "90% interval" in said


def test_evidence_the_model_was_not_calibrated_on_gets_no_probability_on_the_card() -> None:
    """MX-1, MX-2: the calibration for laboratory results alone is taken out."""
    fitted = {seen: m for seen, m in SHIPPED.calibration.maps["icu_care"].items() if seen != "labs"}
    maps = {**SHIPPED.calibration.maps, "icu_care": fitted}
    said = said_by(allowed(calibration=msgspec.structs.replace(SHIPPED.calibration, maps=maps)))
    assert "NEWS2 10" in said
    assert "gave no estimate: The model was not calibrated on this combination of evidence." in said
    assert "90% interval" not in said


def test_as_shipped_severity_in_covid_is_withheld_and_the_card_says_why() -> None:
    """MX-1: 53 patients, and a Brier score worse than that of always answering their prevalence."""
    assert SHIPPED.targets["icu_care"].standing == "withheld"
    said = said_by(load_checkpoint(OPEN))
    assert "NEWS2 10" in said
    assert "Withheld: no better than always answering the prevalence, on patients kept apart." in said
    assert "apart.." not in said
    assert "90% interval" not in said


@pytest.mark.parametrize("target", ASKED)
def test_what_is_printed_has_a_brier_score_better_than_the_prevalence(target: str) -> None:
    """MX-1: always answering the prevalence p scores p (1 - p) (Brier 1950)."""
    found = SHIPPED.targets[target]
    assert found.figures is not None
    assert found.figures.brier is not None
    p = found.figures.prevalence
    assert found.standing == "withheld" or found.figures.brier.value < p * (1 - p)


@pytest.mark.parametrize("target", SHIPPED.targets)
def test_what_is_printed_has_a_reliability_slope_between_0_8_and_1_2(target: str) -> None:
    """MX-1."""
    found = SHIPPED.targets[target]
    assert found.figures is not None
    assert found.figures.slope is not None
    assert found.standing == "withheld" or 0.8 <= found.figures.slope.value <= 1.2


# --- MX-2: abstain rather than bluff --------------------------------------------------------------------------------


def test_noise_for_a_film_is_refused_by_the_shipped_model_and_no_film_card_comes(shipped: Engine) -> None:
    """MX-2: the film of the chart is grey noise; the real gate judges it."""
    case = case_of(films.two_films(), films.NAME, shipped)
    assert case.assessment is not None
    assert case.assessment.estimates
    assert all(e.probability is None for e in case.assessment.estimates.values())
    assert case.assessment.unused["imaging"]
    assert advised(case) == []
    inputs = to_fusion_input(films.two_films().record(films.NAME), shipped.spec)
    (allowed_to_speak,) = shipped.assess(inputs, timeout=60.0, targets=["finding.pneumonia"]).estimates.values()
    assert "The film was not used" in (allowed_to_speak.abstained or "")


def test_a_refused_film_takes_no_part_in_an_estimate_from_laboratory_results(shipped: Engine) -> None:
    """MX-2: the card then neither shows the film nor is labelled as one that rests on it."""
    case = case_of(ward(*VITALS), "deterioration", shipped)
    assert case.assessment is not None
    assert case.assessment.estimates["icu_care"].rested_on == {"labs"}
    said = text(advised(case))
    assert "| Chest film |" not in said
    assert RESEARCH not in said


LATERAL, LATERAL_PIXELS = film(1, "2026-03-10T13:38:00Z", "LATERAL")
SIDEWAYS = Chart((MAN_40, encounter("EMER"), LATERAL), hook="patient-view", films=(LATERAL_PIXELS,), model=films.AIR)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        (films.NAME, films.chart(model=dataclasses.replace(films.AIR, abstained="no frontal chest film"))),
        ("deterioration", ward(model=dataclasses.replace(RISK, abstained="no frontal chest film"))),
        (films.NAME, SIDEWAYS),
        (films.NAME, films.chart(who=patient("male", "2008-03-11"))),  # 18 tomorrow
        ("deterioration", ward(model=RISK, who=patient("male", "2008-03-11"))),
        (films.NAME, films.chart(model=Answers({"finding.pneumothorax": (0.85, 0.68, 0.99)}))),  # 0.31 across 0.80
        ("deterioration", ward(model=Answers({"icu_care": (0.70, 0.52, 0.83)}))),  # 0.31 across 0.60
    ],
)
def test_where_the_model_must_abstain_no_card_rests_on_it(name: str, given: Chart) -> None:
    """MX-2: the model abstains, the film is lateral, the patient under 18, or the threshold within a wide interval."""
    assert given.cards(name) == []


@pytest.mark.parametrize(
    ("name", "given"),
    [
        (films.NAME, films.chart()),
        ("deterioration", ward(model=RISK)),
        (films.NAME, films.chart(who=patient("male", "2008-03-10"))),  # 18 today
        ("deterioration", ward(model=RISK, who=patient("male", "2008-03-10"))),
        (films.NAME, films.chart(model=Answers({"finding.pneumothorax": (0.85, 0.70, 0.99)}))),  # 0.29 across 0.80
        ("deterioration", ward(model=Answers({"icu_care": (0.70, 0.54, 0.83)}))),  # 0.29 across 0.60
    ],
)
def test_one_fact_less_and_the_model_is_heard(name: str, given: Chart) -> None:
    """MX-2: the twins of the silences above."""
    assert len(given.cards(name)) == 1


# --- MX-3: the final report wins ------------------------------------------------------------------------------------


def test_a_final_report_that_denies_the_finding_silences_it_and_radiology_is_told() -> None:
    """MX-3: the report says `No pneumothorax.` against 0.94."""
    case = case_of(films.chart(films.report("final")), films.NAME, films.AIR)
    assert advised(case) == []
    assert [d.cause for d in silences(case)] == ["model and final report disagree: pneumothorax"]
    unread = case_of(films.chart(), films.NAME, films.AIR)
    assert len(advised(unread)) == 1
    assert silences(unread) == []


def read_as(conclusion: str) -> Resource:
    study = [{"reference": "ImagingStudy/study1"}]
    return radiology_report("r1", "36643-5", "2026-03-10T11:30:00Z", conclusion, imagingStudy=study)


def test_whether_the_film_is_clear_is_the_reports_word_whatever_the_model_says() -> None:
    """MX-3: both ways round, on the same film."""
    assert clear_by(0.03, read_as("Left effusion.")).cards("pe-imaging") == []
    said = text(clear_by(0.97, read_as("No acute cardiopulmonary process.")).cards("pe-imaging"))
    assert "No acute cardiopulmonary process." in said
    assert "Model" not in said


# --- MX-4: what the card says, and no treatment order by itself -----------------------------------------------------


def test_a_film_card_says_finding_place_probability_interval_and_change_against_a_dated_prior() -> None:
    """MX-4."""
    model = dataclasses.replace(films.FLUID, reading=films.film_reading("right_lower", "new"))
    (card,) = films.two_films(films.CRP, model=model).cards(films.NAME)
    assert card.summary == "New right lower zone pleural effusion vs 2026-03-07 (0.88), not yet reported."
    assert "| Pleural effusion | right lower zone | 0.88 (0.81 to 0.93) | 0.06, new |" in text([card])


def test_a_risk_card_says_what_moved_the_estimate_most_first() -> None:
    """MX-4: 0.72 is 0.50 without the film and 0.64 without the results: 22 and 8 points."""
    said = text(ward(model=RISK).cards("deterioration"))
    assert "0.72, 90% interval 0.63 to 0.80; moved by chest film +22 points, laboratory results +8 points." in said


@pytest.mark.parametrize("pair", WITH_MODEL, ids=lambda pair: str(pair.rule))
def test_no_treatment_is_recommended_and_no_warning_lowered_because_of_the_model(pair: Pair) -> None:
    """MX-4: what the same chart without a model does not recommend, none of these recommends with it."""
    (spoken,) = pair.fires.cards(pair.service)
    alone = dataclasses.replace(pair.fires, model=None).cards(pair.service)
    before = sum(len(treatments(card, recommended=True)) for card in alone)
    assert len(treatments(spoken, recommended=True)) <= before
    assert all(RANK[spoken.indicator] >= RANK[card.indicator] for card in alone)


def treatments(card: Card, *, recommended: bool = False) -> list[Resource]:
    return [r for r in created(card, recommended=recommended) if r["resourceType"] == "MedicationRequest"]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        (films.NAME, films.chart()),
        (films.NAME, films.two_films(films.CRP)),
        (films.NAME, films.course(films.ANTIBIOTIC)),
        ("deterioration", ward(model=RISK)),
    ],
)
def test_a_card_from_the_model_alone_offers_no_treatment(name: str, given: Chart) -> None:
    """MX-4: a read, a report draft or observations at most."""
    (card,) = given.cards(name)
    assert {r["resourceType"] for r in created(card)} <= {"Task", "ServiceRequest", "DiagnosticReport", "Observation"}
    assert "Model estimate, not a diagnosis." in text([card])
