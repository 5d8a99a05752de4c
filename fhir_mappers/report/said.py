"""What the words and codes of a radiologist's report say of the findings a model knows, to tell where the two disagree.

Only for radiology's own quality work: what is hedged, or both affirmed and denied, counts as unsaid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fhir_mappers.record import Report
from fhir_mappers.report.statements import Statement
from fhir_mappers.report.terms import SYSTEMS, terms

_CLAUSES = re.compile(r"(?<=[.;!?])\s+|\n+|\b(?:but|however|although)\b", re.IGNORECASE)
_DENIED = re.compile(r"(?i)\b(?:no|not|without|negative for|free of|absent|resolved|cleared|rule[sd]? out|excluded)\b")
_HEDGED = re.compile(
    r"(?i)\b(?:possib\w+|probab\w+|likely|may|might|could|cannot|can not|suspect\w*|question\w*|versus|vs|rule out|or"
    r"|if|concern\w*)\b"
)


def said_of(report: Report) -> Mapping[str, bool]:
    """finding -> whether the report affirms it; what it does not speak of is not there."""
    found: dict[str, set[bool]] = {}
    for clause in _CLAUSES.split(report.conclusion):
        for name, term in terms().items():
            match = term.affirmed_by.search(clause)
            if match is None:
                continue
            denied = _DENIED.search(clause) is not None
            # "No effusion or pneumothorax" denies both; "effusion or consolidation" affirms neither.
            if denied or _HEDGED.search(clause) is None:
                found.setdefault(name, set()).add(not denied)
    for system, code in report.findings:
        for name, term in terms().items():
            if (system, code) == (SYSTEMS[term.scheme], term.code):
                found.setdefault(name, set()).add(True)
    return {name: said.pop() for name, said in found.items() if len(said) == 1}


def disagreements(
    statements: tuple[Statement, ...], report: Report, levels: Mapping[str, Mapping[str, float]]
) -> tuple[str, ...]:
    """Findings the report denies and the model has at or above `high`, or affirms and the model at or below `low`.

    levels  `finding.effusion` -> its thresholds; a finding without any is not compared
    """
    words = said_of(report)
    found = []
    for statement in statements:
        limits, p = levels.get(f"finding.{statement.term.finding}"), statement.probability
        affirmed = words.get(statement.term.finding)
        if (
            limits is not None
            and p is not None
            and ((affirmed is False and p >= limits["high"]) or (affirmed is True and p <= limits["low"]))
        ):
            found.append(statement.term.finding)
    return tuple(sorted(found))
