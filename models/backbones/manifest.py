"""`backbone.json`: what a network is, how films are prepared for it, and on which terms it may be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

FORMAT = 1
MANIFEST, WEIGHTS = "backbone.json", "model.safetensors"

Family = Literal["dinov2", "siglip", "xrv-densenet", "timm"]
"""dinov2: transformers `Dinov2Model` (RAD-DINO); siglip: transformers `SiglipVisionModel` (MedSigLIP);
xrv-densenet: DenseNet of TorchXRayVision; timm: any timm network that gives a feature map or patch tokens."""

Terms = Literal["commercial_ok", "gated", "research_only"]
"""commercial_ok: any use; gated: the publisher's own terms have to be accepted; research_only: not for care."""


class BackboneError(ValueError):
    """A backbone that must not or cannot be used; says which file and what to do."""


class Licence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name` is how the site names it when it accepts it, e.g. `msrla`."""

    name: str
    terms: Terms
    url: str = ""

    def notice(self, backbone: str) -> str:
        """The sentence for a card; empty where the terms ask for none."""
        if self.terms == "commercial_ok":
            return ""
        said = "for research only" if self.terms == "research_only" else "under terms of its publisher"
        return f"Reads films with {backbone}, licensed {said} ({self.name}); accepted by this site."


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a film of ours to the network's input.

    A film arrives square, padded with black, grey in [0, 1], bright is dense: MONOCHROME1 was inverted by the mappers.
    It is resized to `size` pixels, repeated over as many channels as `mean` has, less `mean`, divided by `std`.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or min(self.std) <= 0.0:
            raise ValueError("mean and std need one positive value for each of 1 or 3 channels")
        if not 16 <= self.size <= 4096:
            raise ValueError("size is not between 16 and 4096 pixels")


class Backbone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network.

    architecture  what its builder takes: the publisher's configuration, or {"model": ...} for timm
    parameters    how many the network has without what is left out of it (heads, text towers)
    sha256        of model.safetensors, hex
    source        where it came from, in words of whoever added it
    adapted_from  sha-256 of the weights a site adapted; empty for a network as published
    """

    format: int
    name: str
    family: Family
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    licence: Licence
    parameters: int
    sha256: str
    source: str = ""
    adapted_from: str = ""


def read_manifest(folder: Path) -> Backbone:
    """Raises BackboneError where the folder holds no backbone of ours."""
    path = folder / MANIFEST
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Backbone)
    except OSError as error:
        raise BackboneError(
            f"{path}: cannot be read ({error.strerror}); "
            "`cds-service backbone add` makes a folder of a published network"
        ) from None
    except (msgspec.DecodeError, ValueError) as error:
        raise BackboneError(f"{path}: {error}") from None
    if found.format != FORMAT:
        raise BackboneError(f"{path}: format {found.format}; this version reads format {FORMAT}")
    return found


def write_manifest(folder: Path, backbone: Backbone) -> None:
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(backbone), indent=1) + b"\n")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# A licence is accepted by a site, not by a call, so this is the process's: set once at the door, from the settings.
_accepted: frozenset[str] = frozenset()


def accept_licences(names: Iterable[str]) -> None:
    """Say which licences by name this site has read and accepted; everything else gated or for research is refused."""
    global _accepted  # noqa: PLW0603
    _accepted = frozenset(names)


def require_accepted(backbone: Backbone) -> None:
    """Raises BackboneError for gated and research-only weights whose licence the site has not accepted by name."""
    licence = backbone.licence
    if licence.terms != "commercial_ok" and licence.name not in _accepted:
        kind = "for research only" if licence.terms == "research_only" else "under terms that have to be accepted"
        raise BackboneError(
            f"backbone {backbone.name}: its weights are {kind} ({licence.name}). Read the licence"
            f"{f' at {licence.url}' if licence.url else ''}; a site that accepts it sets "
            f"ORDERSIGHT_ACCEPTED_LICENCES={licence.name}, and every card will say so"
        )
