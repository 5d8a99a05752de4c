"""What an administrator wants to know of an EHR before the first call: what it answers, how fast, and who it is.

check = check_ehr(house, client, server, patient="123", token="")     # live, each part under one deadline
token, keys = trial_token(client, audience, now)                      # a token signed with a key made for it

Only servers of the clients file are contacted, as for any call. Nothing read here is kept.
"""

from __future__ import annotations

import time
import uuid
from base64 import urlsafe_b64decode
from collections import Counter
from concurrent.futures import CancelledError, Future
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey

from cds_service import strict_json
from cds_service.consult import Stages, consult
from cds_service.deadline import Deadline
from cds_service.errors import MissingEvidence
from cds_service.hooks import HookRequest, parse_hook_request
from cds_service.manifest import Service
from cds_service.prefetch import Absent, Answer, Failed, NoValue, Sent, expand, template_type
from cds_service.transport import Ask, Call, FetchFailed
from cds_service.trust.authorization_servers import SMART, read_object
from cds_service.trust.clients import Client, FhirServer
from cds_service.trust.keys import VerifyingKey
from cds_service.trust.origins import read_base

if TYPE_CHECKING:
    from cds_service.app import House

WITHIN_S = 5.0
"""For all reads of one check together."""
ANSWER_BYTES = 4_000_000
TRIAL_S = 300
USER = "Practitioner/onboarding"


class Probe(msgspec.Struct, frozen=True):
    """One address that was asked. `outcome` is `ok` or why not; `facts` is what the answer said of itself."""

    what: str
    outcome: str
    ms: int
    facts: tuple[tuple[str, str], ...] = ()


class KeyProbe(msgspec.Struct, frozen=True):
    """One prefetch key read as we would read it. `resources` by type; `services` are those that ask for it so."""

    key: str
    query: str
    services: tuple[str, ...]
    required: bool
    outcome: str
    ms: int
    resources: tuple[tuple[str, int], ...] = ()


class TrialCall(msgspec.Struct, frozen=True):
    """A whole call of one service whose cards were thrown away; `missing` is `key: reason`."""

    service: str
    hook: str
    budget_ms: int
    outcome: str
    ms: tuple[tuple[str, int], ...]
    missing: tuple[str, ...]


class EhrCheck(msgspec.Struct, frozen=True):
    """`coverage` and `calls` are empty without a patient to ask for."""

    base: str
    probes: tuple[Probe, ...]
    coverage: tuple[KeyProbe, ...]
    calls: tuple[TrialCall, ...]


def check_ehr(house: House, client: Client, server: FhirServer, *, patient: str = "", token: str = "") -> EhrCheck:
    """`patient` is an id at that server; `token` what the EHR would lend, else our own where we have one."""
    probes = [own_discovery(house), *_published(house, server)]
    if not token and server.smart is not None and server.smart.backend is not None:
        began = time.monotonic()
        try:
            token = house.backend.token(client, server.base, Deadline.after(WITHIN_S))
            probes.append(Probe("our own token", "ok", _ms(began)))
        except FetchFailed as failed:
            probes.append(Probe("our own token", failed.reason, _ms(began)))
    coverage: tuple[KeyProbe, ...] = ()
    calls: tuple[TrialCall, ...] = ()
    if patient:
        coverage = _coverage(house, client, server, patient, token)
        calls = tuple(_trial(house, client, server, patient, token, s) for s in house.services.on if _alone(s))
    return EhrCheck(server.base, tuple(probes), coverage, calls)


def own_discovery(house: House) -> Probe:
    """Our discovery as an EHR sees it: asked for over the network, at the address EHRs are given."""
    began = time.monotonic()
    try:
        base = read_base(house.settings.base_url, allow_private=True)
        got = house.fetcher.transport.get(
            Call(base, Deadline.after(WITHIN_S)), Ask("cds-services", "application/json", ANSWER_BYTES)
        )
        services = read_object(got.body).get("services")
    except (FetchFailed, ValueError) as error:
        return Probe("our discovery", error.reason if isinstance(error, FetchFailed) else "not-allowed", _ms(began))
    entries = services if isinstance(services, list) else []
    hooks = Counter(str(entry.get("hook")) for entry in entries if isinstance(entry, dict))
    facts = [
        ("bytes", str(len(got.body))),
        *((hook, f"{n} service{'s' if n > 1 else ''}") for hook, n in sorted(hooks.items())),
    ]
    return Probe("our discovery", "ok", _ms(began), tuple(facts))


def _published(house: House, server: FhirServer) -> list[Probe]:
    """What the server says of itself without a token."""

    def ask(what: str, below: str, facts: Any) -> Probe:
        began = time.monotonic()
        try:
            call = Call(server.fhir_base(), Deadline.after(WITHIN_S))
            got = house.fetcher.transport.get(call, Ask(below, "application/json", ANSWER_BYTES, gzip=True))
            return Probe(what, "ok", _ms(began), facts(read_object(got.body)))
        except FetchFailed as failed:
            return Probe(what, failed.reason, _ms(began))

    return [
        ask("its capability statement", "metadata", _capabilities),
        ask("its SMART configuration", SMART, _smart),
    ]


def _capabilities(told: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    software = told.get("software")
    name = software.get("name") if isinstance(software, dict) else None
    rest = told.get("rest")
    first = rest[0] if isinstance(rest, list) and rest and isinstance(rest[0], dict) else {}
    resources = first.get("resource")
    types = [r.get("type") for r in resources if isinstance(r, dict)] if isinstance(resources, list) else []
    return (
        ("FHIR version", str(told.get("fhirVersion") or "not said")[:32]),
        ("software", str(name or "not said")[:64]),
        ("resource types", str(len(types))),
    )


def _smart(told: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    methods = told.get("code_challenge_methods_supported")
    names = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
    return (
        *((name, str(told.get(name) or "not said")[:200]) for name in names),
        ("PKCE with S256", "not said" if methods is None else "yes" if "S256" in str(methods) else "no"),
    )


def _coverage(house: House, client: Client, server: FhirServer, patient: str, token: str) -> tuple[KeyProbe, ...]:
    """Every prefetch template once, all at the same time."""
    wanted: dict[tuple[str, str], list[Service]] = {}
    for service in house.services.on:
        for key, template in service.prefetch().items():
            wanted.setdefault((key, template), []).append(service)
    request = _request(house, server, patient, token, "patient-view")
    reads = house.fetcher.at(client, server, token or None)
    deadline = Deadline.after(WITHIN_S)
    began = time.monotonic()
    ended: dict[tuple[str, str], float] = {}
    futures: dict[tuple[str, str], Future[Answer]] = {}
    for which in wanted:
        try:
            future = reads.read(expand(which[1], request), template_type(which[1]), deadline)
        except NoValue:
            continue
        future.add_done_callback(lambda _, which=which: ended.setdefault(which, time.monotonic()))  # type: ignore[misc]
        futures[which] = future
    found = []
    try:
        for which, services in wanted.items():
            outcome, resources = _outcome(futures.get(which), deadline)
            ms = round((ended.get(which, time.monotonic()) - began) * 1000) if which in futures else 0
            required = any(s.evidence[which[0]].required for s in services)
            found.append(
                KeyProbe(*which, tuple(s.id for s in services), required, outcome, ms, tuple(sorted(resources.items())))
            )
    finally:
        reads.abandon()
    return tuple(sorted(found, key=lambda probe: (probe.key, probe.query)))


def _outcome(future: Future[Answer] | None, deadline: Deadline) -> tuple[str, Counter[str]]:
    if future is None:
        return "needs an encounter", Counter()
    try:
        answer = future.result(deadline.remaining())
    except (TimeoutError, CancelledError):
        return "timeout", Counter()
    if isinstance(answer, Sent):
        return "truncated" if answer.partial else "ok", Counter(str(r["resourceType"]) for r in answer.resources)
    if isinstance(answer, Absent):
        return "none", Counter()
    return answer.reason if isinstance(answer, Failed) else "error", Counter()


def _alone(service: Service) -> bool:
    """Whether it can be asked without a draft order."""
    return "patient-view" in service.hooks


def _trial(house: House, client: Client, server: FhirServer, patient: str, token: str, service: Service) -> TrialCall:
    """The call as it would be without prefetch, within its own budget. Nothing of it is recorded or shown."""
    stages = Stages()
    request = _request(house, server, patient, token, "patient-view")
    budget_s = service.budget_s("patient-view")
    outcome = "no card"
    reads = house.fetcher.at(client, server, token or None)
    try:
        cards = consult(
            service,
            request,
            Deadline.after(budget_s),
            fhir=reads,
            engine=house.engines.get(service.model) if service.model else None,
            means=house.means,
            profile=house.settings.profile,
            base_url=house.settings.base_url,
            site=house.sites.of(client.tenant or client.name),
            stages=stages,
        )
        outcome = f"{len(cards)} cards" if len(cards) > 1 else "1 card" if cards else "no card"
    except MissingEvidence:
        outcome = "412, required evidence is missing"
    missing = tuple(dict.fromkeys(f"{s.key}: {s.reason}" for s in stages.missing))
    return TrialCall(service.id, "patient-view", round(budget_s * 1000), outcome, tuple(stages.ms.items()), missing)


def _request(house: House, server: FhirServer, patient: str, token: str, hook: str) -> HookRequest:
    """Raises BadRequest for a patient's id that is none."""
    body: dict[str, Any] = {
        "hook": hook,
        "hookInstance": str(uuid.uuid4()),
        "fhirServer": server.base,
        "context": {"userId": USER, "patientId": patient},
    }
    return parse_hook_request(msgspec.json.encode(body), house.clock())


def trial_token(client: Client, audience: str, now: datetime) -> tuple[str, tuple[VerifyingKey, ...]]:
    """A token as this client's EHR would sign it, with a key made here, and that key to check it with."""
    key = ECKey.generate_key("P-384")
    kid = key.thumbprint()
    at = round(now.timestamp())
    header = {"alg": "ES384", "typ": "JWT", "kid": kid, **({"jku": client.jwks_url} if client.jwks_url else {})}
    claims = {"iss": client.issuer, "aud": audience, "iat": at, "exp": at + TRIAL_S, "jti": str(uuid.uuid4())}
    token = jwt.encode(header, claims, key, algorithms=["ES384"])
    return token, (VerifyingKey(kid, ("ES384",), key),)


def parts_of(token: str) -> tuple[tuple[str, str], ...]:
    """What a token says, for an administrator to read: the members of its header and claims. Nothing is checked."""
    said: list[tuple[str, str]] = []
    for name, segment in zip(("header", "claims"), token.strip().split("."), strict=False):
        try:
            value = strict_json.parse(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
        except (ValueError, strict_json.BadJson):
            return ()
        if isinstance(value, dict):
            said += [(f"{name} {key}"[:64], str(member)[:300]) for key, member in value.items()]
    return tuple(said)


def _ms(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
