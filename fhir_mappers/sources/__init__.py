"""Open data sets as labelled patient records: training sees what serving sees, through the same record.

A reader turns a data folder into `Case`s in canonical units. Units that a source does not state beyond doubt are not
guessed: those variables are left out (Lactate and Magnesium of PhysioNet 2019, Mg of PhysioNet 2012, all of Tongji
but LDH and CRP). Nothing that is known only after the moment of the record is in it.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Literal

from fhir_mappers.codes import LabCode, lab_codes
from fhir_mappers.record import Lab, PatientRecord, Person, Source
from fhir_mappers.units import Conversion, normalise_unit
from models.contract import Modality, Target, Tier

EPOCH = datetime(2000, 1, 1, 8, tzinfo=UTC)
"""The tables have no dates, only hours: every patient's time starts here."""

Sex = Literal["male", "female", "unknown"]


class SourceError(ValueError):
    """A data folder is not there or not what the reader expects."""


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled record.

    patient      key of the patient within the source: splits, folds and bootstraps go by it
    fold         the source's own cross-validation fold, or None
    weight       how many cases of the source this one stands for, where cases were sampled
    confounders  what is known of the case besides the clinical evidence (projection, day): for baselines only
    optimal      of generated patients: the best probability that their complete record allows, by target
    """

    record: PatientRecord
    labels: Mapping[str, float]
    patient: str
    split: Literal["train", "valid"]
    fold: int | None = None
    weight: float = 1.0
    confounders: Mapping[str, float] = field(default_factory=dict)
    optimal: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data set: where it lies, what it answers, on which terms it may be used.

    targets  made from the folder, since a finding is only offered where it has enough positives
    ages     the youngest and oldest age (years) of its patients; the targets answer for nobody else
    skim     the training cases without films, where drawing or reading those takes most of the time
    """

    name: str
    folder: str
    tier: Tier
    title: str
    licence: str
    attribution: str
    url: str
    ages: tuple[int, int | None]
    modalities: tuple[Modality, ...]
    targets: Callable[[Path], tuple[Target, ...]]
    read: Callable[[Path], Iterator[Case]]
    tables: tuple[str, ...] = ()
    notes: str = ""
    skim: Callable[[Path], Iterator[Case]] | None = None


def person(key: str, sex: Sex, ages: tuple[int, int] | None, as_of: datetime = EPOCH) -> Person:
    """A person whose age at `as_of` lies between the two whole years."""
    if ages is None:
        return Person(key, sex, None, None)
    youngest, oldest = ages
    earliest = date(as_of.year - oldest - 1, as_of.month, as_of.day) + timedelta(days=1)
    return Person(key, sex, earliest, date(as_of.year - youngest, as_of.month, as_of.day))


@dataclass(frozen=True, slots=True)
class Variable:
    """A column of a training table as a laboratory result; `printed_range` is the source's own, in its unit."""

    name: str
    unit: str
    code: LabCode
    conversion: Conversion
    printed_range: tuple[float | None, float | None]

    def lab(self, value: float, at: datetime, sex: str, reference: str) -> Lab | None:
        """The result in canonical units; None where the table calls the value impossible (or it is not finite)."""
        canonical = self.conversion(value)
        low, high = self.code.reject
        if not (float("-inf") < canonical < float("inf")):
            return None
        if (low is not None and canonical < low) or (high is not None and canonical > high):
            return None
        flag_low, flag_high = self.code.flag
        range_low, range_high = self._range(sex)
        return Lab(
            analyte=self.code.analyte,
            name=self.code.name,
            loinc=self.code.loinc,
            value=canonical,
            unit=self.code.unit,
            printed=f"{value} {self.unit}",
            at=at,
            source=Source(reference),
            kind="vital" if self.code.kind == "vital" else "lab",
            low=range_low,
            high=range_high,
            extreme=(flag_low is not None and canonical < flag_low)
            or (flag_high is not None and canonical > flag_high),
            preferred=self.code.preferred,
        )

    def _range(self, sex: str) -> tuple[float | None, float | None]:
        low, high = self.printed_range
        if low is None and high is None:
            return self.code.reference_range(sex)
        return (
            None if low is None else self.conversion(low),
            None if high is None else self.conversion(high),
        )


@functools.cache
def variables(source: str) -> dict[str, Variable]:
    """The columns of one source that have a code and an undoubted unit (tables/training_variables.csv)."""
    found: dict[str, Variable] = {}
    path = resources.files("fhir_mappers").joinpath("tables", "training_variables.csv")
    with path.open("r", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["source"] == source:
                code = lab_codes()[row["loinc"]]
                found[row["variable"]] = Variable(
                    row["variable"],
                    row["unit"],
                    code,
                    code.conversions[normalise_unit(row["unit"])],
                    (float(row["low"]) if row["low"] else None, float(row["high"]) if row["high"] else None),
                )
    return found


def split_of(text: object) -> Literal["train", "valid"]:
    """The split a table states; anything else (a held-out patient above all) is refused."""
    if text == "train":
        return "train"
    if text == "valid":
        return "valid"
    raise SourceError(f"split is {text!r}; a training table holds only train and valid")


def require(folder: Path, *files: str) -> None:
    for file in files:
        if not (folder / file).exists():
            raise SourceError(
                f"{folder / file} is not there; point the data folder at the one that holds {folder.name}/"
            )


def load_sources() -> dict[str, DataSource]:
    """All data sets by name."""
    from fhir_mappers.sources import cohort, films, labs

    return {source.name: source for source in (*labs.SOURCES, *films.SOURCES, *cohort.SOURCES)}
