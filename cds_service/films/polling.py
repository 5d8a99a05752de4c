"""`Poller`: asks FHIR servers which imaging studies are new, where no subscription tells us.

Each server is asked with our own token (SMART Backend Services). How far it was read is kept in the durable state, so a
poller that was down for an hour does not miss that hour; what comes twice is one job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from cds_service.deadline import Deadline
from cds_service.fhir_client import FhirClient
from cds_service.films.ahead import Ahead
from cds_service.films.encoding import Wish, patient_of
from cds_service.prefetch import Failed, Sent
from cds_service.state.films import FilmRows
from cds_service.transport import FetchFailed
from cds_service.trust.clients import Client, Clients, FhirServer
from cds_service.trust.smart_backend import BackendTokens

log = logging.getLogger(__name__)

FIRST = timedelta(days=1)
"""How far back the first question goes."""
OVERLAP = timedelta(minutes=2)
"""Servers stamp a resource before they commit it: what was stamped earlier may appear later."""
POLL_S = 30.0
NEW = "ImagingStudy?_lastUpdated=ge{}&_sort=_lastUpdated&_count=100"
KEEP_S = 10.0


class Poller:
    """One thread asks; the work is the queue's."""

    def __init__(
        self,
        ahead: Ahead,
        rows: FilmRows,
        clients: Clients,
        fetcher: FhirClient,
        tokens: BackendTokens,
        clock: Callable[[], datetime],
    ) -> None:
        self._ahead = ahead
        self._rows = rows
        self._clients = clients
        self._fetcher = fetcher
        self._tokens = tokens
        self._clock = clock
        self._seen: dict[str, set[tuple[str, datetime]]] = {}

    def poll_all(self) -> int:
        """Ask every server that has an archive and at which we are registered; how many studies were new.

        A server that fails is asked again next time, and costs the others nothing. Raises StateUnavailable.
        """
        found = 0
        for client in self._clients.all:
            for server in client.fhir:
                if not server.dicomweb or server.smart is None or server.smart.backend is None:
                    continue
                try:
                    token = self._tokens.token(client, server.base, Deadline.after(POLL_S))
                    found += self.poll(client, server, token)
                except FetchFailed as failed:
                    log.warning("studies not polled", extra={"fields": {"client": client.name, "why": failed.reason}})
        return found

    def poll(self, client: Client, server: FhirServer, token: str | None) -> int:
        """Ask one server, and queue what is new there. Raises FetchFailed or StateUnavailable."""
        now, key = self._clock(), f"{client.name}\n{server.base}"
        since = self._rows.read_until(key) or now - FIRST
        asked = (since - OVERLAP).strftime("%Y-%m-%dT%H:%M:%SZ")
        deadline = Deadline.after(POLL_S)
        answer = self._fetcher.at(client, server, token).read(NEW.format(asked), "ImagingStudy", deadline)
        studies = answer.result(POLL_S + 5)
        if isinstance(studies, Failed):
            if studies.reason == "refused" and token is not None:
                self._tokens.refused(client, server.base, token)
            raise FetchFailed(studies.reason)
        new, latest = 0, since
        before, seen = self._seen.get(key, set()), set[tuple[str, datetime]]()
        for study in studies.resources if isinstance(studies, Sent) else ():
            updated, id_ = _updated(study), study.get("id")
            if study.get("resourceType") != "ImagingStudy" or not isinstance(id_, str) or updated is None:
                continue
            latest = max(latest, updated)
            seen.add((id_, updated))
            if (id_, updated) in before:
                continue  # within the overlap
            wish = Wish(
                client=client.name, base=server.base, patient=patient_of(study), study=id_, resources=(dict(study),)
            )
            kept = self._ahead.note(wish)
            if kept is not None:
                kept.result(KEEP_S)
            new += 1
        # A partial answer ends with its newest, since it is sorted: the next poll goes on from there.
        self._rows.have_read(key, min(latest, now))
        self._seen[key] = seen
        return new


def _updated(study: object) -> datetime | None:
    meta = study.get("meta") if isinstance(study, dict) else None
    stamp = meta.get("lastUpdated") if isinstance(meta, dict) else None
    try:
        found = datetime.fromisoformat(stamp) if isinstance(stamp, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None
