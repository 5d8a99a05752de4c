"""`FilmCache`: encoded films of one patient at a time, and how often one was there when an order asked for it."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from cds_service.deadline import Deadline
from cds_service.films.kept import pack, unpack
from cds_service.state.errors import StateError
from cds_service.state.films import FilmRows
from fhir_mappers.record import Image, Study
from models.contract import EncodedFilm

log = logging.getLogger(__name__)

FIND_S = 0.15
"""What a look into the cache may take of a call's time."""
SHARE = 0.25
"""And of what is left of it."""

Outcome = Literal["hit", "miss"]


class FilmCache:
    """Shared by all threads. `counts` says for how many films an order asked, and how many were there."""

    def __init__(self, rows: FilmRows, days: int, most_bytes: int) -> None:
        self._rows = rows
        self._lives = timedelta(days=days)
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self.counts: Counter[Outcome] = Counter()

    def keep(self, tenant: str, patient: str, image: Image, film: EncodedFilm, now: datetime) -> None:
        """Keep a film that was just decoded and encoded. Raises StateUnavailable."""
        self._rows.keep(
            tenant,
            patient,
            image.study_uid,
            image.sop_uid,
            pixels=hashlib.sha256(np.ascontiguousarray(image.pixels).data).hexdigest(),
            encoder=film.encoder,
            data=pack(image, film),
            now=now,
            expires=now + self._lives,
        )

    def find(
        self, tenant: str, patient: str, studies: Sequence[Study], encoder: str, now: datetime, timeout: float
    ) -> list[Image]:
        """The films of these studies that are there. A database that does not answer costs `timeout` and no more."""
        if not studies or timeout <= 0:
            return []
        try:
            found = self._rows.find(tenant, patient, [s.uid for s in studies], encoder, now, timeout)
        except StateError as error:
            log.warning("kept films not read", extra={"fields": {"why": str(error)}})
            return []
        return [image for data in found if (image := unpack(data)) is not None]

    def of(self, tenant: str, patient: str, encoder: str, now: datetime) -> OfOneCall:
        return OfOneCall(self, tenant, patient, encoder, now)

    def told(self, outcome: Outcome, films: int) -> None:
        with self._lock:
            self.counts[outcome] += films

    def sweep(self, now: datetime) -> int:
        return self._rows.sweep(now, self._most_bytes)

    @property
    def hit_rate(self) -> float | None:
        """Of the films orders asked for since the start, the share that was there; None before the first."""
        asked = self.counts["hit"] + self.counts["miss"]
        return self.counts["hit"] / asked if asked else None


@dataclass(frozen=True, slots=True)
class OfOneCall:
    """The kept films of one call's patient, as `evidence.gather` asks for them."""

    cache: FilmCache
    tenant: str
    patient: str
    encoder: str
    now: datetime

    def films(self, studies: Sequence[Study], deadline: Deadline) -> list[Image]:
        timeout = min(FIND_S, SHARE * deadline.remaining())
        return self.cache.find(self.tenant, self.patient, studies, self.encoder, self.now, timeout)

    def tell(self, hits: int, misses: int) -> None:
        self.cache.told("hit", hits)
        self.cache.told("miss", misses)
