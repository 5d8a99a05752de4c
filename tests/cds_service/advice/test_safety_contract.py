"""imaging-safety: the card contract under the longest fillers, for every rule, and every suggestion as real R4."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from contrast import chart as safety
from every_rule import SAFETY
from r4 import validate_r4
from safety_charts import CT_ABDOMEN, MR_BRAIN, MR_GADOLINIUM, agent, device, reaction
from vignettes import Chart, Resource, condition, service

from cds_service.advice.ordering import REQUEST
from cds_service.cards import Card
from cds_service.evidence import Shortfall
from fhir_mappers.codes import drugs, imaging_orders, lab_codes

NAME = "imaging-safety"
MANIFEST = service(NAME)
ALL_ON = msgspec.structs.replace(
    MANIFEST, rules={k: msgspec.structs.replace(r, on=True) for k, r in MANIFEST.rules.items()}
)
LONG = "a very long name that some catalogue has given to this | thing <b>with</b> [marks](http://x.y) and *more* " * 4
EVERYTHING = tuple(
    Shortfall(key, "timeout")
    for key in ("vitals", "meds", "conditions", "orders", "encounter", "goals", "allergies", "devices", "studies")
)
WORDY = ("Condition", "MedicationRequest", "ServiceRequest", "AllergyIntolerance", "Device")


def wordy(resource: Resource) -> Resource:
    """The same resource with names as long as a record may have them."""
    if resource["resourceType"] not in WORDY:
        return resource
    changed = dict(resource)
    for key in ("code", "medicationCodeableConcept", "type"):
        if isinstance(changed.get(key), Mapping):
            changed[key] = {**changed[key], "text": LONG}
    if changed["resourceType"] == "Device":
        changed |= {"note": [{"text": LONG}], "deviceName": [{"name": LONG, "type": "model-name"}]}
    if changed["resourceType"] == "AllergyIntolerance":
        changed["reaction"] = [{**r, "manifestation": [{"text": LONG}] * 3} for r in changed["reaction"]]
    return changed


def stretched(given: Chart) -> Chart:
    return dataclasses.replace(
        given,
        resources=tuple(wordy(r) for r in (*given.resources, condition("z66", "Z66"))),
        drafts=tuple(wordy(d) for d in given.drafts),
        shortfalls=EVERYTHING,
    )


CASES = {rule: fires for rule, (fires, _) in SAFETY.items()} | {
    "IS-08 conditional": safety(
        device("C106046"), device("C106046", "43252007", "Cochlear implant", id="v2"), drafts=(MR_BRAIN,)
    ),
    "IS-04 and IS-01": dataclasses.replace(
        SAFETY["IS-01"][0], resources=(*SAFETY["IS-01"][0].resources, reaction(), condition("c2", "Z91.041"))
    ),
    "IS-06 gadolinium": dataclasses.replace(
        SAFETY["IS-06"][0], drafts=(MR_GADOLINIUM, CT_ABDOMEN | {"id": "d2"}, agent("V08CA03", "gadodiamide"))
    ),
}


def card_of(given: Chart) -> Card:
    (card,) = given.cards(NAME, ALL_ON)
    return card


@pytest.mark.parametrize("rule", CASES)
def test_the_longest_fillers_stay_within_the_limits_and_lose_no_rule_line(rule: str) -> None:
    for given in (CASES[rule], stretched(CASES[rule])):
        card = card_of(given)
        detail = card.detail or ""
        assert len(card.summary) < 140
        assert len(detail) <= 1200
        assert detail.rpartition("\n\n")[2].startswith("Rule ")
        assert "<b>" not in card.summary + detail
        assert "](http" not in detail
        assert all(word not in card.summary + detail for word in ("please", "!", "consider "))
        assert len(card.suggestions) <= 3
        assert len(card.override_reasons) == 6


@pytest.mark.parametrize("rule", CASES)
def test_every_suggestion_is_whole_r4_in_codes_of_the_tables_and_changes_only_what_its_label_says(rule: str) -> None:
    known = {d.rxcui for d in drugs()} | set(imaging_orders()) | set(lab_codes())
    given = CASES[rule]
    held = {f"{r['resourceType']}/{r['id']}": r for r in (*given.resources, *given.drafts)}
    card = card_of(given)
    assert card.suggestions
    for suggestion in card.suggestions:
        assert suggestion.label[0].isupper()
        for action in suggestion.actions:
            plain: dict[str, Any] = msgspec.to_builtins(action)
            if plain["type"] == "delete":
                assert plain["resourceId"] in held
                continue
            resource = plain["resource"]
            validate_r4(resource)
            made = resource.get("code") or resource["medicationCodeableConcept"]
            if plain["type"] == "create":
                assert all(c["code"] in known or c["system"] == REQUEST for c in made["coding"])
                assert "id" not in resource
                continue
            before = held[f"{resource['resourceType']}/{resource['id']}"]
            changed = {k for k in {*before, *resource} if before.get(k) != resource.get(k)}
            assert changed <= {"code", "note", "status", "statusReason"}
            assert resource["resourceType"] == "MedicationRequest" or {c["code"] for c in made["coding"]} <= known


def test_patients_relatives_and_the_dead_have_no_card() -> None:
    for given in CASES.values():
        for user in ("Patient/p1", "RelatedPerson/r1"):
            assert dataclasses.replace(given, user=user).cards(NAME, ALL_ON) == []
        dead = tuple({**r, "deceasedBoolean": True} if r["resourceType"] == "Patient" else r for r in given.resources)
        assert dataclasses.replace(given, resources=dead).cards(NAME, ALL_ON) == []


def test_two_findings_that_would_interrupt_are_both_said_on_one_card() -> None:
    both = (*SAFETY["IS-01"][0].resources, reaction())
    detail = card_of(dataclasses.replace(SAFETY["IS-01"][0], resources=both)).detail or ""
    assert "\n\nAlso: eGFR 26 (2026-03-10): plan fluid prophylaxis or non-contrast CT" in detail
