"""What the model makes of the two newest comparable chest films, as one line beside a deterministic rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice.chest_films import read_films, read_findings
from cds_service.advice.estimates import RESEARCH, TRAINED_ON, refused_film
from cds_service.advice.packs import care
from cds_service.advice.writing import day, missing_evidence, probability

if TYPE_CHECKING:
    from cds_service.consult import Case

ADULT = 18
FILMS = "chest films for the model"


def change_line(case: Case) -> str:
    """`Model ...: effusion worse 0.12 to 0.84`; empty without two films, or where the model may not speak (MX-2, MX-8).

    The finding named is the one the model is surest of on the newer film.
    """
    assessment = case.assessment
    if assessment is None or case.profile != "research_imaging" or care.under(case.record, ADULT) is not False:
        return ""
    films = read_films(case)
    if films is None or films.prior is None:
        return ""
    compared = [f for f in read_findings(case, assessment, films) if f.now is not None and f.before is not None]
    if not compared:
        return ""
    moved = [f for f in compared if f.change not in ("stable", "not compared")]
    first = (moved or compared)[0]
    before, now = probability(first.before or 0.0), probability(first.now or 0.0)
    number = f"{len(compared)} finding" + ("s" if len(compared) > 1 else "")
    said = f"{first.placed} {first.change}" if moved else f"no change in {number}, {first.title}"
    said += f" {before} to {now}" if before != now else f", {now} on both"
    return (
        f"Model {assessment.model} ({TRAINED_ON[assessment.tier]}), films {day(films.prior.at)} and "
        f"{day(films.newest.at)}: {said}. Model estimate, not a diagnosis. {RESEARCH}"
    )


def films_not_compared(case: Case) -> tuple[str, ...]:
    """`chest films for the model (did not arrive in time)`: why the archive gave no comparison."""
    refused = refused_film(case)
    if refused:
        return (f"{FILMS} ({refused})",)
    return missing_evidence([s for s in case.shortfalls if s.key == "films"], {"films": FILMS})
