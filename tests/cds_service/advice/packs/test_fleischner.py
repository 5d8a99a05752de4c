"""Fleischner 2017, against the tables of MacMahon, Radiology 2017;284:228."""

from __future__ import annotations

from datetime import date

import pytest

from cds_service.advice.packs.fleischner import Attenuation, Plan, Step, add_months, next_due, plan

LOW, HIGH = False, True


def spans(given: Plan) -> list[tuple[int, int, bool]]:
    return [(s.first, s.last, s.firm) for s in given.steps]


@pytest.mark.parametrize(
    ("size", "multiple", "risk", "expected"),
    [
        # Solid nodules, table 1A: size, single or multiple, low or high risk.
        (5, False, LOW, []),
        (5, False, HIGH, [(12, 12, False)]),  # optional CT at 12 months
        (6, False, LOW, [(6, 12, True), (18, 24, False)]),  # then consider CT at 18-24 months
        (8, False, HIGH, [(6, 12, True), (18, 24, True)]),
        (9, False, LOW, [(3, 3, False)]),  # consider CT at 3 months, PET/CT or tissue sampling
        (9, False, HIGH, [(3, 3, False)]),
        (5, True, LOW, []),
        (5, True, HIGH, [(12, 12, False)]),
        (7, True, LOW, [(3, 6, True), (18, 24, False)]),
        (7, True, HIGH, [(3, 6, True), (18, 24, True)]),
        (12, True, HIGH, [(3, 6, True), (18, 24, True)]),
    ],
)
def test_solid_nodules(size: float, multiple: bool, risk: bool, expected: list[tuple[int, int, bool]]) -> None:
    assert spans(plan("solid", size, multiple=multiple, high_risk=risk)) == expected


@pytest.mark.parametrize(
    ("attenuation", "size", "multiple", "expected"),
    [
        # Subsolid nodules, table 1B.
        ("ground_glass", 5, False, []),
        ("ground_glass", 6, False, [(6, 12), (36, 36), (60, 60)]),  # then every 2 years until 5 years
        ("part_solid", 5, False, []),
        ("part_solid", 6, False, [(3, 6), (12, 12), (24, 24), (36, 36), (48, 48), (60, 60)]),  # then yearly for 5 years
        ("ground_glass", 5, True, [(3, 6), (24, 24), (48, 48)]),  # if stable, consider 2 and 4 years
        ("part_solid", 7, True, [(3, 6)]),  # then by the most suspicious
    ],
)
def test_subsolid_nodules(
    attenuation: Attenuation, size: float, multiple: bool, expected: list[tuple[int, int]]
) -> None:
    for risk in (LOW, HIGH):  # risk does not enter the table
        steps = plan(attenuation, size, multiple=multiple, high_risk=risk).steps
        assert [(s.first, s.last) for s in steps] == expected


def test_above_8_mm_tissue_stands_beside_the_ct() -> None:
    assert plan("solid", 9, multiple=False, high_risk=LOW).or_tissue
    assert not plan("solid", 8, multiple=False, high_risk=LOW).or_tissue


def test_sizes_are_rounded_to_whole_millimetres_as_the_guideline_states_them() -> None:
    assert plan("solid", 5.5, multiple=False, high_risk=LOW) == plan("solid", 6, multiple=False, high_risk=LOW)
    assert plan("solid", 5.4, multiple=False, high_risk=LOW).steps == ()
    assert plan("solid", 8.4, multiple=False, high_risk=LOW) == plan("solid", 8, multiple=False, high_risk=LOW)


def test_a_published_case_of_a_9_mm_part_solid_nodule_is_seen_again_at_3_to_6_months() -> None:
    # Case 2 of "Pulmonary nodule on x-ray: an algorithmic approach" (J Fam Pract): 80 years, 9 mm, part solid, alone.
    assert spans(plan("part_solid", 9, multiple=False, high_risk=LOW))[0] == (3, 6, True)


SEVEN_SOLID = plan("solid", 7, multiple=False, high_risk=HIGH)
SEEN = date(2025, 12, 8)


def test_the_first_ct_of_a_7_mm_solid_nodule_is_due_from_half_a_year_to_a_year() -> None:
    # Vignette S07: seen 2025-12-08, due 2026-06-08 to 2026-12-08.
    due = next_due(SEVEN_SOLID, SEEN, [])
    assert due is not None
    assert (due.first, due.last, str(due.step)) == (date(2026, 6, 8), date(2026, 12, 8), "6-12 months")


@pytest.mark.parametrize(
    ("later", "step"),
    [
        ([date(2026, 2, 1)], Step(6, 12)),  # much too early: it served nothing
        ([date(2026, 5, 20)], Step(18, 24)),  # three weeks early: it did
        ([date(2026, 8, 1)], Step(18, 24)),
        ([date(2026, 8, 1), date(2026, 9, 1)], Step(18, 24)),
        ([date(2027, 7, 1)], None),  # late, and at the time of the second: both are served
        ([date(2026, 8, 1), date(2027, 9, 1)], None),
    ],
)
def test_a_later_ct_serves_the_step_whose_time_it_came_at(later: list[date], step: Step | None) -> None:
    due = next_due(SEVEN_SOLID, SEEN, later)
    assert (due.step if due else None) == step


def test_a_month_later_is_the_same_day_or_the_last_of_a_shorter_month() -> None:
    assert add_months(date(2025, 8, 31), 6) == date(2026, 2, 28)
    assert add_months(date(2023, 8, 31), 6) == date(2024, 2, 29)
    assert add_months(date(2025, 12, 8), 60) == date(2030, 12, 8)
