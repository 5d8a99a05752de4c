"""A house that writes film reports back: a film in a real archive, a clinician's click, and a wire that can be cut."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import requests
from film_charts import FLUID, NAME
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from vignettes import Answers, Chart, encounter, film, patient, service

from cds_service.app import create_app
from cds_service.cli.films import store
from cds_service.manifest import Services
from cds_service.settings import Settings
from cds_service.state.desk import Desk, Search
from cds_service.trust.clients import Client, Clients, FhirServer
from fhir_mappers.report.terms import ZONES
from models.contract import Anatomy, Change, FilmReading, Place

_numbers = itertools.count(7_000)


def read_by_networks() -> Answers:
    """An effusion, new in the right lower zone, with lungs and heart outlined on a square of 32."""
    masks = {name: np.zeros((32, 32), np.bool_) for name in ("right_lung", "left_lung", "heart")}
    masks["right_lung"][4:28, 3:14] = masks["left_lung"][4:28, 18:29] = masks["heart"][16:27, 12:22] = True
    zones = {zone: np.zeros((32, 32), np.bool_) for zone in ZONES}
    heat = np.full((4, 4), 1 / 16, np.float32)
    read = FilmReading(
        Anatomy(masks, zones, 0.46),  # type: ignore[arg-type]
        {"effusion": Place("effusion", heat, "right_lower", 0.7)},
        {"effusion": Change("effusion", "new", {"new": 0.9, "stable": 0.1})},
        "b" * 64,
    )
    return dataclasses.replace(FLUID, reading=read)


class Wire:
    """A port of this machine that leads to another server, or, while it is cut, nowhere."""

    def __init__(self, port: int) -> None:
        self.cut = False
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


@dataclass
class Ward:
    """One house. `offered` is the suggestion that keeps the report; `study` the study of the newest film."""

    app: Any
    base: str
    dicomweb: str
    study: str
    chart: Chart

    def ask(self, instance: str = "") -> dict[str, Any]:
        """The card of cxr-insight for the newest film; the EHR repeats a call under the same hook instance."""
        call = json.loads(self.chart.body(NAME))
        call |= {"hookInstance": instance or str(uuid.uuid4()), "fhirServer": self.base}
        answer = self.app.test_client().post(f"/cds-services/{NAME}", json=call)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        (card,) = answer.get_json()["cards"]
        return dict(card)

    def answer(self, card: Mapping[str, Any], suggestion: str | None) -> None:
        """Accept a suggestion, or with None override the card."""
        item: dict[str, Any] = {"card": card["uuid"], "outcomeTimestamp": "2026-03-10T14:01:00Z"}
        if suggestion is None:
            item |= {"outcome": "overridden", "overrideReason": {"userComment": "seen"}}
        else:
            item |= {"outcome": "accepted", "acceptedSuggestions": [{"id": suggestion}]}
        answer = self.app.test_client().post(f"/cds-services/{NAME}/feedback", json={"feedback": [item]})
        assert answer.status_code == 200, answer.get_data(as_text=True)

    def modalities(self) -> list[str]:
        """What the archive holds in the film's study, one entry for each object."""
        answer = requests.get(
            f"{self.dicomweb}/studies/{self.study}/instances",
            params={"includefield": "00080060"},
            headers={"Accept": "application/dicom+json"},
            timeout=10,
        )
        return sorted(one["00080060"]["Value"][0] for one in answer.json())

    def objects(self, modality: str) -> list[Mapping[str, Any]]:
        answer = requests.get(
            f"{self.dicomweb}/studies/{self.study}/metadata",
            headers={"Accept": "application/dicom+json"},
            timeout=10,
        )
        return [one for one in answer.json() if one["00080060"]["Value"][0] == modality]

    def audited(self) -> list[Mapping[str, Any]]:
        """The audit's words on what became of accepted reports."""
        state, clock = self.app.extensions["ordersight"].state, self.app.extensions["ordersight"].clock
        wanted = Search(since=clock() - timedelta(days=30), until=clock() + timedelta(days=30), kind="write-back")
        return [dict(row["details"]) for row in Desk(state).search(wanted)]

    @property
    def house(self) -> Any:
        return self.app.extensions["ordersight"]


def offer_of(card: Mapping[str, Any]) -> str | None:
    """The uuid of the suggestion that keeps the report."""
    found = [s for s in card.get("suggestions", []) if s["label"].startswith("Keep the estimates")]
    return found[0]["uuid"] if found else None


def until(what: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


@contextmanager
def film_ward(
    folder: Path,
    dicomweb: str,
    fhir: str,
    where: str,
    *,
    archive: str = "",
    clock: Callable[[], Any] | None = None,
    economy: str = "off",
) -> Iterator[Ward]:
    """A house that keeps reports `where` the manifest says; `archive` is its way to `dicomweb`, if it is another."""
    number = next(_numbers)
    new, pixels = film(number, "2026-03-10T13:38:00Z")
    old, old_pixels = film(next(_numbers), "2026-03-07T09:00:00Z", "AP")
    with requests.Session() as session:
        store(session, dicomweb, [as_file(pixels), as_file(old_pixels)])
    chart = Chart((patient("male", "2002-02-14"), encounter("EMER"), new, old), hook="patient-view", model=FLUID)
    chosen = service(NAME)
    chosen = msgspec.structs.replace(
        chosen,
        settings={**chosen.settings, "write_back": where},
        budget_ms=dict.fromkeys(chosen.hooks, 20_000),
    )
    clients = [Client("ward", (FhirServer(fhir, (archive or dicomweb,)),))]
    now = clock or (lambda: datetime.fromisoformat("2026-03-10T14:00:00+00:00"))
    app = create_app(
        Settings(
            jwt="off", state_dir=folder, profile="research_imaging", economy=economy, outbox_mb=1, films_workers=0
        ),
        services=Services([chosen], "research_imaging"),
        engines={"chest-open": read_by_networks()},
        clients=Clients(clients),
        clock=now,
    )
    try:
        yield Ward(app, fhir, dicomweb, pixels.study_uid, chart)
    finally:
        app.extensions["ordersight"].close()


def as_file(frame: Any) -> Dataset:
    """The film of a chart as a DICOM file of patient p1."""
    dataset = Dataset.from_json(frame.metadata)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientID, dataset.PatientName, dataset.SamplesPerPixel = "p1", "Doe^Jane", 1
    dataset.StudyDate, dataset.StudyTime = "20260310", "133800"
    dataset.PixelData = frame.frame
    dataset["PixelData"].VR = "OW"
    return dataset
