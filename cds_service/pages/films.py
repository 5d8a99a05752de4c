"""Films as the evidence page shows them: grey, 8 bits, at most 1024 pixels on a side."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures

from cds_service.advice.writing import moment
from fhir_mappers.record import Image, PatientRecord

LARGEST = 1024
QUALITY = 92
"""At 92 a chest film of 1024 pixels has about 150 kB, and no block shows before a window of a tenth of the range."""
MOST_FILMS = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded film: JPEG bytes, the size kept and the size it had."""

    data: bytes
    width: int
    height: int
    of_width: int
    of_height: int


def chosen(record: PatientRecord, used: frozenset[str]) -> tuple[Image, ...]:
    """The newest film and the one before it: those the model used, else the newest of the record.

    A film kept by a release that kept no picture with it cannot be shown.
    """
    films = [i for i in record.images if i.sop_uid in used] or list(record.images)
    films = [i for i in films if i.encoded is None or i.picture]
    return tuple(sorted(films, key=lambda i: (i.at, moment(i.at), i.sop_uid), reverse=True)[:MOST_FILMS])


def picture_of(image: Image) -> Picture:
    """The film as it is shown: the picture kept with it, or one made of its pixels."""
    if not image.picture:
        return encode(image.pixels)
    width, height = Pictures.open(io.BytesIO(image.picture)).size
    return Picture(image.picture, width, height, image.shape[1], image.shape[0])


def encode(pixels: NDArray[np.float32]) -> Picture:
    """Pixels (H, W) in [0, 1], bright is dense -> a JPEG whose grey levels are 255 times the value."""
    height, width = pixels.shape
    step = max(1, max(height, width) // (2 * LARGEST))
    # A film of 4000 pixels is thinned first: averaging all of it would cost a tenth of a second for no visible gain.
    grey = pixels[::step, ::step] * np.float32(255.0)
    grey += 0.5
    np.clip(grey, 0.0, 255.0, out=grey)
    picture = Pictures.fromarray(grey.astype(np.uint8))
    # A plain average: sharper filters draw bright and dark seams along edges that are not in the film.
    picture.thumbnail((LARGEST, LARGEST), Pictures.Resampling.BOX)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return Picture(out.getvalue(), picture.width, picture.height, width, height)
