"""`Ledger`: what every answered call leaves behind, and what of its cards is said at all.

entry = ledger.open(tenant, clock())           # from here on the call is audited, whatever comes
entry.of(service)
entry.hook = hook                              # each as it becomes known
cards = consult(..., settle=entry.settle)      # durable before the answer leaves
entry.refuse(412, stages.ms)                   # or this, where there is no answer
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from cds_service.advice import load_advice
from cds_service.cards import Card
from cds_service.consult import Case, Line
from cds_service.deadline import Deadline
from cds_service.economy import (
    Candidate,
    Moment,
    Verdict,
    judge,
    loudest_first,
    make_room,
    rank,
)
from cds_service.fingerprints import again, concept, concerned, deciding, named, order_names
from cds_service.hooks import HookRequest
from cds_service.manifest import Service
from cds_service.state.errors import StateUnavailable
from cds_service.state.recall import earlier
from cds_service.state.records import (
    AnswerRecord,
    Crowd,
    Decision,
    Earlier,
    History,
)
from cds_service.state.store import Store
from cds_service.switched import InForce, in_force
from cds_service.traces import as_shown, decisions, predictions, references, setting, silences
from cds_service.turns import Turn, Turns
from fhir_mappers.record import PatientRecord

log = logging.getLogger(__name__)

HISTORY_S = KEEP_S = 0.25
"""The longest a call waits for the database: to read what was said before, and to write what is said now."""
LEAST_S = 0.02
"""What a call that is already late still waits for the database, before its record goes to the outbox."""
MARGIN_S = 0.05
MOST_INPUTS = 500
ROLES = frozenset({"Practitioner", "PractitionerRole", "Patient", "RelatedPerson"})
"""What `userId` may name (CDS Hooks 2.0); of a user's role only a site's list says more."""
Keep = Callable[[Case, list[Card]], list[Card]]


class Ledger:
    """One per process; shared by all threads. `economy` False shows every card, and still records it."""

    def __init__(self, store: Store, *, economy: bool = True) -> None:
        self.store = store
        self.economy = economy
        self.turns = Turns()
        self._digests: dict[int, tuple[Service, str]] = {}
        self._in_force: tuple[int, dict[tuple[int, str], tuple[Service, InForce]]] = 0, {}

    def open(self, tenant: str, at: datetime) -> Entry:
        return Entry(self, tenant, at)

    def in_force(self, service: Service, tenant: str) -> InForce:
        """The service as it is switched now. Made once per word of an administrator: a call costs a look-up."""
        switches = self.store.switches()
        version, made = self._in_force
        if version != switches.version:
            made = {}
            self._in_force = switches.version, made
        known = made.get((id(service), tenant))
        if known is None or known[0] is not service:
            known = made[id(service), tenant] = service, in_force(service, switches, tenant)
        return known[1]

    def digest(self, service: Service) -> str:
        """SHA-256 of the manifest as it was in force, hex."""
        known = self._digests.get(id(service))
        if known is None or known[0] is not service:
            if len(self._digests) > 1000:
                self._digests = {}
            text = msgspec.json.encode(service, order="deterministic")
            known = self._digests[id(service)] = service, hashlib.sha256(text).hexdigest()
        return known[1]


@dataclass(slots=True)
class Entry:
    """One call. `settled` once its record is made: each call leaves one."""

    ledger: Ledger
    tenant: str
    at: datetime
    hook: HookRequest | None = None
    _in_force: InForce | None = None
    deadline: Deadline | None = None
    keep: Keep | None = None
    settled: bool = False
    _turn: Turn | None = field(default=None, repr=False)

    def of(self, service: Service) -> None:
        self._in_force = self.ledger.in_force(service, self.tenant)

    @property
    def in_force(self) -> InForce:
        """The service as it is switched now; only after `of`."""
        assert self._in_force is not None
        return self._in_force

    @property
    def off(self) -> bool:
        return self.in_force.state == "off"

    @property
    def service(self) -> str:
        return self._in_force.service.id if self._in_force is not None else ""

    @contextmanager
    def part(self, whose: str) -> Iterator[None]:
        """While the call is worked on: other services that are asked for the same event wait for it, or it for them.

        `whose` is the client whose servers are read: unchecked callers share a tenant, and ids of users and patients
        may be equal in two EHRs, which must not wait for each other.
        """
        with self.ledger.turns.part(f"{whose}\n{self._event()}") as self._turn:
            yield

    def nothing(self) -> list[Card]:
        """The answer of a service that is switched off."""
        off = (Decision("", "silent", "switched off"),)
        self._write(msgspec.structs.replace(self._record(200), decisions=off))
        return []

    def refuse(self, status: int, ms: Mapping[str, int]) -> None:
        """Leave the trace of a call that got an error. The error is answered even where no trace can be left."""
        if self.settled:
            return
        try:
            self._write(msgspec.structs.replace(self._record(status), ms=dict(ms)))
        except StateUnavailable:
            log.error("a refused call left no trace", extra={"fields": {"status": status, "service": self.service}})

    def settle(self, line: Line, cards: list[Card]) -> list[Card]:
        """What is sent of `cards`, once it is durable. Raises StateUnavailable: no advice without a trace."""
        case = line.case
        record = self._of(line)
        if case is None:
            self._write(record)
            return []
        found = [self._candidate(case, card) for card in cards]
        off, shadow = self._switched(case, found)
        live = [c for c in found if c not in off and c not in shadow]
        shadow += self._tried(case)
        spoken, said_of = self._spoken(live, case)
        record = msgspec.structs.replace(
            record,
            cards=(*(as_shown(c) for c in spoken), *(as_shown(c, shadow=True) for c in shadow)),
            decisions=(
                *said_of,
                *decisions(off, "silent", "switched off"),
                *decisions(shadow, "fired", "shadow"),
                *decisions([self._candidate(case, c) for c in line.unheard], "silent", "not for this role"),
                *silences(case),
            ),
        )
        if spoken and self._turn is not None and self.deadline is not None and self.ledger.economy:
            first = rank(spoken[0].card.indicator, self.service)
            if spoken[0].card.indicator != "critical":
                self._turn.wait(first, self.deadline.leaving(MARGIN_S).remaining())
        record = self._write(record, make_room if self.ledger.economy else None)
        sent = {card.card: card for card in record.cards if not card.shadow}
        said = [
            msgspec.structs.replace(c.card, indicator=sent[c.card.uuid].indicator)
            for c in spoken
            if c.card.uuid in sent
        ]
        return self.keep(case, said) if self.keep is not None else said

    def recall(self, service: Service, digest: str) -> tuple[Earlier, ...]:
        """What this model said of the patient before. Where the database gives no answer in time, nothing."""
        timeout, since = max(LEAST_S, min(HISTORY_S, self._left())), self.at - timedelta(hours=service.remembers_h)
        patient = self._record(200).patient_key
        try:
            return earlier(self.ledger.store, self.tenant, patient, service.id, digest, since, self.at, timeout=timeout)
        except StateUnavailable:
            log.warning("earlier estimates not read", extra={"fields": {"service": self.service}})
            return ()

    # What is said --------------------------------------------------------------------------------------------------

    def _spoken(self, live: Sequence[Candidate], case: Case) -> tuple[list[Candidate], list[Decision]]:
        """The one card that is sent now, and what became of all of them."""
        if not self.ledger.economy:
            return list(live), decisions(live, "fired")
        histories, now = self._histories(live), self._moment(case)
        spoken: list[Candidate] = []
        made: list[Decision] = []
        for candidate in loudest_first(live):
            verdict = Verdict()
            if candidate.fingerprint in histories:
                history = histories[candidate.fingerprint]
                verdict = judge(candidate.card.indicator, candidate.orders, history, now)
            if verdict.cause is not None:
                made += decisions([candidate], "silent", verdict.cause)
            elif spoken:
                made += decisions([candidate], "capped", "one per service")
            else:
                spoken.append(
                    replace(candidate, card=again(candidate.card, verdict.again)) if verdict.again else candidate
                )
                made += decisions([candidate], "fired")
        return spoken, made

    def _histories(self, live: Sequence[Candidate]) -> Mapping[str, History]:
        """What was said before. Where the database gives no answer in time, nothing is held back."""
        wanted = [c.fingerprint for c in live if c.fingerprint]
        if not wanted:
            return {}
        timeout = max(LEAST_S, min(HISTORY_S, self._left()))
        try:
            return self.ledger.store.seen(self.tenant, wanted, self._user(), self.at, timeout=timeout)
        except StateUnavailable:
            log.warning("cards not compared with earlier ones", extra={"fields": {"service": self.service}})
            return {}

    def _switched(self, case: Case, found: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
        """Which cards rest on a rule that is off, and which on one in shadow, whatever the advice made of it."""
        switches = self.ledger.store.switches()
        if self.in_force.state == "shadow":
            return [], list(found)
        states = [(c, self.in_force.of_rules(switches, self.tenant, c.rules)) for c in found]
        return [c for c, state in states if state == "off"], [c for c, state in states if state == "shadow"]

    def _tried(self, case: Case) -> list[Candidate]:
        """What rules in shadow would have said."""
        trying = self.in_force.shadow
        if trying is None:
            return []
        tried = {name for name, rule in trying.rules.items() if rule.on and not case.service.rules[name].on}
        other = replace(case, service=trying)
        try:
            cards = load_advice(trying.advice)(other)
        except Exception:
            # A rule is in shadow because nobody trusts it yet: it may cost its own trial, never the answer.
            log.exception("a rule in shadow failed", extra={"fields": {"service": self.service}})
            return []
        return [c for c in (self._candidate(other, card) for card in cards) if tried.intersection(c.rules)]

    # What is kept --------------------------------------------------------------------------------------------------

    def _write(
        self, record: AnswerRecord, room: Callable[[AnswerRecord, Crowd], AnswerRecord] | None = None
    ) -> AnswerRecord:
        self.settled = True
        timeout = max(LEAST_S, min(KEEP_S, self._left()))
        return self.ledger.store.record_answer(record, timeout=timeout, settle=room)

    def _left(self) -> float:
        return self.deadline.remaining() if self.deadline is not None else KEEP_S

    def _user(self) -> str:
        user = self.hook.context.user_id if self.hook is not None else None
        return self.ledger.store.key("user", self.tenant, user or "")

    def _event(self) -> str:
        assert self.hook is not None
        context = self.hook.context
        said = "\n".join((context.user_id or "", context.patient_id, self.hook.hook))
        return self.ledger.store.key("event", self.tenant, said)

    def _record(self, status: int) -> AnswerRecord:
        """What is known of a call, however far it came."""
        key = self.ledger.store.key
        hook = self.hook
        record = AnswerRecord(
            tenant=self.tenant, hook="", hook_instance="", service=self.service, at=self.at, status=status
        )
        if self._in_force is not None:
            service = self._in_force.service
            record = msgspec.structs.replace(
                record, service_version=str(service.version), config_digest=self.ledger.digest(service)
            )
        if hook is not None:
            record = msgspec.structs.replace(
                record,
                hook=hook.hook,
                hook_instance=hook.hook_instance,
                patient_key=key("patient", self.tenant, hook.context.patient_id),
                user_key=self._user(),
                encounter_key=key("encounter", self.tenant, hook.context.encounter_id or ""),
                event_key=self._event(),
            )
        return record

    def _of(self, line: Line) -> AnswerRecord:
        record, case = self._record(200), line.case
        if case is not None:
            record = msgspec.structs.replace(
                record, setting=setting(case), inputs=self._inputs(case.record), details=_noticed(line)
            )
        assessment = line.assessment
        if assessment is not None:
            record = msgspec.structs.replace(
                record,
                model=assessment.model,
                model_digest=assessment.digest,
                input_digest=hashlib.sha256("\n".join(record.inputs).encode()).hexdigest(),
                predictions=predictions(assessment),
            )
        return msgspec.structs.replace(record, ms=dict(line.stages.ms))

    def _inputs(self, record: PatientRecord) -> tuple[str, ...]:
        found = sorted(references(record))
        return tuple(self.ledger.store.key("resource", self.tenant, ref) for ref in found[:MOST_INPUTS])

    def _moment(self, case: Case) -> Moment:
        encounter = self.ledger.store.key("encounter", self.tenant, case.request.context.encounter_id or "")
        return Moment(self.at, encounter, setting(case), case.request.hook_instance)

    def _candidate(self, case: Case, card: Card) -> Candidate:
        basis = card.basis
        card = named(card)
        if basis is None:
            return Candidate(card, ())
        store, patient = self.ledger.store, case.request.context.patient_id
        orders = concerned(case, basis.orders)
        return Candidate(
            card,
            basis.rules,
            store.fingerprint(self.tenant, patient, "+".join(sorted(basis.rules)), concept(orders), deciding(card)),
            tuple(store.key("order", self.tenant, f"{patient}\n{name}") for name in order_names(orders)),
        )


def _noticed(line: Line) -> dict[str, Any]:
    """Where each key of evidence came from, what type of user asked, and what of the record nobody has mapped."""
    short = {shortfall.key: shortfall.reason for shortfall in line.shortfalls}
    sent = line.request.prefetch
    user = (line.request.context.user_id or "").partition("/")[0]
    return {
        "prefetch": {key: short.get(key, "sent" if key in sent else "read") for key in line.service.evidence},
        "role": "+".join(sorted(line.roles)) or (user if user in ROLES else "other"),
        **({"unmapped": line.unmapped} if line.unmapped else {}),
    }
