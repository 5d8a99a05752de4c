"""Natriuretic peptides in acute breathlessness: whether they speak for heart failure, and when they may not be used.

NT-proBNP rules in from 450, 900 and 1800 pg/mL (under 50, 50 to 75, over 75 years; Januzzi, Eur Heart J 2006;27:330,
taken over by ESC 2021, doi:10.1093/eurheartj/ehab368); BNP from 400 pg/mL. Neither is used at an eGFR below 30, on
dialysis or in acute kidney injury; BNP not under sacubitril, which raises it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cds_service.advice.packs.curb65 import at_least
from cds_service.advice.packs.kidney import kidney
from cds_service.advice.packs.quality import reading
from fhir_mappers.record import Lab, PatientRecord

NT_PROBNP_BY_AGE = ((50, 450.0), (76, 900.0), (200, 1800.0))
"""(ages below, rule-in limit in pg/mL): 75 still belongs to the middle band."""
BNP_RULE_IN = 400.0
EGFR_LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class Peptide:
    """The peptide that rules heart failure in, with the limit it reached."""

    lab: Lab
    limit: float


def nt_probnp_limit(age: int) -> float:
    return next(limit for below, limit in NT_PROBNP_BY_AGE if age < below)


def rules_in_heart_failure(record: PatientRecord, within: timedelta) -> Peptide | None:
    """The peptide of the last `within` that rules heart failure in, where it may be used; else None.

    A kidney that is not known makes a high value mean nothing certain: None.
    """
    state = kidney(record)
    if state.dialysis or state.aki is not None or state.calculated is None:
        return None
    if state.calculated.below(EGFR_LIMIT) is not False:
        return None
    ages = record.age_years()
    pro = reading(record, "nt_probnp", within).lab
    if pro is not None and not pro.preliminary and ages is not None:
        limit = nt_probnp_limit(ages[1])
        return Peptide(pro, limit) if at_least(pro, limit) else None
    bnp = reading(record, "bnp", within).lab
    if bnp is not None and not bnp.preliminary and not record.active("arni"):
        return Peptide(bnp, BNP_RULE_IN) if at_least(bnp, BNP_RULE_IN) else None
    return None
