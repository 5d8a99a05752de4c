"""`consult`: one request from evidence to cards, and the line it leaves in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from cds_service.advice import load_advice
from cds_service.cards import Card
from cds_service.deadline import Deadline
from cds_service.errors import MissingEvidence
from cds_service.evidence import Evidence, Fetcher, Reason, Shortfall, gather, plan_evidence
from cds_service.hooks import HookRequest
from cds_service.manifest import Profile, Service
from fhir_mappers.read import read_orders, read_record
from fhir_mappers.record import PatientRecord
from fhir_mappers.tensors import to_fusion_input
from models.contract import Assessment, Assessor, FusionInput, without
from models.serving import EngineBusy, EngineTimeout

log = logging.getLogger("cds_service.consult")


@dataclass(frozen=True, slots=True)
class Case:
    """What an advice function decides from. It decides; it fetches nothing.

    assessment   None for a service without a model, and when the model had no room or time (then a shortfall says so)
    shortfalls   evidence that was asked for and could not be had; a card names what matters of it
    films_used   the films the assessment rests on, newest first, as SOP instance UIDs
    """

    service: Service
    request: HookRequest
    record: PatientRecord
    assessment: Assessment | None
    shortfalls: tuple[Shortfall, ...] = ()
    profile: Profile = "non_device"
    base_url: str = ""
    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Advice(Protocol):
    """An advice function: pure, the same case gives the same cards but for their uuids."""

    def __call__(self, case: Case) -> list[Card]: ...


@dataclass(slots=True)
class Stages:
    """Milliseconds per stage, for the log."""

    started: float = field(default_factory=time.perf_counter)
    ms: dict[str, int] = field(default_factory=dict)

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.ms[stage] = round((now - self.started) * 1000)
        self.started = now


def consult(
    service: Service,
    request: HookRequest,
    deadline: Deadline,
    *,
    fhir: Fetcher,
    engine: Assessor | None,
    profile: Profile = "non_device",
    base_url: str = "",
) -> list[Card]:
    """Answer one hook call of one service.

    Raises MissingEvidence when required evidence was neither sent nor reachable in time. A model that is busy
    or late costs the estimate, never the cards that rest on rules alone.
    """
    stages = Stages()
    if not service.concerns(request.hook, read_orders(request.drafts(), request.received_at)):
        audit(service, request, None, [], stages)
        return []
    plan = plan_evidence(service, request)
    if profile == "non_device":
        plan = replace(plan, films={})  # no card may rest on a film, so none is asked for
    evidence = gather(plan, fhir, deadline.leaving(service.thinking_s))
    stages.done("evidence")
    require(service, evidence)
    record = read_record(
        evidence.resources,
        evidence.dicom,
        as_of=request.received_at,
        patient_id=request.context.patient_id,
        drafts=request.drafts(),
    )
    stages.done("record")
    assessment, shortfalls, used = _assess(service, record, engine, deadline, profile)
    stages.done("model")
    case = Case(
        service, request, record, assessment, (*evidence.shortfalls, *shortfalls), profile, base_url.rstrip("/"), used
    )
    cards = load_advice(service.advice)(case)
    stages.done("advice")
    audit(service, request, evidence, cards, stages, assessment)
    return cards


def require(service: Service, evidence: Evidence) -> None:
    """Raises MissingEvidence naming every required key that was neither sent nor reachable in time.

    A key of which a part came is not missing: 412 is not for data that came and lacked something (Da Vinci CRD).
    """
    missing = sorted(
        {
            s.key
            for s in evidence.shortfalls
            if s.key in service.evidence and service.evidence[s.key].required and s.reason != "truncated"
        }
    )
    if missing:
        keys = ", ".join(missing)
        raise MissingEvidence(
            f"required evidence was neither sent as prefetch nor readable in time: {keys}",
            expression=f"prefetch.{missing[0]}",
        )


def _assess(
    service: Service, record: PatientRecord, engine: Assessor | None, deadline: Deadline, profile: Profile
) -> tuple[Assessment | None, tuple[Shortfall, ...], Mapping[str, tuple[str, ...]]]:
    if service.model is None:
        return None, (), {}
    if engine is None:
        return None, (Shortfall("model", "unreachable"),), {}
    # A service may name targets of several models it can run on; this model answers those it was trained for.
    targets = tuple(name for name in service.targets if name in engine.spec.target_names())
    if service.targets and not targets:
        return None, (), {}
    inputs: FusionInput = to_fusion_input(record, engine.spec)
    if profile == "non_device":
        # Output that rests on an image is device-class software: off unless the site has switched it on.
        inputs = without(inputs, "imaging")
    try:
        assessment = engine.assess(inputs, timeout=deadline.remaining(), targets=targets or None)
    except (EngineBusy, EngineTimeout) as error:
        reason: Reason = "busy" if isinstance(error, EngineBusy) else "timeout"
        return None, (Shortfall("model", reason),), {}
    return assessment, (), inputs.used


def audit(
    service: Service,
    request: HookRequest,
    evidence: Evidence | None,
    cards: list[Card],
    stages: Stages,
    assessment: Assessment | None = None,
) -> None:
    """One line per consultation: nothing in it identifies a patient."""
    log.info(
        "consultation",
        extra={
            "fields": {
                "hookInstance": request.hook_instance,
                "hook": request.hook,
                "service": service.id,
                "version": service.version,
                "model": assessment.model if assessment else None,
                "missing": sorted({f"{s.key}:{s.reason}" for s in evidence.shortfalls}) if evidence else [],
                "foreignDrafts": request.foreign_drafts,
                "cards": [c.indicator for c in cards],
                "ms": stages.ms,
            }
        },
    )
