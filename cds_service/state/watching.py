"""What the rows of the audit tell of running the service: stages, evidence, roles, codes, shadow, drift, incidents.

All of it is durable state, so it is the same from whichever process is asked.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import orjson
from sqlalchemy import Connection, and_, or_, select

from cds_service.state.answers import latest_answers
from cds_service.state.store import Store
from cds_service.state.tables import audit, cards_shown, feedback, predictions

MOST_ROWS = 5_000
"""Of the newest answers, so that the page costs the same in a year as on the first day."""
MOST_INCIDENTS = 50
STAGES = ("waited", "caller", "request", "evidence", "films", "record", "model", "advice", "kept", "whole call")
"""In the order of a call."""
BINS = 10
LEAST = 100
"""Predictions in each of the two spans, below which a population stability index says nothing."""
SPAN = timedelta(days=7)
BEFORE = timedelta(days=28)
WORTH_A_LOOK, DRIFTED = 0.1, 0.25
"""The customary limits of the population stability index (Siddiqi, Credit Risk Scorecards, 2006)."""


class StageRow(msgspec.Struct, frozen=True):
    """Milliseconds, over the calls that had the stage."""

    stage: str
    calls: int
    p50: int
    p95: int


class KeyRow(msgspec.Struct, frozen=True):
    """One key of evidence at one EHR; `missing` per reason."""

    tenant: str
    key: str
    sent: int
    read: int
    missing: Mapping[str, int]

    @property
    def hit_rate(self) -> float | None:
        """Share of the calls in which it came as prefetch; None without any."""
        calls = self.sent + self.read + sum(self.missing.values())
        return self.sent / calls if calls else None


class RoleRow(msgspec.Struct, frozen=True):
    """Cards shown to one type of user as the EHR names it, and their answers."""

    role: str
    shown: int
    accepted: int
    overridden: int


class UnmappedRow(msgspec.Struct, frozen=True):
    """A code or unit that nothing reads, and in how many calls it came."""

    tenant: str
    what: str
    calls: int
    latest: datetime


class ShadowRow(msgspec.Struct, frozen=True):
    """A rule in shadow: the calls it would have spoken in, and those in which the service did speak."""

    service: str
    rule: str
    fired: int
    alone: int
    together: int


class DriftRow(msgspec.Struct, frozen=True):
    """Predictions of the last week against those of the four before; `psi` None where one has fewer than LEAST."""

    model: str
    target: str
    now: int
    before: int
    mean_now: float | None
    mean_before: float | None
    psi: float | None

    @property
    def standing(self) -> str:
        """Too few, steady, worth a look, or drifted."""
        if self.psi is None:
            return "too few"
        return "steady" if self.psi < WORTH_A_LOOK else "worth a look" if self.psi < DRIFTED else "drifted"


class Incident(msgspec.Struct, frozen=True):
    """What an administrator switched off, rolled back or wrote down, and calls that ended in an error of ours."""

    at: datetime
    kind: str
    who: str
    what: str


class Watching(msgspec.Struct, frozen=True):
    """`answers` looked at, MOST_ROWS at most."""

    answers: int
    stages: tuple[StageRow, ...]
    keys: tuple[KeyRow, ...]
    roles: tuple[RoleRow, ...]
    unmapped: tuple[UnmappedRow, ...]
    shadow: tuple[ShadowRow, ...]
    drift: tuple[DriftRow, ...]
    incidents: tuple[Incident, ...]


def watching(store: Store, since: datetime, until: datetime) -> Watching:
    """Raises StateUnavailable when the database does not answer."""

    def study(conn: Connection) -> Watching:
        query = (
            select(audit.c.tenant, audit.c.at, audit.c.ms, audit.c.details, audit.c.id, audit.c.service)
            .where(audit.c.kind == "answer", audit.c.at >= since, audit.c.at < until)
            .order_by(audit.c.at.desc())
            .limit(MOST_ROWS)
        )
        rows = [row._asdict() for row in conn.execute(query)]
        for row in rows:
            row["ms"], row["details"] = orjson.loads(row["ms"]), orjson.loads(row["details"])
        return Watching(
            answers=len(rows),
            stages=_stages(rows),
            keys=_keys(rows),
            roles=_roles(conn, {row["id"]: row["details"].get("role", "") for row in rows}, since, until),
            unmapped=_unmapped(rows),
            shadow=_shadow(conn, since, until),
            drift=_drift(conn, until),
            incidents=_incidents(conn, since, until),
        )

    return store._reader.study(study)


def _stages(rows: Sequence[Mapping[str, Any]]) -> tuple[StageRow, ...]:
    taken: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        for stage, ms in row["ms"].items():
            taken[stage].append(ms)
        if row["ms"]:
            taken["whole call"].append(sum(row["ms"].values()))
    return tuple(
        StageRow(stage, len(found), _quantile(found, 0.5), _quantile(found, 0.95))
        for stage, found in sorted(taken.items(), key=lambda item: STAGES.index(item[0]) if item[0] in STAGES else 99)
    )


def _quantile(values: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _keys(rows: Sequence[Mapping[str, Any]]) -> tuple[KeyRow, ...]:
    found: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        for key, came in row["details"].get("prefetch", {}).items():
            found[row["tenant"], key][came] += 1
    return tuple(
        KeyRow(*whose, n["sent"], n["read"], {why: c for why, c in sorted(n.items()) if why not in ("sent", "read")})
        for whose, n in sorted(found.items())
    )


def _roles(conn: Connection, roles: Mapping[str, str], since: datetime, until: datetime) -> tuple[RoleRow, ...]:
    latest = latest_answers(feedback.c.received_at >= since)
    query = (
        select(cards_shown.c.audit_id, latest.c.outcome)
        .outerjoin(latest, and_(latest.c.tenant == cards_shown.c.tenant, latest.c.card == cards_shown.c.card))
        .where(cards_shown.c.shown_at >= since, cards_shown.c.shown_at < until, cards_shown.c.shadow.is_(False))
    )
    found: defaultdict[str, Counter[str | None]] = defaultdict(Counter)
    for row in conn.execute(query):
        if row.audit_id in roles:
            found[roles[row.audit_id] or "not said"][row.outcome] += 1
    return tuple(RoleRow(role, sum(n.values()), n["accepted"], n["overridden"]) for role, n in sorted(found.items()))


def _unmapped(rows: Sequence[Mapping[str, Any]]) -> tuple[UnmappedRow, ...]:
    calls: Counter[tuple[str, str]] = Counter()
    latest: dict[tuple[str, str], datetime] = {}
    for row in rows:
        for what in row["details"].get("unmapped", ()):
            calls[row["tenant"], what] += 1
            latest.setdefault((row["tenant"], what), row["at"])
    return tuple(UnmappedRow(*whose, n, latest[whose]) for whose, n in calls.most_common(200))


def _shadow(conn: Connection, since: datetime, until: datetime) -> tuple[ShadowRow, ...]:
    """Per rule in shadow, whether the service spoke in the same call without it."""
    query = select(cards_shown.c.service, cards_shown.c.rules, cards_shown.c.audit_id, cards_shown.c.shadow).where(
        cards_shown.c.shown_at >= since, cards_shown.c.shown_at < until
    )
    rows = conn.execute(query).all()
    spoke = {row.audit_id for row in rows if not row.shadow}
    fired: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if row.shadow:
            for rule in orjson.loads(row.rules) or [""]:
                fired[row.service, rule].add(row.audit_id)
    return tuple(
        ShadowRow(*which, len(calls), len(calls - spoke), len(calls & spoke)) for which, calls in sorted(fired.items())
    )


def _drift(conn: Connection, until: datetime) -> tuple[DriftRow, ...]:
    query = select(predictions.c.model, predictions.c.target, predictions.c.probability, predictions.c.at).where(
        predictions.c.at >= until - SPAN - BEFORE,
        predictions.c.at < until,
        predictions.c.probability.is_not(None),
    )
    now: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    before: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in conn.execute(query):
        (now if row.at >= until - SPAN else before)[row.model, row.target].append(row.probability)
    return tuple(
        DriftRow(
            *which,
            len(now[which]),
            len(before[which]),
            _mean(now[which]),
            _mean(before[which]),
            population_stability(before[which], now[which]),
        )
        for which in sorted(now.keys() | before.keys())
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def population_stability(before: Sequence[float], now: Sequence[float]) -> float | None:
    """Sum over the tenths of `before` of (share now - share before) * ln of their ratio; None for fewer than LEAST."""
    if len(before) < LEAST or len(now) < LEAST:
        return None
    ordered = sorted(before)
    edges = sorted({ordered[len(ordered) * n // BINS] for n in range(1, BINS)})

    def shares(values: Sequence[float]) -> list[float]:
        counted = Counter(sum(value >= edge for edge in edges) for value in values)
        # Half a case for an empty bin: its logarithm would be infinite.
        return [max(counted[n], 0.5) / len(values) for n in range(len(edges) + 1)]

    return sum((b - a) * math.log(b / a) for a, b in zip(shares(before), shares(now), strict=True))


def _incidents(conn: Connection, since: datetime, until: datetime) -> tuple[Incident, ...]:
    query = (
        select(audit.c.at, audit.c.kind, audit.c.service, audit.c.status, audit.c.details)
        .where(
            audit.c.at >= since,
            audit.c.at < until,
            or_(audit.c.kind.in_(("switch", "model", "admin")), and_(audit.c.kind == "answer", audit.c.status >= 500)),
        )
        .order_by(audit.c.at.desc())
        .limit(1000)
    )
    found = []
    for row in conn.execute(query):
        said = orjson.loads(row.details)
        if row.kind == "switch" and said.get("state") != "on":
            what = f"{said.get('name') or 'everything'} set to {said.get('state')}: {said.get('why', '')}"
        elif row.kind == "model":
            what = f"{said.get('name')} now answers with {str(said.get('digest'))[:16]}: {said.get('why', '')}"
        elif row.kind == "admin" and said.get("did") == "incident":
            what = str(said.get("what", ""))
        elif row.kind == "answer":
            what = f"{row.service or 'a call'} answered {row.status}"
        else:
            continue
        found.append(Incident(row.at, "error" if row.kind == "answer" else row.kind, said.get("who", ""), what))
    return tuple(found[:MOST_INCIDENTS])
