"""What gathering evidence needs of others: reads of FHIR and DICOMweb, and films that need not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from cds_service.deadline import Deadline
from cds_service.films.seek import Wanted
from cds_service.prefetch import Answer, Failed
from fhir_mappers.record import Image, Instance, Study

if TYPE_CHECKING:
    from cds_service.evidence import Frame


class Fetcher(Protocol):
    """The reads of one call. Each starts at once on a thread of its own and ends soon after its deadline.

    `endpoints` are the addresses or `Endpoint/id` references a study names; only registered archives are asked.
    """

    def read(self, query: str, type_: str | None, deadline: Deadline) -> Future[Answer]:
        """Read or search FHIR, following pages. `query` is relative to the server's base, or a next link."""
        ...

    def instances(self, study: Study, deadline: Deadline) -> Future[tuple[Instance, ...] | Failed]:
        """Ask the archive which images a study has (QIDO-RS)."""
        ...

    def find(self, wanted: Wanted, deadline: Deadline) -> Future[Any]:
        """Studies that may be the one wanted, (study UID, PatientID) each, in all registered archives; or Failed."""
        ...

    def metadata(self, study: Study, image: Instance, deadline: Deadline) -> Future[Mapping[str, Any] | Failed]: ...

    def frame(self, study: Study, image: Instance, deadline: Deadline, number: int = 1) -> Future[Frame | Failed]: ...

    def abandon(self) -> None:
        """End every read that still runs, by closing its connection."""
        ...


class KeptFilms(Protocol):
    """Films of this call's patient that need not be fetched."""

    def films(self, studies: Sequence[Study], deadline: Deadline) -> Sequence[Image]: ...

    def tell(self, hits: int, misses: int) -> None:
        """How many of the films that were wanted were there."""
        ...
