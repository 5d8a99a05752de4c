"""Results of one analyte together: which one stands, and which two cannot both be right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fhir_mappers.labs import conflicts, settle
from fhir_mappers.record import Lab, Source

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)


def result(value: float, minutes: float = 0, analyte: str = "creatinine", **more: Any) -> Lab:
    fields: dict[str, Any] = {
        "analyte": analyte,
        "name": analyte,
        "loinc": "",
        "value": value,
        "unit": "mg/dL",
        "printed": "",
        "at": AS_OF - timedelta(minutes=minutes),
        "source": Source(f"Observation/{value}-{minutes}"),
    }
    return Lab(**(fields | more))


def test_two_results_within_30_minutes_that_differ_by_more_than_a_quarter_conflict() -> None:
    assert len(conflicts([result(1.0), result(1.26, 30)])) == 1
    assert conflicts([result(1.0), result(1.25, 30)]) == ()
    assert conflicts([result(1.0), result(1.26, 31)]) == ()
    assert conflicts([result(1.0), result(9.0, analyte="bun")]) == ()


def test_a_creatinine_that_doubles_within_six_hours_is_not_believed() -> None:
    assert len(conflicts([result(2.0), result(1.0, 350)])) == 1
    assert conflicts([result(2.0), result(1.0, 361)]) == ()
    assert conflicts([result(1.0), result(2.0, 350)]) == ()  # a fall has dialysis as a reason


def test_a_haemoglobin_that_moves_by_more_than_four_grams_in_an_hour_is_not_believed() -> None:
    assert len(conflicts([result(8.0, analyte="haemoglobin"), result(12.1, 59, analyte="haemoglobin")])) == 1


def test_dates_without_time_and_comparators_cannot_conflict() -> None:
    assert conflicts([result(1.0), result(3.0, has_time=False)]) == ()
    assert conflicts([result(1.0), result(3.0, comparator="<")]) == ()


def test_the_preferred_code_stands_for_an_agreeing_analyser_result_and_a_disagreeing_one_stays() -> None:
    laboratory, analyser = result(1.0), result(1.1, 10, preferred=False)
    kept, gaps = settle([laboratory, analyser], AS_OF)
    assert kept == [laboratory]
    assert [(g.code, g.reference) for g in gaps] == [("superseded", analyser.source.reference)]
    other = result(2.0, 10, preferred=False)
    assert settle([laboratory, other], AS_OF) == ([laboratory, other], [])


def test_a_preliminary_result_counts_only_where_no_final_one_of_the_last_month_exists() -> None:
    early = result(2.0, preliminary=True)
    assert settle([early], AS_OF)[0] == [early]
    final = result(1.0, 60 * 24)
    assert settle([early, final], AS_OF)[0] == [final]
    old = result(1.0, 60 * 24 * 31)
    assert settle([early, old], AS_OF)[0] == [early, old]


def test_thousands_of_results_with_one_time_stamp_do_not_cost_their_square() -> None:
    many = [result(1.0 + i / 1000, source=Source(f"Observation/{i}"), preferred=i % 2 == 0) for i in range(5000)]
    kept, _ = settle(many, AS_OF)
    assert len(kept) >= 2500
    assert len(conflicts(many)) < 5000 * 33
