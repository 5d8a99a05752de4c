"""`Metrics`: what Prometheus reads of this process. Labels come from closed sets; nothing in them is a patient's.

Where a label could be anything else (a service nobody has, a hook nobody defined) it is `none` or `other`: however many
patients, users and addresses call, the number of series stays what the manifests and the clients file make it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from cds_service.advice.writing import DEFAULT_REASONS, OWN_REASONS
from cds_service.cards import Card
from cds_service.feedback import Feedback
from cds_service.manifest import HOOKS, Services
from cds_service.state.records import FeedbackResult
from models.contract import Assessor

Kind = Literal["counter", "gauge", "histogram"]
Outcome = Literal["advice", "empty", "partial", "no_data", "refused", "shed", "error"]


class Described(NamedTuple):
    """One metric: its name as Prometheus shows it, and what it tells whoever is called at night."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str


DESCRIBED = (
    Described(
        "cds_requests_total",
        "counter",
        ("service", "hook", "status_class", "outcome"),
        "calls: advice, empty, partial (something was missing), no_data (412), refused (4xx), shed, error",
    ),
    Described("cds_request_seconds", "histogram", ("service", "hook"), "from the first byte of a call to its answer"),
    Described("cds_deadline_missed_total", "counter", ("service",), "calls answered later than the hook's budget"),
    Described("cds_stage_seconds", "histogram", ("stage",), "time per stage of a call"),
    Described(
        "fhir_fetch_seconds",
        "histogram",
        ("client", "kind", "outcome"),
        "one GET at a client's FHIR server or DICOMweb archive",
    ),
    Described("fhir_missing_total", "counter", ("what",), "evidence a call asked for and could not have, by key"),
    Described("imaging_fetch_total", "counter", ("outcome",), "GETs at archives"),
    Described(
        "breaker_state", "gauge", ("client", "kind"), "worst of a client's servers: 0 asked, 1 on trial, 2 not asked"
    ),
    Described("bulkhead_in_use", "gauge", ("pool",), "busy places: hook calls, reads at the busiest server of a kind"),
    Described("bulkhead_limit", "gauge", ("pool",), "how many places that pool has"),
    Described("shed_total", "counter", ("reason",), "calls turned away: client, tenant (429), queue, late (503)"),
    Described("jwt_refused_total", "counter", ("reason",), "callers refused with 401"),
    Described("jwks_refresh_total", "counter", ("outcome",), "readings of callers' key sets"),
    Described("model_seconds", "histogram", ("model", "version", "device"), "one assessment, its wait included"),
    Described("model_failures_total", "counter", ("kind",), "assessments that raised or were no number"),
    Described("model_info", "gauge", ("model", "version", "sha"), "1 for each model that is loaded"),
    Described("cards_total", "counter", ("service", "indicator"), "cards sent"),
    Described(
        "feedback_total", "counter", ("service", "outcome", "reason_group"), "outcomes of cards in batches with news"
    ),
    Described("feedback_unmatched_total", "counter", (), "outcomes of cards this client was never sent"),
    Described("db_commit_seconds", "histogram", (), "one transaction of the durable state, commit included"),
    Described("film_cache_total", "counter", ("outcome",), "films that orders asked for: hit (encoded ahead) or miss"),
    Described("film_cache_films", "gauge", (), "encoded films kept"),
    Described("film_jobs", "gauge", ("state",), "patients whose films are to be encoded: waiting, or dead (given up)"),
    Described("outbox_depth", "gauge", (), "answers that wait on disk for the database"),
    Described("outbox_oldest_seconds", "gauge", (), "how long the oldest of them has waited"),
    Described(
        "audit_export_total",
        "counter",
        ("outcome",),
        "audit rows and the audit repository: delivered, retried, refused for good",
    ),
    Described("audit_export_oldest_seconds", "gauge", (), "how long the oldest row that is not delivered has waited"),
    Described("cds_ready", "gauge", ("check",), "1 while the check of /readyz holds"),
)

OF_A_CALL = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
OF_A_STAGE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
OF_A_FETCH = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
OF_A_COMMIT = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)

STAGES = frozenset({"waited", "caller", "request", "evidence", "films", "record", "model", "advice", "kept"})
OF_OURS = frozenset({"films", "model", "explanation", "ranking", "fusion", "rules"})
"""What may be missing besides the manifests' evidence keys."""
FETCHED = frozenset({"ok", "timeout", "unreachable", "refused", "error", "bad-answer", "not-allowed"})
REASON_GROUPS = frozenset(code for code, _ in DEFAULT_REASONS)

Made = TypeVar("Made", Counter, Histogram)


def tenant_id(tenant: str) -> str:
    """The short name a tenant has in metrics and traces; the log says at start which is whose."""
    return f"t{hashlib.sha256(tenant.encode()).hexdigest()[:7]}"


def model_labels(name: str, engine: Assessor | None) -> tuple[str, str, str]:
    """Model, version and device; what an engine does not say is `unknown`."""
    model, _, version = str(getattr(engine, "name", name)).partition("@")
    return model, version or "unknown", str(getattr(engine, "device", "unknown"))


def documented() -> tuple[tuple[str, str, str, str], ...]:
    """Every metric with its kind, labels and meaning, for docs/operations.md."""
    return tuple((m.name, m.kind, ", ".join(m.labels) or "none", m.meaning) for m in DESCRIBED)


class Metrics:
    """What is counted as it happens. Shared by all threads; `registry` is what a scrape reads."""

    def __init__(self, services: Services, engines: Mapping[str, Assessor]) -> None:
        # A series of its own for when each series began: nobody asks, and it doubles them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._engines = engines
        self._services = frozenset(s.id for s in services.all)
        self._what = OF_OURS.union(*(s.evidence for s in services.all))
        self._requests = self._make(Counter, "cds_requests_total")
        self._seconds = self._make(Histogram, "cds_request_seconds", buckets=OF_A_CALL)
        self._missed = self._make(Counter, "cds_deadline_missed_total")
        self._stages = self._make(Histogram, "cds_stage_seconds", buckets=OF_A_STAGE)
        self._fetch = self._make(Histogram, "fhir_fetch_seconds", buckets=OF_A_FETCH)
        self._missing = self._make(Counter, "fhir_missing_total")
        self._imaging = self._make(Counter, "imaging_fetch_total")
        self._model = self._make(Histogram, "model_seconds", buckets=OF_A_CALL)
        self._cards = self._make(Counter, "cards_total")
        self._feedback = self._make(Counter, "feedback_total")
        self._unmatched = self._make(Counter, "feedback_unmatched_total")
        self._commit = self._make(Histogram, "db_commit_seconds", buckets=OF_A_COMMIT)
        for service in services.all:
            # Failures are counted from zero: a series that begins with its first event hides it from `increase`.
            self._missed.labels(service.id)
            for hook in service.hooks:
                self._requests.labels(service.id, hook, "5xx", "error")

    def _make(self, kind: Callable[..., Made], name: str, **more: Any) -> Made:
        said = next(m for m in DESCRIBED if m.name == name)
        return kind(name, said.meaning, said.labels, registry=self.registry, **more)

    def service(self, id_: str | None) -> str:
        return id_ if id_ in self._services else "none"

    def answered(self, service: str | None, hook: str | None, status: int, outcome: Outcome) -> None:
        """One answer to a hook call or, with `feedback` as its hook, to feedback."""
        self._requests.labels(self.service(service), _hook(hook), f"{status // 100}xx", outcome).inc()

    def turned_away(self, service: str, feedback: bool) -> None:
        """A request the server answered before any thread took it."""
        self.answered(service, "feedback" if feedback else None, 503, "shed")

    def took(self, service: str, hook: str, seconds: float, *, late: bool) -> None:
        """How long a call took that was taken on; `late`: longer than its budget."""
        self._seconds.labels(self.service(service), _hook(hook)).observe(seconds)
        if late:
            self._missed.labels(self.service(service)).inc()

    def stage(self, name: str, seconds: float) -> None:
        self._stages.labels(name if name in STAGES else "other").observe(seconds)

    def missing(self, keys: Iterable[str]) -> None:
        for key in sorted({key if key in self._what else "other" for key in keys}):
            self._missing.labels(key).inc()

    def fetched(self, tenant: str, kind: str, outcome: str, seconds: float) -> None:
        outcome = outcome if outcome in FETCHED else "error"
        self._fetch.labels(tenant_id(tenant), kind, outcome).observe(seconds)
        if kind == "dicomweb":
            self._imaging.labels(outcome).inc()

    def assessed(self, model: str, seconds: float) -> None:
        self._model.labels(*model_labels(model, self._engines.get(model))).observe(seconds)

    def advised(self, service: str, cards: Sequence[Card]) -> None:
        for card in cards:
            self._cards.labels(self.service(service), card.indicator).inc()

    def feedback(self, service: str, items: Sequence[Feedback], counts: FeedbackResult) -> None:
        """A batch that was kept. One that only repeats what was known counts nothing."""
        self._unmatched.inc(counts.unmatched)
        if counts.stored:
            for item in items:
                self._feedback.labels(self.service(service), item.outcome, reason_group(item)).inc()

    def committed(self, seconds: float) -> None:
        self._commit.observe(seconds)


def _hook(hook: str | None) -> str:
    return hook if hook in HOOKS or hook == "feedback" else "none"


def reason_group(item: Feedback) -> str:
    """One of our default reasons, `service` for one a service offers itself, `comment`, `none`, or `other`."""
    groups = [
        "comment"
        if given.reason is None
        else given.reason.code
        if given.reason.code in REASON_GROUPS
        else "service"
        if given.reason.system == OWN_REASONS
        else "other"
        for given in item.reasons
    ]
    coded = [group for group in groups if group != "comment"]
    return next(iter(coded or groups), "none")
