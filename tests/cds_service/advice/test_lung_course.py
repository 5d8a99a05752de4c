"""LC-05 and LC-06: progression under a kinase inhibitor, and drugs that do not go together."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from lung_charts import NAME, OSIMERTINIB, card_of, chart, rules, text, variant
from r4 import validate_r4
from vignettes import LOINC, SUBJECT, Chart, Resource, concept, condition, medication, observation, patient, service

from cds_service.evidence import Shortfall

EVIDENCE_TYPE = "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-cancer-disease-status-evidence-type"
DRIVER = variant("EGFR", "p.Leu858Arg", at="2025-11-30")


def size(id_: str, tumour: str, value: float, at: str, unit: str = "mm", status: str = "final") -> Resource:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": status,
        "code": concept(LOINC, "21889-1"),
        "subject": SUBJECT,
        "focus": [{"reference": f"BodyStructure/{tumour}"}],
        "effectiveDateTime": at,
        "component": [
            {"code": concept(LOINC, "33728-7"), "valueQuantity": {"value": value, "unit": unit, "code": unit}}
        ],
    }


def trend(snomed: str, *, imaging: bool = True, at: str = "2026-03-05", status: str = "final") -> Resource:
    evidence = {"url": EVIDENCE_TYPE, "valueCodeableConcept": concept("http://snomed.info/sct", "363679005")}
    return {
        "resourceType": "Observation",
        "id": "ds1",
        "status": status,
        "code": concept(LOINC, "97509-4"),
        "subject": SUBJECT,
        "effectiveDateTime": at,
        "valueCodeableConcept": concept("http://snomed.info/sct", snomed),
        **({"extension": [evidence]} if imaging else {}),
    }


WORSE, STABLE = "271299001", "359746009"
BEST = (size("s1", "t1", 30, "2026-01-20"), size("s2", "t2", 20, "2026-01-20"))
GROWN = (size("s3", "t1", 38, "2026-03-05"), size("s4", "t2", 23, "2026-03-05"))  # 50 -> 61 mm: +22 %


def seen(*resources: Resource, drug: Resource = OSIMERTINIB, **more: Any) -> Chart:
    return chart(drug, DRIVER, *resources, drafts=(), hook="patient-view", **more)


# --- LC-05 ----------------------------------------------------------------------------------------------------------


def test_a_sum_22_percent_and_11_mm_above_the_smallest_asks_for_sequencing_again() -> None:
    card = card_of(seen(*BEST, *GROWN))
    assert card.indicator == "info"
    assert card.summary == (
        "Progression on osimertinib (target sum +22 % since 2026-01-20, 2026-03-05): "
        "repeat tissue or plasma sequencing for resistance."
    )
    assert "| Sum of diameters | 61.0 mm, 2 tumours | 2026-03-05 |" in text(card)
    requests = [msgspec.to_builtins(a)["resource"] for s in card.suggestions for a in s.actions]
    assert [r["code"]["text"] for r in requests] == [
        "next-generation sequencing of tumour tissue",
        "plasma tumour sequencing",
    ]
    for resource in requests:
        validate_r4(resource)


def test_centimetres_give_the_same_sum() -> None:
    grown = (size("s3", "t1", 3.8, "2026-03-05", "cm"), size("s4", "t2", 2.3, "2026-03-05", "cm"))
    assert text(card_of(seen(*BEST, *grown))) == text(card_of(seen(*BEST, *GROWN)))


def test_a_trend_judged_worse_on_imaging_is_structured_progression_too() -> None:
    assert card_of(seen(trend(WORSE))).summary.startswith("Progression on osimertinib (worse on imaging, 2026-03-05)")


@pytest.mark.parametrize(
    "given",
    [
        seen(*BEST, size("s3", "t1", 34, "2026-03-05"), size("s4", "t2", 25, "2026-03-05")),  # +18 %
        seen(size("s1", "t1", 12, "2026-01-20"), size("s3", "t1", 16, "2026-03-05")),  # +33 % but 4 mm
        seen(*BEST, size("s3", "t1", 70, "2026-03-05")),  # the other was not measured again
        seen(*BEST, *(dict(g, status="preliminary") for g in GROWN)),
        seen(*BEST, *(dict(g, effectiveDateTime="2025-12-24") for g in GROWN)),  # the larger came first
        seen(trend(STABLE)),
        seen(trend(WORSE, imaging=False)),
        seen(trend(WORSE, status="preliminary")),
        seen(trend(WORSE, at="2025-11-01")),
        seen(trend(WORSE), drug={**OSIMERTINIB, "status": "stopped"}),
        seen(trend(WORSE), drug={**OSIMERTINIB, "authoredOn": "2026-03-06"}),  # begun after it
        seen(trend(WORSE), drug=medication("a1", "40048", "carboplatin")),
        seen(trend(WORSE), variant("EGFR", "p.Thr790Met", id_="g9", at="2026-03-08")),  # sequenced since
        dataclasses.replace(seen(trend(WORSE)), shortfalls=(Shortfall("genes", "timeout"),)),
    ],
)
def test_smaller_growth_other_trends_or_sequencing_since_are_silent(given: Chart) -> None:
    assert "LC-05" not in rules(given)


def test_sequencing_on_order_is_not_asked_for_again() -> None:
    pending = {
        "resourceType": "ServiceRequest",
        "id": "o1",
        "status": "active",
        "intent": "order",
        "code": concept("urn:ordersight:request", "tumour-sequencing-tissue"),
        "subject": SUBJECT,
    }
    assert seen(trend(WORSE), pending).cards(NAME) == []


# --- LC-06 ----------------------------------------------------------------------------------------------------------

ERLOTINIB = medication("a2", "337525", "erlotinib 150 mg daily")
PPI_DRAFT = medication("d1", "7646", "omeprazole 20 mg daily", "draft")
LORLATINIB_DRAFT = medication("d2", "2103164", "lorlatinib 100 mg daily", "draft")
RIFAMPIN = medication("a3", "9384", "rifampin 600 mg daily")


def both(*resources: Resource, drafts: tuple[Resource, ...], **more: Any) -> Chart:
    return chart(DRIVER, *resources, drafts=drafts, **more)


def actions(given: Chart) -> list[Any]:
    return [msgspec.to_builtins(a) for s in card_of(given).suggestions for a in s.actions]


def test_a_proton_pump_inhibitor_beside_erlotinib_or_gefitinib_is_removed() -> None:
    given = both(ERLOTINIB, drafts=(PPI_DRAFT,))
    card = card_of(given)
    assert card.indicator == "warning"
    assert card.summary == "Erlotinib with omeprazole: less is absorbed; stop omeprazole or use an antacid hours apart."
    assert [a["resourceId"] for a in actions(given)] == ["MedicationRequest/d1"]
    gefitinib = medication("d3", "328134", "gefitinib 250 mg daily", "draft")
    taken = both({**PPI_DRAFT, "id": "a4", "status": "active"}, drafts=(gefitinib,))
    (hold,) = actions(taken)
    assert (hold["type"], hold["resource"]["id"], hold["resource"]["status"]) == ("update", "a4", "on-hold")
    validate_r4(hold["resource"])


def test_lorlatinib_with_a_strong_inducer_is_contraindicated() -> None:
    given = both(RIFAMPIN, drafts=(LORLATINIB_DRAFT,))
    assert card_of(given).summary == ("Lorlatinib with rifampin: contraindicated, severe liver injury; do not combine.")
    assert {(a["resource"]["id"], a["resource"]["status"]) for a in actions(given)} == {
        ("a3", "on-hold"),
        ("d2", "on-hold"),
    }
    reverse = both({**LORLATINIB_DRAFT, "status": "active", "id": "a5"}, drafts=({**RIFAMPIN, "status": "draft"},))
    assert [a["resourceId"] for a in actions(reverse)] == ["MedicationRequest/a3"]


@pytest.mark.parametrize(
    "given",
    [
        both(OSIMERTINIB, drafts=(PPI_DRAFT,)),
        both({**ERLOTINIB, "status": "stopped"}, drafts=(PPI_DRAFT,)),
        both(drafts=(LORLATINIB_DRAFT,)),
        both({**RIFAMPIN, "status": "completed"}, drafts=(LORLATINIB_DRAFT,)),
        both(ERLOTINIB, dict(PPI_DRAFT, id="a4", status="active"), drafts=(medication("d9", "40048", "x", "draft"),)),
        both(ERLOTINIB, drafts=(PPI_DRAFT,), tumour=condition("c1", "K21.9")),
        both(ERLOTINIB, drafts=(PPI_DRAFT,), who=patient("female", "2010-01-01")),
    ],
)  # fmt: skip
def test_single_drugs_stopped_drugs_and_pairs_nobody_touched_are_silent(given: Chart) -> None:
    assert "LC-06" not in rules(given)


def test_the_qt_of_osimertinib_is_left_to_precision_prescribing_unless_the_site_says_otherwise() -> None:
    draft = medication("d4", "1721560", "osimertinib 80 mg", "draft")
    long_qt = observation("q1", "8636-3", 512, "ms", "2026-03-09T08:00:00Z")
    given = both(long_qt, drafts=(draft,))
    assert given.cards(NAME) == []
    manifest = service(NAME)
    here = msgspec.structs.replace(manifest, settings={**manifest.settings, "osimertinib_qtc_here": True})
    card = card_of(given, here)
    assert card.indicator == "warning"
    assert card.summary.startswith("QTc 512 ms (2026-03-09): osimertinib prolongs it")
    short = both(observation("q1", "8636-3", 430, "ms", "2026-03-09T08:00:00Z"), drafts=(draft,))
    assert short.cards(NAME, here) == []
