"""CT-03 and CT-06: what film and laboratory together say of an antibiotic and of a diuretic."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from film_charts import film_reading
from pneumonia_charts import (
    CEFTRIAXONE,
    FILM,
    FUROSEMIDE,
    INFECTION,
    NAME,
    OEDEMA,
    OLD,
    PIXELS,
    card_of,
    instead,
    lab,
    report,
    rules,
    text,
    vital,
    without,
)
from r4 import validate_r4
from vignettes import Answers, Chart, Resource, concept, condition, encounter, film, medication, patient

from cds_service.advice.estimates import RESEARCH
from cds_service.evidence import Shortfall

FAILURE = condition("c1", "I50.23")
PEPTIDE, PROCALCITONIN = lab("33762-6", 6200, "pg/mL"), lab("33959-8", 0.06, "ng/mL")
COOL, CELLS, CREATININE = vital("8310-5", 36.8, "Cel"), lab("6690-2", 8.1, "10*3/uL"), lab("2160-0", 1.2, "mg/dL")
PRESSURE = vital("8480-6", 162, "mm[Hg]")
WET = (FAILURE, PEPTIDE, PROCALCITONIN, COOL, CELLS, CREATININE, PRESSURE, FILM, report("preliminary"))


def chart(
    *resources: Resource, drafts: tuple[Resource, ...] = (CEFTRIAXONE,), model: Answers | None = OEDEMA, **more: Any
) -> Chart:
    who = more.pop("who", OLD)
    given = {"hook": "order-select", "films": (PIXELS,), **more}
    return Chart((who, encounter("EMER"), *resources), drafts, model=model, **given)


# --- CT-03 ----------------------------------------------------------------------------------------------------------


def test_five_signs_of_oedema_are_laid_beside_an_antibiotic_and_nothing_is_recommended() -> None:
    card = card_of(chart(*WET))
    assert card.indicator == "info"
    assert card.summary == (
        "Findings favour oedema over pneumonia (NT-proBNP 6200 pg/mL, procalcitonin 0.06 ng/mL, film 0.91 vs 0.08)."
    )
    assert "| NT-proBNP | 6200 pg/mL, rules in from 1800 |" in text(card)  # over 75 years
    assert f"Model estimate, not a diagnosis. {RESEARCH}" in text(card)
    assert "Not known: a final report of the film" in text(card)
    assert not any(s.is_recommended for s in card.suggestions)
    diuretic, removal = (msgspec.to_builtins(a) for s in card.suggestions for a in s.actions)
    validate_r4(diuretic["resource"])
    assert diuretic["resource"]["medicationCodeableConcept"]["coding"][0]["code"] == "4603"
    assert (removal["type"], removal["resourceId"]) == ("delete", "MedicationRequest/d1")


@pytest.mark.parametrize("gone", [PEPTIDE, PROCALCITONIN, COOL, CELLS, CREATININE])
def test_any_fact_that_is_missing_silences_it(gone: Resource) -> None:
    assert chart(*without(WET, gone)).cards(NAME) == []


@pytest.mark.parametrize("old", [PEPTIDE, PROCALCITONIN, COOL, CELLS])
def test_any_fact_older_than_a_day_silences_it(old: Resource) -> None:
    assert chart(*instead(WET, {**old, "effectiveDateTime": "2026-03-09T13:50:00Z"})).cards(NAME) == []


@pytest.mark.parametrize(
    "changed",
    [
        lab("33762-6", 1700, "pg/mL"),  # under 1800 at 81 years
        lab("33959-8", 0.10, "ng/mL"),
        vital("8310-5", 38.0, "Cel"),
        lab("6690-2", 14.0, "10*3/uL"),
        lab("2160-0", 2.6, "mg/dL"),  # eGFR below 30: the peptide means nothing
        lab("33762-6", 6200, "pg/mL", status="preliminary"),
        vital("8480-6", 84, "mm[Hg]"),
        report("final"),  # radiology has the last word
    ],
)
def test_one_fact_that_points_elsewhere_silences_it(changed: Resource) -> None:
    assert chart(*instead(WET, changed)).cards(NAME) == []


def answers(pneumonia: tuple[float, float, float], oedema: tuple[float, float, float]) -> Answers:
    return dataclasses.replace(OEDEMA, given={"finding.pneumonia": pneumonia, "finding.edema": oedema})


@pytest.mark.parametrize(
    "given",
    [
        chart(*WET, model=None),
        chart(*WET, model=answers((0.12, 0.08, 0.18), (0.91, 0.86, 0.95))),
        chart(*WET, model=answers((0.08, 0.04, 0.14), (0.79, 0.74, 0.85))),
        chart(*WET, model=answers((0.08, 0.01, 0.40), (0.91, 0.86, 0.95))),  # wide across the threshold
        chart(*WET, model=dataclasses.replace(OEDEMA, abstained="not a frontal film")),
        chart(*WET, profile="non_device"),
        chart(*WET, now="2026-03-11T11:51:00Z"),
        chart(*WET, who=patient("male", "2010-04-04")),
        chart(*WET, condition("c2", "Z99.2")),
        chart(*WET, condition("c2", "C34.11"), medication("a1", "1721560", "osimertinib 80 mg")),
        chart(*WET, drafts=({**CEFTRIAXONE, "reasonCode": [concept("http://hl7.org/fhir/sid/icd-10-cm", "N39.0")]},)),
        chart(*WET, selections=()),
        chart(*WET, shortfalls=(Shortfall("reports", "timeout"),)),
    ],
)
def test_without_the_film_the_profile_or_the_question_nothing_is_said(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_bnp_serves_where_nt_probnp_was_not_measured_but_not_under_sacubitril() -> None:
    bnp = lab("30934-4", 900, "pg/mL")
    given = instead(WET, {**bnp, "id": PEPTIDE["id"]})
    assert card_of(chart(*given)).summary.startswith("Findings favour oedema over pneumonia (BNP 900 pg/mL")
    assert chart(*given, medication("a1", "1656328", "sacubitril valsartan")).cards(NAME) == []


def test_furosemide_is_not_offered_beside_a_loop_diuretic_or_against_an_allergy() -> None:
    torsemide = medication("a1", "38413", "torsemide 20 mg daily")
    labels = [s.label for s in card_of(chart(*WET, torsemide)).suggestions]
    assert labels == ["Remove the antibiotic draft"]
    allergy = {
        "resourceType": "AllergyIntolerance",
        "id": "al1",
        "clinicalStatus": concept("http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "active"),
        "code": concept("http://www.nlm.nih.gov/research/umls/rxnorm", "4603", "furosemide"),
        "patient": {"reference": "Patient/p1"},
    }
    assert [s.label for s in card_of(chart(*WET, allergy)).suggestions] == ["Remove the antibiotic draft"]


def test_where_the_networks_place_the_fluid_is_said_and_of_what_is_not_there_no_place_is() -> None:
    seen = film_reading("left_lower", finding="edema")
    both = dataclasses.replace(seen, places={**seen.places, **film_reading("right_mid", finding="pneumonia").places})
    card = card_of(chart(*WET, model=dataclasses.replace(OEDEMA, reading=both)))
    assert "| Oedema on film | 0.91 (0.86 to 0.95), left lower zone |" in text(card)
    assert "right mid zone" not in text(card)


def test_the_film_before_stands_beside_the_newest() -> None:
    earlier, pixels = film(2, "2026-03-07T09:00:00Z")
    model = dataclasses.replace(
        OEDEMA, prior={"finding.edema": (0.20, 0.12, 0.29), "finding.pneumonia": (0.05, 0.02, 0.1)}
    )
    card = card_of(chart(*WET, earlier, films=(PIXELS, pixels), model=model))
    assert "0.91 (0.86 to 0.95); 0.20 on 2026-03-07" in text(card)
    assert "an earlier film" not in text(card)


def test_fahrenheit_order_of_resources_and_other_patients_change_nothing() -> None:
    given = chart(*WET)
    mixed = dataclasses.replace(
        given,
        resources=(
            {**lab("33959-8", 9, "ng/mL", "2026-03-10T13:40:00Z"), "id": "x", "subject": {"reference": "Patient/p2"}},
            *given.resources[::-1],
        ),
    )
    assert text(card_of(mixed)) == text(card_of(given))
    warm = instead(WET, vital("8310-5", 98.2, "[degF]"))  # 36.8 Cel
    assert card_of(chart(*warm)).summary == card_of(given).summary


# --- CT-06 ----------------------------------------------------------------------------------------------------------

LOW = vital("8480-6", 104, "mm[Hg]")
DRY = (condition("c1", "J18.9"), LOW, FILM)


def diuretic(*resources: Resource, model: Answers | None = INFECTION, **more: Any) -> Chart:
    return chart(*resources, drafts=(FUROSEMIDE,), model=model, **more)


def test_a_diuretic_with_low_pressure_and_a_film_of_pneumonia_asks_to_reassess_volume() -> None:
    card = card_of(diuretic(*DRY))
    assert card.indicator == "info"
    assert card.summary == (
        "Diuretic with systolic 104 mmHg; findings favour pneumonia over oedema (film 0.92 vs 0.05): reassess volume."
    )
    (action,) = [a for s in card.suggestions for a in s.actions]
    assert msgspec.to_builtins(action)["resource"]["code"]["coding"][0]["code"] == "2524-7"
    assert RESEARCH in text(card)


def test_a_raised_lactate_does_as_a_low_pressure_does_and_is_not_measured_again() -> None:
    fine = vital("8480-6", 122, "mm[Hg]")
    lactate = lab("2524-7", 2.4, "mmol/L", "2026-03-10T13:00:00Z")
    card = card_of(diuretic(*instead(DRY, fine), lactate))
    assert "lactate 2.4 mmol/L" in card.summary
    assert card.suggestions == ()
    in_mg = lab("2524-7", 21.62, "mg/dL", "2026-03-10T13:00:00Z")  # 2.4 mmol/L
    assert rules(diuretic(*instead(DRY, fine), in_mg)) == ["CT-06"]


@pytest.mark.parametrize(
    "given",
    [
        diuretic(*instead(DRY, vital("8480-6", 110, "mm[Hg]"))),
        diuretic(*DRY, model=OEDEMA),
        diuretic(*DRY, model=answers((0.92, 0.87, 0.96), (0.30, 0.22, 0.39))),  # both may be there
        diuretic(*DRY, report("final")),
        diuretic(*DRY, profile="non_device"),
        diuretic(*DRY, model=None),
        chart(*DRY, model=INFECTION),  # no diuretic
    ],
)
def test_sound_pressure_or_possible_oedema_is_silent(given: Chart) -> None:
    assert "CT-06" not in rules(given)
