"""What is open at the end of a stay: results owed and studies unread, and what closes each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from vignettes import Resource, film
from ward_charts import chart, lab, ordered, report

from cds_service.advice.packs.unfinished import pending, unread
from fhir_mappers.record import PatientRecord

WEEK = timedelta(days=7)
TESTS = ("culture_blood", "troponin_t_hs")
CULTURE = ordered("600-7", "2026-03-09T20:00:00Z", "Blood culture")
STUDY = film(1, "2026-03-10T08:00:00Z", "AP")[0]


def record(*resources: Resource) -> PatientRecord:
    return chart(*resources).record("deterioration")


def test_an_order_and_its_report_are_one_open_result_and_say_how_far_it_is() -> None:
    partial = report("600-7", "preliminary", "2026-03-09T20:00:00Z", "r1")
    (found,) = pending(record(CULTURE, partial), TESTS, WEEK)
    assert (found.state, found.source.reference) == ("preliminary", "DiagnosticReport/r1")
    (ordered_only,) = pending(record(CULTURE), TESTS, WEEK)
    assert ordered_only.state == "ordered, no result"


@pytest.mark.parametrize(
    "closing",
    [
        report("600-7", "final", "2026-03-09T20:00:00Z", "r1"),
        report("600-7", "amended", "2026-03-10T02:00:00Z", "r1"),
        lab("600-7", 0, "", "2026-03-10T08:00:00Z", valueString="no growth"),
    ],
)
def test_a_final_report_or_a_result_since_the_order_closes_it(closing: Resource) -> None:
    if "valueString" in closing:
        closing = {k: v for k, v in closing.items() if k != "valueQuantity"}
    assert pending(record(CULTURE, closing), TESTS, WEEK) == ()


@pytest.mark.parametrize(
    "open_",
    [
        report("600-7", "final", "2026-03-08T02:00:00Z", "r1"),  # of the culture before
        report("600-7", "cancelled", "2026-03-10T02:00:00Z", "r1"),
        report("2345-7", "final", "2026-03-10T02:00:00Z", "r1"),  # glucose
    ],
)
def test_another_report_does_not(open_: Resource) -> None:
    assert len(pending(record(CULTURE, open_), TESTS, WEEK)) == 1


def test_a_preliminary_value_beyond_the_table_s_flag_limits_is_open_whatever_its_analyte() -> None:
    """labs.csv flags potassium from 6.2 mmol/L."""
    (found,) = pending(record(lab("2823-3", 6.9, "mmol/L", status="preliminary")), TESTS, WEEK)
    assert found.state == "preliminary, 6.9 mmol/L"
    assert pending(record(lab("2823-3", 6.9, "mmol/L")), TESTS, WEEK) == ()
    assert pending(record(lab("2823-3", 5.0, "mmol/L", status="preliminary")), TESTS, WEEK) == ()


def radiology(code: str = "36643-5", status: str = "final", at: str = "2026-03-10T10:00:00Z", **more: Any) -> Resource:
    return report(code, status, at, "rad1", "RAD", **more)


@pytest.mark.parametrize(
    ("given", "open_"),
    [
        (radiology(imagingStudy=[{"reference": "ImagingStudy/study1"}]), False),
        (radiology(imagingStudy=[{"reference": "ImagingStudy/other"}]), True),
        (radiology(), False),  # names no study: it may be this one
        (radiology(at="2026-03-10T06:30:00Z"), True),  # before the study
        (radiology(status="preliminary"), True),
    ],
)
def test_a_study_is_read_by_a_final_report_that_is_or_may_be_about_it(given: Resource, open_: bool) -> None:
    assert bool(unread(record(STUDY, given), WEEK)) is open_


def test_a_report_of_another_kind_of_study_does_not_read_this_one() -> None:
    coded = {**STUDY, "procedureCode": [{"coding": [{"system": "http://loinc.org", "code": "36643-5"}]}]}
    assert len(unread(record(coded, radiology("24628-0")), WEEK)) == 1  # CT chest
    assert unread(record(coded, radiology("36643-5")), WEEK) == ()
