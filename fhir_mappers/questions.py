"""What was answered at order entry: ServiceRequest.supportingInfo -> QuestionnaireResponse -> linkId -> answer.

A question that was answered twice with different answers, or with something that is no answer, counts as not answered:
the rules then take its worst case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fhir_mappers import fhir
from fhir_mappers.record import Answer

KIND = "QuestionnaireResponse"
_USED = frozenset({"in-progress", "completed", "amended"})
"""In progress counts: the form belongs to an order that is itself still a draft."""
_YES = frozenset({"LA33-6", "373066001", "Y"})
_NO = frozenset({"LA32-8", "373067005", "N"})
"""LOINC answers, SNOMED CT qualifiers, v2-0136: yes and no. Anything else, "unknown" too, is neither."""
DEEPEST = 20
"""Groups in groups, beyond which a form is no form."""


def answers_of(
    order: fhir.Resource, supporting: Mapping[str, fhir.Resource], patient_id: str | None
) -> dict[str, Answer]:
    """The answers of every form an order names as its supporting information.

    supporting  resources by `Type/id` that came with the order; contained ones are found in the order itself
    patient_id  a form that names another patient is not read
    """
    found: dict[str, Answer | None] = {}
    for reference in fhir.each(order.get("supportingInfo")):
        named = reference.get("reference") if isinstance(reference, Mapping) else None
        form = fhir.referred(order, named if isinstance(named, str) else None, KIND, supporting)
        if form is None or fhir.status_of(form) not in _USED:
            continue
        if patient_id is not None and fhir.names_patient(form, patient_id) is False:
            continue
        for link_id, answer in _answers(form, DEEPEST):
            same = found.setdefault(link_id, answer) == answer
            found[link_id] = answer if same else None
    return {link_id: answer for link_id, answer in sorted(found.items()) if answer is not None}


def said_yes(answer: Answer | None) -> bool | None:
    """True for yes, False for no, None for anything else: a number and a sentence are neither."""
    if isinstance(answer, bool):
        return answer
    if isinstance(answer, tuple):
        return True if answer[1] in _YES else False if answer[1] in _NO else None
    return None


def _answers(holder: fhir.Resource, depth: int) -> Iterator[tuple[str, Answer | None]]:
    if depth == 0:
        return
    for item in fhir.each(holder.get("item")):
        if not isinstance(item, Mapping):
            continue
        link_id = item.get("linkId")
        given = [a for a in fhir.each(item.get("answer")) if isinstance(a, Mapping)]
        if isinstance(link_id, str) and link_id and given:
            # Several answers to one question (a list of choices) are more than this reader can weigh.
            yield link_id, _value(given[0]) if len(given) == 1 else None
        yield from _answers(item, depth - 1)
        for answer in given:
            yield from _answers(answer, depth - 1)


def _value(answer: fhir.Resource) -> Answer | None:
    for key, kinds in (("valueBoolean", bool), ("valueInteger", int), ("valueDecimal", float), ("valueString", str)):
        value = answer.get(key)
        if isinstance(value, kinds):
            return value if isinstance(value, bool | str) else float(value)
    codes = fhir.codes_of(answer.get("valueCoding"))
    return codes[0] if codes else None
