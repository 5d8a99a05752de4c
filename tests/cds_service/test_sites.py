"""A site's own file: local codes that fire a rule after they are mapped, and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from contrast import CT, LOW, METFORMIN, STEADY, chart
from site_house import CODES, LAB, SERVICE, of_the_lab, site, written
from typer.testing import CliRunner
from vignettes import SERVICES

from cds_service.cli.main import assemble
from cds_service.manifest import ManifestError, load_services
from cds_service.sites import load_sites, rule_names


def test_a_local_creatinine_is_named_as_unmapped_and_fires_the_rule_once_it_is_mapped(tmp_path: Path) -> None:
    with site(tmp_path / "none", tmp_path / "before") as asked:
        said = asked.cards()
        assert not any("eGFR" in card["summary"] for card in said)
        details = asked.last()["details"]
        assert f"unknown-code Observation {LAB}|CREA" in json.loads(details)["unmapped"]
    with site(written(tmp_path / "sites"), tmp_path / "after") as asked:
        (card,) = asked.cards()
        assert card["summary"] == "eGFR 26 (2026-03-10), on metformin: hold metformin 48 h; fluids or non-contrast CT."
        assert "2.6 mg/dL" in card["detail"]
        assert "unmapped" not in json.loads(asked.last()["details"])


def test_the_map_of_one_hospital_means_nothing_at_another(tmp_path: Path) -> None:
    with site(written(tmp_path / "sites", tenant="elsewhere"), tmp_path / "state") as asked:
        assert not any("eGFR" in card["summary"] for card in asked.cards())


def test_a_search_by_code_names_the_local_codes_too_in_discovery_and_when_we_read(tmp_path: Path) -> None:
    with site(written(tmp_path / "sites"), tmp_path / "state", of_the_lab(LOW), of_the_lab(STEADY)) as asked:
        (card,) = asked.cards(drop=("kidney",))
        assert card["summary"].startswith("eGFR 26 (2026-03-10), on metformin")
        entries = asked.app.test_client().get("/cds-services").get_json()["services"]
        templates = {e["prefetch"]["kidney"] for e in entries if e["id"] == SERVICE}
        assert all(f",{LAB}|CREA&_sort" in t for t in templates)
        assert templates
    with site(tmp_path / "none", tmp_path / "without", of_the_lab(LOW), of_the_lab(STEADY)) as asked:
        assert not any("eGFR" in card["summary"] for card in asked.cards(drop=("kidney",)))


def test_an_order_under_a_local_code_is_changed_without_the_code_the_map_added(tmp_path: Path) -> None:
    codes = CODES + ",CTCHW,http://loinc.org|24628-0,,\n"
    with site(written(tmp_path / "sites", codes=codes), tmp_path / "state") as asked:
        given = chart(
            of_the_lab(LOW), of_the_lab(STEADY), METFORMIN, drafts=({**CT, "code": {"coding": [{"code": "CTCHW"}]}},)
        )
        body = json.loads(given.body(SERVICE)) | {"fhirServer": asked.ehr.base}
        (card,) = asked.app.test_client().post(f"/cds-services/{SERVICE}", json=body).get_json()["cards"]
        updates = [a["resource"] for s in card["suggestions"] for a in s["actions"] if a["type"] == "update"]
        (order,) = [r for r in updates if r["resourceType"] == "ServiceRequest"]
        assert [c["code"] for c in order["code"]["coding"]] == ["29252-4"]


@pytest.mark.parametrize(
    ("text", "codes", "why"),
    [
        ("codes: general.csv\n", CODES + f"{LAB},K,http://loinc.org|0-0,,\n", "general.csv: line 3: no table here"),
        ("codes: other.csv\n", CODES, "other.csv: No such file"),
        ("codes: ../general.csv\n", CODES, "beside this one"),
        ("code: general.csv\n", CODES, "unknown field `code`"),
        ("roles: {nurse: nurse}\n", CODES, "write system|code"),
        ("roles: {'a|b': porter}\n", CODES, "Invalid enum value 'porter'"),
        ("owners: {IS-01: ['a|b']}\n", CODES, "owners needs roles"),
        ("roles: {'a|b': nurse}\nowners: {IS-99: ['a|b']}\n", CODES, "'IS-99', which is no rule"),
    ],
)
def test_a_site_that_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, codes: str, why: str) -> None:
    folder = written(tmp_path / "sites", text, codes)
    with pytest.raises(ManifestError) as refused:
        load_sites(folder, rule_names(load_services(SERVICES)))
    assert why in str(refused.value)


def test_rows_of_the_gene_table_may_have_owners_as_rules_of_a_manifest_do() -> None:
    assert {"IS-01", "PGX-001", "PGX-TEST"} <= rule_names(load_services(SERVICES))


def test_check_reads_the_sites_and_names_one_that_no_client_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERSIGHT_SITES", str(written(tmp_path / "sites", tenant="elsewhere")))
    monkeypatch.setenv("ORDERSIGHT_CLIENTS", str(tmp_path / "clients.yaml"))
    (tmp_path / "clients.yaml").write_text("- {name: hospital, fhir: []}\n")
    done = CliRunner().invoke(assemble(), ["check", "--today", "2026-03-10"])
    assert done.exit_code == 1
    assert "1 sites" in done.output
    assert "sites: elsewhere: no client has this tenant" in done.output


def test_the_sheet_for_an_ehr_asks_for_what_a_site_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = "codes: general.csv\nroles: {'http://snomed.info/sct|106292003': nurse}\n"
    monkeypatch.setenv("ORDERSIGHT_SITES", str(written(tmp_path / "sites", roles)))
    done = CliRunner().invoke(assemble(), ["register", "generic", "--json"])
    sheet = json.loads(done.output)
    assert "user/PractitionerRole.rs" in sheet["scopes"]
    (safety,) = [s for s in sheet["services"] if s["id"] == SERVICE]
    assert safety["prefetch"]["staff_role"] == "PractitionerRole/{{userPractitionerRoleId}}"
    assert f",{LAB}|CREA&" in safety["prefetch"]["kidney"]
