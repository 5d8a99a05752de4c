"""Order questions: what was answered beside an order, and what counts as no answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_mappers.codes import LOINC
from fhir_mappers.questions import said_yes
from fhir_mappers.read import read_record
from fhir_mappers.record import Answer, PatientRecord

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
SUBJECT = {"reference": "Patient/p1"}
SNOMED, YES_NO = "http://snomed.info/sct", "http://terminology.hl7.org/CodeSystem/v2-0136"


def form(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "QuestionnaireResponse",
        "id": "q1",
        "status": "completed",
        "subject": SUBJECT,
        "item": list(items),
    } | more


def item(link_id: str, *answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"linkId": link_id, "answer": list(answers)} | more


def order(reference: str = "QuestionnaireResponse/q1", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "ServiceRequest",
        "id": "d1",
        "status": "draft",
        "intent": "order",
        "code": {"coding": [{"system": LOINC, "code": "36147-7"}]},
        "subject": SUBJECT,
        "supportingInfo": [{"reference": reference}],
    } | more


def answers(record: PatientRecord) -> dict[str, Answer]:
    (draft,) = record.drafts()
    return dict(draft.answers)


def read(*resources: dict[str, Any], drafts: tuple[dict[str, Any], ...]) -> PatientRecord:
    return read_record(resources, as_of=AS_OF, patient_id="p1", drafts=drafts)


NO = item("dvt_signs", {"valueBoolean": False})


def test_a_form_is_found_inside_the_order_among_the_drafts_and_in_prefetch() -> None:
    contained = order("#q1", contained=[form(NO)])
    del contained["contained"][0]["subject"]
    assert answers(read(drafts=(contained,))) == {"dvt_signs": False}
    assert answers(read(drafts=(order(), form(NO)))) == {"dvt_signs": False}
    assert answers(read(form(NO), drafts=(order(),))) == {"dvt_signs": False}


def test_a_form_no_order_names_answers_nothing() -> None:
    assert answers(read(form(NO, id="q2"), drafts=(order(),))) == {}


def test_a_form_leaves_no_gap_and_is_no_order() -> None:
    record = read(form(NO), drafts=(order(), form(NO)))
    assert (len(record.orders), record.gaps) == (1, tuple(g for g in record.gaps if g.code == "no-patient"))


@pytest.mark.parametrize("status", ["entered-in-error", "stopped", ""])
def test_a_withdrawn_form_answers_nothing(status: str) -> None:
    assert answers(read(drafts=(order(), form(NO, status=status)))) == {}


def test_a_form_about_another_patient_answers_nothing() -> None:
    stranger = form(NO, subject={"reference": "Patient/p2"})
    assert answers(read(drafts=(order(), stranger))) == {}
    assert answers(read(stranger, drafts=(order(),))) == {}
    assert answers(read(drafts=(order("#q1", contained=[stranger]),))) == {}


def test_answers_in_groups_and_below_answers_are_found() -> None:
    nested = {"linkId": "group", "item": [item("outer", {"valueBoolean": True, "item": [NO]})]}
    assert answers(read(drafts=(order(), form(nested)))) == {"outer": True, "dvt_signs": False}


def test_a_question_answered_twice_differently_is_not_answered() -> None:
    yes = item("dvt_signs", {"valueBoolean": True})
    assert answers(read(drafts=(order(), form(NO, yes)))) == {}
    assert answers(read(drafts=(order(), form(NO, NO)))) == {"dvt_signs": False}
    assert (
        answers(read(drafts=(order(), form(item("dvt_signs", {"valueBoolean": False}, {"valueBoolean": True}))))) == {}
    )


@pytest.mark.parametrize(
    ("value", "read_as", "yes"),
    [
        ({"valueBoolean": True}, True, True),
        ({"valueCoding": {"system": LOINC, "code": "LA32-8"}}, (LOINC, "LA32-8"), False),
        ({"valueCoding": {"system": SNOMED, "code": "373066001"}}, (SNOMED, "373066001"), True),
        ({"valueCoding": {"system": YES_NO, "code": "Y"}}, (YES_NO, "Y"), True),
        ({"valueCoding": {"system": LOINC, "code": "LA4489-6"}}, (LOINC, "LA4489-6"), None),
        ({"valueString": "no"}, "no", None),
        ({"valueInteger": 1}, 1.0, None),
    ],
)
def test_an_answer_is_yes_or_no_only_where_it_is_coded_so(value: dict[str, Any], read_as: Answer, yes: bool) -> None:
    found = answers(read(drafts=(order(), form(item("q", value)))))
    assert found == {"q": read_as}
    assert said_yes(found["q"]) is yes


@pytest.mark.parametrize(
    "broken", [{"item": "x"}, {"item": [{"linkId": 3, "answer": [{}]}]}, {"item": [item("q", {})]}, {"item": [None]}]
)
def test_a_broken_form_answers_nothing_and_costs_no_order(broken: dict[str, Any]) -> None:
    assert answers(read(drafts=(order(), form() | broken))) == {}


def test_a_form_nested_without_end_is_read_to_a_depth() -> None:
    deep = NO
    for _ in range(200):
        deep = {"linkId": "g", "item": [deep]}
    assert answers(read(drafts=(order(), form(deep)))) == {}
