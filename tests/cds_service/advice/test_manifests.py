"""The manifests of the three services: what an administrator relies on."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest
from vignettes import SERVICES, service

from cds_service.manifest import load_services

NAMES = ("imaging-safety", "cxr-insight", "deterioration", "chest-treatment", "lung-precision")
COMMON = {"patient", "encounter", "kidney", "vitals", "conditions", "meds", "orders", "reports", "studies", "goals"}
RELEASE = date(2026, 11, 30)


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_has_a_source_an_owner_and_a_review_within_a_year(name: str) -> None:
    for rule in service(name).rules.values():
        assert re.search(r"20\d\d", rule.citation)
        assert rule.url.startswith("https://")
        assert rule.owner
        assert RELEASE < rule.review_by <= RELEASE + timedelta(days=366)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_keys_are_the_common_ones_or_the_services_own(name: str) -> None:
    assert set(service(name).evidence) <= COMMON | {
        "preg",
        "labs",
        "genes",
        "allergies",
        "genetics",
        "tumour",
        "smoking",
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_budget_exceeds_the_hard_stop_of_a_second_and_a_half(name: str) -> None:
    manifest = service(name)
    assert all(manifest.budget_s(hook) <= 1.5 for hook in manifest.hooks)


def test_image_analysis_is_off_until_a_site_switches_it_on() -> None:
    assert "cxr-insight" not in {s.id for s in load_services(SERVICES, "non_device").on}
    assert "cxr-insight" in {s.id for s in load_services(SERVICES, "research_imaging").on}


def test_a_model_never_warns_louder_than_warning_unless_the_site_says_so() -> None:
    for name in ("cxr-insight", "deterioration"):
        assert all(rule.tier != "critical" for rule in service(name).rules.values())
