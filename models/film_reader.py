"""The imaging networks at order time: what kind of picture, where lungs and heart lie, where findings are, how they go.

What one film shows is made from its pixels once and kept with its encoding (`EncodedFilm.parts`); a reading is put
together from that without a pixel, and compares with a prior film only where there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from models.anatomy import KINDS, SIZE, STRUCTURES, AnatomyNet, Kind, Mask, anatomy_of, believed, resized
from models.checkpoint import CARD, WEIGHTS, CheckpointError, Stored
from models.contract import Change, EncodedFilm, FilmReading, Structure
from models.encoders.image import ImageEncoder
from models.fusion import FusionModel
from models.imaging_card import FilmReaderCard
from models.places import evidence, neighbourhoods, place
from models.progression import Progression

FORMAT = 1
NAME = "chest-anatomy"
LEAST_SPREAD = 0.05
"""A picture whose grey levels deviate less than this from their mean shows nothing."""
REFUSALS: dict[Kind, str] = {
    "frontal": "it does not look like an upright frontal chest film",
    "lateral": "it looks like a lateral view",
    "other": "it does not look like a chest film",
    "turned": "it looks like a chest film that is turned or upside down",
    "inverted": "its grey levels look inverted",
    "broken": "it looks like a part of a film, or one in pieces",
}
MASK, HEAT = "mask.", "heat."
COURSES = "courses."


@dataclass(frozen=True, slots=True)
class FilmReader:
    """The networks in memory. `progressions` by sha-256 of the checkpoint whose encodings they compare."""

    card: FilmReaderCard
    net: AnatomyNet
    progressions: Mapping[str, Progression]

    def placed(self, model: str) -> frozenset[str]:
        """The findings of a checkpoint (by its sha-256) whose evidence was shown to lie where the finding is."""
        return frozenset(f for m in self.card.compared.values() if m.sha256 == model for f in m.placed)

    @property
    def digest(self) -> str:
        return self.card.weights.sha256

    @torch.inference_mode()
    def examine(
        self, model: FusionModel, encoder: ImageEncoder, film: Tensor, grid: Tensor
    ) -> tuple[str | None, dict[str, NDArray[Any]]]:
        """Why one film (1, 1, H, W) is not one to judge, or None; and what is to be kept of it.

        `grid` is the encoder's feature map of the film. A mask is kept as packed bits, a heat as float16.
        """
        if float(film.std()) < LEAST_SPREAD:
            return "its grey levels are not those of a chest film", {}
        seen = self.net(resized(film))
        kinds = seen.kinds[0].float().cpu()
        if not bool(torch.isfinite(kinds).all()) or frontal_score(kinds[None])[0] < self.card.threshold:
            return REFUSALS[KINDS[int(kinds.argmax())]], {}
        size = film.shape[-1]
        parts: dict[str, NDArray[Any]] = {
            MASK + name: np.packbits(mask)
            for name, mask in believed(seen.outlines[0].float().cpu().numpy(), size).items()
        }
        found = evidence(model, encoder, grid)
        parts |= {HEAT + name: heat.astype(np.float16) for name, heat in found.items()}
        return None, parts

    def read(
        self, newest: EncodedFilm, prior: EncodedFilm | None, *, views: Sequence[str], size: int, model: str
    ) -> FilmReading | None:
        """What is said of the newest film; None where it was refused or encoded without these networks.

        views: of the films, as in `ImageSpec.views`. model: sha-256 of the checkpoint that encoded the films.
        """
        read = self._alone(newest, views[0], size, model)
        if read is None or prior is None:
            return read
        compared = self.progressions.get(model)
        changes: dict[str, Change] = {}
        if compared is not None and prior.refusal is None:
            changes = compared.changes(newest.features, prior.features)
        return replace(read, changes=changes, before=self._alone(prior, views[1], size, model))

    def _alone(self, film: EncodedFilm, view: str, size: int, model: str) -> FilmReading | None:
        if film.refusal is not None or not film.parts:
            return None
        masks: dict[Structure, Mask] = {}
        for name in STRUCTURES:
            packed = film.parts.get(MASK + name)
            if packed is not None:
                masks[name] = np.unpackbits(packed, count=size * size).reshape(size, size).astype(np.bool_)
        anatomy = anatomy_of(masks, view)
        heats = {k[len(HEAT) :]: v.astype(np.float32) for k, v in film.parts.items() if k.startswith(HEAT)}
        placed = self.placed(model)
        near = neighbourhoods(anatomy.zones)
        places = {name: place(name, heat, near if name in placed else None) for name, heat in heats.items()}
        return FilmReading(anatomy, places, {}, self.digest)


def frontal_score(kinds: Tensor) -> NDArray[np.float64]:
    """Logits (N, 6) of `KINDS` -> (N,) log-odds of being an upright frontal chest film."""
    score = kinds[:, 0] - torch.logsumexp(kinds[:, 1:], dim=1)
    return np.asarray(score.double().numpy(), np.float64)


FILM_LAYOUT = "square-1"
"""How a film becomes the pixels an encoder sees; another name makes every kept encoding void."""


def encoder_digest(encoder: ImageEncoder | None, stored: Stored, reader: FilmReader | None) -> str:
    """sha-256 over everything an encoded film depends on: image encoder, gate, imaging networks, layout of a film."""
    if encoder is None:
        return ""
    found = hashlib.sha256(f"{FILM_LAYOUT} {stored.card.spec.image.size}".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    if reader is not None:
        # The evidence of a finding depends on the model's head as well.
        found.update(f"{reader.digest} {stored.card.weights.sha256}".encode())
    if stored.gate is not None:
        found.update(msgspec.json.encode(stored.gate.numbers, order="deterministic"))
        for name, array in sorted(stored.gate.tensors.items()):
            found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


# ---------------------------------------------------------------------------------------------- on disk


def is_film_reader(folder: Path) -> bool:
    """Whether the folder holds imaging networks and not a fusion model."""
    try:
        found = msgspec.json.decode((folder / CARD).read_bytes())
    except (OSError, msgspec.DecodeError):
        return False
    return isinstance(found, dict) and found.get("reads") == "films"


def save_film_reader(
    folder: Path, card: FilmReaderCard, net: AnatomyNet, progressions: Mapping[str, Progression]
) -> None:
    """Write weights and card; `card.weights` is filled here. `progressions` by model name, as in `card.compared`."""
    folder.mkdir(parents=True, exist_ok=True)
    blob = pack(net, progressions)
    weights = msgspec.structs.replace(card.weights, file=WEIGHTS, sha256=hashlib.sha256(blob).hexdigest())
    card = msgspec.structs.replace(card, weights=weights)
    (folder / WEIGHTS).write_bytes(blob)
    (folder / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n")


def pack(net: AnatomyNet, progressions: Mapping[str, Progression]) -> bytes:
    """The weights file: matrices in float16, and the courses' tensors by model."""
    tensors = {k: v.half() if v.dim() > 1 else v for k, v in net.state_dict().items()}
    for model, progression in progressions.items():
        for name, array in progression.tensors.items():
            tensors[f"{COURSES}{model}.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
    blob: bytes = save({k: v.contiguous() for k, v in tensors.items()})
    return blob


def read_film_card(folder: Path) -> FilmReaderCard:
    """The card alone. Raises CheckpointError for a missing or unreadable file, an unknown key or another format."""
    path = folder / CARD
    try:
        card = msgspec.json.decode(path.read_bytes(), type=FilmReaderCard)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if card.format != FORMAT:
        raise CheckpointError(f"{path}: format {card.format}; this version reads format {FORMAT}")
    return card


def load_film_reader(folder: Path, *, device: str = "cpu") -> FilmReader:
    """Read and check the networks. Raises CheckpointError, and runs nothing of what it read."""
    card = read_film_card(folder)
    path = folder / WEIGHTS
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    digest = hashlib.sha256(blob).hexdigest()
    if digest != card.weights.sha256:
        raise CheckpointError(f"{path}: sha-256 is {digest[:12]}..., model.json names {card.weights.sha256[:12]}...")
    tensors = load(blob)
    net = AnatomyNet(card.recipe.preset)
    own = {k: v for k, v in tensors.items() if not k.startswith(COURSES)}
    expected = net.state_dict()
    if set(own) != set(expected) or any(own[k].shape != v.shape for k, v in expected.items()):
        raise CheckpointError(f"{path}: the tensors are not those of the network that model.json describes")
    if not all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point()):
        raise CheckpointError(f"{path}: holds values that are not numbers")
    net.load_state_dict(own)
    progressions = {}
    for model, compared in card.compared.items():
        prefix = f"{COURSES}{model}."
        arrays = {k[len(prefix) :]: v.numpy() for k, v in tensors.items() if k.startswith(prefix)}
        if set(arrays) != {"presence", "severity", "centre", "scale"}:
            raise CheckpointError(f"{path}: the courses of {model} are incomplete")
        progressions[compared.sha256] = Progression(compared.findings, arrays)
    net = net.eval().to(torch.device(device))
    with torch.inference_mode():
        net(torch.zeros(1, 1, SIZE, SIZE, device=device))  # so that the first real film does not pay for it
    return FilmReader(card, net, progressions)
