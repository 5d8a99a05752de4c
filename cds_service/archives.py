"""`Archives`: what one call reads over DICOMweb, and at which of the client's registered archives a study lies.

A study that names a registered archive is read there. For one that names none, or one we may not contact, every
registered archive is asked at once (QIDO-RS), each on threads of its own; the first that holds the study has it.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin

from cds_service import dicomweb
from cds_service.deadline import Deadline
from cds_service.evidence import Frame
from cds_service.films.seek import ByNumber, Wanted
from cds_service.multipart import BadAnswer
from cds_service.prefetch import Failed, Sent
from cds_service.transport import Ask, FetchFailed
from cds_service.trust.origins import Base, NotAllowed
from fhir_mappers.pixels import SYNTAXES
from fhir_mappers.record import Instance, Study

if TYPE_CHECKING:
    from cds_service.fhir_client import Reads

MAX_JSON_BYTES = 8_000_000
MAX_FRAME_BYTES = 64_000_000
MAX_BULK_BYTES = 262_144
"""A lookup table has 65,536 entries of two bytes at most; the rest is room for the parts around it."""
MOST_BULK = 4
MOST_IDENTIFIERS = 2
SEARCH_SHARE = 0.5
"""Of what is left of a call, the most that finding a study may take."""

T = TypeVar("T")
_ENDPOINT = re.compile(r"Endpoint/[A-Za-z0-9.-]{1,128}")


@dataclass(slots=True)
class Archives:
    """Of one call; `reads` has its server, its token and its threads."""

    reads: Reads
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _found: dict[str, Future[Base]] = field(default_factory=dict, repr=False)
    _endpoints: dict[str, Future[Any]] = field(default_factory=dict, repr=False)

    def instances(self, study: Study, deadline: Deadline) -> Future[tuple[Instance, ...] | Failed]:
        def ask(root: Base) -> tuple[Instance, ...]:
            return self._search(root, study, deadline)

        return self._ask(study, deadline, ask)

    def metadata(self, study: Study, image: Instance, deadline: Deadline) -> Future[Mapping[str, Any] | Failed]:
        def ask(root: Base) -> Mapping[str, Any]:
            path = f"{dicomweb.instance_path(image)}/metadata"
            got = self.reads.get("dicomweb", root, Ask(path, dicomweb.DICOM_JSON, MAX_JSON_BYTES), deadline)
            header = dicomweb.read_metadata(got.body, image.sop_uid)
            return dicomweb.with_tables(header, self._tables(root, path, header, deadline))

        return self._ask(study, deadline, ask)

    def frame(self, study: Study, image: Instance, deadline: Deadline, number: int = 1) -> Future[Frame | Failed]:
        """As stored where we can decode that; else uncompressed; else as the archive itself renders it."""

        def ask(root: Base) -> Frame:
            path = f"{dicomweb.instance_path(image)}/frames/{number}"
            try:
                got = self.reads.get(
                    "dicomweb", root, Ask(path, dicomweb.AS_STORED, MAX_FRAME_BYTES, first_part=True), deadline
                )
                stored = dicomweb.read_frame(got.content_type, got.body, got.part)
                if stored.transfer_syntax in SYNTAXES:
                    return stored
            except FetchFailed as failed:
                if failed.status not in dicomweb.CONVERT_ON:
                    raise
            try:
                got = self.reads.get(
                    "dicomweb", root, Ask(path, dicomweb.UNCOMPRESSED, MAX_FRAME_BYTES, first_part=True), deadline
                )
                converted = dicomweb.read_frame(got.content_type, got.body, got.part)
                if converted.transfer_syntax in SYNTAXES:
                    return converted
            except FetchFailed as failed:
                if failed.status not in dicomweb.CONVERT_ON:
                    raise
            got = self.reads.get(
                "dicomweb", root, Ask(f"{path}/rendered", dicomweb.RENDERED, MAX_FRAME_BYTES), deadline
            )
            return dicomweb.read_rendered(got.content_type, got.body)

        return self._ask(study, deadline, ask)

    def find(self, wanted: Wanted, deadline: Deadline) -> Future[tuple[dicomweb.FoundStudy, ...] | Failed]:
        """The studies wanted in all archives that may be asked for them; Failed where one of them did not answer.

        Of several studies of a day that one remains which began in the minute wanted, where there is one.
        """
        reads = self.reads
        if reads.server is None or not reads.server.dicomweb:
            return ended(Failed(reads.refusal or "no-access"))
        roots = {root: searches for root in reads.server.archives() if (searches := self._searches(root, wanted))}
        if not roots:
            return ended(())
        answer: Future[tuple[dicomweb.FoundStudy, ...] | Failed] = Future()
        left, studies, failed = len(roots), set[dicomweb.FoundStudy](), list[Failed]()

        def ask(root: Base) -> tuple[dicomweb.FoundStudy, ...]:
            found: list[dicomweb.FoundStudy] = []
            for search in roots[root]:
                got = reads.get("dicomweb", root, Ask(search.path, dicomweb.DICOM_JSON, MAX_JSON_BYTES), deadline)
                found += dicomweb.read_studies(got.body, search)
            return tuple(found)

        def asked(done: Future[Any]) -> None:
            nonlocal left
            found = Failed("timeout") if done.cancelled() else done.result()
            with self._lock:
                if isinstance(found, Failed):
                    failed.append(found)
                else:
                    studies.update(found)
                left -= 1
                if left:
                    return
            answer.set_result(failed[0] if failed else _begun(wanted, tuple(sorted(studies))))

        for root in roots:
            reads.submit("dicomweb", root, partial(ask, root)).add_done_callback(asked)
        return answer

    def _searches(self, root: Base, wanted: Wanted) -> tuple[dicomweb.Search, ...]:
        """None by patient at an archive for which no system of the patient's identifiers is registered."""
        if isinstance(wanted, ByNumber):
            return (dicomweb.by_number(wanted.number),)
        assert self.reads.server is not None
        issuers = self.reads.server.issuers(root)
        known = [(value, issuers[system]) for system, value in wanted.identifiers if system in issuers]
        return tuple(dicomweb.of_patient(value, issuer, wanted.day) for value, issuer in known[:MOST_IDENTIFIERS])

    def _tables(
        self, root: Base, path: str, header: Mapping[str, Any], deadline: Deadline
    ) -> Iterator[tuple[str, str]]:
        """The lookup tables a header leaves behind a URI, in base 64; one that lies elsewhere or fails is left out."""
        for uri in dicomweb.table_uris(header)[:MOST_BULK]:
            try:
                below = root.below(urljoin(root.url(path), uri))
                got = self.reads.get("dicomweb", root, Ask(below, dicomweb.BULK, MAX_BULK_BYTES), deadline)
                yield uri, base64.b64encode(dicomweb.read_frame(got.content_type, got.body).data).decode("ascii")
            except (FetchFailed, NotAllowed, BadAnswer, ValueError):
                continue

    # Where a study lies -----------------------------------------------------------------------------------------

    def _ask(self, study: Study, deadline: Deadline, ask: Callable[[Base], T]) -> Future[T | Failed]:
        reads = self.reads
        roots = reads.server.archives() if reads.server is not None else ()
        if not roots:
            return ended(Failed(reads.refusal or "no-access"))
        if len(roots) == 1:
            return reads.submit("dicomweb", roots[0], lambda: ask(roots[0]))
        answer: Future[T | Failed] = Future()

        def go(found: Future[Base]) -> None:
            asked: Future[T | Failed] = reads.submit("dicomweb", found.result(), lambda: ask(found.result()))
            asked.add_done_callback(lambda done: _pass_on(done, answer))

        self._root_of(study, roots, deadline).add_done_callback(go)
        return answer

    def _root_of(self, study: Study, roots: Sequence[Base], deadline: Deadline) -> Future[Base]:
        """Looked for once in a call; the first archive where none is known to hold the study."""
        with self._lock:
            if study.uid in self._found:
                return self._found[study.uid]
            found = self._found[study.uid] = Future[Base]()
        root = next((r for e in study.endpoints for r in roots if _leads_to(e, r)), None)
        if root is not None:
            found.set_result(root)
            return found
        addresses = [a for e in study.endpoints if (a := self._address(e, deadline)) is not None]
        left = len(addresses)

        def addressed(_: Future[Any]) -> None:
            nonlocal left
            with self._lock:
                left -= 1
                if left > 0:
                    return
            known = [a for future in addresses if isinstance(a := _result(future), str)]
            root = next((r for address in known for r in roots if _leads_to(address, r)), None)
            if root is not None:
                found.set_result(root)
            else:
                self._look(study, roots, deadline, found)

        for future in addresses:
            future.add_done_callback(addressed)
        if not addresses:
            self._look(study, roots, deadline, found)
        return found

    def _address(self, endpoint: str, deadline: Deadline) -> Future[Any] | None:
        """The Endpoint a study refers to on the FHIR server, read once in a call; None for no such reference."""
        assert self.reads.server is not None
        try:
            reference = self.reads.server.fhir_base().below(endpoint)
        except NotAllowed:
            return None
        if _ENDPOINT.fullmatch(reference) is None:
            return None
        with self._lock:
            if reference not in self._endpoints:
                self._endpoints[reference] = self.reads.read(reference, "Endpoint", deadline)
            return self._endpoints[reference]

    def _look(self, study: Study, roots: Sequence[Base], deadline: Deadline, found: Future[Base]) -> None:
        by = deadline.within(SEARCH_SHARE * deadline.remaining())
        left = set(roots)

        def asked(root: Base, done: Future[Any]) -> None:
            with self._lock:
                if not left:
                    return  # found already
                left.discard(root)
                here = bool(_result(done))
                if left and not here:
                    return
                left.clear()
            found.set_result(root if here else roots[0])

        for root in roots:
            search = self.reads.submit("dicomweb", root, partial(self._search, root, study, by))
            search.add_done_callback(partial(asked, root))

    def _search(self, root: Base, study: Study, deadline: Deadline) -> tuple[Instance, ...]:
        path = f"{dicomweb.study_path(study.uid)}/instances?{dicomweb.INSTANCE_FIELDS}"
        got = self.reads.get("dicomweb", root, Ask(path, dicomweb.DICOM_JSON, MAX_JSON_BYTES), deadline)
        return dicomweb.read_instances(got.body, study)


def _begun(wanted: Wanted, found: tuple[dicomweb.FoundStudy, ...]) -> tuple[dicomweb.FoundStudy, ...]:
    if isinstance(wanted, ByNumber) or len(found) < 2:
        return found
    return tuple(study for study in found if study.minute == wanted.minute) or found


def _result(done: Future[Any]) -> Any:
    """What a read gave: the address of an Endpoint, the images of a study; None for one that failed or was ended."""
    try:
        answer = done.result()
    except CancelledError:
        return None
    if isinstance(answer, Sent):
        return answer.resources[0].get("address") if answer.resources else None
    return answer if isinstance(answer, str | tuple) else None


def _pass_on(done: Future[Any], answer: Future[Any]) -> None:
    try:
        answer.set_result(done.result())
    except CancelledError:
        answer.set_result(Failed("timeout"))


def _leads_to(address: str, root: Base) -> bool:
    try:
        root.below(address)
    except NotAllowed:
        return False
    return "://" in address


def ended(answer: T) -> Future[T]:
    """A future that has this answer already."""
    future: Future[T] = Future()
    future.set_result(answer)
    return future
