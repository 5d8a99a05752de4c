"""What the imaging networks are worth on patients who took no part: outlines, ratio, gate, places, courses.

Every interval comes from drawing patients anew. Figures on generated and on open data are kept apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.anatomy import STRUCTURES, Mask, anatomy_of, believed, columns, resized, rows, thirds
from models.contract import Structure
from models.film_changes import SPOILT
from models.film_data import (
    HEART,
    HEART_KNOWN,
    LEFT_LUNG,
    LUNGS_KNOWN,
    NIH_FINDINGS,
    PAIR_FINDINGS,
    RIGHT_LUNG,
    SIGN_BITS,
    SOURCES,
    VALID,
    VIEWS,
    FilmShard,
    bit,
    to_films,
)
from models.film_reader import FilmReader, frontal_score
from models.fusion import FusionModel
from models.gates import quantile_by_source, spoilt
from models.imaging_card import KindFigures, OutlineFigures, PlaceFigures, RatioFigures
from models.metrics import Estimated, figures
from models.places import evidence, findings_of, neighbourhoods, place

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

RESAMPLES = 400
FALSE_REFUSALS = 0.01
"""Share of frontal validation films that the gate's threshold is set to refuse, every source counting the same. 5 % is
the most that may be; foreign pictures lie so far off that less is enough."""
BATCH = 64
HELD = 0.2
"""A zone is right that holds this share of the finding: an effusion or a pneumothorax lies in several."""
BOXES = "NIH boxes, all films (most of them trained on)"
BITS: dict[Structure, tuple[int, int]] = {
    "left_lung": (LEFT_LUNG, LUNGS_KNOWN),
    "right_lung": (RIGHT_LUNG, LUNGS_KNOWN),
    "heart": (HEART, HEART_KNOWN),
}


def estimated(statistic: Callable[[Floats], float], patients: Index, *, resamples: int = RESAMPLES) -> Estimated:
    """A statistic of weighted cases, and its 95 % interval: the weights are how often each patient was drawn."""
    keys, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(0)
    drawn = [
        statistic(rng.multinomial(len(keys), np.full(len(keys), 1.0 / len(keys)))[index].astype(np.float64))
        for _ in range(resamples)
    ]
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Estimated(round(statistic(np.ones(len(index))), 4), round(float(low), 4), round(float(high), 4))


def mean_of(values: Sequence[float] | Floats, patients: Index) -> Estimated:
    """Mean of the values that are numbers, with its interval."""
    x = np.asarray(values, np.float64)
    known = np.isfinite(x)

    def mean(weights: Floats) -> float:
        total = float(weights[known].sum())
        return float((weights[known] * x[known]).sum() / total) if total > 0.0 else float("nan")

    return estimated(mean, patients)


@torch.inference_mode()
def look(reader: FilmReader, films: NDArray[np.float32]) -> tuple[NDArray[np.float32], Floats]:
    """outlines (N, 3, 128, 128) logits and the log-odds (N,) of being frontal, of films (N, 1, S, S)."""
    outlines, scores = [], []
    for start in range(0, len(films), BATCH):
        seen = reader.net(resized(torch.from_numpy(films[start : start + BATCH])))
        outlines.append(seen.outlines.numpy())
        scores.append(frontal_score(seen.kinds))
    return np.concatenate(outlines), np.concatenate(scores)


# ---------------------------------------------------------------------------------------------- outlines and ratio


def judge_outlines(reader: FilmReader, films: FilmShard) -> dict[str, dict[str, OutlineFigures]]:
    """Overlap with human lung outlines (open), and with the exact ones of generated films, where they are known."""
    a = films.arrays
    found: dict[str, dict[str, OutlineFigures]] = {}
    for tier, source in (("open", "hannover"), ("generated", "generated")):
        chosen = (a["split"] == VALID) & (a["kind"] == 0) & (a["source"] == SOURCES.index(source))
        index = np.flatnonzero(chosen & bit(a["masks"], LUNGS_KNOWN).any(axis=(1, 2)))
        logits, _ = look(reader, to_films(a["pixels"][index]))
        masks = [believed(one, one.shape[-1]) for one in logits]
        found[tier] = {}
        for name in STRUCTURES:
            of, known = BITS[name]
            truth, looked = bit(a["masks"][index], of), bit(a["masks"][index], known)
            if looked.any():
                pairs = [
                    overlap(m.get(name, np.zeros_like(t)) & k, t & k)
                    for m, t, k in zip(masks, truth, looked, strict=True)
                ]
                dice, iou = np.array(pairs).T
                patients = a["patient"][index]
                counts = len(index), len(np.unique(patients))
                found[tier][name] = OutlineFigures(*counts, mean_of(dice, patients), mean_of(iou, patients))
    return found


def overlap(found: Mask, truth: Mask) -> tuple[float, float]:
    """Dice and intersection over union; both 1 where neither holds anything."""
    both, total = int((found & truth).sum()), int(found.sum()) + int(truth.sum())
    return (1.0, 1.0) if total == 0 else (2.0 * both / total, both / (total - both))


def judge_ratio(reader: FilmReader, films: FilmShard) -> dict[str, RatioFigures]:
    """Against the ratio a generated film was drawn with; on NIH films, of which no outline and no ratio was ever
    learned, against whether the report says cardiomegaly."""
    a = films.arrays
    found: dict[str, RatioFigures] = {}
    for source in ("generated", "nih14"):
        chosen = (a["kind"] == 0) & (a["source"] == SOURCES.index(source))
        index = np.flatnonzero(chosen & (a["split"] == VALID) if source == "generated" else chosen)
        logits, _ = look(reader, to_films(a["pixels"][index]))
        size = a["pixels"].shape[-1]
        ratios = [
            anatomy_of(believed(one, size), VIEWS[view]).ctr for one, view in zip(logits, a["view"][index], strict=True)
        ]
        measured = np.array([np.nan if r is None else r for r in ratios])
        patients, given = a["patient"][index], np.isfinite(measured)
        away = measured - a["ctr"][index].astype(np.float64)
        drawn, enlarged = source == "generated", a["enlarged"][index].astype(np.float64)
        known = given & np.isfinite(enlarged)
        found[source] = RatioFigures(
            films=len(index),
            given=mean_of(given.astype(np.float64), patients),
            error=mean_of(np.abs(away), patients) if drawn else None,
            bias=mean_of(away, patients) if drawn else None,
            enlarged=None if drawn else figures(enlarged[known], measured[known], patients[known]).auroc,
            positives=0 if drawn else int(enlarged[known].sum()),
        )
    return found


# ---------------------------------------------------------------------------------------------- the gate


def frontal_scores(reader: FilmReader, films: FilmShard) -> tuple[Floats, Index, Index]:
    """Scores, sources and patients of the frontal validation films, source by source."""
    a = films.arrays
    chosen = np.flatnonzero((a["split"] == VALID) & (a["kind"] == 0))
    chosen = chosen[np.argsort(a["source"][chosen], kind="stable")]
    _, scores = look(reader, to_films(a["pixels"][chosen]))
    return scores, a["source"][chosen].astype(np.int64), a["patient"][chosen]


def threshold_of(scores: Floats, sources: Index) -> float:
    """The score below which FALSE_REFUSALS of the films lie; `sources` in ascending order."""
    sizes = [int(n) for n in np.bincount(sources) if n]
    return round(quantile_by_source(scores, sizes, FALSE_REFUSALS), 3)


def judge_gate(reader: FilmReader, films: FilmShard) -> tuple[dict[str, Estimated], dict[str, KindFigures]]:
    """False refusals by source, each half of the patients under the threshold of the other; and every foreign kind."""
    a = films.arrays
    scores, sources, patients = frontal_scores(reader, films)
    half = patients % 2 == 0
    refused = np.zeros(len(scores))
    for part in (half, ~half):
        refused[part] = scores[part] < threshold_of(scores[~part], sources[~part])
    false = {name: sources == n for n, name in enumerate(SOURCES)}
    rates = {name: mean_of(refused[of], patients[of]) for name, of in false.items()}
    valid = a["split"] == VALID
    pictures = {
        name: to_films(a["pixels"][valid & (a["kind"] == n)])
        for n, name in enumerate(films.kinds)
        if n and (valid & (a["kind"] == n)).any()
    }
    frontal = np.flatnonzero(valid & (a["kind"] == 0))[::2]
    base = torch.from_numpy(to_films(a["pixels"][frontal]))
    for number, how in enumerate(SPOILT):
        pictures[how] = spoilt(base, how, torch.Generator().manual_seed(number)).numpy()
    weights = 1.0 / np.bincount(sources)[sources]
    kinds: dict[str, KindFigures] = {}
    for name, shown in pictures.items():
        _, other = look(reader, shown)
        labels = np.r_[np.ones(len(scores)), np.zeros(len(other))]
        keys = np.r_[patients, np.arange(len(other))]
        w = np.r_[weights / weights.sum(), np.full(len(other), 1.0 / len(other))]
        judged = figures(labels, np.r_[scores, other], keys, w, resamples=RESAMPLES)
        turned = (other < reader.card.threshold).astype(np.float64)
        kinds[name] = KindFigures(len(other), judged.auroc, mean_of(turned, np.arange(len(other))))
    return rates, kinds


# ---------------------------------------------------------------------------------------------- places


def judge_places(
    reader: FilmReader, models: Mapping[str, FusionModel], generated: FilmShard, nih: FilmShard
) -> dict[str, dict[str, PlaceFigures]]:
    """Evidence maps against the masks of generated signs, and against the boxes of NIH films."""
    found = {"generated": _generated_places(reader, models["chest-generated"], generated)}
    edges = nih.arrays["box_edges"]
    for name, chosen in (
        ("NIH boxes, validation films", nih.arrays["box_split"] == VALID),
        (BOXES, np.ones(len(edges), np.bool_)),
    ):
        found[name] = _boxes(models["chest-open"], nih, np.flatnonzero(chosen))
    return found


def hottest(heat: NDArray[np.float32], truth: Mask) -> tuple[bool, float]:
    """Whether the hottest cell of a grid touches a mask, and the share of cells that do."""
    height, width = heat.shape
    cells = np.zeros(heat.shape, np.bool_)
    cells[rows(truth) * height // truth.shape[0], columns(truth) * width // truth.shape[1]] = True
    return bool(heat.any() and cells[np.unravel_index(int(heat.argmax()), heat.shape)]), float(cells.mean())


@torch.inference_mode()
def heats(model: FusionModel, films: NDArray[np.float32]) -> list[dict[str, NDArray[np.float32]]]:
    encoder = model.image_encoder()
    assert encoder is not None, "a model with findings reads films"
    return [evidence(model, encoder, encoder.grid(torch.from_numpy(film[None]))) for film in films]


def _generated_places(reader: FilmReader, model: FusionModel, pairs: FilmShard) -> dict[str, PlaceFigures]:
    a, index = pairs.arrays, pairs.rows(VALID)[:300]
    films = to_films(a["now"][index])
    outlines, _ = look(reader, films)
    maps, size = heats(model, films), films.shape[-1]
    found: dict[str, PlaceFigures] = {}
    for column, finding in enumerate(PAIR_FINDINGS):
        hits, chances, right, named, patients = [], [], [], [], []
        of = SIGN_BITS.get(finding, HEART)
        for n, row in enumerate(index):
            truth = bit(a["masks"][row], of)
            if a["sizes"][row, 0, column] <= 0.0 or not truth.any():
                continue
            hit, chance = hottest(maps[n][finding], truth)
            zones = thirds(
                {"left_lung": bit(a["masks"][row], LEFT_LUNG), "right_lung": bit(a["masks"][row], RIGHT_LUNG)}
            )
            held = {zone: int((mask & truth).sum()) for zone, mask in zones.items()}
            near = neighbourhoods(anatomy_of(believed(outlines[n], size), "PA").zones)
            said = place(finding, maps[n][finding], near).zone
            hits.append(float(hit))
            chances.append(chance)
            right.append(float(said is not None and held.get(said, 0) >= HELD * sum(held.values())))
            named.append(float(said is not None))
            patients.append(int(a["patient"][row]))
        keys, in_lung = np.array(patients), finding in SIGN_BITS  # a heart lies in no zone of a lung
        found[finding] = PlaceFigures(
            len(hits),
            mean_of(hits, keys),
            round(float(np.mean(chances)), 4),
            mean_of(right, keys) if in_lung else None,
            round(float(np.mean(named)), 4) if in_lung else None,
        )
    return found


def _boxes(model: FusionModel, nih: FilmShard, index: Index) -> dict[str, PlaceFigures]:
    a, known = nih.arrays, findings_of(model)
    size = a["box_pixels"].shape[-1]
    hits, chances = [], []
    for row in index:
        finding = NIH_FINDINGS[int(a["box_finding"][row])]
        if finding not in known:
            continue
        left, top, right, bottom = (round(float(v)) for v in a["box_edges"][row])
        truth = np.zeros((size, size), np.bool_)
        truth[top:bottom, left:right] = True
        (maps,) = heats(model, to_films(a["box_pixels"][row][None]))
        hit, chance = hottest(maps[finding], truth)
        hits.append(float(hit))
        chances.append(chance)
    keys = np.arange(len(hits))
    return {"all findings": PlaceFigures(len(hits), mean_of(hits, keys), round(float(np.mean(chances)), 4), None, None)}
