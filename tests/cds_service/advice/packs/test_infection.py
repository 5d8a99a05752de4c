"""Antibiotics by class and the newest of them; what is not known is never read as none."""

from __future__ import annotations

from datetime import timedelta

import pytest
from vignettes import medication
from ward_charts import PNEUMONIA, antibiotic, chart, dose

from cds_service.advice.packs.infection import antibacterial, antibiotics, cover
from fhir_mappers.codes import ATC, RXNORM

SIX = timedelta(hours=6)


@pytest.mark.parametrize(
    ("system", "code", "expected"),
    [
        (RXNORM, "2193", True),  # ceftriaxone
        (RXNORM, "11124", True),  # vancomycin
        (ATC, "J01XD01", True),  # metronidazole, by its group alone
        (ATC, "J05AB01", False),  # aciclovir
        (RXNORM, "161", False),  # paracetamol
        ("urn:local", "J01CA04", False),  # a code counts with its system
    ],
)
def test_antibacterials_for_systemic_use_are_those_of_atc_j01(system: str, code: str, expected: bool) -> None:
    assert antibacterial([(system, code)]) is expected


def test_orders_drafts_and_doses_count_and_stopped_or_held_orders_do_not() -> None:
    draft = medication("d1", "723", "amoxicillin", "draft")
    stopped = medication("m2", "2193", "ceftriaxone", "stopped", authoredOn="2026-03-10T12:00:00Z")
    held = medication("m3", "2193", "ceftriaxone", "on-hold", authoredOn="2026-03-10T12:00:00Z")
    record = chart(antibiotic(), dose(at="2026-03-10T10:00:00Z"), stopped, held).record("deterioration")
    assert [(a.how, a.text) for a in antibiotics(record)] == [
        ("given", "ceftriaxone 2 g IV"),
        ("ordered", "ceftriaxone 2 g daily"),
    ]
    signing = chart(hook="order-select", drafts=(draft,)).record("deterioration")
    assert [a.text for a in antibiotics(signing)] == ["amoxicillin"]


def test_no_antibiotic_is_known_only_where_orders_and_doses_were_read() -> None:
    record = chart(PNEUMONIA).record("deterioration")
    assert cover(record, SIX, orders_read=True, doses_read=True).recent is False
    assert cover(record, SIX, orders_read=False, doses_read=True).recent is None
    assert cover(record, SIX, orders_read=True, doses_read=False).recent is None
    treated = chart(antibiotic()).record("deterioration")
    assert cover(treated, SIX, orders_read=True, doses_read=False).recent is True
