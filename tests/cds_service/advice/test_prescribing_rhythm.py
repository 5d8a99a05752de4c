"""The cards about QTc, and beside each the patient who gets none."""

from __future__ import annotations

import pytest
from genetics import chart, drug_order
from prescribing import AZITHROMYCIN, IN, PNEUMONIA, POOR, card_of, cards, lab, labels, qtc, rxcuis
from vignettes import Chart, condition, imaging_order, observation, patient

from cds_service.evidence import Shortfall


def test_a_long_qtc_warns_with_the_swap_the_electrolytes_and_the_electrocardiogram() -> None:
    given = chart(
        qtc(512), lab("2823-3", 3.3), lab("19123-9", 1.5, "mg/dL"), PNEUMONIA, visit=IN, drafts=(AZITHROMYCIN,)
    )
    card = card_of(given)
    assert card.indicator == "warning"
    assert card.summary == (
        "QTc 512 ms, potassium 3.3 mmol/L: azithromycin can cause a dangerous rhythm; use doxycycline."
    )
    assert labels(card) == [
        "Replace azithromycin with doxycycline",
        "Order potassium and magnesium replacement",
        "Order an electrocardiogram",
    ]
    assert rxcuis(card) == {"3640", "8591", "6585"}
    assert card.selection_behavior == "any"


def test_a_second_set_of_facts_makes_it_critical_and_a_pacemaker_informative() -> None:
    before = qtc(430, "2026-02-01T09:00:00Z", "q0")
    assert card_of(chart(qtc(512), before, visit=IN, drafts=(AZITHROMYCIN,))).indicator == "critical"
    paced = condition("p", "Z95.0")
    assert card_of(chart(qtc(512), before, paced, visit=IN, drafts=(AZITHROMYCIN,))).indicator == "info"
    preliminary = qtc(512, status="preliminary")
    assert card_of(chart(preliminary, visit=IN, drafts=(AZITHROMYCIN,))).indicator == "info"


def test_the_swap_is_offered_only_for_what_it_is_good_for() -> None:
    card = card_of(chart(qtc(512), visit=IN, drafts=(AZITHROMYCIN,)))
    assert labels(card) == ["Remove azithromycin", "Order an electrocardiogram"]


@pytest.mark.parametrize(
    "given",
    [
        chart(qtc(440), PNEUMONIA, visit=IN, drafts=(AZITHROMYCIN,)),
        chart(qtc(490), lab("2823-3", 4.2), PNEUMONIA, visit=IN, drafts=(AZITHROMYCIN,)),
        chart(qtc(512), visit=IN, drafts=(drug_order("3640", "doxycycline"),)),
        chart(qtc(512, "2026-03-01T11:00:00Z"), PNEUMONIA, visit=IN, drafts=(AZITHROMYCIN,)),
        chart(
            qtc(512),
            visit=IN,
            drafts=(drug_order("4053", "erythromycin", dosageInstruction=[{"route": {"text": "ophthalmic"}}]),),
        ),
    ],
)
def test_no_word_about_qt_without_a_fact_for_it(given: Chart) -> None:
    assert cards(given) == []


def test_congenital_long_qt_is_critical_whatever_the_qtc() -> None:
    card = card_of(chart(condition("c", "I45.81"), qtc(440), visit=IN, drafts=(AZITHROMYCIN,)))
    assert card.indicator == "critical"
    assert card.summary.startswith("Long QT syndrome: azithromycin can cause a dangerous rhythm")
    assert "Rule QT-02 v1" in (card.detail or "")


FRAIL = patient("female", "1940-01-01")


def test_without_a_qtc_and_with_a_moderate_score_an_electrocardiogram_is_asked_for() -> None:
    failing = condition("h", "I50.22")
    card = card_of(chart(failing, visit=IN, who=FRAIL, drafts=(AZITHROMYCIN,)))  # 1 + 1 + 3 + 3 = 8
    assert card.indicator == "info"
    assert labels(card) == ["Order an electrocardiogram"]
    assert "Tisdale score is at least 8, moderate risk" in (card.detail or "")
    assert cards(chart(visit=IN, who=FRAIL, drafts=(AZITHROMYCIN,))) == []  # 5
    assert cards(chart(failing, visit=IN, who=FRAIL, drafts=(drug_order("51272", "quetiapine"),))) == []  # not high
    lost = (Shortfall("qt", "timeout"),)
    assert cards(chart(failing, visit=IN, who=FRAIL, drafts=(AZITHROMYCIN,), shortfalls=lost)) == []


def test_potassium_is_not_offered_to_an_injured_kidney() -> None:
    rising = (
        observation("k1", "2160-0", 2.0, "mg/dL", "2026-03-10T08:00:00Z"),
        observation("k2", "2160-0", 1.0, "mg/dL", "2026-03-08T08:00:00Z"),
    )
    card = card_of(chart(qtc(512), lab("2823-3", 3.3), *rising, visit=IN, drafts=(AZITHROMYCIN,)))
    assert "8591" not in rxcuis(card)


def test_genes_and_rhythm_of_one_drug_share_a_card() -> None:
    given = chart(POOR, qtc(512), visit=IN, drafts=(drug_order("2556", "citalopram 20 mg daily"),))
    card = card_of(given)
    assert "Rule PGX-134+QT-01 v1" in (card.detail or "")
    assert labels(card).count("Replace citalopram with sertraline") == 1
    assert "Remove citalopram" not in labels(card)


def test_a_rise_is_shown_with_what_it_rose_from() -> None:
    card = card_of(chart(qtc(480), qtc(410, "2026-02-01T09:00:00Z", "q0"), visit=IN, drafts=(AZITHROMYCIN,)))
    assert card.summary.startswith("QTc 480 ms, up from 410 ms: azithromycin")
    assert "| Shortest QTc before | 410 ms |" in (card.detail or "")


def test_an_electrocardiogram_that_is_ordered_is_not_ordered_again() -> None:
    ordered = imaging_order("e1", "8636-3", "ECG", status="active")
    assert "Order an electrocardiogram" not in labels(
        card_of(chart(qtc(512), ordered, visit=IN, drafts=(AZITHROMYCIN,)))
    )
    failing = condition("h", "I50.22")
    card = card_of(chart(failing, ordered, visit=IN, who=FRAIL, drafts=(AZITHROMYCIN,)))
    assert card.suggestions == ()
    assert "the electrocardiogram is ordered" in card.summary


def test_an_old_qtc_is_shown_as_history_when_a_new_one_is_asked_for() -> None:
    old = qtc(520, "2026-02-01T09:00:00Z", "q0")
    card = card_of(chart(condition("h", "I50.22"), old, visit=IN, who=FRAIL, drafts=(AZITHROMYCIN,)))
    assert card.indicator == "info"
    assert "| Last QTc, too old | 520 ms" in (card.detail or "")
