"""The demo's patients: hand-written scenarios, each the clinical situation one rule or one estimate is for.

All are invented, named after trees, and told relative to `as_of`, so that they are current whenever the demo runs.
"""

from __future__ import annotations

from datetime import datetime

from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.scenarios_chest import CHEST
from fhir_mappers.cohort.scenarios_orders import GENES, KIDNEY


def demo_patients(as_of: datetime) -> tuple[GeneratedPatient, ...]:
    """Every scenario at this moment (timezone-aware), in the order the demo lists them."""
    if as_of.tzinfo is None:
        raise ValueError("as_of needs a time zone")
    return tuple(scenario(as_of) for scenario in (*KIDNEY, *CHEST, *GENES))
