"""Stage, histology, trend, size and specimen of a tumour as FHIR and HL7 mCODE write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.codes import check_digit_ok
from fhir_mappers.read import read_record
from fhir_mappers.record import Coded, Gap, Lesion
from fhir_mappers.tumours import (
    DISEASE_STATUS,
    HISTOLOGY_EXTENSION,
    LONGEST,
    STAGE_GROUPS,
    TUMOUR_SIZE,
    histology,
    rank,
    read_genetic_report,
    read_tumour,
    stage_in,
    stage_of,
)

AS_OF = datetime(2026, 3, 10, 14, tzinfo=UTC)
LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"
AJCC = "http://cancerstaging.org"


def concept(system: str, code: str, **more: Any) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, **more}]}


def observation(code: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": "t1",
        "status": "final",
        "code": concept(LOINC, code),
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-05",
        **more,
    }


@pytest.mark.parametrize(
    ("written", "stage"),
    [
        ("IVA", "IVA"),
        ("Stage IVA", "IVA"),
        ("IVA1", "IVA"),
        ("4A", "IVA"),  # AJCC as mCODE's first release codes it
        ("3C", "IIIC"),
        ("cIIIB", "IIIB"),
        ("1222806003", "IIIC"),  # SNOMED CT, example of the mCODE guide
        ("IV", "IV"),
        ("0", "0"),
        ("IVA lung cancer", ""),
        ("not known", ""),
        ("", ""),
        ("IVD", ""),
    ],
)
def test_a_stage_group_is_read_whole_or_not_at_all(written: str, stage: str) -> None:
    assert stage_in(written) == stage


def test_stages_are_ordered_as_ajcc_orders_them() -> None:
    ordered = ["", "0", "I", "IA", "IB", "II", "IIA", "IIIA", "IIIB", "IIIC", "IV", "IVA", "IVB"]
    assert sorted(ordered, key=rank) == ordered


@pytest.mark.parametrize(
    "summary",
    [{"text": "IVA"}, concept(AJCC, "4A", display="IVA"), concept("urn:local", "st-9", display="IVA")],
)
def test_the_stage_of_a_condition_is_its_code_its_display_or_its_text(summary: dict[str, Any]) -> None:
    assert stage_of({"stage": [{"summary": summary}]}) == "IVA"
    assert stage_of({"stage": [{"summary": {"text": "IIB"}}, {"summary": summary}]}) == "IVA"
    assert stage_of({}) == ""
    assert stage_of({"stage": "IVA"}) == ""


def extension(code: str) -> list[dict[str, Any]]:
    return [{"url": HISTOLOGY_EXTENSION, "valueCodeableConcept": concept(SNOMED, code)}]


def test_histology_comes_from_the_mcode_extension_or_the_code_of_the_condition() -> None:
    lung = concept("http://hl7.org/fhir/sid/icd-10-cm", "C34.11")
    assert histology({"code": lung, "extension": extension("35917007")}) == "adenocarcinoma"
    assert histology({"code": concept(SNOMED, "254632001")}) == "small-cell"
    assert histology({"code": concept(SNOMED, "254637007"), "extension": extension("35917007")}) == "adenocarcinoma"
    assert histology({"code": concept(SNOMED, "254634000"), "extension": extension("35917007")}) == ""  # they disagree
    assert histology({"code": lung}) == ""


def test_the_loinc_codes_have_their_check_digits() -> None:
    assert all(check_digit_ok(code) for code in (*STAGE_GROUPS, DISEASE_STATUS, TUMOUR_SIZE, LONGEST))


def read(resource: dict[str, Any]) -> Coded | Lesion | Gap:
    (item,) = read_tumour(resource, AS_OF)
    return item


def size(value: float, unit: str, **more: Any) -> dict[str, Any]:
    part = {"code": concept(LOINC, LONGEST), "valueQuantity": {"value": value, "unit": unit, "code": unit}}
    return observation(TUMOUR_SIZE, **{"component": [part], "focus": [{"reference": "BodyStructure/b1"}], **more})


def test_a_longest_diameter_is_read_in_millimetres_with_the_tumour_it_belongs_to() -> None:
    found = read(size(3.8, "cm"))
    assert isinstance(found, Lesion)
    assert (found.name, found.diameter_mm) == ("b1", pytest.approx(38.0))


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        (size(3.8, "in"), "unknown-unit"),
        (size(3.8, "cm", status="preliminary"), "bad-status"),
        (size(3.8, "cm", focus=[]), "no-value"),
        (size(800, "mm"), "out-of-limits"),
        (size(3.8, "cm", effectiveDateTime="2026-03-20"), "future"),
        (size(3.8, "cm", effectiveDateTime=None), "no-time"),
        (observation(DISEASE_STATUS, valueCodeableConcept=concept(SNOMED, "1")), "no-value"),
        (observation("21908-9", valueCodeableConcept={"text": "late"}), "no-value"),
    ],
)
def test_what_cannot_be_used_leaves_a_gap(resource: dict[str, Any], code: str) -> None:
    found = read(resource)
    assert isinstance(found, Gap)
    assert found.code == code


def test_a_trend_says_whether_it_was_judged_on_images() -> None:
    url = "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-cancer-disease-status-evidence-type"
    worse = observation(DISEASE_STATUS, valueCodeableConcept=concept(SNOMED, "271299001"))
    seen = {**worse, "extension": [{"url": url, "valueCodeableConcept": concept(SNOMED, "363679005")}]}
    assert [read(r).meaning for r in (worse, seen)] == ["worse", "worse, imaging"]  # type: ignore[union-attr]


def gene(specimen: str | None) -> dict[str, Any]:
    link = {"specimen": {"reference": f"Specimen/{specimen}"}} if specimen else {}
    parts = [
        {"code": concept(LOINC, "48018-6"), "valueCodeableConcept": concept("urn:hgnc", "HGNC:3236")},
        {"code": concept(LOINC, "48002-0"), "valueCodeableConcept": concept(LOINC, "LA6684-0")},
    ]
    return observation("69548-6", component=parts, valueCodeableConcept=concept(LOINC, "LA9634-2"), **link)


def specimen(patient: str, code: str = "119361006") -> dict[str, Any]:
    return {
        "resourceType": "Specimen",
        "id": "sp1",
        "type": concept(SNOMED, code),
        "subject": {"reference": f"Patient/{patient}"},
    }


def test_a_gene_in_which_nothing_was_found_is_known_to_be_tested_and_from_what() -> None:
    patient = {"resourceType": "Patient", "id": "p1"}
    record = read_record([patient, gene("sp1"), specimen("p1")], as_of=AS_OF, patient_id="p1")
    (found,) = record.genes
    assert (found.gene, found.kind, found.origin, found.specimen) == ("EGFR", "none-found", "somatic", "plasma")
    assert found.concepts == frozenset()  # no model reads it
    assert not any(g.subject == "Specimen" for g in record.gaps)


def test_the_specimen_of_another_patient_says_nothing() -> None:
    patient = {"resourceType": "Patient", "id": "p1"}
    (found,) = read_record([patient, gene("sp1"), specimen("p2")], as_of=AS_OF, patient_id="p1").genes
    assert found.specimen == ""


@pytest.mark.parametrize(
    ("status", "meaning"), [("final", "final"), ("amended", "final"), ("registered", "pending"), ("partial", "pending")]
)
def test_a_genetic_report_is_final_or_pending_and_no_report_of_radiology(status: str, meaning: str) -> None:
    resource = {
        "resourceType": "DiagnosticReport",
        "id": "d1",
        "status": status,
        "code": concept(LOINC, "51969-4"),
        "subject": {"reference": "Patient/p1"},
        "issued": "2026-03-08T09:00:00Z",
    }
    found = read_genetic_report(resource, AS_OF)
    assert isinstance(found, Coded)
    assert (found.name, found.meaning) == ("genetic_report", meaning)
    record = read_record([{"resourceType": "Patient", "id": "p1"}, resource], as_of=AS_OF, patient_id="p1")
    assert record.reports == ()
    assert [c.name for c in record.coded] == ["genetic_report"]
