"""What came of the orders of a ward so far: doses given, and tests of the laboratory under way or done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fhir_mappers.record import Source


@dataclass(frozen=True, slots=True)
class Dose:
    """A drug that was given, or is running (MedicationAdministration). No order: what a patient is on is an Event.

    concepts  drug classes, as an Event's
    at        when giving began; None where not recorded
    """

    concepts: frozenset[str]
    codes: tuple[tuple[str, str], ...]
    text: str
    at: datetime | None
    source: Source


@dataclass(frozen=True, slots=True)
class LabReport:
    """A laboratory's DiagnosticReport on a test that tables/labs.csv knows: how far the laboratory is.

    The results themselves are Observations, read by themselves.

    analyte  row of the table: `culture_blood`
    at       of the specimen, else of the report; None where neither is said
    """

    analyte: str
    name: str
    status: str
    at: datetime | None
    source: Source

    @property
    def pending(self) -> bool:
        return self.status in ("registered", "partial", "preliminary")
