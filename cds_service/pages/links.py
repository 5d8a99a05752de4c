"""`EvidenceLinks`: a link for each card, and behind it, a moment later, the sealed evidence.

    cards = links.attach(case, cards, tenant)       # on the request's path: makes secrets, puts the case in a queue

https://cds.example.org/evidence/<id>#<key>. The id (128 random bits) is known to the database by its hash only. The
key (256 random bits) seals the evidence and is in no table, log or request line: what follows # a browser keeps to
itself until the page's script posts it, so that a mail scanner or preview that follows the link spends nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cds_service.cards import Card, Link
from cds_service.pages import films
from cds_service.pages.collect import LIFETIME, collect
from cds_service.pages.model_card import model_view
from cds_service.pages.seal import ID_BYTES, KEY_BYTES, known_as, new_secret, seal
from cds_service.pages.snapshot import encode
from cds_service.state.sealed import EvidenceStore, SealedEvidence

if TYPE_CHECKING:
    from cds_service.consult import Case

log = logging.getLogger(__name__)

LABEL = "Evidence"
WAITING = 64
WAITING_BYTES = 512 * 1024 * 1024
"""Films wait as they were decoded, up to 50 MB each: what waits is bounded by what it holds as well."""
SWEEP_S = 30.0
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class _Made:
    card: Card
    id: str
    key: str
    smart: bool


@dataclass(frozen=True, slots=True)
class _Job:
    """One call's cards; `size` is what its films hold in memory."""

    case: Case
    made: tuple[_Made, ...]
    tenant: str
    size: int
    at: datetime


class EvidenceLinks:
    """Makes links at once and keeps their evidence in the background; one per process, any thread may attach.

    A card gets no link when too much is waiting: no link is better than one that leads nowhere.
    """

    def __init__(
        self,
        base_url: str,
        store: EvidenceStore,
        clock: Callable[[], datetime],
        *,
        models: Path | None = None,
        waiting: int = WAITING,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self._base = f"{base_url.rstrip('/')}/evidence"
        self._launch = f"{base_url.rstrip('/')}/launch"
        self.store = store
        self.now = clock
        self._models = models
        self._jobs: queue.Queue[_Job | None] = queue.Queue(waiting)
        self._most_bytes = waiting_bytes
        self._lock = threading.Lock()
        self._bytes = 0
        self._pending: dict[str, threading.Event] = {}
        self._thread = threading.Thread(target=self._work, name="evidence", daemon=True)
        self._thread.start()

    def attach(self, case: Case, cards: Sequence[Card], tenant: str, *, smart: bool = False) -> list[Card]:
        """The cards with their links. Costs microseconds: everything else is done once the answer is on its way.

        `smart` is for an EHR that launches us: id and key are then the link's appContext, which it hands to us and
        to no browser.
        """
        if not cards:
            return []
        made = tuple(_Made(card, new_secret(ID_BYTES), new_secret(KEY_BYTES), smart) for card in cards)
        size = sum(image.pixels.nbytes + len(image.picture) for image in case.record.images)
        job = _Job(case, made, tenant, size, self.now())
        with self._lock:
            if self._bytes + size > self._most_bytes and self._bytes:
                return self._without(cards)
            self._bytes += size
            self._pending.update({known_as(m.id): threading.Event() for m in made})
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._finish(job)
            return self._without(cards)
        return [self._linked(m) for m in made]

    def wait(self, id_: str, seconds: float) -> None:
        """Give evidence that this process is still keeping a moment to arrive; returns at once for any other."""
        event = self._pending.get(id_)
        if event is not None:
            event.wait(seconds)

    def close(self) -> None:
        """Keep what is waiting, as far as a few seconds allow."""
        try:
            self._jobs.put(None, timeout=STOP_S)
        except queue.Full:
            return
        self._thread.join(STOP_S)

    def _linked(self, made: _Made) -> Card:
        if made.smart:
            link = Link(LABEL, self._launch, "smart", f"{made.id}.{made.key}")
        else:
            link = Link(LABEL, f"{self._base}/{made.id}#{made.key}", "absolute")
        return msgspec.structs.replace(made.card, links=(link, *made.card.links))

    def _without(self, cards: Sequence[Card]) -> list[Card]:
        log.warning("evidence not kept", extra={"fields": {"why": "too much is waiting", "cards": len(cards)}})
        return list(cards)

    def _work(self) -> None:
        swept_at = float("-inf")
        while True:
            if time.monotonic() - swept_at > SWEEP_S:
                swept_at = time.monotonic()
                self._sweep()
            try:
                job = self._jobs.get(timeout=SWEEP_S)
            except queue.Empty:
                continue
            if job is None:
                return
            try:
                self._keep(job)
            except Exception as error:
                # One card's evidence must not end all others'.
                fields = {"service": job.case.service.id, "error": type(error).__name__}
                log.exception("evidence not kept", extra={"fields": fields})
            finally:
                self._finish(job)
                del job

    def _finish(self, job: _Job) -> None:
        with self._lock:
            self._bytes -= job.size
            for made in job.made:
                event = self._pending.pop(known_as(made.id), None)
                if event is not None:
                    event.set()

    def _keep(self, job: _Job) -> None:
        case = job.case
        chosen = films.chosen(case.record, frozenset(case.used.get("imaging", ())))
        encoded = [(image.sop_uid, films.picture_of(image)) for image in chosen]
        folder = self._models / case.service.model if self._models and case.service.model else None
        model = model_view(case.assessment, folder) if case.assessment is not None else None
        key = self.store.patient_key(job.tenant, case.request.context.patient_id)
        for made in job.made:
            snapshot = msgspec.structs.replace(
                collect(case, made.card, model, encoded), made_at=job.at, expires=job.at + LIFETIME
            )
            id_ = known_as(made.id)
            pictures = msgspec.msgpack.encode([picture.data for _, picture in encoded]) if encoded else b""
            self.store.keep(
                SealedEvidence(
                    id=id_,
                    tenant=job.tenant,
                    card=made.card.uuid,
                    service=case.service.id,
                    patient_key=key,
                    made_at=job.at,
                    expires=job.at + LIFETIME,
                    page=seal(encode(snapshot), made.key, place(job.tenant, id_, "page")),
                    films=seal(pictures, made.key, place(job.tenant, id_, "films")) if pictures else b"",
                )
            )

    def _sweep(self) -> None:
        try:
            self.store.sweep(self.now())
        except Exception as error:  # noqa: BLE001 - tried again in half a minute; expired evidence is refused meanwhile
            log.warning("expired evidence not wiped", extra={"fields": {"error": type(error).__name__}})


def place(tenant: str, id_: str, part: str) -> str:
    """What sealed evidence is bound to: it opens nowhere else, nor for another tenant's row."""
    return f"ordersight evidence 1|{tenant}|{id_}|{part}"
