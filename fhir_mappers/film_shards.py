"""Films for the imaging networks: outlines, foreign pictures, pairs with a known course, boxes; through `film_tensor`.

Three safetensors files. Everything generated carries its truth exactly; what people drew (lung masks, boxes) or mined
from reports (findings) says so in the header. Nothing in them is for research only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.data import get_testdata_file
from safetensors.numpy import save_file
from scipy import ndimage

from fhir_mappers.cohort.films import Film, draw_film
from fhir_mappers.cohort.foreign import FOREIGN, draw_foreign
from fhir_mappers.cohort.latent import draw_latent
from fhir_mappers.cohort.pairs import FINDINGS, draw_pair
from fhir_mappers.cohort.patients import draw_build, draw_exposure, draw_pose
from fhir_mappers.export import _key
from fhir_mappers.record import Image, Source
from fhir_mappers.sources import EPOCH, SourceError, load_sources, require
from fhir_mappers.sources.films import ADULT, read_film
from fhir_mappers.sources.films import FINDINGS as NIH_FINDINGS
from fhir_mappers.tensors import film_tensor

Progress = Callable[[str, int], None]
Bits = NDArray[np.uint8]

SEED = 83
KINDS = ("frontal", *FOREIGN, "public")
"""What a picture is; `public` are real ones of other things, never learned from."""
SPLITS = ("train", "valid")
LEFT_LUNG, RIGHT_LUNG, HEART, LUNGS_KNOWN, HEART_KNOWN = (1 << n for n in range(5))
"""Bits of a pixel of `masks`: what lies there, and whether somebody who drew it looked at it."""
SIGNS = ("opacity", "effusion", "pneumothorax", "nodule")
SIGN_BITS = {name: 1 << (3 + n) for n, name in enumerate(SIGNS)}
COUNTS = {"generated": (1500, 200), "kermany": (400, 150), "foreign": (180, 60), "pairs": (2400, 600)}
"""Training and validation pictures; of the foreign kinds, each."""
BOX_LABELS = {"Infiltrate": "infiltration"}
"""Labels of the NIH boxes that are named otherwise than the findings."""


def export_films(data: Path, out: Path, *, counts: Mapping[str, tuple[int, int]] = COUNTS, tell: Progress) -> None:
    """Write `films`, `pairs-generated` and `pairs-nih14` to `out`. Raises SourceError where data are missing."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "films.safetensors", data, _films(data, counts, tell), ("generated", "hannover", "nih14", "kermany"))
    _write(out / "pairs-generated.safetensors", data, _generated_pairs(counts["pairs"], tell), ("generated",))
    _write(out / "pairs-nih14.safetensors", data, _nih_pairs(data, tell), ("nih14",))


def _write(path: Path, data: Path, arrays: dict[str, NDArray[Any]], sources: tuple[str, ...]) -> None:
    table = load_sources()
    extra = {"hannover": ("lung_masks.csv",), "nih14": ("nih_bboxes_1024px.csv",)}
    header = []
    for name in sources:
        s = table[name]
        files = (*s.tables, *extra.get(name, ()))
        header.append(
            {
                "name": name,
                "title": s.title,
                "tier": s.tier,
                "licence": s.licence,
                "attribution": s.attribution,
                "url": s.url,
                "tables": {t: hashlib.sha256((data / s.folder / t).read_bytes()).hexdigest() for t in files},
            }
        )
    partial = path.with_suffix(".partial")
    save_file(arrays, partial, metadata={"sources": json.dumps(header), "kinds": json.dumps(KINDS)})
    partial.replace(path)


def _bytes(pixels: NDArray[np.float32], size: int) -> Bits:
    film = Image(pixels, "unknown", EPOCH, "1", "1", Source("ImagingStudy/1"))
    return np.round(film_tensor(film, size) * 255.0).astype(np.uint8)


def square_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """A mask where `film_tensor` puts the film it was drawn on."""
    height, width = mask.shape
    scale = size / max(height, width)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    small = Pillow.fromarray(mask.astype(np.float32), mode="F").resize(new, Pillow.Resampling.BILINEAR, reducing_gap=3)
    square = np.zeros((size, size), np.bool_)
    top, left = (size - new[1]) // 2, (size - new[0]) // 2
    square[top : top + new[1], left : left + new[0]] = np.asarray(small) > 0.5
    return square


# ---------------------------------------------------------------------------------------------- films and outlines

FILM_PX, MASK_PX = 192, 128


def _films(data: Path, counts: Mapping[str, tuple[int, int]], tell: Progress) -> dict[str, NDArray[Any]]:
    """pixels (N, 192, 192), masks (N, 128, 128) of bits, kind, source, split, patient, view (0 unknown, 1 PA, 2 AP),
    ctr as drawn (NaN where nobody knows), and whether the report of an NIH film says cardiomegaly (NaN elsewhere)."""
    rows: list[tuple[Any, ...]] = []
    readers = (
        _generated_films(counts),
        _foreign(counts),
        _hannover(data),
        _nih(data),
        _kermany(data, counts),
        _public(data),
    )
    for reader in readers:
        for row in reader:
            rows.append(row)
            if len(rows) % 100 == 0:
                tell("films", len(rows))
    pixels, masks, kind, source, split, patient, view, ctr, enlarged = zip(*rows, strict=True)
    return {
        "pixels": np.stack(pixels),
        "masks": np.stack(masks),
        "kind": np.asarray([KINDS.index(k) for k in kind], np.uint8),
        "source": np.asarray([("generated", "hannover", "nih14", "kermany").index(s) for s in source], np.uint8),
        "split": np.asarray([SPLITS.index(s) for s in split], np.uint8),
        "patient": np.asarray([_key(p) for p in patient], np.int64),
        "view": np.asarray([("", "PA", "AP").index(v) for v in view], np.uint8),
        "ctr": np.asarray(ctr, np.float32),
        "enlarged": np.asarray(enlarged, np.float32),
    }


NO_MASK = np.zeros((MASK_PX, MASK_PX), np.uint8)
NAN = float("nan")


def _generated_films(counts: Mapping[str, tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    train, valid = counts["generated"]
    for number in range(train + valid):
        rng = np.random.default_rng((SEED, number))
        state = draw_latent(rng)
        # The heart is learned from these alone: every width of it, not the two humps of the cohort.
        build = draw_build(rng, state.female, float(rng.uniform(0.36, 0.68)))
        portable = bool(rng.random() < 0.4)
        pose = draw_pose(rng, portable)
        film = draw_film(state.signs, build, pose, draw_exposure(rng, portable), 256)
        bits = NO_MASK | LUNGS_KNOWN | HEART_KNOWN
        for bit, mask in zip((RIGHT_LUNG, LEFT_LUNG), _lungs(film), strict=True):
            bits = bits | bit * square_mask(mask, MASK_PX)
        bits = (bits | HEART * square_mask(film.masks["heart"], MASK_PX)).astype(np.uint8)
        ctr = build.ctr * (1.10 if pose.view == "AP" else 1.0)  # as Thorax.heart magnifies it
        split = "train" if number < train else "valid"
        yield (_bytes(film.pixels, FILM_PX), bits, "frontal", "generated", split, f"g-{number}", pose.view, ctr, NAN)


def _lungs(film: Film) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The patient's right and left lung of a drawn film."""
    return two_lungs(film.masks["lungs"])


def two_lungs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The patient's right and left lung of a mask of both: its two largest parts, the right one left on the film."""
    labels, found = ndimage.label(mask)
    if found < 2:
        raise SourceError("a lung mask without two lungs")
    sizes = ndimage.sum_labels(mask, labels, np.arange(1, found + 1))
    parts = [labels == 1 + n for n in np.argsort(sizes)[-2:]]
    first, second = sorted(parts, key=lambda part: float(np.nonzero(part)[1].mean()))
    return first, second


def _foreign(counts: Mapping[str, tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    train, valid = counts["foreign"]
    for index, kind in enumerate(FOREIGN):
        for number in range(train + valid):
            rng = np.random.default_rng((SEED, 1000 + index, number))
            split = "train" if number < train else "valid"
            pixels = _bytes(draw_foreign(kind, rng), FILM_PX)
            yield (pixels, NO_MASK, kind, "generated", split, f"f-{kind}-{number}", "", NAN, NAN)


def _hannover(data: Path) -> Iterator[tuple[Any, ...]]:
    folder = data / "cxr_hannover_paired"
    require(folder, "images_labs_outcomes.csv", "lung_masks.csv", "lung_masks")
    crops = pd.read_csv(folder / "lung_masks.csv").set_index("image_id")
    for row in pd.read_csv(folder / "images_labs_outcomes.csv").itertuples(index=False):
        pixels = read_film(folder / row.file)
        bits = NO_MASK
        if row.image_id in crops.index:
            crop = crops.loc[row.image_id]
            with Pillow.open(folder / "lung_masks" / f"{row.image_id}.png") as picture:
                drawn = np.asarray(picture.convert("L")) > 127
            looked = np.zeros_like(drawn)
            x0, y0, side = int(crop.crop_x0), int(crop.crop_y0), int(crop.crop_size)
            looked[y0 : y0 + side, x0 : x0 + side] = True
            right, left = two_lungs(drawn)
            for bit, mask in ((RIGHT_LUNG, right), (LEFT_LUNG, left), (LUNGS_KNOWN, looked)):
                bits = (bits | bit * square_mask(mask, MASK_PX)).astype(np.uint8)
        view = str(row.projection).upper()
        view = view if view in ("PA", "AP") else ""
        key = f"hm-{row.patient_id}"
        yield (_bytes(pixels, FILM_PX), bits, "frontal", "hannover", row.split, key, view, NAN, NAN)


def _nih_table(data: Path) -> Any:
    folder = data / "cxr_nih14_subset"
    require(folder, "labels.csv", "images", "nih_bboxes_1024px.csv")
    table = pd.read_csv(folder / "labels.csv")
    table["Abnormal"] = 1 - table["No_Finding"]
    return table[table.age >= ADULT]


def _nih(data: Path) -> Iterator[tuple[Any, ...]]:
    for row in _nih_table(data).itertuples(index=False):
        pixels = _bytes(read_film(data / "cxr_nih14_subset" / row.file), FILM_PX)
        key = f"nih-{row.patient_id}"
        yield (pixels, NO_MASK, "frontal", "nih14", row.split, key, row.view, NAN, float(row.Cardiomegaly))


def _kermany(data: Path, counts: Mapping[str, tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    folder = data / "cxr_kermany_pediatric"
    require(folder, "labels.csv", "images")
    table = pd.read_csv(folder / "labels.csv")
    for split, count in zip(SPLITS, counts["kermany"], strict=True):
        part = table[table.split == split]
        for row in part.sample(min(count, len(part)), random_state=SEED).itertuples(index=False):
            pixels = _bytes(read_film(folder / row.file), FILM_PX)
            yield (pixels, NO_MASK, "frontal", "kermany", split, f"ker-{row.patient_key}", "AP", NAN, NAN)


PHOTOGRAPHS = ("china.jpg", "flower.jpg")
SCANS = ("CT_small", "MR_small", "693_J2KI", "JPEG2000", "examples_rgb_color", "examples_palette")


def _public(data: Path) -> Iterator[tuple[Any, ...]]:
    """Real pictures that the gate must refuse and has never seen: the DICOM samples that are no human chest film, the
    test scans that come with pydicom, and the two photographs that come with scikit-learn, whole and in quarters."""
    pictures: dict[str, NDArray[np.float32]] = {}
    folder = data / "dicom" / "public_samples"
    require(folder, "manifest.csv")
    for row in pd.read_csv(folder / "manifest.csv").itertuples(index=False):
        if row.body_part != "CHEST":
            pictures |= _frames(row.file, folder / row.file)
    for name in SCANS:
        pictures |= _frames(name, Path(str(get_testdata_file(f"{name}.dcm", download=False))))
    for name in PHOTOGRAPHS:
        photograph = resources.files("sklearn.datasets.images").joinpath(name)
        with resources.as_file(photograph) as path:
            grey = read_film(path)
        height, width = grey.shape[0] // 2, grey.shape[1] // 2
        pictures[name] = grey
        for n, (top, left) in enumerate(((0, 0), (0, width), (height, 0), (height, width))):
            pictures[f"{name}-{n}"] = grey[top : top + height, left : left + width]
    for name, grey in pictures.items():
        yield (_bytes(grey, FILM_PX), NO_MASK, "public", "generated", "valid", f"public-{name}", "", NAN, NAN)


def _frames(name: str, path: Path) -> dict[str, NDArray[np.float32]]:
    """The frames of a DICOM file as grey pictures in [0, 1], at most five spread over it."""
    dataset = pydicom.dcmread(path)
    pixels = np.asarray(dataset.pixel_array, np.float32)
    if dataset.SamplesPerPixel == 3:
        pixels = pixels.mean(axis=-1)
    frames = pixels if pixels.ndim == 3 else pixels[None]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(5, len(frames))).round().astype(int))
    found = {}
    for n in chosen:
        grey = (frames[n] - frames[n].min()) / max(float(np.ptp(frames[n])), 1e-6)
        found[f"{name}-{n}"] = 1.0 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey
    return found


# ---------------------------------------------------------------------------------------------- pairs

PAIR_PX = {"generated": 96, "nih14": 192}
"""The film size of the model whose findings are compared: chest-generated, chest-open."""


def _generated_pairs(counts: tuple[int, int], tell: Progress) -> dict[str, NDArray[Any]]:
    """now and before (N, 96, 96), sizes (N, 2, F) of every finding (0 absent), masks (N, 96, 96) of the newer film:
    lungs and heart as above, then a bit per sign."""
    size, (train, valid) = PAIR_PX["generated"], counts
    now, before, sizes, masks = [], [], [], []
    for number in range(train + valid):
        pair = draw_pair(np.random.default_rng((SEED, 7, number)))
        newer, older = (draw_film(f.signs, f.build, f.pose, f.exposure, 256) for f in (pair.now, pair.before))
        now.append(_bytes(newer.pixels, size))
        before.append(_bytes(older.pixels, size))
        sizes.append([[one[f] for f in FINDINGS] for one in (pair.sizes_now, pair.sizes_before)])
        bits = np.zeros((size, size), np.uint8)
        right, left = _lungs(newer)
        drawn = {RIGHT_LUNG: right, LEFT_LUNG: left, HEART: newer.masks["heart"]}
        drawn |= {SIGN_BITS[s]: newer.masks[s] for s in SIGNS if s in newer.masks}
        for bit, mask in drawn.items():
            bits = (bits | bit * square_mask(mask, size)).astype(np.uint8)
        masks.append(bits)
        if number % 100 == 0:
            tell("pairs", number)
    return {
        "now": np.stack(now),
        "before": np.stack(before),
        "sizes": np.asarray(sizes, np.float32),
        "masks": np.stack(masks),
        "patient": np.arange(train + valid, dtype=np.int64),
        "split": np.asarray([0] * train + [1] * valid, np.uint8),
    }


def _nih_pairs(data: Path, tell: Progress) -> dict[str, NDArray[Any]]:
    """Consecutive films of a patient: now and before (N, 192, 192), labels (N, 2, F) over `NIH_FINDINGS`, split; and
    the boxes: box_pixels (M, 192, 192), box_edges (M, 4) as left, top, right, bottom, box_finding, box_split."""
    folder, size = data / "cxr_nih14_subset", PAIR_PX["nih14"]
    table = _nih_table(data)
    columns = list(NIH_FINDINGS)
    found: dict[str, list[Any]] = {k: [] for k in ("now", "before", "labels", "patient", "split")}
    for patient, films in table.sort_values("follow_up").groupby("patient_id"):
        records = films.to_dict("records")
        for older, newer in pairwise(records):
            found["now"].append(_bytes(read_film(folder / newer["file"]), size))
            found["before"].append(_bytes(read_film(folder / older["file"]), size))
            found["labels"].append([[float(film[c]) for c in columns] for film in (newer, older)])
            found["patient"].append(int(str(patient)))
            found["split"].append(SPLITS.index(str(newer["split"])))
    tell("NIH pairs", len(found["now"]))
    names = [NIH_FINDINGS[c][0] for c in columns]
    boxes: dict[str, list[Any]] = {k: [] for k in ("pixels", "edges", "finding", "split")}
    by_image = {row["image"]: row for row in table.to_dict("records")}
    for row in pd.read_csv(folder / "nih_bboxes_1024px.csv").to_dict("records"):
        label = str(row["Finding Label"])
        name = BOX_LABELS.get(label, label.lower())
        film = by_image.get(row["Image Index"])
        if film is None or name not in names:
            continue
        x, y, w, h = (float(row[c]) * size / 1024.0 for c in ("Bbox [x", "y", "w", "h]"))
        boxes["pixels"].append(_bytes(read_film(folder / film["file"]), size))
        boxes["edges"].append([x, y, x + w, y + h])
        boxes["finding"].append(names.index(name))
        boxes["split"].append(SPLITS.index(film["split"]))
    kinds = {"now": np.uint8, "before": np.uint8, "labels": np.float32, "patient": np.int64, "split": np.uint8}
    arrays = {k: np.asarray(v, kinds[k]) for k, v in found.items()}
    kinds = {"pixels": np.uint8, "edges": np.float32, "finding": np.uint8, "split": np.uint8}
    return arrays | {f"box_{k}": np.asarray(v, kinds[k]) for k, v in boxes.items()}
