"""QTc, its burdens and the Tisdale score, against the published points and limits."""

from __future__ import annotations

from typing import Any

import pytest
from records import NOW, lab, person, problem, record, source

from cds_service.advice.packs.qt import Rhythm, qt_drugs, rhythm, tisdale
from fhir_mappers.codes import RXNORM, drug_concepts
from fhir_mappers.record import Event, Order

AZITHROMYCIN, ONDANSETRON, HALOPERIDOL = "18631", "26225", "5093"


def order(rxcui: str = AZITHROMYCIN, ref: str = "MedicationRequest/m1") -> Order:
    codes = ((RXNORM, rxcui),)
    return Order(
        ref, True, "medication", codes, "", drug_concepts(codes), None, "routine", "draft", NOW, source("x"), {}
    )


def taking(rxcui: str) -> Event:
    codes = ((RXNORM, rxcui),)
    return Event("medication", drug_concepts(codes), codes, "", None, True, source("MedicationRequest"), "active")


def judged(*items: Any, sex: str = "male", age: int = 50, **more: Any) -> Rhythm:
    draft = order()
    return rhythm(record(*items, who=person(sex, age), orders=(draft, *more.pop("orders", ())), **more), draft)


def test_qtc_of_500_and_more_is_a_set_and_499_is_not() -> None:
    assert judged(lab("qtc", 500)).sets == ("QTc of 500 ms or more",)
    assert judged(lab("qtc", 499)).sets == ()


def test_a_rise_of_60_over_the_years_shortest_is_a_set() -> None:
    assert judged(lab("qtc", 468), lab("qtc", 408, 24 * 30)).sets == ("QTc rose by 60 ms or more",)
    assert judged(lab("qtc", 467), lab("qtc", 408, 24 * 30)).sets == ()
    assert judged(lab("qtc", 468), lab("qtc", 408, 24 * 400)).sets == ()  # more than a year before


def test_both_together_are_two_sets() -> None:
    assert len(judged(lab("qtc", 510), lab("qtc", 430, 24 * 30)).sets) == 2


@pytest.mark.parametrize(
    ("sex", "qtc", "fires"), [("male", 470, True), ("male", 469, False), ("female", 480, True), ("female", 479, False)]
)
def test_a_long_qtc_needs_a_second_burden_and_the_limit_is_that_of_the_sex(sex: str, qtc: float, fires: bool) -> None:
    assert bool(judged(lab("qtc", qtc), lab("potassium", 3.4), sex=sex).sets) is fires
    assert judged(lab("qtc", qtc), lab("potassium", 3.5), sex=sex).sets == ()


def test_an_unknown_sex_takes_the_limit_that_holds_for_both() -> None:
    assert judged(lab("qtc", 475), lab("potassium", 3.4), sex="unknown").sets == ()
    assert judged(lab("qtc", 480), lab("potassium", 3.4), sex="unknown").sets


def test_low_magnesium_or_two_other_qt_drugs_are_burdens_and_one_other_is_not() -> None:
    assert judged(lab("qtc", 475), lab("magnesium", 1.5)).sets
    assert not judged(lab("qtc", 475), lab("magnesium", 1.6)).sets
    assert judged(lab("qtc", 475), taking(ONDANSETRON), taking(HALOPERIDOL)).sets
    assert not judged(lab("qtc", 475), taking(ONDANSETRON)).sets
    second = order(HALOPERIDOL, "MedicationRequest/m2")
    assert judged(lab("qtc", 475), taking(ONDANSETRON), orders=(second,)).sets


def test_the_ordered_drug_itself_is_no_other_drug() -> None:
    assert judged(lab("qtc", 475), taking(AZITHROMYCIN), taking(ONDANSETRON)).others == ("ondansetron",)


def test_a_qtc_out_of_its_window_is_history() -> None:
    # vitals.csv: two days for an inpatient
    assert judged(lab("qtc", 520, 24 * 3)).sets == ()
    assert judged(lab("qtc", 520, 24 * 3)).qtc.history is not None


def test_a_qtc_known_only_as_more_than_counts_from_its_lower_end() -> None:
    assert judged(lab("qtc", 500, comparator=">")).sets
    assert not judged(lab("qtc", 600, comparator="<")).sets


def test_the_score_of_the_shared_vignette_is_13() -> None:
    # S09: woman of 74 (1 + 1), furosemide 1, potassium 3.3 (2), QTc 512 (2), heart failure 3, one QT drug 3
    furosemide = taking("4603")
    items = (lab("qtc", 512), lab("potassium", 3.3), problem("heart_failure", code="I50.22"), furosemide)
    score = tisdale(record(*items, who=person("female", 74)), 1)
    assert (score.low, score.high, score.missing) == (13, 13, ())


@pytest.mark.parametrize(
    ("items", "points"),
    # Tisdale 2013: age 68 1, female 1, loop diuretic 1, potassium <= 3.5 2, QTc >= 450 2, acute infarction 2,
    # sepsis 3, heart failure 3, one QT drug 3, two or more 3 more
    [
        ((), 3),
        ((lab("potassium", 3.5),), 5),
        ((lab("potassium", 3.6),), 3),
        ((lab("qtc", 450),), 5),
        ((lab("qtc", 449),), 3),
        ((problem("sepsis", code="A41.9"),), 6),
        ((problem("acs", code="I21.4", ago=24 * 3),), 5),
        ((problem("acs", code="I21.4", ago=24 * 60),), 3),
        ((problem("acs", code="I20.0"),), 3),  # unstable angina is no infarction
    ],
)
def test_the_score_counts_each_item_as_published(items: tuple[Any, ...], points: int) -> None:
    assert tisdale(record(*items, who=person("male", 50)), 1).low == points


def test_two_qt_drugs_count_six_and_all_items_together_are_21() -> None:
    assert tisdale(record(who=person("male", 50)), 2).low == 6
    everything = (
        lab("qtc", 512),
        lab("potassium", 3.3),
        problem("heart_failure", code="I50.22"),
        problem("sepsis", code="A41.9"),
        problem("acs", code="I21.4"),
        taking("4603"),
    )
    assert tisdale(record(*everything, who=person("female", 70)), 2).low == 21  # the published maximum


def test_what_is_not_known_widens_the_score_and_is_named() -> None:
    score = tisdale(record(who=person("unknown", None)), 1)
    assert (score.low, score.high) == (3, 9)
    assert score.missing == ("age 68 or over", "female", "potassium 3.5 or less", "QTc 450 or more")
    assert str(score) == "at least 3"


def test_qt_drugs_are_those_the_table_labels() -> None:
    assert [d.ingredient for d in qt_drugs([(RXNORM, ONDANSETRON)])] == ["ondansetron"]
    assert qt_drugs([(RXNORM, "3640")]) == ()  # doxycycline
