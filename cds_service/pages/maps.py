"""`add_maps`: what a finding's score rests on, worked out when somebody who opened a card's evidence asks to see it.

From the picture that is kept with the evidence: the film's own pixels are kept nowhere. A map that was worked out is
held in memory for as long as its evidence may be seen, sealed with the key that only the visitor has.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec
import numpy as np
from flask import Blueprint, Response, request
from numpy.typing import NDArray
from PIL import Image as Pictures

from cds_service.pages.access import Pass, Refused, read_part
from cds_service.pages.evidence import COOKIE
from cds_service.pages.links import EvidenceLinks
from cds_service.pages.overlays import MAP
from cds_service.pages.seal import known_as, seal, unseal
from cds_service.pages.snapshot import decode
from fhir_mappers.square import Placement
from fhir_mappers.tensors import square_of
from models.contract import Assessor, FilmExplainer

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
AT_ONCE = 2
"""Of all visitors together: a map takes a second or two of one core, and a thread of the server meanwhile."""
MOST_KEPT = 64
COLOUR = (173, 255, 47)
OPAQUE = 150
"""Of 255, where a map is strongest: the film is seen through it everywhere."""


class Kept:
    """The maps of open evidence, as ciphertext. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], datetime], most: int = MOST_KEPT) -> None:
        self._clock, self._most = clock, most
        self._lock = threading.Lock()
        self._sealed: OrderedDict[str, tuple[datetime, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sealed)

    def find(self, name: str, key: str) -> bytes | None:
        with self._lock:
            found = self._sealed.get(name)
        return unseal(found[1], key, name) if found is not None else None

    def keep(self, name: str, key: str, data: bytes, expires: datetime) -> None:
        now = self._clock()
        with self._lock:
            for over in [n for n, (until, _) in self._sealed.items() if until <= now]:
                del self._sealed[over]
            self._sealed[name] = expires, seal(data, key, name)
            if len(self._sealed) > self._most:
                self._sealed.popitem(last=False)


def add_maps(blueprint: Blueprint, links: EvidenceLinks, engines: Mapping[str, Assessor]) -> None:
    """`GET <link>/maps/<film>/<finding>`: a PNG as large as the film is shown, to lay over it.

    503 where it cannot be had now, also because another model answers since: a map of that would explain another score.
    """
    turns = threading.BoundedSemaphore(AT_ONCE)
    kept = Kept(links.now)

    @blueprint.get("/<link_id>/maps/<int:number>/<finding>")
    def map_(link_id: str, number: int, finding: str) -> Response:
        held = Pass.read(request.cookies.get(COOKIE, ""))
        snapshot = decode(read_part(links, link_id, held, "page"))
        offered = {(film.number, shape.name) for film in snapshot.films for shape in film.shapes}
        if held is None or snapshot.model is None or (number, MAP + finding) not in offered:
            raise Refused("unknown")
        name = f"ordersight map 1|{known_as(link_id)}|{number}|{finding}"
        known = kept.find(name, held.key)
        if known is not None:
            return Response(known, content_type="image/png")
        digest = snapshot.model.digest
        able: list[FilmExplainer] = [e for e in engines.values() if isinstance(e, FilmExplainer)]
        engine = next((e for e in able if e.digest == digest), None)
        if engine is None:
            return _not_now("another model")
        if not turns.acquire(blocking=False):
            return _not_now("busy")
        began = time.monotonic()
        try:
            picture = msgspec.msgpack.decode(read_part(links, link_id, held, "films"), type=list[bytes])[number]
            made = draw_map(engine, picture, finding, TIMEOUT_S)
        except (RuntimeError, MemoryError) as error:  # EngineBusy and EngineTimeout, and whatever a model raises
            return _not_now(type(error).__name__)
        finally:
            turns.release()
        kept.keep(name, held.key, made, snapshot.expires)
        fields = {"service": snapshot.service_id, "card": snapshot.card, "ms": round(1e3 * (time.monotonic() - began))}
        log.info("map shown", extra={"fields": fields})
        return Response(made, content_type="image/png")


def draw_map(engine: FilmExplainer, picture: bytes, finding: str, timeout: float) -> bytes:
    """A map as PNG, in the proportions of the film `picture` (JPEG) shows: more opaque where more rests on it."""
    grey = np.asarray(Pictures.open(io.BytesIO(picture)).convert("L"), np.float32) / 255.0
    size = engine.spec.image.size
    heat = engine.explain(square_of(grey, size)[None], finding, timeout=timeout)
    rows, columns = grey.shape
    return _painted(heat, Placement.of(rows, columns, size))


def _painted(heat: NDArray[np.float32], at: Placement) -> bytes:
    shown = heat[at.top : at.top + at.height, at.left : at.left + at.width]
    strength = shown / max(float(shown.max()), 1e-12)
    painted = np.empty((*shown.shape, 4), np.uint8)
    painted[..., :3] = COLOUR
    painted[..., 3] = np.round(OPAQUE * strength)
    out = io.BytesIO()
    Pictures.fromarray(painted, "RGBA").save(out, "PNG")
    return out.getvalue()


def _not_now(why: str) -> Response:
    log.info("map not shown", extra={"fields": {"why": why}})
    return Response(status=503, headers={"Retry-After": "5"}, content_type="text/plain")
