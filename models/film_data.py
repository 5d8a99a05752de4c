"""Films, outlines and pairs for the imaging networks, as `fhir_mappers.film_shards` wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from models.contract import Tier
from models.data import ShardError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

LEFT_LUNG, RIGHT_LUNG, HEART, LUNGS_KNOWN, HEART_KNOWN = (1 << n for n in range(5))
SIGN_BITS = {"opacity": 8, "effusion": 16, "pneumothorax": 32, "nodule": 64}
"""Of the pairs' masks; lungs and heart as above."""
SOURCES = ("generated", "hannover", "nih14", "kermany")
PAIR_FINDINGS = ("opacity", "effusion", "cardiomegaly", "pneumothorax", "nodule")
NIH_FINDINGS = (
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "edema",
    "effusion",
    "emphysema",
    "fibrosis",
    "infiltration",
    "mass",
    "nodule",
    "pleural_thickening",
    "pneumonia",
    "pneumothorax",
    "abnormal",
)
VIEWS = ("unknown", "PA", "AP")
TRAIN, VALID = 0, 1


class FilmSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data set the networks learned from or are judged on; `tables` are sha-256 of its tables."""

    name: str
    title: str
    tier: Tier
    licence: str
    attribution: str
    url: str
    tables: dict[str, str]


@dataclass(frozen=True, slots=True)
class FilmShard:
    """The arrays of one file, laid out as its writer says; `digest` is its sha-256."""

    arrays: Mapping[str, NDArray[Any]]
    sources: tuple[FilmSource, ...]
    kinds: tuple[str, ...]
    digest: str

    def rows(self, split: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.arrays["split"] == split)


NEEDED = {
    "films": ("pixels", "masks", "kind", "source", "split", "patient", "view", "ctr", "enlarged"),
    "pairs-generated": ("now", "before", "sizes", "masks", "patient", "split"),
    "pairs-nih14": (
        "now",
        "before",
        "labels",
        "patient",
        "split",
        "box_pixels",
        "box_edges",
        "box_finding",
        "box_split",
    ),
}


def read_film_shards(folder: Path) -> dict[str, FilmShard]:
    """All three files of a folder by name. Raises ShardError with the file's name and what is wrong."""
    return {name: _read(folder / f"{name}.safetensors", needed) for name, needed in NEEDED.items()}


def _read(path: Path, needed: tuple[str, ...]) -> FilmShard:
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
        sources = tuple(msgspec.convert(json.loads(metadata["sources"]), list[FilmSource]))
        kinds = tuple(json.loads(metadata["kinds"]))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ShardError(f"{path}: not a shard of films ({error})") from None
    missing = set(needed) - set(arrays)
    if missing:
        raise ShardError(f"{path}: lacks {', '.join(sorted(missing))}; export the films again")
    return FilmShard(arrays, sources, kinds, digest)


def to_films(pixels: Bytes) -> Floats:
    """8-bit films (N, S, S) as the networks read them: (N, 1, S, S) in [0, 1]."""
    return pixels[:, None].astype(np.float32) / np.float32(255.0)


def bit(masks: Bytes, which: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (masks & which) > 0
    return found
