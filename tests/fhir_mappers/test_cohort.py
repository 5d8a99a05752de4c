"""Generated patients: what is written down is what was generated, and the truth is exact."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from fhir.resources.R4B import get_fhir_model_class
from sklearn.metrics import roc_auc_score

from fhir_mappers.codes import drug_concepts, find_drugs, lab_codes
from fhir_mappers.cohort.anatomy import Build, Pose
from fhir_mappers.cohort.dicom import dicom_bytes, write_dicom
from fhir_mappers.cohort.exposure import Exposure
from fhir_mappers.cohort.facts import CONDITIONS, GeneratedPatient
from fhir_mappers.cohort.films import Nodule, Opacity, Signs, draw_film
from fhir_mappers.cohort.patients import LUNG_TOXIC, NOT_LUNG_TOXIC, PRINTED, generate, printed


@pytest.fixture(scope="module")
def cohort() -> list[GeneratedPatient]:
    return list(generate(3000, seed=11))


@pytest.fixture(scope="module")
def few(cohort: list[GeneratedPatient]) -> list[GeneratedPatient]:
    return [p for p in cohort if p.films][:40]


def test_a_patient_depends_on_the_seed_and_its_number_alone() -> None:
    whole = list(generate(6, seed=5))
    part = list(generate(2, seed=5, start=4))
    assert [p.resources for p in whole[4:]] == [p.resources for p in part]
    assert whole[4].resources != next(generate(1, seed=6, start=4)).resources
    for a, b in zip(whole[4].films, part[0].films, strict=True):
        assert np.array_equal(a.film.pixels, b.film.pixels)


def test_every_resource_is_valid_r4(few: list[GeneratedPatient]) -> None:
    for patient in few:
        for resource in patient.resources:
            get_fhir_model_class(resource["resourceType"]).model_validate(resource)


def test_a_cohort_has_every_kind_of_resource_the_services_read(cohort: list[GeneratedPatient]) -> None:
    kinds = {r["resourceType"] for p in cohort[:300] for r in p.resources}
    assert kinds == {
        "Patient",
        "Encounter",
        "Condition",
        "Observation",
        "MedicationRequest",
        "AllergyIntolerance",
        "ServiceRequest",
        "ImagingStudy",
        "DiagnosticReport",
    }


def test_ids_are_unique_and_everything_names_its_patient(few: list[GeneratedPatient]) -> None:
    references = [f"{r['resourceType']}/{r['id']}" for p in few for r in p.resources]
    assert len(references) == len(set(references))
    for patient in few:
        for resource in patient.resources[1:]:
            subject = resource.get("subject") or resource["patient"]
            assert subject["reference"] == f"Patient/{patient.id}"


def test_nothing_in_a_chart_is_later_than_its_moment(cohort: list[GeneratedPatient]) -> None:
    for p in cohort:
        times = [x.at for x in p.labs] + [x.at for x in p.films] + [x.since for x in p.drugs]
        times += [x.onset for x in p.conditions] + [x.at for x in p.genes]
        assert all(at <= p.as_of for at in times)


def test_creatinine_of_one_milligram_is_printed_as_88_micromoles() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert (printed("creatinine", 1.0, at, 1).value, printed("creatinine", 1.0, at, 1).unit) == (88, "umol/L")
    assert (printed("temperature", 37.0, at, 1).value, printed("temperature", 37.0, at, 1).unit) == (98.6, "[degF]")


def test_no_result_is_outside_what_its_table_accepts(cohort: list[GeneratedPatient]) -> None:
    units = set()
    for patient in cohort:
        for fact in patient.labs:
            low, high = fact.code.reject
            assert low is None or fact.canonical >= low, fact
            assert high is None or fact.canonical <= high, fact
            units.add((fact.loinc, fact.unit))
    assert {(loinc, unit) for options in PRINTED.values() for loinc, unit, _ in options} == units
    assert {lab_codes()[loinc].analyte for loinc, _ in units} == set(PRINTED)


def test_drugs_called_lung_toxic_are_those_the_table_tags() -> None:
    from fhir_mappers.cohort.facts import drug

    def tagged(ingredient: str) -> bool:
        codes = (("http://www.nlm.nih.gov/research/umls/rxnorm", drug(ingredient).rxcui),)
        assert find_drugs(codes)
        return "pulmonary_toxicity" in drug_concepts(codes)

    assert all(tagged(name) for name, _ in LUNG_TOXIC)
    assert not any(tagged(name) for name, _ in NOT_LUNG_TOXIC)
    assert len({code for code, _ in CONDITIONS.values()}) == len(CONDITIONS)


# ---------------------------------------------------------------------------------------------------------- films

PLAIN = (Build(texture=3), Pose(), Exposure(noise=0.0))


@pytest.mark.parametrize(
    ("sign", "signs"),
    [
        ("opacity", Signs(opacities=(Opacity("right", "lower", 0.8, 0.5),))),
        ("effusion", Signs(effusions=(("left", 0.4),))),
        ("pneumothorax", Signs(pneumothorax=("right", 0.5))),
        ("nodule", Signs(nodule=Nodule("left", "upper", 12))),
    ],
)
def test_a_sign_changes_the_film_where_its_mask_is_and_nowhere_far_from_it(sign: str, signs: Signs) -> None:
    from scipy import ndimage

    without, film = draw_film(Signs(), *PLAIN, size=256), draw_film(signs, *PLAIN, size=256)
    change = film.pixels - without.pixels
    mask = film.masks[sign]
    side = mask[:, :128] if getattr(signs, "pneumothorax", None) or signs.opacities else mask[:, 128:]
    assert side.sum() > 0.98 * mask.sum() > 40  # the patient's right is on the left of the film
    assert (change[mask].mean() < -0.02) if sign == "pneumothorax" else (change[mask].mean() > 0.05)
    if sign != "pneumothorax":  # a collapsed lung is denser everywhere on its side
        near = ndimage.binary_dilation(mask, iterations=8)
        assert np.abs(change[~near]).max() < 0.06


def test_a_larger_effusion_covers_more_of_the_lung() -> None:
    areas = [draw_film(Signs(effusions=(("right", v),)), *PLAIN).masks["effusion"].sum() for v in (0.1, 0.3, 0.6, 0.9)]
    assert areas == sorted(areas)
    assert areas[0] > 0


def test_labels_of_findings_are_what_the_masks_show(few: list[GeneratedPatient]) -> None:
    for patient in few:
        assert patient.truth is not None
        masks = patient.films[0].film.masks
        for finding in ("opacity", "effusion", "pneumothorax", "nodule"):
            shown = finding in masks and masks[finding].sum() >= 10
            assert patient.truth.labels[f"finding.{finding}"] == shown, (patient.id, finding)  # type: ignore[index]


def test_cardiomegaly_can_be_measured_with_a_ruler(cohort: list[GeneratedPatient]) -> None:
    """Heart wider than half of the thorax on a PA film (Danzer 1919), both measured on the masks."""
    checked = 0
    for patient in cohort:
        if not patient.films or patient.films[0].pose.view == "AP" or checked == 60:
            continue
        checked += 1
        masks = patient.films[0].film.masks
        heart, thorax = (np.flatnonzero(masks[m].any(axis=0)) for m in ("heart", "lungs"))
        ratio = (heart[-1] - heart[0]) / (thorax[-1] - thorax[0])
        assert patient.truth is not None
        assert (ratio > 0.5) == patient.truth.labels["finding.cardiomegaly"], ratio
    assert checked == 60


def test_a_larger_film_shows_the_same_patient() -> None:
    signs = Signs(opacities=(Opacity("left", "mid", 0.9, 0.6),), effusions=(("right", 0.3),))
    small, large = draw_film(signs, *PLAIN, size=256), draw_film(signs, *PLAIN, size=768)
    shrunk = large.pixels.reshape(256, 3, 256, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.pixels.ravel(), shrunk.ravel())[0, 1] > 0.99
    assert large.masks["opacity"].mean() == pytest.approx(small.masks["opacity"].mean(), rel=0.05)


# ---------------------------------------------------------------------------------------------------------- DICOM


def test_a_dicom_file_holds_exactly_the_drawn_pixels(few: list[GeneratedPatient]) -> None:
    patient = few[0]
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(patient, 0)))
    assert (ds.BitsAllocated, ds.BitsStored, ds.PhotometricInterpretation) == (16, 12, "MONOCHROME2")
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    # LINEAR window, PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5)
    x = ds.pixel_array.astype(np.float64)
    shown = (x - (float(ds.WindowCenter) - 0.5)) / (float(ds.WindowWidth) - 1) + 0.5
    assert np.abs(shown - patient.films[0].film.pixels).max() < 1e-6
    assert float(ds.PixelSpacing[0]) * ds.Rows == pytest.approx(430.0, abs=0.01)


def test_dicom_and_fhir_name_the_same_study_with_uids_under_2_25(few: list[GeneratedPatient]) -> None:
    for patient in few[:10]:
        studies = [r for r in patient.resources if r["resourceType"] == "ImagingStudy"]
        assert len(studies) == len(patient.films)
        for index, study in enumerate(studies):
            ds = write_dicom(patient, index)
            series = study["series"][0]
            assert study["identifier"][0]["value"] == f"urn:oid:{ds.StudyInstanceUID}"
            assert (series["uid"], series["instance"][0]["uid"]) == (ds.SeriesInstanceUID, ds.SOPInstanceUID)
            for uid in (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID):
                assert uid.startswith("2.25.")
                assert len(uid) <= 64
            assert ds.ViewPosition == patient.films[index].pose.view


def test_a_report_says_what_is_on_its_film(few: list[GeneratedPatient]) -> None:
    words = {"opacity": ("consolidation", "opacity"), "effusion": ("effusion",), "pneumothorax": ("pneumothorax",)}
    read = [f for p in few for f in p.films if f.report is not None]
    assert len(read) > 15
    for film in read:
        for sign, names in words.items():
            assert any(n in film.report for n in names) == (sign in film.film.masks), film.report
    assert all(f.report is not None for p in few for f in p.films[1:])


# ------------------------------------------------------------------------------------------------------- the truth


def _labels(cohort: list[GeneratedPatient], target: str) -> tuple[list[bool], list[float], list[GeneratedPatient]]:
    asked = [p for p in cohort if p.truth and target in p.truth.labels]
    return (
        [p.truth.labels[target] for p in asked],  # type: ignore[union-attr,index]
        [p.truth.optimal[target] for p in asked],  # type: ignore[union-attr,index]
        asked,
    )


def test_the_interaction_needs_all_three_modalities(cohort: list[GeneratedPatient]) -> None:
    """By hand from the joint table (latent.py): P(y) = 0.85 * 0.40 + 0.12 * 0.60 = 0.412. AUROC of all three:
    0.5 + (0.340 / 0.412 - 0.060 / 0.588) / 2 = 0.862; of the opacity alone:
    0.5 + (0.382 / 0.412 - 0.368 / 0.588) / 2 = 0.651.
    """
    y, optimal, asked = _labels(cohort, "drug_pneumonitis")
    states = [p.state for p in asked if p.state]
    alone = [
        roc_auc_score(y, [bool(s.signs.opacities) for s in states]),
        roc_auc_score(y, [s.lung_toxic for s in states]),
        roc_auc_score(y, [s.egfr for s in states]),
    ]
    assert np.mean(y) == pytest.approx(0.412, abs=0.05)
    assert roc_auc_score(y, optimal) == pytest.approx(0.862, abs=0.035)
    assert alone == pytest.approx([0.651] * 3, abs=0.04)


def test_what_the_truth_rests_on_can_be_read_in_the_chart(cohort: list[GeneratedPatient]) -> None:
    asked = [p for p in cohort if "drug_pneumonitis" in p.complete]
    assert len(asked) > 500
    for p in asked:
        toxic = any(d.ingredient in {name for name, _ in LUNG_TOXIC} for d in p.drugs)
        egfr = any(g.gene == "EGFR" for g in p.genes)
        assert p.state is not None
        assert p.truth is not None
        assert (toxic, egfr) == (p.state.lung_toxic, p.state.egfr)
        together = toxic and egfr and p.truth.labels["finding.opacity"]
        assert p.truth.optimal["drug_pneumonitis"] == (0.85 if together else 0.12)


def test_deterioration_is_as_frequent_as_its_probability_says(cohort: list[GeneratedPatient]) -> None:
    y, optimal, _ = _labels(cohort, "deterioration_24h")
    assert np.mean(y) == pytest.approx(np.mean(optimal), abs=0.02)
    assert 0.87 < roc_auc_score(y, optimal) < 0.94
    high = [label for label, p in zip(y, optimal, strict=True) if p > 0.5]
    assert np.mean(high) == pytest.approx(np.mean([p for p in optimal if p > 0.5]), abs=0.06)


def test_the_null_target_is_a_coin_nothing_predicts(cohort: list[GeneratedPatient]) -> None:
    y, _, asked = _labels(cohort, "null_control")
    assert np.mean(y) == pytest.approx(0.5, abs=0.04)
    assert roc_auc_score(y, [p.state.severity for p in asked if p.state]) == pytest.approx(0.5, abs=0.04)
    assert roc_auc_score(y, [p.state.age for p in asked if p.state]) == pytest.approx(0.5, abs=0.04)


def test_heart_or_gene_is_known_to_both_together_and_to_neither_alone(cohort: list[GeneratedPatient]) -> None:
    """By hand: halves of those asked have one of two, P(y) = 0.97 there and 0.03 elsewhere. AUROC of the optimum
    (1 + 0.97 - 0.03) / 2 = 0.97; of either alone 0.5.
    """
    y, optimal, asked = _labels(cohort, "heart_or_gene")
    large = [p.state.ctr > 0.5 for p in asked if p.state]
    slow = [any(g.gene == "CYP2D6" and g.value.startswith("Inter") for g in p.genes) for p in asked]
    with_genes = [i for i, p in enumerate(asked) if p.genes]
    assert np.mean(large) == pytest.approx(0.5, abs=0.04)
    assert roc_auc_score(y, optimal) == pytest.approx(0.97, abs=0.02)
    assert roc_auc_score(y, large) == pytest.approx(0.5, abs=0.05)
    assert roc_auc_score([y[i] for i in with_genes], [slow[i] for i in with_genes]) == pytest.approx(0.5, abs=0.05)
    for i in with_genes:
        assert optimal[i] == (0.97 if large[i] != slow[i] else 0.03)
