"""Is this a frontal chest film? Asked of every film before anything is said of it.

Two questions on the film's own encoding: is it nearer to the films trained on than to the same films turned,
inverted, torn or replaced by noise (a logistic regression), and is it within their spread (Mahalanobis distance to the
nearest source). Plus the plain statistics of its pixels. Thresholds refuse one in twenty of the validation films, every
source counting the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.card import GateNumbers

Floats = NDArray[np.float64]

FALSE_REFUSALS = 0.05
PIXEL_TAIL = 0.002
PER_SOURCE = 400
STATISTICS = ("mean", "spread", "dark", "mirrored")


@dataclass(frozen=True, slots=True)
class ImageGate:
    """numbers, and tensors: centre (F,), scale (F,), weight (F,), bias (1,), means (S, F), precision (F, F)."""

    numbers: GateNumbers
    tensors: Mapping[str, NDArray[np.float32]]

    def refusal(self, pixels: NDArray[np.float32], features: NDArray[np.float32]) -> str | None:
        """Why this film (1, H, W) with its encoding (1 + K, D) is not one to judge, or None."""
        for name, value in pixel_statistics(pixels[None]).items():
            low, high = self.numbers.pixels[name]
            if not low <= float(value[0]) <= high:
                return "its grey levels are not those of a chest film"
        x = summary(features[None])
        if not np.isfinite(x).all():
            return "it could not be encoded"
        if float(self.score(x)[0]) < self.numbers.threshold_score:
            return "it does not look like an upright frontal chest film"
        if float(self.spread(x)[0]) > self.numbers.threshold_spread:
            return "it is unlike the films the model was trained on"
        return None

    def score(self, x: Floats) -> Floats:
        t = self.tensors
        return np.asarray(((x - t["centre"]) / t["scale"]) @ t["weight"] + t["bias"], np.float64)

    def spread(self, x: Floats) -> Floats:
        return spread(
            ((x - self.tensors["centre"]) / self.tensors["scale"]), self.tensors["means"], self.tensors["precision"]
        )


def quantile_by_source(values: Floats, sizes: Sequence[int], q: float) -> float:
    """Quantile with the same weight for every source, however many films it has."""
    weights = np.concatenate([np.full(n, 1.0 / n) for n in sizes])
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]) / len(sizes), q)])


def summary(features: NDArray[np.float32]) -> Floats:
    """Film encodings (N, 1 + K, D) -> (N, 2 D): the whole film and the mean of its regions."""
    return np.concatenate([features[:, 0], features[:, 1:].mean(axis=1)], axis=1).astype(np.float64)


def spread(x: Floats, means: NDArray[np.float32], precision: NDArray[np.float32]) -> Floats:
    """Mahalanobis distance to the nearest of the sources' means."""
    distances = [np.sqrt(np.maximum(np.einsum("nf,fg,ng->n", x - m, precision, x - m), 0.0)) for m in means]
    return np.asarray(np.min(distances, axis=0), np.float64)


def pixel_statistics(films: NDArray[np.float32]) -> dict[str, Floats]:
    """Per film of (N, 1, H, W): mean, standard deviation, share of black, correlation with its mirror image."""
    flat = films.reshape(len(films), -1).astype(np.float64)
    mirror = films[..., ::-1].reshape(len(films), -1).astype(np.float64)
    deviation = flat - flat.mean(axis=1, keepdims=True)
    reflected = mirror - mirror.mean(axis=1, keepdims=True)
    variance = (deviation**2).mean(axis=1)
    return {
        "mean": flat.mean(axis=1),
        "spread": np.sqrt(variance),
        "dark": (flat < 1.0 / 255.0).mean(axis=1),
        "mirrored": (deviation * reflected).mean(axis=1) / np.maximum(variance, 1e-12),
    }


def spoilt(films: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Films that are no upright frontal chest films any more."""
    if kind == "turned left":
        return torch.rot90(films, 1, (2, 3))
    if kind == "turned right":
        return torch.rot90(films, -1, (2, 3))
    if kind == "upside down":
        return films.flip(2)
    if kind == "inverted":
        return 1.0 - films
    if kind == "magnified":
        side = films.shape[-1]
        part = films[:, :, side // 8 : side // 8 + side // 3, side // 8 : side // 8 + side // 3]
        return torch.nn.functional.interpolate(part, size=(side, side), mode="bilinear", align_corners=False)
    if kind == "torn":
        n = films.shape[-1] // 4 * 4
        tiles = films[..., :n, :n].unfold(2, n // 4, n // 4).unfold(3, n // 4, n // 4).flatten(2, 3)
        tiles = tiles[:, :, torch.randperm(16, generator=generator)].reshape(len(films), 1, 4, 4, n // 4, n // 4)
        torn = tiles.permute(0, 1, 2, 4, 3, 5).reshape(len(films), 1, n, n)
        return torch.nn.functional.pad(torn, (0, films.shape[-1] - n, 0, films.shape[-1] - n))
    if kind == "noise":
        return torch.rand(films.shape, generator=generator)
    raise ValueError(f"no such change: {kind}")


CHANGES = ("turned left", "turned right", "upside down", "inverted", "magnified", "torn", "noise")


def fit_gate(
    encode: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    spoilt_features: Mapping[str, NDArray[np.float32]],
    valid: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    valid_spoilt: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> ImageGate:
    """Fit on training films, set thresholds on validation films.

    encode, valid                 source -> (films (N, 1, H, W), encodings (N, 1 + K, D))
    spoilt_features, valid_spoilt change -> encodings, or (films, encodings), of films changed by `spoilt`
    """
    # Only fitting needs scikit-learn; a server that starts does without its import of a second.
    from sklearn.covariance import LedoitWolf
    from sklearn.linear_model import LogisticRegression

    good = {name: summary(features) for name, (_, features) in encode.items()}
    bad = np.concatenate([summary(f) for f in spoilt_features.values()])
    every = np.concatenate(list(good.values()))
    centre, scale = every.mean(axis=0), every.std(axis=0) + 1e-6
    standard = {name: (x - centre) / scale for name, x in good.items()}
    means = np.stack([x.mean(axis=0) for x in standard.values()])
    within = np.concatenate([x - x.mean(axis=0) for x in standard.values()])
    precision = np.asarray(LedoitWolf().fit(within).precision_, np.float64)
    x = np.concatenate([*standard.values(), (bad - centre) / scale])
    y = np.concatenate([np.ones(len(every)), np.zeros(len(bad))])
    model = LogisticRegression(C=0.05, max_iter=500, class_weight="balanced").fit(x, y)
    tensors = {
        "centre": centre,
        "scale": scale,
        "weight": model.coef_[0],
        "bias": model.intercept_,
        "means": means,
        "precision": precision,
    }
    tensors32 = {k: np.asarray(v, np.float32) for k, v in tensors.items()}
    draft = ImageGate(GateNumbers(0.0, 0.0, {}, {}, {}), tensors32)
    kept = np.concatenate([summary(f) for _, f in valid.values()])
    sizes = [len(f) for _, f in valid.values()]
    pixels = [pixel_statistics(films) for films, _ in (*encode.values(), *valid.values())]
    limits = {}
    for name in STATISTICS:
        values = np.concatenate([p[name] for p in pixels])
        low, high = np.quantile(values, (PIXEL_TAIL, 1.0 - PIXEL_TAIL))
        limits[name] = (round(float(low) - 0.02, 4), round(float(high) + 0.02, 4))
    numbers = GateNumbers(
        threshold_score=round(quantile_by_source(draft.score(kept), sizes, FALSE_REFUSALS / 2), 4),
        threshold_spread=round(quantile_by_source(draft.spread(kept), sizes, 1.0 - FALSE_REFUSALS / 2), 4),
        pixels=limits,
        false_refusals={},
        refused={},
    )
    gate = ImageGate(numbers, tensors32)

    def share(films: NDArray[np.float32], features: NDArray[np.float32]) -> float:
        return float(np.mean([gate.refusal(p, f) is not None for p, f in zip(films, features, strict=True)]))

    false = {name: round(share(*pair), 4) for name, pair in valid.items()}
    false["all"] = round(sum(false.values()) / len(false), 4)
    refused = {name: round(share(*pair), 4) for name, pair in valid_spoilt.items()}
    return ImageGate(msgspec.structs.replace(numbers, false_refusals=false, refused=refused), tensors32)
