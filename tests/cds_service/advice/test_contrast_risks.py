"""IS-02, for a site that wants it: eGFR 30 to 44 and one more risk."""

from __future__ import annotations

import msgspec
import pytest
from contrast import NAME, card_of, chart, creatinine, labels
from imaging_charts import study
from vignettes import Chart, Resource, condition, medication, service

MANIFEST = service(NAME)
ON = msgspec.structs.replace(
    MANIFEST, rules={**MANIFEST.rules, "IS-02": msgspec.structs.replace(MANIFEST.rules["IS-02"], on=True)}
)
# CKD-EPI 2021, man of 67: 1.9 mg/dL is 38 mL/min/1.73 m2, 1.5 is 51, 2.6 is 26.
STABLE = (creatinine("o1", 1.9, "2026-03-10T06:10:00Z"), creatinine("o2", 1.85, "2026-03-08T05:00:00Z"))
VANCOMYCIN = medication("m9", "11124", "vancomycin 1 g IV", authoredOn="2026-03-09T14:00:00Z")
CONTRAST_BEFORE = study("s1", "24727-0", "2026-03-09T14:00:00Z")
RECOVERED = (
    creatinine("o1", 1.9, "2026-03-10T06:10:00Z"),
    creatinine("o2", 1.9, "2026-03-08T05:00:00Z"),
    creatinine("o3", 2.9, "2026-03-05T06:00:00Z"),
    creatinine("o4", 1.7, "2026-03-03T06:00:00Z"),
)


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ((*STABLE, VANCOMYCIN), "Nephrotoxic drug begun"),
        ((*STABLE, CONTRAST_BEFORE), "Contrast within 48 h"),
        (
            (*STABLE, medication("m8", "5956", "iohexol", authoredOn="2026-03-09T15:00:00Z")),
            "Contrast within 48 h",
        ),
    ],
)
def test_one_more_risk_at_an_egfr_of_38_informs_and_offers_fluids(resources: tuple[Resource, ...], said: str) -> None:
    card = card_of(chart(*resources), ON)
    assert card.indicator == "info"
    assert card.summary.startswith(f"eGFR 38 (2026-03-10) and {said.lower()}")
    assert labels(card) == ["Change to CT chest without contrast", "Order saline before contrast"]


@pytest.mark.parametrize(
    "given",
    [
        chart(*STABLE),
        chart(*STABLE, {**VANCOMYCIN, "authoredOn": "2026-03-07T14:00:00Z"}),  # begun three days ago
        chart(*STABLE, study("s1", "24727-0", "2026-03-08T09:00:00Z")),  # 53 h ago
        chart(*STABLE, study("s1", "30799-1", "2026-03-09T14:00:00Z")),  # no contrast
        chart(creatinine("o1", 1.5, "2026-03-10T06:10:00Z"), VANCOMYCIN),
    ],
)
def test_without_the_risk_or_the_range_nothing_is_said(given: Chart) -> None:
    assert given.cards(NAME, ON) == []


def test_it_is_off_until_a_site_switches_it_on() -> None:
    assert chart(*STABLE, VANCOMYCIN).cards(NAME) == []


def test_heart_failure_takes_the_fluids_off_the_card() -> None:
    card = card_of(chart(*STABLE, VANCOMYCIN, condition("c1", "I50.9")), ON)
    assert labels(card) == ["Change to CT chest without contrast"]


def test_an_injury_resolved_within_the_week_counts() -> None:
    # KDIGO: 1.7 to 2.9 is 1.7 times within 7 days, stage 1; from 2.9 back to 1.9 within 7 days creatinine is not steady
    # (1.5-fold change), so no eGFR is valid until a week after the peak, when the injury is still recent.
    assert chart(*RECOVERED).cards(NAME, ON) == []
    later = (
        creatinine("o1", 1.9, "2026-03-10T06:10:00Z"),
        creatinine("o2", 1.95, "2026-03-08T05:00:00Z"),
        creatinine("o3", 2.3, "2026-03-05T06:00:00Z"),
        creatinine("o4", 1.95, "2026-03-03T08:00:00Z"),
    )
    # 1.95 to 2.3 within 46 h is a rise of 0.35 mg/dL: stage 1.
    card = card_of(chart(*later), ON)
    assert "kidney injury stage 1, resolved" in card.summary
