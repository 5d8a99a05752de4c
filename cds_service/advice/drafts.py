"""The unsigned orders in front of the clinician: which were just touched, and how a card removes or holds one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cds_service.cards import Action
from cds_service.markdown import plain_text
from fhir_mappers.record import Order

if TYPE_CHECKING:
    from cds_service.consult import Case

NAME_CHARS = 60


def touched(case: Case, orders: Iterable[Order]) -> bool:
    """On order-select, whether one of these orders was just selected; on any other hook, whether there is one."""
    refs = [order.ref for order in orders]
    selections: tuple[str, ...] | None = getattr(case.request.context, "selections", None)
    if selections is None:
        return bool(refs)
    return any(chosen in (ref, ref.partition("/")[2]) for ref in refs for chosen in selections)


def name_of(order: Order) -> str:
    """The order's own wording, cut to fit a label."""
    return plain_text(order.text or "order without a name", NAME_CHARS)


def remove(*orders: Order) -> tuple[Action, ...]:
    """Deletes of the drafts that have an id of the EHR's; one without an id can only be removed by hand."""
    return tuple(
        Action("delete", f"Removes the draft order: {name_of(order)}", resource_id=order.ref)
        for order in orders
        if order.draft and "/" in order.ref
    )


def hold(order: Order, why: str) -> Action | None:
    """The draft medication order set on hold, whole, with the reason; None where the draft has no id."""
    if not order.draft or not order.resource.get("id"):
        return None
    held: dict[str, Any] = copy.deepcopy(dict(order.resource))
    held["status"] = "on-hold"
    held["statusReason"] = {"text": why}
    return Action("update", "Sets the draft on hold and gives the reason", held)
