"""What a call gives up when time runs out, in which order; and what a broken model costs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contexts import own_event
from reading import NOON, bundle, call_of
from small_model import SteppedModel, WholeModel

from cds_service.app import create_app
from cds_service.consult import Means, consult
from cds_service.deadline import Deadline
from cds_service.fhir_client import FhirClient
from cds_service.manifest import EvidenceItem, Service, Services
from cds_service.settings import Settings
from cds_service.thinking import DEPTHS, Thinking
from cds_service.trust.clients import Clients
from models.contract import Assessor

pytestmark = pytest.mark.in_time

COSTS = {"explained": 0.4, "ranked": 0.3, "fused": 0.2, "late": 0.1}
SERVICE = Service(
    "thinks",
    ("patient-view",),
    "Thinks",
    "Asks the small model.",
    "thoughts",
    {"labs": EvidenceItem(search="Observation?category=laboratory")},
    {},
    model="small",
    budget_ms={"patient-view": 2000},
)
CREATININE = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "subject": {"reference": "Patient/p1"},
    "category": [
        {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
    ],
    "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0"}]},
    "effectiveDateTime": "2026-02-28T08:00:00Z",
    "valueQuantity": {"value": 2.0, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"},
}
# (2.0 - 1.0) / 0.5 = 2.0 alone, and a tenth of it from fusing: 1/(1+e^-2.2) = 0.90, 1/(1+e^-2.0) = 0.88.
FUSED, LATE = "worse 0.90", "worse 0.88"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ask(plugin: Path, clock: Clock, fhir_client: FhirClient) -> Iterator[Callable[..., Any]]:
    """Consult the service with so many seconds left, on a clock that only the model moves."""
    means = Means(thinking=Thinking(clock))

    def ask(engine: Assessor | None, seconds: float) -> Any:
        request = call_of(None, {"labs": bundle(CREATININE)})
        return consult(
            SERVICE,
            request,
            Deadline(clock.now + seconds, clock),
            fhir=fhir_client.for_request(request, None),
            engine=engine,
            means=means,
        )

    yield ask
    means.close()


def test_what_there_is_no_time_for_is_given_up_in_the_fixed_order_and_named(
    ask: Callable[..., Any], clock: Clock
) -> None:
    model = SteppedModel(clock.pass_time, COSTS)
    # 40 ms are kept for the rules, so 0.44 s are what the whole assessment of 0.4 s needs.
    steps: list[tuple[float, str | None, str, tuple[str, ...]]] = [
        (0.45, "explained", f"{FUSED}, moved by 1", ()),
        (0.43, "ranked", f"{FUSED}, moved by 0", ("what moved the estimate",)),
        (0.33, "fused", f"{FUSED}, moved by 0", ("what moved the estimate", "comparison with earlier films")),
        (
            0.23,
            "late",
            f"{LATE}, moved by 0",
            ("what moved the estimate", "comparison with earlier films", "the sources weighed together"),
        ),
        (0.13, None, "no estimate", ("model estimate",)),
    ]
    for seconds, depth, summary, missing in steps:
        (card,) = ask(model, seconds)
        assert card.summary == summary, seconds
        assert model.asked[-1:] == ([depth] if depth else ["late"])
        for part in missing:
            assert part in (card.detail or ""), (seconds, part)
        assert (card.detail is None) == (not missing)
    assert model.asked == ["explained", "ranked", "fused", "late"]


def test_with_no_time_even_for_rules_the_answer_is_empty_and_the_log_says_why(
    ask: Callable[..., Any], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert ask(SteppedModel(clock.pass_time, COSTS), -0.3) == []
    fields = next(r for r in caplog.records if r.getMessage() == "consultation").fields  # type: ignore[attr-defined]
    assert "rules:no-time" in fields["missing"]
    assert "model:timeout" in fields["missing"]


def test_rules_still_run_when_the_deadline_has_only_just_passed(ask: Callable[..., Any], clock: Clock) -> None:
    (card,) = ask(SteppedModel(clock.pass_time, COSTS), -0.1)
    assert card.summary == "no estimate"


def test_an_engine_that_knows_no_steps_gives_everything_or_nothing(ask: Callable[..., Any], clock: Clock) -> None:
    model = WholeModel(clock.pass_time, COSTS)
    assert [ask(model, s)[0].summary for s in (0.45, 0.43, 0.45)] == [
        f"{FUSED}, moved by 1",
        "no estimate",
        f"{FUSED}, moved by 1",
    ]
    assert model.asked == ["explained", "explained"], "what would not fit is not begun"


def test_less_time_never_asks_for_more(clock: Clock) -> None:
    thinking = Thinking(clock)
    model = SteppedModel(clock.pass_time, COSTS)
    for depth in DEPTHS:
        thinking._pace("small", depth).note(COSTS[depth])
    chosen = [thinking.depth("small", model, left / 100) for left in range(60, -1, -1)]
    order = [*DEPTHS, None]
    places = [order.index(c) for c in chosen]
    assert places == sorted(places)
    assert set(chosen) == set(order)


def test_a_model_that_was_slow_is_tried_again_after_half_a_minute(ask: Callable[..., Any], clock: Clock) -> None:
    model = WholeModel(clock.pass_time, {**COSTS, "explained": 3.0})
    assert "did not arrive in time" in ask(model, 1.0)[0].detail
    model.costs_s = COSTS
    assert ask(model, 0.9)[0].summary == "no estimate", "it lately took longer than this"
    clock.now += 31
    assert ask(model, 0.9)[0].summary.startswith("worse")


def test_a_late_model_leaves_the_rules_their_time(ask: Callable[..., Any], clock: Clock) -> None:
    began = clock.now
    (card,) = ask(WholeModel(clock.pass_time, {"explained": 60.0}), 1.0)
    assert clock.now - began == pytest.approx(0.96)
    assert "model estimate (did not arrive in time)" in card.detail


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


FAULTS: list[tuple[Exception | float, str]] = [
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "out-of-memory"),
    (MemoryError(), "out-of-memory"),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), "error"),
    (ZeroDivisionError("division by zero"), "error"),
    (float("nan"), "not-a-number"),
    (float("inf"), "not-a-number"),
    (1.5, "not-a-number"),
]


@pytest.fixture
def house(plugin: Path, tmp_path: Path) -> Iterator[tuple[Any, WholeModel]]:
    model = WholeModel(lambda seconds: None, COSTS)
    settings = Settings(jwt="off", state_dir=tmp_path / "state", outbox_mb=1)
    app = create_app(
        settings, services=Services((SERVICE,)), clients=Clients(), engines={"small": model}, clock=lambda: NOON
    )
    yield app, model
    app.extensions["ordersight"].close()


@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=[f"{kind} {fault!r}"[:30] for fault, kind in FAULTS])
def test_a_broken_model_costs_the_estimate_is_counted_and_the_next_call_is_fine(
    house: tuple[Any, WholeModel], fault: Exception | float, kind: str
) -> None:
    app, model = house
    client = app.test_client()
    model.fault = fault
    answer = client.post("/cds-services/thinks", json=own_event("patient-view", prefetch={"labs": bundle(CREATININE)}))
    (card,) = answer.get_json()["cards"]
    assert (answer.status_code, card["summary"]) == (200, "no estimate")
    assert card["detail"] == "Not known: model estimate (the model failed)"
    assert not {"nan", "inf"} & set(json.dumps(card).lower().split())
    assert app.extensions["ordersight"].means.thinking.failures == {kind: 1}
    model.fault = None
    (card,) = client.post(
        "/cds-services/thinks", json=own_event("patient-view", prefetch={"labs": bundle(CREATININE)})
    ).get_json()["cards"]
    assert card["summary"] == f"{FUSED}, moved by 1"
    assert client.get("/readyz").status_code == 200


def test_three_failures_in_a_row_make_it_unready_and_one_good_answer_ready_again(
    house: tuple[Any, WholeModel], caplog: pytest.LogCaptureFixture
) -> None:
    app, model = house
    client = app.test_client()
    model.fault = RuntimeError("o1 2.0 mg/dL")
    for ready in (200, 200, 503):
        assert (
            client.post(
                "/cds-services/thinks", json=own_event("patient-view", prefetch={"labs": bundle(CREATININE)})
            ).status_code
            == 200
        )
        assert client.get("/readyz").status_code == ready
    assert client.get("/readyz").get_json()["checks"]["models_well"]["ok"] is False
    assert client.get("/healthz").status_code == 200
    model.fault = None
    client.post("/cds-services/thinks", json=own_event("patient-view", prefetch={"labs": bundle(CREATININE)}))
    assert client.get("/readyz").status_code == 200
