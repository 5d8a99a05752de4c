"""`Encoding`: what a job of the queue is worth: read a patient's studies, fetch their films, encode and keep them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from cds_service.deadline import Deadline
from cds_service.decoding import Decoders
from cds_service.evidence import EvidencePlan, gather
from cds_service.fhir_client import FhirClient, Reads
from cds_service.films.cache import FilmCache
from cds_service.prefetch import Answer, Failed, Query, Sent
from cds_service.state.films import Job
from cds_service.transport import FetchFailed
from cds_service.trust.clients import Client, Clients, FhirServer
from cds_service.trust.smart_backend import BackendTokens
from fhir_mappers.fhir import last_segment
from fhir_mappers.read import read_record
from fhir_mappers.record import Image, Study
from fhir_mappers.tensors import film_tensor
from models.contract import Assessor, EngineBusy, EngineTimeout, FilmEncoder

FILMS = 2
"""The newest film and the one before it: what a model looks at."""
STUDIES = "ImagingStudy?patient={}&_sort=-started&_include=ImagingStudy:endpoint&_count=30"
JOB_S = 60.0
"""Less than a lease: whoever is late has given up before another begins."""


class Wish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whose films are wanted: all of a patient's newest, or those of one study.

    client     name of the registered client; `base` of its FHIR server
    patient    id, empty where only the study is known
    study      id of one ImagingStudy
    resources  what the EHR sent along, in place of reading it
    """

    client: str
    base: str
    patient: str = ""
    study: str = ""
    resources: tuple[dict[str, Any], ...] = ()

    def versions(self) -> tuple[str, ...]:
        """Of the resources that came along: a study that has changed is another wish."""
        metas = [r.get("meta") for r in self.resources]
        return tuple(f"{m.get('versionId')} {m.get('lastUpdated')}" if isinstance(m, dict) else "" for m in metas)

    def __repr__(self) -> str:
        return "Wish(...)"


class NotEncoded(Exception):
    """Why a job could not be carried out; a reason of `evidence.Reason`, or one of ours."""

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.for_good = for_good


class Encoding:
    """Safe to use from several threads. Only models that read films are in `engines`."""

    def __init__(
        self,
        cache: FilmCache,
        clients: Clients,
        fetcher: FhirClient,
        decoders: Decoders,
        engines: Mapping[str, Assessor],
        clock: Callable[[], datetime],
        tokens: BackendTokens | None,
    ) -> None:
        self.cache = cache
        self._models = engines
        self._clients = clients
        self._fetcher = fetcher
        self._decoders = decoders
        self._clock = clock
        self._tokens = tokens
        self._lock = threading.Lock()
        self._reading: dict[int, Reads] = {}

    @property
    def engines(self) -> dict[str, FilmEncoder]:
        """Those that read films and answer now: another may be activated at any time."""
        return {n: e for n, e in self._models.items() if isinstance(e, FilmEncoder) and e.encoder}

    def abandon(self) -> None:
        """End every read under way."""
        with self._lock:
            reading = tuple(self._reading.values())
        for reads in reading:
            reads.abandon()

    def carry_out(self, job: Job, lent: str | None) -> int:
        """Read, decode and encode, with the token a hook lent if there is one; how many films are new.

        Raises NotEncoded or StateUnavailable.
        """
        wish = msgspec.json.decode(job.data, type=Wish)
        client = next((c for c in self._clients.all if c.name == wish.client and tenant_of(c) == job.tenant), None)
        server = client.server(wish.base) if client is not None else None
        if client is None or server is None:
            raise NotEncoded("not-allowed", for_good=True)
        deadline = Deadline.after(JOB_S)
        token = lent or self._own_token(client, server, deadline)
        wish = self._with_study(wish, client, server, token, deadline)
        if not wish.patient:
            raise NotEncoded("no-patient", for_good=True)
        keys: dict[str, Answer | Query] = {
            "patient": _sent(wish.resources, "Patient") or Query(f"Patient/{wish.patient}", "Patient"),
            "studies": _sent(wish.resources, "ImagingStudy", "Endpoint")
            or Query(STUDIES.format(wish.patient), "ImagingStudy"),
        }
        now = self._clock()
        plan = EvidencePlan(keys, {"studies": FILMS}, wish.patient, now)
        with self._reads(client, server, token) as reads:
            evidence = gather(plan, reads, deadline, _KeptByAll(self, job.tenant, wish.patient, now))
        with self._decoders.native(evidence.dicom, deadline) as films:
            record = read_record(evidence.resources, films.files, as_of=now, patient_id=wish.patient)
            if any(gap.code == "no-patient" for gap in record.gaps):
                # Without the patient's identifiers a film cannot be told from another patient's.
                raise NotEncoded(next((s.reason for s in evidence.shortfalls if s.key == "patient"), "no-patient"))
            for image in record.images:
                self._encode(job.tenant, wish.patient, image, now, deadline)
        missed = next((s.reason for s in (*evidence.shortfalls, *films.shortfalls)), None)
        if missed is not None:
            raise NotEncoded(missed)
        return len(record.images)

    def _encode(self, tenant: str, patient: str, image: Image, now: datetime, deadline: Deadline) -> None:
        for engine in self.engines.values():
            square = film_tensor(image, engine.spec.image.size)[None]
            try:
                film = engine.encode(square, timeout=deadline.remaining())
            except (EngineBusy, EngineTimeout):
                raise NotEncoded("busy") from None
            self.cache.keep(tenant, patient, image, film, now)

    def kept_by_all(
        self, tenant: str, patient: str, studies: list[Study], now: datetime, deadline: Deadline
    ) -> list[Image]:
        """The films every model here has encoded already."""
        found = [
            self.cache.find(tenant, patient, studies, engine.encoder, now, deadline.remaining())
            for engine in self.engines.values()
        ]
        everywhere = set.intersection(*({image.sop_uid for image in images} for images in found))
        return [image for image in found[0] if image.sop_uid in everywhere]

    def _with_study(
        self, wish: Wish, client: Client, server: FhirServer, token: str | None, deadline: Deadline
    ) -> Wish:
        """A wish for one study with that study, and with the patient it names. Raises NotEncoded."""
        sent = [r for r in wish.resources if r.get("resourceType") == "ImagingStudy"]
        if not wish.study or sent:
            return wish
        with self._reads(client, server, token) as reads:
            answer = reads.read(f"ImagingStudy/{wish.study}", "ImagingStudy", deadline).result(deadline.remaining() + 1)
        if isinstance(answer, Failed):
            raise NotEncoded(answer.reason)
        found = [dict(r) for r in answer.resources] if isinstance(answer, Sent) else []
        patient = next((patient_of(r) for r in found if r.get("resourceType") == "ImagingStudy"), "")
        return msgspec.structs.replace(wish, patient=wish.patient or patient, resources=(*wish.resources, *found))

    def _own_token(self, client: Client, server: FhirServer, deadline: Deadline) -> str | None:
        """Our own, where we are registered for one."""
        if self._tokens is None or server.smart is None or server.smart.backend is None:
            return None
        try:
            return self._tokens.token(client, server.base, deadline)
        except FetchFailed as failed:
            raise NotEncoded(failed.reason) from None

    @contextmanager
    def _reads(self, client: Client, server: FhirServer, token: str | None) -> Iterator[Reads]:
        """Reads that end when the house does."""
        reads = self._fetcher.at(client, server, token)
        with self._lock:
            self._reading[id(reads)] = reads
        try:
            yield reads
        finally:
            with self._lock:
                del self._reading[id(reads)]


@dataclass(frozen=True, slots=True)
class _KeptByAll:
    """What `gather` need not fetch for the queue."""

    encoding: Encoding
    tenant: str
    patient: str
    now: datetime

    def films(self, studies: Iterable[Study], deadline: Deadline) -> list[Image]:
        return self.encoding.kept_by_all(self.tenant, self.patient, list(studies), self.now, deadline.within(5.0))

    def tell(self, hits: int, misses: int) -> None:
        """Not counted: nobody waits for these."""


def patient_of(study: Mapping[str, Any]) -> str:
    """The id of the patient an ImagingStudy names; empty where it names none by a reference."""
    subject = study.get("subject")
    reference = subject.get("reference") if isinstance(subject, dict) else None
    return last_segment(reference) if isinstance(reference, str) and "Patient/" in reference else ""


def _sent(resources: Iterable[Mapping[str, Any]], *types: str) -> Sent | None:
    found = tuple(r for r in resources if r.get("resourceType") in types)
    return Sent(found) if any(r.get("resourceType") == types[0] for r in found) else None


def tenant_of(client: Client) -> str:
    return client.tenant or client.name
