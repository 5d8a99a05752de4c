"""The FHIR R4 resources behind a suggestion: drafts to create, orders to update, tasks for people.

An update sends the whole resource under the client's own id with only the named fields changed; a created one
has no id, which the client gives. A drug goes out only with the answer of its safety check, and a study only after
its own: neither can be written any other way.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cds_service.advice.packs.safe_to_image import against_study
from cds_service.advice.packs.safe_to_offer import Offer, judge
from cds_service.cards import Action, CardError
from fhir_mappers.codes import LOINC, LOINC_SYSTEMS, RXNORM, imaging_orders
from fhir_mappers.record import Event, ImagingOrder, Order

if TYPE_CHECKING:
    from cds_service.consult import Case

REQUEST = "urn:ordersight:request"
"""Our own code system for requests no public one names; a site maps it, or sets its own code in the manifest."""
CREATININE, LACTATE, BLOOD_CULTURE, VITAL_SIGNS = "2160-0", "2524-7", "600-7", "85353-1"
LACTATE_CODES = frozenset({"2524-7", "32693-4", "2518-9"})
CREATININE_CODES = frozenset({"2160-0", "38483-4", "14682-9", "77140-2", "59826-8"})
SODIUM_CHLORIDE = "9863"
LUNG_SCAN = "39943-6"


def concept(system: str, code: str, text: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": text}], "text": text}


def _of_patient(case: Case) -> dict[str, Any]:
    """What every request of this call shares: patient, encounter, author."""
    shared: dict[str, Any] = {"subject": {"reference": f"Patient/{case.record.person.id}"}}
    if case.record.encounter is not None:
        shared["encounter"] = {"reference": case.record.encounter.source.reference}
    author = case.request.context.user_id or ""
    if author.startswith(("Practitioner/", "PractitionerRole/")):
        shared["requester"] = {"reference": author}
    shared["authoredOn"] = case.record.as_of.isoformat()
    return shared


def service_request(
    case: Case, code: Mapping[str, Any], *, priority: str = "routine", at: datetime | None = None, **more: Any
) -> Action:
    """A draft ServiceRequest, due at `at` where given; `more` are further members of the resource."""
    resource: dict[str, Any] = {
        "resourceType": "ServiceRequest",
        "status": "draft",
        "intent": "order",
        "priority": priority,
        "code": code,
        **_of_patient(case),
        **more,
    }
    if at is not None:
        resource["occurrenceDateTime"] = at.isoformat()
    return Action("create", f"Adds a draft order: {code['text']}", resource)


def creatinine(case: Case, at: datetime | None = None, *, priority: str = "routine") -> Action:
    return service_request(case, concept(LOINC, CREATININE, "Creatinine, serum or plasma"), priority=priority, at=at)


def study(case: Case, loinc: str, text: str, *, priority: str = "routine", **more: Any) -> Action | None:
    """A draft of an imaging study; None where something speaks against it or it is on order already."""
    if _not_to_be_offered(case, loinc):
        return None
    return service_request(case, concept(LOINC, loinc, text), priority=priority, **more)


def _not_to_be_offered(case: Case, loinc: str, replacing: Order | None = None) -> bool:
    others = [o for o in case.record.orders if o is not replacing]
    return bool(ordered(others, frozenset({loinc}))) or against_study(case.record, imaging_orders()[loinc]) is not None


def medication(case: Case, offer: Offer, text: str, said: str, **more: Any) -> Action:
    """A draft MedicationRequest of one ingredient, without a dose: that is the clinician's.

    Raises CardError for an offer that failed its safety check.
    """
    if not offer.safe:
        raise CardError(f"{offer.name} failed its safety check and may not be offered")
    resource = {
        "resourceType": "MedicationRequest",
        "status": "draft",
        "intent": "order",
        "medicationCodeableConcept": {
            "coding": [{"system": RXNORM, "code": offer.rxcui, "display": offer.name}],
            "text": text,
        },
        **_of_patient(case),
        **more,
    }
    return Action("create", f"Adds a draft order: {said}", resource)


def saline(case: Case) -> Action | None:
    """Isotonic saline as a draft without dose or rate: those are the clinician's. None where it may not be offered."""
    offer = judge(case.record, SODIUM_CHLORIDE)
    if not offer.safe:
        return None
    text = "Sodium chloride 0.9 % intravenous, before and after contrast; dose and rate to be entered"
    return medication(case, offer, text, "isotonic saline, dose and rate to be entered")


def sibling(study: ImagingOrder) -> ImagingOrder | None:
    """The same study without contrast: same modality and duplicate group, contrast none. CTPA has none."""
    return next(
        (
            row
            for row in imaging_orders().values()
            if row.contrast == "none" and (row.modality, row.duplicate_group) == (study.modality, study.duplicate_group)
        ),
        None,
    )


def change_study(case: Case, order: Order, code: str, name: str, card_uuid: str) -> Action | None:
    """The draft with another study code and a note, everything else as it is.

    None where the draft has no id, or where the other study is on order already or not safe for this patient.

    The whole `code` is replaced: a local catalogue code beside the LOINC code would still order the old study.
    """
    if not order.resource.get("id") or _not_to_be_offered(case, code, order):
        return None
    changed: dict[str, Any] = copy.deepcopy(dict(order.resource))
    changed["code"] = concept(LOINC, code, name)
    notes = changed.get("note")
    notes = list(notes) if isinstance(notes, list) else []
    changed["note"] = [*notes, {"text": f"changed by CDS card {card_uuid}"}]
    return Action("update", f"Changes code to {code} ({name}) and adds a note", changed)


def hold(case: Case, event: Event, why: str, *, update_allowed: bool) -> Action:
    """The medication order set on hold, whole, with the reason; a task to do so where it cannot be updated."""
    if update_allowed and event.resource.get("id"):
        held: dict[str, Any] = copy.deepcopy(dict(event.resource))
        held["status"] = "on-hold"
        held["statusReason"] = {"text": why}
        return Action("update", "Sets the medication order on hold and gives the reason", held)
    return task(case, "hold-medication", "hold medication", focus=event.source.reference, description=why)


def task(
    case: Case,
    code: str,
    text: str,
    *,
    focus: str,
    description: str,
    priority: str = "routine",
    owner: str = "",
) -> Action:
    """A Task for a person or group (`owner`, e.g. `Group/radiology`) about the resource `focus`."""
    shared = _of_patient(case)
    resource: dict[str, Any] = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "priority": priority,
        "code": concept(REQUEST, code, text),
        "description": description,
        "focus": {"reference": focus},
        "for": shared["subject"],
        **{k: shared[k] for k in ("encounter", "requester", "authoredOn") if k in shared},
    }
    if owner:
        resource["owner"] = {"reference": owner}
    return Action("create", f"Adds a task: {text}", resource)


def ordered(orders: Sequence[Order], codes: frozenset[str]) -> tuple[Order, ...]:
    """Orders, drafts among them, that carry one of these LOINC codes."""
    return tuple(o for o in orders if any(system in LOINC_SYSTEMS and code in codes for system, code in o.codes))


def due(order: Order) -> datetime | None:
    """When an order is to be carried out, where it says so with a time."""
    value = order.resource.get("occurrenceDateTime")
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
