"""`Gauges`: what a scrape looks at when it comes, so that nothing has to be told of it before.

Nothing here waits for a server or a database longer than `/readyz` itself does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, get_args

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from cds_service.admission import Reason as Shed
from cds_service.films.cache import Outcome as Cached
from cds_service.metrics import DESCRIBED, model_labels, tenant_id
from cds_service.readiness import checks
from cds_service.state.feed import Outcome as Sent
from cds_service.thinking import Failure
from cds_service.trust.jwt import Refusal
from cds_service.trust.keys import Refresh

if TYPE_CHECKING:
    from cds_service.app import House

LEVELS = {"closed": 0.0, "half-open": 1.0, "open": 2.0}


class Gauges:
    """A collector of prometheus-client over one house."""

    def __init__(self, house: House) -> None:
        self._house = house

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry would otherwise scrape at registration to learn our names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        house = self._house
        states: dict[tuple[str, ...], float] = {}
        for breaker in house.fetcher.breakers.states():
            key = tenant_id(breaker.tenant), breaker.kind
            states[key] = max(states.get(key, 0.0), LEVELS[breaker.state])
        yield _family("breaker_state", states)

        pools = {(str(kind),): pool for kind, pool in house.fetcher.fullest().items()}
        pools["calls",] = sum(house.admission.in_flight().values()), house.admission.threads
        yield _family("bulkhead_in_use", {pool: float(busy) for pool, (busy, _) in pools.items()})
        yield _family("bulkhead_limit", {pool: float(size) for pool, (_, size) in pools.items()})

        for name, kinds, counted in (
            ("shed_total", get_args(Shed), house.admission.shed),
            ("jwt_refused_total", get_args(Refusal), house.verifier.refused),
            ("jwks_refresh_total", get_args(Refresh), house.verifier.keys.refreshed),
            ("model_failures_total", get_args(Failure), house.means.thinking.failures),
        ):
            # From zero: a series that begins with its first event hides it from `increase`.
            yield _family(name, {(kind,): float(counted.get(kind, 0)) for kind in kinds})
        yield _family(
            "model_info",
            {
                (*model_labels(name, engine)[:2], str(getattr(engine, "digest", "unknown"))[:12]): 1.0
                for name, engine in house.engines.items()
            },
        )
        ahead = house.ahead
        counts = ahead.cache.counts if ahead is not None else {}
        films, waiting, dead = (ahead.depth.films, ahead.depth.waiting, ahead.depth.dead) if ahead else (0, 0, 0)
        yield _family("film_cache_total", {(kind,): float(counts.get(kind, 0)) for kind in get_args(Cached)})
        yield _family("film_cache_films", {(): float(films)})
        yield _family("film_jobs", {("waiting",): float(waiting), ("dead",): float(dead)})
        health = house.state.health()
        yield _family("outbox_depth", {(): float(health.outbox)})
        yield _family("outbox_oldest_seconds", {(): health.outbox_oldest_s})
        feed = house.state.feed
        sent = feed.counts if feed is not None else {}
        yield _family("audit_export_total", {(kind,): float(sent.get(kind, 0)) for kind in get_args(Sent)})
        yield _family("audit_export_oldest_seconds", {(): health.unsent_s})
        yield _family("cds_ready", {(name,): float(check.ok) for name, check in checks(house).items()})


def _family(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    said = next(m for m in DESCRIBED if m.name == name)
    kind = CounterMetricFamily if said.kind == "counter" else GaugeMetricFamily
    family = kind(said.name, said.meaning, labels=said.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
