"""LC-01, LC-02 and LC-03: which drug for this tumour's genes."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from lung_charts import (
    CARBOPLATIN,
    L858R,
    NAME,
    OSIMERTINIB,
    PEMBROLIZUMAB,
    PLASMA,
    TISSUE,
    cancer,
    card_of,
    chart,
    fusion,
    negative,
    report,
    rules,
    text,
    variant,
)
from r4 import validate_r4
from vignettes import Chart, Resource, concept, condition, encounter, medication, observation, patient

from cds_service.evidence import Shortfall
from fhir_mappers.codes import drugs


def drafted(given: Chart) -> list[str]:
    """Names of the drugs the card offers as drafts."""
    actions = [msgspec.to_builtins(a) for s in card_of(given).suggestions for a in s.actions]
    made = [
        a["resource"] for a in actions if a["type"] == "create" and a["resource"]["resourceType"] == "MedicationRequest"
    ]
    for resource in made:
        validate_r4(resource)
    return [r["medicationCodeableConcept"]["coding"][0]["display"] for r in made]


# --- LC-02 ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_inhibitor_before_osimertinib_in_egfr_l858r_is_critical() -> None:
    card = card_of(chart(L858R))
    assert card.indicator == "critical"
    assert card.summary == (
        "EGFR p.Leu858Arg (2026-03-02): targeted therapy first; do not start pembrolizumab before osimertinib."
    )
    assert "pneumonitis" in text(card)
    removal, offer = card.suggestions
    assert removal.is_recommended
    assert not offer.is_recommended
    assert removal.actions[0].resource_id == "MedicationRequest/m1"
    assert drafted(chart(L858R)) == ["osimertinib"]


@pytest.mark.parametrize(
    ("given", "name", "offered"),
    [
        (variant("EGFR", "p.Glu746_Ala750del"), "EGFR p.Glu746_Ala750del", ["osimertinib"]),
        (variant("EGFR", "p.E746_A750del"), "EGFR p.Glu746_Ala750del", ["osimertinib"]),  # one-letter HGVS
        (variant("EGFR", "p.L858R"), "EGFR p.Leu858Arg", ["osimertinib"]),
        (fusion("ALK"), "ALK fusion", ["alectinib", "brigatinib"]),
        (fusion("ROS1"), "ROS1 fusion", ["entrectinib", "crizotinib"]),  # repotrectinib has no confirmed RxNorm code
        (fusion("RET"), "RET fusion", ["selpercatinib", "pralsetinib"]),
    ],
)
def test_every_driver_of_the_rule_fires_and_offers_its_matched_drugs(
    given: Resource, name: str, offered: list[str]
) -> None:
    card = card_of(chart(given, observation("k1", "2160-0", 0.8, "mg/dL", "2026-03-09T08:00:00Z")))
    assert card.indicator == "critical"
    assert card.summary.startswith(f"{name} (2026-03-02)")
    assert drafted(chart(given, observation("k1", "2160-0", 0.8, "mg/dL", "2026-03-09T08:00:00Z"))) == offered


@pytest.mark.parametrize(
    "given",
    [
        chart(variant("EGFR", "p.Leu858Arg", source="germline")),  # SR-10
        chart(variant("EGFR", "p.Leu858Arg", significance="Uncertain significance")),
        chart(variant("EGFR", "p.Leu858Arg", significance="Benign")),
        chart(variant("EGFR", "p.Thr790Met")),
        chart(variant("TP53", "p.Arg175His")),
        chart(variant("EGFR", "p.Leu858Arg", status="entered-in-error")),
        chart({**L858R, "subject": {"reference": "Patient/p2"}}),
        chart(L858R, tumour=cancer("IIB")),  # adjuvant
        chart(L858R, tumour=cancer("IVA", "small-cell")),
        chart(L858R, OSIMERTINIB),  # a later line
        chart(L858R, {**OSIMERTINIB, "status": "completed"}),
        chart(L858R, condition("c2", "Z00.6")),  # in a trial
        chart(L858R, drafts=(CARBOPLATIN,)),
        chart(L858R, who=patient("female", "2010-03-21")),
        chart(L858R, user="Patient/p1"),
        chart(L858R, observation("x", "69548-6", "", None, "2026-03-02"), tumour=condition("c1", "C50.9")),
    ],
)
def test_germline_uncertain_early_later_line_or_other_tumours_are_silent_about_the_driver(given: Chart) -> None:
    assert "LC-02" not in rules(given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (chart(L858R, tumour=cancer(None)), "stage (needs IIIB to IV, or a metastasis, on record)"),
        (chart(variant("EGFR", "p.Leu858Arg", source="unknown")), "whether EGFR was found in the tumour"),
        (chart(variant("EGFR", "p.Leu858Arg", significance="")), "clinical significance of the EGFR variant"),
        (dataclasses.replace(chart(L858R), shortfalls=(Shortfall("meds", "timeout"),)), "medication history"),
    ],
)
def test_what_is_not_known_brings_the_card_down_to_info_and_is_named(given: Chart, named: str) -> None:
    card = card_of(given)
    assert card.indicator == "info"
    assert named in text(card).partition("Not known: ")[2]
    assert not any(s.is_recommended for s in card.suggestions)


def test_no_matched_drug_is_offered_on_a_variant_of_unknown_origin() -> None:
    assert drafted(chart(variant("EGFR", "p.Leu858Arg", source="unknown"))) == []


@pytest.mark.parametrize("stage", ["IIIB", "IIIC", "IV", "IVB", "4A", "Stage IVA"])
def test_every_way_to_write_an_advanced_stage_counts(stage: str) -> None:
    assert card_of(chart(L858R, tumour=cancer(stage))).indicator == "critical"


def test_a_metastasis_stands_for_a_stage_and_a_lymph_node_does_not() -> None:
    assert card_of(chart(L858R, condition("c2", "C79.31"), tumour=cancer(None))).indicator == "critical"
    assert card_of(chart(L858R, condition("c2", "C77.1"), tumour=cancer(None))).indicator == "info"
    assert card_of(chart(L858R, condition("c2", "C78.7"), tumour=cancer("IIB"))).indicator == "critical"


def test_a_stage_group_observation_counts_as_the_condition_does() -> None:
    staging = {
        **{k: v for k, v in observation("s1", "21908-9", "", None, "2026-02-25").items() if k != "valueString"},
        "valueCodeableConcept": concept("http://cancerstaging.org", "4A"),
    }
    assert card_of(chart(L858R, staging, tumour=cancer(None))).indicator == "critical"


def test_a_drug_that_fails_the_safety_check_is_not_offered() -> None:
    long_qt = observation("q1", "8636-3", 512, "ms", "2026-03-09T08:00:00Z")
    assert drafted(chart(L858R, long_qt)) == []
    assert drafted(chart(L858R, condition("c2", "J84.10"))) == []
    assert "osimertinib" in card_of(chart(L858R, long_qt)).summary


def test_a_checkpoint_inhibitor_given_before_is_shown_and_the_card_informs() -> None:
    earlier = medication("a2", "1547545", "pembrolizumab", "completed", authoredOn="2026-01-10T09:00:00Z")
    card = card_of(chart(L858R, earlier))
    assert card.indicator == "info"
    assert "| Checkpoint inhibitor before | pembrolizumab | 2026-01-10 |" in text(card)


def test_pd_l1_is_shown_and_changes_nothing() -> None:
    pdl1 = observation("p1", "85147-7", "90 %", None, "2026-03-02")
    card = card_of(chart(L858R, pdl1))
    assert "| PD-L1 (22C3) | 90 % |" in text(card)
    assert card.summary == card_of(chart(L858R)).summary


# --- LC-01 ----------------------------------------------------------------------------------------------------------


def untested(*resources: Resource, **more: Any) -> Chart:
    return chart(*resources, **more)


def test_a_checkpoint_inhibitor_before_egfr_and_alk_are_known_is_held() -> None:
    card = card_of(untested())
    assert card.indicator == "warning"
    assert card.summary == (
        "Driver testing incomplete (EGFR and ALK not tested): hold checkpoint inhibitor this cycle."
    )
    hold, tissue, plasma = (msgspec.to_builtins(a)["resource"] for s in card.suggestions for a in s.actions)
    assert (hold["id"], hold["status"]) == ("m1", "on-hold")
    assert tissue["code"]["text"] == "next-generation sequencing of tumour tissue"
    assert plasma["code"]["text"] == "plasma tumour sequencing"
    for resource in (hold, tissue, plasma):
        validate_r4(resource)


def test_negative_plasma_does_not_exclude_a_driver_and_tissue_does() -> None:
    plasma = (PLASMA, negative("EGFR", "g1", "plasma"), negative("ALK", "g2", "plasma"))
    card = card_of(untested(*plasma))
    assert card.summary == (
        "Driver testing incomplete (plasma negative, tissue not done): hold checkpoint inhibitor this cycle."
    )
    assert [s.label for s in card.suggestions][1:] == ["Order sequencing of tissue"]
    tissue = (TISSUE, negative("EGFR", "g3", "tissue"), negative("ALK", "g4", "tissue"))
    assert untested(*plasma, *tissue).cards(NAME) == []


def test_tissue_under_way_is_said_and_not_ordered_again() -> None:
    pending = {
        "resourceType": "DiagnosticReport",
        "id": "gr1",
        "status": "registered",
        "code": concept("http://loinc.org", "51969-4", "Tissue panel"),
        "subject": {"reference": "Patient/p1"},
        "issued": "2026-03-08T09:00:00Z",
    }
    plasma = (PLASMA, negative("EGFR", "g1", "plasma"), negative("ALK", "g2", "plasma"))
    card = card_of(untested(*plasma, pending))
    assert "(plasma negative, tissue pending)" in card.summary
    assert [s.label for s in card.suggestions] == ["Hold the checkpoint inhibitor this cycle"]


def test_a_final_genetic_report_without_coded_results_is_pointed_to() -> None:
    final = {
        "resourceType": "DiagnosticReport",
        "id": "gr1",
        "status": "final",
        "code": concept("http://loinc.org", "51969-4", "Tissue panel"),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-01T09:00:00Z",
    }
    card = card_of(untested(final))
    assert card.indicator == "info"
    assert "| Genetic report, not coded | Tissue panel | 2026-03-01 |" in text(card)


def test_one_gene_tested_leaves_the_other() -> None:
    assert "(ALK not tested)" in card_of(untested(negative("EGFR", "g1"))).summary


def test_a_germline_result_of_egfr_is_no_test_of_the_tumour() -> None:
    germline = (negative("EGFR", "g1", source="germline"), negative("ALK", "g2", source="germline"))
    assert rules(untested(*germline)) == ["LC-01"]


@pytest.mark.parametrize(
    "given",
    [
        untested(negative("EGFR", "g1"), negative("ALK", "g2")),
        untested(tumour=cancer("IVA", "squamous")),
        untested(tumour=cancer("IIIA")),
        untested(tumour=cancer("IVA", "small-cell")),
        untested(drafts=(CARBOPLATIN,)),
        untested(OSIMERTINIB),
        untested(medication("a2", "1547545", "pembrolizumab", authoredOn="2026-01-10T09:00:00Z")),
        dataclasses.replace(untested(), shortfalls=(Shortfall("genes", "timeout"),)),
    ],
)
def test_tested_squamous_early_or_later_disease_needs_no_testing_card(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_squamous_cancer_in_somebody_who_never_smoked_is_tested_as_well() -> None:
    never = {
        **{k: v for k, v in observation("s1", "72166-2", "", None, "2026-01-05").items() if k != "valueString"},
        "valueCodeableConcept": concept("http://loinc.org", "LA18978-9"),
    }
    assert rules(untested(never, tumour=cancer("IVA", "squamous"))) == ["LC-01"]


@pytest.mark.parametrize("tumour", [cancer(None), cancer("IVA", None)])
def test_without_stage_or_histology_the_testing_card_informs(tumour: Resource) -> None:
    assert card_of(untested(tumour=tumour)).indicator == "info"


# --- LC-03 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name", "options", "offered"),
    [
        (variant("EGFR", "p.Ala767_Val769dup"), "EGFR p.Ala767_Val769dup", "amivantamab", ["amivantamab"]),
        (variant("BRAF", "p.Val600Glu"), "BRAF p.Val600Glu", "dabrafenib", ["dabrafenib", "trametinib"]),
        (variant("MET", "p.Asp1010Asn"), "MET p.Asp1010Asn", "capmatinib or tepotinib", ["capmatinib", "tepotinib"]),
        (variant("KRAS", "p.Gly12Cys"), "KRAS p.Gly12Cys", "after first line", []),
        (variant("ERBB2", "p.Tyr772_Ala775dup"), "HER2 p.Tyr772_Ala775dup", "trastuzumab deruxtecan", []),
        (fusion("NTRK1"), "NTRK1 fusion", "larotrectinib", ["larotrectinib", "entrectinib"]),
    ],
)
def test_every_other_driver_shows_its_options_by_line_of_therapy(
    given: Resource, name: str, options: str, offered: list[str]
) -> None:
    kidney = observation("k1", "2160-0", 0.8, "mg/dL", "2026-03-09T08:00:00Z")
    for draft in (PEMBROLIZUMAB, CARBOPLATIN):
        call = chart(given, kidney, drafts=(draft,))
        card = card_of(call)
        assert card.indicator == "info"
        assert card.summary.startswith(f"{name} (2026-03-02)")
        assert options in card.summary
        assert drafted(call)[: len(offered)] == offered
        assert bool(drafted(call)) == bool(offered)


def test_kras_g12c_becomes_an_option_once_a_first_line_was_given() -> None:
    earlier = medication("a2", "40048", "carboplatin", "completed", authoredOn="2025-09-10T09:00:00Z")
    card = card_of(chart(variant("KRAS", "p.Gly12Cys"), earlier))
    assert "after first line" not in card.summary
    assert "| Treated before | carboplatin | 2025-09-10 |" in text(card)


@pytest.mark.parametrize(
    "given",
    [
        chart(variant("KRAS", "p.Gly12Asp")),
        chart(variant("BRAF", "p.Val600Glu", source="germline")),
        chart(variant("BRAF", "p.Val600Glu", significance="Uncertain significance")),
        chart(variant("BRAF", "p.Val600Glu"), medication("a2", "1424911", "dabrafenib", "stopped")),
        chart(variant("BRAF", "p.Val600Glu"), drafts=(PEMBROLIZUMAB, medication("m3", "1424911", "dabrafenib"))),
        chart(variant("EGFR", "p.Ala763_Tyr764insPheGlnGluAla")),  # answers to EGFR inhibitors
        chart(variant("DNMT3A", "p.Arg882His")),
        chart(variant("BRAF", "p.Val600Glu"), tumour=cancer("IIA")),
    ],
)  # fmt: skip
def test_other_variants_germline_considered_or_early_disease_show_no_options(given: Chart) -> None:
    assert "LC-03" not in rules(given)


def test_every_drug_a_card_can_offer_is_in_the_drug_table() -> None:
    known = {d.ingredient for d in drugs()}
    from fhir_mappers.drivers import drivers

    assert {name for d in drivers() for option in d.options for name in option} <= known


# --- both -----------------------------------------------------------------------------------------------------------


def test_the_order_of_resources_and_what_belongs_to_others_change_nothing() -> None:
    given = chart(L858R, report("r1", "2026-02-25T10:00:00Z", "4.1 cm mass."))
    strange = [
        {**variant("ALK", "p.Gly1202Arg", id_="x1"), "subject": {"reference": "Patient/p2"}},
        {**OSIMERTINIB, "id": "x2", "subject": {"reference": "Patient/p2"}},
        {**OSIMERTINIB, "id": "x3", "status": "entered-in-error"},
    ]
    mixed = dataclasses.replace(given, resources=(*strange, *given.resources[::-1]))
    assert text(card_of(mixed)) == text(card_of(given))


def test_on_order_select_only_a_touched_order_raises_the_question() -> None:
    assert rules(chart(L858R, hook="order-select")) == ["LC-02"]
    assert chart(L858R, hook="order-select", selections=("MedicationRequest/other",)).cards(NAME) == []


def test_comfort_care_silences_everything() -> None:
    comfort = condition("c9", "Z51.5")
    comfort["code"] = concept("http://snomed.info/sct", "133918004")
    assert chart(L858R, comfort).cards(NAME) == []
    assert "do not resuscitate" in text(card_of(chart(L858R, condition("c9", "Z66"), visit=encounter("AMB"))))
