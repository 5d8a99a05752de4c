"""Wells, YEARS, PERC and the D-dimer limits, against their publications."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from cds_service.advice.packs.wells import POINTS, UNLIKELY, Limit, Perc, Wells, age_adjusted, highest, years

NONE = Wells(*(False,) * 7)
NEGATIVE = Perc(*(False,) * 8)


@pytest.mark.parametrize(
    ("item", "points"),
    [
        # Wells 2000, Thromb Haemost 83:416, table; as encoded in the AHRQ CDS artifact "Wells Criteria" (2023).
        ("leg_signs", 3.0),
        ("pe_most_likely", 3.0),
        ("fast_heart", 1.5),
        ("surgery_or_bedrest", 1.5),
        ("previous_vte", 1.5),
        ("haemoptysis", 1.0),
        ("active_cancer", 1.0),
    ],
)
def test_each_item_has_the_points_of_the_publication(item: str, points: float) -> None:
    score = replace(NONE, **{item: True})
    assert (score.least, score.most) == (points, points)


def test_all_items_together_are_twelve_and_a_half_points() -> None:
    # 3 + 3 + 1.5 + 1.5 + 1.5 + 1 + 1, the published maximum.
    assert Wells(*(True,) * 7).most == 12.5
    assert set(POINTS) == {f.name for f in fields(Wells)}


def test_unlikely_reaches_to_four_points_and_ends_at_four_and_a_half() -> None:
    # Wells 2001 and the Christopher study (JAMA 2006;295:172): unlikely is 4.0 or less.
    assert replace(NONE, leg_signs=True, haemoptysis=True).most <= UNLIKELY
    assert replace(NONE, pe_most_likely=True, fast_heart=True).most > UNLIKELY


def test_an_open_item_counts_in_the_worst_case_and_not_in_the_best() -> None:
    # Vignette S04: nothing charted, embolism not the likeliest, leg signs (3) and haemoptysis (1) never answered.
    score = replace(NONE, leg_signs=None, haemoptysis=None)
    assert (score.least, score.most, score.open) == (0.0, 4.0, ("leg_signs", "haemoptysis"))
    assert (Wells().least, Wells().most) == (0.0, 12.5)


def test_years_counts_leg_signs_haemoptysis_and_embolism_most_likely_only() -> None:
    assert NONE.years == (0, 0)
    assert replace(NONE, fast_heart=True, active_cancer=True, previous_vte=True).years == (0, 0)
    assert replace(NONE, leg_signs=True, haemoptysis=None).years == (1, 2)


@pytest.mark.parametrize(
    ("age", "kind", "limit"),
    [
        # "A 70-year-old has an age-adjusted D-dimer of 700 FEU or 350 DDU" (sinaiem.org, age-adjusted D-dimer: do units
        # matter?); ACP 2015: age x 10 ng/mL above 50 years, 500 up to there.
        (70, "feu", 700),
        (70, "ddu", 350),
        (68, "feu", 680),
        (51, "feu", 510),
        (50, "feu", 500),
        (30, "feu", 500),
        (30, "ddu", 250),
    ],
)
def test_the_limit_rises_with_age_above_fifty(age: int, kind: str, limit: float) -> None:
    assert age_adjusted(age, kind).value == limit  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("items", "kind", "limit"), [(0, "feu", 1000), (1, "feu", 500), (3, "feu", 500), (0, "ddu", 500)]
)
def test_years_allows_1000_with_no_item_and_500_with_one_or_more(items: int, kind: str, limit: float) -> None:
    # van der Hulle, Lancet 2017;390:289.
    assert years(items, kind).value == limit  # type: ignore[arg-type]


def test_of_two_limits_the_one_that_rules_more_out_holds() -> None:
    assert highest((age_adjusted(80, "feu"), years(1, "feu"))) == Limit(800.0, "age-adjusted")
    assert highest((age_adjusted(80, "feu"), years(0, "feu"))) == Limit(1000.0, "YEARS")


def test_perc_is_negative_only_when_all_eight_are_known_to_be_absent() -> None:
    # Kline 2004, J Thromb Haemost 2:1247: any criterion present, and further tests are needed.
    assert NEGATIVE.negative
    assert len(fields(Perc)) == 8
    for criterion in fields(Perc):
        assert not replace(NEGATIVE, **{criterion.name: True}).negative
        assert not replace(NEGATIVE, **{criterion.name: None}).negative
