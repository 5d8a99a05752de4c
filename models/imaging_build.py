"""From shards of films to the imaging networks on disk: train, set the gate, fit courses, judge, write the card."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from models.anatomy import AnatomyNet
from models.card import Weights
from models.checkpoint import Stored, load_checkpoint
from models.contract import EncodedFilm
from models.film_data import VALID, FilmShard, read_film_shards, to_films
from models.film_reader import FORMAT, FilmReader, save_film_reader
from models.fusion import FusionModel
from models.imaging_card import ComparedModel, FilmReaderCard, ImagingFigures
from models.imaging_courses import fit_courses, judge_courses, with_standing
from models.imaging_evaluate import (
    BOXES,
    frontal_scores,
    judge_gate,
    judge_outlines,
    judge_places,
    judge_ratio,
    threshold_of,
)
from models.imaging_train import ImagingRecipe, Progress, train_anatomy
from models.progression import Progression

OUTLINER = "outliner.safetensors"
NOTHING = ImagingFigures({}, {}, {}, {}, {}, {}, 0.0)
WEAK = 0.95


def build_film_reader(
    recipe: ImagingRecipe, shards: Path, checkpoints: Path, out: Path, *, progress: Progress | None = None
) -> FilmReaderCard:
    """Train on the shards, compare with the checkpoints that the recipe names, and write both files to `out`.

    Raises ShardError and CheckpointError for what is missing. Deterministic for recipe, shards, checkpoints and number
    of threads.
    """
    begun = time.monotonic()
    films = read_film_shards(shards)
    stored = {name: load_checkpoint(checkpoints / name) for name in recipe.compares}
    net = _outliner(films["films"], recipe, shards / OUTLINER, progress)
    tell = progress or (lambda _what, _done, _of, _loss: None)
    tell("courses", 0, 3, 0.0)
    fitted = {name: fit_courses(stored[name].model, films[shard]) for name, shard in recipe.compares.items()}
    judged = {n: judge_courses(p, stored[n].model, films[recipe.compares[n]]) for n, p in fitted.items()}
    fitted = {name: with_standing(p, judged[name]) for name, p in fitted.items()}
    card = FilmReaderCard(
        reads="films",
        format=FORMAT,
        name=recipe.name,
        version=recipe.version,
        weights=Weights("", "", "float16", sum(p.numel() for p in net.parameters())),
        recipe=recipe,
        sources=films["films"].sources,
        shards={name: shard.digest for name, shard in films.items()},
        threshold=0.0,
        compared={n: ComparedModel(stored[n].card.weights.sha256, dict(p.numbers)) for n, p in fitted.items()},
        figures=NOTHING,
        known_limits=(),
        torch=str(torch.__version__),
        trained_seconds=0,
    )
    card = _with_threshold(card, net, films["films"])
    tell("figures", 1, 3, 0.0)
    figures = _figures(_reader(card, net, fitted), {n: s.model for n, s in stored.items()}, films)
    compared = {n: msgspec.structs.replace(m, placed=_placed(n, m, figures)) for n, m in card.compared.items()}
    card = msgspec.structs.replace(card, compared=compared)
    card = msgspec.structs.replace(
        card,
        figures=figures,
        known_limits=known_limits(figures, card),
        trained_seconds=round(time.monotonic() - begun),
    )
    tell("figures", 3, 3, 0.0)
    save_film_reader(out, card, net, fitted)
    return card


def _outliner(films: FilmShard, recipe: ImagingRecipe, kept: Path, progress: Progress | None) -> AnatomyNet:
    """The network trained on these films by this recipe; taken from `kept` where a run before has left it there.

    Only courses and places depend on the models: where one is trained anew, they are fitted again in minutes.
    """
    made_of = {"films": films.digest, "recipe": msgspec.json.encode(recipe).decode(), "torch": str(torch.__version__)}
    if kept.exists():
        with safe_open(kept, framework="pt") as file:
            if file.metadata() == made_of:
                net = AnatomyNet(recipe.preset)
                net.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
                return net.eval()
    net = train_anatomy(films, recipe, progress=progress)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, kept, metadata=made_of)
    return net


def _placed(model: str, compared: ComparedModel, figures: ImagingFigures) -> tuple[str, ...]:
    """Findings that evidence points to better than chance, with the whole interval; the boxes judge all at once."""
    if model == "chest-generated":
        return tuple(f for f, p in figures.places["generated"].items() if p.pointing.low > p.chance)
    boxes = figures.places[BOXES]["all findings"]
    return tuple(compared.findings) if boxes.pointing.low > boxes.chance else ()


def judge_again(reader: FilmReader, shards: Path, checkpoints: Path) -> ImagingFigures:
    """The figures of networks on disk, made anew from the shards."""
    stored: dict[str, Stored] = {name: load_checkpoint(checkpoints / name) for name in reader.card.compared}
    return _figures(reader, {n: s.model for n, s in stored.items()}, read_film_shards(shards))


def _reader(card: FilmReaderCard, net: AnatomyNet, fitted: Mapping[str, Progression]) -> FilmReader:
    return FilmReader(card, net, {card.compared[n].sha256: p for n, p in fitted.items()})


def _with_threshold(card: FilmReaderCard, net: AnatomyNet, films: FilmShard) -> FilmReaderCard:
    scores, sources, _ = frontal_scores(_reader(card, net, {}), films)
    return msgspec.structs.replace(card, threshold=threshold_of(scores, sources))


def _figures(reader: FilmReader, models: Mapping[str, FusionModel], shards: Mapping[str, FilmShard]) -> ImagingFigures:
    films, compares = shards["films"], reader.card.recipe.compares
    rates, kinds = judge_gate(reader, films)
    courses = {
        compares[name]: judge_courses(
            reader.progressions[reader.card.compared[name].sha256], models[name], shards[compares[name]]
        )
        for name in compares
    }
    return ImagingFigures(
        outlines=judge_outlines(reader, films),
        ratio=judge_ratio(reader, films),
        false_refusals=rates,
        gate=kinds,
        places=judge_places(reader, models, shards["pairs-generated"], shards["pairs-nih14"]),
        courses=courses,
        invented=_invented(reader, models["chest-generated"], shards["pairs-generated"]),
    )


@torch.inference_mode()
def _invented(reader: FilmReader, model: FusionModel, pairs: FilmShard) -> float:
    """Share of single films, read as at order time, of which a course is said."""
    encoder = model.image_encoder()
    assert encoder is not None
    digest = reader.card.compared["chest-generated"].sha256
    said = []
    for row in pairs.rows(VALID)[:100]:
        film = torch.from_numpy(to_films(pairs.arrays["now"][row][None]))
        grid = encoder.grid(film)
        refusal, parts = reader.examine(model, encoder, film, grid)
        kept = EncodedFilm("", encoder.read_out(grid)[0].numpy(), refusal, parts)
        reading = reader.read(kept, None, views=("PA",), size=film.shape[-1], model=digest)
        said.append(reading is not None and bool(reading.changes))
    return float(np.mean(said))


def known_limits(figures: ImagingFigures, card: FilmReaderCard) -> tuple[str, ...]:
    """What the figures do not allow to claim, as sentences made from them."""
    found = [
        "Not validated for care: lungs are judged on films of one hospital, places and courses on generated films.",
        "The outline of the heart was learned from generated films only; no human outline of one was at hand.",
    ]
    found += [
        "A film stored mirrored is not noticed: left and right are taken from the picture as it comes.",
        "Tubes, lines and their tips, bones and soft tissue are not assessed, and severity is not graded: no data at "
        "hand teach them.",
    ]
    ratio = figures.ratio.get("nih14")
    if ratio is not None and ratio.enlarged is not None:
        a = ratio.enlarged
        found.append(
            f"Cardiothoracic ratio on NIH films: given for {ratio.given.value:.0%}; AUROC {a.value:.2f} "
            f"({a.low:.2f} to {a.high:.2f}) for cardiomegaly in the report, {ratio.positives} films with it."
        )
    found += [
        f"The gate refuses only {kind.refused.value:.0%} of pictures of the kind {name!r}."
        for name, kind in figures.gate.items()
        if kind.refused.value < WEAK
    ]
    found.append(
        "Laterals and other parts of the body are drawn pictures; of real ones there are "
        f"{figures.gate['public'].pictures}, none of them a lateral chest film."
    )
    for model, compared in card.compared.items():
        silent = [name for name, n in compared.findings.items() if not n.named]
        if silent:
            found.append(
                f"{model}: no course is named of {', '.join(silent)}; not shown to beat saying the same always."
            )
        unplaced = [name for name in compared.findings if name not in compared.placed]
        if unplaced:
            found.append(
                f"{model}: no zone is named of {', '.join(unplaced)}; evidence does not point there better than chance."
            )
        blind = [name for name, n in compared.findings.items() if n.band is None]
        if blind:
            found.append(
                f"{model}: worse and improved cannot be told apart for {', '.join(blind)}: no pair teaches it."
            )
    return tuple(found)
