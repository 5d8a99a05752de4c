"""The services this repository ships, as an EHR sees them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cds_service.manifest import HOOKS, Services, load_services
from cds_service.settings import Settings

SHIPPED = load_services(Settings.from_env({}).manifests / "services", "research_imaging")
# CDS Hooks 2.0, "Prefetch tokens": root-level primitive context fields, and the current user's ids.
TOKENS = {
    "context.patientId",
    "context.userId",
    "context.encounterId",
    "userPractitionerId",
    "userPractitionerRoleId",
    "userPatientId",
    "userRelatedPersonId",
}
READ = re.compile(r"[A-Z][A-Za-z]+/\{\{[\w.]+\}\}")
SEARCH = re.compile(r"[A-Z][A-Za-z]+\?([\w-]+(:in)?=[^&]+)(&[\w-]+(:in)?=[^&]+)*")
TEMPLATES = [(s.id, key, t) for s in SHIPPED.all for key, t in s.prefetch().items()]


def test_every_entry_has_what_the_specification_asks_for() -> None:
    for entry in SHIPPED.discovery()["services"]:
        assert entry["hook"] in HOOKS
        assert re.fullmatch(r"[a-z][a-z0-9-]+", entry["id"])
        assert entry["title"]
        assert len(entry["description"]) > 20
        assert entry["prefetch"]
        assert all(value for value in entry.values())


def test_an_id_and_a_hook_are_listed_once() -> None:
    keys = [(entry["id"], entry["hook"]) for entry in SHIPPED.discovery()["services"]]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("service", "key", "template"), TEMPLATES)
def test_a_template_is_a_read_or_a_search_with_tokens_every_ehr_knows(service: str, key: str, template: str) -> None:
    tokens = set(re.findall(r"\{\{\s*(.*?)\s*\}\}", template))
    assert tokens
    assert tokens <= TOKENS
    assert READ.fullmatch(template) or SEARCH.fullmatch(template) or template == "{{context.userId}}"
    assert not re.search(r"[A-Za-z]/\{\{context\.userId", template)


@pytest.mark.parametrize(("service", "key", "template"), [t for t in TEMPLATES if "?" in t[2]])
def test_a_search_is_bound_to_the_patient_and_asks_for_little_an_ehr_may_not_know(
    service: str, key: str, template: str
) -> None:
    """`_include` is outside the recommended subset, as in the specification's own examples: drugs and endpoints hang
    on it. An EHR that cannot run it omits the key, and the service asks by itself."""
    query = template.partition("?")[2]
    assert "{{context.patientId}}" in query
    names = {part.partition("=")[0] for part in query.split("&")}
    assert not any("." in name or name.startswith(("_has", "_revinclude", "_filter")) for name in names)
    assert not any(":" in name and not name.endswith(":in") for name in names)


def test_device_class_services_are_not_offered_unless_the_site_says_so(tmp_path: Path) -> None:
    quiet = Services(SHIPPED.all, "non_device")
    assert {s.id for s in SHIPPED.all if s.device_class}.isdisjoint(
        entry["id"] for entry in quiet.discovery()["services"]
    )
