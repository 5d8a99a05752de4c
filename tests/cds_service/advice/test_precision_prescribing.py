"""precision-prescribing as a whole: one card, its limits, its switches, its codes."""

from __future__ import annotations

from datetime import date

import msgspec
from genetics import DAILY, chart, drug_order, gene
from prescribing import (
    AZITHROMYCIN,
    CAPECITABINE,
    CLOPIDOGREL,
    IBUPROFEN,
    IN,
    NAME,
    PNEUMONIA,
    POOR,
    STENT,
    WEIGHT,
    actions,
    card_of,
    cards,
    changed,
    injury,
    lab,
    labels,
    qtc,
    with_rule,
)
from r4 import suggested_resources
from vignettes import concept, condition, patient, service

from cds_service.evidence import Shortfall
from fhir_mappers.codes import drugs
from fhir_mappers.pgx import pgx_rows


def test_two_drugs_with_problems_share_one_card_with_the_loudest_first() -> None:
    given = chart(POOR, STENT, qtc(512), PNEUMONIA, visit=IN, drafts=({**AZITHROMYCIN, "id": "m2"}, CLOPIDOGREL))
    card = card_of(given)
    assert card.indicator == "critical"
    assert card.summary.startswith("CYP2C19 poor metabolizer")
    assert "Also: QTc 512 ms: replace azithromycin." in (card.detail or "")
    assert labels(card) == [
        "Replace clopidogrel with ticagrelor",
        "Replace azithromycin with doxycycline",
    ]
    assert card.selection_behavior == "any"  # both may be taken, so each draft has one replacement


def test_two_drafts_of_one_drug_are_one_problem() -> None:
    second = drug_order("32968", "clopidogrel 300 mg once", id_="m2")
    card = card_of(chart(POOR, STENT, drafts=(CLOPIDOGREL, second)))
    deleted = [a["resourceId"] for a in actions(card, "Replace clopidogrel with ticagrelor") if a["type"] == "delete"]
    assert deleted == ["MedicationRequest/m1", "MedicationRequest/m2"]
    assert "and 1 more order of it" in (card.detail or "")


def test_do_not_resuscitate_is_stated_and_silences_nothing() -> None:
    assert "do not resuscitate" in (
        card_of(chart(POOR, STENT, condition("z", "Z66"), drafts=(CLOPIDOGREL,))).detail or ""
    )


def test_a_rule_a_row_and_a_tier_can_be_changed_by_the_site_without_code() -> None:
    given = chart(POOR, STENT, drafts=(CLOPIDOGREL,))
    assert cards(given, with_rule("PGX", on=False)) == []
    assert cards(given, changed(settings={"rows_off": "PGX-001 PGX-010 PGX-011 PGX-012"})) == []
    assert card_of(given, with_rule("PGX", tier="warning")).indicator == "warning"
    long = chart(qtc(512), visit=IN, drafts=(AZITHROMYCIN,))
    assert cards(long, with_rule("QT-01", on=False)) == []
    assert card_of(long, with_rule("QT-01", tier="info")).indicator == "info"
    assert cards(chart(*injury(2.2), visit=IN, drafts=(IBUPROFEN,)), with_rule("NEPH-01", on=False)) == []
    assert cards(chart(drafts=(CAPECITABINE,)), with_rule("PGX-TEST", on=False)) == []


def test_a_table_past_its_review_date_informs_only_and_says_so() -> None:
    card = card_of(chart(POOR, STENT, drafts=(CLOPIDOGREL,)), with_rule("PGX", review_by=date(2026, 3, 9)))
    assert card.indicator == "info"
    assert "its review date has passed" in (card.detail or "")
    assert not any(s.is_recommended for s in card.suggestions)


def test_the_manifest_has_every_rule_with_source_owner_and_review_date_and_every_class_of_its_tables() -> None:
    manifest = service(NAME)
    assert set(manifest.rules) == {"PGX", "PGX-TEST", "QT-01", "QT-02", "NEPH-01"}
    for rule in manifest.rules.values():
        assert rule.citation
        assert rule.url.startswith("https://")
        assert rule.owner
        assert rule.review_by > date(2026, 11, 1)
    genetic = {r.rxcui for r in pgx_rows()}
    wanted = {d.class_id for d in drugs() if d.rxcui in genetic or d.qt or d.nephrotoxin == "direct"}
    assert {frozenset(a.drug_classes) for a in manifest.applies_to.values()} == {frozenset(wanted)}
    assert set(manifest.applies_to) == set(manifest.hooks)


def test_a_refill_is_judged_like_an_order_that_goes_on() -> None:
    given = chart(POOR, STENT, drafts=(CLOPIDOGREL,), hook="medication-refill")
    assert card_of(given).summary.startswith("CYP2C19 poor metabolizer")
    genes = (gene("CYP2C9", genotype="*3/*3"), gene("VKORC1", genotype="-1639 AA"))
    assert cards(chart(*genes, drafts=(drug_order("11289", "warfarin"),), hook="medication-refill")) == []


def test_the_order_of_resources_and_strangers_among_them_change_nothing() -> None:
    resources = (POOR, STENT, qtc(512), lab("2823-3", 3.3), WEIGHT)
    stranger = {**gene("CYP2C19", genotype="*1/*1", id_="other"), "subject": {"reference": "Patient/p2"}}

    one = card_of(chart(*resources, visit=IN, drafts=(CLOPIDOGREL,)))
    two = card_of(chart(stranger, *reversed(resources), visit=IN, drafts=(CLOPIDOGREL,)))
    assert (one.summary, one.detail, labels(one)) == (two.summary, two.detail, labels(two))


LONG = "very long words that a record may hold " * 8


def test_the_longest_words_a_record_may_hold_stay_within_the_limits_of_a_card() -> None:
    filler = f"{LONG}*_`[x](http://e.vil)|<b>"
    stroke = condition("s", "I63.9", text=filler)
    stroke["code"]["text"] = stent_words = filler
    allergies = [
        {
            "resourceType": "AllergyIntolerance",
            "id": f"al{code}",
            "code": concept("http://www.nlm.nih.gov/research/umls/rxnorm", code, filler),
            "patient": {"reference": "Patient/p1"},
        }
        for code in ("301542", "42463", "83367", "1116632", "613391")
    ]
    stent = condition("c", "Z95.5")
    stent["code"]["text"] = stent_words
    drafts = (
        drug_order("32968", filler, dosageInstruction=[{"text": filler, "timing": DAILY}]),
        drug_order("2556", filler, id_="m2"),
        drug_order("103", filler, id_="m3"),
        drug_order("11124", filler, id_="m4"),
        drug_order("36567", filler, id_="m5"),
    )
    genes = (
        POOR,
        gene("CYP2C19", genotype="*1/*1", at="2019-01-01"),
        gene("TPMT", phenotype="Intermediate Metabolizer"),
        gene("NUDT15", phenotype="Poor Metabolizer"),
        gene("SLCO1B1", phenotype="Possible Decreased Function"),
    )
    shortfalls = tuple(Shortfall(k, "unreachable") for k in ("meds", "allergies", "conditions", "qt", "lytes"))
    card = card_of(
        chart(
            *genes, stroke, stent, *allergies, qtc(512), *injury(2.2), condition("z", "Z66"), visit=IN, drafts=drafts,
            shortfalls=shortfalls,
        )
    )  # fmt: skip
    assert len(card.summary) < 140
    assert len(card.detail or "") <= 1200
    assert "](http:/" not in (card.detail or "")
    assert "<b>" not in (card.detail or "")
    assert len(card.suggestions) <= 3


def test_an_allergy_text_cannot_break_out_of_the_sentence_it_stands_in() -> None:
    allergy = {
        "resourceType": "AllergyIntolerance",
        "id": "al",
        "code": concept("http://www.nlm.nih.gov/research/umls/rxnorm", "1116632", "[click](http://e.vil) <img>"),
        "patient": {"reference": "Patient/p1"},
    }
    detail = card_of(chart(POOR, STENT, allergy, WEIGHT, drafts=(CLOPIDOGREL,))).detail or ""
    assert "Ticagrelor is not offered: allergy to" in detail
    assert "\\[click\\](http:\u2060//e.vil) &lt;img&gt;" in detail  # brackets escaped, address broken by a joiner


def test_every_code_of_a_suggestion_is_in_the_tables() -> None:
    known = {d.rxcui for d in drugs()} | {"2160-0", "8636-3", "20578-1", "11253-2", "79719-1", "50956-2", "84413-4"}
    for given in (
        chart(POOR, STENT, drafts=(CLOPIDOGREL,)),
        chart(drafts=(CAPECITABINE,)),
        chart(qtc(512), lab("2823-3", 3.3), PNEUMONIA, visit=IN, drafts=(AZITHROMYCIN,)),
        chart(*injury(2.2), visit=IN, drafts=(drug_order("11124", "vancomycin"),)),
        chart(*injury(2.2), visit=IN, drafts=(IBUPROFEN,)),
    ):
        for resource in suggested_resources([msgspec.to_builtins(card_of(given))]):
            coded = resource.get("medicationCodeableConcept") or resource["code"]
            assert {c["code"] for c in coded["coding"]} <= known


def test_a_patient_of_unknown_age_and_sex_gets_a_card_that_names_what_is_not_known() -> None:
    card = card_of(chart(POOR, STENT, drafts=(CLOPIDOGREL,), who=patient("unknown", None)))
    assert "Not known: " in (card.detail or "")
    assert "age" in (card.detail or "").partition("Not known: ")[2]
