"""What a service needs to know: `plan_evidence` decides, `gather` carries it out under one deadline.

    client = FhirClient()                                        # cds_service.fhir_client, once per app
    fhir = client.for_request(request, registered_client)        # a Fetcher: this call's server, token and reads
    evidence = gather(plan_evidence(service, request), fhir, deadline)

`registered_client` is the caller's entry in the clients file, or None: then nothing is read. A Fetcher serves one
call and is not closed; the client's `close()` ends its threads when the app ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal

from cds_service.deadline import Deadline
from cds_service.fetching import Fetcher, KeptFilms
from cds_service.films import seek
from cds_service.films.views import Views
from cds_service.hooks import HookRequest
from cds_service.manifest import EvidenceItem, Service
from cds_service.prefetch import (
    Absent,
    Answer,
    Failed,
    NoValue,
    Query,
    Sent,
    expand,
    read_answer,
    template_type,
    without_repeats,
)
from fhir_mappers.dicom import Header
from fhir_mappers.imaging import as_rendered, representative_frame
from fhir_mappers.people import identifiers
from fhir_mappers.read import read_studies
from fhir_mappers.record import Image, Instance, Study
from fhir_mappers.studies import choose_films

Reason = Literal[
    "timeout",  # it did not come in the time there was
    "unreachable",  # connection refused, reset, TLS, DNS
    "refused",  # 401 or 403 from the server
    "error",  # any other status, or the client's own OperationOutcome in prefetch
    "bad-answer",  # not JSON, not FHIR, not DICOM, wrong type, too large
    "no-access",  # not sent, and the request gives no fhirServer we may read
    "not-allowed",  # a server that is not registered for this client
    "truncated",  # only part of it came: more pages than we read, or a later page that failed
    "busy",  # our own model had no room
    "failed",  # our own model raised, or answered no number
    "no-time",  # it was there, and there was no time or room left to use it
]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Evidence we asked for and could not get. `key` is the prefetch key, `films` for pixels, `model` for the model.

    `explanation`, `ranking` and `fusion` are parts of an assessment there was no time for.
    """

    key: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class DicomFile:
    """What DICOMweb gave for one instance: the frame's bytes as stored, and what is needed to decode them.

    metadata         the instance's DICOM JSON (PS3.18 F), without bulk data
    frame            the bytes of frame `number`
    transfer_syntax  UID they are in
    reference        `ImagingStudy/id` the instance was named by
    rendered         the frame is the archive's own picture of the film, and `metadata` describes that
    laterals         views from the side in the same study
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    metadata: Mapping[str, Any] = field(repr=False)
    frame: bytes = field(repr=False)
    transfer_syntax: str
    reference: str
    number: int = 1
    rendered: bool = False
    laterals: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """The bytes of one frame and the UID of the transfer syntax they are in; `rendered` as in `DicomFile`."""

    data: bytes = field(repr=False)
    transfer_syntax: str
    rendered: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """Raw JSON resources, DICOM frames, films that were encoded when they arrived, and what is missing."""

    resources: tuple[Mapping[str, Any], ...] = field(repr=False)
    dicom: tuple[DicomFile, ...] = ()
    shortfalls: tuple[Shortfall, ...] = ()
    kept: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class EvidencePlan:
    """Per key, in the manifest's order: what was sent, what is known absent, what failed, what we must ask for.

    films  key of an ImagingStudy search -> how many of the newest films to read over DICOMweb
    """

    keys: Mapping[str, Answer | Query]
    films: Mapping[str, int]
    patient_id: str = field(repr=False)
    as_of: datetime


def plan_evidence(service: Service, request: HookRequest) -> EvidencePlan:
    """Compare what the service declares with what was sent. Keys the service does not declare are not looked at."""
    return EvidencePlan(
        keys={key: _plan_key(key, item, request) for key, item in service.evidence.items()},
        films={key: item.films for key, item in service.evidence.items() if item.films > 0},
        patient_id=request.context.patient_id,
        as_of=request.received_at,
    )


def _plan_key(key: str, item: EvidenceItem, request: HookRequest) -> Answer | Query:
    template = item.template()
    type_ = template_type(template)
    if key in request.prefetch:
        return read_answer(bytes(request.prefetch[key]), type_)
    try:
        return Query(expand(template, request), type_)
    except NoValue:
        # An optional context field (`encounterId`) makes its template conditional: nothing to ask, nothing missing.
        return Failed("no-access") if item.required else Absent()


def gather(plan: EvidencePlan, fhir: Fetcher, deadline: Deadline, kept: KeptFilms | None = None) -> Evidence:
    """Read what was not sent, in parallel, and stop at the deadline in any case. No archive is asked for a kept film.

    What came is the same, and in the same order, whether it was sent or read. Nothing is raised for a server that
    is late, gone or wrong: each such key is a shortfall, and what did come of it is kept.
    """
    return _Gathering(plan, fhir, deadline, kept).run()


class _Gathering:
    """One `gather` in progress: reads under way, each with what to do once it has ended."""

    def __init__(self, plan: EvidencePlan, fhir: Fetcher, deadline: Deadline, kept: KeptFilms | None) -> None:
        self.plan = plan
        self.kept = kept
        self.answered: set[str] = set()
        self.sought: set[str] = set()
        self.known: dict[str, Image] = {}
        self.recalled: list[Image] = []
        self.fhir = fhir
        self.deadline = deadline
        self.pending: dict[Future[Any], tuple[str, Callable[[Any], None]]] = {}
        self.resources: dict[str, tuple[Mapping[str, Any], ...]] = {}
        self.films: list[tuple[Study, Instance]] = []
        self.views = Views()
        self.metadata: dict[str, Mapping[str, Any]] = {}
        self.frames: dict[str, Frame] = {}
        self.numbers: dict[str, int] = {}
        self.chosen: dict[str, Frame] = {}
        self.shortfalls: set[Shortfall] = set()

    def run(self) -> Evidence:
        try:
            for key, planned in self.plan.keys.items():
                self._begin(key, planned)
            while self.pending:
                done, _ = wait(self.pending, self.deadline.remaining(), FIRST_COMPLETED)
                if not done:
                    break
                for future in done:
                    _, then = self.pending.pop(future)
                    then(future.result())
        finally:
            self.fhir.abandon()
        for key, _ in self.pending.values():
            self._short(key, "truncated" if self.resources.get(key) else "timeout")
        return self._evidence()

    def _begin(self, key: str, planned: Answer | Query) -> None:
        if isinstance(planned, Query):
            self._start(key, self.fhir.read(planned.path, planned.type_, self.deadline), partial(self._answered, key))
        elif isinstance(planned, Sent) and planned.next_link is not None:
            self.resources[key] = planned.resources
            more = self.fhir.read(planned.next_link, None, self.deadline)
            self._start(key, more, partial(self._continued, key, planned))
        else:
            self._answered(key, planned)

    def _start(self, key: str, future: Future[Any], then: Callable[[Any], None]) -> None:
        self.pending[future] = key, then

    def _short(self, key: str, reason: Reason) -> None:
        self.shortfalls.add(Shortfall(key, reason))

    def _answered(self, key: str, answer: Answer) -> None:
        self.answered.add(key)
        if isinstance(answer, Failed):
            self._short(key, answer.reason)
        elif isinstance(answer, Sent):
            self.resources[key] = answer.resources
            if answer.partial:
                self._short(key, "truncated")
        for late in [k for k in self.plan.films if k in self.resources and k not in self.sought]:
            self._identify(late)

    def _continued(self, key: str, first: Sent, rest: Answer) -> None:
        """The client sent the first page; `rest` is what came after it."""
        more = rest.resources if isinstance(rest, Sent) else ()
        lost = isinstance(rest, Failed) or (isinstance(rest, Sent) and rest.partial)
        self._answered(key, Sent((*first.resources, *more), partial=first.partial or lost))

    def _identify(self, key: str) -> None:
        """Ask the archive for the UIDs that studies do not name, once the patient they must be of is known."""
        of = ("Patient", self.plan.patient_id)
        person = next((r for rs in self.resources.values() for r in rs if (r["resourceType"], r.get("id")) == of), None)
        unnamed = seek.without_uid(self.resources[key], person, self.plan.as_of)
        if unnamed and person is None and self.answered != self.plan.keys.keys():
            return
        self.sought.add(key)
        waiting = {number for number, (_, ways) in enumerate(unnamed) if ways}

        def ask(number: int, ways: Sequence[seek.Wanted]) -> None:
            self._start("films", self.fhir.find(ways[0], self.deadline), partial(found, number, ways[1:]))

        def found(number: int, more: Sequence[seek.Wanted], studies: tuple[tuple[str, str], ...] | Failed) -> None:
            study, _ = unnamed[number]
            named = None
            if isinstance(studies, Failed):
                self._short("films", studies.reason)
            elif (named := seek.with_uid(study, studies, identifiers(person or {}))) is None and more:
                ask(number, more)
                return
            if named is not None:
                self.resources[key] = tuple(named if r is study else r for r in self.resources[key])
            waiting.discard(number)
            if not waiting:
                self._seek_films(key)

        for number in tuple(waiting):
            ask(number, unnamed[number][1])
        if not waiting:
            self._seek_films(key)

    def _seek_films(self, key: str) -> None:
        """Find the films worth reading; a study that lists no images is asked about at the archive first."""
        resources = self.resources[key]
        studies = seek.with_endpoint_references(
            read_studies(resources, as_of=self.plan.as_of, patient_id=self.plan.patient_id), resources
        )
        listed = {s.uid: s for s in self._recall(studies)}
        bare = [s for s in listed.values() if not s.instances and seek.may_hold_films(s)][: self.plan.films[key]]
        waiting = {s.uid for s in bare}

        def found(study: Study, images: tuple[Instance, ...] | Failed) -> None:
            waiting.discard(study.uid)
            if isinstance(images, Failed):
                self._short("films", images.reason)
            else:
                listed[study.uid] = replace(study, instances=images)
            if not waiting:
                self._read_films(key, tuple(listed.values()))

        for study in bare:
            self._start("films", self.fhir.instances(study, self.deadline), partial(found, study))
        if not bare:
            self._read_films(key, tuple(listed.values()))

    def _recall(self, studies: Sequence[Study]) -> list[Study]:
        """Look for films that are kept; a study that lists no images has at least those."""
        if self.kept is None:
            return list(studies)
        found = self.kept.films([s for s in studies if seek.may_hold_films(s)], self.deadline)
        self.known |= {image.sop_uid: image for image in found}
        return [seek.with_kept(study, found) for study in studies]

    def _read_films(self, key: str, studies: Sequence[Study]) -> None:
        of = {study.uid: study for study in studies}
        wanted = choose_films(studies, self.plan.films[key], self.plan.as_of)
        hits = [self.known[image.sop_uid] for image in wanted if image.sop_uid in self.known]
        self.recalled += hits
        if self.kept is not None:
            self.kept.tell(len(hits), len(wanted) - len(hits))
        for image in wanted:
            if image.sop_uid in self.known:
                continue
            self._read_film(of[image.study_uid], image)

    def _read_film(self, study: Study, image: Instance) -> None:
        self.films.append((study, image))
        self._start("films", self.fhir.metadata(study, image, self.deadline), partial(self._described, study, image))
        self._start("films", self.fhir.frame(study, image, self.deadline), partial(self._part, self.frames, image))

    def _described(self, study: Study, image: Instance, metadata: Mapping[str, Any] | Failed) -> None:
        """Of an image with several frames the first was asked for before its header was known."""
        self._part(self.metadata, image, metadata)
        if isinstance(metadata, Failed):
            return
        other = self.views.instead(study, image, metadata, self.plan.as_of)
        if other is not None:
            self.films.remove((study, image))
            self._read_film(study, other)
            return
        number = representative_frame(Header(metadata))
        if number is not None and number > 1:
            self.numbers[image.sop_uid] = number
            chosen = self.fhir.frame(study, image, self.deadline, number)
            self._start("films", chosen, partial(self._part, self.chosen, image))

    def _part(self, parts: dict[str, Any], image: Instance, part: Any) -> None:
        if isinstance(part, Failed):
            self._short("films", part.reason)
        else:
            parts[image.sop_uid] = part

    def _evidence(self) -> Evidence:
        dicom = []
        for study, image in self.films:
            number = self.numbers.get(image.sop_uid, 1)
            frames = self.frames if number == 1 else self.chosen
            metadata, frame = self.metadata.get(image.sop_uid), frames.get(image.sop_uid)
            if metadata is not None and frame is not None:
                uids, beside = (image.study_uid, image.series_uid, image.sop_uid), self.views.beside(study, image)
                film = DicomFile(
                    *uids, metadata, frame.data, frame.transfer_syntax, study.source.reference, number, laterals=beside
                )
                if frame.rendered:
                    film = replace(film, metadata=as_rendered(metadata, frame.data), number=1, rendered=True)
                dicom.append(film)
        resources = [r for key in self.plan.keys for r in self.resources.get(key, ())]
        order = {key: place for place, key in enumerate(self.plan.keys)}
        shortfalls = sorted(self.shortfalls, key=lambda s: (order.get(s.key, len(order)), s.reason))
        return Evidence(without_repeats(resources), tuple(dicom), tuple(shortfalls), tuple(self.recalled))
