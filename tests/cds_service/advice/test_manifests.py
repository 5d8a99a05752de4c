"""The manifests of the services: what an administrator relies on."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest
from vignettes import SERVICES, service

from cds_service.manifest import load_services

NAMES = (
    "imaging-safety",
    "cxr-insight",
    "deterioration",
    "chest-treatment",
    "lung-precision",
    "pe-imaging",
    "imaging-timing",
)
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
        "ddimer",
        "history",
        "procedures",
        "questions",
        "nodules",
        "smoke",
        "labs",
        "genes",
        "allergies",
        "devices",
        "genetics",
        "tumour",
        "variants",
        "smoking",
        "given",
        "tests",
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.in_time
def test_no_budget_exceeds_the_hard_stop_of_a_second_and_a_half(name: str) -> None:
    manifest = service(name)
    assert all(manifest.budget_s(hook) <= 1.5 for hook in manifest.hooks)


def test_image_analysis_is_off_until_a_site_switches_it_on() -> None:
    assert "cxr-insight" not in {s.id for s in load_services(SERVICES, "non_device").on}
    assert "cxr-insight" in {s.id for s in load_services(SERVICES, "research_imaging").on}


def test_a_model_never_warns_louder_than_warning_unless_the_site_says_so() -> None:
    for name in ("cxr-insight", "deterioration"):
        assert all(rule.tier != "critical" for rule in service(name).rules.values())


def test_every_rule_of_the_imaging_questions_is_in_its_manifest_and_only_the_delegated_one_is_off() -> None:
    # CLINICAL.md 4.2 and 4.3: PE-03 is TM-01's where that service is on.
    wanted = {"pe-imaging": [f"PE-0{n}" for n in range(1, 7)], "imaging-timing": [f"TM-0{n}" for n in range(1, 5)]}
    for name, rules in wanted.items():
        assert sorted(service(name).rules) == rules
        assert [r for r in rules if not service(name).rules[r].on] == (["PE-03"] if name == "pe-imaging" else [])
    tiers = {rule: service(name).rules[rule].tier for name, rules in wanted.items() for rule in rules}
    assert {r for r, tier in tiers.items() if tier == "warning"} == {"PE-01", "PE-02", "TM-02"}
