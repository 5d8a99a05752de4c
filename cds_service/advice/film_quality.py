"""CX-04: where the model and the final report disagree, said to nobody at the bedside and kept for radiology.

The call's record names the rule and the finding; the audit export and the monthly report are the queue. Which patient
it was, the EHR knows by the hook instance: nothing here does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice.chest_films import read_films
from cds_service.advice.packs import care
from cds_service.advice.writing import hours, rule_on
from fhir_mappers.report.said import disagreements
from fhir_mappers.report.statements import state_findings

if TYPE_CHECKING:
    from cds_service.consult import Case

RULE = "CX-04"
ADULT = 18


def disputed(case: Case) -> tuple[str, ...]:
    """Findings (`effusion`) on which the model and the newest film's final report disagree, if the rule is on."""
    if case.assessment is None or case.profile != "research_imaging" or rule_on(case.service, RULE) is None:
        return ()
    films = read_films(case)
    if films is None or films.final is None or films.newest.view == "LATERAL":
        return ()
    if care.under(case.record, ADULT) is True or case.record.age_of(films.newest.at) > hours(case.service, "film_h"):
        return ()
    statements = state_findings(case.assessment, films.newest, films.prior)
    return disagreements(statements, films.final, case.service.thresholds)
