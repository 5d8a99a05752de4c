"""Fit and judge the courses: on generated pairs of known course, and on NIH follow-up films whose labels change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from models.calibration import fit_platt
from models.contract import Change, Course
from models.film_data import NIH_FINDINGS, PAIR_FINDINGS, TRAIN, VALID, FilmShard, to_films
from models.fusion import FusionModel
from models.gates import summary
from models.imaging_card import CourseFigures
from models.imaging_evaluate import BATCH, Floats, Index, estimated
from models.places import findings_of
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
    presence,
)

STATUSES = ("appeared", "same", "gone")


@torch.inference_mode()
def encoded(model: FusionModel, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Encodings (N, 1 + K, D) of 8-bit films (N, S, S)."""
    encoder = model.image_encoder()
    assert encoder is not None, "a model with findings reads films"
    return np.concatenate(
        [
            encoder.films(torch.from_numpy(to_films(pixels[start : start + BATCH]))).numpy()
            for start in range(0, len(pixels), BATCH)
        ]
    )


def fit_courses(model: FusionModel, pairs: FilmShard) -> Progression:
    """Presence from what the model's own imaging head says, calibrated on training pairs; direction where sizes are
    known. Whether courses are named is decided later, on pairs kept apart."""
    a, train = pairs.arrays, pairs.rows(TRAIN)
    encoder = model.image_encoder()
    assert encoder is not None
    now, before = (summary(encoded(model, a[name][train])) for name in ("now", "before"))
    both = np.concatenate([now, before])
    centre, scale = both.mean(axis=0), both.std(axis=0) + 1e-6
    known = "sizes" in a
    names = PAIR_FINDINGS if known else NIH_FINDINGS
    amounts = a["sizes" if known else "labels"][train].astype(np.float64)
    columns = {name: n for name, n in findings_of(model).items() if name in names}
    head = model.heads["imaging"].weight
    assert isinstance(head, torch.Tensor)
    said_by = _on_summaries(head.detach()[list(columns.values())].numpy().astype(np.float64), encoder.regions)
    severity = np.zeros((len(columns), both.shape[1]))
    numbers: dict[str, CourseNumbers] = {}
    for row, name in enumerate(columns):
        sizes = amounts[:, :, names.index(name)]
        said = both @ said_by[row]
        labels = np.concatenate([sizes[:, 0], sizes[:, 1]]) > 0
        patients = np.concatenate([a["patient"][train], a["patient"][train]])
        platt = fit_platt(said, labels.astype(np.float64), patients)
        draft = CourseNumbers(round(platt.slope, 5), round(platt.intercept, 5), 1.0, None, False)
        p, q = (np.array([presence(draft, float(s)) for s in x @ said_by[row]]) for x in (now, before))
        same = (sizes[:, 0] > 0) == (sizes[:, 1] > 0)
        band = None
        if known:
            on_both = (sizes > 0).all(axis=1)
            difference = (now[on_both] - before[on_both]) / scale
            courses = [course_of(*pair) for pair in sizes[on_both]]
            severity[row], band = fit_direction(difference, [c for c in courses if c is not None])
        persistence = round(fit_persistence(p, q, same), 4)
        numbers[name] = msgspec.structs.replace(draft, persistence=persistence, band=band)
    tensors = {"presence": said_by, "severity": severity, "centre": centre, "scale": scale}
    return Progression(numbers, {k: np.asarray(v, np.float32) for k, v in tensors.items()})


def _on_summaries(head: Floats, regions: int) -> Floats:
    """The imaging head (F, D) on the mean of 1 + K tokens, as weights (F, 2 D) on (whole, mean of regions)."""
    return np.concatenate([head / (1 + regions), head * (regions / (1 + regions))], axis=1)


# ---------------------------------------------------------------------------------------------- judging


def judge_courses(progression: Progression, model: FusionModel, pairs: FilmShard) -> dict[str, CourseFigures]:
    """By finding and all together, on the validation pairs: five courses where sizes are known, else three statuses."""
    a, valid = pairs.arrays, pairs.rows(VALID)
    now, before = (encoded(model, a[name][valid]) for name in ("now", "before"))
    known = "sizes" in a
    names = PAIR_FINDINGS if known else NIH_FINDINGS
    amounts = a["sizes" if known else "labels"][valid]
    answers = _Answers()
    for row, patient in enumerate(a["patient"][valid]):
        here, there = (progression.films(x[row : row + 1])[:, 0] for x in (now, before))
        forth = progression.changes(now[row], before[row])
        back = progression.changes(before[row], now[row])
        for column, (name, n) in enumerate(progression.numbers.items()):
            size_now, size_before = (float(s) for s in amounts[row, :, names.index(name)])
            p, q = (presence(n, float(x[0, column])) for x in (here, there))
            turned = _turned(forth.get(name), back.get(name))
            if known:
                truth = course_of(size_now, size_before)
                if truth is None:
                    continue
                joint = joint_probabilities(n, p, q, float(here[1, column] - there[1, column]))
                best: str = likeliest(joint)
                sure = max(joint.values()) > 0.5 and name in forth
            else:
                truth = STATUSES[1 + (size_now < size_before) - (size_now > size_before)]  # type: ignore[assignment]
                best, sure = _status(n, p, q)
            answers.add(name, str(truth), best, sure, turned, int(patient))
    return answers.figures(COURSES if known else STATUSES)


def _turned(forth: Change | None, back: Change | None) -> bool:
    """Whether exchanging the films turned the answer exactly: the same numbers under the reversed names."""
    if forth is None or back is None:
        return forth is None and back is None
    wanted: Course | None = None if forth.course is None else REVERSED[forth.course]
    same = all(forth.probabilities[c] == back.probabilities[REVERSED[c]] for c in COURSES)
    return same and back.course == wanted


def _status(n: CourseNumbers, now: float, before: float) -> tuple[str, bool]:
    appeared, gone = n.persistence * now * (1.0 - before), n.persistence * before * (1.0 - now)
    parts = (appeared, now * before + (1.0 - now) * (1.0 - before), gone)
    best = int(np.argmax(parts))
    return STATUSES[best], parts[best] > 0.5 * sum(parts)


class _Answers:
    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, bool, bool, int]] = []

    def add(self, finding: str, truth: str, best: str, sure: bool, turned: bool, patient: int) -> None:
        self._rows.append((finding, truth, best, sure, turned, patient))

    def figures(self, classes: Sequence[str]) -> dict[str, CourseFigures]:
        names = list(dict.fromkeys(row[0] for row in self._rows))
        return {
            name: _figures([row for row in self._rows if name in ("all", row[0])], classes) for name in (*names, "all")
        }


def _figures(rows: Sequence[tuple[str, str, str, bool, bool, int]], classes: Sequence[str]) -> CourseFigures:
    truth = np.array([classes.index(row[1]) for row in rows])
    best = np.array([classes.index(row[2]) for row in rows])
    sure = np.array([row[3] for row in rows])
    patients: Index = np.array([row[5] for row in rows], np.int64)
    score = macro_f1(truth, best, len(classes))
    common = int(np.bincount(truth).argmax())
    return CourseFigures(
        pairs=len(rows),
        patients=len(np.unique(patients)),
        classes={name: int((truth == n).sum()) for n, name in enumerate(classes)},
        macro_f1=estimated(score, patients),
        constant=round(macro_f1(truth, np.full_like(truth, common), len(classes))(np.ones(len(truth))), 4),
        answered=round(float(sure.mean()), 4),
        macro_f1_answered=(
            round(macro_f1(truth[sure], best[sure], len(classes))(np.ones(int(sure.sum()))), 4) if sure.any() else None
        ),
        swapped=float(np.mean([row[4] for row in rows])),
    )


def macro_f1(truth: Index, best: Index, classes: int) -> Callable[[Floats], float]:
    """Mean F1 over the classes that occur among the weighted cases."""

    def score(weights: Floats) -> float:
        present = [c for c in range(classes) if weights[truth == c].sum() > 0]
        found = f1_score(truth, best, labels=present, average="macro", sample_weight=weights, zero_division=0.0)
        return float(found)

    return score


def with_standing(progression: Progression, judged: dict[str, CourseFigures]) -> Progression:
    """Courses are named only of findings whose macro-F1 lies, with its whole interval, above always saying the same."""
    numbers = {
        name: msgspec.structs.replace(
            n, named=n.band is not None and name in judged and judged[name].macro_f1.low > judged[name].constant
        )
        for name, n in progression.numbers.items()
    }
    return Progression(numbers, progression.tensors)
