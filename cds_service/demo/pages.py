"""The demo EHR's pages: the worklist and the chart. Everything the browser runs or shows comes from this origin."""

from __future__ import annotations

from flask import Blueprint, Response, abort, jsonify, redirect, render_template
from werkzeug.wrappers import Response as AnyResponse

from cds_service.demo.chart import PLACES, age_of, order_entry, view
from cds_service.demo.store import Store
from fhir_mappers.cohort.facts import GeneratedPatient

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def add_pages(blueprint: Blueprint, store: Store) -> None:
    def patient(patient_id: str) -> GeneratedPatient:
        found = store.charts().patients.get(patient_id)
        if found is None:
            abort(404)
        return found

    @blueprint.get("/")
    def worklist() -> str:
        charts = store.charts()
        return render_template("worklist.html", patients=charts.patients.values(), age_of=age_of, places=PLACES)

    @blueprint.get("/patients")
    def patients() -> AnyResponse:
        return redirect("/demo/")

    @blueprint.get("/patients/<patient_id>")
    def chart(patient_id: str) -> str:
        everyone = store.charts().patients.values()
        return render_template("chart.html", chart=view(patient(patient_id)), patients=everyone, age_of=age_of)

    @blueprint.get("/patients/<patient_id>/order-entry")
    def entry(patient_id: str) -> Response:
        return jsonify(order_entry(patient(patient_id)))

    @blueprint.errorhandler(404)
    def lost(_: Exception) -> tuple[str, int]:
        return render_template("lost.html"), 404

    @blueprint.after_request
    def secure(response: Response) -> Response:
        if response.mimetype == "text/html":
            response.headers["Content-Security-Policy"] = POLICY
            response.headers["Referrer-Policy"] = "no-referrer"
        return response
