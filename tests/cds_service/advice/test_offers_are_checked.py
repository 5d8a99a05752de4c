"""No drug and no study reaches a card but through its safety check: by construction, and path by path."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import every_rule
import msgspec
import prescribing
import pytest
from contrast import LOW, METFORMIN, STEADY
from contrast import chart as safety
from every_rule import PAIRS
from imaging_charts import allergy
from safety_charts import CT_ABDOMEN, MR_BRAIN, PREGNANT, WOMAN, device, reaction
from vignettes import Chart, Resource, condition, service

from cds_service.advice import ordering
from cds_service.advice.packs.safe_to_offer import Offer
from cds_service.cards import Card, CardError
from cds_service.consult import Case

ADVICE = Path(ordering.__file__).parent
FIRING = {p.rule: p for p in PAIRS}


def drugs_of(cards: list[Card]) -> set[str]:
    """RxNorm ingredients of every order a card would create."""
    made = [msgspec.to_builtins(a) for c in cards for s in c.suggestions for a in s.actions if a.type == "create"]
    concepts = [a["resource"].get("medicationCodeableConcept", {}) for a in made]
    return {c["code"] for concept in concepts for c in concept.get("coding", ())}


def studies_of(cards: list[Card]) -> set[str]:
    written: list[dict[str, Any]] = [
        msgspec.to_builtins(a)["resource"] for c in cards for s in c.suggestions for a in s.actions if a.resource
    ]
    requests = [r for r in written if r["resourceType"] == "ServiceRequest"]
    return {c["code"] for r in requests for c in r["code"]["coding"]}


# --- by construction -------------------------------------------------------------------------------------------------


def literals(path: Path) -> list[tuple[str, str]]:
    """(function, literal) of every string in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            found += [
                (function.name, n.value)
                for n in ast.walk(function)
                if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
    return found


def test_a_drug_order_is_written_in_one_place_only() -> None:
    places = {
        (path.stem, function)
        for path in ADVICE.rglob("*.py")
        for function, text in literals(path)
        if text == "medicationCodeableConcept" and path.parent == ADVICE
    }
    assert places == {("ordering", "medication")}


def test_the_code_of_a_study_is_changed_in_one_place_only() -> None:
    writers = set()
    for path in ADVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                key = node.targets[0].slice
                if isinstance(key, ast.Constant) and key.value == "code":
                    writers.add(path.stem)
    assert writers <= {"ordering"}


def test_what_failed_its_check_cannot_be_written() -> None:
    chart = FIRING["IS-01"].fires
    case = Case(service("imaging-safety"), chart.request("imaging-safety"), chart.record(), None)
    refused = Offer("613391", "prasugrel", ("earlier stroke or TIA",))
    with pytest.raises(CardError, match="prasugrel failed its safety check"):
        ordering.medication(case, refused, "prasugrel", "prasugrel")


# --- path by path ----------------------------------------------------------------------------------------------------


def to(rxcui: str, text: str) -> Resource:
    return allergy("al", {"rxcui": rxcui, "text": text, "reactions": ["Anaphylaxis"], "severity": "severe"})


BLEED = condition("b1", "I61.9", "inactive")
HEART = condition("h1", "I50.22")
LIVER = condition("l1", "K72.10")
PATHS: list[tuple[str, str, Resource]] = [
    ("IS-01", "9863", HEART),
    ("IS-02", "9863", HEART),
    ("CT-03", "4603", to("4603", "furosemide")),
    ("PGX", "1116632", to("1116632", "ticagrelor")),
    ("PGX", "1116632", BLEED),
    ("NEPH-01", "161", LIVER),
    ("NEPH-01", "161", to("161", "paracetamol")),
    ("LC-02", "1721560", condition("i1", "J84.10")),
    ("LC-02", "1721560", to("1721560", "osimertinib")),
]


@pytest.mark.parametrize(("rule", "rxcui", "against"), PATHS, ids=[f"{r}-{x}-{a['id']}" for r, x, a in PATHS])
def test_a_drug_is_offered_and_with_one_fact_against_it_is_not(rule: str, rxcui: str, against: Resource) -> None:
    pair = FIRING[rule]
    manifest = service(pair.service)
    changed = msgspec.structs.replace(manifest.rules[rule], on=True)
    manifest = msgspec.structs.replace(manifest, rules={**manifest.rules, rule: changed})
    assert rxcui in drugs_of(pair.fires.cards(pair.service, manifest))
    warned = dataclasses.replace(pair.fires, resources=(*pair.fires.resources, against))
    assert rxcui not in drugs_of(warned.cards(pair.service, manifest))


def test_the_swap_of_a_qt_drug_and_its_electrolytes_are_checked_too() -> None:
    given = (prescribing.qtc(512), prescribing.lab("2823-3", 3.3), prescribing.PNEUMONIA)
    chart = every_rule.drug(*given, visit=prescribing.IN, drafts=(prescribing.AZITHROMYCIN,))
    assert {"3640", "8591"} <= drugs_of(prescribing.cards(chart))
    allergic = every_rule.drug(
        *given, to("3640", "doxycycline"), visit=prescribing.IN, drafts=(prescribing.AZITHROMYCIN,)
    )
    assert "3640" not in drugs_of(prescribing.cards(allergic))


STUDIES: list[tuple[str, Chart, Chart]] = [
    (
        "36424-0",
        safety(LOW, STEADY, drafts=(CT_ABDOMEN,)),
        safety(LOW, STEADY, PREGNANT, drafts=(CT_ABDOMEN,), who=WOMAN),
    ),
    (
        "30668-8",
        safety(PREGNANT, drafts=(CT_ABDOMEN,), who=WOMAN),
        safety(PREGNANT, device("C106047"), drafts=(CT_ABDOMEN,), who=WOMAN),
    ),
    (
        "29252-4",
        safety(LOW, STEADY, METFORMIN),
        safety(LOW, STEADY, METFORMIN, {**MR_BRAIN, "id": "x9", "status": "active", "code": {"coding": [
            {"system": "http://loinc.org", "code": "29252-4"}]}}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("loinc", "offered", "refused"), STUDIES, ids=[s[0] for s in STUDIES])
def test_a_study_is_offered_and_not_in_pregnancy_beside_an_implant_or_twice(
    loinc: str, offered: Chart, refused: Chart
) -> None:
    assert loinc in studies_of(offered.cards("imaging-safety"))
    assert loinc not in studies_of(refused.cards("imaging-safety"))


def test_a_reaction_to_contrast_offers_a_pregnant_woman_no_ct_of_the_abdomen() -> None:
    chart = safety(reaction(), PREGNANT, drafts=(CT_ABDOMEN,), who=WOMAN)
    assert not {"36424-0", "36813-4"} & studies_of(chart.cards("imaging-safety"))
