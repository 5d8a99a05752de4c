"""Generated charts through the ordinary mappers: the short way to a record equals the long one, and the demo's
scenarios say what they are meant to say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from fhir.resources.R4B import get_fhir_model_class

from fhir_mappers.cohort.dicom import dicom_bytes
from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.patients import generate
from fhir_mappers.cohort.records import to_record
from fhir_mappers.cohort.resources import study_id
from fhir_mappers.cohort.scenarios import demo_patients
from fhir_mappers.imaging import read_dicom_file
from fhir_mappers.read import read_record
from fhir_mappers.record import PatientRecord
from fhir_mappers.tensors import to_fusion_input
from models.contract import SIGNALS, ImageSpec, InputSpec, LabFeature

AS_OF = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)


def read(patient: GeneratedPatient) -> PatientRecord:
    films = [
        read_dicom_file(dicom_bytes(patient, i), f"ImagingStudy/{study_id(patient, i)}")
        for i, film in enumerate(patient.films)
        if film.archived
    ]
    drafts = patient.occasions[0].drafts if patient.occasions else ()
    return read_record(patient.resources, films, as_of=patient.as_of, patient_id=patient.id, drafts=drafts)


@pytest.fixture(scope="module")
def cohort() -> list[GeneratedPatient]:
    return list(generate(60, seed=21, film_px=192))


@pytest.fixture(scope="module")
def spec(cohort: list[GeneratedPatient]) -> InputSpec:
    records = [to_record(p) for p in cohort]
    units = {lab.analyte: lab.unit for r in records for lab in r.labs}
    return InputSpec(
        image=ImageSpec(size=128),
        labs=tuple(LabFeature(name, unit, mean=1.0, std=2.0, log=True) for name, unit in sorted(units.items())),
        history=tuple(sorted({c for r in records for e in r.events for c in e.concepts})),
        genomics=tuple(sorted({c for r in records for g in r.genes for c in g.concepts})),
        targets=(),
    )


def test_the_direct_record_gives_the_tensors_of_the_chart_read_as_fhir_and_dicom(
    cohort: list[GeneratedPatient], spec: InputSpec
) -> None:
    assert {"EGFR:p.Leu858Arg", "CYP2C19:Normal Metabolizer"} <= set(spec.genomics)
    assert {"lung_cancer", "heart_failure", "pulmonary_toxicity"} <= set(spec.history)
    for patient in cohort:
        direct, through = to_fusion_input(to_record(patient), spec), to_fusion_input(read(patient), spec)
        assert direct.used == through.used
        for name in SIGNALS:
            a, b = direct.signals[name], through.signals[name]
            assert np.array_equal(a.code, b.code), (patient.id, name)
            assert np.array_equal(a.seen, b.seen)
            assert np.allclose(a.age_h, b.age_h, atol=1e-4)
            assert np.allclose(a.values, b.values, atol=1e-5), (patient.id, name)


def test_nothing_of_a_generated_chart_is_a_gap(cohort: list[GeneratedPatient]) -> None:
    for patient in (*cohort, *demo_patients(AS_OF)):
        assert read(patient).gaps == (), patient.id


# ---------------------------------------------------------------------------------------------------- the scenarios


@pytest.fixture(scope="module")
def demo() -> dict[str, GeneratedPatient]:
    return {p.given.lower(): p for p in demo_patients(AS_OF)}


@pytest.fixture(scope="module")
def charts(demo: dict[str, GeneratedPatient]) -> dict[str, PatientRecord]:
    return {name: read(p) for name, p in demo.items()}


def test_the_demo_has_its_scenarios_and_everyone_is_called_demo(demo: dict[str, GeneratedPatient]) -> None:
    assert len(demo) >= 15
    assert {p.family for p in demo.values()} == {"Demo"}
    assert all(p.title and p.story and p.occasions for p in demo.values())


def test_every_scenario_is_valid_r4_with_its_drafts(demo: dict[str, GeneratedPatient]) -> None:
    for patient in demo.values():
        drafts = [d for o in patient.occasions for d in o.drafts]
        for resource in (*patient.resources, *drafts):
            get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        for occasion in patient.occasions:
            assert bool(occasion.drafts) == occasion.hook.startswith("order-")


def test_scenarios_move_with_the_clock(demo: dict[str, GeneratedPatient]) -> None:
    later = demo_patients(AS_OF + timedelta(days=400))
    for before, after in zip(demo.values(), later, strict=True):
        shifted = [replace(x, at=x.at + timedelta(days=400)) for x in before.labs]
        assert shifted == list(after.labs)
        assert [f.exposure for f in before.films] == [f.exposure for f in after.films]
    with pytest.raises(ValueError, match="time zone"):
        demo_patients(datetime(2026, 1, 1))


def egfr(record: PatientRecord) -> float:
    """CKD-EPI 2021, written out here from the paper's formula: independent of the service's own."""
    creatinine, ages = record.latest("creatinine"), record.age_years()
    assert creatinine is not None
    assert ages is not None
    female = record.person.sex == "female"
    k, a = (0.7, -0.241) if female else (0.9, -0.302)
    ratio = creatinine.value / k
    value = 142 * min(ratio, 1) ** a * max(ratio, 1) ** -1.2 * 0.9938 ** ages[0]
    return value * (1.012 if female else 1.0)


def test_kidney_scenarios_have_the_kidneys_they_are_named_after(charts: dict[str, PatientRecord]) -> None:
    assert round(egfr(charts["alder"])) == 26  # vignette S01: 2.6 mg/dL, male, 67 years
    assert charts["alder"].active("metformin")
    assert round(egfr(charts["fir"])) == 18  # 240 umol/L, female, 71 years
    assert egfr(charts["hazel"]) > 90
    assert charts["cedar"].active("dialysis")
    assert charts["elm"].latest("creatinine", within=timedelta(days=30)) is None
    assert charts["elm"].active("renal")
    newest, *_, baseline = charts["birch"].results("creatinine")
    assert newest.value / baseline.value >= 2.0  # KDIGO stage 2


NEWS2 = {"oak": 8, "pine": 5, "yew": 8}


def news2(record: PatientRecord) -> int:
    """Royal College of Physicians 2017, scale 1, for an alert patient: the chart's thresholds written out."""

    def value(name: str) -> float:
        lab = record.latest(name, within=timedelta(hours=1))
        assert lab is not None, name
        return lab.value

    rr, spo2, sbp, hr, temp = (value(n) for n in ("resp_rate", "spo2", "sbp", "heart_rate", "temperature"))
    score = 3 if rr <= 8 or rr >= 25 else 2 if rr >= 21 else 1 if rr <= 11 else 0
    score += 3 if spo2 <= 91 else 2 if spo2 <= 93 else 1 if spo2 <= 95 else 0
    score += 2 if value("o2_flow") > 0 else 0
    score += 3 if sbp <= 90 or sbp >= 220 else 2 if sbp <= 100 else 1 if sbp <= 110 else 0
    score += 3 if hr <= 40 or hr >= 131 else 2 if hr >= 111 else 1 if hr <= 50 or hr >= 91 else 0
    return score + (3 if temp <= 35.0 else 2 if temp >= 39.1 else 1 if temp <= 36.0 or temp >= 38.1 else 0)


@pytest.mark.parametrize("name", sorted(NEWS2))
def test_ward_scenarios_have_the_score_they_are_named_after(charts: dict[str, PatientRecord], name: str) -> None:
    assert news2(charts[name]) == NEWS2[name]
    assert any(c.meaning == "alert" for c in charts[name].coded)
    assert charts[name].encounter is not None
    assert charts[name].encounter.inpatient  # type: ignore[union-attr]


def test_film_scenarios_have_their_films(charts: dict[str, PatientRecord], demo: dict[str, GeneratedPatient]) -> None:
    assert len(charts["juniper"].images) == 2
    now, before = (f.signs for f in demo["juniper"].films)
    assert [(o.side, o.zone) for o in now.opacities] == [("right", "lower")]
    assert not before.opacities
    maple = charts["maple"]
    assert maple.age_of(maple.images[0].at) < timedelta(hours=2)
    unread = maple.studies[0].source.reference
    assert all(unread not in report.study_refs for report in maple.reports)
    assert charts["sumac"].studies
    assert not charts["sumac"].images
    assert charts["willow"].images
    assert not [x for x in charts["willow"].labs if x.kind == "lab"]


def test_the_lung_cancer_scenario_joins_imaging_drug_and_gene(charts: dict[str, PatientRecord]) -> None:
    record = charts["spruce"]
    assert record.active("pulmonary_toxicity")
    assert record.active("lung_cancer")
    assert [(g.gene, g.value, g.origin) for g in record.genes] == [("EGFR", "p.Leu858Arg", "somatic")]
    assert len(record.images) == 2
