"""The cards about nephrotoxins, and beside each the patient who gets none."""

from __future__ import annotations

import pytest
from genetics import chart, drug_order
from prescribing import IBUPROFEN, IN, card_of, cards, injury, labels, rxcuis
from vignettes import Chart, Resource, condition, imaging_order, medication, observation


def test_an_nsaid_in_kidney_injury_is_replaced_by_paracetamol() -> None:
    card = card_of(chart(*injury(2.2), visit=IN, drafts=(IBUPROFEN,)))
    assert card.indicator == "warning"
    assert card.summary == (
        "Acute kidney injury stage 2 (creatinine 2.2 mg/dL from 1.0 mg/dL): ibuprofen can harm the kidney further; "
        "use paracetamol."
    )
    assert labels(card) == ["Replace ibuprofen with paracetamol (acetaminophen)", "Order creatinine in 24 h"]
    assert rxcuis(card) == {"161"}


def test_the_same_values_in_micromoles_give_the_same_card() -> None:
    def molar(value: float, at: str, id_: str) -> Resource:
        return observation(id_, "14682-9", value, "umol/L", at)

    given = (molar(194.5, "2026-03-10T08:00:00Z", "k1"), molar(88.4, "2026-03-07T08:00:00Z", "k2"))
    card = card_of(chart(*given, visit=IN, drafts=(IBUPROFEN,)))
    assert "stage 2 (creatinine 194.5 umol/L from 88.4 umol/L)" in card.summary


def test_vancomycin_in_kidney_injury_gets_its_level_and_is_not_removed() -> None:
    card = card_of(chart(*injury(2.2), visit=IN, drafts=(drug_order("11124", "vancomycin"),)))
    assert labels(card) == ["Order vancomycin level", "Order creatinine in 24 h"]
    assert "dose by level" in card.summary


@pytest.mark.parametrize(
    "given",
    [
        chart(*injury(1.0), visit=IN, drafts=(IBUPROFEN,)),
        chart(*injury(1.7), visit=IN, drafts=(IBUPROFEN,)),  # stage 1, nothing beside it
        chart(*injury(2.2), visit=IN, drafts=(drug_order("161", "paracetamol"),)),
        chart(*injury(2.2), condition("d", "Z99.2"), visit=IN, drafts=(IBUPROFEN,)),
        chart(
            *injury(2.2),
            visit=IN,
            drafts=(drug_order("3355", "diclofenac gel", dosageInstruction=[{"route": {"text": "topical"}}]),),
        ),
    ],
)
def test_no_word_about_the_kidney_without_injury_or_nephrotoxin(given: Chart) -> None:
    assert cards(given) == []


LISINOPRIL, FUROSEMIDE = medication("a1", "29046", "lisinopril"), medication("a2", "4603", "furosemide")


def test_stage_1_with_blocker_and_diuretic_names_the_three_together() -> None:
    card = card_of(chart(*injury(1.7), LISINOPRIL, FUROSEMIDE, visit=IN, drafts=(IBUPROFEN,)))
    assert card.summary.startswith("Acute kidney injury stage 1")
    assert "| Together with | lisinopril, furosemide |" in (card.detail or "")


def test_a_rise_over_the_usual_value_of_the_year_is_shown_beside_it() -> None:
    usual = observation("k2", "2160-0", 1.0, "mg/dL", "2026-01-10T06:00:00Z")
    now = observation("k1", "2160-0", 2.2, "mg/dL", "2026-03-10T08:00:00Z")
    card = card_of(chart(now, usual, visit=IN, drafts=(IBUPROFEN,)))
    assert "(creatinine 2.2 mg/dL, usually 1.00 mg/dL)" in card.summary
    assert "Usual creatinine, median" in (card.detail or "")


def test_what_is_ordered_already_is_not_offered_again() -> None:
    level = imaging_order("l1", "20578-1", "Vancomycin level", status="active")
    creatinine = imaging_order("l2", "2160-0", "Creatinine", status="active")
    card = card_of(chart(*injury(2.2), level, creatinine, visit=IN, drafts=(drug_order("11124", "vancomycin"),)))
    assert card.suggestions == ()


def test_an_nsaid_without_a_safe_substitute_may_be_removed() -> None:
    cirrhosis = condition("c", "K74.60")
    card = card_of(chart(*injury(2.2), cirrhosis, visit=IN, drafts=(IBUPROFEN,)))
    assert labels(card) == ["Remove ibuprofen", "Order creatinine in 24 h"]
    assert "avoid it" in card.summary
    assert "is not offered: liver disease" in (card.detail or "")


def test_gentamicin_has_no_level_on_file_and_gets_the_creatinine_only() -> None:
    card = card_of(chart(*injury(2.2), visit=IN, drafts=(drug_order("1596450", "gentamicin"),)))
    assert labels(card) == ["Order creatinine in 24 h"]
