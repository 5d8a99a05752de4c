"""`WriteBack`: an accepted film report becomes DICOM SR and SEG in the archive, and resources on the FHIR server.

    cards = write_back.offer(case, cards, tenant, client)    # on the request's path: the report is kept, sealed
    write_back.accepted(tenant, service, feedback)           # a clinician's click, durable before it is answered

Nothing is written before that click, nor anywhere but below roots the clients file names for this very client. The
EHR's token is not kept, so a FHIR server must take the report from this host as it is. What cannot be written waits
and is tried again for a week; then it is given up, and the audit says so. Writing twice leaves one: all ids follow
from the report.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from cds_service import dicomweb
from cds_service.advice.film_report import LABEL, places_of, report_of
from cds_service.cards import Card
from cds_service.deadline import Deadline
from cds_service.feedback import Feedback
from cds_service.manifest import ManifestError, Service, Services
from cds_service.multipart import BadAnswer
from cds_service.pages.seal import WrongKey, seal, unseal
from cds_service.state.errors import StateUnavailable
from cds_service.state.kept_reports import OFFERED_FOR, WRITTEN_WITHIN, KeptReports, Waiting
from cds_service.state.sealed import SealedEvidence
from cds_service.state.store import Store
from cds_service.transport import Ask, Call, FetchFailed, Transport
from cds_service.trust.clients import Client, Clients, FhirServer
from cds_service.trust.origins import Base
from fhir_mappers.report.keeping import pack, unpack
from fhir_mappers.report.resources import as_transaction
from fhir_mappers.report.statements import FilmReport

if TYPE_CHECKING:
    from cds_service.consult import Case

log = logging.getLogger(__name__)

OURS = frozenset({"archive", "fhir"})
OFFER_S = 1.0
"""What a card waits for its report to be kept; later it goes out without the offer."""
SECONDS = 30.0
"""For all requests of one report."""
SOONEST_S, LATEST_S = 30.0, 3600.0
"""Between two tries of one report: doubled from the one (`WriteBack.soonest_s`) to the other."""
LOOK_S = 60.0
"""How often the database is asked for reports that another process accepted."""
STOP_S = 5.0
MAX_ANSWER = 8_000_000
FHIR_JSON = "application/fhir+json"
BOUNDARY = "ordersight-film-report"
FAILED_SOPS = "00081198"


Attach = Callable[["Case", list[Card], str], list[Card]]


class _Kept(msgspec.Struct, frozen=True):
    client: str
    fhir_server: str
    who: str | None
    places: tuple[str, ...]
    report: bytes


class _NotWritten(Exception):
    """`why` is of a closed set; `for_good` where trying again cannot help."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.for_good = for_good


class WriteBack:
    """One per process. Its thread runs only where a service writes somewhere. Raises ManifestError."""

    def __init__(
        self, store: Store, services: Services, clients: Clients, transport: Transport, clock: Callable[[], datetime]
    ) -> None:
        self.kept = KeptReports(store)
        self._clients = clients
        self._transport = transport
        self._now = clock
        self._patient_key = store.evidence.patient_key
        self.soonest_s = SOONEST_S
        self._wake = threading.Event()
        self._closing = False
        self._tries: dict[str, tuple[int, float]] = {}
        self._thread: threading.Thread | None = None
        writing = [service for service in services.on if places_of(service) & OURS]
        for service in writing:
            if "archive" in places_of(service) and importlib.util.find_spec("highdicom") is None:
                raise ManifestError(
                    f"{service.id}.yaml: settings.write_back names archive; install ordersight[imaging] for DICOM SR"
                )
        if writing:
            self._thread = threading.Thread(target=self._work, name="write-back", daemon=True)
            self._thread.start()

    def keep(self, attach: Attach, tenant: str, client: Client, case: Case, cards: list[Card]) -> list[Card]:
        """The ledger's last step: what is offered is kept, and then what `attach` adds, the evidence links."""
        return attach(case, self.offer(case, cards, tenant, client), tenant)

    def offer(self, case: Case, cards: Sequence[Card], tenant: str, client: Client) -> list[Card]:
        """Keep what each card's offer would write, durably. A card whose report cannot be kept goes without it."""
        places = places_of(case.service) & OURS
        return [self._offered(case, card, tenant, client, places) if places else card for card in cards]

    def _offered(self, case: Case, card: Card, tenant: str, client: Client, places: frozenset[str]) -> Card:
        offer = next((s for s in card.suggestions if s.label == LABEL), None)
        if offer is None:
            return card
        report, server = report_of(case), case.request.fhir_server
        why = "no registered server to write to"
        if report is not None and server is not None and client.server(server) is not None:
            user = case.request.context.user_id or ""
            who = user if user.startswith(("Practitioner/", "PractitionerRole/")) else None
            kept = _Kept(client.name, server, who, tuple(sorted(places)), pack(report))
            try:
                self.kept.offer(self._sealed(kept, case, card.uuid, tenant, offer.uuid), OFFER_S)
                return card
            except StateUnavailable as error:
                why = str(error)
        log.warning("film report not offered", extra={"fields": {"service": case.service.id, "why": why}})
        others = tuple(s for s in card.suggestions if s is not offer)
        choose = card.selection_behavior if others else None
        return msgspec.structs.replace(card, suggestions=others, selection_behavior=choose)

    def _sealed(self, kept: _Kept, case: Case, card: str, tenant: str, suggestion: str) -> SealedEvidence:
        id_, at = self.kept.name_of(tenant, suggestion), self._now()
        return SealedEvidence(
            id=id_,
            tenant=tenant,
            card=card,
            service=case.service.id,
            patient_key=self._patient_key(tenant, case.request.context.patient_id),
            made_at=at,
            expires=at + OFFERED_FOR,
            page=seal(msgspec.msgpack.encode(kept), self._key(tenant, id_), _place(tenant, id_)),
        )

    def accepted(self, tenant: str, service: Service, items: Iterable[Feedback]) -> int:
        """Make accepted offers wait to be written; how many were new. Raises StateUnavailable: then nothing is lost.

        The same feedback again, an offer of a day ago, and one of another tenant change nothing.
        """
        if not places_of(service) & OURS:
            return 0
        chosen = [s for item in items if item.outcome == "accepted" for s in item.suggestions]
        new = sum(self.kept.accept(tenant, self.kept.name_of(tenant, s), self._now()) for s in chosen)
        if new:
            self._wake.set()
        return new

    def tried(self, card: str) -> int:
        """How often this process has tried in vain to write the report of a card."""
        return max(
            (self._tries[w.id][0] for w in self.kept.waiting() if w.card == card and w.id in self._tries), default=0
        )

    def close(self) -> None:
        """End the thread; what waits is durable, and written after the next start."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    # The thread -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                for item in self.kept.waiting():
                    if not self._closing and self._tries.get(item.id, (0, 0.0))[1] <= time.monotonic():
                        self._try(item)
            except Exception as error:  # noqa: BLE001 - whatever it was, the reports are still there for the next round
                log.warning("film reports wait", extra={"fields": {"error": type(error).__name__}})
            due = min((at for _, at in self._tries.values()), default=float("inf")) - time.monotonic()
            self._wake.wait(max(0.0, min(LOOK_S, due)))

    def _try(self, item: Waiting) -> None:
        fields = {"service": item.service, "card": item.card}
        try:
            places = self._write(item)
        except _NotWritten as error:
            count = self._tries.get(item.id, (0, 0.0))[0] + 1
            if error.for_good or self._now() - item.opened_at > WRITTEN_WITHIN:
                log.error("film report given up", extra={"fields": {**fields, "why": error.why, "tries": count}})
                self.kept.end(item, "given up", self._now(), why=error.why)
                self._tries.pop(item.id, None)
                return
            log.warning("film report not written yet", extra={"fields": {**fields, "why": error.why, "tries": count}})
            wait_s = min(LATEST_S, self.soonest_s * 2.0 ** min(count - 1, 10))
            self._tries[item.id] = count, time.monotonic() + wait_s
            return
        self.kept.end(item, "written", self._now(), places=" ".join(places))
        self._tries.pop(item.id, None)
        log.info("film report written", extra={"fields": {**fields, "places": list(places)}})

    def _write(self, item: Waiting) -> tuple[str, ...]:
        try:
            kept = msgspec.msgpack.decode(
                unseal(item.page, self._key(item.tenant, item.id), _place(item.tenant, item.id)), type=_Kept
            )
            report = unpack(kept.report)
        except (WrongKey, msgspec.DecodeError):
            raise _NotWritten("unreadable", for_good=True) from None
        client = next((c for c in self._clients.all if c.name == kept.client), None)
        server = client.server(kept.fhir_server) if client is not None else None
        if server is None:
            raise _NotWritten("not-allowed")
        deadline = Deadline.after(SECONDS)
        if "archive" in kept.places:
            self._to_archive(report, server, deadline)
        if "fhir" in kept.places:
            self._to_fhir(report, server, kept.who, item.opened_at, deadline)
        return kept.places

    def _to_archive(self, report: FilmReport, server: FhirServer, deadline: Deadline) -> None:
        # highdicom is an extra, and takes half a second to import.
        from fhir_mappers.report.dicom import (
            NotWritable,
            make_segmentation,
            make_structured_report,
            source_of,
            to_bytes,
        )

        root, metadata = self._find(report, server, deadline)
        try:
            source = source_of(metadata)
            made = [make_structured_report(report, source), make_segmentation(report, source)]
        except NotWritable as error:
            raise _NotWritten(str(error), for_good=True) from None
        body, media = _stow([to_bytes(dataset) for dataset in made if dataset is not None])
        path = dicomweb.study_path(report.film.study_uid)
        answer = self._ask(root, Ask(path, dicomweb.DICOM_JSON, MAX_ANSWER, body=body, media=media), deadline)
        if _failed(answer):
            raise _NotWritten("the archive kept only part of it")

    def _find(self, report: FilmReport, server: FhirServer, deadline: Deadline) -> tuple[Base, dict[str, object]]:
        """The registered archive that holds the film, and the film's header there."""
        why = "no-access"
        for root in server.archives():
            try:
                path = f"{dicomweb.study_path(report.film.study_uid)}/metadata"
                body = self._ask(root, Ask(path, dicomweb.DICOM_JSON, MAX_ANSWER), deadline)
                return root, dict(dicomweb.read_metadata(body, report.film.sop_uid))
            except BadAnswer:
                why = "bad-answer"
            except _NotWritten as error:
                why = error.why
        raise _NotWritten(why)

    def _to_fhir(
        self, report: FilmReport, server: FhirServer, who: str | None, at: datetime, deadline: Deadline
    ) -> None:
        body = json.dumps(as_transaction(report, who, at)).encode()
        self._ask(server.fhir_base(), Ask("", FHIR_JSON, MAX_ANSWER, body=body, media=FHIR_JSON), deadline)

    def _ask(self, base: Base, ask: Ask, deadline: Deadline) -> bytes:
        try:
            return self._transport.get(Call(base, deadline), ask).body
        except FetchFailed as failed:
            raise _NotWritten(failed.reason) from None

    def _key(self, tenant: str, id_: str) -> str:
        raw = hashlib.sha256(self.kept.key_of(tenant, id_).encode()).digest()
        return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _place(tenant: str, id_: str) -> str:
    return f"ordersight film report 1|{tenant}|{id_}"


def _stow(objects: Sequence[bytes]) -> tuple[bytes, str]:
    """A STOW-RS body (PS3.18 10.5) and its Content-Type."""
    # A boundary that no object holds: one that does would end its part early.
    boundary = next(b for n in range(1000) if not any((b := f"{BOUNDARY}-{n}").encode() in data for data in objects))
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + data + b"\r\n" for data in objects) + f"--{boundary}--\r\n".encode()
    return body, f'multipart/related; type="application/dicom"; boundary={boundary}'


def _failed(answer: bytes) -> bool:
    """Whether the archive names an object it did not keep, or its answer cannot be read."""
    try:
        data = msgspec.json.decode(answer, type=dict[str, dict[str, object]])
    except msgspec.DecodeError:
        return True
    return bool(data.get(FAILED_SOPS, {}).get("Value"))  # Orthanc sends the sequence always, and mostly empty
