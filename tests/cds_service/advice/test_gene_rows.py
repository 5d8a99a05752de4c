"""Every row of pgx.csv, exhaustively: it fires with its result and falls silent with the normal one."""

from __future__ import annotations

import msgspec
import pytest
from genetics import chart_for, normal_for, result_for
from r4 import suggested_resources, validate_r4
from vignettes import Chart, Resource

from cds_service.cards import Card
from fhir_mappers.pgx import PgxRow, pgx_rows
from fhir_mappers.pgx import rows_of as rows_of_drug

NAME = "precision-prescribing"
ROWS = pgx_rows()
SPEAKING = [r for r in ROWS if r.indicator != "silent"]
SILENT = [r for r in ROWS if r.indicator == "silent"]


def results(row: PgxRow, **more: str) -> list[Resource]:
    parts = row.key[:1] if row.any_gene else row.key
    return [result for part in parts for result in result_for(part, **more)]


def normals(row: PgxRow) -> list[Resource]:
    return [result for part in row.key for result in normal_for(part)]


def cards(given: Chart) -> list[Card]:
    return given.cards(NAME)


def rule_of(card: Card) -> str:
    return (card.detail or "").rpartition("Rule ")[2].partition(" ")[0]


@pytest.mark.parametrize("row", SPEAKING, ids=lambda r: r.row_id)
def test_a_row_fires_with_its_result_at_its_own_tier(row: PgxRow) -> None:
    (card,) = cards(chart_for(row, results(row)))
    said = f"{card.summary}\n{card.detail}".lower()
    assert rule_of(card) == row.row_id
    assert card.indicator == row.indicator
    assert row.drug in said
    assert row.guideline.lower() in said
    assert card.source.label == row.guideline
    assert row.consequence in card.detail.replace("\\", "")
    for resource in suggested_resources([msgspec.to_builtins(card)]):
        validate_r4(resource)


@pytest.mark.parametrize("row", SPEAKING, ids=lambda r: r.row_id)
def test_the_same_order_with_the_normal_result_is_silent(row: PgxRow) -> None:
    given = chart_for(row, normals(row))
    if row.key[0].aspect == "inhibitor":  # the inhibitor itself is what has to go
        given = Chart(tuple(r for r in given.resources if r.get("id") != "inhibitor"), given.drafts)
    assert cards(given) == []


@pytest.mark.parametrize("row", SILENT, ids=lambda r: r.row_id)
def test_a_silent_row_is_silent(row: PgxRow) -> None:
    assert cards(chart_for(row, results(row))) == []


@pytest.mark.parametrize("row", [r for r in SPEAKING if results(r)], ids=lambda r: r.row_id)
def test_a_somatic_result_never_drives_germline_dosing(row: PgxRow) -> None:
    found = cards(chart_for(row, results(row, origin="somatic")))
    assert row.row_id not in {rule_of(card) for card in found}
    # what may be said instead is that the germline was not tested, or that a drug blocks the enzyme
    quiet = [r for r in rows_of_drug(row.rxcui) if r.action == "test_first"]
    assert len(found) <= bool(quiet)


@pytest.mark.parametrize("row", [r for r in SPEAKING if results(r)], ids=lambda r: r.row_id)
def test_a_result_of_unknown_source_informs_only(row: PgxRow) -> None:
    (card,) = cards(chart_for(row, results(row, origin="")))
    assert rule_of(card) == row.row_id
    assert card.indicator == "info"
    assert "whether the result is of the germline" in (card.detail or "")
    assert not any(s.is_recommended for s in card.suggestions)


@pytest.mark.parametrize("row", [r for r in SPEAKING if len(r.key) > 1 and not r.any_gene], ids=lambda r: r.row_id)
def test_a_row_of_two_genes_is_never_matched_on_one(row: PgxRow) -> None:
    for part in row.key:
        one = result_for(part)
        found = cards(chart_for(row, one)) if one else []
        assert row.row_id not in {rule_of(card) for card in found}


@pytest.mark.parametrize("row", [r for r in SPEAKING if results(r)], ids=lambda r: r.row_id)
def test_an_entered_in_error_result_changes_nothing(row: PgxRow) -> None:
    withdrawn = [{**r, "status": "entered-in-error"} for r in results(row)]
    bare = [c.summary for c in cards(chart_for(row, []))]
    assert [c.summary for c in cards(chart_for(row, withdrawn))] == bare


@pytest.mark.parametrize("row", [r for r in SPEAKING if r.needs_dose], ids=lambda r: r.row_id)
def test_a_row_about_a_dose_waits_for_order_sign(row: PgxRow) -> None:
    assert cards(chart_for(row, results(row), hook="order-select")) == []


@pytest.mark.parametrize("row", [r for r in SPEAKING if r.limit], ids=lambda r: r.row_id)
def test_a_dose_under_the_limit_of_a_row_is_silent(row: PgxRow) -> None:
    assert row.limit is not None
    size = {"": 1.0, "kg": 70.0, "m2": 1.8181}[row.limit.per]  # Mosteller: sqrt(170 * 70 / 3600) = 1.8181
    given = chart_for(row, results(row))
    (draft,) = given.drafts
    draft["dosageInstruction"][0]["doseAndRate"][0]["doseQuantity"]["value"] = row.limit.milligrams * size * 0.95
    assert cards(given) == []


@pytest.mark.parametrize("row", [r for r in SPEAKING if r.limit], ids=lambda r: r.row_id)
def test_an_unreadable_dose_informs_or_fires_as_the_row_says_and_is_named(row: PgxRow) -> None:
    assert row.limit is not None
    given = chart_for(row, results(row))
    (draft,) = given.drafts
    del draft["dosageInstruction"]
    (card,) = cards(given)
    assert card.indicator == (row.indicator if row.limit.unknown == "fire" else "info")
    assert "dose" in (card.detail or "").partition("Not known:")[2]
