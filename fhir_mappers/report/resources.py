"""A film's report as FHIR R4: DiagnosticReport, Observations, the Device that made them, Provenance.

`as_one` nests everything in the DiagnosticReport, as a card's create action needs it; `as_transaction` is what is
posted to a server. Both say preliminary, name no person as interpreter, and carry the same ids for the same report.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from fhir_mappers.codes import LOINC, UCUM, find_imaging_order
from fhir_mappers.report.ids import device_uuid, name_of
from fhir_mappers.report.statements import FilmReport, Statement
from fhir_mappers.report.terms import OWN, SYSTEMS, spoken
from fhir_mappers.report.text import RESEARCH, where, write_report

URI = "urn:ietf:rfc:3986"
MODEL = "urn:ordersight:model"
CHEST_FILM = "30745-4"
"""LOINC: XR Chest Views, for a study that does not say which it was."""
ESTIMATE = "model-estimate"
"""The category that tells our reports from radiology's: no reader of ours takes one for a radiologist's."""
Resource = dict[str, Any]
SEVERITY = {"coding": [{"system": SYSTEMS["SCT"], "code": "246112005", "display": "Severity"}], "text": "Severity"}
NOT_PERFORMED = {
    "system": "http://terminology.hl7.org/CodeSystem/data-absent-reason",
    "code": "not-performed",
    "display": "Not Performed",
}


def as_one(report: FilmReport, encounter: str | None = None) -> Resource:
    """The DiagnosticReport with its Observations and Device contained; `encounter` is a reference."""
    observations = _observations(report, "#model")
    for one in observations:
        one.pop("identifier")
    found = _diagnostic_report(report, [f"#{one['id']}" for one in observations])
    if encounter:
        found["encounter"] = {"reference": encounter}
    return {"resourceType": "DiagnosticReport", "contained": [_device(report, "model"), *observations], **found}


def provenance(report: FilmReport, who: str | None, at: datetime) -> Resource:
    """Who made the report and who accepted it, naming the report by its identifier: the EHR gives it its id.

    who  reference of the clinician whose click wrote it, where the EHR said
    """
    target = {"type": "DiagnosticReport", "identifier": _identifier(name_of(report))}
    return {**_provenance(report, who, at, target, "#model"), "contained": [_device(report, "model")]}


def as_transaction(report: FilmReport, who: str | None, at: datetime) -> Resource:
    """A Bundle that creates everything, and what is there already not once more."""
    device = f"urn:uuid:{device_uuid(report)}"
    observations = _observations(report, device)
    urls = [f"urn:uuid:{name_of(report, one.pop('id'))}" for one in observations]
    url = f"urn:uuid:{name_of(report)}"
    diagnostic = {"resourceType": "DiagnosticReport", **_diagnostic_report(report, urls)}
    entries = [
        _created(device, _device(report), f"identifier={MODEL}|{report.digest}"),
        *(_created(own, one, f"identifier={URI}|{own}") for own, one in zip(urls, observations, strict=True)),
        _created(url, diagnostic, f"identifier={URI}|{url}"),
        _created(f"urn:uuid:{name_of(report, 'provenance')}", _provenance(report, who, at, {"reference": url}, device)),
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _created(url: str, resource: Resource, unless: str | None = None) -> Resource:
    request = {"method": "POST", "url": resource["resourceType"], **({"ifNoneExist": unless} if unless else {})}
    return {"fullUrl": url, "resource": resource, "request": request}


def _identifier(name: uuid.UUID) -> Resource:
    return {"system": URI, "value": f"urn:uuid:{name}"}


def _own(code: str, text: str) -> Resource:
    return {"coding": [{"system": OWN, "code": code.replace(" ", "-"), "display": text}], "text": text}


def _diagnostic_report(report: FilmReport, results: list[str]) -> Resource:
    study = find_imaging_order(report.study.codes) if report.study is not None else None
    code = study.loinc if study is not None and (study.modality, study.region) == ("DX", "chest") else CHEST_FILM
    return {
        "identifier": [_identifier(name_of(report))],
        "status": "preliminary",
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]},
            _own(ESTIMATE, "Estimates of a model, research use"),
        ],
        "code": {"coding": [{"system": LOINC, "code": code}], "text": "Chest film, estimates of a model"},
        **_of_film(report),
        "issued": report.as_of.isoformat(),
        **({"result": [{"reference": url} for url in results]} if results else {}),
        "imagingStudy": [{"reference": report.film.source.reference}],
        "conclusion": write_report(report).text(),
    }


def _of_film(report: FilmReport) -> Resource:
    return {
        "subject": {"reference": f"Patient/{report.patient_id}"},
        "effectiveDateTime": report.film.at.isoformat(),
    }


def _observations(report: FilmReport, device: str) -> list[Resource]:
    """One for each statement and one for the heart's width, each with an `id` (the finding) for whoever nests them."""
    made = [_observation(report, statement, device) for statement in report.statements]
    if report.ctr is not None:
        heart = _base(report, "cardiothoracic-ratio", device, (report.film.source.reference,), report.ctr_why)
        heart["code"] = _own("cardiothoracic-ratio", "Cardiothoracic ratio")
        heart["valueQuantity"] = _quantity(report.ctr, "ratio", "{ratio}")
        made.append(heart)
    return made


def _base(report: FilmReport, id_: str, device: str, evidence: tuple[str, ...], why: str | None = None) -> Resource:
    imaging = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging"}
    return {
        "resourceType": "Observation",
        "id": id_,
        "identifier": [_identifier(name_of(report, id_))],
        "status": "preliminary",
        "category": [{"coding": [imaging]}],
        **_of_film(report),
        "issued": report.as_of.isoformat(),
        "device": {"reference": device},
        "derivedFrom": [{"reference": reference} for reference in evidence],
        "note": [{"text": text} for text in (why, RESEARCH) if text],
    }


def _observation(report: FilmReport, statement: Statement, device: str) -> Resource:
    term = statement.term
    made = _base(report, term.finding, device, statement.evidence)
    made["code"] = {
        "coding": [{"system": SYSTEMS[term.scheme], "code": term.code, "display": term.meaning}],
        "text": term.title,
    }
    if statement.probability is None:
        unknown = {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}
        made["dataAbsentReason"] = {"coding": [unknown], "text": statement.why or "not assessed"}
        return made
    made["valueCodeableConcept"] = _own(statement.certainty, spoken(statement.certainty))
    if where(statement):
        lung = {"system": SYSTEMS["SCT"], "code": "39607008", "display": "Lung"}
        made["bodySite"] = {"coding": [lung], "text": where(statement)}
    components = [{"code": _own("probability", "Probability"), "valueQuantity": _probability(statement.probability)}]
    if statement.interval is not None:
        low, high = statement.interval
        span = {"low": _probability(low), "high": _probability(high)}
        components.append({"code": _own("probability-interval", "90% interval of the probability"), "valueRange": span})
    if report.prior is not None and statement.prior is not None:
        name = f"Probability on the film of {report.prior.at:%Y-%m-%d %H:%M}"
        components.append({"code": _own("prior-probability", name), "valueQuantity": _probability(statement.prior)})
    if report.prior is not None and statement.change is not None:
        name = f"Course since the film of {report.prior.at:%Y-%m-%d %H:%M}"
        components.append(
            {"code": _own("course", name), "valueCodeableConcept": _own(statement.change, statement.change)}
        )
    components.append({"code": SEVERITY, "dataAbsentReason": {"coding": [NOT_PERFORMED], "text": "not graded"}})
    made["component"] = components
    return made


def _probability(value: float) -> Resource:
    return _quantity(value, "probability", "1")


def _quantity(value: float, unit: str, code: str) -> Resource:
    return {"value": round(value, 4), "unit": unit, "system": UCUM, "code": code}


def _device(report: FilmReport, id_: str | None = None) -> Resource:
    return {
        "resourceType": "Device",
        **({"id": id_} if id_ else {}),
        "identifier": [{"system": MODEL, "value": report.digest}],
        "status": "active",
        "deviceName": [{"name": report.model, "type": "model-name"}],
        "type": {"text": "Chest film model"},
        "version": [{"value": report.digest}],
        "note": [{"text": RESEARCH}],
    }


def _provenance(report: FilmReport, who: str | None, at: datetime, target: Resource, device: str) -> Resource:
    def agent(role: str, reference: str) -> Resource:
        system = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
        return {"type": {"coding": [{"system": system, "code": role}]}, "who": {"reference": reference}}

    films = [f.source.reference for f in (report.film, report.prior) if f is not None]
    return {
        "resourceType": "Provenance",
        "target": [target],
        "recorded": at.isoformat(),
        "agent": [agent("author", device), *([agent("enterer", who)] if who else [])],
        "entity": [{"role": "source", "what": {"reference": reference}} for reference in dict.fromkeys(films)],
    }
