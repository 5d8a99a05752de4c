"""Films encoded when they arrive: an order then waits for no pixel, and says the same as with them."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from ehr import Answer, Ehr, order_sign, without_uuids
from house import running_house
from real_patients import Patient, everything, minute, put
from real_servers import FhirServer, Orthanc, running_orthanc

from cds_service.cli.errors import CommandError
from cds_service.cli.importing import import_bundles, read_bundle
from cds_service.cli.serve import load_engines
from cds_service.cli.watch import watch
from cds_service.decoding import Decoders
from cds_service.fhir_client import FhirClient
from cds_service.films.ahead import Ahead
from cds_service.films.kept import unpack
from cds_service.films.polling import Poller
from cds_service.manifest import load_services
from cds_service.settings import Settings
from cds_service.state.store import Store
from cds_service.trust.authorization_servers import Directory
from cds_service.trust.clients import Client, Clients
from cds_service.trust.clients import FhirServer as Registered
from cds_service.trust.smart_backend import BackendTokens
from models.contract import Assessor, FilmEncoder

pytestmark = pytest.mark.servers

NOW = datetime.now(UTC).replace(microsecond=0)
SECRET = "told-to-the-ehr-alone"
MODEL = "chest-generated"
"""The demonstration model speaks on films of these patients; what ships with the services withholds its answers."""


@pytest.fixture(scope="module")
def engines() -> Mapping[str, Assessor]:
    settings = Settings()
    return load_engines(load_services(settings.manifests / "services", "research_imaging", model=MODEL), settings)


@pytest.fixture(scope="module")
def outspoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests with thresholds so low that the newest film is spoken of, whatever is on it and was before."""
    folder = tmp_path_factory.mktemp("manifests")
    shutil.copytree(Settings().manifests / "services", folder / "services")
    path = folder / "services" / "cxr-insight.yaml"
    manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    manifest["thresholds"] = {name: {"high": 0.02, "low": 0.01} for name in manifest["thresholds"]}
    manifest["evidence"]["studies"]["films"] = 1  # beside another film, what has not changed is not spoken of
    path.write_text(yaml.safe_dump(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def patient(shared: Path, fhir_server: FhirServer, orthanc: Orthanc) -> Patient:
    """One real patient with two films or more, films in the archive."""
    data = shared / "data"
    for path in sorted((data / "fhir_hannover/bundles").iterdir()):
        resources = list(read_bundle(path))
        if sum(r["resourceType"] == "ImagingStudy" for r in resources) >= 2:
            break
    done = import_bundles(
        [path],
        fhir_server.base,
        orthanc.dicomweb,
        images_folder=data / "cxr_hannover_paired",
        dicom_folder=data / "dicom/hannover_derived",
        shift_to=NOW,
    )
    assert done.faults == ()
    id_ = next(r["id"] for r in resources if r["resourceType"] == "Patient")
    search = f"?patient={id_}&_count=1000"
    (encounter,) = everything(fhir_server.base, f"Encounter{search}")
    studies = sorted(everything(fhir_server.base, f"ImagingStudy{search}"), key=lambda s: s["started"])
    return Patient(id_, encounter["id"], tuple(studies), ())


@contextmanager
def kept(folder: Path, expected: int, seconds: float = 30.0) -> Iterator[Store]:
    """The house's state, once nothing waits and so many films are kept."""
    url = f"sqlite:///{folder / 'state' / 'state.sqlite'}"
    with Store.open(url, folder / "state", outbox_bytes=0) as store:
        until = time.monotonic() + seconds
        while (depth := store.films.depth()).waiting or depth.films < expected:
            assert time.monotonic() < until, depth
            time.sleep(0.05)
        yield store


def found(store: Store, patient: Patient, engines: Mapping[str, Assessor]) -> list[bytes]:
    """What is kept of this patient's two newest studies."""
    (engine,) = engines.values()
    assert isinstance(engine, FilmEncoder)
    uids = [s["identifier"][0]["value"].removeprefix("urn:oid:") for s in patient.studies[-2:]]
    return store.films.find("test-ehr", patient.id, uids, engine.encoder, datetime.now(UTC), 5)


def steroid(patient: Patient) -> dict[str, Any]:
    return {
        "resourceType": "MedicationRequest",
        "id": "draft-steroid",
        "status": "draft",
        "intent": "order",
        "subject": {"reference": f"Patient/{patient.id}"},
        "medicationCodeableConcept": {
            "coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "3264"}],
            "text": "dexamethasone 6 mg",
        },
    }


CALLS: tuple[tuple[str, str, Callable[[Patient], dict[str, Any]]], ...] = (
    ("deterioration", "patient-view", Patient.view),
    ("cxr-insight", "patient-view", Patient.view),
    ("chest-treatment", "order-sign", lambda p: {**order_sign(p.id, steroid(p)), "encounterId": p.encounter}),
)


def said(ehr: Ehr, patient: Patient) -> list[Any]:
    """Every card of the calls that use films, but for what is new in each answer."""
    cards = [without_uuids(answered(ehr, s, hook, context(patient)).cards) for s, hook, context in CALLS]
    found: list[Any] = json.loads(json.dumps(cards).replace(ehr.service, "SERVICE"))
    return found


def answered(ehr: Ehr, service: str, hook: str, context: Mapping[str, Any]) -> Answer:
    """The answer, asked for again where the FHIR server was too slow for it: that is not what is looked at here."""
    for _ in range(4):
        answer = ehr.call(service, hook, context)
        if answer.status != 412:
            break
    return answer


def test_with_a_warm_cache_no_pixel_is_fetched_and_the_cards_are_those_the_pixels_give(
    tmp_path: Path,
    fhir_server: FhirServer,
    orthanc: Orthanc,
    engines: Mapping[str, Assessor],
    patient: Patient,
    outspoken: Path,
) -> None:
    archives, models = [orthanc.dicomweb], Settings().models
    how: dict[str, Any] = {"model": MODEL, "manifests": outspoken, "models": models}
    with running_house(tmp_path / "cold", fhir_server.base, archives, engines, NOW, **how) as ehr:
        before = orthanc.frame_requests()
        from_pixels = said(ehr, patient)
        assert orthanc.frame_requests() > before
    assert minute(patient.studies[-1]["started"]) in json.dumps(from_pixels)

    with running_house(tmp_path / "warm", fhir_server.base, archives, engines, NOW, films_workers=1, **how) as ehr:
        ehr.call("imaging-timing", "patient-view", patient.view())  # somebody opens the chart
        with kept(tmp_path / "warm", 2) as store:
            films = [unpack(data) for data in found(store, patient, engines)]
            assert {minute(f.at.isoformat()) for f in films if f} == {
                minute(s["started"]) for s in patient.studies[-2:]
            }
            before = orthanc.frame_requests()
            assert said(ehr, patient) == from_pixels
            assert orthanc.frame_requests() == before


def test_with_the_archive_gone_kept_films_are_used_all_the_same(
    tmp_path: Path,
    shared: Path,
    fhir_server: FhirServer,
    orthanc: Orthanc,
    engines: Mapping[str, Assessor],
    patient: Patient,
) -> None:
    with running_orthanc() as own:
        copy(orthanc, own)
        with running_house(
            tmp_path, fhir_server.base, [own.dicomweb], engines, NOW, films_workers=1, model=MODEL
        ) as ehr:
            first = said(ehr, patient)
            with kept(tmp_path, 2):
                own.process.kill()
                own.process.wait()
                assert said(ehr, patient) == first


def copy(source: Orthanc, target: Orthanc) -> None:
    for instance in requests.get(f"{source.rest}/instances", timeout=30).json():
        file = requests.get(f"{source.rest}/instances/{instance}/file", timeout=30).content
        requests.post(f"{target.rest}/instances", data=file, timeout=30).raise_for_status()


def test_erasing_a_patient_takes_the_kept_films_and_the_queue_along(
    tmp_path: Path, fhir_server: FhirServer, orthanc: Orthanc, engines: Mapping[str, Assessor], patient: Patient
) -> None:
    with running_house(
        tmp_path, fhir_server.base, [orthanc.dicomweb], engines, NOW, films_workers=1, model=MODEL
    ) as ehr:
        ehr.call("deterioration", "patient-view", patient.view())
        with kept(tmp_path, 2):
            pass
    with kept(tmp_path, 2) as store:
        erased = store.erase("test-ehr", store.key("patient", "test-ehr", patient.id))
        assert erased.removed["film_cache"] == 2
        assert store.films.depth().films == 0


def notification(patient: Patient, server: FhirServer, payload: str, kind: str = "event-notification") -> bytes:
    """As HL7's backport writes it for R4: a history Bundle that begins with the status as Parameters."""
    study = patient.studies[-1]
    focus = {"name": "focus", "valueReference": {"reference": f"ImagingStudy/{study['id']}"}}
    event = {"name": "notification-event", "part": [{"name": "event-number", "valueString": "1"}, focus]}
    status = {
        "resourceType": "Parameters",
        "meta": {
            "profile": [
                "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription-status-r4"
            ]
        },
        "parameter": [
            {"name": "subscription", "valueReference": {"reference": "Subscription/films"}},
            {"name": "status", "valueCode": "active"},
            {"name": "type", "valueCode": kind},
            *([event] if kind == "event-notification" else []),
        ],
    }
    entries: list[dict[str, Any]] = [{"fullUrl": "urn:uuid:0", "resource": status}]
    if kind == "event-notification":
        entry: dict[str, Any] = {"fullUrl": f"{server.base}/ImagingStudy/{study['id']}"}
        entries.append({**entry, "resource": study} if payload == "full-resource" else entry)
    return json.dumps({"resourceType": "Bundle", "type": "history", "entry": entries}).encode()


@pytest.mark.parametrize("payload", ["id-only", "full-resource"])
def test_a_subscription_has_the_film_encoded_before_anybody_opens_the_chart(
    tmp_path: Path,
    fhir_server: FhirServer,
    orthanc: Orthanc,
    engines: Mapping[str, Assessor],
    patient: Patient,
    payload: str,
) -> None:
    with running_house(
        tmp_path, fhir_server.base, [orthanc.dicomweb], engines, NOW, films_workers=1, model=MODEL
    ) as ehr:
        clients = tmp_path / "clients.yaml"
        registered = yaml.safe_load(clients.read_text())
        registered[0]["fhir"][0]["subscriptions"] = {"films": hashlib.sha256(SECRET.encode()).hexdigest()}
        clients.write_text(yaml.safe_dump(registered))

        def post(body: bytes, secret: str = SECRET, name: str = "films") -> int:
            headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/fhir+json"}
            url = f"{ehr.service}/fhir-subscriptions/{name}"
            return requests.post(url, data=body, headers=headers, timeout=60).status_code

        assert post(notification(patient, fhir_server, payload, "handshake")) == 200
        assert post(notification(patient, fhir_server, payload), secret="wrong") == 401
        assert post(notification(patient, fhir_server, payload), name="others") == 401
        assert post(b'{"resourceType": "Bundle"}') == 400
        with kept(tmp_path, 0) as store:
            assert store.films.depth().films == 0
        assert post(notification(patient, fhir_server, payload)) == 200
        with kept(tmp_path, 1):
            pass


def test_polling_finds_a_new_study_once_and_has_its_film_encoded(
    tmp_path: Path, fhir_server: FhirServer, orthanc: Orthanc, engines: Mapping[str, Assessor], patient: Patient
) -> None:
    server = Registered(fhir_server.base, (orthanc.dicomweb,))
    client = Client("north", (server,))
    fetcher, decoders = FhirClient(), Decoders(workers=1)
    tokens = BackendTokens(Directory(fetcher.transport))

    def clock() -> datetime:
        return datetime.now(UTC)

    with Store.open(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path, outbox_bytes=0) as store:
        ahead = Ahead(store.films, Clients([client]), fetcher, decoders, engines, clock=clock, days=1, most_bytes=2**20)
        poller = Poller(ahead, store.films, Clients([client]), fetcher, tokens, clock)
        try:
            assert poller.poll(client, server, None) >= len(patient.studies)
            assert poller.poll(client, server, None) == 0
            touched = dict(patient.studies[-1])
            put(fhir_server.base, touched)  # a new version of it
            assert poller.poll(client, server, None) == 1
            while ahead.work_once():
                pass
            assert store.films.depth().films >= 2
            assert store.films.depth().dead == 0
        finally:
            ahead.close()
            fetcher.close()
            decoders.close()


def test_watch_does_nothing_where_image_analysis_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERSIGHT_PROFILE", "non_device")
    with pytest.raises(CommandError, match="switched off"):
        watch(every=60, once=True, retry=False)
