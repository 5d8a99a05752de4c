"""Which of a patient's studies may hold a film, and where they say it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fhir_mappers.record import Study
from fhir_mappers.studies import FILM_MODALITIES, is_chest


def may_hold_films(study: Study) -> bool:
    """Whether a study that lists no images could hold one that `choose_films` would take."""
    return is_chest(study) and (not study.modalities or bool(study.modalities & FILM_MODALITIES))


def with_endpoint_references(studies: Sequence[Study], resources: Sequence[Mapping[str, Any]]) -> tuple[Study, ...]:
    """Add the `Endpoint/id` references of each study to the addresses that came along with it."""
    references: dict[str, list[str]] = {}
    for resource in resources:
        if resource["resourceType"] == "ImagingStudy":
            series = resource.get("series")
            holders = [resource, *(series if isinstance(series, list) else ())]
            references[f"ImagingStudy/{resource.get('id')}"] = [
                endpoint["reference"]
                for holder in holders
                if isinstance(holder, dict) and isinstance(holder.get("endpoint"), list)
                for endpoint in holder["endpoint"]
                if isinstance(endpoint, dict) and isinstance(endpoint.get("reference"), str)
            ]
    return tuple(
        replace(s, endpoints=tuple(dict.fromkeys((*s.endpoints, *references.get(s.source.reference, ())))))
        for s in studies
    )
