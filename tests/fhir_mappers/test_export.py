"""Shards hold what serving would see: the same record, the same tensors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest

from fhir_mappers import export as exporting
from fhir_mappers.cohort.patients import generate
from fhir_mappers.export import export, fit_features
from fhir_mappers.read import read_record
from fhir_mappers.sources import Case, SourceError, load_sources
from fhir_mappers.sources.cohort import _case
from fhir_mappers.sources.films import read_hannover
from fhir_mappers.tensors import to_fusion_input
from models.contract import FusionInput, ImageSpec, InputSpec, LabFeature
from models.data import read_shard


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [
        replace(_case(p), split="valid" if i % 3 == 0 else "train") for i, p in enumerate(generate(12, 5, film_px=96))
    ]


@pytest.fixture(scope="module")
def folder(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    def read(_: Path) -> Iterator[Case]:
        yield from cases

    out = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "MIN_RESULTS", 2)
        export(out, out, sources=[replace(load_sources()["generated"], read=read, skim=None)], image_size=64)
    return out


def test_a_shard_gives_back_the_tensors_of_the_record(folder: Path, cases: list[Case]) -> None:
    shard = read_shard(folder / "generated.safetensors")
    assert len(shard) == 12
    for row, case in enumerate(cases):
        expected, found = to_fusion_input(case.record, shard.spec), shard.inputs(row)
        for name, signal in expected.signals.items():
            seen = signal.seen
            np.testing.assert_array_equal(found.signals[name].code[found.signals[name].seen], signal.code[seen])
            np.testing.assert_array_equal(found.signals[name].age_h[found.signals[name].seen], signal.age_h[seen])
            # Films are kept with 8 bits: half a grey level at most.
            tolerance = 0.5 / 255 + 1e-6 if name == "imaging" else 0.0
            values = found.signals[name].values[found.signals[name].seen]
            np.testing.assert_allclose(values, signal.values[seen], atol=tolerance, rtol=0.0)
        assert shard.example(row).split == case.split


def test_scales_and_vocabularies_know_nothing_of_validation_patients(folder: Path, cases: list[Case]) -> None:
    shard = read_shard(folder / "generated.safetensors")
    crp = next(f for f in shard.spec.labs if f.name == "crp")
    values = [x.value for c in cases if c.split == "train" for x in c.record.labs if x.analyte == "crp"]
    transformed = np.log1p(values) if crp.log else np.asarray(values)
    assert crp.mean == pytest.approx(float(np.mean(transformed)), abs=1e-5)
    assert crp.std == pytest.approx(float(np.std(transformed)), abs=1e-5)
    known = {c for case in cases if case.split == "train" for e in case.record.events for c in e.concepts}
    assert set(shard.spec.history) <= known


def test_a_long_right_tail_is_scaled_by_its_logarithm() -> None:
    rng = np.random.default_rng(0)
    found = {
        f.name: f
        for f in fit_features(
            {
                "crp": list(np.exp(rng.normal(2, 1.2, 500))),
                "sodium": list(rng.normal(139, 3, 500)),
                "base_excess": list(-np.exp(rng.normal(0, 1, 500)) + 1),
                "ferritin": [1.0, 2.0],
            }
        )
    }
    assert found["crp"].log
    assert found["crp"].mean == pytest.approx(2.1, abs=0.2)  # of log1p, near the 2 it was drawn with
    assert not found["sodium"].log
    assert not found["base_excess"].log  # below zero there is no logarithm
    assert "ferritin" not in found  # two results are no scale


def test_an_unknown_source_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no source 'mimic'; there are generated, hannover"):
        export(tmp_path, tmp_path, sources=["mimic"])


# ------------------------------------------------------------------------- one patient, as table and as FHIR + DICOM


@dataclass(frozen=True)
class Frame:
    """What DICOMweb gives: the frame's bytes and its metadata."""

    study_uid: str
    series_uid: str
    sop_uid: str
    metadata: dict[str, Any]
    frame: bytes
    transfer_syntax: str
    reference: str
    rendered: bool = False
    laterals: int = 0


SPEC = InputSpec(
    image=ImageSpec(size=192),
    labs=(
        LabFeature("crp", "mg/L", 3.0, 1.5, log=True),
        LabFeature("ldh", "U/L", 5.9, 0.5, log=True),
        LabFeature("lymphocytes", "10*3/uL", 1.2, 0.5),
        LabFeature("neutrophils", "10*3/uL", 6.0, 3.0),
        LabFeature("pco2_blood", "mm[Hg]", 44.0, 10.0),
        LabFeature("po2_blood", "mm[Hg]", 70.0, 30.0),
        LabFeature("ddimer_feu", "ng/mL{FEU}", 8.0, 1.0, log=True),
    ),
    history=(),
    genomics=(),
    targets=(),
)
LOSSLESS = ("explicit", "implicit", "deflated", "rle", "j2k_lossless", "jpegls_lossless")


def in_order(inputs: FusionInput) -> list[np.ndarray]:
    """Signals with their slots sorted: results of one minute have no order in either form."""
    arrays: list[np.ndarray] = []
    for name in ("labs", "context", "imaging"):
        s = inputs.signals[name]
        order = np.lexsort((s.values[:, 0], s.code, s.age_h)) if name == "labs" else np.arange(len(s.code))
        arrays += [s.code[order], s.values[order], s.age_h[order], s.seen[order]]
    return arrays


def dicom_frame(path: Path, reference: str) -> Frame:
    dataset = pydicom.dcmread(path)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    pixels = dataset.PixelData
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        pixels = next(pydicom.encaps.generate_frames(pixels, number_of_frames=1))
    metadata = dataset.to_json_dict(bulk_data_threshold=0, bulk_data_element_handler=lambda _: "http://archive/bulk")
    metadata.pop("7FE00010", None)
    return Frame(
        str(dataset.StudyInstanceUID),
        str(dataset.SeriesInstanceUID),
        str(dataset.SOPInstanceUID),
        metadata,
        bytes(pixels),
        syntax,
        reference,
    )


def test_the_training_table_and_the_fhir_bundle_of_a_patient_give_equal_tensors(shared: Path) -> None:
    data = shared / "data"
    manifest = pd.read_csv(data / "dicom" / "hannover_derived" / "manifest.csv")
    manifest = manifest[manifest["mode"].isin(LOSSLESS)]
    cases = {c.record.images[0].sop_uid: c for c in read_hannover(data / "cxr_hannover_paired")}
    compared = {"film": 0, "results": 0, "mode": set()}
    for row in manifest.itertuples(index=False):
        packed = (data / "fhir_hannover" / "bundles" / f"{row.patient_id}.json.gz").read_bytes()
        bundle = json.loads(gzip.decompress(packed))
        resources = [e["resource"] for e in bundle["entry"]]
        patient = next(r for r in resources if r["resourceType"] == "Patient")
        study = next(
            r for r in resources if r["resourceType"] == "ImagingStudy" and row.study_uid in json.dumps(r["identifier"])
        )
        as_of = datetime.fromisoformat(study["started"])
        frame = dicom_frame(data / "dicom" / "hannover_derived" / row.file, f"ImagingStudy/{study['id']}")
        known = [r for r in resources if r["resourceType"] != "ImagingStudy" or r is study]
        record = read_record(known, [frame], as_of=as_of, patient_id=patient["id"])
        case = cases[row.image_id]
        table = replace(case.record, images=case.record.images[:1])
        for found, expected in zip(
            in_order(to_fusion_input(record, SPEC)), in_order(to_fusion_input(table, SPEC)), strict=True
        ):
            np.testing.assert_array_equal(found, expected, err_msg=f"{row.image_id} ({row.mode})")
        compared["film"] += len(record.images)
        compared["results"] += len(record.labs)
        compared["mode"].add(row.mode)
    assert compared["film"] == len(manifest) == 18
    assert compared["results"] > 50
    assert compared["mode"] == set(LOSSLESS)
