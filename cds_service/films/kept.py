"""A film as it is kept: what its header said, what the networks made of its pixels, and a picture for who checks them.

The pixels themselves are not kept.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cds_service.pages.films import encode
from fhir_mappers.record import Image, Source
from models.contract import EncodedFilm

FEATURES = "features"
PART = "part."


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    sop_uid: str
    study_uid: str
    reference: str
    view: str
    at: datetime
    modality: str
    spacing_mm: tuple[float, float] | None
    shape: tuple[int, int]
    burned_in: bool
    rendered: bool = False
    laterals: int = 0
    encoder: str
    refusal: str | None
    tensors: bytes
    picture: bytes = b""


def pack(image: Image, film: EncodedFilm) -> bytes:
    """A film without its pixels, in MessagePack with its tensors as safetensors: nothing in it can run."""
    tensors = {FEATURES: film.features, **{PART + name: array for name, array in film.parts.items()}}
    kept = _Kept(
        sop_uid=image.sop_uid,
        study_uid=image.study_uid,
        reference=image.source.reference,
        view=image.view,
        at=image.at,
        modality=image.modality,
        spacing_mm=image.spacing_mm,
        shape=image.shape,
        burned_in=image.burned_in,
        rendered=image.rendered,
        laterals=image.laterals,
        encoder=film.encoder,
        refusal=film.refusal,
        tensors=save({name: np.ascontiguousarray(array) for name, array in tensors.items()}),
        picture=encode(image.pixels).data,
    )
    return msgspec.msgpack.encode(kept)


def unpack(data: bytes) -> Image | None:
    """The film again, with no pixels; None for bytes another release wrote otherwise."""
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept)
        tensors = load(kept.tensors)
        features = tensors.pop(FEATURES)
    except (msgspec.DecodeError, SafetensorError, KeyError, ValueError):
        return None
    parts = {name.removeprefix(PART): array for name, array in tensors.items()}
    return Image(
        pixels=np.zeros((0, 0), np.float32),
        view=kept.view,
        at=kept.at,
        sop_uid=kept.sop_uid,
        study_uid=kept.study_uid,
        source=Source(kept.reference),
        modality=kept.modality,
        spacing_mm=kept.spacing_mm,
        shape=kept.shape,
        encoded=EncodedFilm(kept.encoder, features, kept.refusal, parts),
        burned_in=kept.burned_in,
        rendered=kept.rendered,
        laterals=kept.laterals,
        picture=kept.picture,
    )
