"""Pregnant, not pregnant or not known (CLINICAL 3.3)."""

from __future__ import annotations

import pytest
from records import coded, lab, person, problem, record

from cds_service.advice.packs.pregnancy import postpartum, pregnancy
from fhir_mappers.record import Coded, Event, Lab

DAY = 24.0
WOMAN = person("female", 30)
Item = Lab | Coded | Event


@pytest.mark.parametrize(
    "item",
    [
        coded("pregnancy_status", "pregnant", 10 * DAY),
        coded("edd", "", 60 * DAY, answer=("date", "2026-07-01")),
        coded("hcg_qual", "positive", 40 * DAY),
        lab("hcg_quant", 25.0, 40 * DAY),
        problem("pregnancy_current", ago=60 * DAY),
    ],
)
def test_a_woman_is_pregnant_by_status_due_date_hcg_or_problem_list(item: Item) -> None:
    assert pregnancy(record(item, who=WOMAN)).state == "pregnant"


@pytest.mark.parametrize(
    "item",
    [
        coded("pregnancy_status", "pregnant", 20 * DAY),  # vitals.csv: P14D for inpatients
        coded("pregnancy_status", "unknown", 1 * DAY),
        coded("edd", "", 300 * DAY, answer=("date", "2026-01-01")),
        coded("hcg_qual", "positive", 43 * DAY),
        lab("hcg_quant", 12.0, 1 * DAY),  # 5 to 25 IU/L is indeterminate
        coded("hcg_qual", "negative", 5 * DAY),  # labs.csv: P3D for inpatients
        problem("pregnancy_current", active=False),
    ],
)
def test_what_is_old_unclear_or_over_leaves_it_unknown(item: Item) -> None:
    assert pregnancy(record(item, who=WOMAN)).state == "unknown"


@pytest.mark.parametrize(
    "item", [coded("hcg_qual", "negative", 2 * DAY), lab("hcg_quant", 2.0, 2 * DAY), problem("menopause")]
)
def test_a_recent_negative_test_or_menopause_is_not_pregnant(item: Item) -> None:
    assert pregnancy(record(item, who=WOMAN)).state == "not_pregnant"


def test_a_later_negative_test_outweighs_an_earlier_positive_one() -> None:
    items = [coded("hcg_qual", "positive", 20 * DAY), coded("hcg_qual", "negative", 1 * DAY)]
    assert pregnancy(record(*items, who=WOMAN)).state == "not_pregnant"


def test_an_ended_pregnancy_cancels_what_was_positive_before_it() -> None:
    items = [coded("hcg_qual", "positive", 30 * DAY), problem("pregnancy_ended", ago=3 * DAY)]
    given = record(*items, who=WOMAN)
    assert pregnancy(given).state == "unknown"
    assert postpartum(given)
    again = record(coded("hcg_qual", "positive", 1 * DAY), problem("pregnancy_ended", ago=90 * DAY), who=WOMAN)
    assert pregnancy(again).state == "pregnant"
    assert not postpartum(again)


@pytest.mark.parametrize("who", [person("female", 56), person("female", 11), person("male", 30)])
def test_age_or_recorded_sex_without_pregnancy_data_is_not_pregnant(who: object) -> None:
    assert pregnancy(record(who=who)).state == "not_pregnant"  # type: ignore[arg-type]


def test_a_partial_birth_date_that_may_be_fertile_leaves_it_unknown() -> None:
    assert pregnancy(record(who=person("female", (55, 56)))).state == "unknown"
