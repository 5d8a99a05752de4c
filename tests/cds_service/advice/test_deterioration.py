"""deterioration: NEWS2 by rule, the model's estimate beside it or alone, and each silence."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.servicerequest import ServiceRequest
from vignettes import Answers, Chart, Resource, concept, condition, encounter, film, observation, patient, service

from cds_service.cards import Card
from cds_service.evidence import Shortfall

NAME = "deterioration"
AT = "2026-03-10T13:40:00Z"
STUDY, PIXELS = film(1, "2026-03-10T08:00:00Z", "AP")
COVID = condition("c9", "U07.1")
RISK = Answers(
    {"icu_care": (0.72, 0.63, 0.80)},
    masked={"imaging": 0.50, "labs": 0.64},
    titles={"icu_care": "In intensive care at the time of the film (COVID-19)"},
)
LABS = (
    observation("l1", "1988-5", 180, "mg/L", "2026-03-10T06:00:00Z"),
    observation("l2", "6690-2", 7.0, "10*3/uL", "2026-03-10T06:00:00Z"),
)


def vital(id_: str, code: str, value: Any, unit: str | None, at: str = AT, **more: Any) -> Resource:
    category = [concept("http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs")]
    return observation(id_, code, value, unit, at, category=category, **more)


def vitals(at: str = AT, **changed: Any) -> tuple[Resource, ...]:
    given = {"rr": 16, "spo2": 97, "o2": 0, "sbp": 120, "hr": 70, "temp": 37.0, "avpu": "Alert", **changed}
    codes = {
        "rr": ("9279-1", "/min"),
        "spo2": ("59408-5", "%"),
        "o2": ("3151-8", "L/min"),
        "sbp": ("8480-6", "mm[Hg]"),
        "hr": ("8867-4", "/min"),
        "temp": ("8310-5", "Cel"),
        "avpu": ("67775-7", None),
    }
    return tuple(vital(f"v-{k}", *(codes[k][0], v, codes[k][1]), at) for k, v in given.items() if v is not None)


SICK = {"rr": 24, "spo2": 93, "o2": 4, "sbp": 104, "hr": 116, "temp": 38.6}  # NEWS2 10, vignette S11
URGENT = {"rr": 22, "hr": 112, "temp": 38.4}  # 2 + 2 + 1 = 5


def chart(*resources: Resource, who: Resource | None = None, visit: Resource | None = None, **more: Any) -> Chart:
    return Chart(
        (who or patient("female", "1961-07-07"), visit or encounter(), *resources), hook="patient-view", **more
    )


def with_model(*resources: Resource, model: Answers = RISK, films: bool = True, **more: Any) -> Chart:
    shown = (STUDY,) if films else ()
    return chart(*resources, *shown, model=model, films=(PIXELS,) if films else (), **more)


def card_of(given: Chart, manifest: Any = None) -> Card:
    (card,) = given.cards(NAME, manifest)
    return card


def text(card: Card) -> str:
    return f"{card.summary}\n{card.detail}"


def orders(card: Card) -> list[Resource]:
    return [msgspec.to_builtins(a)["resource"] for s in card.suggestions for a in s.actions]


# --- NEWS2 ----------------------------------------------------------------------------------------------------------


def test_news2_of_7_or_more_warns_and_offers_the_response_team() -> None:
    card = card_of(chart(*vitals(**SICK), condition("c1", "J18.9")))
    assert card.indicator == "warning"
    assert card.summary == (
        "NEWS2 10 at 2026-03-10 13:40 (respiratory rate 24/min, oxygen saturation 93 %): emergency review per policy."
    )
    assert [s.label for s in card.suggestions] == [
        "Order rapid response review",
        "Order lactate",
        "Order blood cultures",
    ]
    assert card.suggestions[0].is_recommended
    for resource in orders(card):
        ServiceRequest.model_validate(resource)


def test_news2_of_5_informs_and_of_4_is_silent() -> None:
    card = card_of(chart(*vitals(**URGENT)))
    assert (card.indicator, [s.label for s in card.suggestions]) == ("info", ["Order urgent clinician review"])
    assert chart(*vitals(rr=22, hr=112)).cards(NAME) == []


def test_oxygen_and_consciousness_are_worded_as_in_a_sentence() -> None:
    confused = concept("http://snomed.info/sct", "130987000")
    answer = {**vital("v-avpu", "67775-7", "", None), "valueCodeableConcept": confused}
    answer.pop("valueString")
    card = card_of(chart(*vitals(avpu=None, o2=2), answer))
    assert "(new confusion, on oxygen)" in card.summary
    coma = card_of(chart(*vitals(avpu=None), vital("v-gcs", "9269-2", 13, "{score}")))
    assert "(coma score 13)" in coma.summary
    assert "| Consciousness | coma score 13 (3 points) |" in text(coma)


def test_a_single_item_of_3_informs_and_of_2_is_silent() -> None:
    card = card_of(chart(*vitals(rr=25)))
    assert card.indicator == "info"
    assert "single item of 3" in text(card)
    assert chart(*vitals(rr=24)).cards(NAME) == []


def test_missing_items_make_the_score_a_minimum_that_says_so() -> None:
    card = card_of(chart(*vitals(**{**SICK, "avpu": None})))
    assert card.summary.startswith("NEWS2 at least 10 at 2026-03-10 13:40")
    assert "missing consciousness" in card.summary
    assert not card.suggestions[0].is_recommended
    # the minimum must qualify by itself: the same set without its two worst items does not
    assert chart(*vitals(rr=None, o2=None, spo2=None, hr=None, sbp=104, temp=38.6)).cards(NAME) == []


@pytest.mark.parametrize(
    "given",
    [
        chart(*vitals(**SICK), visit=encounter("AMB")),
        chart(*vitals(**SICK), visit=encounter(serviceType=concept("urn:x", "ICU"))),
        chart(*vitals(at="2026-03-10T05:30:00Z", **SICK)),  # more than eight hours old
        chart(*vitals(**SICK), who=patient("female", "2011-01-01")),  # under 16
        chart(*vitals(**SICK), vital("vent", "19839-0", 18, "/min")),
        chart(*vitals(**SICK), condition("c1", "O09.90"), who=patient("female", "1996-01-01")),
        chart(*vitals(**SICK), condition("c1", "O85", onsetDateTime="2026-02-20"), who=patient("female", "1996-01-01")),
        chart(*vitals(**SICK), condition("c1", "G93.82")),
        chart(*vitals(**SICK), user="Patient/p1"),
    ],
)
def test_the_same_vital_signs_in_another_setting_get_no_card(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_a_rapid_response_review_of_the_last_six_hours_silences_and_an_older_one_does_not() -> None:
    review = {
        "resourceType": "ServiceRequest",
        "id": "r1",
        "status": "active",
        "intent": "order",
        "code": concept("urn:ordersight:request", "rapid-response-review"),
        "subject": {"reference": "Patient/p1"},
    }
    assert chart(*vitals(**SICK), {**review, "authoredOn": "2026-03-10T09:00:00Z"}).cards(NAME) == []
    assert len(chart(*vitals(**SICK), {**review, "authoredOn": "2026-03-10T07:00:00Z"}).cards(NAME)) == 1


def test_scale_2_is_used_with_documented_hypercapnia_alone() -> None:
    saturation = {"spo2": 89, "o2": 2, "rr": 22}
    assert card_of(chart(*vitals(**saturation))).summary.startswith("NEWS2 7")
    assert chart(*vitals(**saturation), condition("c1", "J96.12")).cards(NAME) == []  # 0 + 2 + 2 = 4
    high = card_of(chart(*vitals(**{**saturation, "spo2": 98}), condition("c1", "J96.12")))
    assert "scale 2" in text(high)


def test_do_not_resuscitate_is_a_row_and_no_silence() -> None:
    card = card_of(chart(*vitals(**SICK), condition("c1", "Z66")))
    assert "| Code status | do not resuscitate" in text(card)


def test_a_recent_lactate_is_not_ordered_again() -> None:
    recent = observation("l1", "2524-7", 3.1, "mmol/L", "2026-03-10T13:00:00Z")
    assert "Order lactate" not in [s.label for s in card_of(chart(*vitals(**SICK), recent)).suggestions]


def test_preliminary_vital_signs_inform_and_do_not_warn() -> None:
    early = tuple({**v, "status": "preliminary"} for v in vitals(**SICK))
    assert card_of(chart(*early)).indicator == "info"


def test_fahrenheit_gives_the_same_card_but_for_the_printed_value() -> None:
    celsius, fahrenheit = vitals(**{**SICK, "temp": 38.0}), vitals(**{**SICK, "temp": None})
    hot = vital("v-temp", "8310-5", 100.4, "[degF]")
    one, other = card_of(chart(*celsius)), card_of(chart(*fahrenheit, hot))
    assert text(one) == text(other)
    worse = vital("v-temp", "8310-5", 102.4, "[degF]")  # 39.1 C scores 2
    assert card_of(chart(*fahrenheit, worse)).summary.startswith("NEWS2 11")


def test_an_unknown_age_is_said_and_does_not_silence() -> None:
    assert "Not known: age" in text(card_of(chart(*vitals(**SICK), who=patient("female", None))))


# --- the model ------------------------------------------------------------------------------------------------------


def test_a_risk_at_the_threshold_informs_and_names_the_film_and_the_results_it_rests_on() -> None:
    card = card_of(with_model(*vitals(), *LABS, COVID))
    assert card.indicator == "info"
    assert card.summary == (
        "Estimate 0.72 for intensive-care severity in COVID-19 (chest film, C-reactive protein 180 mg/L): "
        "observe more often."
    )
    detail = card.detail or ""
    assert "| Chest film | AP view | 2026-03-10 08:00 | Imaging archive |" in detail
    assert "| C-reactive protein | 180 mg/L, high | 2026-03-10 06:00 | Laboratory |" in detail
    assert "In intensive care at the time of the film (COVID-19) 0.72, 90% interval 0.63 to 0.80" in detail
    assert "chest film +22 points, laboratory results +8 points" in detail
    assert "Model estimate, not a diagnosis. Research use: not cleared." in detail
    assert "Model chest-open@1 (trained on open data sets)" in detail
    assert [s.label for s in card.suggestions] == ["Order observations every 4 h"]
    (order,) = orders(card)
    ServiceRequest.model_validate(order)
    assert order["occurrenceTiming"]["repeat"] == {"frequency": 1, "period": 4.0, "periodUnit": "h"}


def test_results_out_of_range_come_before_those_within() -> None:
    detail = card_of(with_model(*LABS, COVID)).detail or ""
    assert detail.index("180 mg/L, high") < detail.index("| 7.0 10^3/uL |")


@pytest.mark.parametrize(
    "given",
    [
        with_model(*LABS, COVID, model=Answers({"icu_care": (0.59, 0.50, 0.68)})),  # below the threshold of 0.60
        with_model(*LABS),  # not of the population the target was trained on
        with_model(*LABS, COVID, model=dataclasses.replace(RISK, abstained="no frontal film")),
        with_model(*LABS, COVID, model=Answers({"icu_care": (0.65, 0.40, 0.85)})),  # MX-2: too wide across it
        with_model(*LABS, COVID, who=patient("female", "2009-01-01")),  # 17
        with_model(*LABS, COVID, visit=encounter("AMB")),
        chart(*LABS, COVID),
        with_model(*LABS, COVID, now="2026-03-13T08:01:00Z"),  # film and results are more than three days old
    ],
)
def test_below_the_threshold_abstaining_or_outside_its_population_the_model_is_silent(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_an_interval_wider_than_the_limit_is_spoken_where_it_does_not_hold_the_threshold() -> None:
    assert len(with_model(*LABS, COVID, model=Answers({"icu_care": (0.85, 0.61, 0.99)})).cards(NAME)) == 1


def test_a_patient_without_birth_date_or_vital_signs_is_judged_and_both_are_named() -> None:
    card = card_of(with_model(*LABS, COVID, who=patient("male", None)))
    assert "NEWS2 (no vital signs in 8 h); age" in text(card)


def test_when_news2_fires_the_model_is_one_line_on_its_card() -> None:
    card = card_of(with_model(*vitals(**SICK), *LABS, COVID))
    assert card.indicator == "warning"
    assert "Model chest-open@1" in text(card)
    assert "| Chest film | AP view | 2026-03-10 08:00 |" in text(card)
    assert "Rule DT-01 v1" in text(card)
    low = card_of(with_model(*vitals(**SICK), *LABS, COVID, model=Answers({"icu_care": (0.05, 0.02, 0.09)})))
    assert low.indicator == "warning"  # a model never lowers what the rule says


def test_an_abstaining_model_is_said_on_the_news2_card() -> None:
    model = dataclasses.replace(RISK, abstained="the film is not a frontal chest film")
    card = card_of(with_model(*vitals(**SICK), *LABS, COVID, model=model))
    assert "gave no estimate: the film is not a frontal chest film" in text(card)


def test_a_busy_model_costs_the_estimate_and_not_the_card() -> None:
    card = card_of(chart(*vitals(**SICK), shortfalls=(Shortfall("model", "busy"),)))
    assert "model estimate (the model was busy)" in text(card)


def test_with_the_archive_down_the_card_still_comes_and_says_that_the_film_was_not_used() -> None:
    given = with_model(*LABS, COVID, films=False)
    down = dataclasses.replace(
        given, resources=(*given.resources, STUDY), shortfalls=(Shortfall("films", "unreachable"),)
    )
    card = card_of(down)
    assert "Not known: NEWS2 (no vital signs in 8 h); chest film (the server could not be reached)" in text(card)
    assert "Research use" not in text(card)
    assert "Chest film |" not in text(card)


def test_without_the_imaging_profile_no_film_is_used_or_named_as_evidence() -> None:
    card = card_of(with_model(*LABS, COVID, profile="non_device"))
    assert "chest film (not used: image analysis is switched off here)" in text(card)
    assert "| Chest film" not in text(card)
    assert "Research use" not in text(card)


def test_a_model_trained_on_generated_patients_is_said_to_be_a_demonstration() -> None:
    model = Answers({"deterioration_24h": (0.55, 0.45, 0.62)}, tier="generated", model="chest-generated@1")
    card = card_of(with_model(*vitals(), *LABS, model=model))
    assert "Model chest-generated@1 (trained on generated patients: demonstration only)" in text(card)
    assert card.summary.startswith("Estimate 0.55 for worsening within 24 h")


def test_a_rule_that_is_switched_off_is_silent() -> None:
    manifest = service(NAME)
    off = {k: msgspec.structs.replace(r, on=False) for k, r in manifest.rules.items()}
    changed = msgspec.structs.replace(manifest, rules=off)
    assert chart(*vitals(**SICK)).cards(NAME, changed) == []
    assert with_model(*LABS, COVID).cards(NAME, changed) == []


def test_the_longest_fillers_stay_within_the_limits() -> None:
    worst = "*|_<b>" * 60
    model = Answers(
        {"icu_care": (0.72, 0.63, 0.80)},
        titles={"icu_care": "In intensive care at the time of the film (COVID-19), " * 2},
        masked={"imaging": 0.5, "labs": 0.64},
        model="chest-open-with-a-very-long-name@2026.11.30",
    )
    many = tuple(
        observation(
            f"x{code}", code, 123456.789 if code != "1988-5" else 987.654321, unit, "2026-03-10T06:00:00.5+14:00"
        )
        for code, unit in (("1988-5", "mg/L"), ("14804-9", "U/L"), ("6690-2", "10*3/uL"), ("731-0", "10*3/uL"))
    )
    lost = tuple(Shortfall(key, "unreachable") for key in ("vitals", "conditions", "encounter", "goals", "model"))
    dnr = condition("c1", "Z66", code=concept("http://hl7.org/fhir/sid/icd-10-cm", "Z66", worst))
    for resources in ((), vitals(**{**SICK, "avpu": None})):
        given = with_model(*resources, *many, COVID, dnr, model=model, who=patient("female", None), shortfalls=lost)
        card = card_of(given)
        assert len(card.summary) < 140
        assert len(card.detail or "") <= 1200
        assert "Model estimate, not a diagnosis" in text(card)


def test_other_patients_and_entered_in_error_vital_signs_change_nothing() -> None:
    stranger = [{**v, "id": f"s{i}", "subject": {"reference": "Patient/p2"}} for i, v in enumerate(vitals(**SICK))]
    wrong = [{**v, "id": f"w{i}", "status": "entered-in-error"} for i, v in enumerate(vitals(**SICK))]
    assert chart(*vitals(), *stranger, *wrong).cards(NAME) == []
    alone, beside = card_of(chart(*vitals(**SICK))), card_of(chart(*vitals(**SICK), *stranger, *wrong))
    assert text(alone) == text(beside)


def test_the_order_of_the_vital_signs_changes_nothing() -> None:
    given = vitals(**SICK)
    assert text(card_of(chart(*given))) == text(card_of(chart(*reversed(given))))
