"""LC-04: imaging, drug exposure, laboratory and genes on one card, and what brings it down or silences it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from lung_charts import (
    L858R,
    NAME,
    NEW_FILM,
    NEW_PIXELS,
    OLD_FILM,
    OLD_PIXELS,
    OLD_REPORT,
    OPAQUE,
    OSIMERTINIB,
    PROCALCITONIN,
    cancer,
    card_of,
    chart,
    negative,
    report,
    rules,
    text,
)
from r4 import validate_r4
from vignettes import (
    Answers,
    Chart,
    Resource,
    concept,
    condition,
    imaging_order,
    medication,
    observation,
    patient,
    service,
)

from cds_service.advice.estimates import RESEARCH
from cds_service.evidence import Shortfall
from fhir_mappers.cohort.scenarios_chest import CHEST

CODED = report("r1", "2026-03-10T10:00:00Z", "See findings.", study="study1", codes=("J70.4",))
WORDS = report("r1", "2026-03-10T10:00:00Z", "New bilateral ground-glass opacities.", study="study1")
CELLS = observation("l2", "6690-2", 7.4, "10*3/uL", "2026-03-10T06:00:00Z")
HEAT = observation("l3", "8310-5", 36.9, "Cel", "2026-03-10T06:00:00Z")
OXYGEN = observation("l4", "59408-5", 90, "%", "2026-03-10T06:00:00Z")
SHORT_OF_BREATH = condition("c2", "R06.00", onsetDateTime="2026-03-04")


def viewed(*resources: Resource, drug: Resource = OSIMERTINIB, **more: Any) -> Chart:
    """The chart is opened: osimertinib for 80 days, procalcitonin 0.08, an earlier report of clear lungs."""
    given = {"drafts": (), "hook": "patient-view", **more}
    return chart(drug, L858R, PROCALCITONIN, OLD_REPORT, *resources, **given)


def filmed(*resources: Resource, model: Answers | None = OPAQUE, **more: Any) -> Chart:
    given = {"films": (NEW_PIXELS, OLD_PIXELS), **more}
    return viewed(NEW_FILM, OLD_FILM, *resources, model=model, **given)


# --- by the report --------------------------------------------------------------------------------------------------


def test_a_coded_report_of_new_diffuse_opacities_under_osimertinib_warns() -> None:
    card = card_of(viewed(CODED))
    assert card.indicator == "warning"
    assert card.summary == (
        "New bilateral opacities vs 2026-02-10 on osimertinib: possible drug pneumonitis; CT and hold drug."
    )
    assert "| Osimertinib | on it for 80 d | 2025-12-20 | Medication list |" in text(card)
    assert "| EGFR p.Leu858Arg | pathogenic, somatic | 2026-03-02 | Genomic result |" in text(card)
    assert "| Procalcitonin | 0.08 ng/mL |" in text(card)
    assert RESEARCH not in text(card)
    ct, hold = (msgspec.to_builtins(a)["resource"] for s in card.suggestions for a in s.actions)
    assert ct["code"]["coding"][0]["code"] == "29252-4"
    assert (hold["id"], hold["status"]) == ("a1", "on-hold")
    assert "CT chest" in hold["statusReason"]["text"]
    for resource in (ct, hold):
        validate_r4(resource)


def test_words_of_a_final_report_inform_and_are_quoted() -> None:
    card = card_of(viewed(WORDS))
    assert card.indicator == "info"
    assert "| Final report | New bilateral ground-glass opacities. |" in text(card)


@pytest.mark.parametrize(
    "conclusion",
    [
        "No bilateral opacities.",
        "Bilateral opacities have resolved.",
        "Bilateral opacities, unchanged.",
        "New right lower lobe consolidation.",  # one side
        "Bilateral effusions.",
        "",
    ],
)
def test_denied_better_or_one_sided_words_say_nothing(conclusion: str) -> None:
    assert viewed({**WORDS, "conclusion": conclusion}).cards(NAME) == []


def test_right_and_left_may_stand_in_two_sentences() -> None:
    two = {**WORDS, "conclusion": "Right lower zone ground-glass opacity. Left lower zone ground-glass opacity."}
    assert card_of(viewed(two)).summary.startswith("New bilateral opacities vs 2026-02-10")


def test_a_preliminary_report_is_not_read() -> None:
    assert viewed({**WORDS, "status": "preliminary"}).cards(NAME) == []
    assert viewed({**CODED, "status": "preliminary"}).cards(NAME) == []


def test_opacities_that_were_there_before_are_not_new_unless_called_worse() -> None:
    before = report("r2", "2026-02-10T10:00:00Z", "Bilateral opacities.", study="study2", codes=("J70.4",))
    given = chart(OSIMERTINIB, L858R, PROCALCITONIN, before, CODED, drafts=(), hook="patient-view")
    assert given.cards(NAME) == []
    worse = {**CODED, "conclusion": "Worsening bilateral opacities."}
    again = chart(OSIMERTINIB, L858R, PROCALCITONIN, before, worse, drafts=(), hook="patient-view")
    assert card_of(again).summary.startswith("Worse bilateral opacities vs 2026-02-10")


def test_without_an_earlier_picture_the_card_says_so_and_stays_info() -> None:
    alone = chart(OSIMERTINIB, L858R, PROCALCITONIN, CODED, drafts=(), hook="patient-view")
    card = card_of(alone)
    assert card.indicator == "info"
    assert "no comparison" in card.summary
    assert "an earlier picture to compare with" in text(card).partition("Not known: ")[2]


# --- by the film ----------------------------------------------------------------------------------------------------


def test_an_unreported_film_against_the_one_before_warns_as_research_use() -> None:
    card = card_of(filmed())
    assert card.indicator == "warning"
    assert card.summary == (
        "New opacity on film (0.93) vs 2026-02-10 on osimertinib: possible drug pneumonitis; CT and hold drug."
    )
    assert "0.93 (0.88 to 0.97); 0.05 on 2026-02-10" in text(card)
    assert "lung injury by a drug 0.81, 90% interval 0.72 to 0.88; moved by chest film +51 points" in text(card)
    assert f"Model estimate, not a diagnosis. {RESEARCH}" in text(card)
    assert "bilateral" not in text(card)  # the model gives no side


def answers(now: tuple[float, float, float], before: tuple[float, float, float], **more: Any) -> Answers:
    return dataclasses.replace(OPAQUE, given={"finding.opacity": now, **more}, prior={"finding.opacity": before})


@pytest.mark.parametrize(
    "given",
    [
        filmed(report("r1", "2026-03-10T10:00:00Z", "Lungs clear.", study="study1")),  # radiology has the last word
        filmed(profile="non_device"),
        filmed(model=None),
        filmed(model=dataclasses.replace(OPAQUE, abstained="not a frontal chest film")),
        filmed(model=answers((0.79, 0.72, 0.85), (0.05, 0.02, 0.09))),
        filmed(model=answers((0.93, 0.88, 0.97), (0.92, 0.87, 0.96))),  # there before
        filmed(now="2026-03-13T09:01:00Z"),
        filmed(who=patient("female", "2010-03-21")),
        filmed(shortfalls=(Shortfall("reports", "timeout"),)),
    ],
)
def test_a_reported_old_unchanged_or_doubtful_film_is_silent(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_one_film_alone_informs() -> None:
    one = chart(
        OSIMERTINIB, L858R, PROCALCITONIN, NEW_FILM, drafts=(), hook="patient-view", films=(NEW_PIXELS,), model=OPAQUE
    )
    card = card_of(one)
    assert card.indicator == "info"
    assert card.summary.startswith("Possible opacity on film (0.93), no comparison on osimertinib")


# --- drug and infection ---------------------------------------------------------------------------------------------

HIGH = observation("l1", "33959-8", 2.4, "ng/mL", "2026-03-10T06:00:00Z")


def infected(*resources: Resource, **more: Any) -> Chart:
    """As `viewed`, with a procalcitonin of 2.4."""
    return chart(OSIMERTINIB, L858R, HIGH, OLD_REPORT, CODED, *resources, drafts=(), hook="patient-view", **more)


def test_a_raised_procalcitonin_alone_is_silent_and_breathlessness_or_hypoxaemia_speaks_again() -> None:
    assert infected().cards(NAME) == []
    assert rules(infected(SHORT_OF_BREATH)) == ["LC-04"]
    assert rules(infected(OXYGEN)) == ["LC-04"]
    assert rules(infected(HEAT, CELLS)) == ["LC-04"]  # no fever and normal white cells
    assert infected(HEAT, {**CELLS, "valueQuantity": {"value": 15.2, "unit": "10*3/uL"}}).cards(NAME) == []


def test_a_fever_beside_a_low_procalcitonin_is_shown_and_said() -> None:
    hot = {**HEAT, "valueQuantity": {"value": 38.9, "unit": "Cel"}}
    card = card_of(viewed(CODED, hot))
    assert "| Body temperature | 38.9 °C |" in text(card)
    assert "Fever speaks for infection." in text(card)
    assert "Little speaks" not in text(card)
    assert "Little speaks for infection." in text(card_of(viewed(CODED, HEAT)))


def test_a_final_report_of_ct_after_the_film_outranks_the_model() -> None:
    clear = {**report("r1", "2026-03-10T11:00:00Z", "Lungs clear."), "code": concept("http://loinc.org", "29252-4")}
    assert filmed(clear).cards(NAME) == []
    before = {**clear, "effectiveDateTime": "2026-03-10T07:00:00Z"}
    assert rules(filmed(before)) == ["LC-04"]


def test_a_high_fused_estimate_speaks_where_no_sign_does() -> None:
    quiet = chart(
        OSIMERTINIB, L858R, HIGH, OLD_REPORT, NEW_FILM, OLD_FILM,
        drafts=(), hook="patient-view", films=(NEW_PIXELS, OLD_PIXELS), model=OPAQUE,
    )  # fmt: skip
    assert card_of(quiet).indicator == "info"
    doubtful = answers((0.93, 0.88, 0.97), (0.05, 0.02, 0.09), drug_pneumonitis=(0.30, 0.22, 0.38))
    assert dataclasses.replace(quiet, model=doubtful).cards(NAME) == []


@pytest.mark.parametrize(
    "given",
    [
        viewed(CODED, drug=medication("a1", "6809", "metformin")),
        viewed(CODED, drug={**OSIMERTINIB, "status": "on-hold"}),  # held already
        viewed(CODED, drug={**OSIMERTINIB, "authoredOn": "2026-03-10T12:00:00Z"}),  # begun after the picture
        viewed(CODED, tumour=condition("c1", "I10")),
        viewed(CODED, tumour=cancer("IVA", "small-cell")),
        viewed(CODED, now="2026-03-13T10:01:00Z"),
        viewed(CODED, user="Patient/p1"),
    ],
)
def test_no_lung_toxic_drug_no_lung_cancer_or_an_old_report_is_silent(given: Chart) -> None:
    assert given.cards(NAME) == []


def test_a_checkpoint_inhibitor_whose_cycle_is_completed_still_counts_for_90_days() -> None:
    cycle = medication("a1", "1547545", "pembrolizumab 200 mg", "completed", authoredOn="2026-02-01T09:00:00Z")
    card = card_of(viewed(CODED, drug=cycle))
    assert card.summary.startswith("New bilateral opacities vs 2026-02-10 after pembrolizumab")
    assert "| Pembrolizumab | order completed, written 37 d ago |" in text(card)
    assert [s.label for s in card.suggestions] == ["Order CT chest"]
    assert viewed(CODED, drug={**cycle, "authoredOn": "2025-12-01T09:00:00Z"}).cards(NAME) == []
    assert viewed(CODED, drug={**cycle, "status": "stopped"}).cards(NAME) == []


def test_the_next_cycle_in_front_of_the_clinician_is_held_too() -> None:
    cycle = medication("a1", "1547545", "pembrolizumab 200 mg", "completed", authoredOn="2026-02-17T09:00:00Z")
    later = medication("m1", "1547545", "pembrolizumab 200 mg", "draft")
    given = viewed(CODED, drug=cycle, drafts=(later,), hook="order-sign")
    known = tuple(r for r in given.resources if r["id"] != "g1")
    silent_genes = dataclasses.replace(given, resources=(*known, negative("EGFR", "g2"), negative("ALK", "g3")))
    card = card_of(silent_genes)
    (held,) = [a.resource for a in card.suggestions[1].actions]
    assert held is not None
    assert (held["id"], held["status"]) == ("m1", "on-hold")


def test_ct_is_not_offered_where_it_is_ordered() -> None:
    ct = imaging_order("d1", "29252-4", "CT chest")
    card = card_of(viewed(CODED, drafts=(ct,), hook="order-select"))
    assert [s.label for s in card.suggestions] == ["Hold osimertinib"]


def test_antibiotics_stay_as_they_are() -> None:
    antibiotic = medication("antibiotic-nine", "2193", "ceftriaxone 2 g")
    card = card_of(viewed(CODED, antibiotic))
    assert "antibiotic-nine" not in str(msgspec.to_builtins(card.suggestions))
    assert "Antibiotics stay as ordered." in text(card)


def test_where_signed_orders_cannot_be_updated_the_hold_is_a_task() -> None:
    manifest = service(NAME)
    manifest = msgspec.structs.replace(manifest, settings={**manifest.settings, "update_signed_orders": False})
    task = msgspec.to_builtins(card_of(viewed(CODED), manifest).suggestions[1].actions[0])["resource"]
    validate_r4(task)
    assert task["focus"] == {"reference": "MedicationRequest/a1"}


def test_the_order_of_resources_and_other_patients_change_nothing() -> None:
    for given in (viewed(CODED), filmed()):
        strange = [
            {**report("x1", "2026-03-09T10:00:00Z", codes=("J70.4",)), "subject": {"reference": "Patient/p2"}},
            {**HIGH, "id": "x2", "status": "entered-in-error", "effectiveDateTime": "2026-03-10T13:00:00Z"},
        ]
        mixed = dataclasses.replace(given, resources=(*strange, *given.resources[::-1]), films=given.films[::-1])
        assert text(card_of(mixed)) == text(card_of(given))


def test_the_generated_patient_of_the_demo_raises_the_card_when_her_chart_is_opened() -> None:
    as_of = datetime(2026, 3, 10, 14, tzinfo=UTC)
    spruce = next(p for p in (make(as_of) for make in CHEST) if p.id == "demo-spruce")
    resources = tuple(_of_p1(dict(r), spruce.id) for r in spruce.resources)
    studies = [r for r in resources if r["resourceType"] == "ImagingStudy"]
    newest, earlier = sorted(studies, key=lambda r: r["started"], reverse=True)
    kept = [r for r in resources if r["resourceType"] != "ImagingStudy"]
    films = [
        dataclasses.replace(pixels, reference=f"ImagingStudy/{made['id']}")
        for made, pixels in ((NEW_FILM, NEW_PIXELS), (OLD_FILM, OLD_PIXELS))
    ]
    placed = [{**NEW_FILM, "started": newest["started"]}, {**OLD_FILM, "started": earlier["started"]}]
    linked = str(earlier["id"])
    kept = [
        {**r, "imagingStudy": [{"reference": "ImagingStudy/study2"}]}
        if r["resourceType"] == "DiagnosticReport" and linked in str(r.get("imagingStudy"))
        else r
        for r in kept
    ]
    given = Chart((*kept, *placed), (), tuple(films), hook="patient-view", model=OPAQUE)
    card = card_of(given)
    assert card.indicator == "warning"
    assert "on osimertinib: possible drug pneumonitis" in card.summary
    assert "EGFR p.Leu858Arg" in text(card)


def _of_p1(resource: Resource, id_: str) -> Resource:
    """The generated patient under the id the charts of these tests use."""
    import json

    return json.loads(
        json.dumps(resource).replace(f"Patient/{id_}", "Patient/p1").replace(f'"id": "{id_}"', '"id": "p1"')
    )
