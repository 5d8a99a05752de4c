"""Training shards: what `fhir_mappers.export` wrote, read back as batches.

A shard holds one source. Its header says where the data come from; its spec says how the tensors are laid out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from models.contract import SIGNALS, FusionInput, InputSpec, Modality, Signal, Tier, empty_signal

SPLITS = ("train", "valid")


class ShardError(ValueError):
    """A shard that is damaged, of another layout, or does not fit its neighbours."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a shard says of itself; `tables` are sha-256 of the source's tables, `ages` whom its targets are about."""

    source: str
    tier: Tier
    title: str
    licence: str
    attribution: str
    url: str
    notes: str
    ages: tuple[int, int | None]
    targets: tuple[str, ...]
    confounders: tuple[str, ...]
    tables: dict[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """One case: `labels` by target, NaN where unknown; `patient` is the key that splits and bootstraps go by."""

    inputs: FusionInput
    labels: Mapping[str, float]
    patient: int
    split: str
    fold: int
    source: str


@dataclass(frozen=True, slots=True)
class Shard:
    """One source in memory; arrays as `fhir_mappers.export.write_shard` lays them out."""

    header: Header
    spec: InputSpec
    arrays: Mapping[str, NDArray[Any]]
    digest: str

    def __len__(self) -> int:
        return len(self.arrays["patient"])

    @property
    def patient(self) -> NDArray[np.int64]:
        return self.arrays["patient"]

    @property
    def fold(self) -> NDArray[np.int8]:
        return self.arrays["fold"]

    @property
    def weight(self) -> NDArray[np.float32]:
        return self.arrays["weight"]

    def rows(self, split: str | None = None) -> NDArray[np.int64]:
        """Indices of one split, or of all."""
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        return np.flatnonzero(self.arrays["split"] == SPLITS.index(split))

    def labels(self, target: str) -> NDArray[np.float32]:
        """(n,) labels of one target, all NaN where this source does not know it."""
        if target not in self.header.targets:
            return np.full(len(self), np.nan, np.float32)
        column: NDArray[np.float32] = self.arrays["labels"][:, self.header.targets.index(target)]
        return column

    def optimal(self, target: str) -> NDArray[np.float32] | None:
        """(n,) best attainable probability, NaN where a case lacks what decides; None where nobody knows it."""
        column: NDArray[np.float32] = self.arrays["optimal"][:, self.header.targets.index(target)]
        return None if np.isnan(column).all() else column

    def confounder(self, name: str) -> NDArray[np.float32]:
        column: NDArray[np.float32] = self.arrays["confounders"][:, self.header.confounders.index(name)]
        return column

    def has(self, modality: Modality) -> NDArray[np.bool_]:
        """(n,) whether the case has any of this modality."""
        has: NDArray[np.bool_] = np.diff(self.arrays[f"{modality}.offsets"]) > 0
        return has

    def inputs(self, row: int, keep: Mapping[str, NDArray[np.int64]] | None = None) -> FusionInput:
        """One case as serving would see it; `keep` selects slots by signal."""
        signals: dict[str, Signal] = {}
        for name in SIGNALS:
            start, stop = self.arrays[f"{name}.offsets"][row : row + 2]
            slots = slice(start, stop) if keep is None or name not in keep else start + keep[name]
            code = self.arrays[f"{name}.code"][slots].astype(np.int64)
            if not len(code):
                signals[name] = _unseen(self.spec, name)
                continue
            values = self.arrays[f"{name}.values"][slots]
            values = values.astype(np.float32) / np.float32(255.0) if name == "imaging" else values
            signals[name] = Signal(code, values, self.arrays[f"{name}.age_h"][slots], np.ones(len(code), np.bool_))
        return FusionInput(signals)

    def example(self, row: int) -> Example:
        labels = {t: float(v) for t, v in zip(self.header.targets, self.arrays["labels"][row], strict=True)}
        split = SPLITS[int(self.arrays["split"][row])]
        return Example(self.inputs(row), labels, int(self.patient[row]), split, int(self.fold[row]), self.header.source)


def _unseen(spec: InputSpec, name: str) -> Signal:
    return empty_signal(spec, name, 1)


def read_shard(path: Path) -> Shard:
    """Read and check a shard. Raises ShardError with the file's name and what is wrong."""
    try:
        blob = path.read_bytes()
        arrays = load_file(path)
        length = int.from_bytes(blob[:8], "little")
        metadata = json.loads(blob[8 : 8 + length])["__metadata__"]
        header = msgspec.json.decode(metadata["header"], type=Header)
        spec = msgspec.json.decode(metadata["spec"], type=InputSpec)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ShardError(f"{path}: not a training shard ({error})") from None
    n = len(arrays.get("patient", ()))
    if not n or arrays["labels"].shape != (n, len(header.targets)):
        raise ShardError(f"{path}: labels do not match the header")
    unknown = set(header.targets) - set(spec.target_names())
    if unknown:
        raise ShardError(f"{path}: targets that its spec does not have: {', '.join(sorted(unknown))}")
    for name in SIGNALS:
        offsets = arrays[f"{name}.offsets"]
        if len(offsets) != n + 1 or (np.diff(offsets) < 0).any() or offsets[-1] != len(arrays[f"{name}.code"]):
            raise ShardError(f"{path}: offsets of {name} do not fit its rows")
    if arrays["imaging.values"].shape[1:] not in ((1, spec.image.size, spec.image.size), ()):
        raise ShardError(f"{path}: films are not {spec.image.size} pixels square")
    return Shard(header, spec, arrays, hashlib.sha256(blob).hexdigest())


def read_shards(folder: Path, names: Sequence[str] | None = None) -> dict[str, Shard]:
    """All shards of a folder, or those named, by source; they must share one spec."""
    paths = sorted(folder.glob("*.safetensors")) if names is None else [folder / f"{n}.safetensors" for n in names]
    if not paths:
        raise ShardError(f"{folder}: no shards here; run the export first")
    shards = {shard.header.source: shard for shard in map(read_shard, paths)}
    if len({msgspec.json.encode(s.spec) for s in shards.values()}) > 1:
        raise ShardError(f"{folder}: the shards were written for different specs; export them together")
    return shards


def label_matrix(shard: Shard, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(len(rows), T) labels over all targets of the spec, NaN where unknown."""
    names = shard.spec.target_names()
    matrix = np.full((len(rows), len(names)), np.nan, np.float32)
    for column, target in enumerate(shard.header.targets):
        matrix[:, names.index(target)] = shard.arrays["labels"][rows, column]
    return matrix


def thin_labs(shard: Shard, row: int, rng: np.random.Generator, chance: float) -> NDArray[np.int64]:
    """Slots of a row's results to keep in a training step.

    With `chance`, a random part of the analytes and of the results: an EHR holds five values of a patient where an
    intensive care chart holds five hundred.
    """
    start, stop = shard.arrays["labs.offsets"][row : row + 2]
    keep = np.arange(stop - start)
    if len(keep) and rng.random() < chance:
        code = shard.arrays["labs.code"][start:stop]
        analytes = np.unique(code)
        kept = analytes[rng.random(len(analytes)) < rng.uniform(0.4, 1.0)]
        chosen = np.isin(code, kept) & (rng.random(len(code)) < rng.uniform(0.3, 1.0))
        keep = np.flatnonzero(chosen) if chosen.any() else keep
    return keep.astype(np.int64)
