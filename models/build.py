"""From shards to a checkpoint: towers, frozen heads, calibration, gate, figures, card. Nothing is typed by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from models.calibration import Calibration, Floats, PlattMap, fit_platt, pattern, patterns_of
from models.card import Card, GateNumbers, SourceCard, TargetCard, Weights
from models.checkpoint import FORMAT, round_weights, save_checkpoint
from models.config import FrozenHead, Recipe
from models.contract import Target
from models.data import SPLITS, Shard
from models.encoders.image import ImageEncoder
from models.evaluate import report
from models.fusion import FusionModel
from models.gates import CHANGES, PER_SOURCE, ImageGate, fit_gate, spoilt
from models.heads import Pooled, boost, cross_validate, fit_head, fit_late, fit_one, install, statistics_of
from models.judged import Judged, baseline_columns, baselines_by_fold, design, judge_on_valid
from models.metrics import difference
from models.predict import Predictions, context_of, pooled_encodings, predict
from models.rivals import repeated, repeated_tables
from models.train import Progress, fit, forget, load_training


def train(
    recipe: Recipe,
    shards: Path,
    out: Path,
    *,
    device: str = "cpu",
    state: Path | None = None,
    progress: Progress | None = None,
) -> Card | None:
    """Train, judge and write a checkpoint to `out`; returns its card, or None in every process but the first.

    Deterministic for a recipe, shards, device, number of threads and of processes. With `state` a broken run is taken
    up again, also one that had only the judging left.
    """
    begun = time.monotonic()
    loaded, _, _ = load_training(shards, recipe)
    model = fit(recipe, loaded, device=device, state=state, progress=progress)
    if dist.is_initialized() and dist.get_rank() != 0:
        return None
    card = finish(recipe, model, loaded, out, begun=begun, progress=progress)
    if state is not None:
        forget(state)
    return card


def finish(
    recipe: Recipe,
    model: FusionModel,
    shards: Mapping[str, Shard],
    out: Path,
    *,
    begun: float | None = None,
    progress: Progress | None = None,
) -> Card:
    """Everything after the towers: heads, rounding, calibration, gate, figures, files."""
    begun = time.monotonic() if begun is None else begun
    model.eval()
    for head in recipe.boosted_heads:
        boost(model, head.target, shards[_source(model, head.target)], head.share, seed=recipe.seed)
    round_weights(model, recipe.precision)
    frozen = {h.target: h for h in recipe.frozen_heads}
    judged: dict[str, Judged] = {}
    predictions: dict[str, Predictions] = {}
    targets = model.spec.targets
    for number, target in enumerate(targets):
        if progress is not None:
            progress("judging", number, len(targets), 0.0)
        shard = shards[target.source]
        if target.name in frozen:
            judged[target.name] = judge_frozen(model, target, shard, frozen[target.name])
        else:
            if target.source not in predictions:
                predictions[target.source] = predict(model, shard, shard.rows("valid"))
            judged[target.name] = judge_on_valid(target, shard, predictions[target.source])
    round_weights(model, recipe.precision)  # the frozen heads came after the first rounding
    calibration = Calibration({name: calibrate(j) for name, j in judged.items()})
    gate = _gate(model, shards, recipe.seed)
    cards: dict[str, TargetCard] = {}
    for number, (name, j) in enumerate(judged.items()):
        if progress is not None:
            progress("figures", number, len(judged), 0.0)
        cards[name] = report(j)
    sources = tuple(_source_card(shard) for _, shard in sorted(shards.items()))
    card = Card(
        format=FORMAT,
        name=recipe.name,
        version=recipe.version,
        tier=recipe.tier,
        weights=Weights("", "", recipe.precision, 0),
        spec=model.spec,
        preset=model.preset,
        recipe=recipe,
        sources=sources,
        calibration=calibration,
        gate=None if gate is None else gate.numbers,
        targets=cards,
        known_limits=known_limits(cards, sources, None if gate is None else gate.numbers, recipe),
        torch=str(torch.__version__),
        trained_seconds=round(time.monotonic() - begun),
    )
    return save_checkpoint(out, model, card, gate)


def _source(model: FusionModel, target: str) -> str:
    return next(t.source for t in model.spec.targets if t.name == target)


def judge_frozen(model: FusionModel, target: Target, shard: Shard, head: FrozenHead) -> Judged:
    """Cross-validate the head on frozen towers, then fit it on every patient and put it into the model."""
    rows = shard.rows()
    labels = shard.labels(target.name).astype(np.float64)
    rows = rows[np.isfinite(labels)]
    labels = labels[rows]
    pooled = pooled_encodings(model, shard, rows, target.modalities)
    patients, folds = shard.patient[rows], shard.fold[rows]
    ways = {"one head on all": fit_head, "late fusion": fit_late}
    singles = {f"{m} alone": fit_one(m) for m in target.modalities}
    rivals = repeated({**ways, **singles}, pooled, labels, patients, head.l2)
    over_late = difference(labels, rivals["one head on all"], rivals["late fusion"], patients)
    # Late fusion has less to overfit: one head on everything ships only where it is shown to be better.
    chosen = "one head on all" if over_late.low > 0.0 else "late fusion"
    held = cross_validate(pooled, labels, patients, folds, head.l2, ways[chosen])
    column = model.spec.target_names().index(target.name)
    logits: dict[str, NDArray[np.float32]] = {}
    for shown, scores in held.items():
        matrix = np.full((len(rows), len(model.spec.targets)), np.nan, np.float32)
        lacks = ~np.all([pooled.seen[m] for m in shown], axis=0)
        matrix[:, column] = np.where(lacks, np.nan, scores)
        logits[pattern(shown)] = matrix
    install(model, target.name, ways[chosen](pooled, labels, patients, head.l2))
    rivals |= repeated_tables(_tables(shard, rows, pooled), labels, patients)
    count = len(np.unique(folds))
    return Judged(
        target,
        shard,
        Predictions(rows, logits, pooled.seen, context_of(shard, rows)),
        column,
        labels,
        baselines_by_fold(shard, rows, target.name),
        f"{count}-fold cross-validation by patient of the head; the towers never saw these patients",
        folded=True,
        rivals=rivals,
        head=chosen,
        over_late=over_late,
    )


def _tables(shard: Shard, rows: NDArray[np.int64], pooled: Pooled) -> dict[str, tuple[Floats, str]]:
    """What logistic regression and boosted trees get to see of these cases, for the comparison."""
    found = statistics_of(shard, rows).reshape(len(rows), len(shard.spec.labs), -1)[:, :, 0].astype(np.float64)
    _, columns = list(baseline_columns(shard).items())[-1]
    circumstances = design(shard, rows, columns)
    vectors = [np.where(pooled.seen[m][:, None], v, np.nan) for m, v in pooled.vectors.items() if m != "labs"]
    return {
        "circumstances alone (regression)": (circumstances, "regression"),
        "last results (regression)": (found, "regression"),
        "last results and circumstances (regression)": (np.concatenate([found, circumstances], axis=1), "regression"),
        "last results and film encoding (trees)": (np.concatenate([found, *vectors], axis=1), "trees"),
    }


def calibrate(judged: Judged) -> dict[str, PlattMap]:
    """A map for every missing pattern that has enough patients of either label."""
    maps: dict[str, PlattMap] = {}
    for shown in patterns_of(judged.target.modalities):
        name = pattern(shown)
        if name not in judged.predictions.logits:
            continue  # a modality that no case has
        logits: Floats = judged.predictions.logits[name][:, judged.column].astype(np.float64)
        used = np.isfinite(logits)
        try:
            maps[name] = fit_platt(
                logits[used], judged.labels[used], judged.patients[used], judged.weights[used], pull=None
            )
        except ValueError:
            continue
    return maps


@dataclass(frozen=True, slots=True)
class _Films:
    pixels: NDArray[np.float32]
    features: NDArray[np.float32]


def _gate(model: FusionModel, shards: Mapping[str, Shard], seed: int) -> ImageGate | None:
    encoder = model.image_encoder()
    if encoder is None:
        return None
    rng = np.random.default_rng(seed)
    good: dict[str, dict[str, _Films]] = {split: {} for split in SPLITS}
    for name, shard in sorted(shards.items()):
        for split in SPLITS:
            rows = shard.rows(split)
            rows = rows[shard.has("imaging")[rows]]
            if len(rows) >= 20:
                rows = np.sort(rng.choice(rows, min(PER_SOURCE, len(rows)), replace=False))
                first = shard.arrays["imaging.offsets"][rows]
                pixels = shard.arrays["imaging.values"][first].astype(np.float32) / np.float32(255.0)
                good[split][name] = _Films(pixels, _encode(encoder, pixels))
    if not good["train"] or not good["valid"]:
        return None
    bad: dict[str, dict[str, _Films]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        pixels = np.concatenate([films.pixels[:60] for films in good[split].values()])
        for number, kind in enumerate(CHANGES):
            generator = torch.Generator().manual_seed(seed * 100 + number)
            changed = spoilt(torch.from_numpy(pixels), kind, generator).numpy()
            bad[split][kind] = _Films(changed, _encode(encoder, changed))
    return fit_gate(
        {n: (f.pixels, f.features) for n, f in good["train"].items()},
        {n: f.features for n, f in bad["train"].items()},
        {n: (f.pixels, f.features) for n, f in good["valid"].items()},
        {n: (f.pixels, f.features) for n, f in bad["valid"].items()},
    )


@torch.inference_mode()
def _encode(encoder: ImageEncoder, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    device = next(encoder.parameters()).device
    parts = [
        encoder.films(torch.from_numpy(np.ascontiguousarray(pixels[i : i + 64])).to(device)).cpu().numpy()
        for i in range(0, len(pixels), 64)
    ]
    return np.concatenate(parts)


def _source_card(shard: Shard) -> SourceCard:
    header = shard.header
    return SourceCard(
        name=header.source,
        title=header.title,
        tier=header.tier,
        licence=header.licence,
        attribution=header.attribution,
        url=header.url,
        notes=header.notes,
        patients={s: len(np.unique(shard.patient[shard.rows(s)])) for s in SPLITS},
        cases={s: len(shard.rows(s)) for s in SPLITS},
        shard_sha256=shard.digest,
        table_sha256=header.tables,
    )


def known_limits(
    cards: Mapping[str, TargetCard], sources: Sequence[SourceCard], gate: GateNumbers | None, recipe: Recipe
) -> tuple[str, ...]:
    """The limits of all sources and targets as sentences, from what they say of themselves and their figures."""
    found = [
        "Not validated for care: "
        + {"generated": "trained and judged on generated patients only."}.get(
            recipe.tier, "trained on small public data sets, judged on other patients of the same hospitals."
        )
    ]
    notes = {source.name: source.notes for source in sources if source.notes}
    found += [f"{name}: {note.removeprefix(f'{name.capitalize()}: ')}" for name, note in sorted(notes.items())]
    found += [f"{n}: {limit}" for n, c in cards.items() for limit in c.limits if limit not in notes.values()]
    found += [f"{name}: withheld, the model abstains." for name, c in cards.items() if c.standing == "withheld"]
    if gate is not None:
        found.append(f"The image gate refuses {gate.false_refusals['all']:.1%} of proper validation films.")
        weak = [f"{k} ({v:.0%})" for k, v in gate.refused.items() if v < 0.9]
        if weak:
            found.append(f"The image gate notices only some films that are {', '.join(weak)}.")
    return tuple(found)
