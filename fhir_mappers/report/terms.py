"""The words and codes of a film's report: tables/film_findings.csv, tables/certainty.csv, zones and courses."""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal, cast, get_args

from models.contract import Course, Zone

OWN_SCHEME = "99ORDERSIGHT"
"""Our coding scheme in DICOM for what no public one names; `OWN` is the same in FHIR."""
OWN = "urn:ordersight:film"
SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    OWN_SCHEME: OWN,
}

Certainty = Literal["consistent with", "probable", "possible", "less likely", "unlikely", "not assessed"]
Side = Literal["right", "left"]
ZONES: tuple[Zone, ...] = get_args(Zone)
COURSES: tuple[Course, ...] = get_args(Course)


@dataclass(frozen=True, slots=True)
class Term:
    """One finding a film's report may state. The code is of SCT or DCM where DICOM PS3.16 has one, else ours."""

    finding: str
    title: str
    scheme: str
    code: str
    meaning: str
    affirmed_by: re.Pattern[str]

    @property
    def system(self) -> str:
        return SYSTEMS[self.scheme]


def _rows(table: str) -> Iterator[dict[str, str]]:
    text = resources.files("fhir_mappers").joinpath("tables", table).read_text(encoding="utf-8")
    yield from csv.DictReader(io.StringIO(text, newline=""))


@functools.cache
def terms() -> Mapping[str, Term]:
    """finding -> its term, in the order a report names findings of the same certainty."""
    return {
        row["finding"]: Term(
            row["finding"],
            row["title"],
            row["scheme"],
            row["code"],
            row["meaning"],
            re.compile(rf"(?i)\b(?:{row['affirmed_by']})\b"),
        )
        for row in _rows("film_findings.csv")
    }


@functools.cache
def _levels() -> tuple[tuple[float, Certainty, str], ...]:
    return tuple(
        (float(row["from_probability"]), cast(Certainty, row["word"]), row["heading"]) for row in _rows("certainty.csv")
    )


def certainty(probability: float) -> Certainty:
    """The word a calibrated probability in [0, 1] has in tables/certainty.csv."""
    return next(word for least, word, _ in _levels() if probability >= least)


def spoken(word: Certainty) -> str:
    """How a sentence of the report begins: `Consistent with`."""
    return next((heading for _, known, heading in _levels() if known == word), "Not assessed")


def there(word: Certainty) -> bool:
    """Whether a finding of this certainty is spoken of as one that may be there, and so has a place and a course."""
    return word in ("consistent with", "probable", "possible")


def side_of(zone: Zone) -> Side:
    return "right" if zone.startswith("right") else "left"


def zone_words(zone: Zone) -> str:
    """`right lower zone`."""
    return f"{zone.replace('_', ' ')} zone"


def in_a_sentence(title: str) -> str:
    """A title inside a sentence: `pleural effusion`; an abbreviation stays as it is."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]
