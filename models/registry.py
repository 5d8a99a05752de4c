"""The checkpoints a site has: the one shipped under each name, and versions added beside it.

    MODELS/chest-open/                       shipped with the software
    MODELS/versions/chest-open/0a1b2c.../    added; named by the first 16 digits of the sha-256 of its weights

A version is checked as a copy before it gets its place, and never changes afterwards. Which one answers is not kept
here: that is a word in the state database, said by somebody for a reason.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from models.card import Card
from models.checkpoint import (
    BACKBONE,
    CARD,
    WEIGHTS,
    CheckpointError,
    Stored,
    load_checkpoint,
    read_card,
)
from models.contract import MODALITIES, FusionInput, InputSpec, Modality, Signal, collate, empty_signal
from models.encoders import to_batch
from models.film_reader import is_film_reader

VERSIONS = "versions"
SELF_TEST = "self-test.json"
DIGITS = 16
TOLERANCE = 1e-3
"""Largest difference of a logit from its self-test vector: other processors round differently, by about 1e-5; another
weight or another layer moves far more."""
SEED = 20_250_801


class SelfTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model answered to made-up patients when it was added.

    weights, card  sha-256, hex, of the two files it was made with
    logits         one row per patient of `vectors`, one column per target
    """

    weights: str
    card: str
    logits: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Version:
    """One checkpoint at its place; `shipped` for the one that came with the software."""

    folder: Path
    card: Card
    shipped: bool

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def digest(self) -> str:
        """sha-256 of the weights, hex: what predictions, audit and metrics name."""
        return self.card.weights.sha256


class Registry:
    """All versions under one folder of models. Raises CheckpointError; safe to use from several processes."""

    def __init__(self, models: Path) -> None:
        self.models = models

    def versions(self) -> tuple[Version, ...]:
        """Every version whose card can be read, by name, the shipped one first, then as they were added."""
        shipped = [p.parent for p in self.models.glob(f"*/{CARD}") if not is_film_reader(p.parent)]
        added = [p.parent for p in (self.models / VERSIONS).glob(f"[!.]*/*/{CARD}")]
        found = [(f, True) for f in sorted(shipped)] + [(f, False) for f in sorted(added, key=_added)]
        read: list[Version] = []
        for folder, is_shipped in found:
            try:
                read.append(Version(folder, read_card(folder), is_shipped))
            except CheckpointError:
                if is_shipped:
                    raise
        return tuple(sorted(read, key=lambda v: v.name))

    def find(self, reference: str) -> Version:
        """`chest-open` (the shipped one), `chest-open@2` by version or `chest-open@0a1b2c` by six digits or more."""
        name, _, which = reference.partition("@")
        named = [v for v in self.versions() if v.name == name]
        if not which:
            matching = [v for v in named if v.shipped]
        else:
            matching = [v for v in named if len(which) >= 6 and v.digest.startswith(which)]
            matching = matching or [v for v in named if v.card.version == which]
        if len({v.digest for v in matching}) == 1:
            return matching[0]
        known = ", ".join(f"{v.name}@{v.digest[:12]} (version {v.card.version})" for v in named or self.versions())
        raise CheckpointError(f"{reference!r} is {'several versions' if matching else 'no version'}; there are {known}")

    def with_digest(self, name: str, digest: str) -> Version:
        """The version with exactly these weights."""
        for version in self.versions():
            if version.name == name and version.digest == digest:
                return version
        raise CheckpointError(f"{name}: no version with weights {digest[:12]}... under {self.models}")

    def add(self, source: Path) -> Version:
        """Copy a checkpoint folder, check the copy, and give it its place; adding it again changes nothing.

        Only the files a checkpoint has are copied, and nothing in them is run.
        """
        if not source.is_dir():
            raise CheckpointError(
                f"{source}: a checkpoint is a folder with {WEIGHTS} and {CARD}; pickles and archives are never read"
            )
        try:
            (self.models / VERSIONS).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".adding-", dir=self.models / VERSIONS) as made:
                return self._place(_copy(source, Path(made) / "copy"))
        except OSError as error:
            raise CheckpointError(f"{source}: cannot be added ({error.strerror or error})") from None

    def _place(self, copy: Path) -> Version:
        stored = load_checkpoint(copy)
        name, digest = stored.card.name, stored.card.weights.sha256
        if not (self.models / name / CARD).is_file():
            raise CheckpointError(f"{name!r} is no model of {self.models}; a version is added to one that is there")
        for known in self.versions():
            if known.name == name and known.digest == digest:
                if _sha256(known.folder / CARD) == _sha256(copy / CARD):
                    return known
                raise CheckpointError(f"{name}@{digest[:12]} is there already, with another {CARD}")
        logits = tuple(tuple(float(x) for x in row) for row in rehearse(stored))
        (copy / SELF_TEST).write_bytes(msgspec.json.encode(SelfTest(digest, _sha256(copy / CARD), logits)))
        for path in (*(p for p in copy.rglob("*") if p.is_file()), copy):
            _sync(path)
        place = self.models / VERSIONS / name / digest[:DIGITS]
        place.parent.mkdir(exist_ok=True)
        copy.rename(place)
        _sync(place.parent)
        return Version(place, stored.card, False)


def verify(version: Version) -> Stored:
    """Read a version as for serving and put its self-test vectors to it. Raises CheckpointError for any difference.

    A shipped checkpoint has no vectors beside it: it has to answer with numbers.
    """
    stored = load_checkpoint(version.folder)
    if stored.card.weights.sha256 != version.digest:
        raise CheckpointError(f"{version.folder}: now holds other weights than {version.digest[:12]}...")
    logits = rehearse(stored)
    path = version.folder / SELF_TEST
    if version.shipped and not path.exists():
        return stored
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=SelfTest)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if (kept.weights, kept.card) != (version.digest, _sha256(version.folder / CARD)):
        raise CheckpointError(f"{version.folder}: {CARD} or {WEIGHTS} changed since it was added; add it again")
    expected = np.asarray(kept.logits)
    if expected.shape != logits.shape or not bool(np.abs(expected - logits).max() <= TOLERANCE):
        raise CheckpointError(f"{version.folder}: does not answer its self-test vectors as it did when it was added")
    return stored


@torch.inference_mode()
def rehearse(stored: Stored) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Logits (patients, targets) for the self-test vectors. Raises CheckpointError for one that is no number."""
    batch = to_batch(collate(vectors(stored.card.spec)), torch.device("cpu"))
    logits = stored.model.cpu()(batch).total.double().numpy()
    if not np.isfinite(logits).all():
        raise CheckpointError(f"{stored.card.model}: answers its self-test vectors with something other than numbers")
    return np.asarray(logits)


def vectors(spec: InputSpec) -> list[FusionInput]:
    """Made-up patients: one with everything, one with each modality alone, one with none; the same at every call."""
    shown: list[tuple[Modality, ...]] = [MODALITIES, *((m,) for m in MODALITIES), ()]
    return [_vector(spec, modalities, SEED + number) for number, modalities in enumerate(shown)]


def _vector(spec: InputSpec, shown: tuple[Modality, ...], seed: int) -> FusionInput:
    chance = np.random.default_rng(seed)
    known = {"labs": len(spec.labs), "history": len(spec.history), "genomics": len(spec.genomics)}
    known |= {"imaging": len(spec.image.views) - 1, "context": 1}  # not the lateral view, which no target reads
    signals: dict[str, Signal] = {}
    for name, codes in known.items():
        slots = 1 if name in ("imaging", "context") else 6
        empty = empty_signal(spec, name, slots)
        seen = np.full(slots, bool(codes) and (name == "context" or name in shown))
        code = chance.integers(1, max(codes, 1) + 1, slots) * seen
        values = chance.random(empty.values.shape, np.float32)
        age_h = chance.uniform(0.0, 72.0, slots).astype(np.float32)
        if name == "context":
            values = np.array([[6.4, 1.0, 0.0]], np.float32)  # a woman of 64 years
        signals[name] = Signal(code.astype(np.int64), values, age_h, seen)
    return FusionInput(signals)


def _copy(source: Path, to: Path) -> Path:
    to.mkdir()
    for name in (WEIGHTS, CARD):
        if not (source / name).is_file():
            raise CheckpointError(f"{source / name}: is missing")
        shutil.copyfile(source / name, to / name)
    if (source / BACKBONE).is_dir():
        shutil.copytree(source / BACKBONE, to / BACKBONE)
    return to


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _added(folder: Path) -> float:
    return (folder / CARD).stat().st_mtime


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
