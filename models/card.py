"""`model.json`: everything about a checkpoint that is not a weight. Written by the training run, never by hand."""

from __future__ import annotations

from typing import Literal

import msgspec

from models.backbones.manifest import Backbone
from models.calibration import Calibration
from models.config import Preset, Recipe
from models.conformal import Coverage
from models.contract import InputSpec, Tier
from models.metrics import Estimated, Figures

Standing = Literal["usable", "flagged", "withheld"]
"""usable; flagged: shown with its limits; withheld: fails MX-1 on patients kept apart (better than chance and than the
prevalence, reliability slope 0.8 to 1.2), so it abstains."""


class SourceCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One data set: terms, counts, and the hashes that name exactly what was used."""

    name: str
    title: str
    tier: Tier
    licence: str
    attribution: str
    url: str
    notes: str
    patients: dict[str, int]
    cases: dict[str, int]
    shard_sha256: str
    table_sha256: dict[str, str]


class Attained(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of generated patients, whose best possible answer is known, on cases that hold all that decides.

    optimum       AUROC of the generator's own probability on these cases
    above_chance  our AUROC above one half, as a share of the optimum's
    gain          our AUROC above the best single modality's, as a share of the optimum's; None with one modality
    """

    cases: int
    optimum: Estimated
    above_chance: Estimated
    gain: Estimated | None


class TargetCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one target's answers.

    ages         whom it was trained on, in whole years; it abstains for a patient known to be outside
    evaluated    on which patients the figures are made
    figures      as served: every case with what it has, probabilities cross-fitted; None where there were too few
    ablation     complete cases only, by what was shown to the model; the same cases in every row
    fusion_gain  AUROC of all together less that of the best single modality, None with one modality
    baselines    what the answer can be had from without the evidence: age and sex; those and the circumstances
    margin       AUROC less that of the strongest baseline, paired
    trees        for targets on results alone: boosted trees fitted on the same cases, and our AUROC less theirs
    over_late    AUROC less that of calibrated late fusion (a regression over single-modality logits), complete cases
    over_single  per missing pattern of two or more: AUROC less that of the best single modality in it
    attained     of generated patients: how much of what can be known is
    rivals       few patients, frozen towers: repeated cross-validation by patient of what was tried, by slice
    head         which of `one head on all` and `late fusion` ships, where both were tried
    sets         what conformal sets kept, for all, with, without and by subgroup of 200 cases; empty where not judged
    withheld     why it is, as the end of a sentence; empty where it is not
    subgroups    sex, age band, view; a slice with fewer than ten positive or negative patients is not shown
    """

    ages: tuple[int, int | None]
    evaluated: str
    figures: Figures | None
    ablation: dict[str, Figures]
    fusion_gain: Estimated | None
    baselines: dict[str, Figures]
    margin: Estimated | None
    subgroups: dict[str, Figures]
    slices: dict[str, dict[str, Figures]]
    standing: Standing
    limits: tuple[str, ...]
    trees: Figures | None = None
    over_trees: Estimated | None = None
    over_late: Estimated | None = None
    over_single: dict[str, Estimated] = {}
    sets: dict[str, Coverage] = {}
    withheld: str = ""
    attained: Attained | None = None
    rivals: dict[str, dict[str, Figures]] = {}
    head: str | None = None


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str
    sha256: str
    precision: str
    parameters: int


class GateNumbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the gate keeps besides its tensors.

    threshold_score   a film scoring lower is refused (log-odds of being a frontal chest film, upright)
    threshold_spread  a film farther than this from every source is refused (Mahalanobis)
    pixels            lowest and highest accepted mean, spread, share of black, left-right correlation
    false_refusals    share of validation films refused, by source, and their mean
    refused           share of validation films refused after each of the changes that must be noticed
    """

    threshold_score: float
    threshold_spread: float
    pixels: dict[str, tuple[float, float]]
    false_refusals: dict[str, float]
    refused: dict[str, float]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of model.json; `format` grows when a reader of the old one would misread the new."""

    format: int
    name: str
    version: str
    tier: Tier
    weights: Weights
    spec: InputSpec
    preset: Preset
    recipe: Recipe
    sources: tuple[SourceCard, ...]
    calibration: Calibration
    gate: GateNumbers | None
    targets: dict[str, TargetCard]
    known_limits: tuple[str, ...]
    torch: str
    trained_seconds: int

    @property
    def model(self) -> str:
        """`chest-open@1`, as an Assessment names it."""
        return f"{self.name}@{self.version}"

    @property
    def notice(self) -> str:
        """What a card that rests on a film has to say of the licence of the network that read it."""
        backbone = self.preset.image.backbone
        return backbone.licence.notice(backbone.name) if isinstance(backbone, Backbone) else ""
