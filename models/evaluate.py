"""What a model is worth, target by target: as served, by missing modality, by subgroup, against doing without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.calibration import Floats
from models.card import Attained, Standing, TargetCard
from models.comparator import boosted_scores
from models.conformal import Coverage, conformal_sets, coverage_of
from models.judged import Judged
from models.metrics import RESAMPLES, Estimated, Figures, difference, figures
from models.rivals import attained, compared, late_fusion_scores, pattern_margins

MIN_SLICE = 10
"""A subgroup is shown from this many positive and as many negative patients."""
SLOPES = (0.8, 1.2)
"""Reliability slopes between which a probability may be printed: CLINICAL 3.5, MX-1."""
AGE_BANDS = ((18, 50), (50, 70), (70, None))


def report(judged: Judged, *, resamples: int = RESAMPLES) -> TargetCard:
    """All figures of one target, its standing, and its limits in words made from them."""
    target, labels, patients, weights = judged.target, judged.labels, judged.patients, judged.weights
    names = tuple(target.modalities)
    logits, _ = judged.predictions.as_served(names, judged.column)
    used = judged.used
    if any(len(np.unique(patients[used & (labels == v)])) < 2 for v in (0.0, 1.0)):
        return _unjudged(judged)
    probabilities = judged.probabilities()

    def of(rows: NDArray[np.bool_], score: Floats, p: Floats | None = None) -> Figures:
        picked = None if p is None else p[rows]
        return figures(labels[rows], score[rows], patients[rows], weights[rows], picked, resamples=resamples)

    served = of(used, logits, probabilities)
    complete = np.all([judged.predictions.has[m] for m in names], axis=0)
    whole = _pattern(names)
    ablation = {
        name: of(complete, judged.predictions.logits[name][:, judged.column].astype(np.float64))
        for name in judged.predictions.logits
        if name and set(name.split("+")) <= set(names)
    }
    gain = _gain(judged, complete, ablation, whole, resamples)
    baselines = {name: of(used, score) for name, score in judged.baseline.items()}
    rival = max(baselines, key=lambda n: baselines[n].auroc.value, default=None)
    margin = None
    if rival is not None:
        margin = difference(
            labels[used], logits[used], judged.baseline[rival][used], patients[used], weights[used], resamples=resamples
        )
    slices = _slices(judged, complete, names, resamples)
    shown = {name: judged.predictions.logits[name][complete, judged.column].astype(np.float64) for name in ablation}
    over_late, over_single = judged.over_late, {}
    if whole in shown and len(names) > 1 and not judged.folded:
        singles = np.stack([shown[m] for m in names], axis=1)
        late = late_fusion_scores(singles, labels[complete], patients[complete], weights[complete])
        over_late = difference(
            labels[complete], shown[whole], late, patients[complete], weights[complete], resamples=resamples
        )
        over_single = pattern_margins(shown, labels[complete], patients[complete], weights[complete], resamples)
    trees, over_trees = _against_trees(judged, logits, used, resamples)
    withheld = _why_withheld(served)
    standing, limits = _standing(judged, served, withheld, gain=gain, margin=margin, rival=rival, slices=slices)
    if over_late is not None and over_late.low <= 0.0:
        limits = (*limits, f"Not shown to beat calibrated late fusion: AUROC difference {_ci(over_late)}.")
    if over_trees is not None and over_trees.high < 0.0:
        limits = (*limits, f"Gradient-boosted trees on the same results do better: AUROC difference {_ci(over_trees)}.")
    return TargetCard(
        ages=judged.shard.header.ages,
        evaluated=judged.how,
        figures=served,
        ablation=ablation,
        fusion_gain=gain,
        baselines=baselines,
        margin=margin,
        trees=trees,
        over_trees=over_trees,
        over_late=over_late,
        over_single=over_single,
        attained=_attained(judged, complete, shown, whole, resamples),
        rivals=_rivals(judged, resamples),
        head=judged.head,
        subgroups=_subgroups(judged, logits, used, resamples),
        slices=slices,
        standing=standing,
        limits=limits,
        withheld=withheld,
    )


def _attained(
    judged: Judged, complete: NDArray[np.bool_], shown: Mapping[str, Floats], whole: str, resamples: int
) -> Attained | None:
    optimal = judged.shard.optimal(judged.target.name)
    if optimal is None or whole not in shown:
        return None
    best = optimal[judged.predictions.rows][complete].astype(np.float64)
    rows = np.isfinite(best)
    labels = judged.labels[complete][rows]
    if len(np.unique(best[rows])) < 2 or len(np.unique(labels)) < 2:
        return None  # a coin toss has nothing to attain
    scores = {name: score[rows] for name, score in shown.items()}
    return attained(scores, whole, best[rows], labels, judged.patients[complete][rows], resamples)


def _rivals(judged: Judged, resamples: int) -> dict[str, dict[str, Figures]]:
    if not judged.rivals:
        return {}
    context = judged.predictions.context
    slices = {"all films": np.ones(len(judged.labels), np.bool_), "AP films only": context[:, 4] == 1}
    return {
        name: compared(judged.rivals, judged.labels, judged.patients, rows, resamples) for name, rows in slices.items()
    }


def _unjudged(judged: Judged) -> TargetCard:
    return TargetCard(
        ages=judged.shard.header.ages,
        evaluated=judged.how,
        figures=None,
        ablation={},
        fusion_gain=None,
        baselines={},
        margin=None,
        trees=None,
        over_trees=None,
        subgroups={},
        slices={},
        standing="withheld",
        limits=("Fewer than two patients with or without it to judge by.",),
        withheld="too few patients to judge it by",
    )


def _pattern(names: Sequence[str]) -> str:
    return "+".join(sorted(names))


def _gain(
    judged: Judged, complete: NDArray[np.bool_], ablation: Mapping[str, Figures], whole: str, resamples: int
) -> Estimated | None:
    single = [n for n in ablation if "+" not in n]
    if len(single) < 2 or whole not in ablation:
        return None
    best = max(single, key=lambda n: ablation[n].auroc.value)

    def score(name: str) -> Floats:
        return np.asarray(judged.predictions.logits[name][complete, judged.column], np.float64)

    return difference(
        judged.labels[complete],
        score(whole),
        score(best),
        judged.patients[complete],
        judged.weights[complete],
        resamples=resamples,
    )


def _against_trees(
    judged: Judged, logits: Floats, used: NDArray[np.bool_], resamples: int
) -> tuple[Figures | None, Estimated | None]:
    """Targets on results alone are measured against boosted trees; a validation split is needed to be fair to both."""
    if judged.target.modalities != ("labs",) or judged.folded or not len(judged.shard.rows("train")):
        return None, None
    scores = boosted_scores(judged.shard, judged.target.name, judged.predictions.rows[used])
    labels, patients, weights = judged.labels[used], judged.patients[used], judged.weights[used]
    return (
        figures(labels, scores, patients, weights, resamples=resamples),
        difference(labels, logits[used], scores, patients, weights, resamples=resamples),
    )


def _enough(judged: Judged, rows: NDArray[np.bool_]) -> bool:
    return all(len(np.unique(judged.patients[rows & (judged.labels == v)])) >= MIN_SLICE for v in (0.0, 1.0))


def coverage(judged: Judged) -> dict[str, Coverage]:
    """What conformal sets promise and keep, as served, for all and for each subgroup large enough to tell.

    Raises ValueError where there are too few cases of either kind to promise anything.
    """
    logits, _ = judged.predictions.as_served(tuple(judged.target.modalities), judged.column)
    used = judged.used
    # Only the order within a class counts, so that a probability does as well calibrated as not.
    probabilities = 1.0 / (1.0 + np.exp(-np.clip(logits[used], -40.0, 40.0)))
    labels, patients = judged.labels[used], judged.patients[used]
    groups = {name: mask[used] for name, mask in _groups(judged).items()}
    return coverage_of(conformal_sets(probabilities, labels, patients), labels, patients, groups)


def _groups(judged: Judged) -> dict[str, NDArray[np.bool_]]:
    context = judged.predictions.context
    masks = {"female": context[:, 2] == 1, "male": context[:, 3] == 1}
    for low, high in AGE_BANDS:
        years = context[:, 0] * 10.0
        inside = (context[:, 1] == 1) & (years >= low) & (years < (high or 1000))
        masks[f"age {low} and over" if high is None else f"age {low} to {high - 1}"] = inside
    if "imaging" in judged.target.modalities:
        masks |= {"AP film": context[:, 4] == 1, "PA film": context[:, 4] == 0}
    return masks


def _subgroups(judged: Judged, logits: Floats, used: NDArray[np.bool_], resamples: int) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for name, mask in _groups(judged).items():
        rows = mask & used
        if _enough(judged, rows):
            found[name] = figures(
                judged.labels[rows], logits[rows], judged.patients[rows], judged.weights[rows], resamples=resamples
            )
    return found


def _slices(
    judged: Judged, complete: NDArray[np.bool_], names: Sequence[str], resamples: int
) -> dict[str, dict[str, Figures]]:
    """With films and another modality: AP films alone, since the projection tells who was too ill to stand."""
    if "imaging" not in names or len(names) < 2:
        return {}
    rows = complete & (judged.predictions.context[:, 4] == 1)
    if any(rows[judged.labels == v].sum() < MIN_SLICE for v in (0.0, 1.0)):
        return {}
    scores = {
        name: logits[:, judged.column].astype(np.float64)
        for name, logits in judged.predictions.logits.items()
        if name and set(name.split("+")) <= set(names)
    }
    scores |= dict(judged.baseline)
    return {
        "AP films only": {
            name: figures(
                judged.labels[rows], s[rows], judged.patients[rows], judged.weights[rows], resamples=resamples
            )
            for name, s in scores.items()
        }
    }


def _why_withheld(served: Figures) -> str:
    """Why no probability may be printed (CLINICAL 3.5, MX-1), as the end of a sentence; empty where one may."""
    skill, slope = served.skill, served.slope
    if served.auroc.low <= 0.5:
        return "not shown to be better than chance"
    if skill is None or skill.value <= 0.0:
        return "no better than always answering the prevalence"
    if slope is not None and not SLOPES[0] <= slope.value <= SLOPES[1]:
        return f"its probabilities are too {'bold' if slope.value < SLOPES[0] else 'timid'} to be relied on"
    return ""


def _standing(
    judged: Judged,
    served: Figures,
    withheld: str,
    *,
    gain: Estimated | None,
    margin: Estimated | None,
    rival: str | None,
    slices: Mapping[str, Mapping[str, Figures]],
) -> tuple[Standing, tuple[str, ...]]:
    a, skill, slope = served.auroc, served.skill, served.slope
    limits: list[str] = []
    standing: Standing = "withheld" if withheld else "usable"
    if a.low <= 0.5:
        limits.append(f"AUROC {_ci(a)} does not exclude chance ({served.positives} positive patients).")
    if skill is not None and skill.value <= 0.0:
        limits.append(f"Brier score no better than always answering the prevalence: skill {_ci(skill)}.")
    elif skill is not None and skill.low <= 0.0:
        standing = "flagged" if standing == "usable" else standing
        limits.append(f"Not shown to beat always answering the prevalence: Brier skill {_ci(skill)}.")
    if slope is not None and not SLOPES[0] <= slope.value <= SLOPES[1]:
        limits.append(f"Reliability slope {_ci(slope)} outside {SLOPES[0]} to {SLOPES[1]}.")
    if margin is not None and margin.low <= 0.0:
        standing = "flagged" if standing == "usable" else standing
        limits.append(f"Not shown to add to {rival}: AUROC difference {_ci(margin)}.")
    if gain is not None and gain.low <= 0.0:
        limits.append(f"Fusion not shown to beat the best single modality: AUROC difference {_ci(gain)}.")
    whole = _pattern(judged.target.modalities)
    for name, rows in slices.items():
        if whole in rows and rows[whole].auroc.low <= 0.5:
            standing = "flagged" if standing == "usable" else standing
            limits.append(f"{name}: AUROC {_ci(rows[whole].auroc)} does not exclude chance.")
    if served.positives < 50:
        limits.append(f"Judged on {served.positives} positive patients of {served.patients}.")
    if judged.shard.header.notes:
        limits.append(judged.shard.header.notes)
    return standing, tuple(limits)


def _ci(e: Estimated) -> str:
    return f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"
