"""The register of rules: every id of the specification, with source, owner and review date, firing and silent."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import msgspec
import pytest
from every_rule import PAIRS, Pair, with_goal
from vignettes import SERVICES, service

from cds_service.cards import Card
from cds_service.manifest import Service, load_services

REGISTER = {
    "imaging-safety": [f"IS-0{n}" for n in range(1, 10)],
    "pe-imaging": [f"PE-0{n}" for n in range(1, 7)],
    "imaging-timing": [f"TM-0{n}" for n in range(1, 5)],
    "cxr-insight": [f"CX-0{n}" for n in range(1, 6)],
    "chest-treatment": [f"CT-0{n}" for n in range(1, 8)],
    "deterioration": [f"DT-0{n}" for n in range(1, 6)],
    "precision-prescribing": ["PGX", "PGX-TEST", "QT-01", "QT-02", "NEPH-01"],
    "lung-precision": [f"LC-0{n}" for n in range(1, 7)],
}
"""Section 4 of the project's clinical specification; RENAL-DOSE stands there as not built."""
IDS = [(name, rule) for name, rules in REGISTER.items() for rule in rules]
WITHOUT_A_CARD = {"CX-04", "CX-05"}
"""What a model and a report disagree on goes to radiology's list, and what has not changed to nobody."""
SHIPPED = {s.id: s for s in load_services(SERVICES).all}


@pytest.mark.parametrize(("name", "rule"), IDS, ids=[rule for _, rule in IDS])
def test_every_rule_of_the_specification_is_in_its_manifest_with_source_owner_and_review(name: str, rule: str) -> None:
    held = SHIPPED[name].rules[rule]
    assert held.citation
    assert held.url.startswith("https://")
    assert held.owner
    assert held.review_by > date(2026, 11, 30)


def test_no_manifest_has_a_rule_that_the_specification_does_not_know() -> None:
    assert {(name, rule) for name, s in SHIPPED.items() for rule in s.rules} <= set(IDS)
    assert set(SHIPPED) == set(REGISTER)


def test_the_register_is_the_specification_s(shared: Path) -> None:
    text = (shared / "CLINICAL.md").read_text(encoding="utf-8")
    section = text[text.index("## 4. Eight flagship services") : text.index("## 5. Seed themes")]
    named = set(re.findall(r"^\| ((?:IS|PE|TM|CX|CT|DT|LC)-\d\d) \|", section, re.MULTILINE))
    named |= {"QT-01", "QT-02", "NEPH-01", "PGX-TEST"} & set(re.findall(r"\b[A-Z]+-(?:\d\d|TEST)\b", section))
    assert named | {"PGX"} == {rule for _, rule in IDS}


def test_every_rule_that_has_a_card_has_a_chart_that_brings_it_and_one_that_does_not() -> None:
    charted = {(p.service, p.rule) for p in PAIRS}
    assert charted == {i for i in IDS if i[1] not in WITHOUT_A_CARD}


def on(name: str, rule: str, switched: bool = True) -> Service:
    manifest = service(name)
    changed = msgspec.structs.replace(manifest.rules[rule], on=switched)
    return msgspec.structs.replace(manifest, rules={**manifest.rules, rule: changed})


def speaks(rule: str, cards: list[Card]) -> bool:
    """Whether a card rests on the rule; a row of the gene table is called by its number."""
    rules = {name for c in cards if c.basis is not None for name in c.basis.rules}
    if rule in ("PGX", "PGX-TEST"):
        return any(name.startswith("PGX") for name in rules)
    return rule in rules


@pytest.mark.parametrize("pair", PAIRS, ids=[p.rule for p in PAIRS])
def test_the_rule_fires_and_is_silent_without_its_deciding_fact(pair: Pair) -> None:
    manifest = on(pair.service, pair.rule)
    assert speaks(pair.rule, pair.fires.cards(pair.service, manifest))
    assert not speaks(pair.rule, pair.silent.cards(pair.service, manifest))


@pytest.mark.parametrize("pair", PAIRS, ids=[p.rule for p in PAIRS])
def test_comfort_care_and_the_switch_silence_it(pair: Pair) -> None:
    assert with_goal(pair.fires).cards(pair.service, on(pair.service, pair.rule)) == []
    off = on(pair.service, pair.rule, switched=False)
    if pair.rule == "PGX":  # the rows need a test-first rule no more than it needs them
        off = msgspec.structs.replace(off, rules={k: v for k, v in off.rules.items() if k == "PGX"})
    assert not speaks(pair.rule, pair.fires.cards(pair.service, off))
