"""CX-05: what has not changed or has improved is on no card, in the call's record, and on the page behind a card."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from film_charts import FLUID, NAME, RESOLVED, changed, chart, film_reading, report, text, two_films
from vignettes import Answers, Chart, patient, service

from cds_service.consult import Case
from cds_service.traces import silences
from fhir_mappers.tensors import to_fusion_input

SAME = changed((0.88, 0.81, 0.93), (0.90, 0.84, 0.95))
LESS = changed((0.30, 0.22, 0.40), (0.90, 0.84, 0.95))
MORE = changed((0.88, 0.81, 0.93), (0.06, 0.03, 0.10))
NEVER = changed((0.05, 0.02, 0.08), (0.04, 0.02, 0.07))


def silent(given: Chart, manifest: Any = None) -> list[tuple[str, str]]:
    """What the rules that never speak leave in the call's record."""
    assert given.model is not None
    record = given.record(NAME)
    inputs = to_fusion_input(record, given.model.spec)
    answer = given.model.assess(inputs, timeout=1.0)
    chosen = manifest or service(NAME)
    case = Case(chosen, given.request(NAME), record, answer, (), given.profile, "", dict(inputs.used))
    return [(d.rule, d.cause) for d in silences(case)]


@pytest.mark.parametrize(
    "model", [SAME, LESS, RESOLVED, dataclasses.replace(MORE, reading=film_reading("right_lower", "improved"))]
)
def test_a_finding_that_is_no_news_is_on_no_card_and_in_the_record(model: Answers) -> None:
    given = two_films(model=model)
    assert given.cards(NAME) == []
    assert silent(given) == [("CX-05", "unchanged or improved: effusion")]


@pytest.mark.parametrize(
    "given",
    [
        two_films(model=MORE),  # new: CX-02 speaks
        two_films(model=NEVER),  # was never there
        chart(model=FLUID),  # no film to compare with
        two_films(report("final"), model=SAME),  # reported
        two_films(model=SAME, profile="non_device"),
        two_films(model=SAME, who=patient("male", "2012-01-01")),
        two_films(model=SAME, now="2026-03-11T13:39:00Z"),  # more than a day old
    ],
)
def test_what_is_news_was_never_there_or_is_not_the_model_s_to_say_is_not_recorded_as_unchanged(given: Chart) -> None:
    assert "CX-05" not in [rule for rule, _ in silent(given)]


def test_a_site_may_switch_the_record_of_it_off() -> None:
    manifest = service(NAME)
    off = msgspec.structs.replace(manifest.rules["CX-05"], on=False)
    assert (
        silent(two_films(model=SAME), msgspec.structs.replace(manifest, rules={**manifest.rules, "CX-05": off})) == []
    )


def test_beside_a_finding_that_is_new_the_card_is_silent_of_one_that_is_not() -> None:
    both = Answers(
        {"finding.effusion": (0.88, 0.81, 0.93), "finding.edema": (0.90, 0.85, 0.94)},
        prior={"finding.effusion": (0.06, 0.03, 0.10), "finding.edema": (0.91, 0.86, 0.95)},
        titles={"finding.effusion": "Pleural effusion", "finding.edema": "Edema"},
        modalities=("imaging",),
    )
    given = two_films(model=both)
    (card,) = given.cards(NAME)
    assert "pleural effusion" in text(card).lower()
    assert "edema" not in text(card).lower()
    assert silent(given) == [("CX-05", "unchanged or improved: edema")]
