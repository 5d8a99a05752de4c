"""Who of a hospital's staff sees which card: roles from the EHR under the site's list, owners one tier lower."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from site_house import Asked, site, written

from cds_service.audience import Staff, staff
from cds_service.sites import Site

SCT = "http://snomed.info/sct"
ROLES = {"106292003": "nurse", "46255001": "pharmacist", "159016003": "technologist", "65853000": "viewer"}
NEPHROLOGY = "394589003"
AT = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
FILE = (
    "codes: general.csv\nroles:\n"
    + "".join(f'  "{SCT}|{code}": {role}\n' for code, role in {**ROLES, "309343006": "prescriber"}.items())
    + f'owners: {{IS-01: ["{SCT}|{NEPHROLOGY}"], IS-03: ["{SCT}|{NEPHROLOGY}"]}}\n'
)


def role(code: str, specialty: str = "", who: str = "Practitioner/u1", id_: str = "r1", **more: Any) -> dict[str, Any]:
    def concept(value: str) -> list[dict[str, Any]]:
        return [{"coding": [{"system": SCT, "code": value}]}]

    special = {"specialty": concept(specialty)} if specialty else {}
    person = {"reference": who}
    return (
        {"resourceType": "PractitionerRole", "id": id_, "practitioner": person, "code": concept(code)} | special | more
    )


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": r} for r in resources]}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("audience")
    with site(written(folder / "sites", FILE), folder / "state", economy="off") as asked:
        yield asked


@pytest.mark.parametrize("code", ["309343006", *ROLES])
def test_metformin_before_contrast_is_for_prescribers_and_pharmacists_alone(hospital: Asked, code: str) -> None:
    name = ({"309343006": "prescriber"} | ROLES)[code]
    cards = hospital.cards(sent={"staff_roles": bundle(role(code))})
    assert len(cards) == (name in ("prescriber", "pharmacist"))
    row = hospital.last()
    assert ("not for this role" in {d["cause"] for d in json.loads(row["decisions"])}) is not bool(cards)
    assert json.loads(row["details"])["role"] == name


@pytest.mark.parametrize(
    "held",
    [
        (),
        (role("224571005"),),
        (role("106292003", active=False),),
        (role("106292003", period={"end": "2025-12-31"}),),
        (role("106292003", period={"start": "2026-12-31"}),),
        (role("106292003", who="Practitioner/u2"),),
        (role("106292003"), role("309343006", id_="r2")),
        (role("65853000"), role("224571005", id_="r2")),
        ({**role("65853000"), "code": [*role("65853000")["code"], *role("224571005")["code"]]},),
        ({**role("106292003"), "practitioner": {"display": "somebody"}},),
    ],
    ids=[
        "none",
        "not listed",
        "inactive",
        "ended",
        "not begun",
        "another's",
        "doctor as well",
        "unlisted as well",
        "unlisted in the same",
        "nobody's",
    ],
)
def test_a_role_that_is_not_the_users_now_hides_nothing(hospital: Asked, held: tuple[dict[str, Any], ...]) -> None:
    assert len(hospital.cards(sent={"staff_roles": bundle(*held)})) == 1


def test_the_role_a_user_is_named_by_is_the_one_that_counts(hospital: Asked) -> None:
    nurse = role("106292003", who="Practitioner/u7")
    assert hospital.cards(sent={"staff_role": nurse}, userId="PractitionerRole/r1") == []
    assert len(hospital.cards(sent={"staff_role": nurse}, userId="PractitionerRole/r2")) == 1


def test_what_is_not_sent_is_read_from_the_ehr(tmp_path: Path) -> None:
    with site(written(tmp_path / "sites", FILE), tmp_path / "state", role("106292003"), economy="off") as asked:
        assert asked.cards() == []
        assert any(path.startswith("/fhir/PractitionerRole?practitioner=u1") for path in asked.ehr.paths())


def test_nobody_is_asked_for_a_role_where_the_site_lists_none(tmp_path: Path) -> None:
    with site(written(tmp_path / "sites"), tmp_path / "state", role("106292003"), economy="off") as asked:
        assert len(asked.cards()) == 1
        assert not any("PractitionerRole" in path for path in asked.ehr.paths())


def test_the_owner_of_every_rule_on_a_card_hears_it_one_tier_lower(hospital: Asked) -> None:
    (loud,) = hospital.cards(sent={"staff_roles": bundle(role("309343006"))})
    (soft,) = hospital.cards(sent={"staff_roles": bundle(role("309343006", NEPHROLOGY))})
    assert (loud["indicator"], soft["indicator"]) == ("warning", "info")
    assert soft["summary"] == loud["summary"]


def test_who_owns_one_rule_of_two_hears_both_as_everybody(tmp_path: Path) -> None:
    half = FILE.replace(f', IS-03: ["{SCT}|{NEPHROLOGY}"]', "")
    with site(written(tmp_path / "sites", half), tmp_path / "state", economy="off") as asked:
        (card,) = asked.cards(sent={"staff_roles": bundle(role("309343006", NEPHROLOGY))})
        assert card["indicator"] == "warning"


@pytest.mark.parametrize(
    ("name", "service", "hook", "sees"),
    [
        ("nurse", "deterioration", "patient-view", True),
        ("nurse", "precision-prescribing", "order-sign", False),
        ("pharmacist", "precision-prescribing", "order-sign", True),
        ("pharmacist", "pe-imaging", "order-sign", False),
        ("technologist", "imaging-safety", "order-dispatch", True),
        ("technologist", "imaging-safety", "order-sign", False),
        ("viewer", "deterioration", "patient-view", False),
        ("prescriber", "lung-precision", "order-sign", True),
    ],
)
def test_what_a_role_sees_is_what_the_specification_says(name: Any, service: str, hook: str, *, sees: bool) -> None:
    """CLINICAL.md 2.5."""
    assert Staff(frozenset({name})).sees(service, hook, ("X-01",)) is sees


def test_a_site_without_roles_knows_none() -> None:
    assert staff([role("106292003")], "Practitioner/u1", AT, Site()) == Staff()
