"""What a card may be: the specification's rules hold by construction."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from contexts import IMAGING, call
from pydantic import ValidationError
from r4 import suggested_resources, validate_r4

from cds_service.cards import Action, Card, CardError, Coding, Link, Source, Suggestion, to_json

SOURCE = Source("Ordersight")
UPDATE = Action("update", "Ask for it without contrast", resource=IMAGING)


def card(**members: Any) -> Card:
    return Card(**{"summary": "Kidney function", "indicator": "warning", "source": SOURCE, **members})


def wire(value: Card) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(to_json([value]))
    return dict(decoded["cards"][0])


def test_a_small_card_has_its_four_members_and_nothing_else() -> None:
    small = card()
    assert wire(small) == {
        "summary": "Kidney function",
        "indicator": "warning",
        "source": {"label": "Ordersight"},
        "uuid": small.uuid,
    }


def test_a_full_card_is_spelled_as_the_specification_spells_it() -> None:
    full = card(
        detail="**eGFR 28** on 2026-11-20",
        suggestions=(Suggestion("Without contrast", (UPDATE,), is_recommended=True, uuid="s1"),),
        selection_behavior="any",
        override_reasons=(Coding("r1", "urn:x", "Benefit outweighs risk"),),
        links=(
            Link("Guideline", "https://example.org", "absolute"),
            Link("Open", "https://app.example.org/launch", "smart", app_context="abc"),
        ),
        source=Source("Ordersight", url="https://example.org", topic=Coding("IS-01", "urn:cds:topic")),
        uuid="c1",
        extension={"org.example.x": 1},
    )
    assert wire(full) == {
        "summary": "Kidney function",
        "indicator": "warning",
        "detail": "**eGFR 28** on 2026-11-20",
        "source": {
            "label": "Ordersight",
            "url": "https://example.org",
            "topic": {"code": "IS-01", "system": "urn:cds:topic"},
        },
        "suggestions": [
            {
                "label": "Without contrast",
                "uuid": "s1",
                "isRecommended": True,
                "actions": [
                    {"type": "update", "description": "Ask for it without contrast", "resource": IMAGING},
                ],
            }
        ],
        "selectionBehavior": "any",
        "overrideReasons": [{"code": "r1", "system": "urn:x", "display": "Benefit outweighs risk"}],
        "links": [
            {"label": "Guideline", "url": "https://example.org", "type": "absolute"},
            {"label": "Open", "url": "https://app.example.org/launch", "type": "smart", "appContext": "abc"},
        ],
        "uuid": "c1",
        "extension": {"org.example.x": 1},
    }


def test_nothing_to_say_is_an_empty_list() -> None:
    assert to_json([]) == b'{"cards":[]}'


def test_every_card_and_suggestion_has_a_uuid_of_its_own() -> None:
    uuids = {card().uuid for _ in range(100)} | {Suggestion("s").uuid for _ in range(100)}
    assert len(uuids) == 200


def test_a_summary_is_shorter_than_140_characters() -> None:
    assert card(summary="x" * 139)
    for summary in ("x" * 140, "", "  "):
        with pytest.raises(CardError, match="summary"):
            card(summary=summary)


SUGGESTION = Suggestion("s", is_recommended=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: card(detail=""),
        lambda: card(detail="x" * 1201),
        lambda: card(suggestions=(SUGGESTION,)),
        lambda: card(selection_behavior="any"),
        lambda: card(suggestions=(SUGGESTION, SUGGESTION), selection_behavior="at-most-one"),
        lambda: card(override_reasons=(Coding("c", "s"),)),
        lambda: card(override_reasons=(Coding("c", "s", ""),)),
        lambda: card(extension={}),
        lambda: Source(""),
        lambda: Source("x", url="example.org"),
        lambda: Source("x", icon="data:image/png;base64,AA"),
        lambda: Coding("", "s"),
        lambda: Coding("c", " "),
        lambda: Link("x", "javascript:alert(1)", "absolute"),
        lambda: Link("x", "/relative", "absolute"),
        lambda: Link("", "https://example.org", "absolute"),
        lambda: Link("x", "https://example.org", "absolute", app_context="a"),
        lambda: Suggestion(""),
        lambda: Action("create", "", resource=IMAGING),
        lambda: Action("create", "d"),
        lambda: Action("create", "d", resource={"id": "1"}),
        lambda: Action("create", "d", resource=IMAGING, resource_id="ServiceRequest/1"),
        lambda: Action("update", "d", resource={"resourceType": "ServiceRequest"}),
        lambda: Action("delete", "d", resource=IMAGING),
        lambda: Action("delete", "d", resource_id="1"),
        lambda: Action("delete", "d", resource=IMAGING, resource_id="ServiceRequest/1"),
        lambda: Action("delete", "d"),
    ],
)
def test_a_card_the_specification_forbids_cannot_be_made(make: Callable[[], object]) -> None:
    with pytest.raises(CardError):
        make()


def test_a_deletion_names_what_it_deletes_by_type_and_id() -> None:
    action = Action("delete", "Remove it", resource_id="ServiceRequest/d1")
    shown = wire(card(suggestions=(Suggestion("s", (action,)),), selection_behavior="any"))
    assert shown["suggestions"][0]["actions"][0] == {
        "type": "delete",
        "description": "Remove it",
        "resourceId": "ServiceRequest/d1",
    }


def test_what_we_suggest_is_valid_fhir(make_app: Callable[..., Any]) -> None:
    response = make_app().test_client().post("/cds-services/probe", json=call("order-sign"))
    resources = suggested_resources(response.get_json()["cards"])
    assert [r["resourceType"] for r in resources] == ["ServiceRequest"]
    for resource in resources:
        validate_r4(resource)


def test_the_judge_of_fhir_refuses_what_is_not_valid() -> None:
    for broken in ({**IMAGING, "status": 5}, {**IMAGING, "unheardOf": 1}, {**IMAGING, "subject": "Patient/p1"}):
        with pytest.raises(ValidationError):
            validate_r4(broken)
