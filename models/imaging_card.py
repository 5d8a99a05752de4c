"""`model.json` of the imaging networks: how they were made, what they are worth. Written by the training run alone."""

from __future__ import annotations

from typing import Literal

import msgspec

from models.card import Weights
from models.film_data import FilmSource
from models.imaging_train import ImagingRecipe
from models.metrics import Estimated
from models.progression import CourseNumbers


class OutlineFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Overlap with a known outline, mean over films, interval by patient."""

    films: int
    patients: int
    dice: Estimated
    iou: Estimated


class RatioFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cardiothoracic ratio.

    given     share of films that a ratio is given for
    error     mean absolute error against the ratio the film was drawn with; None where nobody knows it
    bias      mean of measured less drawn
    enlarged  AUROC of the ratio for `cardiomegaly` in the report, with the positive films; None without reports
    """

    films: int
    given: Estimated
    error: Estimated | None
    bias: Estimated | None
    enlarged: Estimated | None
    positives: int


class KindFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of picture that must be refused: AUROC against frontal validation films, share refused."""

    pictures: int
    auroc: Estimated
    refused: Estimated


class PlaceFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evidence maps against where the finding is.

    pointing  share of films whose hottest cell touches the finding
    chance    the same for a cell drawn at random
    zone      share of films, of all, with a zone named that holds a fifth of the finding or more; None where only a
              box is known
    named     share of films for which a zone is named at all
    """

    films: int
    pointing: Estimated
    chance: float
    zone: Estimated | None
    named: float | None


class CourseFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Courses against the truth, on pairs whose patients took no part in fitting.

    classes   pairs by true class
    macro_f1  of the likeliest class, where every pair is answered
    constant  macro-F1 of always answering the commonest class
    answered  share of pairs with a named course; macro_f1_answered on those
    swapped   share of pairs whose answer turns exactly when the two films are exchanged
    """

    pairs: int
    patients: int
    classes: dict[str, int]
    macro_f1: Estimated
    constant: float
    answered: float
    macro_f1_answered: float | None
    swapped: float


class ImagingFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All figures, by tier wherever both tiers have some.

    outlines        tier -> structure
    ratio           source -> figures
    false_refusals  source -> share of frontal validation films refused, thresholds from the other half of the patients
    gate            kind of picture -> figures
    places          where the truth comes from -> finding
    courses         pairs -> finding, and `all` together
    invented        share of single films of which a course is said
    """

    outlines: dict[str, dict[str, OutlineFigures]]
    ratio: dict[str, RatioFigures]
    false_refusals: dict[str, Estimated]
    gate: dict[str, KindFigures]
    places: dict[str, dict[str, PlaceFigures]]
    courses: dict[str, dict[str, CourseFigures]]
    invented: float


class ComparedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint whose findings' courses were fitted: only with these very weights are they said.

    placed  findings whose evidence points to where they are more often than chance does; of others no zone is named
    """

    sha256: str
    findings: dict[str, CourseNumbers]
    placed: tuple[str, ...] = ()


class FilmReaderCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of model.json; `reads` tells it from the card of a fusion model.

    threshold  a picture whose log-odds of being an upright frontal chest film lie below is refused
    """

    reads: Literal["films"]
    format: int
    name: str
    version: str
    weights: Weights
    recipe: ImagingRecipe
    sources: tuple[FilmSource, ...]
    shards: dict[str, str]
    threshold: float
    compared: dict[str, ComparedModel]
    figures: ImagingFigures
    known_limits: tuple[str, ...]
    torch: str
    trained_seconds: int
