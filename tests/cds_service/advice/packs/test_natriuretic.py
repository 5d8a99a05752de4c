"""Natriuretic peptides: rule-in limits by age, and when the value means nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from records import drug, lab, person, problem, record

from cds_service.advice.packs.natriuretic import nt_probnp_limit, rules_in_heart_failure
from fhir_mappers.record import Event, Lab

DAY = timedelta(hours=24)


@pytest.mark.parametrize(("age", "limit"), [(49, 450), (50, 900), (75, 900), (76, 1800), (90, 1800)])
def test_the_limit_of_nt_probnp_rises_with_age(age: int, limit: float) -> None:
    # Januzzi 2006; ESC 2021: under 50, 50 to 75, over 75
    assert nt_probnp_limit(age) == limit


def ruled_in(*items: Lab | Event, age: int = 60) -> bool:
    """With a creatinine of 1.0 mg/dL unless one is given."""
    known = any(isinstance(i, Lab) and i.analyte == "creatinine" for i in items)
    given = items if known else (lab("creatinine", 1.0), *items)
    return rules_in_heart_failure(record(*given, who=person(age=age)), DAY) is not None


def test_values_at_the_limit_rule_in_and_below_it_do_not() -> None:
    assert ruled_in(lab("nt_probnp", 900))
    assert not ruled_in(lab("nt_probnp", 899))
    assert ruled_in(lab("bnp", 400))
    assert not ruled_in(lab("bnp", 399))


@pytest.mark.parametrize(
    "items",
    [
        (lab("nt_probnp", 9000), lab("creatinine", 2.9)),  # eGFR 24 (CKD-EPI 2021, man of 60)
        (lab("nt_probnp", 9000), problem("dialysis")),
        (lab("nt_probnp", 9000, 25.0),),
        (lab("nt_probnp", 9000, preliminary=True),),
        (lab("bnp", 900), drug("arni")),
        (),
    ],
)
def test_weak_kidneys_old_or_preliminary_values_and_sacubitril_rule_nothing_in(items: tuple[Lab | Event, ...]) -> None:
    assert not ruled_in(*items)


def test_without_a_creatinine_nothing_is_ruled_in() -> None:
    assert rules_in_heart_failure(record(lab("nt_probnp", 9000), who=person(age=60)), DAY) is None


def test_sacubitril_does_not_touch_nt_probnp() -> None:
    assert ruled_in(lab("nt_probnp", 9000), drug("arni"))
