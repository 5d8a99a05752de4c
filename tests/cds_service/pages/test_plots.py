"""Where marks stand on a plot, by hand: the axis of the values is 360 by 190 with 46, 14, 20 and 30 of margin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from cds_service.pages.plots import reference_range, scale, strip, time_ticks, trend, value_ticks
from cds_service.pages.snapshot import EstimateView, Point, Ref, Series

NOW = datetime(2026, 3, 10, 6, 10, tzinfo=UTC)


def point(value: float, ago: timedelta = timedelta(0), **more: object) -> Point:
    given = {"printed": f"{value:g} mg/dL", "ref": Ref(reference="Observation/1"), "low": 0.6, "high": 1.2, **more}
    return Point(at=NOW - ago, value=value, **given)  # type: ignore[arg-type]


def series(*points: Point, unit: str = "mg/dL") -> Series:
    return Series(analyte="creatinine", name="Creatinine", unit=unit, kind="lab", points=points)


def test_results_and_reference_range_stand_at_their_values() -> None:
    plot = trend(series(point(3.0, mark="deciding"), point(1.0, timedelta(days=2))))
    # Values 0.6 to 3.0 with air reach below 0.5 and above 3: ticks 0, 1, 2, 3, 4 or the like; the axis spans them.
    bottom, top = float(plot.values[0].label), float(plot.values[-1].label)

    def y(value: float) -> float:
        return 160 - (value - bottom) / (top - bottom) * 140

    old, new = plot.spots
    assert (old.x, new.x) == (54.0, 338.0)
    assert (old.y, new.y) == (pytest.approx(y(1.0), abs=0.1), pytest.approx(y(3.0), abs=0.1))
    assert plot.band == (pytest.approx(y(1.2), abs=0.1), pytest.approx(y(0.6), abs=0.1))
    assert [t.at for t in plot.values] == [pytest.approx(y(float(t.label)), abs=0.1) for t in plot.values]
    assert plot.deciding is not None
    assert plot.deciding.text == "3"
    assert plot.deciding.y < new.y


def test_a_result_halfway_in_time_stands_halfway() -> None:
    plot = trend(series(point(1.0), point(2.0, timedelta(hours=6)), point(1.5, timedelta(hours=12))))
    assert [s.x for s in plot.spots] == [54.0, 196.0, 338.0]
    assert plot.line == " ".join(f"{s.x:g},{s.y:g}" for s in plot.spots)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.5, 3.2, (0, 1, 2, 3, 4)),
        (0.0, 1.0, (0, 0.5, 1.0)),
        (90, 105, (90, 95, 100, 105)),
        (35.7, 39.2, (34, 36, 38, 40)),
        (0.0, 5400, (0, 2000, 4000, 6000)),
        (0.012, 0.03, (0.01, 0.02, 0.03)),
    ],
)
def test_value_ticks_are_round_and_hold_everything(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert value_ticks(low, high) == ticks


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        ("2026-03-10T06:10", "2026-03-10T10:30", ("03-10 08:00", "03-10 10:00")),
        ("2026-03-09T20:00", "2026-03-10T14:00", ("03-10 00:00", "03-10 06:00", "03-10 12:00")),
        ("2026-03-07T09:00", "2026-03-10T06:00", ("2026-03-08", "2026-03-09", "2026-03-10")),
        ("2024-11-20T09:00", "2026-03-10T06:00", ("2025-01", "2025-07", "2026-01")),
        ("2019-05-02T09:00", "2021-03-10T06:00", ("2020-01", "2021-01")),
        ("2026-03-10T06:10", "2026-03-10T06:10", ("2026-03-10 06:10",)),
    ],
)
def test_time_ticks_fall_on_round_moments(first: str, last: str, labels: tuple[str, ...]) -> None:
    start, end = (datetime.fromisoformat(t).replace(tzinfo=UTC) for t in (first, last))
    ticks = time_ticks(start, end)
    assert tuple(label for _, label in ticks) == labels
    assert all(start <= at <= end for at, _ in ticks)


def test_dates_are_those_of_the_zone_the_newest_result_was_recorded_in() -> None:
    new_york = timezone(timedelta(hours=-5))
    last = datetime(2026, 3, 10, 22, tzinfo=new_york)
    ticks = time_ticks(last.astimezone(UTC) - timedelta(days=3), last)
    assert [at.utcoffset() for at, _ in ticks] == [timedelta(hours=-5)] * 3
    assert ticks[-1][1] == "2026-03-10"


def test_forty_years_of_results_still_have_few_dates() -> None:
    assert 2 <= len(time_ticks(NOW - timedelta(days=40 * 365), NOW)) <= 4


def test_results_beyond_a_limit_of_measurement_point_to_where_the_truth_lies() -> None:
    plot = trend(series(point(0.2, comparator="<"), point(5.0, timedelta(days=1), comparator=">=")))
    assert [s.shape for s in plot.spots] == ["up", "down"]


@pytest.mark.parametrize(
    ("printed", "comparator", "text"),
    [
        ("2.6 mg/dL", "", "2.6"),
        ("2.60 mg/dL", "", "2.60"),
        ("230 umol/L [2.6 mg/dL]", "", "2.60"),  # the axis is in mg/dL
        ("<2.6 mg/dL", "<", "<2.6"),
    ],
)
def test_the_deciding_value_is_written_as_the_laboratory_wrote_it(printed: str, comparator: str, text: str) -> None:
    plot = trend(series(point(2.6, mark="deciding", printed=printed, comparator=comparator)))
    assert plot.deciding is not None
    assert plot.deciding.text == text


def test_a_preliminary_result_is_marked_as_such() -> None:
    (spot,) = trend(series(point(2.0, preliminary=True))).spots
    assert spot.preliminary
    assert spot.label.endswith("preliminary")


def test_a_reader_who_sees_nothing_hears_the_newest_the_range_and_what_decided() -> None:
    plot = trend(series(point(2.6, mark="deciding"), point(2.5, timedelta(days=2))))
    assert plot.title == "Creatinine, mg/dL"
    assert plot.description == (
        "2 results, newest 2.6 mg/dL at 2026-03-10 06:10. Reference range 0.6 to 1.2 mg/dL. "
        "Deciding value 2.6 mg/dL at 2026-03-10 06:10."
    )


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.6, 1.2, "0.6 to 1.2 mg/dL"),
        (None, 5, "up to 5 mg/dL"),
        (0, 5, "up to 5 mg/dL"),
        (40, None, "40 and above mg/dL"),
        (None, None, ""),
        (0, 0, "0 mg/dL"),
    ],
)
def test_a_reference_range_is_said_as_far_as_it_is_known(low: float | None, high: float | None, text: str) -> None:
    assert reference_range(low, high, "mg/dL") == text


@pytest.mark.parametrize("value", [0.0, -5.0, 1e-6, 4.2e6])
def test_one_result_of_any_size_can_be_drawn(value: float) -> None:
    plot = trend(series(point(value, low=None, high=None)))
    assert len(plot.spots) == 1
    assert 20 <= plot.spots[0].y <= 160
    assert plot.band is None
    assert 0 <= strip(series(point(value, low=None, high=None))).spot.x <= 180


def test_a_single_result_stands_beside_its_range() -> None:
    # 0.6 to 2.4 with 8 % of air on both sides is 0.456 to 2.544; the strip has 164 units from 8 on.
    drawn = strip(series(point(2.4)))
    per_unit = 164 / (2.544 - 0.456)
    assert drawn.spot.x == pytest.approx(8 + (2.4 - 0.456) * per_unit, abs=0.1)
    assert drawn.band == (
        pytest.approx(8 + (0.6 - 0.456) * per_unit, abs=0.1),
        pytest.approx(8 + (1.2 - 0.456) * per_unit, abs=0.1),
    )


def test_a_probability_stands_at_its_place_between_0_and_1_with_its_interval() -> None:
    drawn = scale(
        EstimateView(
            title="Effusion",
            on_card=True,
            probability=0.5,
            interval=(0.25, 0.75),
            without=(("chest film", 0.0),),
            rested_on=("chest film",),
            thresholds=(("high", 1.0),),
            prior=0.1,
        )
    )
    assert drawn is not None
    assert [(r.label, r.value) for r in drawn.rows] == [
        ("With everything", 0.5),
        ("Without chest film", 0.0),
        ("On the film before alone", 0.1),
    ]
    assert (drawn.rows[0].x, drawn.rows[0].bar, drawn.rows[1].x) == (130.0, (69.0, 191.0), 8.0)
    assert drawn.thresholds[0].at == 252.0


def test_an_abstention_has_no_scale() -> None:
    view = EstimateView(
        title="x", on_card=True, probability=None, interval=None, without=(), rested_on=(), abstained="not a chest film"
    )
    assert scale(view) is None
