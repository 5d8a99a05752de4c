"""One picture a target: ROC, reliability, net benefit, and what each modality adds. Needs the `train` extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.metrics import roc_curve

from models.calibration import Floats
from models.card import TargetCard
from models.judged import Judged
from models.metrics import BINS

THRESHOLDS = np.linspace(0.01, 0.6, 60)
INK, PALE, BAR = "#1f4e79", "#9aa5b1", "#5b8db8"


def reliability(labels: Floats, probabilities: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Mean probability and observed share in BINS bins of equal weight, as `metrics.ece` cuts them."""
    order = np.argsort(probabilities, kind="stable")
    y, p, w = labels[order], probabilities[order], weights[order]
    place = np.minimum((np.cumsum(w) - w / 2) / w.sum() * BINS, BINS - 1e-9).astype(int)
    mass = np.bincount(place, w, BINS)
    full = mass > 0
    return np.bincount(place, w * p, BINS)[full] / mass[full], np.bincount(place, w * y, BINS)[full] / mass[full]


def net_benefit(labels: Floats, probabilities: Floats, weights: Floats, thresholds: Floats) -> Floats:
    """True positives less false ones at the threshold's odds, per case (Vickers and Elkin 2006)."""
    out = np.zeros(len(thresholds))
    for i, t in enumerate(thresholds):
        acted = probabilities >= t
        true, false = (weights * acted * labels).sum(), (weights * acted * (1.0 - labels)).sum()
        out[i] = (true - false * t / (1.0 - t)) / weights.sum()
    return out


def draw(judged: Judged, card: TargetCard, path: Path) -> None:
    """Write the picture of one target as SVG, the same bytes for the same figures."""
    import matplotlib
    from matplotlib.figure import Figure

    logits, _ = judged.predictions.as_served(tuple(judged.target.modalities), judged.column)
    used = judged.used
    y, z, w = judged.labels[used], logits[used], judged.weights[used]
    p = judged.probabilities()[used]
    with matplotlib.rc_context({"svg.hashsalt": judged.target.name, "svg.fonttype": "none", "font.size": 8.0}):
        figure = Figure(figsize=(11.0, 2.9), layout="constrained")
        roc, reliable, benefit, shown = figure.subplots(1, 4)
        for axes in (roc, reliable, benefit, shown):
            axes.spines[["top", "right"]].set_visible(False)
        false, true, _ = roc_curve(y, z, sample_weight=w)
        roc.plot([0, 1], [0, 1], color=PALE, linewidth=0.8)
        roc.plot(false, true, color=INK)
        roc.set(title="ROC", xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
        meant, found = reliability(y, p, w)
        top = max(0.05, float(max(meant.max(), found.max())) * 1.05)
        reliable.plot([0, top], [0, top], color=PALE, linewidth=0.8)
        reliable.plot(meant, found, color=INK, marker="o", markersize=2.5)
        reliable.set(title=f"Reliability, {BINS} bins", xlabel="probability", ylabel="observed share")
        prevalence = float(np.average(y, weights=w))
        everyone = prevalence - (1.0 - prevalence) * THRESHOLDS / (1.0 - THRESHOLDS)
        benefit.plot(THRESHOLDS, net_benefit(y, p, w, THRESHOLDS), color=INK, label="model")
        benefit.plot(THRESHOLDS, np.maximum(everyone, -0.2 * prevalence), color=PALE, label="act on everyone")
        benefit.axhline(0.0, color="black", linewidth=0.6)
        benefit.set(title="Net benefit", xlabel="threshold")
        benefit.set_ylim(-0.2 * prevalence, 1.1 * prevalence)
        benefit.legend(frameon=False)
        rows = {**card.ablation, **{f"({name})": f for name, f in card.baselines.items()}}
        for place, (name, f) in enumerate(rows.items()):
            a = f.auroc
            shown.plot([a.low, a.high], [place, place], color=BAR)
            shown.plot([a.value], [place], color=INK, marker="o", markersize=3)
            shown.text(0.02, place + 0.32, name, fontsize=5, transform=shown.get_yaxis_transform())
        shown.axvline(0.5, color=PALE, linewidth=0.8)
        shown.set(title="AUROC by what was shown", yticks=[])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
