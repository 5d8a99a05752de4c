"""From a clinician's click to DICOM SR and SEG in a real archive and resources on a real FHIR server; never without."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from film_ward import Ward, Wire, film_ward, offer_of, until
from real_servers import FhirServer, Orthanc

from cds_service.feedback import Feedback
from cds_service.write_back import WriteBack
from fhir_mappers.codes import LOINC

pytestmark = pytest.mark.servers

START = datetime.fromisoformat("2026-03-10T14:00:00+00:00")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def both(tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer) -> Iterator[Ward]:
    with film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive fhir") as ward:
        yield ward


def reports(server: FhirServer, study: str) -> list[dict[str, Any]]:
    answer = requests.get(f"{server.base}/DiagnosticReport", params={"_count": "200"}, timeout=60).json()
    found = [entry["resource"] for entry in answer.get("entry", [])]
    # The server is every test's: other reports of it name no study.
    return [one for one in found if study in (film["reference"] for film in one.get("imagingStudy", ()))]


def test_an_accepted_report_is_in_the_archive_and_on_the_fhir_server_and_before_the_click_nothing_is(
    both: Ward, fhir_server: FhirServer
) -> None:
    study = next(r for r in both.chart.resources if r["resourceType"] == "ImagingStudy")
    card = both.ask()
    assert card["summary"].startswith("New right lower zone pleural effusion")
    offer = offer_of(card)
    assert offer is not None
    assert both.modalities() == ["DX"]
    assert reports(fhir_server, f"ImagingStudy/{study['id']}") == []
    both.answer(card, offer)
    assert until(lambda: both.audited() != [])
    assert both.modalities() == ["DX", "SEG", "SR"]
    (sr,) = both.objects("SR")
    assert sr["00100020"]["Value"] == ["p1"]
    assert sr["0040A491"]["Value"] == ["COMPLETE"]  # and preliminary: no person has verified it
    assert sr["0040A493"]["Value"] == ["UNVERIFIED"]
    (report,) = reports(fhir_server, f"ImagingStudy/{study['id']}")
    assert report["status"] == "preliminary"
    assert report["code"]["coding"][0]["system"] == LOINC
    results = [requests.get(f"{fhir_server.base}/{r['reference']}", timeout=60).json() for r in report["result"]]
    assert {one["resourceType"] for one in results} == {"Observation"}
    provenance = requests.get(
        f"{fhir_server.base}/Provenance", params={"target": f"DiagnosticReport/{report['id']}"}, timeout=60
    ).json()["entry"]
    (made,) = [entry["resource"] for entry in provenance]
    assert made["agent"][1]["who"] == {"reference": "Practitioner/u1"}
    (said,) = both.audited()
    assert (said["outcome"], said["places"], said["card"]) == ("written", "archive fhir", card["uuid"])


def test_the_same_feedback_again_writes_nothing_again(both: Ward) -> None:
    card = both.ask()
    both.answer(card, offer_of(card))
    assert until(lambda: both.audited() != [])
    both.answer(card, offer_of(card))
    assert both.house.write_back.kept.waiting() == ()
    assert len(both.audited()) == 1
    assert both.modalities() == ["DX", "SEG", "SR"]


def test_the_ehr_s_own_retry_offers_the_same_report_again(
    tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    with film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive", economy="on") as ward:
        instance = "3a2f0d62-7c7b-4a57-9d55-6f0f6c3c1a11"
        first, again = ward.ask(instance), ward.ask(instance)
        while again["uuid"] != first["uuid"]:  # a busy machine may not find the first in the tenth of a second it has
            first, again = again, ward.ask(instance)
        assert offer_of(again) == offer_of(first) is not None
        ward.answer(again, offer_of(again))
        assert until(lambda: ward.audited() != [])
        assert ward.modalities() == ["DX", "SEG", "SR"]


def test_an_overridden_card_and_a_suggestion_we_never_made_write_nothing(both: Ward) -> None:
    card = both.ask()
    both.answer(card, None)
    both.answer(card, "6b5f7a1e-0000-4000-8000-000000000000")
    assert both.house.write_back.kept.waiting() == ()
    assert both.modalities() == ["DX"]
    assert both.audited() == []


def test_another_tenant_cannot_accept_it_nor_anybody_after_a_day(
    tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    clock = Clock()
    with film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive", clock=clock) as ward:
        offer = offer_of(ward.ask())
        assert offer is not None
        said = Feedback("c1", "accepted", START, (offer,))
        (cxr,) = ward.house.services.on
        assert ward.house.write_back.accepted("another", cxr, [said]) == 0
        clock.now += timedelta(days=1, seconds=1)
        assert ward.house.write_back.accepted("anonymous", cxr, [said]) == 0
        assert ward.modalities() == ["DX"]


def test_while_the_archive_is_gone_the_report_waits_and_is_written_when_it_is_back(
    tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    wire = Wire(int(orthanc.dicomweb.split(":")[2].split("/")[0]))
    through = f"http://127.0.0.1:{wire.port}/dicom-web"
    with film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive", archive=through) as ward:
        ward.house.write_back.soonest_s = 0.2
        card = ward.ask()
        wire.cut = True
        ward.answer(card, offer_of(card))
        assert until(lambda: ward.house.write_back.tried(card["uuid"]) > 1)
        assert ward.modalities() == ["DX"]
        assert len(ward.house.write_back.kept.waiting()) == 1
        assert ward.audited() == []
        wire.cut = False
        assert until(lambda: ward.audited() != [])
        assert ward.modalities() == ["DX", "SEG", "SR"]
    wire.close()


def test_an_accepted_report_outlives_the_process_that_took_it(
    tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    wire = Wire(int(orthanc.dicomweb.split(":")[2].split("/")[0]))
    through = f"http://127.0.0.1:{wire.port}/dicom-web"
    with film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive", archive=through) as ward:
        card = ward.ask()
        wire.cut = True
        ward.answer(card, offer_of(card))
        ward.house.write_back.close()
        wire.cut = False
        assert ward.modalities() == ["DX"]
        house = ward.house
        after = WriteBack(house.state, house.services, house.clients, house.fetcher.transport, house.clock)
        assert until(lambda: ward.audited() != [])
        after.close()
        assert ward.modalities() == ["DX", "SEG", "SR"]
    wire.close()


def test_after_a_week_it_is_given_up_and_the_audit_says_why(
    tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    clock = Clock()
    wire = Wire(int(orthanc.dicomweb.split(":")[2].split("/")[0]))
    through = f"http://127.0.0.1:{wire.port}/dicom-web"
    with film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive", archive=through, clock=clock) as ward:
        ward.house.write_back.soonest_s = 0.2
        card = ward.ask()
        wire.cut = True
        ward.answer(card, offer_of(card))
        assert until(lambda: ward.house.write_back.tried(card["uuid"]) > 0)
        clock.now += timedelta(days=7, seconds=1)
        assert until(lambda: ward.audited() != [])
        (said,) = ward.audited()
        assert (said["outcome"], said["why"]) == ("given up", "unreachable")
        assert ward.house.write_back.kept.waiting() == ()
    wire.close()


def test_what_waits_is_unreadable_in_the_database_and_gone_when_the_patient_is_erased(
    tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    wire = Wire(int(orthanc.dicomweb.split(":")[2].split("/")[0]))
    through = f"http://127.0.0.1:{wire.port}/dicom-web"
    with film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive", archive=through) as ward:
        card = ward.ask()
        wire.cut = True
        ward.answer(card, offer_of(card))
        (row,) = ward.house.write_back.kept.waiting()
        for word in (b"p1", b"effusion", ward.study.encode(), b"Practitioner"):
            assert word not in row.page
        ward.house.state.erase("anonymous", row.patient_key)
        assert ward.house.write_back.kept.waiting() == ()
    wire.close()


class Stingy(BaseHTTPRequestHandler):
    """An archive that reads like the real one and answers what is stored as `kept` says, keeping nothing."""

    real = ""
    kept: tuple[int, Any] = (200, {})
    header: Callable[[list[Any]], list[Any]] = staticmethod(lambda found: found)

    def do_GET(self) -> None:
        answer = requests.get(self.real + self.path.removeprefix("/dicom-web"), headers=self._accept(), timeout=60)
        body = answer.content
        if self.path.endswith(f"studies/{self.path.split('/')[3]}/metadata"):
            body = json.dumps(type(self).header(answer.json())).encode()
        self._send(answer.status_code, answer.headers["Content-Type"], body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = type(self).kept
        self._send(status, "application/dicom+json", json.dumps(body).encode())

    def _accept(self) -> dict[str, str]:
        return {"Accept": self.headers["Accept"]}

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def stingy(real: str, **members: Any) -> Iterator[str]:
    handler = type("Archive", (Stingy,), {"real": real, **members})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()


REFUSED = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}


@pytest.mark.parametrize(
    "members",
    [
        {"kept": (202, REFUSED)},
        {"kept": (409, REFUSED)},
        {"kept": (200, "OK")},
        {"kept": (302, {})},
        {"header": staticmethod(lambda found: [])},
        {"header": staticmethod(lambda found: [{**found[0], "00080018": {"vr": "UI", "Value": ["1.2.3"]}}])},
    ],
    ids=["one refused", "all refused", "no answer of DICOMweb", "sent elsewhere", "no film", "another film"],
)
def test_an_archive_that_does_not_keep_it_or_shows_another_film_leaves_the_report_waiting(
    tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer, members: dict[str, Any]
) -> None:
    with (
        stingy(orthanc.dicomweb, **members) as archive,
        film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive", archive=archive) as ward,
    ):
        card = ward.ask()
        ward.answer(card, offer_of(card))
        assert until(lambda: ward.house.write_back.tried(card["uuid"]) == 1)
        assert len(ward.house.write_back.kept.waiting()) == 1
        assert ward.audited() == []


def test_a_header_that_gives_no_dicom_object_is_given_up_at_once(
    tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    headless = staticmethod(lambda found: [{k: v for k, v in one.items() if k != "00080016"} for one in found])
    with (
        stingy(orthanc.dicomweb, header=headless) as archive,
        film_ward(tmp_path, orthanc.dicomweb, fhir_server.base, "archive", archive=archive) as ward,
    ):
        card = ward.ask()
        ward.answer(card, offer_of(card))
        assert until(lambda: ward.audited() != [])
        (said,) = ward.audited()
        assert (said["outcome"], said["why"]) == ("given up", "the film's header has no SOPClassUID")
