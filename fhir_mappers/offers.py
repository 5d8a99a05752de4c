"""What may be offered in the place of another drug, and to whom not: tables/safe_to_offer.csv and qt_alternatives.csv.

A drug without a row in `safe_to_offer.csv` cannot be checked, so no card offers it.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Limits:
    """What speaks against a drug.

    pregnancy_ok  may be offered in pregnancy; no other drug is
    egfr_min      mL/min/1.73 m2, not offered below it, nor on dialysis; None where the kidney sets no limit
    aki_ok        may be offered in acute kidney injury
    age_min       whole years, not offered below; age_below: not offered from this age on
    weight_min    kg, not offered below it
    conditions    groups of condition_groups.csv; drugs: RxNorm ingredients; with one of either it is not offered
    """

    rxcui: str
    ingredient: str
    pregnancy_ok: bool
    egfr_min: float | None
    aki_ok: bool
    age_min: int | None
    age_below: int | None
    weight_min: float | None
    conditions: tuple[str, ...]
    drugs: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class QtAlternative:
    """A drug without a QT label that serves the same purpose, when the purpose is one of these condition groups."""

    rxcui: str
    alternative: str
    conditions: tuple[str, ...]
    source: str


@functools.cache
def limits() -> Mapping[str, Limits]:
    """RxNorm ingredient -> its limits."""
    return {
        row["rxcui"]: Limits(
            rxcui=row["rxcui"],
            ingredient=row["ingredient"],
            pregnancy_ok=row["pregnancy"] == "ok",
            egfr_min=float(row["egfr_min"]) if row["egfr_min"] else None,
            aki_ok=row["aki"] == "ok",
            age_min=int(row["age_min"]) if row["age_min"] else None,
            age_below=int(row["age_below"]) if row["age_below"] else None,
            weight_min=float(row["weight_min_kg"]) if row["weight_min_kg"] else None,
            conditions=_list(row["not_with_conditions"]),
            drugs=_list(row["not_with_drugs"]),
            source=row["source"],
        )
        for row in _read("safe_to_offer.csv")
    }


@functools.cache
def qt_alternatives() -> Mapping[str, QtAlternative]:
    """RxNorm ingredient of a drug with a QT label -> what to offer instead."""
    return {
        row["rxcui"]: QtAlternative(row["rxcui"], row["alternative_rxcui"], _list(row["for_conditions"]), row["source"])
        for row in _read("qt_alternatives.csv")
    }


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(";") if part)


def _read(table: str) -> Iterator[dict[str, str]]:
    text = resources.files("fhir_mappers").joinpath("tables", table).read_text(encoding="utf-8")
    yield from csv.DictReader(io.StringIO(text, newline=""))
