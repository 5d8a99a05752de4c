"""What is said of a target follows from its figures, to its disadvantage where they are thin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.card import Card
from models.contract import Target
from models.data import Shard
from models.evaluate import coverage, report
from models.judged import Judged, baseline_columns, design, judge_on_valid
from models.predict import Predictions, context_of, predict
from models.rejudge import evaluate


def judged(shard: Shard, quality: float, *, target: str = "finding.opacity", rival: float | None = None) -> Judged:
    """All cases of the shard with logits that know the label to the degree of `quality` (0 nothing, large: all)."""
    rng = np.random.default_rng(4)
    rows = shard.rows()
    labels = shard.labels(target).astype(np.float64)
    known = np.isfinite(labels)
    rows, labels = rows[known], labels[known]
    found = next(t for t in shard.spec.targets if t.name == target)
    logits = np.zeros((len(rows), len(shard.spec.targets)), np.float32)
    column = shard.spec.target_names().index(target)
    noise = rng.normal(0, 1, len(rows))
    logits[:, column] = quality * (labels - 0.5) + noise
    has = {m: np.ones(len(rows), np.bool_) for m in ("imaging", "labs", "history", "genomics")}
    patterns = {"imaging": logits, "labs": logits * 0 + noise[:, None].astype(np.float32), "imaging+labs": logits}
    baseline = {} if rival is None else {"age and sex": rival * (labels - 0.5) + rng.normal(0, 1, len(rows))}
    predictions = Predictions(rows, patterns, has, context_of(shard, rows))
    return Judged(found, shard, predictions, column, labels, baseline, "made up")


def test_a_model_that_knows_is_usable_and_one_that_guesses_is_withheld(shards: dict[str, Shard]) -> None:
    good = report(judged(shards["generated"], 3.0), resamples=100)
    bad = report(judged(shards["generated"], 0.0), resamples=100)
    assert (good.standing, bad.standing) == ("usable", "withheld")
    assert any("does not exclude chance" in limit for limit in bad.limits)
    assert not any("does not exclude chance" in limit for limit in good.limits)


@pytest.mark.parametrize("quality", [0.2, 0.5, 1.0, 4.0])
def test_what_may_be_printed_beats_chance_and_the_prevalence_and_is_neither_bold_nor_timid(
    shards: dict[str, Shard], quality: float
) -> None:
    """MX-1 of CLINICAL 3.5: reliability slope 0.8 to 1.2, Brier score better than the prevalence's p (1 - p)."""
    card = report(judged(shards["generated"], quality), resamples=60)
    f = card.figures
    assert f is not None
    assert f.brier is not None
    better = f.auroc.low > 0.5 and f.brier.value < f.prevalence * (1.0 - f.prevalence)
    printed = better and (f.slope is None or 0.8 <= f.slope.value <= 1.2)
    assert (card.standing == "withheld") == (not printed)
    assert bool(card.withheld) == (not printed)


def test_a_model_that_age_and_sex_can_replace_is_flagged(shards: dict[str, Shard]) -> None:
    card = report(judged(shards["generated"], 2.0, rival=2.0), resamples=100)
    assert card.standing == "flagged"
    assert card.margin is not None
    assert any("Not shown to add to age and sex" in limit for limit in card.limits)


def test_fusion_that_adds_nothing_to_its_best_part_is_said_to_add_nothing(shards: dict[str, Shard]) -> None:
    made = judged(shards["generated"], 4.0)
    both = Target("finding.opacity", "Opacity", ("imaging", "labs"), "generated")
    card = report(replace(made, target=both), resamples=100)
    assert card.fusion_gain is not None
    assert (card.fusion_gain.value, card.fusion_gain.high) == (0.0, 0.0)
    assert any("Fusion not shown to beat" in limit for limit in card.limits)
    assert set(card.ablation) == {"imaging", "labs", "imaging+labs"}
    assert card.ablation["imaging"].cases == card.ablation["imaging+labs"].cases


def test_too_few_patients_to_judge_are_not_judged(shards: dict[str, Shard]) -> None:
    made = judged(shards["generated"], 4.0)
    few = np.flatnonzero(made.labels == 0)
    one = np.sort(np.append(few, np.flatnonzero(made.labels == 1)[0]))
    kept = np.isin(np.arange(len(made.labels)), one)
    card = report(replace(made, predictions=made.predictions.only(kept), labels=made.labels[kept]), resamples=50)
    assert card.figures is None
    assert card.standing == "withheld"


def test_rivals_see_age_sex_and_circumstances_and_nothing_else(shards: dict[str, Shard]) -> None:
    shard = shards["generated"]
    assert baseline_columns(shard) == {"age and sex": ("age", "sex")}
    table = design(shard, np.array([3]), ("age", "sex"))[0]
    decades, female, male = shard.inputs(3).signals["context"].values[0]
    assert table == pytest.approx([decades, decades**2, 1.0, female, male], rel=1e-5)


def test_unknown_labels_take_no_part_in_judging(
    checkpoint: tuple[Path, Card], shards: dict[str, Shard], shards_folder: Path
) -> None:
    from models.checkpoint import load_checkpoint

    shard = shards["generated"]
    predictions = predict(load_checkpoint(checkpoint[0]).model, shard, shard.rows("valid"))
    target = next(t for t in shard.spec.targets if t.name == "drug_pneumonitis")
    made = judge_on_valid(target, shard, predictions)
    assert np.isfinite(made.labels).all()
    assert 0 < len(made.labels) < len(predictions.rows)


def test_judging_a_checkpoint_again_gives_the_figures_in_its_card(
    checkpoint: tuple[Path, Card], shards_folder: Path
) -> None:
    folder, card = checkpoint
    again = evaluate(folder, shards_folder, targets=["finding.opacity", "deterioration_24h"])
    assert set(again) == {"finding.opacity", "deterioration_24h"}
    for name, found in again.items():
        assert found == card.targets[name]


def test_sets_are_judged_for_each_subgroup_large_enough_and_need_enough_cases_of_either_kind(
    shards: dict[str, Shard],
) -> None:
    once = judged(shards["generated"], 2.0)
    of = np.tile(np.arange(len(once.labels)), 6)
    p = once.predictions
    many = replace(
        once,
        labels=once.labels[of],
        predictions=Predictions(
            p.rows[of], {n: z[of] for n, z in p.logits.items()}, {n: h[of] for n, h in p.has.items()}, p.context[of]
        ),
    )
    found = coverage(many)
    women = int((p.context[:, 2] == 1).sum())
    assert found["female"].cases == 6 * women >= 200
    assert found["all"].cases == len(of)
    assert found["all"].covered.high >= 0.9
    with pytest.raises(ValueError, match="too few"):
        coverage(replace(once, labels=np.zeros_like(once.labels)))
