"""LC-04 with the checkpoint the demo runs: film, genes and drug weighed by the model itself, not by a stand-in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from vignettes import ROOT, service

from cds_service.advice import load_advice
from cds_service.cards import Card
from cds_service.consult import Case
from cds_service.hooks import parse_hook_request
from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.records import to_record
from fhir_mappers.cohort.scenarios_chest import CHEST
from fhir_mappers.read import read_record
from fhir_mappers.tensors import to_fusion_input
from models.serving import Engine

CHECKPOINT = ROOT / "manifests" / "models" / "chest-generated"
AS_OF = datetime(2026, 3, 10, 14, tzinfo=UTC)
NAME = "lung-precision"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not (CHECKPOINT / "model.json").is_file():
        pytest.skip(f"no checkpoint at {CHECKPOINT}")
    loaded = Engine.load(CHECKPOINT, device="cpu", threads=1)
    yield loaded
    loaded.close()


def patient(id_: str) -> GeneratedPatient:
    return next(p for make in CHEST if (p := make(AS_OF)).id == id_)


def cards(engine: Engine, generated: GeneratedPatient, **changed: Any) -> list[Card]:
    """What opening this chart brings, the films drawn straight into the record."""
    record = read_record(generated.resources, as_of=AS_OF, patient_id=generated.id)
    record = dataclasses.replace(record, images=to_record(generated).images, **changed)
    inputs = to_fusion_input(record, engine.spec)
    assessment = engine.assess(inputs, timeout=30.0, targets=service(NAME).targets)
    call = {
        "hook": "patient-view",
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": {"patientId": generated.id, "userId": "Practitioner/u1"},
    }
    request = parse_hook_request(json.dumps(call).encode(), AS_OF)
    case = Case(service(NAME), request, record, assessment, (), "research_imaging", used=dict(inputs.used))
    return load_advice("lung_precision")(case)


def test_new_opacity_on_osimertinib_with_an_egfr_variant_is_called_possible_drug_pneumonitis(engine: Engine) -> None:
    (card,) = cards(engine, patient("demo-spruce"))
    assert card.indicator == "warning"
    assert "on osimertinib: possible drug pneumonitis; CT and hold drug." in card.summary
    detail = card.detail or ""
    assert "| EGFR p.Leu858Arg | pathogenic, somatic |" in detail
    moved = detail.partition("moved by ")[2].partition(". Model estimate")[0]
    assert {"genomic results", "chest film"} <= {
        part.rpartition(" ")[0].rpartition(" ")[0] for part in moved.split(", ")
    }
    assert "demonstration only" in detail


def test_the_same_film_without_a_lung_toxic_drug_brings_no_card(engine: Engine) -> None:
    generated = patient("demo-spruce")
    record = read_record(generated.resources, as_of=AS_OF, patient_id=generated.id)
    others = tuple(e for e in record.events if "pulmonary_toxicity" not in e.concepts)
    assert cards(engine, generated, events=others) == []


def test_a_new_opacity_without_lung_cancer_is_not_this_services_business(engine: Engine) -> None:
    assert cards(engine, patient("demo-juniper")) == []
