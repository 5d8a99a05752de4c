"""Data sets -> training shards, through the record and `to_fusion_input`: the path that serving takes.

One shard per source, one safetensors file: ragged signals end to end with row offsets, films as 8-bit grey (what the
sources hold), labels with NaN for unknown, and a JSON header with the input spec and where the data come from.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fhir_mappers.codes import analytes
from fhir_mappers.sources import Case, DataSource, SourceError, load_sources
from fhir_mappers.tensors import to_fusion_input
from models.contract import SIGNALS, ImageSpec, InputSpec, LabFeature, Target

Progress = Callable[[str, int], None]
"""Called with what is being done and how many cases of it are done."""

FIT_CASES = 3000
"""Training cases per source that lab means and deviations are fitted on."""
MIN_RESULTS = 25
"""An analyte or a concept found less often in those is left out of the spec."""
LOG_SKEW = 2.0
SPLITS = ("train", "valid")


def export(
    data: Path,
    out: Path,
    *,
    sources: Sequence[str | DataSource] = ("physionet2012", "physionet2019", "tongji", "hannover", "nih14", "kermany"),
    image_size: int = 192,
    labs_max: int = 640,
    limit: int | None = None,
    progress: Progress | None = None,
) -> InputSpec:
    """Write `out/<source>.safetensors` for every source, and `out/spec.json`; returns the spec they share.

    `data` holds one folder per source. `limit` keeps the first cases of each source (for a quick trial). Scales and
    vocabularies are fitted on training patients alone.
    Raises SourceError where a folder is missing or of another shape.
    """
    table = load_sources()
    chosen: list[DataSource] = []
    for source in sources:
        if isinstance(source, str) and source not in table:
            raise SourceError(f"there is no source {source!r}; there are {', '.join(sorted(table))}")
        chosen.append(table[source] if isinstance(source, str) else source)
    tell = progress or (lambda _stage, _done: None)
    targets = tuple(t for s in chosen for t in s.targets(data / s.folder))
    found = _training_evidence(chosen, data, tell)
    spec = InputSpec(
        image=ImageSpec(size=image_size),
        labs=fit_features(found.values),
        history=_vocabulary(found.history),
        genomics=_vocabulary(found.genomics),
        targets=targets,
        labs_max=labs_max,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "spec.json").write_bytes(msgspec.json.format(msgspec.json.encode(spec)))
    for source in chosen:
        cases = source.read(data / source.folder)
        write_shard(
            source,
            islice(cases, limit),
            spec,
            out / f"{source.name}.safetensors",
            folder=data / source.folder,
            tell=tell,
        )
    return spec


def export_as(
    spec: InputSpec, data: Path, out: Path, *, split: str | None = None, progress: Progress | None = None
) -> None:
    """Write the shards that a trained model's own spec describes; `split` keeps one split's cases only.

    Raises SourceError where a folder is missing or of another shape.
    """
    table, tell = load_sources(), progress or (lambda _stage, _done: None)
    out.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(t.source for t in spec.targets):
        if name not in table:
            raise SourceError(f"there is no source {name!r}; there are {', '.join(sorted(table))}")
        source = table[name]
        folder = data / source.folder
        cases = (c for c in source.read(folder) if split is None or c.split == split)
        write_shard(source, cases, spec, out / f"{name}.safetensors", folder=folder, tell=tell)
    (out / "spec.json").write_bytes(msgspec.json.format(msgspec.json.encode(spec)))


@dataclass(slots=True)
class _Found:
    values: dict[str, list[float]] = field(default_factory=dict)
    history: Counter[str] = field(default_factory=Counter)
    genomics: Counter[str] = field(default_factory=Counter)


def _training_evidence(sources: Iterable[DataSource], data: Path, tell: Progress) -> _Found:
    found = _Found()
    for source in sources:
        if set(source.modalities) == {"imaging"}:
            continue
        read = source.skim or source.read
        training = (c for c in read(data / source.folder) if c.split == "train")
        for done, case in enumerate(islice(training, FIT_CASES)):
            for lab in case.record.labs:
                found.values.setdefault(lab.analyte, []).append(lab.value)
            if "history" in source.modalities:
                found.history.update(c for event in case.record.events for c in event.concepts)
            if "genomics" in source.modalities:
                found.genomics.update(c for gene in case.record.genes for c in gene.concepts)
            if done % 200 == 0:
                tell(f"{source.name}: scaling", done)
    return found


def _vocabulary(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, count in counts.items() if count >= MIN_RESULTS))


def fit_features(values: dict[str, list[float]]) -> tuple[LabFeature, ...]:
    """Mean and standard deviation per analyte, of log1p where the values have a long right tail (skewness > 2)."""
    features: list[LabFeature] = []
    for analyte, found in sorted(values.items()):
        x = np.asarray(found, np.float64)
        if len(x) < MIN_RESULTS:
            continue
        log = bool(x.min() >= 0.0 and _skewness(x) > LOG_SKEW)
        scaled = np.log1p(x) if log else x
        std = float(scaled.std())
        if std <= 1e-6:
            continue
        features.append(
            LabFeature(analyte, analytes()[analyte].unit, round(float(scaled.mean()), 6), round(std, 6), log)
        )
    return tuple(features)


def _skewness(x: NDArray[np.float64]) -> float:
    centred = x - x.mean()
    spread = math.sqrt(float((centred**2).mean()))
    return 0.0 if spread < 1e-12 else float((centred**3).mean()) / spread**3


def write_shard(
    source: DataSource, cases: Iterable[Case], spec: InputSpec, path: Path, *, folder: Path, tell: Progress
) -> None:
    """Write the cases of one source; labels in the order of the source's own targets."""
    targets: tuple[Target, ...] = tuple(t for t in spec.targets if t.source == source.name)
    parts: dict[str, list[NDArray[Any]]] = {}
    rows: dict[str, list[Any]] = {
        k: [] for k in ("patient", "split", "fold", "weight", "labels", "confounders", "optimal")
    }
    confounders: tuple[str, ...] | None = None
    counts = {name: [0] for name in SIGNALS}
    for done, case in enumerate(cases, start=1):
        confounders = tuple(case.confounders) if confounders is None else confounders
        inputs = to_fusion_input(case.record, spec)
        for name in SIGNALS:
            signal = inputs.signals[name]
            seen = signal.seen
            counts[name].append(counts[name][-1] + int(seen.sum()))
            values = signal.values[seen]
            if name == "imaging":
                values = np.round(values * 255.0).astype(np.uint8)
            for key, array in (
                ("code", signal.code[seen].astype(np.int32)),
                ("values", values),
                ("age_h", signal.age_h[seen]),
            ):
                parts.setdefault(f"{name}.{key}", []).append(array)
        rows["patient"].append(_key(case.patient))
        rows["split"].append(SPLITS.index(case.split))
        rows["fold"].append(-1 if case.fold is None else case.fold)
        rows["weight"].append(case.weight)
        rows["labels"].append([case.labels.get(t.name, math.nan) for t in targets])
        rows["confounders"].append([case.confounders[c] for c in confounders])
        rows["optimal"].append([case.optimal.get(t.name, math.nan) for t in targets])
        if done % 100 == 0:
            tell(source.name, done)
    if not rows["patient"]:
        raise SourceError(f"{folder}: no case could be read")
    arrays = {name: np.concatenate(found) for name, found in parts.items()}
    arrays |= {f"{name}.offsets": np.asarray(found, np.int64) for name, found in counts.items()}
    kinds = {"patient": np.int64, "split": np.uint8, "fold": np.int8}
    arrays |= {name: np.asarray(found, kinds.get(name, np.float32)) for name, found in rows.items()}
    header = {
        "source": source.name,
        "tier": source.tier,
        "title": source.title,
        "licence": source.licence,
        "attribution": source.attribution,
        "url": source.url,
        "notes": source.notes,
        "ages": list(source.ages),
        "targets": [t.name for t in targets],
        "confounders": list(confounders or ()),
        "tables": {t: hashlib.sha256((folder / t).read_bytes()).hexdigest() for t in source.tables},
    }
    save_file(arrays, path, metadata={"header": json.dumps(header), "spec": msgspec.json.encode(spec).decode()})


def _key(patient: str) -> int:
    """A number for a patient, the same in every run."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big", signed=True)
