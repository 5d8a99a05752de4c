"""`consult`: one request from evidence to cards, and the line it leaves in the log.

What there is no time for is given up in a fixed order (`cds_service.thinking`), and said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from cds_service.advice import load_advice
from cds_service.advice.estimates import with_licence
from cds_service.audience import staff, told
from cds_service.cards import Card
from cds_service.deadline import Deadline
from cds_service.decoding import Decoders
from cds_service.dispatch import dispatched, for_information
from cds_service.errors import MissingEvidence
from cds_service.evidence import Evidence, Shortfall, gather, plan_evidence
from cds_service.fetching import Fetcher, KeptFilms
from cds_service.hooks import HookRequest
from cds_service.manifest import Profile, Service
from cds_service.sites import ANY_SITE, Site, as_sent
from cds_service.state.records import Earlier
from cds_service.thinking import LEFT_OUT, ModelFailed, Thinking
from cds_service.unmapped import unmapped
from fhir_mappers.read import read_orders, read_record
from fhir_mappers.record import PatientRecord
from fhir_mappers.tensors import to_fusion_input
from models.contract import Assessment, Assessor, EngineBusy, EngineTimeout, FusionInput, without

log = logging.getLogger("cds_service.consult")

GRACE_S = 0.25
"""How late rules may still begin. They take milliseconds, and a card a little late is better than none."""


@dataclass(frozen=True, slots=True)
class Case:
    """What an advice function decides from. It decides; it fetches nothing.

    assessment   None for a service without a model, and when the model had no room or time (then a shortfall says so)
    shortfalls   evidence that was asked for and could not be had; a card names what matters of it
    films_used   the films the assessment rests on, newest first, as SOP instance UIDs
    earlier      what the same model said of the patient in the service's `remembers_h` before, oldest first
    """

    service: Service
    request: HookRequest
    record: PatientRecord
    assessment: Assessment | None
    shortfalls: tuple[Shortfall, ...] = ()
    profile: Profile = "non_device"
    base_url: str = ""
    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    earlier: tuple[Earlier, ...] = ()


class Advice(Protocol):
    """An advice function: pure, the same case gives the same cards but for their uuids."""

    def __call__(self, case: Case) -> list[Card]: ...


Recall = Callable[[Service, str], tuple[Earlier, ...]]
"""What the model of this digest said of the patient of this call before."""
Settle = Callable[["Line", list[Card]], list[Card]]
"""Decides what of the advice is said, and leaves its trace, before the answer goes out."""


@dataclass(slots=True)
class Stages:
    """How one call goes, stage by stage, for the log, the metrics and the traces.

    ms       milliseconds per stage
    spans    stage, begin and end in seconds of the monotonic clock
    missing  what could not be had, as far as it is known yet
    """

    started: float = field(default_factory=time.monotonic)
    ms: dict[str, int] = field(default_factory=dict)
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    missing: tuple[Shortfall, ...] = ()

    def done(self, stage: str) -> None:
        now = time.monotonic()
        self.ms[stage] = round((now - self.started) * 1000)
        self.spans.append((stage, self.started, now))
        self.started = now


@dataclass(frozen=True, slots=True)
class Means:
    """What all consultations of a process share besides the servers they read."""

    decoders: Decoders = field(default_factory=Decoders)
    thinking: Thinking = field(default_factory=Thinking)

    def close(self) -> None:
        self.decoders.close()


def consult(
    service: Service,
    request: HookRequest,
    deadline: Deadline,
    *,
    fhir: Fetcher,
    engine: Assessor | None,
    means: Means,
    kept: KeptFilms | None = None,
    profile: Profile = "non_device",
    base_url: str = "",
    site: Site = ANY_SITE,
    settle: Settle | None = None,
    recall: Recall | None = None,
    stages: Stages | None = None,
) -> list[Card]:
    """Answer one hook call of one service. `settle` sees the cards last, also when there are none.

    `site` says what the EHR's local codes mean and who of its staff sees what.

    What `stages` was given is filled in, also when this raises.

    Raises MissingEvidence when required evidence was neither sent nor reachable in time. A model that is busy, late or
    broken costs the estimate, never the cards that rest on rules alone. Where there is no time even for rules the
    answer is empty, and the log says so.
    """
    stages = Stages() if stages is None else stages
    if not service.concerns(request.hook, read_orders(request.drafts(), request.received_at, local=site.codes)):
        return _settled(Line(service, request, stages), [], settle)
    plan = plan_evidence(service, request)
    if profile == "non_device":
        plan = replace(plan, films={})  # no card may rest on a film, so none is asked for
    evidence = gather(plan, fhir, deadline.leaving(service.thinking_s), kept)
    stages.done("evidence")
    stages.missing = evidence.shortfalls
    require(service, evidence)
    # To the end: the room that decoded films take is free again when nothing holds them any more.
    with means.decoders.native(evidence.dicom, deadline.leaving(service.thinking_s / 2)) as films:
        stages.done("films")
        record = read_record(
            evidence.resources,
            films.files,
            as_of=request.received_at,
            patient_id=request.context.patient_id,
            drafts=(*request.drafts(), *dispatched(request, evidence.resources)),
            kept=evidence.kept,
            local=site.codes,
        )
        stages.done("record")
        thought = _think(service, record, engine, deadline, profile, means.thinking)
        stages.done("model")
        missing = (*evidence.shortfalls, *films.shortfalls, *thought.shortfalls)
        late = deadline.late_by() > GRACE_S
        if late:
            missing = (*missing, Shortfall("rules", "no-time"))
        assessment = thought.assessment
        earlier: tuple[Earlier, ...] = ()
        if recall is not None and assessment is not None and service.remembers_h > 0:
            earlier = recall(service, assessment.digest)
        url = base_url.rstrip("/")
        case = Case(service, request, record, assessment, missing, profile, url, thought.used, earlier)
        cards = [] if late else with_licence(load_advice(service.advice)(case), assessment)
        stages.done("advice")
        stages.missing = missing
        codes = unmapped(evidence.resources, record.gaps)
        who = staff(evidence.resources, request.context.user_id, request.received_at, site)
        cards = [as_sent(card) for card in cards]
        if request.hook == "order-dispatch":
            cards = [for_information(card) for card in cards]
        heard, unheard = told(cards, who, service.id, request.hook, site)
        line = Line(service, request, stages, missing, thought.assessment, case, codes, tuple(unheard), who.roles)
        return _settled(line, heard, settle)


def _settled(line: Line, cards: list[Card], settle: Settle | None) -> list[Card]:
    said = settle(line, cards) if settle is not None else cards
    audit(line, said)
    return said


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


@dataclass(frozen=True, slots=True)
class _Thought:
    """The model's part: an assessment or none, what it left out, and what went in."""

    assessment: Assessment | None = None
    shortfalls: tuple[Shortfall, ...] = ()
    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _think(
    service: Service,
    record: PatientRecord,
    engine: Assessor | None,
    deadline: Deadline,
    profile: Profile,
    thinking: Thinking,
) -> _Thought:
    if service.model is None:
        return _Thought()
    if engine is None:
        return _Thought(None, (Shortfall("model", "unreachable"),))
    # A service may name targets of several models it can run on; this model answers those it was trained for.
    targets = tuple(name for name in service.targets if name in engine.spec.target_names())
    if service.targets and not targets:
        return _Thought()
    inputs: FusionInput = to_fusion_input(record, engine.spec)
    if profile == "non_device":
        # Output that rests on an image is device-class software: off unless the site has switched it on.
        inputs = without(inputs, "imaging")
    try:
        assessment, depth = thinking.assess(service.model, engine, inputs, deadline, targets or None)
    except EngineBusy:
        return _Thought(None, (Shortfall("model", "busy"),))
    except EngineTimeout:
        return _Thought(None, (Shortfall("model", "timeout"),))
    except ModelFailed:
        return _Thought(None, (Shortfall("model", "failed"),))
    return _Thought(assessment, tuple(Shortfall(step, "no-time") for step in LEFT_OUT[depth]), inputs.used)


@dataclass(frozen=True, slots=True)
class Line:
    """What is to be said of one consultation.

    case     None where no draft concerned the service
    unheard  cards that are not for this user's role
    roles    what the site's list calls the user, empty where it knows of none
    """

    service: Service
    request: HookRequest
    stages: Stages
    shortfalls: tuple[Shortfall, ...] = ()
    assessment: Assessment | None = None
    case: Case | None = None
    unmapped: tuple[str, ...] = ()
    unheard: tuple[Card, ...] = ()
    roles: frozenset[str] = frozenset()


def audit(line: Line, cards: Sequence[Card] = ()) -> None:
    """One line per consultation: nothing in it identifies a patient."""
    log.info(
        "consultation",
        extra={
            "fields": {
                "hookInstance": line.request.hook_instance,
                "hook": line.request.hook,
                "service": line.service.id,
                "version": line.service.version,
                "model": line.assessment.model if line.assessment else None,
                "missing": sorted({f"{s.key}:{s.reason}" for s in line.shortfalls}),
                "foreignDrafts": line.request.foreign_drafts,
                "cards": [c.indicator for c in cards],
                "ms": line.stages.ms,
            }
        },
    )
