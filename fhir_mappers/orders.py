"""ServiceRequest and MedicationRequest -> Order, both what exists and what is still a draft in the EHR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Literal

from fhir_mappers import fhir, r4
from fhir_mappers.codes import LOINC_SYSTEMS, drug_concepts, find_imaging_order, find_lab
from fhir_mappers.events import drug_of
from fhir_mappers.questions import KIND as FORM
from fhir_mappers.questions import answers_of
from fhir_mappers.record import Answer, Gap, Order

DRAFTABLE = frozenset(
    {
        "ServiceRequest",
        "MedicationRequest",
        "NutritionOrder",
        "VisionPrescription",
        "DeviceRequest",
        "CommunicationRequest",
        "SupplyRequest",
        "Task",
        "Appointment",
    }
)
BESIDE_DRAFTS = frozenset({"Medication", FORM})
"""Not orders: what the drafts refer to."""
# A tuple, since a broken status may be a list, which no set can be asked for.
_GONE = ("entered-in-error", "revoked", "cancelled", "stopped")
_IMAGING = frozenset({"363679005", "RAD"})
_LABORATORY = frozenset({"108252007", "LAB"})
"""Categories of ServiceRequest: SNOMED CT imaging and laboratory procedure, v2-0074 RAD and LAB."""


def read_service_request(resource: fhir.Resource, as_of: datetime) -> Iterator[Order | Gap]:
    """Read an existing ServiceRequest, active or on hold (DQ-1). Raises fhir.Malformed."""
    reference = fhir.reference_of(resource)
    request = fhir.read(resource, r4.ServiceRequest)
    if request.status not in ("active", "on-hold") or request.do_not_perform:
        yield Gap("bad-status", "ServiceRequest", reference)
        return
    authored = fhir.read_start(request.authored_on, as_of)
    if fhir.in_future(authored, as_of):
        yield Gap("future", "ServiceRequest", reference)
        return
    order = _service_order(resource, request, as_of, draft=False)
    yield order
    if not order.codes:
        yield Gap("unknown-code", "ServiceRequest", reference)


def _service_order(
    resource: fhir.Resource,
    request: r4.ServiceRequest,
    as_of: datetime,
    *,
    draft: bool,
    answers: Mapping[str, Answer] | None = None,
) -> Order:
    codes = request.code.codes
    imaging = find_imaging_order(codes)
    kind: Literal["imaging", "laboratory", "medication", "other"] = "other"
    if imaging is not None or any(c.says(*_IMAGING) for c in request.category):
        kind = "imaging"
    elif any(c.says(*_LABORATORY) for c in request.category) or find_lab(codes) is not None:
        kind = "laboratory"
    return Order(
        ref=fhir.reference_of(resource),
        draft=draft,
        kind=kind,
        codes=codes,
        text=request.code.words,
        # An order detail may name the contrast agent that the procedure code leaves open.
        concepts=drug_concepts(code for detail in request.order_detail for code in detail.codes),
        imaging=imaging,
        priority=request.priority or "routine",
        status=request.status,
        authored=fhir.read_start(request.authored_on, as_of),
        source=fhir.source_of(resource),
        answers=answers or {},
        resource=resource,
    )


def read_draft(
    resource: fhir.Resource,
    as_of: datetime,
    supporting: Mapping[str, fhir.Resource],
    patient_id: str | None = None,
) -> Iterator[Order | Gap]:
    """Read a resource of draftOrders; its status may be any but a withdrawn one (re-signing). Raises fhir.Malformed."""
    kind = fhir.type_of(resource)
    if fhir.status_of(resource) in _GONE or resource.get("doNotPerform") is True:
        yield Gap("bad-status", kind, fhir.reference_of(resource))
    elif kind == "ServiceRequest":
        request = fhir.read(resource, r4.ServiceRequest)
        answers = answers_of(resource, supporting, patient_id)
        yield _service_order(resource, request, as_of, draft=True, answers=answers)
    elif kind == "MedicationRequest":
        prescription = fhir.read(resource, r4.MedicationRequest)
        codes, text = drug_of(resource, prescription, supporting)
        yield Order(
            ref=fhir.reference_of(resource),
            draft=True,
            kind="medication",
            codes=codes,
            text=text,
            concepts=drug_concepts(codes),
            imaging=None,
            priority=prescription.priority or "routine",
            status=prescription.status,
            authored=fhir.read_start(prescription.authored_on, as_of),
            source=fhir.source_of(resource),
            resource=resource,
        )
    elif kind in DRAFTABLE:
        codes = fhir.codes_of(resource.get("code"))
        yield Order(
            ref=fhir.reference_of(resource),
            draft=True,
            kind="other",
            codes=codes,
            text="",
            concepts=frozenset(),
            imaging=None,
            priority="routine",
            status=fhir.status_of(resource),
            authored=None,
            source=fhir.source_of(resource),
            resource=resource,
        )
    else:
        yield Gap("not-read", kind or "unknown", fhir.reference_of(resource))


def read_drafts(
    drafts: Iterable[fhir.Resource], as_of: datetime, patient_id: str | None, forms: Iterable[fhir.Resource] = ()
) -> tuple[list[Order], list[Gap]]:
    """Read every draft; one that names another patient is a Gap, one that names nobody is this patient's.

    The EHR sends draftOrders in the context of one patient, and drafts of the public sandbox carry no subject.

    forms  QuestionnaireResponses that came otherwise (prefetch); one among the drafts is the newer
    """
    given = [d for d in drafts if isinstance(d, Mapping)]
    supporting = {fhir.reference_of(d): d for d in (*forms, *given) if fhir.type_of(d) in BESIDE_DRAFTS}
    orders: list[Order] = []
    gaps: list[Gap] = []
    for draft in given:
        if fhir.type_of(draft) in BESIDE_DRAFTS:
            continue
        if patient_id is not None and fhir.names_patient(draft, patient_id) is False:
            gaps.append(Gap("other-patient", fhir.type_of(draft) or "unknown", fhir.reference_of(draft)))
            continue
        try:
            for item in read_draft(draft, as_of, supporting, patient_id):
                if isinstance(item, Order):
                    orders.append(item)
                else:
                    gaps.append(item)
        except fhir.Malformed:
            gaps.append(Gap("malformed", fhir.type_of(draft), fhir.reference_of(draft)))
    return orders, gaps


def is_imaging_report(codes: Iterable[tuple[str, str]]) -> bool:
    """Whether one of these LOINC codes is an orderable study of tables/imaging_orders.csv."""
    pairs = tuple(codes)
    return any(system in LOINC_SYSTEMS for system, _ in pairs) and find_imaging_order(pairs) is not None
