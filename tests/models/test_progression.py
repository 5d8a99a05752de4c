"""Courses: consistent when the films are exchanged, silent without grounds, and true on pairs whose course is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract import Course
from models.progression import (
    COURSES,
    REVERSED,
    CourseNumbers,
    Progression,
    course_of,
    fit_direction,
    fit_persistence,
    joint_probabilities,
    likeliest,
)

LEARNED = CourseNumbers(slope=1.0, offset=0.0, persistence=0.3, band=0.7, named=True)
UNLEARNED = CourseNumbers(slope=1.0, offset=0.0, persistence=1.0, band=None, named=False)
probability = st.floats(0.0, 1.0)
numbers = st.builds(
    CourseNumbers,
    slope=st.floats(-5, 5),
    offset=st.floats(-5, 5),
    persistence=st.floats(0.02, 1.0),
    band=st.none() | st.floats(0.0, 5.0),
    named=st.just(True),
)


@given(numbers, probability, probability, st.floats(-30, 30))
def test_exchanging_the_films_reverses_every_course_to_the_last_bit(
    n: CourseNumbers, now: float, before: float, difference: float
) -> None:
    forth, back = joint_probabilities(n, now, before, difference), joint_probabilities(n, before, now, -difference)
    assert all(forth[c] == back[REVERSED[c]] for c in COURSES)
    assert likeliest(back) == REVERSED[likeliest(forth)]
    assert sum(forth.values()) == pytest.approx(1.0)


def progression(n: CourseNumbers) -> Progression:
    """A model of width 2 whose finding is the first number of the whole film, its severity the second."""
    presence, severity = np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.0, 0.0]])
    tensors = {"presence": presence, "severity": severity, "centre": np.zeros(4), "scale": np.ones(4)}
    return Progression({"effusion": n}, {k: v.astype(np.float32) for k, v in tensors.items()})


def film(said: float, severity: float = 0.0) -> np.ndarray:
    return np.array([[said, severity], [0.0, 0.0]], np.float32)


@pytest.mark.parametrize(
    ("now", "before", "course"),
    [
        (film(8.0), film(-8.0), "new"),
        (film(-8.0), film(8.0), "resolved"),
        (film(8.0, 6.0), film(8.0), "worse"),
        (film(8.0), film(8.0, 6.0), "improved"),
        (film(8.0), film(8.0), None),  # band 0.7: 2 * sigmoid(-0.7) = 0.66 of the mass is a change of some kind
    ],
)
def test_a_course_follows_from_presence_and_severity(now: np.ndarray, before: np.ndarray, course: Course) -> None:
    assert progression(LEARNED).changes(now, before)["effusion"].course == course


def test_a_finding_on_neither_film_has_no_course() -> None:
    assert progression(LEARNED).changes(film(-8.0), film(-8.0)) == {}


def test_without_pairs_that_teach_a_direction_none_is_ever_named() -> None:
    for severity in (-20.0, 0.0, 20.0):
        (change,) = progression(UNLEARNED).changes(film(8.0, severity), film(8.0)).values()
        assert change.course is None
        assert change.probabilities["worse"] == change.probabilities["improved"] == change.probabilities["stable"]


def test_a_finding_whose_courses_were_not_shown_to_be_right_is_compared_without_a_name() -> None:
    silent = CourseNumbers(1.0, 0.0, 1.0, 0.7, named=False)
    (change,) = progression(silent).changes(film(8.0), film(-8.0)).values()
    assert change.course is None
    assert change.probabilities["new"] > 0.9


@pytest.mark.parametrize(
    ("now", "before", "course"),
    [(0.4, 0.0, "new"), (0.0, 0.4, "resolved"), (0.5, 0.4, "worse"), (0.3, 0.4, "improved"), (0.4, 0.4, "stable")],
)
def test_the_true_course_is_that_of_the_sizes(now: float, before: float, course: Course) -> None:
    assert course_of(now, before) == course


def test_nothing_on_either_film_is_no_course() -> None:
    assert course_of(0.0, 0.0) is None


def test_the_direction_that_made_the_courses_is_found_again() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, 6))
    d = 3.0 * x[:, 2]
    courses: list[Course] = ["worse" if v > 1.0 else "improved" if v < -1.0 else "stable" for v in d]
    weights, band = fit_direction(x, courses, l2=0.001)
    assert np.abs(weights).argmax() == 2
    assert weights[2] > 4.0 * np.abs(np.delete(weights, 2)).max()
    assert band > 0.0


def test_labels_that_rarely_change_make_a_change_less_likely() -> None:
    now, before = np.full(100, 0.5), np.full(100, 0.5)
    # One in five changes: factor f with f * 0.5 / (f * 0.5 + 0.5) = 0.2, so f = 0.25.
    assert fit_persistence(now, before, np.arange(100) % 5 > 0) == pytest.approx(0.25, rel=0.1)
