"""Severe pneumonia by IDSA/ATS 2007: one major criterion, or three minor ones."""

from __future__ import annotations

import pytest
from records import coded, drug, lab, person, record

from cds_service.advice.packs.severe_cap import severe_cap
from fhir_mappers.record import Coded, Lab

SOUND = (
    lab("resp_rate", 18),
    lab("spo2", 96),
    lab("o2_flow", 0),
    coded("avpu", "alert"),
    lab("bun", 14),
    lab("wbc", 9.1),
    lab("platelets", 230),
    lab("temperature", 37.4),
    lab("sbp", 128),
)


def with_(*items: Lab) -> tuple[Lab | Coded, ...]:
    new = {i.analyte: i for i in items}
    return tuple(new.get(i.analyte, i) if isinstance(i, Lab) else i for i in SOUND)


def test_a_sound_patient_is_certainly_not_severe_although_lobes_are_not_known() -> None:
    found = severe_cap(record(*SOUND))
    assert (found.minor.low, found.minor.high, found.severe) == (0, 1, False)
    assert found.minor.missing == ("infiltrates in several lobes",)


@pytest.mark.parametrize(
    ("item", "met"),
    [
        (lab("resp_rate", 30), 1),
        (lab("resp_rate", 29), 0),
        (lab("bun", 20), 1),  # urea nitrogen >= 20 mg/dL
        (lab("bun", 19.9), 0),
        (lab("wbc", 3.9), 1),
        (lab("wbc", 4.0), 0),
        (lab("platelets", 99), 1),
        (lab("platelets", 100), 0),
        (lab("temperature", 35.9), 1),
        (lab("temperature", 36.0), 0),
    ],
)
def test_minor_criteria_count_from_their_published_limits(item: Lab, met: int) -> None:
    assert severe_cap(record(*with_(item))).minor.low == met


def test_three_minor_criteria_are_severe_and_two_with_unknown_lobes_are_open() -> None:
    three = with_(lab("resp_rate", 32), lab("bun", 25), lab("wbc", 2.0))
    assert severe_cap(record(*three)).severe is True
    two = with_(lab("resp_rate", 32), lab("bun", 25))
    assert severe_cap(record(*two)).severe is None
    one = with_(lab("resp_rate", 32))
    assert severe_cap(record(*one)).severe is False


def test_one_major_criterion_is_severe() -> None:
    assert severe_cap(record(*SOUND, drug("vasopressor"))).major == ("vasopressor",)
    on_ventilator = lab("resp_rate_spont_vent", 12, 1.0, loinc="19839-0")
    assert severe_cap(record(*SOUND, on_ventilator)).severe is True


@pytest.mark.parametrize(
    ("items", "met"),
    [
        ((lab("pf_ratio", 250),), True),  # PaO2/FiO2 <= 250
        ((lab("pf_ratio", 251),), False),
        ((lab("po2_arterial", 60), lab("fio2", 28)), True),  # 60 / 0.28 = 214
        ((lab("po2_arterial", 90), lab("o2_flow", 0)), False),  # 90 / 0.21 = 429
        ((lab("spo2", 92), lab("o2_flow", 0)), False),  # 92 / 0.21 = 438, above 315
        ((lab("spo2", 92), lab("fio2", 40)), None),  # 230: neither ruled out nor in
        ((lab("spo2", 92),), None),
    ],
)
def test_oxygenation_is_measured_or_ruled_out_and_never_guessed(items: tuple[Lab, ...], met: bool | None) -> None:
    found = severe_cap(record(*items, who=person()))
    assert next(c.met for c in found.minor.criteria if c.name == "PaO2/FiO2") is met
