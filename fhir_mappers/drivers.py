"""tables/drivers.csv: which somatic variants drive lung cancer, and which drugs are matched to them.

A variant matches by its exact protein change, by the kind of change within an exon's codons, by a prefix of its
coding change where the effect is on splicing, or as a fusion of the gene. Nothing matches by resemblance.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from dataclasses import dataclass
from importlib import resources
from typing import Literal, cast

_CODONS = re.compile(r"p\.[A-Z][a-z]{2}(\d+)(?:_[A-Z][a-z]{2}(\d+))?(.*)")


@dataclass(frozen=True, slots=True)
class Driver:
    """One row. `options` are regimens in the order of the table, each the ingredients it is made of.

    names  exact protein changes, prefixes of coding changes (`c.3028+1`), and with a leading `!` what is excepted
    line   first: matched therapy comes first; later: after a first line of something else
    """

    name: str
    gene: str
    form: Literal["named", "deletion", "insertion", "fusion"]
    codons: tuple[int, int]
    names: tuple[str, ...]
    rule: str
    options: tuple[tuple[str, ...], ...]
    line: Literal["first", "later"]
    note: str
    citation: str
    url: str

    def matches(self, gene: str, value: str) -> bool:
        """Whether a variant of this gene, as `GeneResult.value` has it, is this driver."""
        if gene != self.gene or f"!{value}" in self.names:
            return False
        if self.form == "fusion":
            return value == "fusion" or "::" in value
        coding = value.rpartition(":")[2]
        if self.form == "named":
            return value in self.names or any(n.startswith("c.") and coding.startswith(n) for n in self.names)
        match = _CODONS.fullmatch(value)
        if match is None:
            return False
        first, last, change = int(match[1]), int(match[2] or match[1]), match[3]
        if not (self.codons[0] <= first and last <= self.codons[1]):
            return False
        if self.form == "deletion":
            return change.startswith("del")
        return change.startswith(("ins", "dup", "delins"))


@functools.cache
def drivers() -> tuple[Driver, ...]:
    text = resources.files("fhir_mappers").joinpath("tables", "drivers.csv").read_text(encoding="utf-8")
    return tuple(
        Driver(
            name=row["driver"],
            gene=row["gene"],
            form=cast(Literal["named", "deletion", "insertion", "fusion"], row["form"]),
            codons=(int(row["first"] or 0), int(row["last"] or 0)),
            names=tuple(n for n in row["names"].split("|") if n),
            rule=row["rule"],
            options=tuple(tuple(option.split("+")) for option in row["options"].split(";")),
            line=cast(Literal["first", "later"], row["line"]),
            note=row["note"],
            citation=row["citation"],
            url=row["url"],
        )
        for row in csv.DictReader(io.StringIO(text, newline=""))
    )
