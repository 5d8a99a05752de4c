"""Genomic Observations with what those they derive from say: the gene, and whether it is germline or somatic.

HL7's guide says each thing once. A therapeutic implication need not name the gene that its genotype names, and the
genomic source class stands with the variant, not with the genotype made of it. A genotype of a tumour must not become
germline, nor of unknown source, on the way to its implication.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fhir_mappers import fhir, r4
from fhir_mappers.codes import LOINC
from fhir_mappers.genomics import (
    GENE,
    ORIGIN_CODES,
    SOURCE_CLASS,
    USED,
    Origin,
    genes_of,
    is_genomic,
    names_a_gene,
    origins_of,
)

DEPTH = 4
"""Implication, genotype, haplotype, variant: what derives from more is no guide's."""


def with_lineage(resources: Sequence[fhir.Resource]) -> list[fhir.Resource]:
    """These resources; a genomic Observation among them with a component for what its sources say and it does not.

    The gene only where all direct sources are of one and the same; a source class of every source, so that two that
    differ, or one that differs from its own, are as unknown as two in one Observation. Sources are looked for among
    `resources` alone, and one that is not final says nothing.
    """
    if not any("derivedFrom" in resource for resource in resources):
        return list(resources)
    known = {
        fhir.id_of(r).rpartition("#")[2]: r for r in resources if fhir.type_of(r) == "Observation" and fhir.id_of(r)
    }
    return [_completed(r, known) if "derivedFrom" in r and _genomic(r) else r for r in resources]


def _genomic(resource: fhir.Resource) -> bool:
    return fhir.type_of(resource) == "Observation" and is_genomic(fhir.codes_of(resource.get("code")))


def _completed(resource: fhir.Resource, known: Mapping[str, fhir.Resource]) -> fhir.Resource:
    try:
        own = fhir.read(resource, r4.Observation)
        direct = _sources(resource, known)
        genes = [] if names_a_gene(own) else _one([_gene(source, known, DEPTH) for source in direct])
        origins = {o for s in direct for o in _origins(s, known, DEPTH)} - origins_of(own)
    except fhir.Malformed:
        return resource  # it, or what it rests on, is broken: read as it stands, or refused as it stands
    added = [_component(GENE, {"text": gene}) for gene in genes]
    added += [
        _component(SOURCE_CLASS, {"coding": [{"system": LOINC, "code": ORIGIN_CODES[o]}]}) for o in sorted(origins)
    ]
    return {**resource, "component": [*fhir.each(resource.get("component")), *added]} if added else resource


def _component(code: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"code": {"coding": [{"system": LOINC, "code": code}]}, "valueCodeableConcept": value}


def _sources(resource: fhir.Resource, known: Mapping[str, fhir.Resource]) -> list[fhir.Resource]:
    references = [s.get("reference") for s in fhir.each(resource.get("derivedFrom")) if isinstance(s, fhir.Object)]
    ids = [fhir.last_segment(r).removeprefix("#") for r in references if isinstance(r, str)]
    found = [known[i] for i in ids if i in known and known[i] is not resource]
    return [s for s in found if _genomic(s) and fhir.status_of(s) in USED]


def _one(found: Iterable[str]) -> list[str]:
    """The gene that all of these are of; none where one is of none, or two differ."""
    genes = set(found)
    return list(genes) if len(genes) == 1 and "" not in genes else []


def _gene(source: fhir.Resource, known: Mapping[str, fhir.Resource], depth: int) -> str:
    read = fhir.read(source, r4.Observation)
    if names_a_gene(read):
        return next(iter(_one(genes_of(read))), "")
    beyond = _sources(source, known) if depth > 1 else []
    return next(iter(_one([_gene(s, known, depth - 1) for s in beyond])), "")


def _origins(source: fhir.Resource, known: Mapping[str, fhir.Resource], depth: int) -> set[Origin]:
    own = origins_of(fhir.read(source, r4.Observation))
    beyond = _sources(source, known) if depth > 1 else []
    return own.union(*(_origins(s, known, depth - 1) for s in beyond))
