"""CX-05: what has not changed, or has improved, since the film before: said on no card.

The evidence page behind a card lists every finding with its course. The call's record keeps which findings were held
back for this, as it keeps why any other rule was silent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice.chest_films import Finding, read_films, read_findings
from cds_service.advice.packs import care
from cds_service.advice.writing import hours, rule_on

if TYPE_CHECKING:
    from cds_service.consult import Case

RULE = "CX-05"
ADULT = 18
NO_NEWS = frozenset({"stable", "improved", "resolved"})


def unchanged(case: Case) -> tuple[str, ...]:
    """Findings (`effusion`) that are there, or were, and are no news, where no final report speaks of the film."""
    assessment = case.assessment
    if assessment is None or case.profile != "research_imaging" or rule_on(case.service, RULE) is None:
        return ()
    films = read_films(case)
    if films is None or films.prior is None or films.final is not None or films.newest.view == "LATERAL":
        return ()
    apart = films.newest.at - films.prior.at
    if apart < hours(case.service, "prior_at_least_h") or care.under(case.record, ADULT) is True:
        return ()
    if case.record.age_of(films.newest.at) > hours(case.service, "film_h"):
        return ()
    found = read_findings(case, assessment, films)
    return tuple(sorted(_name(f) for f in found if f.change in NO_NEWS and _was_there(case, f)))


def _name(finding: Finding) -> str:
    return finding.estimate.target.name.removeprefix("finding.")


def _was_there(case: Case, finding: Finding) -> bool:
    high = case.service.thresholds[finding.estimate.target.name]["high"]
    return any(p is not None and p >= high for p in (finding.now, finding.before))
