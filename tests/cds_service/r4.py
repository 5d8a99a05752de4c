"""`validate_r4`: whether what we emit is FHIR, judged by somebody else's classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhir.resources.R4B import get_fhir_model_class


def validate_r4(resource: Mapping[str, Any]) -> None:
    """Raises pydantic's ValidationError for a resource that is not valid.

    fhir.resources has no R4 classes; R4B, which differs in none of the types we suggest, is the nearest.
    """
    get_fhir_model_class(resource["resourceType"]).model_validate(dict(resource))


def suggested_resources(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every resource of every action of cards as they are on the wire."""
    return [
        action["resource"]
        for card in cards
        for suggestion in card.get("suggestions", ())
        for action in suggestion.get("actions", ())
        if "resource" in action
    ]
