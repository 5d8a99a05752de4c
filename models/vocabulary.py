"""Encoder weights from one vocabulary into another: what a row stands for decides where it goes, not its number."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.contract import InputSpec, LabFeature
from models.encoders.labs import LIMIT

Tensors = Mapping[str, Tensor]
VALUE, ANALYTE = "encoders.labs.value.weight", "encoders.labs.analyte.weight"
BY_ANALYTE = ("encoders.labs.tower.", "encoders.labs.trees.")
"""What reads analytes by their number, and so fits the same analytes only."""
CONCEPTS = {"history": "encoders.history.code.weight", "genomics": "encoders.genomics.code.weight"}


def transfer(fresh: Tensors, known: Tensors, spec: InputSpec, known_spec: InputSpec) -> dict[str, Tensor]:
    """The tensors of `fresh` as far as `known` can fill them, by name, analyte and concept.

    fresh, known  state dicts of encoders of the two specs; a tensor of another shape is not taken. Where an analyte is
    scaled otherwise, its value embedding is read off at the same values in its unit.
    """
    same_labs = spec.labs == known_spec.labs
    taken = {
        n: known[n].to(v.dtype)
        for n, v in fresh.items()
        if n in known
        and known[n].shape == v.shape
        and n not in _VOCABULARIES
        and (same_labs or not n.startswith(BY_ANALYTE))
    }
    for signal, name in CONCEPTS.items():
        theirs: tuple[str, ...] = getattr(known_spec, signal)
        ours: tuple[str, ...] = getattr(spec, signal)
        if name in fresh and name in known and fresh[name].shape[1] == known[name].shape[1]:
            table = fresh[name].clone()
            table[0] = known[name][0]
            for row, concept in enumerate(ours, start=1):
                if concept in theirs:
                    table[row] = known[name][1 + theirs.index(concept)]
            taken[name] = table
    if all(n in fresh and n in known for n in (VALUE, ANALYTE)) and fresh[ANALYTE].shape[1] == known[ANALYTE].shape[1]:
        taken |= _analytes(fresh, known, spec, known_spec)
    return taken


_VOCABULARIES = frozenset({VALUE, ANALYTE, *CONCEPTS.values()})


def _analytes(fresh: Tensors, known: Tensors, spec: InputSpec, known_spec: InputSpec) -> dict[str, Tensor]:
    values, names = fresh[VALUE].clone(), fresh[ANALYTE].clone()
    knots = len(values) // len(names)
    known_knots = len(known[VALUE]) // len(known[ANALYTE])
    names[0] = known[ANALYTE][0]
    theirs = {f.name: (1 + i, f) for i, f in enumerate(known_spec.labs)}
    for row, feature in enumerate(spec.labs, start=1):
        index, other = theirs.get(feature.name, (0, None))
        if other is None or (other.unit, other.log) != (feature.unit, feature.log):
            continue  # another unit, or a logarithm on one side only: the two scales are no straight line apart
        names[row] = known[ANALYTE][index]
        table = known[VALUE][index * known_knots : (index + 1) * known_knots]
        values[row * knots : (row + 1) * knots] = _resampled(table, knots, feature, other)
    return {VALUE: values, ANALYTE: names}


def _resampled(table: Tensor, knots: int, feature: LabFeature, other: LabFeature) -> Tensor:
    """The piecewise-linear embedding (known knots, D) on `other`'s scale, at the knots of `feature`'s."""
    scaled = torch.linspace(-LIMIT, LIMIT, knots, dtype=torch.float64)
    there = ((scaled * feature.std + feature.mean) - other.mean) / other.std
    position = (there.clamp(-LIMIT, LIMIT) + LIMIT) / (2 * LIMIT) * (len(table) - 1)
    left = position.floor().clamp(0, len(table) - 2).long()
    part = (position - left)[:, None].to(table.dtype)
    return table[left] * (1 - part) + table[left + 1] * part
