"""The card contract over the whole register: every rule and gene row under the longest names a record may have."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import pytest
from every_rule import PAIRS, Pair
from genetics import chart_for, result_for
from r4 import validate_r4
from vignettes import SERVICES, Chart, Resource, condition, service

from cds_service.advice.ordering import REQUEST, VITAL_SIGNS
from cds_service.cards import Card
from cds_service.evidence import Shortfall
from cds_service.manifest import Service, load_services
from fhir_mappers.codes import drugs, imaging_orders, lab_codes
from fhir_mappers.pgx import PgxRow, pgx_rows

LONG = "a very long name that some catalogue has given to this | thing <b>with</b> [marks](http://x.y) and *more* " * 4
NAMED = frozenset({"text", "display", "description", "conclusion"})
"""What a record writes in words; its own stand before the long ones, since some of them are read."""
CLEAR = "PE-05"
"""Needs a film that is clear by its report, and a report that goes on with other words is not read as clear."""
SHIPPED = {s.id: s for s in load_services(SERVICES, "research_imaging").all}
ROWS = [row for row in pgx_rows() if row.indicator != "silent"]
TABLES = {d.rxcui for d in drugs()} | {a for d in drugs() for a in re.split(r"[;,\s]+", d.atc)} | set(imaging_orders())
TABLES |= {*lab_codes(), VITAL_SIGNS}
"""A panel to order has no row of its own: its results have."""


def wordy(value: Any, name: str = "") -> Any:
    """The same JSON with words as long as a record may have them, and numbers as a machine may print them."""
    if isinstance(value, Mapping):
        return {k: wordy(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [wordy(each, name) for each in value]
    if isinstance(value, str) and name in NAMED:
        return f"{value} {LONG}"
    return value + 1e-9 if isinstance(value, float) and not value.is_integer() else value


def all_on(name: str, rule: str = "") -> Service:
    manifest = service(name)
    rules = {k: msgspec.structs.replace(r, on=True) if k == rule else r for k, r in manifest.rules.items()}
    return msgspec.structs.replace(manifest, rules=rules)


def stretched(given: Chart, rule: str = "") -> Chart:
    """With long words everywhere; what a rule reads as text (a genotype's notation, a level of response) stays."""
    kept = ("Patient", "Encounter", "Observation", *(("DiagnosticReport",) if rule == CLEAR else ()))
    return dataclasses.replace(
        given,
        resources=tuple(
            r if r["resourceType"] in kept else wordy(r) for r in (*given.resources, condition("z66", "Z66"))
        ),
        drafts=tuple(wordy(d) for d in given.drafts),
    )


def blind(given: Chart, name: str, rule: str = "") -> Chart:
    """With every key that a card can do without missing, so that all of it has to be named."""
    keys = [key for key, item in SHIPPED[name].evidence.items() if not item.required]
    return dataclasses.replace(stretched(given, rule), shortfalls=tuple(Shortfall(k, "timeout") for k in keys))


def own_codes(name: str) -> set[str]:
    """Codes a site may set for what no public system names."""
    return {str(v).partition("|")[2] for v in SHIPPED[name].settings.values() if "|" in str(v)}


def codings(resource: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for member in ("code", "medicationCodeableConcept"):
        yield from resource.get(member, {}).get("coding", ())


def held(name: str, given: Chart, cards: Iterable[Card]) -> int:
    """Hold the contract of CLINICAL.md 2.1; how many cards there were."""
    known = TABLES | own_codes(name)
    before = {f"{r['resourceType']}/{r.get('id')}": r for r in (*given.resources, *given.drafts)}
    every = list(cards)
    for card in every:
        said = f"{card.summary}\n{card.detail}"
        assert 0 < len(card.summary) < 140
        assert len(card.detail or "") <= 1200
        assert re.search(r"(^|\n)Rule \S+ v\d+$", card.detail or ""), card.detail
        assert "<b>" not in said
        assert not re.search(r"(?<!\\)\]\(|!|\bplease\b", said, re.IGNORECASE)
        strong = "strong recommendation" in said or any(s.is_recommended for s in card.suggestions)
        assert not (strong and re.search(r"\bconsider\b", said, re.IGNORECASE))
        assert (card.detail or "").count("\n| ") <= 8, "a table has two lines of head and six rows"
        assert len(card.suggestions) <= 3
        assert 0 < len(card.override_reasons) <= 6
        for action in (a for s in card.suggestions for a in s.actions):
            if action.type == "delete":
                assert action.resource_id in before
                continue
            resource: dict[str, Any] = msgspec.to_builtins(action)["resource"]
            validate_r4(resource)
            was = before.get(f"{resource['resourceType']}/{resource.get('id')}", {})
            assert action.type == "create" or was, "an update is of what the record holds"
            kept = {c["code"] for c in codings(was) if "code" in c}
            for coding in codings(resource):
                assert coding["system"] == REQUEST or coding["code"] in known | kept, coding
    return len(every)


@pytest.mark.parametrize("pair", PAIRS, ids=[p.rule for p in PAIRS])
def test_a_rule_keeps_the_contract_under_the_longest_fillers_and_with_all_else_missing(pair: Pair) -> None:
    manifest = all_on(pair.service, pair.rule)
    assert held(pair.service, pair.fires, pair.fires.cards(pair.service, manifest)) == 1
    long = stretched(pair.fires, pair.rule)
    assert held(pair.service, long, long.cards(pair.service, manifest)) == 1
    unseen = blind(pair.fires, pair.service, pair.rule)
    held(pair.service, unseen, unseen.cards(pair.service, manifest))


def results(row: PgxRow) -> list[Resource]:
    return [result for part in (row.key[:1] if row.any_gene else row.key) for result in result_for(part)]


@pytest.mark.parametrize("first", range(0, len(ROWS), 20))
def test_a_gene_row_keeps_the_contract_under_the_longest_fillers(first: int) -> None:
    name = "precision-prescribing"
    for row in ROWS[first : first + 20]:
        given = blind(chart_for(row, results(row)), name)
        assert held(name, given, given.cards(name)) <= 1
        long = stretched(chart_for(row, results(row)))
        assert held(name, long, long.cards(name)) == 1, row.row_id
