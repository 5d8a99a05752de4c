"""What is kept of films from an archive that hangs, drips or lies: nothing; it is asked again where that may help."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moody import Mood, Moody, Seen, drip_body, hang, reply
from patient_p1 import study
from reading import always, bundle
from small_model import MeanGrey

from cds_service.decoding import Decoders
from cds_service.fhir_client import FhirClient
from cds_service.films import encoding
from cds_service.films.ahead import Ahead
from cds_service.films.encoding import Wish
from cds_service.state.films import Depth
from cds_service.state.store import Store
from cds_service.trust.clients import Client, Clients, FhirServer

PIXELS = (np.arange(256, dtype=np.uint8) // 2 + 40).tobytes()
MRN = {"system": "urn:oid:1.2.3.4", "value": "MRN-1"}
PATIENT = {"resourceType": "Patient", "id": "p1", "identifier": [MRN]}


def ehr(seen: Seen) -> Mood:
    return reply(PATIENT if "Patient/" in seen.path else bundle(study(1)))


def archive(**header: str) -> Any:
    """An archive with the film of study 1, its header as given."""
    text = {"00100020": "MRN-1", "0020000D": "1.2.1", "00080018": "1.2.1.1.1", "00080060": "DX", "00180015": "CHEST"}
    text |= {"00280004": "MONOCHROME2"} | header
    numbers = {"00280002": 1, "00280010": 16, "00280011": 16, "00280100": 8, "00280101": 8, "00280102": 7}
    numbers |= {"00280103": 0}
    metadata = {tag: {"vr": "LO", "Value": [value]} for tag, value in (*text.items(), *numbers.items())}

    def answer(seen: Seen) -> Mood:
        if seen.path.endswith("metadata"):
            return reply([metadata], content_type="application/dicom+json")
        part = b"--b0\r\nContent-Type: application/octet-stream\r\n\r\n" + PIXELS + b"\r\n--b0--\r\n"
        return reply(part, content_type="multipart/related; boundary=b0")

    return answer


@contextmanager
def worked(folder: Path, server: Moody, pacs: Moody) -> Iterator[Depth]:
    """What the cache and the queue hold once this patient's wish was worked on."""
    client = Client("north", (FhirServer(server.base, (f"{pacs.origin}/dicom-web",)),))
    fetcher, decoders = FhirClient(), Decoders(workers=1)
    with Store.open(f"sqlite:///{folder / 'state.sqlite'}", folder, outbox_bytes=0) as store:
        ahead = Ahead(
            store.films, Clients([client]), fetcher, decoders, {"small": MeanGrey()},
            clock=lambda: datetime.now(UTC), days=1, most_bytes=2**20,
        )  # fmt: skip
        try:
            noted = ahead.note(Wish(client="north", base=server.base, patient="p1"))
            assert noted is not None
            noted.result(5)
            assert ahead.work_once()
            yield store.films.depth()
        finally:
            ahead.close()
            fetcher.close()
            decoders.close()


def test_an_honest_archive_s_film_is_kept(tmp_path: Path) -> None:
    with Moody(ehr) as server, Moody(archive()) as pacs, worked(tmp_path, server, pacs) as depth:
        assert (depth.films, depth.waiting, depth.dead) == (1, 0, 0)


@pytest.mark.parametrize(
    "header",
    [{"00100020": "MRN-2"}, {"0020000D": "1.2.9"}, {"00180015": "HAND"}],
    ids=["another patient's", "another study's", "of a hand"],
)
def test_a_film_that_is_not_the_one_asked_for_is_never_kept(tmp_path: Path, header: dict[str, str]) -> None:
    with Moody(ehr) as server, Moody(archive(**header)) as pacs, worked(tmp_path, server, pacs) as depth:
        assert (depth.films, depth.dead) == (0, 0)


@pytest.mark.parametrize("mood", [hang, drip_body, reply(b"<html>", content_type="text/html"), reply({}, 503)])
def test_an_archive_that_hangs_drips_or_answers_nonsense_is_asked_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mood: Mood
) -> None:
    monkeypatch.setattr(encoding, "JOB_S", 1.0)
    began = time.monotonic()
    with Moody(ehr) as server, Moody(always(mood)) as pacs, worked(tmp_path, server, pacs) as depth:
        assert time.monotonic() - began < 10.0
        assert (depth.films, depth.waiting, depth.dead) == (0, 1, 0)


def test_without_the_patient_a_film_cannot_be_told_from_another_s_and_is_not_kept(tmp_path: Path) -> None:
    def nobody(seen: Seen) -> Mood:
        return reply({}, 404) if "Patient/" in seen.path else ehr(seen)

    with Moody(nobody) as server, Moody(archive()) as pacs, worked(tmp_path, server, pacs) as depth:
        assert (depth.films, depth.waiting) == (0, 1)
