"""CURB-65 against Lim 2003, and what is left of it when items are missing."""

from __future__ import annotations

import pytest
from records import coded, lab, person, problem, record

from cds_service.advice.packs.curb65 import confusion, curb65
from fhir_mappers.codes import lab_codes
from fhir_mappers.record import Coded, Event, Lab

MMOL = lab_codes()["3094-0"].conversions["mmol/L"]
CALM = (
    coded("avpu", "alert"),
    lab("bun", 14.0),
    lab("resp_rate", 18),
    lab("sbp", 128),
    lab("dbp", 76),
)


def swapped(*items: Lab | Coded) -> tuple[Lab | Coded, ...]:
    new = {(i.analyte if isinstance(i, Lab) else i.name): i for i in items}
    return tuple(new.get(i.analyte if isinstance(i, Lab) else i.name, i) for i in CALM)


@pytest.mark.parametrize(
    ("items", "age", "score"),
    [
        (CALM, 64, 0),
        (CALM, 65, 1),  # Lim 2003: age >= 65
        (swapped(lab("resp_rate", 30)), 50, 1),  # >= 30
        (swapped(lab("resp_rate", 29)), 50, 0),
        (swapped(lab("sbp", 89)), 50, 1),  # < 90
        (swapped(lab("sbp", 90)), 50, 0),
        (swapped(lab("dbp", 60)), 50, 1),  # <= 60
        (swapped(lab("dbp", 61)), 50, 0),
        (swapped(lab("sbp", 85), lab("dbp", 50)), 50, 1),  # one point for either
        (swapped(coded("avpu", "confusion")), 50, 1),
        # Worked example by hand: 72 y, confused, urea 9 mmol/L, rate 32, 84/52 mmHg: all five
        (swapped(coded("avpu", "confusion"), lab("bun", MMOL(9.0)), lab("resp_rate", 32), lab("sbp", 84)), 72, 5),
    ],
)
def test_each_item_counts_from_its_published_limit(items: tuple[Lab | Coded, ...], age: int, score: int) -> None:
    found = curb65(record(*items, who=person(age=age)))
    assert (found.low, found.high, found.missing) == (score, score, ())


def test_urea_of_exactly_7_mmol_per_litre_is_not_above_7() -> None:
    assert curb65(record(*swapped(lab("bun", MMOL(7.0))), who=person(age=50))).low == 0
    assert curb65(record(*swapped(lab("bun", MMOL(7.1))), who=person(age=50))).low == 1


def test_urea_reported_as_mass_counts_as_its_nitrogen() -> None:
    # 60 mg/dL urea = 27.99 mg/dL nitrogen (README of the tables); 42 mg/dL = 19.59
    rest = tuple(i for i in CALM if not (isinstance(i, Lab) and i.analyte == "bun"))
    assert curb65(record(*rest, lab("urea_mass", 60), who=person(age=50))).low == 1
    assert curb65(record(*rest, lab("urea_mass", 42), who=person(age=50))).low == 0


def test_missing_items_open_a_range_and_are_named() -> None:
    found = curb65(record(lab("resp_rate", 32), who=person(age=70)))
    assert (found.low, found.high) == (2, 5)
    assert str(found) == "2 to 5"
    assert found.missing == ("confusion", "urea", "blood pressure")


def test_a_systolic_alone_decides_only_when_it_is_low() -> None:
    one = (CALM[0], CALM[1], CALM[2])
    assert curb65(record(*one, lab("sbp", 84), who=person(age=50))).missing == ()
    assert curb65(record(*one, lab("sbp", 128), who=person(age=50))).missing == ("blood pressure",)


def test_a_partial_birth_date_around_65_leaves_age_open() -> None:
    assert curb65(record(*CALM, who=person(age=(64, 65)))).missing == ("age",)


@pytest.mark.parametrize(
    ("items", "met"),
    [
        ((lab("gcs_total", 15),), False),
        ((lab("gcs_total", 14),), True),
        ((lab("gcs_total", 14), problem("dementia")), None),
        ((coded("avpu", "alert"), lab("gcs_total", 13)), False),  # as charted
        ((coded("avpu", "confusion", ago=20),), None),  # yesterday's
        ((), None),
    ],
)
def test_confusion_is_what_was_charted_else_the_coma_score(
    items: tuple[Lab | Coded | Event, ...], met: bool | None
) -> None:
    assert confusion(record(*items)).met is met


def test_a_value_known_only_as_less_than_counts_where_it_decides() -> None:
    assert curb65(record(*swapped(lab("bun", 5, comparator="<")), who=person(age=50))).low == 0
    assert "urea" in curb65(record(*swapped(lab("bun", 25, comparator="<")), who=person(age=50))).missing
