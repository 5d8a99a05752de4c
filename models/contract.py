"""The model's two ends: what goes in (`FusionInput`) and what comes out (`Assessment`).

Everything the model sees is a token with an age and a mask. A missing modality is `seen == False`, never a
zero that could be a value. `InputSpec` lays the tokens out and is stored with the weights, so that training
and serving cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

Modality = Literal["imaging", "labs", "history", "genomics"]
MODALITIES: tuple[Modality, ...] = ("imaging", "labs", "history", "genomics")
SIGNALS: tuple[str, ...] = (*MODALITIES, "context")
"""The four modalities that may be missing, and `context` (age, sex), which is part of every patient."""

Tier = Literal["open", "generated", "credentialed"]
"""Where the data behind a figure come from; results of two tiers never share a table."""


class LabFeature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One analyte or vital sign as the model reads it.

    name    the analyte of tables/labs.csv or tables/vitals.csv
    unit    canonical UCUM unit that values arrive in
    log     True where `log1p(value)` is scaled instead of the value (long right tails)
    mean    of the (log) value over the training patients; std likewise, always > 0
    """

    name: str
    unit: str
    mean: float
    std: float
    log: bool = False


class ImageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How films become tensors: `size` pixels square, grey, in [0, 1]; newest film first, at most `films`."""

    size: int
    films: int = 2
    views: tuple[str, ...] = ("unknown", "PA", "AP", "LATERAL")


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question the model answers.

    name        e.g. `icu_care`, `finding.effusion`
    title       a clinician's words for it, used on cards
    modalities  those with training data for this target; the others can never move its logit
    source      the data set its labels come from
    """

    name: str
    title: str
    modalities: tuple[Modality, ...]
    source: str


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The layout of a `FusionInput`, fixed when a checkpoint is trained.

    A code in a signal is 1 + its index in the tuple here; 0 is the code of an unseen slot.
    """

    image: ImageSpec
    labs: tuple[LabFeature, ...]
    history: tuple[str, ...]
    genomics: tuple[str, ...]
    targets: tuple[Target, ...]
    labs_lookback_h: float = 24.0 * 30
    labs_max: int = 512
    history_max: int = 128
    genomics_max: int = 64
    version: int = 1

    def target_names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.targets)


@dataclass(frozen=True, slots=True)
class Signal:
    """The tokens of one modality, for one patient (no batch axis) or a batch (leading B).

    code    (..., S) int64            1 + index into the spec; for films 1 + index of the view; 0 where unseen
    values  (..., S, F) float32       labs: scaled value, below range, above range (F=3);
                                      history: still active (F=1); genomics: 1.0 (F=1);
                                      context: age in decades, female, male (S=1, F=3)
            (..., S, 1, H, W) float32 imaging: grey levels in [0, 1], bright is dense
    age_h   (..., S) float32          hours before `as_of`, never negative
    seen    (..., S) bool             False where the slot is empty; its other values may then be anything
    """

    code: NDArray[np.int64]
    values: NDArray[np.float32]
    age_h: NDArray[np.float32]
    seen: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class EncodedFilm:
    """All the networks have to know of one film, made from its pixels once and used in their place ever after.

    encoder   sha-256, hex, of whatever made it: image encoder, gate, imaging networks, and how a film is laid out
    features  (1 + K, D) float32: the whole film, then its regions
    refusal   why it is no frontal chest film to judge, in words for a card; None for one that is
    parts     what the imaging networks found on this film alone, by names of their own, e.g. `mask.left_lung`
    """

    encoder: str
    features: NDArray[np.float32]
    refusal: str | None
    parts: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FusionInput:
    """All signals of one patient or of a batch; every name in `SIGNALS` is present, if only as unseen slots.

    `used` names the resource behind each seen slot, in slot order (empty in training and in batches).
    `films` holds, by imaging slot, the films that come encoded; the pixels of those slots are never looked at.
    """

    signals: Mapping[str, Signal]
    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    films: Mapping[int, EncodedFilm] = field(default_factory=dict)

    def present(self) -> frozenset[str]:
        """The modalities with at least one seen slot (of a single patient)."""
        return frozenset(m for m in MODALITIES if bool(self.signals[m].seen.any()))


@dataclass(frozen=True, slots=True)
class Estimate:
    """The model's answer to one target.

    probability  calibrated, in [0, 1]; None when the model abstains
    interval     5th and 95th percentile of the calibrated probability over the calibration bootstrap
    without      per modality that was present and used: the probability with that modality masked
    rested_on    the modalities that were seen and have trained weights for this target
    shares       per modality of `rested_on`: what it adds to the calibrated log odds (exact Shapley value); together
                 they are the log odds less those of age and sex alone. Empty where `without` was not asked for
    abstained    why there is no probability, in words for a card; None if there is one
    """

    target: Target
    probability: float | None
    interval: tuple[float, float] | None
    without: Mapping[str, float]
    rested_on: frozenset[str]
    abstained: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assessment:
    """Everything one pass of the model says about one patient.

    model   name@version, e.g. `chest-open@1`; digest is the sha-256 of the weights, hex
    prior   the same targets on the previous film alone where the input held two films, else empty
    unused  evidence that was given and made unseen, with why in words for a card (a film that is no chest film)
    reading anatomy, places and course of the findings on the newest film; None without such a film or network
    notice  what the licence of the network that read the films asks to be said; empty where it asks nothing
    """

    model: str
    digest: str
    tier: Tier
    estimates: Mapping[str, Estimate]
    seen: frozenset[str]
    prior: Mapping[str, Estimate] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)
    reading: FilmReading | None = None
    notice: str = ""


Structure = Literal["left_lung", "right_lung", "heart"]
"""What the anatomy network outlines. Left and right are the patient's, as on every card."""

Zone = Literal["right_upper", "right_mid", "right_lower", "left_upper", "left_mid", "left_lower"]
"""Thirds of a lung's height between its own apex and base, of the patient's side."""

Course = Literal["new", "worse", "stable", "improved", "resolved"]
"""How a finding stands against the prior film (the five classes of CheXTemporal). Reversing the films turns new into
resolved and worse into improved."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where the lungs and the heart lie on one film.

    masks     (H, W) bool per structure found plausible, on the square of `ImageSpec.size` the model sees
    zones     (H, W) bool per zone; empty where the lung of that side was not found
    ctr       cardiothoracic ratio, greatest heart width over greatest inner thoracic width, about 0.3 to 0.9;
              None where it cannot be measured
    ctr_why   why there is no ratio, or why it overstates (an AP or supine film), in words for a card
    """

    masks: Mapping[Structure, NDArray[np.bool_]]
    zones: Mapping[Zone, NDArray[np.bool_]]
    ctr: float | None
    ctr_why: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where on a film one finding's probability comes from.

    heat   (h, w) float32, sums to 1 where anything was found: the evidence map, on a coarse grid over the square
    zone   the zone with most of the heat, None where the heat lies outside the lungs or is spread evenly
    share  of the heat that lies in that zone, 0 to 1
    """

    finding: str
    heat: NDArray[np.float32]
    zone: Zone | None
    share: float


@dataclass(frozen=True, slots=True)
class Change:
    """One finding against the prior film. `probabilities` over the five courses sum to 1; `course` is None where the
    model abstains. There is no Change without a prior film."""

    finding: str
    course: Course | None
    probabilities: Mapping[Course, float]


@dataclass(frozen=True, slots=True)
class FilmReading:
    """What the imaging networks say of one film beside the probabilities of its `Assessment`.

    places and changes are by finding, e.g. `effusion` of target `finding.effusion`; `changes` is empty without a
    prior frontal film, of which `before` is the reading by itself. `digest`: sha-256 of the anatomy weights, hex.
    """

    anatomy: Anatomy
    places: Mapping[str, Place]
    changes: Mapping[str, Change]
    digest: str
    before: FilmReading | None = None


Depth = Literal["explained", "ranked", "fused", "late"]
"""How much of an assessment is asked for, most first.

explained  everything
ranked     without `Estimate.without` and `shares`: what the answer rested on is not measured
fused      and without `Assessment.prior`: not compared with the film before
late       and without the fusion term: what each modality says alone, added up
"""


class EngineBusy(RuntimeError):
    """The queue is full: more patients wait than can be answered in time."""


class EngineTimeout(RuntimeError):
    """The time the caller gave ran out before there was an answer."""


class Assessor(Protocol):
    """What the service needs of an engine, in this process or elsewhere."""

    @property
    def spec(self) -> InputSpec: ...

    def assess(self, inputs: FusionInput, *, timeout: float, targets: Sequence[str] | None = None) -> Assessment:
        """Assess one patient within `timeout` seconds.

        Raises `EngineBusy` when the queue is full and `EngineTimeout` when the time ran out.
        """
        ...


@runtime_checkable
class FilmEncoder(Protocol):
    """An engine that can encode a film when it arrives, so that an order need not wait for its pixels."""

    @property
    def spec(self) -> InputSpec: ...
    @property
    def encoder(self) -> str:
        """`EncodedFilm.encoder` of what it makes and takes; empty for a model that reads no films."""

    def encode(self, pixels: NDArray[np.float32], *, timeout: float) -> EncodedFilm:
        """Encode one film, (1, H, W) grey levels as in `Signal.values`, after every patient who waits.

        Raises `EngineBusy` when the queue is full and `EngineTimeout` when the time ran out.
        """
        ...


@runtime_checkable
class FilmExplainer(Protocol):
    """An engine that can show what an answer of its model, `Assessment.digest`, rests on."""

    @property
    def spec(self) -> InputSpec: ...
    @property
    def digest(self) -> str: ...
    def explain(self, pixels: NDArray[np.float32], finding: str, *, timeout: float) -> NDArray[np.float32]:
        """A map (H, W), sum 1 or all zero, of one finding on one film (1, H, W), after everybody else who waits.

        Raises `EngineBusy`, `EngineTimeout`, or ValueError for a finding the model does not have.
        """
        ...


def empty_signal(spec: InputSpec, name: str, slots: int = 1) -> Signal:
    """A signal of `slots` unseen slots, shaped as the spec lays it out."""
    shape: tuple[int, ...]
    if name == "imaging":
        shape = (slots, 1, spec.image.size, spec.image.size)
    else:
        shape = (slots, {"labs": 3, "history": 1, "genomics": 1, "context": 3}[name])
    return Signal(
        code=np.zeros(slots, np.int64),
        values=np.zeros(shape, np.float32),
        age_h=np.zeros(slots, np.float32),
        seen=np.zeros(slots, np.bool_),
    )


def collate(inputs: Sequence[FusionInput]) -> FusionInput:
    """Stack patients into one batch, padding every signal with unseen slots to the longest (at least one).

    Padding is invisible to the model: a batch gives the same logits as its rows one by one.
    """
    batch: dict[str, Signal] = {}
    for name in SIGNALS:
        rows = [i.signals[name] for i in inputs]
        slots = max(1, *(r.seen.shape[0] for r in rows))

        def pad(array: NDArray[Any], slots: int = slots) -> NDArray[Any]:
            missing = slots - array.shape[0]
            return array if not missing else np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))

        batch[name] = Signal(
            code=np.stack([pad(r.code) for r in rows]),
            values=np.stack([pad(r.values) for r in rows]),
            age_h=np.stack([pad(r.age_h) for r in rows]),
            seen=np.stack([pad(r.seen) for r in rows]),
        )
    return FusionInput(batch)


def without(inputs: FusionInput, modality: str) -> FusionInput:
    """The same input with one modality masked, as if the patient had none of it."""
    signal = inputs.signals[modality]
    masked = Signal(signal.code, signal.values, signal.age_h, np.zeros_like(signal.seen))
    used = {k: v for k, v in inputs.used.items() if k != modality}
    return FusionInput({**inputs.signals, modality: masked}, used, inputs.films)
