"""Polling for new studies with our own access (SMART Backend Services), at a server that checks every assertion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from authorization import App, Authorization, authorization_server
from moody import Moody
from patient_p1 import archive, study
from reading import bundle
from small_model import MeanGrey

from cds_service.decoding import Decoders
from cds_service.fhir_client import FhirClient
from cds_service.films.ahead import Ahead
from cds_service.films.polling import Poller
from cds_service.state.store import Store
from cds_service.trust.authorization_servers import Directory
from cds_service.trust.clients import Client, Clients, FhirServer
from cds_service.trust.private_keys import load_keys, new_key, public_set
from cds_service.trust.registrations import Backend, Smart
from cds_service.trust.smart_backend import BackendTokens


@pytest.fixture
def ehr() -> Iterator[Authorization]:
    """It has one new study of p1, whose header names nobody else."""
    with authorization_server() as found:
        new = {**study(1), "meta": {"lastUpdated": datetime.now(UTC).isoformat(), "versionId": "1"}}
        found.resources["ImagingStudy"] = bundle(new)
        yield found


@contextmanager
def polling(folder: Path, ehr: Authorization, root: str, *, known: bool = True) -> Iterator[tuple[Poller, Ahead]]:
    key = folder / "backend.jwk"
    new_key(key)
    if known:
        ehr.apps["ordersight"] = App("ordersight", jwks=public_set(load_keys(key)))
    backend = Backend("ordersight", str(key), ("system/ImagingStudy.rs", "system/Patient.rs"))
    clients = Clients([Client("north", (FhirServer(ehr.fhir, (root,), smart=Smart(backend=backend)),))])
    fetcher, decoders = FhirClient(), Decoders(workers=1)
    tokens = BackendTokens(Directory(fetcher.transport))

    def clock() -> datetime:
        return datetime.now(UTC)

    with Store.open(f"sqlite:///{folder / 'state.sqlite'}", folder, outbox_bytes=0) as store:
        ahead = Ahead(
            store.films, clients, fetcher, decoders, {"small": MeanGrey()},
            clock=clock, days=1, most_bytes=2**20, tokens=tokens,
        )  # fmt: skip
        try:
            yield Poller(ahead, store.films, clients, fetcher, tokens, clock), ahead
        finally:
            ahead.close()
            fetcher.close()
            decoders.close()


def test_studies_are_polled_and_films_read_with_one_token_of_our_own(tmp_path: Path, ehr: Authorization) -> None:
    with Moody(archive) as pacs, polling(tmp_path, ehr, f"{pacs.origin}/dicom-web") as (poller, ahead):
        assert poller.poll_all() == 1
        assert poller.poll_all() == 0
        assert ahead.work_once()
        assert len(ehr.tokens) == 1  # polls and films together
        assert "/fhir/Patient/p1" in ehr.asked
        assert {path.split("/")[3] for path in pacs.paths()} == {"1.2.1"}
        assert not any("authorization" in seen.headers for seen in pacs.seen)  # the archive is another origin


def test_a_token_taken_back_is_asked_for_anew_at_the_next_poll(tmp_path: Path, ehr: Authorization) -> None:
    with Moody(archive) as pacs, polling(tmp_path, ehr, f"{pacs.origin}/dicom-web") as (poller, _):
        assert poller.poll_all() == 1
        ehr.tokens.clear()
        assert poller.poll_all() == 0  # refused, and said in the log
        ehr.resources["ImagingStudy"] = bundle(
            {**study(2), "meta": {"lastUpdated": datetime.now(UTC).isoformat(), "versionId": "1"}}
        )
        assert poller.poll_all() == 1


def test_at_a_server_that_does_not_know_us_nothing_is_polled_and_no_archive_is_asked(
    tmp_path: Path, ehr: Authorization
) -> None:
    with (
        Moody(archive) as pacs,
        polling(tmp_path, ehr, f"{pacs.origin}/dicom-web", known=False) as (poller, ahead),
    ):
        assert poller.poll_all() == 0
        assert not ahead.work_once()
        assert pacs.contacts == 0
