"""The card contract under the longest fillers, and every suggestion of both services as real R4."""

from __future__ import annotations

import dataclasses
from typing import Any

import lung_charts
import msgspec
import pneumonia_charts
import pytest
from lung_charts import L858R, OLD_REPORT, OPAQUE, OSIMERTINIB, PROCALCITONIN, cancer, fusion, report, variant
from pneumonia_charts import (
    AMOXICILLIN,
    CONFUSED,
    DETECTED,
    FILM,
    INFECTION,
    NOT_DETECTED,
    OEDEMA,
    PIXELS,
    PREDNISONE,
    WELL,
    answered,
    at_home,
    instead,
    lab,
    vital,
)
from r4 import validate_r4
from vignettes import (
    Answers,
    Chart,
    Resource,
    concept,
    condition,
    encounter,
    film,
    medication,
    observation,
    patient,
    service,
)

from cds_service.cards import Card
from cds_service.evidence import Shortfall
from fhir_mappers.codes import drugs, imaging_orders, lab_codes

LONG = "a very long name that some catalogue has given to this | thing <b>with</b> [marks](http://x.y) and *more* " * 4
EVERYTHING = tuple(Shortfall(key, "timeout") for key in ("vitals", "allergies", "encounter", "goals", "kidney"))


def wordy(resource: Resource) -> Resource:
    """The same resource with names as long as a record may have them."""
    changed = dict(resource)
    for key in ("code", "medicationCodeableConcept"):
        if key in changed and changed["resourceType"] in ("Condition", "MedicationRequest", "ServiceRequest"):
            changed[key] = {**changed[key], "text": LONG}
    return changed


def stretched(given: Chart) -> Chart:
    return dataclasses.replace(
        given,
        resources=tuple(wordy(r) for r in given.resources),
        drafts=tuple(wordy(d) for d in given.drafts),
        shortfalls=EVERYTHING,
    )


DAYS = {"value": 10.5, "unit": "d", "system": "http://unitsofmeasure.org", "code": "d"}
COURSE = {**AMOXICILLIN, "dosageInstruction": [{"timing": {"repeat": {"boundsDuration": DAYS}}}]}
ILL = instead(
    WELL, CONFUSED, lab("3094-0", 131.123456789, "mg/dL"), vital("9279-1", 42, "/min"), vital("59408-5", 81, "%")
)
WET = (
    condition("c7", "I50.23"), lab("33762-6", 123456.789, "pg/mL"), lab("33959-8", 0.0612345, "ng/mL"), *WELL,
    lab("2160-0", 1.2, "mg/dL"), FILM,
)  # fmt: skip
DRY = (*instead(WELL, vital("8480-6", 101.5, "mm[Hg]")), lab("2524-7", 12.3456, "mmol/L", "2026-03-10T11:00:00Z"), FILM)
MRSA = medication("a1", "11124", "vancomycin", authoredOn="2026-03-08T08:00:00Z")
LONG_STAY = encounter("IMP", period={"start": "2026-03-08T07:00:00Z"})


def chest(*resources: Resource, drafts: tuple[Resource, ...], **more: Any) -> Chart:
    return pneumonia_charts.chart(*resources, drafts=drafts, **more)


def long_model(model: Answers) -> Answers:
    names = {*model.given, "deterioration_24h"}
    return dataclasses.replace(
        model,
        given={**model.given, "deterioration_24h": (0.44, 0.37, 0.51)},
        titles=dict.fromkeys(names, "a finding with a name of many words, as some lexicons have them"),
        model="chest-generated-with-a-very-long-name@2026.11.30",
        tier="generated",
    )


HOME = (at_home(AMOXICILLIN),)
CHEST = {
    "CT-01": chest(*ILL, drafts=HOME, visit=encounter("EMER"), model=long_model(Answers({}, modalities=("labs",)))),
    "CT-02": chest(*WELL, drafts=(PREDNISONE,)),
    "CT-03": chest(*WET, drafts=(AMOXICILLIN,), films=(PIXELS,), model=long_model(OEDEMA)),
    "CT-04": chest(*WELL, drafts=(COURSE,)),
    "CT-05": chest(answered("92131-2", DETECTED), drafts=HOME, visit=encounter("AMB")),
    "CT-06": chest(*DRY, drafts=(pneumonia_charts.FUROSEMIDE,), films=(PIXELS,), model=long_model(INFECTION)),
    "CT-07": chest(MRSA, answered("13317-3", NOT_DETECTED), drafts=(AMOXICILLIN,), visit=LONG_STAY),
}
EXON20 = variant("EGFR", "p.Ala767_Val769delinsGlyGlyGlyGlyGlyGlyGlyGlyGlyGlyGlyGlyGlyGlyGlyGly")
INDUCER = medication("a3", "9384", "rifampin")
ON_DRUG = (OSIMERTINIB, {**OSIMERTINIB, "id": "a8", "medicationCodeableConcept": concept(
    "http://www.nlm.nih.gov/research/umls/rxnorm", "6851")}, L858R, PROCALCITONIN)  # fmt: skip
PIXELS2 = (lung_charts.NEW_PIXELS, lung_charts.OLD_PIXELS)
TREND = {
    "resourceType": "Observation",
    "id": "ds1",
    "status": "final",
    "code": concept("http://loinc.org", "97509-4"),
    "subject": {"reference": "Patient/p1"},
    "effectiveDateTime": "2026-03-05",
    "valueCodeableConcept": concept("http://snomed.info/sct", "271299001"),
    "extension": [
        {
            "url": "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-evidence-type",
            "valueCodeableConcept": concept("http://snomed.info/sct", "363679005"),
        }
    ],
}


def lungs(*resources: Resource, **more: Any) -> Chart:
    return lung_charts.chart(*resources, **more)


LUNG = {
    "LC-01": lungs(condition("c5", "C79.31"), observation("p1", "85147-7", LONG, None, "2026-03-02")),
    "LC-02": lungs(L858R, condition("c5", "C79.31"), observation("p1", "85147-7", LONG, None, "2026-03-02")),
    "LC-02 RET": lungs(fusion("RET"), tumour=cancer(None, None)),
    "LC-02 ALK": lungs(fusion("ALK", source="unknown", significance=""), tumour=cancer(None, None)),
    "LC-03": lungs(EXON20, tumour=cancer(None, None)),
    "LC-04": lungs(
        *ON_DRUG, lung_charts.NEW_FILM, lung_charts.OLD_FILM, OLD_REPORT, condition("c6", "R06.00"),
        drafts=(), hook="patient-view", films=PIXELS2, model=long_model(OPAQUE),
    ),
    "LC-04 report": lungs(
        *ON_DRUG, report("r1", "2026-03-10T10:00:00Z", f"New bilateral opacities {LONG}"), OLD_REPORT,
        drafts=(), hook="patient-view",
    ),
    "LC-05": lungs(OSIMERTINIB, TREND, drafts=(), hook="patient-view"),
    "LC-06": lungs(INDUCER, drafts=(medication("d2", "2103164", "lorlatinib", "draft"),)),
}  # fmt: skip
CASES = [("chest-treatment", k, v) for k, v in CHEST.items()] + [("lung-precision", k, v) for k, v in LUNG.items()]


def card_of(name: str, given: Chart) -> Card:
    (card,) = given.cards(name)
    return card


@pytest.mark.parametrize(("name", "rule", "given"), CASES, ids=[c[1] for c in CASES])
def test_the_longest_fillers_stay_within_the_limits_and_lose_no_rule_line(name: str, rule: str, given: Chart) -> None:
    for chart in (given, stretched(given), dataclasses.replace(stretched(given), now="2026-03-10T14:00:01+00:00")):
        card = card_of(name, chart)
        assert len(card.summary) < 140
        assert len(card.detail or "") <= 1200
        assert (card.detail or "").endswith(f"Rule {rule.split(maxsplit=1)[0]} v1")
        assert "<b>" not in card.summary + (card.detail or "")
        assert "](http" not in (card.detail or "")
        assert all(word not in card.summary + (card.detail or "") for word in ("please", "!", "consider "))


@pytest.mark.parametrize(("name", "rule", "given"), CASES, ids=[c[1] for c in CASES])
def test_every_suggestion_is_a_whole_r4_resource_with_codes_of_the_tables(name: str, rule: str, given: Chart) -> None:
    known = {d.rxcui for d in drugs()} | set(imaging_orders()) | set(lab_codes())
    own = {str(v).partition("|")[2] for v in service(name).settings.values() if str(v).startswith("urn:ordersight")}
    card = card_of(name, given)
    assert 0 < len(card.suggestions) <= 3
    for suggestion in card.suggestions:
        assert suggestion.label[0].isupper()
        assert suggestion.actions
        for action in suggestion.actions:
            plain = msgspec.to_builtins(action)
            if plain["type"] == "delete":
                assert plain["resourceId"] in {f"{d['resourceType']}/{d['id']}" for d in given.drafts}
                continue
            resource = plain["resource"]
            validate_r4(resource)
            if plain["type"] == "create":
                made = resource.get("code") or resource["medicationCodeableConcept"]
                assert {c["code"] for c in made["coding"]} <= known | own
                assert resource["status"] == "draft"
                assert resource["subject"] == {"reference": "Patient/p1"}
                assert "id" not in resource
            else:
                before = {r["id"]: r for r in (*given.resources, *given.drafts)}[resource["id"]]
                changed = {k for k in {*before, *resource} if before.get(k) != resource.get(k)}
                assert changed <= {"status", "statusReason", "dosageInstruction", "dispenseRequest"}


def test_every_rule_of_both_services_fires_in_a_chart_here() -> None:
    fired = {rule.split(maxsplit=1)[0] for _, rule, _ in CASES}
    assert fired == set(service("chest-treatment").rules) | set(service("lung-precision").rules)


@pytest.mark.parametrize(
    ("name", "given"),
    [("chest-treatment", CHEST["CT-02"]), ("chest-treatment", CHEST["CT-01"]), ("lung-precision", LUNG["LC-02"])],
)
def test_no_answer_of_a_model_takes_a_deterministic_warning_away(name: str, given: Chart) -> None:
    first, pixels = film(1, "2026-03-10T11:50:00Z")
    without_model = card_of(name, dataclasses.replace(given, model=None))
    for p in (0.01, 0.5, 0.99):
        names = ("finding.pneumonia", "finding.edema", "finding.opacity", "drug_pneumonitis", "deterioration_24h")
        model = Answers(
            dict.fromkeys(names, (p, max(0.0, p - 0.05), min(1.0, p + 0.05))), modalities=("imaging", "labs")
        )
        card = card_of(
            name, dataclasses.replace(given, model=model, resources=(*given.resources, first), films=(pixels,))
        )
        assert (card.indicator, card.summary) == (without_model.indicator, without_model.summary)


def test_a_patient_and_a_relative_never_see_a_card() -> None:
    for name, _, given in CASES:
        for user in ("Patient/p1", "RelatedPerson/r1"):
            assert dataclasses.replace(given, user=user).cards(name) == []


def test_a_deceased_patient_has_no_card() -> None:
    for name, _, given in CASES:
        dead = tuple(
            patient("female", "1959-03-21", deceasedBoolean=True) if r["resourceType"] == "Patient" else r
            for r in given.resources
        )
        assert dataclasses.replace(given, resources=dead).cards(name) == []
