"""Films of the demo's patients over HTTP: from the cache, and from an archive that hangs, drips or lies.

The patients and their films are generated, and the model was trained on such patients: what is held here is the way
from the archive to the card, not how good the model is on real films.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from ehr import Ehr, order_sign, patient_view, without_uuids
from flask import Flask, Response, request
from house import running_house
from werkzeug.serving import make_server

from cds_service.cli.demo import MODEL
from cds_service.cli.serve import load_engines
from cds_service.demo.ehr import demo_blueprint
from cds_service.manifest import load_services
from cds_service.settings import Settings
from cds_service.state.store import Store
from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.scenarios import demo_patients
from models.contract import Assessor

NOW = datetime.now(UTC).replace(microsecond=0)
LARCH, JUNIPER, MAPLE = "demo-larch", "demo-juniper", "demo-maple"
DICOM_JSON = "application/dicom+json"
SLACK_S = 0.5
"""What a busy machine with two cores may add to a budget before a test fails."""


@dataclass
class Archive:
    """The demo's EHR and archive on a socket. `asked` holds every path below DICOMweb; `mood` may answer in its place.

    `told` may change what the archive answers on its way out.
    """

    base: str = ""
    asked: list[str] = field(default_factory=list)
    mood: Callable[[str], Response | None] = lambda path: None
    told: Callable[[str, Response], Response] = lambda path, answer: answer

    @property
    def fhir(self) -> str:
        return f"{self.base}/demo/fhir"

    @property
    def dicomweb(self) -> str:
        return f"{self.base}/demo/dicomweb"


@pytest.fixture(scope="module")
def patients() -> Mapping[str, GeneratedPatient]:
    return {p.id: p for p in demo_patients(NOW)}


@pytest.fixture(scope="module")
def standing(patients: Mapping[str, GeneratedPatient]) -> Iterator[Archive]:
    app, archive = Flask("demo", static_folder=None), Archive()
    app.register_blueprint(demo_blueprint(NOW, draw=False))

    def before() -> Response | None:
        if not request.path.startswith("/demo/dicomweb"):
            return None
        archive.asked.append(request.path)
        return archive.mood(request.path)

    def after(answer: Response) -> Response:
        return archive.told(request.path, answer) if request.path.startswith("/demo/dicomweb") else answer

    app.before_request(before)
    app.after_request(after)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    archive.base = f"http://127.0.0.1:{server.server_port}"
    for name in (LARCH, JUNIPER, MAPLE):  # films are drawn when they are first asked for, which takes seconds
        for index in range(len(patients[name].films)):
            requests.get(f"{archive.dicomweb}/{below(patients[name], index)}/frames/1", timeout=60).raise_for_status()
    yield archive
    server.shutdown()
    server.server_close()


@pytest.fixture
def archive(standing: Archive) -> Archive:
    """An honest archive that was asked nothing yet."""
    standing.asked.clear()
    standing.mood = lambda path: None
    standing.told = lambda path, answer: answer
    return standing


@pytest.fixture(scope="module")
def engines() -> Mapping[str, Assessor]:
    settings = Settings()
    return load_engines(load_services(settings.manifests / "services", "research_imaging", model=MODEL), settings)


@contextmanager
def house(folder: Path, archive: Archive, engines: Mapping[str, Assessor], **settings: Any) -> Iterator[Ehr]:
    with running_house(folder, archive.fhir, [archive.dicomweb], engines, NOW, model=MODEL, **settings) as ehr:
        yield ehr


def below(patient: GeneratedPatient, index: int) -> str:
    study, series, film = (patient.uid(kind, index) for kind in ("study", "series", "instance"))
    return f"studies/{study}/series/{series}/instances/{film}"


def day(patient: GeneratedPatient, index: int) -> str:
    return patient.films[index].at.strftime("%Y-%m-%d")


def signing(patient: GeneratedPatient) -> dict[str, Any]:
    """The order-sign of the demo: another chest film."""
    drafts = next(o.drafts for o in patient.occasions if o.hook == "order-sign")
    context: dict[str, Any] = order_sign(patient.id, *(dict(draft) for draft in drafts))
    return context


def said(ehr: Ehr, patients: Mapping[str, GeneratedPatient]) -> list[Any]:
    cards = [
        without_uuids(ehr.call("imaging-timing", "order-sign", signing(patients[LARCH])).cards),
        without_uuids(ehr.call("cxr-insight", "patient-view", patient_view(JUNIPER)).cards),
        without_uuids(ehr.call("deterioration", "patient-view", patient_view(MAPLE)).cards),
    ]
    found: list[Any] = json.loads(json.dumps(cards).replace(ehr.service, "SERVICE"))
    return found


def warmed(folder: Path, films: int, seconds: float = 30.0) -> None:
    """Wait until nothing waits and so many films are kept."""
    url = f"sqlite:///{folder / 'state' / 'state.sqlite'}"
    with Store.open(url, folder / "state", outbox_bytes=0) as store:
        until = time.monotonic() + seconds
        while (depth := store.films.depth()).waiting or depth.films < films:
            assert time.monotonic() < until, depth
            time.sleep(0.05)


def test_from_the_cache_the_cards_name_both_films_the_finding_its_place_and_its_course_and_no_pixel_is_fetched(
    tmp_path: Path, archive: Archive, engines: Mapping[str, Assessor], patients: Mapping[str, GeneratedPatient]
) -> None:
    with house(tmp_path / "cold", archive, engines) as ehr:
        from_pixels = said(ehr, patients)
        assert any(path.endswith("/frames/1") for path in archive.asked)
    with house(tmp_path / "warm", archive, engines, films_workers=1) as ehr:
        for name in (LARCH, JUNIPER, MAPLE):  # somebody opens the charts
            assert ehr.call("imaging-timing", "patient-view", patient_view(name)).status == 200
        warmed(tmp_path / "warm", 6)
        archive.asked.clear()
        cards = said(ehr, patients)
        assert archive.asked == []
    assert cards == from_pixels
    signed, seen, _ = (json.dumps(answer) for answer in cards)
    larch, juniper = patients[LARCH], patients[JUNIPER]
    # What the films were drawn with, fhir_mappers/cohort/scenarios_chest.py: larch's right effusion fell from 0.75 to
    # 0.18, juniper's lower right opacity is new.
    assert f"films {day(larch, 1)} and {day(larch, 0)}: right lower zone pleural effusion improved" in signed
    assert f"New right lower zone lung opacity vs {day(juniper, 1)}" in seen
    assert f"film {juniper.films[0].at:%Y-%m-%d %H:%M} (PA), film {juniper.films[1].at:%Y-%m-%d %H:%M}" in seen


# An archive that hangs, drips or lies ------------------------------------------------------------------------------


def hang(path: str) -> Response | None:
    time.sleep(4)
    return Response(status=500)


def drip(path: str) -> Response | None:
    def slowly() -> Iterator[bytes]:
        for _ in range(40):
            yield b" "
            time.sleep(0.1)

    return Response(slowly(), content_type=DICOM_JSON)


def garble(path: str) -> Response | None:
    return Response("<html>please log in</html>", content_type="text/html")


def others_name(path: str, answer: Response) -> Response:
    """The right UIDs, and another patient's name in the header."""
    if path.endswith("/metadata"):
        headers = json.loads(answer.get_data())
        for header in headers:
            header["00100020"] = {"vr": "LO", "Value": ["MRN-OF-ANOTHER"]}
        answer.set_data(json.dumps(headers))
    return answer


def others_study(path: str, answer: Response) -> Response:
    """The right SOP instance UID, in another study."""
    if path.endswith("/metadata"):
        headers = json.loads(answer.get_data())
        for header in headers:
            header["0020000D"] = {"vr": "UI", "Value": ["1.2.3.4.5"]}
        answer.set_data(json.dumps(headers))
    return answer


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "hangs": ({"mood": hang}, "did not arrive in time"),
    "drips": ({"mood": drip}, "did not arrive in time"),
    "answers another content type": ({"mood": garble}, "the answer could not be read"),
    "sends another patient's header": ({"told": others_name}, "refused: it came as another patient's"),
    "sends another study": ({"told": others_study}, "refused: not the film that was asked for"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.in_time
def test_with_an_archive_at_fault_no_order_is_late_nothing_of_another_patient_is_used_and_the_card_says_so(
    tmp_path: Path,
    archive: Archive,
    engines: Mapping[str, Assessor],
    patients: Mapping[str, GeneratedPatient],
    fault: str,
) -> None:
    how, words = FAULTS[fault]
    archive.mood, archive.told = how.get("mood", archive.mood), how.get("told", archive.told)
    settings = Settings()
    services = {s.id: s for s in load_services(settings.manifests / "services", "research_imaging").all}
    with house(tmp_path, archive, engines) as ehr:
        signed = ehr.call("imaging-timing", "order-sign", signing(patients[LARCH]))
        viewed = ehr.call("deterioration", "patient-view", patient_view(MAPLE))
        insight = ehr.call("cxr-insight", "patient-view", patient_view(JUNIPER))
    assert archive.asked
    for answer, service, hook in (
        (signed, "imaging-timing", "order-sign"),
        (viewed, "deterioration", "patient-view"),
        (insight, "cxr-insight", "patient-view"),
    ):
        assert answer.seconds < services[service].budget_ms[hook] / 1000 + SLACK_S
    assert insight.cards == []  # it speaks of films alone
    assert signed.cards, "the rule that needs no pixel is answered all the same"
    for answer in (signed, viewed):
        text = json.dumps(answer.cards)
        assert "effusion" not in text
        assert "pneumothorax" not in text
        assert words in text, text
