"""Charlson and Elixhauser comorbidity from ICD-10 codes: one number for how ill somebody is besides.

Codes by Quan (Med Care 2005;43:1130); weights by Charlson (J Chronic Dis 1987;40:373) and by van Walraven for
Elixhauser (Med Care 2009;47:626); both stand in tables/condition_groups.csv. Without the points for age.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from fhir_mappers.codes import ICD10_SYSTEMS

Scheme = Literal["charlson", "elixhauser"]
_WEIGHTS: Mapping[Scheme, str] = {"charlson": "weight_charlson", "elixhauser": "weight_vanwalraven"}
_OUTRANKED: Mapping[Scheme, Mapping[str, str]] = {
    "charlson": {"dm": "dm_cx", "mild_liver": "severe_liver", "cancer": "mets"},
    "elixhauser": {"dm": "dm_cx", "htn": "htn_cx", "tumour": "mets"},
}
"""Milder group -> the graver one beside which it is not counted."""


@dataclass(frozen=True, slots=True)
class Comorbidity:
    """`groups` are those counted, by the table's ids and in its order; `points` may be negative for Elixhauser."""

    points: int
    groups: tuple[str, ...]


def comorbidity(codes: Iterable[tuple[str, str]], scheme: Scheme) -> Comorbidity:
    """Score the ICD-10 codes of the conditions that count; a group counts once, codes of other systems not at all."""
    plain = {code.replace(".", "").upper() for system, code in codes if system in ICD10_SYSTEMS}
    prefixes, weights = _table(scheme)
    found = {group for prefix, group in prefixes if any(code.startswith(prefix) for code in plain)}
    found -= {mild for mild, grave in _OUTRANKED[scheme].items() if grave in found}
    return Comorbidity(sum(weights[g] for g in found), tuple(g for g in weights if g in found))


@functools.cache
def _table(scheme: Scheme) -> tuple[tuple[tuple[str, str], ...], Mapping[str, int]]:
    """(prefix, group) of the scheme, and the weight of each group."""
    text = resources.files("fhir_mappers").joinpath("tables", "condition_groups.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text, newline="")) if row["scheme"] == scheme]
    prefixes = tuple((row["prefix"], row["group_id"]) for row in rows)
    return prefixes, {row["group_id"]: int(row[_WEIGHTS[scheme]]) for row in rows}
