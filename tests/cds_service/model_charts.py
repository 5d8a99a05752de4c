"""Charts of patients whose cards rest on the fused model, and what such a card holds."""

from __future__ import annotations

from typing import Any

import msgspec
from embolism import ALL_NO, MAN_40
from embolism import chart as embolism_chart
from every_rule import PAIRS
from vignettes import SERVICES, Answers, Chart, Resource, condition, encounter, film, observation, patient, service

from cds_service.advice import load_advice
from cds_service.cards import Card
from cds_service.consult import Case
from fhir_mappers.tensors import to_fusion_input
from models.checkpoint import read_card
from models.contract import Assessor

MANIFESTS = SERVICES.parent
OPEN = MANIFESTS / "models" / "chest-open"
SHIPPED = read_card(OPEN)
RESEARCH = "Research use: not cleared."
WITH_MODEL = [pair for pair in PAIRS if pair.fires.model is not None]

AT = "2026-03-10T13:40:00Z"
COVID = condition("c9", "U07.1")
CRP = observation("l1", "1988-5", 180, "mg/L", "2026-03-10T06:00:00Z")
WBC = observation("l2", "6690-2", 7.0, "10*3/uL", "2026-03-10T06:00:00Z")
FILM, PIXELS = film(1, "2026-03-10T08:00:00Z", "AP")
VITALS = tuple(  # NEWS2 2 + 2 + 2 + 1 + 2 + 1 + 0 = 10 (Royal College of Physicians 2017, chart 1)
    observation(f"v{code}", code, value, unit, AT)
    for code, value, unit in (
        ("9279-1", 24, "/min"),
        ("59408-5", 93, "%"),
        ("3151-8", 4, "L/min"),
        ("8480-6", 104, "mm[Hg]"),
        ("8867-4", 116, "/min"),
        ("8310-5", 38.6, "Cel"),
        ("67775-7", "Alert", None),
    )
)
RISK = Answers({"icu_care": (0.72, 0.63, 0.80)}, masked={"imaging": 0.50, "labs": 0.64})


def ward(*resources: Resource, model: Answers | None = None, who: Resource | None = None, **more: Any) -> Chart:
    """A ward patient with COVID-19, two laboratory results and a chest film."""
    person = who or patient("female", "1961-07-07")
    given = (person, encounter(), COVID, CRP, WBC, FILM, *resources)
    return Chart(given, hook="patient-view", films=(PIXELS,), model=model, **more)


def case_of(chart: Chart, name: str, model: Assessor) -> Case:
    """The case of a chart as `consult` makes it, with any model."""
    chosen, record = service(name), chart.record(name)
    inputs = to_fusion_input(record, model.spec)
    targets = tuple(t for t in chosen.targets if t in model.spec.target_names())
    answer = model.assess(inputs, timeout=20.0, targets=targets)
    return Case(chosen, chart.request(name), record, answer, (), chart.profile, "", dict(inputs.used))


def advised(case: Case) -> list[Card]:
    return load_advice(case.service.advice)(case)


def text(cards: list[Card]) -> str:
    return "\n".join(f"{c.summary}\n{c.detail}" for c in cards)


def created(card: Card, *, recommended: bool = False) -> list[Resource]:
    actions = [a for s in card.suggestions if s.is_recommended or not recommended for a in s.actions]
    return [a["resource"] for a in map(msgspec.to_builtins, actions) if a["type"] == "create"]


def clear_by(model_says: float, *resources: Resource, **more: Any) -> Chart:
    """CTPA ordered in acute kidney injury (1.0 to 2.1 mg/dL within 24 h), with a chest film of three hours ago."""
    study, pixels = film(1, "2026-03-10T11:00:00Z")
    creatinine = (
        observation("k1", "2160-0", 1.0, "mg/dL", "2026-03-09T06:00:00Z"),
        observation("k2", "2160-0", 2.1, "mg/dL", "2026-03-10T06:00:00Z"),
    )
    names = service("pe-imaging").thresholds
    model = Answers(dict.fromkeys(names, (model_says, model_says - 0.01, model_says + 0.01)), modalities=("imaging",))
    given = (condition("c0", "C34.11"), *creatinine, study, *resources)
    return embolism_chart(*given, who=MAN_40, drafts=(ALL_NO,), films=(pixels,), model=model, **more)
