"""What may be offered: every drug is in the drug table, and every limit names something the tables know."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

from fhir_mappers import offers
from fhir_mappers.codes import drugs
from fhir_mappers.offers import limits, qt_alternatives

TABLES = Path(offers.__file__).parent / "tables"
DRUGS = {d.rxcui: d for d in drugs() if d.rxcui}


def rows(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_limit_is_about_a_drug_of_the_table_and_names_what_the_tables_know() -> None:
    groups = {r["group_id"] for r in rows("condition_groups.csv")}
    for rxcui, limit in limits().items():
        assert DRUGS[rxcui].ingredient in limit.ingredient
        assert set(limit.conditions) <= groups, limit.ingredient
        assert set(limit.drugs) <= set(DRUGS), limit.ingredient


def test_every_alternative_without_qt_effect_is_in_the_tables_and_has_no_qt_label() -> None:
    groups = {r["group_id"] for r in rows("condition_groups.csv")}
    for rxcui, other in qt_alternatives().items():
        assert DRUGS[rxcui].qt
        assert not DRUGS[other.alternative].qt
        assert other.alternative in limits()
        assert set(other.conditions) <= groups


def test_every_row_has_a_source_an_owner_and_a_review_date() -> None:
    for name in ("safe_to_offer.csv", "qt_alternatives.csv"):
        for row in rows(name):
            assert row["source"]
            assert row["owner"]
            assert row["url"].startswith("https://")
            assert date.fromisoformat(row["review_by"]) > date(2026, 10, 1)


def test_prasugrel_is_kept_from_stroke_from_75_years_and_from_under_60_kg() -> None:
    # US label: contraindicated after stroke or TIA; not recommended at 75 and over; bleeding below 60 kg
    prasugrel = limits()["613391"]
    assert (prasugrel.age_below, prasugrel.weight_min) == (75, 60.0)
    assert "stroke_tia" in prasugrel.conditions
    assert "stroke_tia" not in limits()["1116632"].conditions
