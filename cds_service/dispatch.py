"""order-dispatch: the signed order on its way to whoever performs it. Pure.

Its context names orders instead of holding drafts, and nobody in the room can change them: the card is for
information. Source: CDS Hooks library, order-dispatch 1.1; CLINICAL.md 4.1, the technologist's copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cds_service.cards import Card
from cds_service.hooks import HookRequest, OrderDispatch
from fhir_mappers import fhir


def dispatched(request: HookRequest, resources: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The orders the context names, as far as they came with the evidence; () on any other hook."""
    if not isinstance(request.context, OrderDispatch):
        return ()
    named = {
        "/".join(reference.split("/_history/")[0].split("/")[-2:]) for reference in request.context.dispatched_orders
    }
    return tuple(resource for resource in resources if fhir.reference_of(resource) in named)


def for_information(card: Card) -> Card:
    """Without suggestions, which would change a signed order, and no louder than info unless it is critical."""
    quiet = card.indicator if card.indicator == "critical" else "info"
    return msgspec.structs.replace(card, indicator=quiet, suggestions=(), selection_behavior=None)
