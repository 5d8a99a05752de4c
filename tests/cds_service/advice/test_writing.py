"""How numbers, times and limits are written."""

from __future__ import annotations

from datetime import timedelta

import pytest
from records import lab
from vignettes import service

from cds_service.advice.writing import (
    DEFAULT_REASONS,
    Fact,
    as_printed,
    detail,
    fitting,
    hours,
    in_unit_of,
    number,
    override_reasons,
    probability,
    rule_line,
    setting,
    shown,
    span,
    taken,
)
from cds_service.cards import CardError
from cds_service.manifest import ManifestError


@pytest.mark.parametrize(
    ("value", "text"), [(2.036, "2.04"), (1.0, "1.00"), (88.4, "88.4"), (1043.2, "1043"), (0.06, "0.0600"), (0, "0.00")]
)
def test_numbers_have_about_three_digits_and_no_powers_of_ten(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("printed", "value", "text"),
    [
        ("2.6 mg/dL", 2.6, "2.6 mg/dL"),
        ("180 umol/L", 2.036124, "180 umol/L [2.04 mg/dL]"),  # the example of the card contract
        ("<15 umol/L", 0.169677, "<15 umol/L [<0.17 mg/dL]"),
        ("2.60 mg/dL", 2.6, "2.60 mg/dL"),
        ("2.81443899173284 mg/dL", 2.81443899173284, "2.81 mg/dL"),
    ],
)
def test_a_result_is_shown_as_printed_with_ours_in_brackets_where_it_differs(
    printed: str, value: float, text: str
) -> None:
    comparator = "<" if printed.startswith("<") else None
    assert shown(lab("creatinine", value, printed=printed, comparator=comparator)) == text


def test_preliminary_and_extreme_are_said() -> None:
    assert shown(lab("creatinine", 5.0, printed="5.0 mg/dL", preliminary=True, extreme=True)) == (
        "5.0 mg/dL, preliminary, extreme value, confirm"
    )


def test_ucum_spellings_are_made_readable() -> None:
    assert as_printed(lab("temperature", 38.0, printed="100.4 [degF]")) == "100.4 °F"
    assert as_printed(lab("sbp", 120, printed="120 mm[Hg]")) == "120 mmHg"


def test_a_canonical_value_is_given_in_the_unit_its_neighbour_was_printed_in() -> None:
    assert in_unit_of(lab("creatinine", 2.036124, printed="180 umol/L"), 1.0) == "88.4 umol/L"
    assert in_unit_of(lab("creatinine", 2.0, printed="2.0 mg/dL"), 1.0) == "1.00 mg/dL"


def test_a_date_without_a_time_is_written_as_a_date() -> None:
    assert taken(lab("creatinine", 2.6, 0)) == "2026-03-10 14:00"
    assert taken(lab("creatinine", 2.6, 0, has_time=False)) == "2026-03-10"


@pytest.mark.parametrize(
    ("length", "text"),
    [(timedelta(minutes=20), "20 min"), (timedelta(hours=47, minutes=50), "47 h"), (timedelta(days=9), "9 d")],
)
def test_spans_are_minutes_hours_or_days(length: timedelta, text: str) -> None:
    assert span(length) == text


def test_no_probability_is_written_as_certain() -> None:
    assert [probability(p) for p in (0.0, 0.004, 0.5, 0.999, 1.0)] == ["0.01", "0.01", "0.50", "0.99", "0.99"]


def test_the_longest_summary_that_fits_is_taken() -> None:
    assert fitting("x" * 140, "x" * 139, "short") == "x" * 139
    assert len(fitting("x" * 200, "y" * 300)) == 139


def test_a_detail_gives_up_its_last_facts_before_its_sentences() -> None:
    facts = [Fact(f"fact {i}", "*" * 70, "2026-03-10 14:00", "Laboratory") for i in range(6)]
    text = detail(why="Why.", facts=facts, advice="Advice. " * 20, unknown=("one", "two", "three"), rule="Rule X v1")
    assert len(text) <= 1200
    assert "fact 0" in text
    assert "fact 5" not in text
    assert text.endswith("Rule X v1")
    assert "Not known: one; two" in text
    with pytest.raises(CardError, match="Rule X v1"):
        detail(why="Why.", facts=facts, advice="x" * 1200, rule="Rule X v1")


def test_converted_values_keep_their_brackets_and_links_do_not() -> None:
    text = detail(
        why="Why.",
        facts=[Fact("a", "180 umol/L [2.04 mg/dL]"), Fact("b", "[2 mg](https://evil.example)")],
        advice="Advice.",
        rule="Rule X v1",
    )
    assert "180 umol/L [2.04 mg/dL]" in text
    assert "[2 mg](" not in text


def test_a_service_swaps_reasons_in_and_never_has_more_than_six() -> None:
    own = (("a", "A"), ("b", "B"))
    assert [r.code for r in override_reasons(own, without=("patient-refuses", "need-more-info"))] == [
        "a",
        "b",
        *(code for code, _ in DEFAULT_REASONS if code not in ("patient-refuses", "need-more-info")),
    ]
    assert len(override_reasons(own, without=())) == 6


def test_a_setting_the_manifest_lost_is_named() -> None:
    manifest = service("deterioration")
    with pytest.raises(ManifestError, match=r"deterioration\.yaml: settings\.nothing"):
        setting(manifest, "nothing")
    with pytest.raises(ManifestError, match="number of hours"):
        hours(manifest, "rapid_response_code")
    assert hours(manifest, "vitals_h") == timedelta(hours=8)


def test_rules_of_one_version_share_it() -> None:
    import msgspec

    manifest = service("imaging-safety")
    assert rule_line(manifest, "IS-01", "IS-03") == "Rule IS-01+IS-03 v1"
    newer = msgspec.structs.replace(manifest.rules["IS-03"], version=2)
    changed = msgspec.structs.replace(manifest, rules={**manifest.rules, "IS-03": newer})
    assert rule_line(changed, "IS-01", "IS-03") == "Rule IS-01 v1 + IS-03 v2"
