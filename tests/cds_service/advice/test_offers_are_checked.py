"""No drug and no study reaches a card but through its safety check: by construction, and path by path."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import every_rule
import msgspec
import prescribing
import pytest
from contrast import LOW, METFORMIN, STEADY
from contrast import chart as safety
from every_rule import PAIRS
from genetics import chart_for, result_for
from imaging_charts import allergy
from safety_charts import CT_ABDOMEN, MR_BRAIN, PREGNANT, WOMAN, device, reaction
from vignettes import Chart, Resource, condition, medication, patient, service

from cds_service.advice import ordering
from cds_service.advice.packs.safe_to_offer import Offer
from cds_service.cards import Card, CardError
from cds_service.consult import Case
from cds_service.manifest import Service
from fhir_mappers.codes import imaging_orders
from fhir_mappers.offers import limits
from fhir_mappers.pgx import pgx_rows
from fhir_mappers.record import ImagingOrder

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


# --- every path ------------------------------------------------------------------------------------------------------

NAME = "precision-prescribing"
ROWS = [row for row in pgx_rows() if row.indicator != "silent"]
EVERY_FACT: dict[str, tuple[Resource, ...]] = {
    "pregnancy": (PREGNANT,),
    "dialysis": (condition("dx", "N18.6"), condition("dy", "Z99.2")),
    "stroke": (condition("st", "I63.9", "inactive"),),
    "bleeding in the skull": (BLEED,),
    "severe liver disease": (LIVER,),
    "heart failure": (HEART,),
    "interstitial lung disease": (condition("il", "J84.10"),),
}
AGAINST = {
    "pregnancy": lambda limit: not limit.pregnancy_ok,
    "dialysis": lambda limit: limit.egfr_min is not None,
    "stroke": lambda limit: "stroke_tia" in limit.conditions,
    "bleeding in the skull": lambda limit: "intracranial_bleed" in limit.conditions,
    "severe liver disease": lambda limit: "severe_liver" in limit.conditions,
    "heart failure": lambda limit: {"heart_failure", "chf"} & set(limit.conditions),
    "interstitial lung disease": lambda limit: "ild" in limit.conditions,
}
"""What tables/safe_to_offer.csv says each fact speaks against."""


def every_chart() -> dict[str, tuple[str, Chart]]:
    """Rule or row -> the service and a chart that brings its card."""
    rules = {p.rule: (p.service, p.fires) for p in PAIRS}
    rows = {
        row.row_id: (
            NAME,
            chart_for(row, [r for part in row.key[: 1 if row.any_gene else None] for r in result_for(part)]),
        )
        for row in ROWS
    }
    return rules | rows


def on(name: str, rule: str) -> Service:
    manifest = service(name)
    rules = {k: msgspec.structs.replace(r, on=r.on or k == rule) for k, r in manifest.rules.items()}
    return msgspec.structs.replace(manifest, rules=rules)


def told(name: str, given: Chart, rule: str) -> set[str]:
    return drugs_of(given.cards(name, on(name, rule)))


@pytest.fixture(scope="module")
def offered() -> dict[str, tuple[str, Chart, set[str]]]:
    """Rule or row -> the service, its chart and the drugs its card offers, where it offers any."""
    found = {rule: (name, given, told(name, given, rule)) for rule, (name, given) in every_chart().items()}
    return {rule: entry for rule, entry in found.items() if entry[2]}


def beside(given: Chart, *more: Resource, who: Resource | None = None) -> Chart:
    own = [r for r in given.resources if who is None or r["resourceType"] != "Patient"]
    return dataclasses.replace(given, resources=(*([who] if who else ()), *own, *more))


def test_four_services_offer_drugs(offered: dict[str, tuple[str, Chart, set[str]]]) -> None:
    """So that what follows is about something."""
    assert {name for name, _, _ in offered.values()} == {
        "imaging-safety",
        "chest-treatment",
        "precision-prescribing",
        "lung-precision",
    }
    pairs = {(rule, rxcui) for rule, (_, _, drugs) in offered.items() for rxcui in drugs}
    known = {("IS-01", "9863"), ("IS-02", "9863"), ("CT-03", "4603"), ("PGX", "1116632"), ("NEPH-01", "161")}
    assert known | {("LC-02", "1721560")} <= pairs


@pytest.mark.parametrize("fact", ["an allergy", "a course of it", *EVERY_FACT])
def test_no_rule_offers_a_drug_against_a_fact_that_forbids_it(
    fact: str, offered: dict[str, tuple[str, Chart, set[str]]]
) -> None:
    asked = 0
    for rule, (name, given, drugs) in offered.items():
        for rxcui in sorted(drugs):
            if fact == "an allergy":
                changed = beside(given, to(rxcui, "it"))
            elif fact == "a course of it":
                changed = beside(given, medication("again", rxcui, "taken already"))
            elif AGAINST[fact](limits()[rxcui]):
                who = patient("female", "1994-05-05") if fact == "pregnancy" else None
                changed = beside(given, *EVERY_FACT[fact], who=who)
            else:
                continue
            asked += 1
            assert rxcui not in told(name, changed, rule), (rule, rxcui)
    assert asked


FORBIDDEN_STUDIES: dict[str, tuple[Resource, Callable[[ImagingOrder], bool]]] = {
    "a severe reaction to contrast": (reaction(), lambda s: s.contrast.startswith("iodinated")),
    "an implant unsafe in the magnet": (device("C106047"), lambda s: s.modality == "MR"),
    "pregnancy": (PREGNANT, lambda s: s.ionising and s.region in ("abdomen", "abdomen and pelvis")),
}


@pytest.mark.parametrize("fact", FORBIDDEN_STUDIES)
def test_no_rule_offers_a_study_against_a_fact_that_forbids_it(fact: str) -> None:
    resource, forbidden = FORBIDDEN_STUDIES[fact]
    studies = 0
    for pair in PAIRS:
        woman = patient("female", "1994-05-05") if fact == "pregnancy" else None
        changed = beside(pair.fires, resource, who=woman)
        own = {c for d in changed.drafts for c in (x["code"] for x in d.get("code", {}).get("coding", ()))}
        for code in studies_of(changed.cards(pair.service, on(pair.service, pair.rule))) - own:
            study = imaging_orders().get(code)
            studies += study is not None
            assert study is None or not forbidden(study), (pair.rule, code)
    assert studies
