"""From patients to assessments: one pass of the model over everything that has to be known of each of them."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.card import TargetCard
from models.checkpoint import Stored
from models.contract import (
    MODALITIES,
    SIGNALS,
    Assessment,
    Depth,
    EncodedFilm,
    Estimate,
    FilmReading,
    FusionInput,
    Signal,
    Target,
    collate,
    empty_signal,
)
from models.encoders import Encoded, to_batch
from models.encoders.image import ImageEncoder
from models.film_reader import FilmReader, encoder_digest
from models.inputs import finite, outside, without_pixels
from models.places import explain
from models.shapley import shapley, subsets

FILMS_KEPT = 256
"""Film encodings kept: 9 x 128 numbers each, so about a megabyte in all."""


@dataclass(frozen=True, slots=True)
class _Patient:
    """A patient after the gate: films that are none have become unseen; `refusal` is why the newest was."""

    inputs: FusionInput
    targets: tuple[str, ...]
    films: tuple[EncodedFilm, ...]
    refusal: str | None


class Answerer:
    """Turns inputs into assessments with a checkpoint; not thread-safe, the engine's thread owns it."""

    def __init__(self, stored: Stored, *, device: str = "cpu", reader: FilmReader | None = None) -> None:
        """`reader` reads films beside the model, and its gate takes the place of the checkpoint's own."""
        self.card, self._gate, self._reader = stored.card, stored.gate, reader
        self.device = device
        self._device = torch.device(device)
        self._model = stored.model.to(self._device).eval()
        self._kept: OrderedDict[bytes, EncodedFilm] = OrderedDict()
        self.encoder = encoder_digest(self._model.image_encoder(), stored, reader)
        """`EncodedFilm.encoder` of the films encoded here; empty where the model reads none."""

    def check(self, inputs: FusionInput) -> None:
        """Raise ValueError where an input is not laid out by this checkpoint's spec."""
        spec = self.card.spec
        sizes = {"labs": len(spec.labs), "history": len(spec.history), "genomics": len(spec.genomics)}
        sizes |= {"imaging": len(spec.image.views), "context": 2}
        for name in SIGNALS:
            signal = inputs.signals.get(name)
            if signal is None:
                raise ValueError(f"signal {name} is missing; unseen slots stand for none")
            slots = len(signal.seen)
            expected = (slots, *empty_signal(spec, name).values.shape[1:])
            if signal.values.shape != expected or signal.code.shape != (slots,) or signal.age_h.shape != (slots,):
                raise ValueError(f"signal {name} has values {signal.values.shape}, the spec makes them {expected}")
            code = signal.code[signal.seen]
            if len(code) and (code.min() < 1 or code.max() > sizes[name]):
                raise ValueError(f"signal {name} holds a code outside 1 to {sizes[name]}")
        for slot, film in inputs.films.items():
            self._check_film(slot, film, len(inputs.signals["imaging"].seen))
        if len(inputs.signals["imaging"].seen) > spec.image.films or len(inputs.signals["context"].seen) != 1:
            raise ValueError(f"at most {spec.image.films} films and exactly one context slot")

    def _check_film(self, slot: int, film: EncodedFilm, slots: int) -> None:
        encoder = self._model.image_encoder()
        if not 0 <= slot < slots:
            raise ValueError(f"an encoded film for slot {slot} of {slots}")
        if film.encoder != self.encoder:
            raise ValueError("a film was encoded by another model than this one")
        if encoder is not None and film.features.shape != (1 + encoder.regions, encoder.width):
            raise ValueError(f"an encoded film of {film.features.shape}, not {(1 + encoder.regions, encoder.width)}")

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.float32]) -> EncodedFilm:
        """One film (1, H, W) encoded. Raises ValueError for another shape, or a model that reads no films."""
        encoder, side = self._model.image_encoder(), self.card.spec.image.size
        if encoder is None:
            raise ValueError(f"{self.card.model} reads no films")
        if pixels.shape != (1, side, side):
            raise ValueError(f"a film of {pixels.shape}, the spec makes it {(1, side, side)}")
        return self._film(encoder, pixels, True)

    def explain(
        self, pixels: NDArray[np.float32], finding: str, between: Callable[[], None] = lambda: None
    ) -> NDArray[np.float32]:
        """`places.explain` of this model. Raises ValueError for a film of another shape or a finding not its own."""
        side = self.card.spec.image.size
        if pixels.shape != (1, side, side):
            raise ValueError(f"a film of {pixels.shape}, the spec makes it {(1, side, side)}")
        return explain(self._model, pixels, finding, between=between)

    @torch.inference_mode()
    def answer(
        self,
        patients: Sequence[tuple[FusionInput, tuple[str, ...]]],
        *,
        remember: bool = True,
        depth: Depth = "explained",
    ) -> list[Assessment]:
        """Assess several patients in one pass, all to the same depth."""
        ready = [self._gated(finite(inputs), targets, remember) for inputs, targets in patients]
        encoded = self._encode(ready)
        rows, keep, newest = self._variants(ready, depth)
        index = torch.tensor(rows, device=self._device)
        shown = {name: e.rows(index) for name, e in encoded.items()}
        for name, e in list(shown.items()):
            if name in keep:
                shown[name] = e.masked(torch.tensor(keep[name], device=self._device))
        logits = self._model.fuse(shown, late=depth == "late").total.double().cpu().numpy()
        priors = self._prior_logits(ready, newest)
        found: list[Assessment] = []
        start = 0
        for number, patient in enumerate(ready):
            shown_to = self._shown(patient, depth)
            mine = dict(zip(shown_to, logits[start : start + len(shown_to)], strict=True))
            start += len(mine)
            found.append(self._assessment(patient, mine, priors.get(number)))
        return found

    # ------------------------------------------------------------------------------------------ films and the gate

    def _gated(self, inputs: FusionInput, targets: tuple[str, ...], remember: bool) -> _Patient:
        """Encode the films (once each) and make those unseen that are no frontal chest film."""
        encoder = self._model.image_encoder()
        if encoder is None:
            return _Patient(inputs, targets, (), None)
        imaging = inputs.signals["imaging"]
        seen, films = np.zeros_like(imaging.seen), []
        refusal: str | None = None
        for slot in np.flatnonzero(imaging.seen):
            if self.card.spec.image.views[int(imaging.code[slot]) - 1] == "LATERAL":
                refusal = refusal or "it is a lateral view"
                continue
            film = inputs.films.get(int(slot)) or self._film(encoder, imaging.values[slot], remember)
            if film.refusal is None:
                films.append(film)
                seen[slot] = True
            elif not films:
                # The newest frontal film is refused: an older one must not pass for it.
                refusal = film.refusal
                break
        gated = Signal(imaging.code, imaging.values, imaging.age_h, seen)
        return _Patient(FusionInput({**inputs.signals, "imaging": gated}), targets, tuple(films), refusal)

    def _film(self, encoder: ImageEncoder, pixels: NDArray[np.float32], remember: bool) -> EncodedFilm:
        key = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        if np.isfinite(pixels).all():
            tensor = torch.from_numpy(np.ascontiguousarray(pixels, np.float32))[None].to(self._device)
            grid = encoder.grid(tensor)
            features = encoder.read_out(grid)[0].cpu().numpy()
            refusal: str | None = None
            parts: dict[str, NDArray[Any]] = {}
            if self._reader is not None:
                refusal, parts = self._reader.examine(self._model, encoder, tensor, grid)
            elif self._gate is not None:
                refusal = self._gate.refusal(pixels, features)
            # What warms the engine up is no film and is not to be refused.
            film = EncodedFilm(self.encoder, features, refusal if remember else None, parts)
        else:
            nothing = np.zeros((1 + encoder.regions, encoder.width), np.float32)
            film = EncodedFilm(self.encoder, nothing, "its pixels are not all numbers")
        if remember:
            self._kept[key] = film
            if len(self._kept) > FILMS_KEPT:
                self._kept.popitem(last=False)
        return film

    # ------------------------------------------------------------------------------------------ passes

    def _encode(self, patients: Sequence[_Patient]) -> dict[str, Encoded]:
        films = [f.features for p in patients for f in p.films]
        tensor = torch.from_numpy(np.stack(films)).to(self._device) if films else None
        slim = [p.inputs for p in patients]
        encoder = self._model.image_encoder()
        if tensor is None and encoder is not None:
            tensor = torch.zeros((0, 1 + encoder.regions, encoder.width), device=self._device)
        return self._model.encode(to_batch(collate([without_pixels(i) for i in slim]), self._device), tensor)

    def _present(self, inputs: FusionInput) -> tuple[str, ...]:
        """The modalities seen and known to this model, in a fixed order."""
        return tuple(m for m in MODALITIES if m in self._model.encoders and bool(inputs.signals[m].seen.any()))

    def _shown(self, patient: _Patient, depth: Depth) -> tuple[frozenset[str], ...]:
        """What the model is shown of a patient: everything seen first and, where explained, each part of it."""
        present = self._present(patient.inputs)
        return subsets(present) if depth == "explained" else (frozenset(present),)

    def _variants(
        self, patients: Sequence[_Patient], depth: Depth
    ) -> tuple[list[int], dict[str, list[bool]], list[int]]:
        """Per patient a row for each subset it is shown by; which rows keep which modality; who has two films."""
        rows: list[int] = []
        keep: dict[str, list[bool]] = {m: [] for m in MODALITIES if m in self._model.encoders}
        two_films: list[int] = []
        for number, patient in enumerate(patients):
            for shown in self._shown(patient, depth):
                rows.append(number)
                for m, found in keep.items():
                    found.append(m in shown)
            if depth in ("explained", "ranked") and int(patient.inputs.signals["imaging"].seen.sum()) > 1:
                two_films.append(number)
        return rows, keep, two_films

    def _prior_logits(self, patients: Sequence[_Patient], two_films: Sequence[int]) -> dict[int, NDArray[np.float64]]:
        """Logits on the film before the newest, alone, for those who have two."""
        if not two_films:
            return {}
        inputs, films = [], []
        for number in two_films:
            patient = patients[number]
            imaging = patient.inputs.signals["imaging"]
            only = np.zeros_like(imaging.seen)
            slot = int(np.flatnonzero(imaging.seen)[1])
            only[slot] = True
            signals = {
                name: s if name == "context" else Signal(s.code, s.values, s.age_h, np.zeros_like(s.seen))
                for name, s in patient.inputs.signals.items()
            }
            signals["imaging"] = Signal(imaging.code, imaging.values, imaging.age_h, only)
            inputs.append(without_pixels(FusionInput(signals)))
            films.append(patient.films[1].features)
        tensor = torch.from_numpy(np.stack(films)).to(self._device)
        encoded = self._model.encode(to_batch(collate(inputs), self._device), tensor)
        logits = self._model.fuse(encoded).total.double().cpu().numpy()
        return {number: logits[row] for row, number in enumerate(two_films)}

    # ------------------------------------------------------------------------------------------ words

    def _assessment(
        self,
        patient: _Patient,
        logits: Mapping[frozenset[str], NDArray[np.float64]],
        prior: NDArray[np.float64] | None,
    ) -> Assessment:
        """`logits` by what was shown, everything that is present first."""
        present = next(iter(logits))
        film = frozenset({"imaging"})
        estimates: dict[str, Estimate] = {}
        before: dict[str, Estimate] = {}
        for column, target in enumerate(self.card.spec.targets):
            if target.name in patient.targets:
                mine = {shown: float(z[column]) for shown, z in logits.items()}
                estimates[target.name] = self._estimate(patient, target, present, mine)
                if prior is not None and "imaging" in target.modalities:
                    before[target.name] = self._estimate(patient, target, film, {film: float(prior[column])})
        unused = {} if patient.refusal is None or "imaging" in present else {"imaging": patient.refusal}
        return Assessment(
            model=self.card.model,
            digest=self.card.weights.sha256,
            tier=self.card.tier,
            estimates=estimates,
            seen=present,
            prior=before,
            unused=unused,
            notice=self.card.notice if "imaging" in present else "",
            reading=self._reading(patient),
        )

    def _reading(self, patient: _Patient) -> FilmReading | None:
        """What the imaging networks say of the newest film, beside the one before it where there are two."""
        if self._reader is None or not patient.films:
            return None
        imaging, spec = patient.inputs.signals["imaging"], self.card.spec.image
        views = [spec.views[int(imaging.code[slot]) - 1] for slot in np.flatnonzero(imaging.seen)]
        newest, *older = patient.films
        return self._reader.read(
            newest, older[0] if older else None, views=views, size=spec.size, model=self.card.weights.sha256
        )

    def _estimate(
        self, patient: _Patient, target: Target, seen: frozenset[str], logits: Mapping[frozenset[str], float]
    ) -> Estimate:
        """`logits` by what was shown."""
        rested = seen & set(target.modalities)
        card = self.card.targets[target.name]
        reason = outside(card, patient.inputs) or self._why_not(patient, target, rested, card)
        found = None if reason else self.card.calibration.find(target.name, rested)
        if reason is None and found is None:
            reason = "The model was not calibrated on this combination of evidence."
        logit = logits[seen]
        if reason is None and not math.isfinite(logit):
            reason = "The model's answer was not a number."
        if reason is not None or found is None:
            return Estimate(target, None, None, {}, rested, reason)
        without: dict[str, float] = {}
        for masked in sorted(rested):
            other = self.card.calibration.find(target.name, rested - {masked})
            z = logits.get(seen - {masked}, math.nan)
            if other is not None and math.isfinite(z):
                without[masked] = other.probability(z)
        shares: dict[str, float] = {}
        if len(logits) > 1 and all(map(math.isfinite, logits.values())):
            shares = {m: found.slope * gain for m, gain in shapley(logits, rested).items()}
        interval = found.interval(logit)
        return Estimate(target, found.probability(logit), interval, without, rested, shares=shares)

    def _why_not(self, patient: _Patient, target: Target, rested: frozenset[str], card: TargetCard) -> str | None:
        if card.standing == "withheld":
            return f"Withheld: {card.withheld or 'not shown to be good enough'}, on patients kept apart."
        if rested:
            return None
        if "imaging" in target.modalities and patient.refusal is not None:
            return f"The film was not used: {patient.refusal}."
        needed = {"imaging": "chest film", "labs": "results", "history": "history", "genomics": "genomic results"}
        return f"No {' or '.join(needed[m] for m in target.modalities)} to go by."
