"""A vignette of ../shared/clinical/vignettes.json, or a chart written down in a test, as a real hook call.

The chart becomes FHIR JSON, travels as prefetch, and is read by the readers the service uses. Only the model is
stood in for: `Answers` says what a vignette's `data.model` says, through the contract every engine keeps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from imaging_charts import allergy, as_asked, findings
from vignette_genes import gene_result, of_the_tumour

from cds_service.advice import load_advice
from cds_service.cards import Card
from cds_service.consult import Case
from cds_service.evidence import DicomFile, Shortfall
from cds_service.hooks import HookRequest, parse_hook_request
from cds_service.manifest import Profile, Service, load_service
from cds_service.state.records import Earlier
from fhir_mappers.read import read_record
from fhir_mappers.record import PatientRecord
from fhir_mappers.tensors import to_fusion_input
from models.contract import (
    Assessment,
    Estimate,
    FilmReading,
    FusionInput,
    ImageSpec,
    InputSpec,
    LabFeature,
    Modality,
    Target,
    Tier,
    without,
)

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "manifests" / "services"
LOINC, RXNORM = "http://loinc.org", "http://www.nlm.nih.gov/research/umls/rxnorm"
ICD10CM = "http://hl7.org/fhir/sid/icd-10-cm"
ACTCODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
SUBJECT = {"reference": "Patient/p1"}
Resource = dict[str, Any]


def service(name: str) -> Service:
    return load_service(SERVICES / f"{name}.yaml")


def concept(system: str, code: str, text: str = "") -> Resource:
    return {"coding": [{"system": system, "code": code}], **({"text": text} if text else {})}


def observation(id_: str, code: str, value: Any, unit: str | None, at: str, **more: Any) -> Resource:
    resource: Resource = {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": concept(LOINC, code),
        "subject": SUBJECT,
        "effectiveDateTime": at,
    }
    if isinstance(value, str):
        resource["valueString"] = value
    else:
        resource["valueQuantity"] = {"value": value, **({"unit": unit} if unit is not None else {})}
    return {**resource, **more}


def condition(id_: str, icd10: str, status: str = "active", **more: Any) -> Resource:
    return {
        "resourceType": "Condition",
        "id": id_,
        "clinicalStatus": concept("http://terminology.hl7.org/CodeSystem/condition-clinical", status),
        "code": concept(ICD10CM, icd10, icd10),
        "subject": SUBJECT,
        **more,
    }


def medication(id_: str, rxcui: str, text: str, status: str = "active", **more: Any) -> Resource:
    return {
        "resourceType": "MedicationRequest",
        "id": id_,
        "status": status,
        "intent": "order",
        "medicationCodeableConcept": concept(RXNORM, rxcui, text),
        "subject": SUBJECT,
        **more,
    }


def imaging_order(id_: str, loinc: str, text: str, priority: str = "routine", **more: Any) -> Resource:
    return {
        "resourceType": "ServiceRequest",
        "id": id_,
        "status": "draft",
        "intent": "order",
        "priority": priority,
        "code": concept(LOINC, loinc, text),
        "subject": SUBJECT,
        **more,
    }


def patient(sex: str = "male", birth_date: str | None = "1958-11-02", **more: Any) -> Resource:
    born = {"birthDate": birth_date} if birth_date else {}
    return {"resourceType": "Patient", "id": "p1", "gender": sex, **born, **more}


def encounter(class_: str = "IMP", **more: Any) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": "e1",
        "status": "in-progress",
        "class": {"system": ACTCODE, "code": class_},
        "subject": SUBJECT,
        **more,
    }


def film(number: int, at: str, view: str = "PA") -> tuple[Resource, DicomFile]:
    """An ImagingStudy of one chest film and the film itself, as DICOMweb gives it: 64 x 64, 12 bits, uncompressed."""
    base = f"2.25.{number}"
    uids = (f"{base}.1", f"{base}.2", f"{base}.3")
    image_class = "1.2.840.10008.5.1.4.1.1.1.1"
    study = {
        "resourceType": "ImagingStudy",
        "id": f"study{number}",
        "status": "available",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uids[0]}"}],
        "subject": SUBJECT,
        "started": at,
        "description": f"XR Chest {view}",
        "modality": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "DX"}],
        "series": [
            {
                "uid": uids[1],
                "modality": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "DX"},
                "bodySite": {"code": "51185008", "display": "Chest"},
                "instance": [{"uid": uids[2], "sopClass": {"code": f"urn:oid:{image_class}"}}],
            }
        ],
    }
    pixels = np.random.default_rng(number).integers(0, 4096, (64, 64), dtype=np.uint16)

    def tag(vr: str, *values: Any) -> Resource:
        return {"vr": vr, "Value": list(values)}

    metadata = {
        "00080016": tag("UI", image_class),
        "00080018": tag("UI", uids[2]),
        "00080060": tag("CS", "DX"),
        "0020000D": tag("UI", uids[0]),
        "0020000E": tag("UI", uids[1]),
        "00180015": tag("CS", "CHEST"),
        "00185101": tag("CS", view),
        "00280002": tag("US", 1),
        "00280004": tag("CS", "MONOCHROME2"),
        "00280010": tag("US", 64),
        "00280011": tag("US", 64),
        "00280100": tag("US", 16),
        "00280101": tag("US", 12),
        "00280102": tag("US", 11),
        "00280103": tag("US", 0),
    }
    dicom = DicomFile(*uids, metadata, pixels.tobytes(), "1.2.840.10008.1.2.1", f"ImagingStudy/study{number}")
    return study, dicom


@dataclass(frozen=True)
class Answers:
    """The model's answers, target -> (probability, low, high); `prior` on the comparison film alone.

    masked  what the probability would be without a modality
    """

    given: Mapping[str, tuple[float, float, float]]
    prior: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    masked: Mapping[Modality, float] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    modalities: tuple[Modality, ...] = ("imaging", "labs")
    abstained: str | None = None
    tier: Tier = "open"
    model: str = "chest-open@1"
    reading: FilmReading | None = None

    @property
    def spec(self) -> InputSpec:
        named = (("crp", "mg/L"), ("ldh", "U/L"), ("lymphocytes", "10*3/uL"), ("wbc", "10*3/uL"))
        labs = tuple(LabFeature(name, unit, 0.0, 1.0) for name, unit in named)
        return InputSpec(ImageSpec(32), labs, ("covid19", "pneumonia"), (), tuple(self._target(t) for t in self.given))

    def _target(self, name: str) -> Target:
        title = self.titles.get(name, name.removeprefix("finding.").replace("_", " "))
        return Target(name, title, self.modalities, "vignette")

    def assess(self, inputs: FusionInput, *, timeout: float, targets: Sequence[str] | None = None) -> Assessment:
        rested = inputs.present() & frozenset(self.modalities)

        def estimate(name: str, answer: tuple[float, float, float]) -> Estimate:
            if self.abstained or not rested:
                why = self.abstained or "nothing to rest on"
                return Estimate(self._target(name), None, None, {}, rested, why)
            masked = {m: p for m, p in self.masked.items() if m in rested}
            return Estimate(self._target(name), answer[0], (answer[1], answer[2]), masked, rested)

        two_films = int(inputs.signals["imaging"].seen.sum()) > 1
        return Assessment(
            self.model,
            "0" * 64,
            self.tier,
            {name: estimate(name, answer) for name, answer in self.given.items()},
            inputs.present(),
            {name: estimate(name, answer) for name, answer in self.prior.items()} if two_films else {},
            reading=self.reading,
        )


@dataclass(frozen=True)
class Chart:
    """One patient at one moment, and the call that is made about them.

    earlier  what the model said in earlier calls; left out, the same as now, half an hour before
    """

    resources: tuple[Resource, ...]
    drafts: tuple[Resource, ...] = ()
    films: tuple[DicomFile, ...] = ()
    hook: str = "order-sign"
    now: str = "2026-03-10T14:00:00Z"
    model: Answers | None = None
    user: str = "Practitioner/u1"
    selections: tuple[str, ...] | None = None
    shortfalls: tuple[Shortfall, ...] = ()
    profile: Profile = "research_imaging"
    earlier: tuple[Earlier, ...] | None = None

    def body(self, name: str) -> bytes:
        """The HTTP body: the service's own prefetch keys, each a Bundle of what the patient has of its type."""
        context: Resource = {"patientId": "p1", "userId": self.user, "encounterId": "e1"}
        if self.hook.startswith("order-"):
            entries = [{"resource": d} for d in self.drafts]
            context["draftOrders"] = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        if self.hook == "medication-refill":
            context["medications"] = {"resourceType": "Bundle", "entry": [{"resource": d} for d in self.drafts]}
        if self.hook == "order-select":
            refs = [f"{d['resourceType']}/{d['id']}" for d in self.drafts]
            context["selections"] = list(refs if self.selections is None else self.selections)
        prefetch: Resource = {}
        for key, item in service(name).evidence.items():
            type_ = (item.read or item.search or "").replace("/", "?").partition("?")[0]
            also = {name.capitalize() for name in re.findall(rf"_include={type_}:(\w+)", item.search or "")}
            found = [r for r in self.resources if r["resourceType"] in {type_, *also}]
            if item.read is not None:
                prefetch[key] = found[0] if found else None
            else:
                entries = [{"resource": r} for r in found]
                prefetch[key] = {"resourceType": "Bundle", "type": "searchset", "entry": entries}
        call = {"hook": self.hook, "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea", "context": context}
        return json.dumps({**call, "prefetch": prefetch}).encode()

    def request(self, name: str) -> HookRequest:
        return parse_hook_request(self.body(name), datetime.fromisoformat(self.now.replace("Z", "+00:00")))

    def record(self, name: str = "imaging-safety") -> PatientRecord:
        request = self.request(name)
        return read_record(
            [r for raw in request.prefetch.values() for r in _resources(json.loads(bytes(raw)))],
            self.films,
            as_of=request.received_at,
            patient_id="p1",
            drafts=request.drafts(),
        )

    def cards(self, name: str, manifest: Service | None = None) -> list[Card]:
        """What the service answers, from the same functions that answer over HTTP."""
        chosen = manifest or service(name)
        request, record = self.request(name), self.record(name)
        if request.hook not in chosen.hooks or not chosen.concerns(request.hook, record.drafts()):
            return []
        assessment, used = None, {}
        if self.model is not None and chosen.model is not None:
            inputs = to_fusion_input(record, self.model.spec)
            if self.profile == "non_device":
                inputs = without(inputs, "imaging")
            assessment = self.model.assess(inputs, timeout=30.0)
            used = dict(inputs.used)
        earlier = self.earlier
        if earlier is None:
            before, said = request.received_at - timedelta(minutes=30), assessment.estimates if assessment else {}
            earlier = tuple(Earlier(n, before, e.probability, *(e.interval or (None, None))) for n, e in said.items())
        case = Case(chosen, request, record, assessment, self.shortfalls, self.profile, "", used, earlier)
        return load_advice(chosen.advice)(case)


def _resources(value: Any) -> list[Resource]:
    if value is None:
        return []
    if value.get("resourceType") == "Bundle":
        return [e["resource"] for e in value.get("entry", [])]
    return [value]


MODEL_NAMES = {"oedema": "finding.edema"}


def from_vignette(vignette: Mapping[str, Any]) -> Chart:
    """The vignette's chart, in the conventions its file states."""
    data = vignette["data"]
    person, visit = vignette["patient"], vignette["encounter"]
    resources = [patient(person["sex"], person["birthDate"]), encounter(visit["class"])]
    films: list[DicomFile] = []
    for i, o in enumerate(data.get("observations", [])):
        resources.append(observation(f"o{i}", o["code"], o["value"], o["unit"], o["at"], status=o["status"]))
    for i, c in enumerate(data.get("conditions", [])):
        onset = {"onsetDateTime": c["onset"]} if "onset" in c else {}
        resources.append(condition(f"c{i}", c["icd10"], c["status"], **onset, **of_the_tumour(c)))
    for m in data.get("medications", []):
        resources.append(medication(m["ref"].partition("/")[2], m["rxcui"], m["text"], m["status"]))
    resources += [allergy(f"al{i}", a) for i, a in enumerate(data.get("allergies", []))]
    resources += [gene_result(f"g{i}", g) for i, g in enumerate(data.get("genomics", []))]
    for i, image in enumerate(data.get("imaging", []), start=1):
        study, dicom = film(i, image["at"], image.get("view", "PA"))
        resources += [study, *findings(i, image)]
        films.append(dicom)
        if image["report"] != "none":
            resources.append(
                {
                    "resourceType": "DiagnosticReport",
                    "id": f"r{i}",
                    "status": image["report"],
                    "category": [concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD")],
                    "code": concept(LOINC, image["loinc"]),
                    "subject": SUBJECT,
                    "effectiveDateTime": image["at"],
                    "imagingStudy": [{"reference": f"ImagingStudy/study{i}"}],
                    "conclusion": image.get("conclusion", ""),
                }
            )
    drafts = []
    for d in vignette["draftOrders"]:
        type_, _, id_ = d["ref"].partition("/")
        if type_ == "ServiceRequest":
            drafts.append(as_asked(imaging_order(id_, d["loinc"], d["text"], d["priority"]), d))
        else:
            drafts.append(medication(id_, d["rxcui"], d["text"], "draft"))
    stub = {k: v for k, v in data.get("model", {}).items() if isinstance(v, dict)}
    given = {MODEL_NAMES.get(k, f"finding.{k}"): (v["p"], v["ci"][0], v["ci"][1]) for k, v in stub.items()}
    model = Answers(given, modalities=("imaging",)) if given else None
    return Chart(tuple(resources), tuple(drafts), tuple(films), hook=vignette["hook"], now=vignette["now"], model=model)
