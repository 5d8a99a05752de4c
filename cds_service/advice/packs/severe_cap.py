"""Severe community-acquired pneumonia by IDSA/ATS 2007, kept in ATS/IDSA 2019 (doi:10.1164/rccm.201908-1581ST).

Severe is one major criterion (vasopressors for septic shock, mechanical ventilation) or three minor ones. What is
not known may be met: pneumonia is called non-severe only when it would be so even then.
"""

from __future__ import annotations

from dataclasses import dataclass

from cds_service.advice.packs import care
from cds_service.advice.packs.curb65 import Count, Criterion, at_least, confusion, respiratory_rate
from cds_service.advice.packs.quality import above, below, interval, reading
from fhir_mappers.record import Lab, PatientRecord

MINOR_FOR_SEVERE = 3
PF_LIMIT = 250.0
SF_WELL_ABOVE = 315.0
"""SpO2/FiO2 above 315 goes with PaO2/FiO2 above 300 (Rice, Chest 2007;132:410): it rules out 250, never rules it in."""
AIR_PERCENT = 21.0


@dataclass(frozen=True, slots=True)
class Severity:
    """`major` names the major criteria that are met; `severe` is None where the answer depends on what is missing."""

    major: tuple[str, ...]
    minor: Count

    @property
    def severe(self) -> bool | None:
        if self.major or self.minor.low >= MINOR_FOR_SEVERE:
            return True
        return False if self.minor.high < MINOR_FOR_SEVERE else None


def severe_cap(record: PatientRecord) -> Severity:
    """Judge the newest usable results; films are not looked at, so whether several lobes are opaque stays unknown."""
    major = []
    if record.active("vasopressor"):
        major.append("vasopressor")
    if care.ventilated(record):
        major.append("mechanical ventilation")
    sbp = reading(record, "sbp").lab
    return Severity(
        tuple(major),
        Count(
            (
                respiratory_rate(record),
                _oxygenation(record),
                Criterion("infiltrates in several lobes", None),
                confusion(record),
                _judged("urea nitrogen", reading(record, "bun").lab, at_least_limit=20.0),
                _judged("white cells", reading(record, "wbc").lab, below_limit=4.0),
                _judged("platelets", reading(record, "platelets").lab, below_limit=100.0),
                _judged("temperature", reading(record, "temperature").lab, below_limit=36.0),
                # The criterion is hypotension that needs aggressive fluids; a systolic below 90 may or may not.
                Criterion(
                    "hypotension needing fluids",
                    False if sbp is not None and below(sbp, 90.0) is False else None,
                    (sbp,) if sbp else (),
                ),
            )
        ),
    )


def _judged(
    name: str, lab: Lab | None, *, below_limit: float | None = None, at_least_limit: float | None = None
) -> Criterion:
    if lab is None:
        return Criterion(name, None)
    if below_limit is not None:
        return Criterion(name, below(lab, below_limit), (lab,))
    assert at_least_limit is not None
    return Criterion(name, at_least(lab, at_least_limit), (lab,))


def _oxygenation(record: PatientRecord) -> Criterion:
    """PaO2/FiO2 of 250 or less: measured, calculated from one draw, or ruled out by a good saturation."""
    name = "PaO2/FiO2"
    ratio = reading(record, "pf_ratio").lab
    if ratio is not None:
        over = above(ratio, PF_LIMIT)
        return Criterion(name, None if over is None else not over, (ratio,))
    fraction = oxygen_fraction(record)
    if fraction is None:
        return Criterion(name, None)
    oxygen = reading(record, "po2_arterial").lab
    if oxygen is not None and not oxygen.comparator:
        return Criterion(name, oxygen.value / fraction <= PF_LIMIT, (oxygen,))
    saturation = reading(record, "spo2").lab
    if saturation is not None and interval(saturation)[0] / fraction >= SF_WELL_ABOVE:
        return Criterion(name, False, (saturation,))
    return Criterion(name, None)


def oxygen_fraction(record: PatientRecord) -> float | None:
    """Inspired oxygen as a fraction, where it is known: measured, or no oxygen flow."""
    fio2, flow = reading(record, "fio2").lab, reading(record, "o2_flow").lab
    newest = max((x for x in (fio2, flow) if x is not None), key=lambda x: x.at, default=None)
    if newest is None:
        return None
    if newest is fio2:
        return newest.value / 100.0 if not newest.comparator and newest.value >= AIR_PERCENT else None
    return AIR_PERCENT / 100.0 if newest.value == 0 else None
