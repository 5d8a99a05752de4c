"""A record becomes tensors: the same patient the same tensors, and nothing that does not count moves them."""

from __future__ import annotations

import math
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_mappers.codes import ICD10CM, LOINC, RXNORM, UCUM
from fhir_mappers.read import read_record
from fhir_mappers.record import Image, PatientRecord, Person, Source
from fhir_mappers.tensors import SCALED_LIMIT, film_tensor, scale_lab, to_fusion_input
from models.contract import SIGNALS, FusionInput, ImageSpec, InputSpec, LabFeature

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
SPEC = InputSpec(
    image=ImageSpec(size=16, films=2),
    labs=(
        LabFeature("creatinine", "mg/dL", mean=math.log1p(1.0), std=0.5, log=True),
        LabFeature("sodium", "mmol/L", mean=140.0, std=4.0),
        LabFeature("temperature", "Cel", mean=37.0, std=1.0),
    ),
    history=("heart_failure", "diabetes", "metformin"),
    genomics=("EGFR:p.Leu858Arg",),
    targets=(),
    labs_lookback_h=24.0 * 30,
    labs_max=64,
)
SUBJECT = {"reference": "Patient/p1"}


def lab(
    id_: str, code: str = "2160-0", value: Any = 1.0, unit: str = "mg/dL", hours: float = 1.0, **more: Any
) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": code}]},
        "subject": SUBJECT,
        "effectiveDateTime": (AS_OF - timedelta(hours=hours)).isoformat(),
        "valueQuantity": {"value": value, "unit": unit, "system": UCUM, "code": unit},
    } | more


def condition(id_: str, code: str, status: str = "active", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": id_,
        "clinicalStatus": {"coding": [{"code": status}]},
        "code": {"coding": [{"system": ICD10CM, "code": code}]},
        "subject": SUBJECT,
    } | more


CHART: list[dict[str, Any]] = [
    {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1960-03-10"},
    lab("o1", value=2.0, hours=2),
    lab("o2", "2951-2", 128, "mmol/L", hours=2),
    lab("o3", "8310-5", 38.5, "Cel", hours=26),
    condition("c1", "I50.9", onsetDateTime="2026-03-09T14:00:00Z"),
    condition("c2", "E11.9", "resolved"),
    {
        "resourceType": "MedicationRequest",
        "id": "m1",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "6809"}]},
        "subject": SUBJECT,
    },
]


def tensors(*resources: dict[str, Any]) -> FusionInput:
    return to_fusion_input(read_record(resources, as_of=AS_OF, patient_id="p1"), SPEC)


def assert_same(a: FusionInput, b: FusionInput) -> None:
    assert a.used == b.used
    for name in SIGNALS:
        for field in ("code", "values", "age_h", "seen"):
            np.testing.assert_array_equal(
                getattr(a.signals[name], field), getattr(b.signals[name], field), f"{name}.{field}"
            )


def test_labs_are_scaled_flagged_and_aged_newest_first() -> None:
    signal = tensors(*CHART).signals["labs"]
    assert signal.code.tolist() == [1, 2, 3]  # creatinine and sodium of two hours ago, then yesterday's temperature
    assert signal.age_h.tolist() == [2.0, 2.0, 26.0]
    # creatinine (log1p 2 - log1p 1) / 0.5 = 0.811, above 1.04 mg/dL for a woman; sodium (128 - 140) / 4 = -3, below
    np.testing.assert_allclose(signal.values[:, 0], [0.811, -3.0, 1.5], atol=1e-3)
    assert signal.values[:, 1].tolist() == [0.0, 1.0, 0.0]
    assert signal.values[:2, 2].tolist() == [1.0, 0.0]
    assert signal.seen.all()


def test_history_says_what_is_still_active_and_how_long_ago_it_began() -> None:
    signal = tensors(*CHART).signals["history"]
    found = dict(
        zip(signal.code.tolist(), zip(signal.values[:, 0].tolist(), signal.age_h.tolist(), strict=True), strict=True)
    )
    assert found[1] == (1.0, 24.0)
    assert (found[2][0], found[3][0]) == (0.0, 1.0)


def test_used_names_the_resource_behind_every_slot() -> None:
    used = tensors(*CHART).used
    assert used["labs"] == ("Observation/o1", "Observation/o2", "Observation/o3")
    assert set(used["history"]) == {"Condition/c1", "Condition/c2", "MedicationRequest/m1"}


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_resources_does_not_change_the_tensors(shuffler: random.Random) -> None:
    shuffled = list(CHART)
    shuffler.shuffle(shuffled)
    assert_same(tensors(*shuffled), tensors(*CHART))


@given(st.floats(0.2, 5000), st.floats(0.1, 30))
def test_a_result_dated_after_the_order_does_not_change_the_input(hours: float, value: float) -> None:
    assert_same(tensors(*CHART, lab("o9", value=value, hours=-hours)), tensors(*CHART))


@given(st.floats(0.1, 30), st.sampled_from(["p2", "p11", "P1", ""]))
def test_another_patient_s_result_does_not_change_the_input(value: float, patient: str) -> None:
    stray = lab("o9", value=value, subject={"reference": f"Patient/{patient}"})
    assert_same(tensors(*CHART, stray), tensors(*CHART))


@given(
    st.sampled_from(["status", "effectiveDateTime", "valueQuantity", "component"]), st.integers() | st.text(max_size=3)
)
def test_a_broken_result_does_not_change_the_input(field: str, junk: Any) -> None:
    assert_same(tensors(*CHART, lab("o9", **{field: junk})), tensors(*CHART))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("2160-0", 2.0, "mg/dL"), ("2160-0", 176.806, "umol/L")),
        (("8310-5", 38.5, "Cel"), ("8310-5", 101.3, "[degF]")),
        (("2951-2", 128, "mmol/L"), ("2951-2", 128, "meq/L")),
    ],
)
def test_the_same_value_in_another_unit_gives_the_same_token(
    one: tuple[str, float, str], other: tuple[str, float, str]
) -> None:
    values = [tensors(CHART[0], lab("o1", *x)).signals["labs"].values for x in (one, other)]
    np.testing.assert_allclose(values[0], values[1], atol=1e-4)


def test_a_result_older_than_the_look_back_is_left_out_and_the_newest_stay() -> None:
    assert not tensors(CHART[0], lab("o1", hours=24 * 30 + 1)).signals["labs"].seen.any()
    many = [lab(f"o{i}", value=1.0, hours=i + 1) for i in range(100)]
    signal = tensors(CHART[0], *many).signals["labs"]
    assert len(signal.seen) == SPEC.labs_max
    assert signal.age_h.max() == SPEC.labs_max


def test_no_film_and_no_gene_are_unseen_slots_of_the_right_shape() -> None:
    signals = tensors(*CHART).signals
    assert signals["imaging"].values.shape == (1, 1, 16, 16)
    assert not signals["imaging"].seen.any()
    assert not signals["genomics"].seen.any()
    assert tensors(*CHART).present() == {"labs", "history"}


@pytest.mark.parametrize(
    ("patient", "code", "values"),
    [
        ({"gender": "female", "birthDate": "1960-03-10"}, 1, [6.6, 1, 0]),
        ({"gender": "male"}, 2, [0, 0, 1]),
        ({"birthDate": "1960"}, 1, [6.55, 0, 0]),  # 65 or 66
        ({}, 0, [0, 0, 0]),
    ],
)
def test_age_and_sex_are_context_and_a_missing_age_is_no_newborn(
    patient: dict[str, Any], code: int, values: list[float]
) -> None:
    signal = tensors({"resourceType": "Patient", "id": "p1"} | patient).signals["context"]
    assert signal.code.tolist() == [code]
    np.testing.assert_allclose(signal.values[0], values, atol=1e-6)
    assert signal.seen.tolist() == [code != 0]


@given(st.floats(-1e12, 1e12))
def test_a_scaled_value_stays_within_its_limit(value: float) -> None:
    for feature in SPEC.labs:
        assert -SCALED_LIMIT <= scale_lab(feature, value) <= SCALED_LIMIT


def film(pixels: Any, view: str = "PA", hours: float = 1) -> Image:
    return Image(
        np.asarray(pixels, np.float32),
        view,
        AS_OF - timedelta(hours=hours),
        f"1.2.{hours}",
        "1.2",
        Source("ImagingStudy/s"),
    )


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 3), st.floats(-1, 1))
def test_a_film_keeps_its_shape_and_does_not_depend_on_brightness_or_contrast(
    height: int, width: int, slope: float, offset: float
) -> None:
    pixels = np.random.default_rng(height * 61 + width).random((height, width), np.float32)
    tensor = film_tensor(film(pixels), 16)
    assert tensor.shape == (16, 16)
    assert 0.0 <= tensor.min() <= tensor.max() <= 1.0
    np.testing.assert_allclose(film_tensor(film(pixels * slope + offset), 16), tensor, atol=2e-3)


def test_a_wide_film_is_padded_above_and_below_and_a_blank_one_is_black() -> None:
    tensor = film_tensor(film(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))), 16)
    assert (tensor[:4] == 0).all()
    assert (tensor[12:] == 0).all()
    assert tensor[8, -1] > tensor[8, 0]
    assert (film_tensor(film(np.full((9, 9), 0.4)), 16) == 0).all()


def test_the_newest_films_come_with_their_view_and_age() -> None:
    films = tuple(film(np.eye(8), view, hours) for view, hours in (("AP", 1), ("odd", 5), ("PA", 9)))
    record = PatientRecord(Person("p1", "male", None, None), AS_OF, images=films)
    result = to_fusion_input(record, SPEC)
    assert result.signals["imaging"].code.tolist() == [
        3,
        1,
    ]  # AP is the third view of the spec; what it lacks is unknown
    assert result.signals["imaging"].age_h.tolist() == [1.0, 5.0]
    assert result.used["imaging"] == ("1.2.1", "1.2.5")


def test_ten_thousand_results_are_read_in_a_time_we_print(capsys: pytest.CaptureFixture[str]) -> None:
    chart = [CHART[0], *(lab(f"o{i}", value=1 + i % 7 / 10, hours=i / 20) for i in range(10_000))]
    began = time.perf_counter()
    record = read_record(chart, as_of=AS_OF, patient_id="p1")
    read = time.perf_counter()
    signal = to_fusion_input(record, SPEC).signals["labs"]
    with capsys.disabled():
        laid_ms = 1000 * (time.perf_counter() - read)
        print(f"\n10,000 results: read in {read - began:.2f} s, laid out in {laid_ms:.1f} ms")
    assert len(record.labs) == 10_000
    assert signal.seen.sum() == SPEC.labs_max
