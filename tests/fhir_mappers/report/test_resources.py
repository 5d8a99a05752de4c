"""A film's report as FHIR R4, validated by fhir.resources."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.device import Device
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.provenance import Provenance
from film_readings import NEW, NOON, OLD, assessment, estimate, film, reading, record, report

from fhir_mappers.read import read_record
from fhir_mappers.report.resources import as_one, as_transaction, provenance
from fhir_mappers.report.statements import FilmReport, report_film
from fhir_mappers.report.terms import COURSES, ZONES, terms
from fhir_mappers.report.text import write_report

KINDS = {
    "Bundle": Bundle,
    "Device": Device,
    "DiagnosticReport": DiagnosticReport,
    "Observation": Observation,
    "Provenance": Provenance,
}
AT = datetime(2026, 3, 10, 14, 5, tzinfo=UTC)


def validated(resource: dict[str, Any]) -> dict[str, Any]:
    KINDS[resource["resourceType"]].model_validate(resource)
    return resource


def effusion(**more: Any) -> FilmReport:
    answer = assessment(
        estimate("effusion", 0.88, 0.81, 0.93),
        estimate("atelectasis", None, why="Withheld."),
        prior=(estimate("effusion", 0.06),),
        read=reading({"effusion": "right_lower"}, {"effusion": "new"}, ctr=0.5432, ctr_why="AP film: overstated"),
        **more,
    )
    return report_film(record(NEW, OLD), answer, NEW, OLD)


def test_the_report_is_preliminary_radiology_of_this_film_and_no_person_interpreted_it() -> None:
    made = validated(as_one(effusion(), "Encounter/e1"))
    assert made["status"] == "preliminary"
    assert made["category"][0]["coding"][0]["code"] == "RAD"
    assert made["code"]["coding"] == [{"system": "http://loinc.org", "code": "36643-5"}]
    assert made["imagingStudy"] == [{"reference": "ImagingStudy/study1"}]
    assert made["effectiveDateTime"] == "2026-03-10T13:38:00+00:00"
    assert "resultsInterpreter" not in made
    assert made["conclusion"] == write_report(effusion()).text()
    assert made["conclusion"].endswith("Research use: not cleared, not for diagnosis.")


def test_each_finding_is_an_observation_with_certainty_probability_interval_place_and_course() -> None:
    made = as_one(effusion())
    found = {one["id"]: validated(one) for one in made["contained"] if one["resourceType"] == "Observation"}
    one = found["effusion"]
    assert one["code"]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "60046008",
        "display": "Pleural effusion",
    }
    assert one["valueCodeableConcept"]["text"] == "Probable"
    assert one["bodySite"]["text"] == "right lower zone"
    parts = {part["code"]["coding"][0]["code"]: part for part in one["component"]}
    # SNOMED CT 246112005 |Severity|; HL7 data-absent-reason.
    absent = parts["246112005"]["dataAbsentReason"]
    assert (absent["coding"][0]["code"], absent["text"]) == ("not-performed", "not graded")
    assert parts["probability"]["valueQuantity"]["value"] == 0.88
    assert parts["probability-interval"]["valueRange"]["low"]["value"] == 0.81
    assert parts["prior-probability"]["valueQuantity"]["value"] == 0.06
    assert parts["prior-probability"]["code"]["text"] == "Probability on the film of 2026-03-07 09:00"
    assert parts["course"]["valueCodeableConcept"]["text"] == "new"
    assert [ref["reference"] for ref in one["derivedFrom"]] == ["ImagingStudy/study1", "ImagingStudy/study2"]
    assert one["note"] == [{"text": "Research use: not cleared, not for diagnosis."}]
    assert found["atelectasis"]["dataAbsentReason"]["text"] == "Withheld."
    assert "valueCodeableConcept" not in found["atelectasis"]
    ratio = found["cardiothoracic-ratio"]
    assert ratio["valueQuantity"] == {
        "value": 0.5432,
        "unit": "ratio",
        "system": "http://unitsofmeasure.org",
        "code": "{ratio}",
    }
    assert ratio["note"][0]["text"] == "AP film: overstated"


def test_the_model_is_a_device_known_by_the_digest_of_its_weights() -> None:
    device = next(validated(one) for one in as_one(effusion())["contained"] if one["resourceType"] == "Device")
    assert device["identifier"] == [{"system": "urn:ordersight:model", "value": "a" * 64}]
    assert device["deviceName"][0]["name"] == "chest-open@1"


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("course", COURSES)
def test_every_zone_and_course_gives_valid_resources(zone: Any, course: Any) -> None:
    answer = assessment(
        *(estimate(name, 0.05 if course == "resolved" else 0.9) for name in terms()),
        prior=tuple(estimate(name, 0.5) for name in terms()),
        read=reading(dict.fromkeys(terms(), zone), dict.fromkeys(terms(), course)),
    )
    made = report_film(record(NEW, OLD), answer, NEW, OLD)
    validated(as_one(made))
    validated(as_transaction(made, "Practitioner/u1", AT))


@pytest.mark.parametrize(
    "made",
    [
        report_film(record(NEW), assessment(estimate("effusion", 0.9)), NEW, None),
        report_film(record(NEW), assessment(estimate("effusion", 0.9), read=reading()), NEW, None, (report(),)),
        report_film(record(film(view="LATERAL")), assessment(estimate("effusion", 0.9)), film(view="LATERAL"), None),
        report_film(record(NEW), assessment(estimate("effusion", None), unused={"imaging": "no chest"}), NEW, None),
    ],
    ids=["no prior", "final report", "lateral", "unusable"],
)
def test_a_film_with_little_to_say_gives_valid_resources_too(made: FilmReport) -> None:
    validated(as_one(made))
    validated(as_transaction(made, None, AT))
    assert "Course since" not in json.dumps(as_one(made))


def test_provenance_names_the_report_the_model_the_clinician_and_the_films() -> None:
    made = validated(provenance(effusion(), "Practitioner/u1", AT))
    assert made["target"][0]["identifier"] == as_one(effusion())["identifier"][0]
    roles = [(a["type"]["coding"][0]["code"], a["who"]["reference"]) for a in made["agent"]]
    assert roles == [("author", "#model"), ("enterer", "Practitioner/u1")]
    assert [e["what"]["reference"] for e in made["entity"]] == ["ImagingStudy/study1", "ImagingStudy/study2"]
    assert made["recorded"] == AT.isoformat()


def test_a_transaction_creates_each_thing_once_and_every_reference_in_it_leads_somewhere() -> None:
    bundle = validated(as_transaction(effusion(), "Practitioner/u1", AT))
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(urls) == len(set(urls))
    named = set(re.findall(r'"reference": "(urn:uuid:[^"]+)"', json.dumps(bundle)))
    assert named <= set(urls)
    for entry in bundle["entry"]:
        if entry["resource"]["resourceType"] != "Provenance":
            assert entry["request"]["ifNoneExist"].startswith("identifier=")
            assert entry["request"]["ifNoneExist"].split("|")[1] in json.dumps(entry["resource"])


def test_the_same_film_and_model_give_the_same_ids_and_another_model_others() -> None:
    assert as_transaction(effusion(), None, AT) == as_transaction(effusion(), None, AT)
    one, other = as_one(effusion()), as_one(effusion(model="chest-open@2"))
    assert one["identifier"] != other["identifier"]


def test_our_own_report_is_not_read_back_as_one_of_radiology() -> None:
    patient = {"resourceType": "Patient", "id": "p1"}
    ours = {**as_one(effusion()), "id": "r9"}
    theirs = {**ours, "id": "r8", "category": ours["category"][:1]}
    kept = read_record([patient, ours, theirs], (), as_of=NOON, patient_id="p1").reports
    assert [r.source.reference for r in kept] == ["DiagnosticReport/r8"]


def test_hostile_text_of_a_model_or_a_gate_makes_no_narrative_and_breaks_no_resource() -> None:
    hostile = "</div><script>alert(1)</script>\n## [x](javascript:1)"
    answer = assessment(estimate("effusion", None, why=hostile), model='chest"<b>@1')
    made = validated(as_one(report_film(record(NEW), answer, NEW, None)))
    # FHIR strings are plain text; only `text.div` would be rendered, and nothing of a record goes there.
    assert "text" not in made
    (one,) = (c for c in made["contained"] if c["resourceType"] == "Observation")
    assert one["dataAbsentReason"]["text"] == hostile
