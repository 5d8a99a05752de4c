"""docs/model.md, written from the models' own `model.json`: no figure in it is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.card import Card, TargetCard
from models.checkpoint import read_card
from models.contract import Target
from models.metrics import Estimated, Figures

HEAD = """# Models

Written by `cds-service evaluate MODEL --page docs/model.md` from each checkpoint's `model.json`; nothing here is
typed by hand.

Not validated for care. AUROC and the other figures are on validation patients who took no part in training (or, where
it says so, cross-validated by patient), with a 95 % interval from drawing patients anew. *Positive* counts patients.
A **baseline** is what the answer can be had from without looking at the evidence (age, sex, and circumstances such as
the projection); **over baseline** is the paired difference to the strongest of them. **Fusion gain** is all modalities
together less the best single one, on the same patients. **ECE** is over fifteen bins of equal mass. **Brier skill** is
the share of the Brier score of always answering the prevalence that is saved; below zero the answer does harm.
**Slope** and **intercept** are of reliability: below a slope of one the probabilities are too bold. **Over late
fusion** is the paired difference to a regression over the single modalities' logits, **over trees** to gradient-boosted
trees on first, last, lowest, highest, mean, count, age and sex of the same cases. A target is *usable*, *flagged*
(shown with its limits) or *withheld*: the model abstains unless, on patients kept apart, it is better than chance and
than the prevalence, with a reliability slope of 0.8 to 1.2. Results on generated patients prove that
the machinery works and say nothing about care; they never share a table with results on open data.
"""


def page(folders: Sequence[Path]) -> str:
    """The whole page for these checkpoints, in order."""
    return HEAD + "".join(_model(read_card(folder)) for folder in folders)


def _model(card: Card) -> str:
    targets = {t.name: t for t in card.spec.targets}
    lines = [
        f"\n## {card.name} {card.version} ({card.tier} data)\n",
        f"Preset `{card.preset.name}`, {card.weights.parameters / 1e6:.1f} million parameters stored as "
        f"{card.weights.precision}, {len(card.spec.labs)} analytes, films at {card.spec.image.size} px. "
        f"Weights sha-256 `{card.weights.sha256[:16]}`.\n",
        "| target | learns from | cases (positive) | AUROC | AUPRC | ECE | over baseline | fusion gain | standing |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(targets[name], found) for name, found in card.targets.items()),
    ]
    lines += _fused(card) + _boosted(card) + _attained(card) + _rivals(card)
    lines += _calibrated(card) + _sets(card)
    ablated = {n: f for n, f in card.targets.items() if len(f.ablation) > 1}
    if ablated:
        lines += [
            "\n### By what the model was shown\n",
            "Complete cases only; the same cases in every row of a target.\n",
        ]
        lines += ["| target | shown | cases (positive) | AUROC | AUPRC |", "|---|---|---|---|---|"]
        for name, found in ablated.items():
            lines += [_shown(name, what, figures) for what, figures in found.ablation.items()]
            lines += [_shown(name, f"baseline: {what}", figures) for what, figures in found.baselines.items()]
            for slice_, rows in found.slices.items():
                lines += [_shown(name, f"{slice_}: {what}", figures) for what, figures in rows.items()]
    drawn = [name for name, found in card.targets.items() if found.figures is not None]
    lines += ["\n### Pictures\n", "ROC, reliability, net benefit (Vickers and Elkin 2006), AUROC by what was shown.\n"]
    lines += [f"![{card.name}, {targets[name].title}](model/{card.name}/{name}.svg)\n" for name in drawn]
    lines += ["\n### Known limits\n", *(f"- {limit}" for limit in card.known_limits)]
    lines += ["\n### Data\n", "| data | licence | patients | attribution |", "|---|---|---|---|"]
    for source in card.sources:
        patients = ", ".join(f"{n} {split}" for split, n in source.patients.items())
        title = f"[{source.title}]({source.url})" if source.url else source.title
        lines.append(f"| {title} | {source.licence} | {patients} | {source.attribution} |")
    return "\n".join(lines) + "\n"


def _table(title: str, says: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = [f"\n### {title}\n", f"{says}\n", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _calibrated(card: Card) -> list[str]:
    rows = [
        (f"`{name}`", _ci(f.brier), _ci(f.skill), _ci(f.slope), _ci(f.intercept), found.withheld)
        for name, found in card.targets.items()
        if (f := found.figures) is not None and f.skill is not None
    ]
    return _table(
        "Calibration",
        "Of probabilities as served: each missing pattern by its own map, fitted without the patient it is applied to.",
        ("target", "Brier score", "Brier skill", "slope", "intercept", "withheld because"),
        rows,
    )


def _sets(card: Card) -> list[str]:
    rows = [
        (
            f"`{name}`",
            group,
            str(c.cases),
            f"{c.nominal:.2f}",
            _ci(c.covered),
            f"{c.decided:.3f}",
            "" if c.right is None else f"{c.right:.3f}",
        )
        for name, found in card.targets.items()
        for group, c in found.sets.items()
    ]
    return _table(
        "Conformal sets",
        "Class-conditional sets of the answers that cannot be ruled out, calibrated on other patients of the split "
        "(Vovk 2012), by subgroup of 200 cases or more. Decided: exactly one answer is left. No card shows a set.",
        ("target", "cases of", "number", "promised", "covered", "decided", "of these right"),
        rows,
    )


def _fused(card: Card) -> list[str]:
    rows = [
        (f"`{name}`", f"`{shown}`", _ci(margin), _ci(found.over_late) if _whole(card, name) == shown else "")
        for name, found in card.targets.items()
        for shown, margin in _margins(card, name, found).items()
    ]
    return _table(
        "Fusion against doing without",
        "AUROC differences on the same complete cases, paired. Below zero at its upper end, fusion does harm there.",
        ("target", "shown", "over the best single modality shown", "over late fusion"),
        rows,
    )


def _margins(card: Card, name: str, found: TargetCard) -> dict[str, Estimated]:
    if found.over_single or found.fusion_gain is None:
        return found.over_single
    return {_whole(card, name): found.fusion_gain}


def _whole(card: Card, name: str) -> str:
    return next("+".join(sorted(t.modalities)) for t in card.spec.targets if t.name == name)


def _boosted(card: Card) -> list[str]:
    shares = {head.target: f"{head.share:.0%}" for head in card.recipe.boosted_heads}
    rows = [
        (f"`{name}`", _ci(found.figures.auroc), _ci(found.trees.auroc), _ci(found.over_trees), shares.get(name, "none"))
        for name, found in card.targets.items()
        if found.trees is not None and found.figures is not None
    ]
    return _table(
        "Results against gradient-boosted trees",
        "In the last column how much of our logit is trees of our own: there the neural tower does not ship alone.",
        ("target", "AUROC", "trees", "over trees", "share of trees in ours"),
        rows,
    )


def _attained(card: Card) -> list[str]:
    rows = [
        (f"`{name}`", str(a.cases), _ci(a.optimum), _ci(a.above_chance), _ci(a.gain))
        for name, found in card.targets.items()
        if (a := found.attained) is not None
    ]
    return _table(
        "Against what is attainable",
        "The generator's own probability is the best any reader of a complete record can do. Shares of its AUROC above "
        "one half, and of its gain over our best single modality.",
        ("target", "complete cases", "optimum AUROC", "share above chance", "share of the gain"),
        rows,
    )


def _rivals(card: Card) -> list[str]:
    rows = [
        (
            f"`{name}`",
            slice_,
            way + (" (ships)" if way == found.head else ""),
            f"{f.cases} ({f.positives})",
            _ci(f.auroc),
        )
        for name, found in card.targets.items()
        for slice_, ways in found.rivals.items()
        for way, f in ways.items()
    ]
    return _table(
        "Few patients, frozen towers",
        "Every way to answer, its score the mean of repeated five-fold cross-validations by patient. One head on all "
        "modalities ships only where it beats late fusion.",
        ("target", "films", "way", "cases (positive)", "AUROC"),
        rows,
    )


def _row(target: Target, found: TargetCard) -> str:
    f = found.figures
    cells = (
        f"`{target.name}` {target.title}",
        ", ".join(target.modalities),
        f"{f.cases} ({f.positives})" if f else "too few",
        _ci(f.auroc if f else None),
        _ci(f.auprc if f else None),
        _ci(f.ece if f else None),
        _ci(found.margin),
        _ci(found.fusion_gain),
        found.standing,
    )
    return "| " + " | ".join(cells) + " |"


def _shown(name: str, what: str, f: Figures) -> str:
    return f"| `{name}` | {what} | {f.cases} ({f.positives}) | {_ci(f.auroc)} | {_ci(f.auprc)} |"


def _ci(e: Estimated | None) -> str:
    return "" if e is None else f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"
