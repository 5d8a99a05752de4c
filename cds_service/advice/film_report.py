"""The offer to keep a film's estimates as a preliminary report: only on a card, only where the site asked for it.

Where it goes is the manifest's `write_back`: `ehr` (the suggestion creates it in the EHR), `archive` (SR and SEG beside
the film) and `fhir` (a FHIR server that takes it from us), the two last by `cds_service.write_back`, once a clinician
has accepted. Nothing is written without that click.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cds_service.advice.chest_films import Films, read_films
from cds_service.advice.estimates import answered
from cds_service.cards import Action, Suggestion
from cds_service.manifest import ManifestError, Service
from fhir_mappers.report.resources import as_one, provenance
from fhir_mappers.report.statements import FilmReport, report_film

if TYPE_CHECKING:
    from cds_service.consult import Case

LABEL = "Keep the estimates as a preliminary report"
PLACES = frozenset({"ehr", "archive", "fhir"})


def places_of(service: Service) -> frozenset[str]:
    """Where accepted reports of this service go; empty where it is off. Raises ManifestError for a place unknown."""
    found = frozenset(str(service.settings.get("write_back", "off")).split()) - {"off"}
    if not found <= PLACES:
        raise ManifestError(f"{service.id}.yaml: settings.write_back is off, or some of ehr, archive and fhir")
    return found


def film_report(case: Case, films: Films) -> FilmReport | None:
    """The report of the newest film as the site's thresholds have it; None without an assessment."""
    if case.assessment is None:
        return None
    estimates = case.assessment.estimates
    levels = case.service.thresholds
    asked = (n for n in levels if n in estimates and "high" in levels[n])
    left_open = {n for n in asked if answered(estimates[n], levels[n]["high"]) is None}
    return report_film(
        case.record, case.assessment, films.newest, films.prior, films.reports, open_=frozenset(left_open)
    )


def report_of(case: Case) -> FilmReport | None:
    """The same from the case alone."""
    films = read_films(case)
    return film_report(case, films) if films is not None else None


def offer_report(case: Case, films: Films) -> tuple[Suggestion, ...]:
    """The suggestion, or none: beside a final report, for a film that states nothing, and where the site wants none."""
    places = places_of(case.service)
    report = film_report(case, films) if places else None
    if report is None or not report.statements:
        return ()
    actions: tuple[Action, ...] = ()
    if "ehr" in places:
        encounter = case.record.encounter.source.reference if case.record.encounter is not None else None
        user = case.request.context.user_id or ""
        who = user if user.startswith(("Practitioner/", "PractitionerRole/")) else None
        actions = (
            Action("create", "Adds a preliminary report of the model's estimates", as_one(report, encounter)),
            Action("create", "Adds which model made it and who kept it", provenance(report, who, case.record.as_of)),
        )
    return (Suggestion(LABEL, actions),)
