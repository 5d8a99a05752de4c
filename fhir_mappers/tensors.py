"""`to_fusion_input`: the one place where a record becomes tensors, in training and in serving alike.

Codes end here. Pure: the record and the checkpoint's `InputSpec` decide everything, so the same patient gives
the same tensors today, in a test and in the training run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from fhir_mappers.record import Event, GeneResult, Image, Lab, PatientRecord
from fhir_mappers.square import Placement
from models.contract import EncodedFilm, FusionInput, InputSpec, LabFeature, Signal, empty_signal

SCALED_LIMIT = 6.0
"""Scaled laboratory values are clipped to this many standard deviations: an extreme stays extreme, not infinite."""


def to_fusion_input(record: PatientRecord, spec: InputSpec) -> FusionInput:
    """Lay one patient's record out as the checkpoint expects it.

    Items the spec has no code for, or that are older than its look-back, are left out; the newest stay when
    there are more than the spec holds. `used` on the result names what went in, slot by slot.
    """
    imaging, films, encoded = _imaging(record, spec)
    labs, results = _labs(record, spec)
    history, events = _history(record, spec)
    genomics, genes = _genomics(record, spec)
    return FusionInput(
        {"imaging": imaging, "labs": labs, "history": history, "genomics": genomics, "context": _context(record)},
        {"imaging": films, "labs": results, "history": events, "genomics": genes},
        encoded,
    )


def _age_h(as_of: datetime, at: datetime | None) -> float:
    return 0.0 if at is None else max(0.0, (as_of - at).total_seconds() / 3600.0)


def scale_lab(feature: LabFeature, value: float) -> float:
    """Standardise a value in canonical units with the checkpoint's mean and standard deviation."""
    x = math.log1p(max(value, 0.0)) if feature.log else value
    return max(-SCALED_LIMIT, min(SCALED_LIMIT, (x - feature.mean) / feature.std))


def _labs(record: PatientRecord, spec: InputSpec) -> tuple[Signal, tuple[str, ...]]:
    codes = {f.name: i for i, f in enumerate(spec.labs)}
    kept: list[tuple[Lab, int, float]] = []
    for lab in record.labs:  # newest first, so both limits end the walk
        age = _age_h(record.as_of, lab.at)
        if age > spec.labs_lookback_h or len(kept) == spec.labs_max:
            break
        index = codes.get(lab.analyte)
        if index is not None and lab.unit == spec.labs[index].unit:
            kept.append((lab, index, age))
    if not kept:
        return empty_signal(spec, "labs"), ()
    values = np.array(
        [
            (
                scale_lab(spec.labs[index], lab.value),
                lab.low is not None and lab.value < lab.low,
                lab.high is not None and lab.value > lab.high,
            )
            for lab, index, _ in kept
        ],
        np.float32,
    )
    signal = Signal(
        code=np.array([index + 1 for _, index, _ in kept], np.int64),
        values=values,
        age_h=np.array([age for _, _, age in kept], np.float32),
        seen=np.ones(len(kept), np.bool_),
    )
    return signal, tuple(lab.source.reference for lab, _, _ in kept)


def _concept_signal(
    spec: InputSpec,
    name: str,
    found: Sequence[tuple[int, float, float, str]],
) -> tuple[Signal, tuple[str, ...]]:
    """`found` holds (index in the vocabulary, value, age in hours, reference) in the order to keep."""
    if not found:
        return empty_signal(spec, name), ()
    signal = Signal(
        code=np.array([index + 1 for index, _, _, _ in found], np.int64),
        values=np.array([[value] for _, value, _, _ in found], np.float32),
        age_h=np.array([age for _, _, age, _ in found], np.float32),
        seen=np.ones(len(found), np.bool_),
    )
    return signal, tuple(reference for _, _, _, reference in found)


def _history(record: PatientRecord, spec: InputSpec) -> tuple[Signal, tuple[str, ...]]:
    codes = {c: i for i, c in enumerate(spec.history)}

    def slots(event: Event) -> list[tuple[int, float, float, str]]:
        age = _age_h(record.as_of, event.start)
        return [
            (codes[c], float(event.active), age, event.source.reference) for c in sorted(event.concepts) if c in codes
        ]

    found = [slot for event in record.events for slot in slots(event)]
    return _concept_signal(spec, "history", found[: spec.history_max])


def _genomics(record: PatientRecord, spec: InputSpec) -> tuple[Signal, tuple[str, ...]]:
    codes = {c: i for i, c in enumerate(spec.genomics)}

    def slots(gene: GeneResult) -> list[tuple[int, float, float, str]]:
        age = _age_h(record.as_of, gene.at)
        return [(codes[c], 1.0, age, gene.source.reference) for c in sorted(gene.concepts) if c in codes]

    found = [slot for gene in record.genes for slot in slots(gene)]
    return _concept_signal(spec, "genomics", found[: spec.genomics_max])


def _context(record: PatientRecord) -> Signal:
    """Age in decades and sex. Unknown age is the middle of what the birth date allows, or no token at all."""
    ages = record.age_years()
    sex = record.person.sex
    known = ages is not None or sex != "unknown"
    decades = (ages[0] + ages[1]) / 20.0 if ages else 0.0
    return Signal(
        # code 1: age known; 2: age not known. The encoder then never reads 0 decades as a newborn.
        code=np.array([0 if not known else 1 if ages else 2], np.int64),
        values=np.array([[decades, sex == "female", sex == "male"]], np.float32),
        age_h=np.zeros(1, np.float32),
        seen=np.array([known], np.bool_),
    )


def _imaging(record: PatientRecord, spec: InputSpec) -> tuple[Signal, tuple[str, ...], dict[int, EncodedFilm]]:
    films = record.images[: spec.image.films]  # newest first
    if not films:
        return empty_signal(spec, "imaging"), (), {}
    views = {v: i for i, v in enumerate(spec.image.views)}
    signal = Signal(
        code=np.array([views.get(f.view, 0) + 1 for f in films], np.int64),
        values=np.stack([_square(f, spec.image.size)[None] for f in films]),
        age_h=np.array([_age_h(record.as_of, f.at) for f in films], np.float32),
        seen=np.ones(len(films), np.bool_),
    )
    encoded = {slot: f.encoded for slot, f in enumerate(films) if f.encoded is not None}
    return signal, tuple(f.sop_uid for f in films), encoded


def _square(film: Image, size: int) -> NDArray[np.float32]:
    return film_tensor(film, size) if film.encoded is None else np.zeros((size, size), np.float32)


def film_tensor(film: Image, size: int) -> NDArray[np.float32]:
    """`square_of` the film's pixels."""
    return square_of(film.pixels, size)


def square_of(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize a film (H, W) to (size, size) float32 in [0, 1], whole film kept, padded square with black.

    Grey levels are stretched between the 1st and 99th percentile first, so that the same film stored with 8 or
    12 bits, windowed or not, gives the same tensor.
    """
    pixels = np.asarray(pixels, np.float32)
    rows, columns = pixels.shape
    at = Placement.of(rows, columns, size)
    new = at.width, at.height
    small = np.asarray(Pillow.fromarray(pixels, mode="F").resize(new, Pillow.Resampling.BILINEAR, reducing_gap=3.0))
    low, high = np.percentile(small, (1.0, 99.0))
    span = float(high - low)
    stretched = np.clip((small - low) / span, 0.0, 1.0) if span > 1e-6 else np.zeros_like(small)
    square = np.zeros((size, size), np.float32)
    square[at.top : at.top + at.height, at.left : at.left + at.width] = stretched
    return square
