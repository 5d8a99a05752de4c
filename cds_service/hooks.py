"""`HookRequest`: a hook call of any of the ten hooks of the library, read leniently and typed.

Lenient: unknown members and `extension` are ignored, optional members may be null or empty, drafts need not be valid
FHIR. Strict: what the specification requires must be there with its JSON type. Source: CDS Hooks 2.0 "Calling a CDS
Service"; HL7/cds-hooks-library for the contexts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from cds_service import strict_json
from cds_service.errors import BadRequest

# A FHIR id with the characters servers really use, without the 64 characters Epic exceeds. No slash, no percent sign
# and not only dots: an id goes into URLs.
Id = Annotated[str, msgspec.Meta(pattern=r"^(?=.*[^.])[A-Za-z0-9._:~-]{1,512}\Z")]
MaybeId = Annotated[str, msgspec.Meta(pattern=r"^((?=.*[^.])[A-Za-z0-9._:~-]{1,512})?\Z")]
Text = Annotated[str, msgspec.Meta(min_length=1)]
# The specification asks for a UUID. Another opaque token harms nobody, so a client that sends one still gets its
# advice; it goes into our log, so it may not hold a sentence.
Instance = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,128}\Z")]
Token = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,16384}\Z")]
Resource = dict[str, Any]
T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    resource: Resource | None = None


class Bundle(msgspec.Struct, frozen=True):
    """The drafts of a context. `type` and `resourceType` are not asked for: the official sandbox omits the first."""

    entry: list[Entry] | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What every hook tells."""

    patient_id: Id
    user_id: str | None = None
    encounter_id: MaybeId | None = None

    def drafts(self) -> Iterator[tuple[str, Resource | None]]:
        """Every draft resource with the place it stands in, before anything is checked."""
        yield from ()

    def __post_init__(self) -> None:
        for name in ("user_id", "encounter_id"):
            if getattr(self, name) == "":
                msgspec.structs.force_setattr(self, name, None)


def _entries(name: str, bundle: Bundle) -> Iterator[tuple[str, Resource | None]]:
    for i, entry in enumerate(bundle.entry or ()):
        yield f"context.{name}.entry[{i}].resource", entry.resource


class PatientView(Context, frozen=True, kw_only=True, rename="camel"):
    user_id: Text


class OrderSign(Context, frozen=True, kw_only=True, rename="camel"):
    user_id: Text
    draft_orders: Bundle

    def drafts(self) -> Iterator[tuple[str, Resource | None]]:
        return _entries("draftOrders", self.draft_orders)


class OrderSelect(OrderSign, frozen=True, kw_only=True, rename="camel"):
    """`selections` names the drafts to comment on; the other drafts are context."""

    selections: tuple[str, ...]


class OrderDispatch(Context, frozen=True, kw_only=True, rename="camel"):
    """Has no userId. Version 1.0 named one `order` and one `task`; the library's example has `fulfillment-tasks`."""

    performer: Text
    dispatched_orders: tuple[str, ...]
    fulfillment_tasks: tuple[Resource, ...] | None = None

    def drafts(self) -> Iterator[tuple[str, Resource | None]]:
        for i, task in enumerate(self.fulfillment_tasks or ()):
            yield f"context.fulfillmentTasks[{i}]", task


class AppointmentBook(Context, frozen=True, kw_only=True, rename="camel"):
    user_id: Text
    appointments: Bundle

    def drafts(self) -> Iterator[tuple[str, Resource | None]]:
        return _entries("appointments", self.appointments)


class EncounterStart(Context, frozen=True, kw_only=True, rename="camel"):
    user_id: Text
    encounter_id: Id


class EncounterDischarge(EncounterStart, frozen=True, kw_only=True, rename="camel"):
    pass


class MedicationRefill(Context, frozen=True, kw_only=True, rename="camel"):
    """`userId` is optional here: a refill may be asked for by nobody in the room."""

    medications: Bundle

    def drafts(self) -> Iterator[tuple[str, Resource | None]]:
        return _entries("medications", self.medications)


class ProblemListItemCreate(Context, frozen=True, kw_only=True, rename="camel"):
    user_id: Text
    conditions: Bundle

    def drafts(self) -> Iterator[tuple[str, Resource | None]]:
        return _entries("conditions", self.conditions)


class AllergyIntoleranceCreate(Context, frozen=True, kw_only=True, rename="camel"):
    user_id: Text
    allergy_intolerance: Resource

    def drafts(self) -> Iterator[tuple[str, Resource | None]]:
        yield "context.allergyIntolerance", self.allergy_intolerance


CONTEXTS: dict[str, type[Context]] = {
    "patient-view": PatientView,
    "order-select": OrderSelect,
    "order-sign": OrderSign,
    "order-dispatch": OrderDispatch,
    "appointment-book": AppointmentBook,
    "encounter-start": EncounterStart,
    "encounter-discharge": EncounterDischarge,
    "medication-refill": MedicationRefill,
    "problem-list-item-create": ProblemListItemCreate,
    "allergyintolerance-create": AllergyIntoleranceCreate,
}


class FhirAuthorization(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """The FHIR access token of this one call: never stored, logged or sent anywhere but `fhirServer`.

    expires_in  seconds;  scope  not parsed: Epic sends names of APIs;  subject  our client id at the EHR
    """

    access_token: Token
    token_type: Text
    expires_in: int
    scope: str
    subject: Text
    patient: str | None = None

    def __repr__(self) -> str:
        return "FhirAuthorization(...)"


class Envelope(msgspec.Struct, frozen=True, rename="camel"):
    hook: Text
    hook_instance: Instance
    context: msgspec.Raw
    prefetch: dict[str, msgspec.Raw] | None = None
    fhir_server: str | None = None
    fhir_authorization: FhirAuthorization | None = None


@dataclass(frozen=True, slots=True)
class HookRequest:
    """One call. Nothing of the record and no token is in its repr.

    prefetch       as sent, each value still JSON; a key that is not there was not sent
    foreign_drafts how many drafts named another patient and were left out
    """

    hook: str
    hook_instance: str
    context: Context = field(repr=False)
    prefetch: Mapping[str, msgspec.Raw] = field(repr=False)
    fhir_server: str | None = field(repr=False)
    fhir_authorization: FhirAuthorization | None = field(repr=False)
    received_at: datetime = field(kw_only=True)
    draft_resources: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    foreign_drafts: int = 0

    def drafts(self) -> tuple[Mapping[str, Any], ...]:
        """The draft resources of the context, as sent, without those of another patient."""
        return self.draft_resources


_envelope = msgspec.json.Decoder(Envelope)
_contexts = {hook: msgspec.json.Decoder(type_) for hook, type_ in CONTEXTS.items()}


def parse_hook_request(body: bytes, received_at: datetime) -> HookRequest:
    """Read one call. Raises BadRequest that names the member and what it should be, never what it was."""
    text = body.removeprefix(strict_json.BOM)
    try:
        whole = strict_json.parse(text)
    except strict_json.BadJson as error:
        raise BadRequest(str(error)) from None
    envelope = decode_member(_envelope.decode, text, "")
    decoder = _contexts.get(envelope.hook)
    if decoder is None:
        raise BadRequest("`hook` is none of the hooks served here", expression="hook")
    raw: bytes | memoryview = envelope.context
    if envelope.hook == "order-dispatch":
        raw = msgspec.json.encode(_with_current_names(whole["context"]))
    context = decode_member(decoder.decode, raw, "context")
    fhir_server = envelope.fhir_server or None
    authorization = envelope.fhir_authorization
    if fhir_server is not None and not _is_http_url(fhir_server):
        raise BadRequest("`fhirServer` is not an absolute http(s) URL", expression="fhirServer")
    if authorization is not None:
        _check_authorization(authorization, fhir_server, context)
    drafts = [_draft(place, resource) for place, resource in context.drafts()]
    ours = tuple(d for d in drafts if d is not None and not names_another_patient(d, context.patient_id))
    return HookRequest(
        envelope.hook,
        envelope.hook_instance,
        context,
        envelope.prefetch or {},
        fhir_server,
        authorization,
        received_at=received_at,
        draft_resources=ours,
        foreign_drafts=sum(d is not None for d in drafts) - len(ours),
    )


def _draft(place: str, resource: Resource | None) -> Resource | None:
    if resource is not None and not isinstance(resource.get("resourceType"), str):
        raise BadRequest(f"`{place}` has no resourceType", expression=place)
    return resource


def _with_current_names(context: Any) -> Any:
    """An order-dispatch context with the member names of version 1.1."""
    if not isinstance(context, dict):
        return context
    named = dict(context)
    if "dispatchedOrders" not in named and isinstance(named.get("order"), str):
        named["dispatchedOrders"] = [named["order"]]
    if "fulfillmentTasks" not in named:
        tasks = named.get("fulfillment-tasks", named.get("task"))
        named["fulfillmentTasks"] = [tasks] if isinstance(tasks, dict) else tasks
    return named


def _check_authorization(authorization: FhirAuthorization, fhir_server: str | None, context: Context) -> None:
    if fhir_server is None:
        raise BadRequest("`fhirServer` is required with `fhirAuthorization`", expression="fhirServer")
    if authorization.token_type.lower() != "bearer":
        raise BadRequest(
            "`fhirAuthorization.token_type` is not Bearer, the only type there is",
            expression="fhirAuthorization.token_type",
        )
    patient = (authorization.patient or "").removeprefix("Patient/")
    if patient and patient != context.patient_id:
        raise BadRequest(
            "`fhirAuthorization.patient` and `context.patientId` name different patients",
            expression="fhirAuthorization.patient",
        )


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_a_number = parts.port is None or parts.port >= 0
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and port_is_a_number


def names_another_patient(resource: Mapping[str, Any], patient_id: str) -> bool:
    """True when the resource says it is about a patient other than `patient_id`.

    Looks at subject, patient, for and an appointment's participants. A reference that gives no patient id (contained,
    urn, identifier, display only) contradicts nothing.
    """
    claims = [resource.get("subject"), resource.get("patient"), resource.get("for")]
    participants = resource.get("participant")
    if isinstance(participants, list):
        claims += [p.get("actor") for p in participants if isinstance(p, dict)]
    if resource.get("resourceType") == "Patient":
        claims.append({"reference": f"Patient/{resource.get('id', patient_id)}"})
    for claim in claims:
        reference = claim.get("reference") if isinstance(claim, dict) else None
        named = _PATIENT.search(reference) if isinstance(reference, str) else None
        if named and named[1] != patient_id:
            return True
    return False


_PATIENT = re.compile(r"(?:^|/)Patient/([^/?#]+)(?:/_history/[^/]*)?$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_WRONG_TYPE = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_PLACE = re.compile(r" - at `\$\.?([^`]*)`")
_JSON_NAMES = {"str": "string", "int": "integer", "bool": "boolean"}


def decode_member(decode: Callable[[bytes | memoryview], T], raw: bytes | memoryview, place: str) -> T:
    """Decode typed JSON that stands at `place` of a request. Raises BadRequest naming the member."""
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise _named(str(error), place) from None


def _named(message: str, place: str) -> BadRequest:
    """msgspec's message in the words of the request. It names members and types; values it never repeats."""
    at = _PLACE.search(message)
    member = ".".join(part for part in (place, at[1].replace("[...]", "") if at else "") if part)
    if missing := _MISSING.search(message):
        member = ".".join(part for part in (member, missing[1]) if part)
        return BadRequest(f"`{member}` is required", expression=member)
    subject = f"`{member}`" if member else "the body"
    if wrong := _WRONG_TYPE.search(message):
        expected, got = (" or ".join(_JSON_NAMES.get(n, n) for n in w.split(" | ")) for w in wrong.groups())
        return BadRequest(f"{subject} should be {expected}, and is {got}", expression=member or None)
    return BadRequest(f"{subject} is empty or has characters it may not have", expression=member or None)
