"""A film's report as the evidence page shows it: its statements as a table, the rest in the report's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cds_service.pages.overlays import Layers
from cds_service.pages.snapshot import FilmReportView, StatementView
from fhir_mappers.report.statements import FilmReport, Statement
from fhir_mappers.report.text import where, write_report

if TYPE_CHECKING:
    from cds_service.pages.collect import Marks


def view_report(report: FilmReport, layers: Mapping[str, Layers], marks: Marks) -> FilmReportView:
    words = write_report(report)
    films = {f.source.reference: f.source for f in (report.film, report.prior) if f is not None}
    drawn = {shape.name for shape in layers.get(report.film.sop_uid, Layers()).shapes}

    def view(statement: Statement) -> StatementView:
        heat = f"heat.{statement.term.finding}"
        return StatementView(
            finding=statement.term.title,
            certainty=statement.certainty,
            there=statement.there,
            side=statement.side or "",
            where=where(statement),
            change=statement.change or "",
            probability=statement.probability,
            interval=statement.interval,
            prior=statement.prior,
            refs=tuple(marks.ref(films[name]) for name in statement.evidence if name in films),
            why=statement.why or "",
            heat=heat if heat in drawn else "",
        )

    return FilmReportView(
        technique=words.technique,
        comparison=words.comparison,
        impression=words.impression,
        limits=words.limits,
        statements=tuple(view(s) for s in report.statements),
        compared=report.prior is not None and report.unusable is None,
        ctr=report.ctr,
        ctr_why=report.ctr_why or "",
    )
