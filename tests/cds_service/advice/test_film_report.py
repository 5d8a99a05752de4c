"""The offer to keep a film's estimates as a preliminary report: where the site asked for it, and nowhere else."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.provenance import Provenance
from film_charts import AIR, ANTIBIOTIC, FLUID, NAME, chart, course, report, two_films
from vignettes import Chart, service

from cds_service.advice.film_report import LABEL
from cds_service.manifest import ManifestError, Service


def keeping(where: str) -> Service:
    manifest = service(NAME)
    return msgspec.structs.replace(manifest, settings={**manifest.settings, "write_back": where})


def offers(given: Chart, where: str) -> list[Any]:
    return [s for card in given.cards(NAME, keeping(where)) for s in card.suggestions if s.label == LABEL]


def test_as_shipped_no_card_offers_to_write_anything_but_the_task() -> None:
    assert service(NAME).settings["write_back"] == "off"
    for given in (chart(), two_films()):
        kinds = [
            a.resource["resourceType"]
            for card in given.cards(NAME)
            for s in card.suggestions
            for a in s.actions
            if a.resource is not None
        ]
        assert kinds in ([], ["Task"])


@pytest.mark.parametrize("given", [chart(), two_films()], ids=["CX-01", "CX-02"])
def test_where_the_site_wants_it_the_suggestion_creates_the_report_and_its_provenance(given: Chart) -> None:
    (offer,) = offers(given, "ehr")
    first, second = (msgspec.to_builtins(a) for a in offer.actions)
    assert (first["type"], second["type"]) == ("create", "create")
    DiagnosticReport.model_validate(first["resource"])
    Provenance.model_validate(second["resource"])
    assert first["resource"]["status"] == "preliminary"
    assert first["resource"]["encounter"] == {"reference": "Encounter/e1"}
    assert second["resource"]["target"][0]["identifier"] == first["resource"]["identifier"][0]
    assert second["resource"]["agent"][1]["who"] == {"reference": "Practitioner/u1"}
    assert not offer.is_recommended


def test_for_an_archive_alone_the_suggestion_asks_the_ehr_for_nothing() -> None:
    (offer,) = offers(two_films(), "archive")
    assert offer.actions == ()


def test_beside_a_final_report_none_is_offered() -> None:
    given = course(ANTIBIOTIC)
    assert given.cards(NAME, keeping("ehr archive fhir")) != []
    assert offers(given, "ehr archive fhir") == []
    assert offers(two_films(report("preliminary")), "ehr") != []


def test_what_the_site_s_thresholds_leave_open_is_not_assessed_in_the_report() -> None:
    wide = dataclasses.replace(
        AIR, given={**AIR.given, "finding.effusion": (0.79, 0.55, 0.90)}, titles={**AIR.titles, **FLUID.titles}
    )
    (offer,) = offers(chart(model=wide), "ehr")
    resource = offer.actions[0].resource
    found = {one["id"]: one for one in resource["contained"]}
    assert found["effusion"]["dataAbsentReason"]["text"] == "the estimate is too uncertain"
    assert found["pneumothorax"]["valueCodeableConcept"]["text"] == "Consistent with"


@pytest.mark.parametrize("where", ["pacs", "on", "ehr,archive"])
def test_a_place_that_is_none_is_refused_in_plain_words(where: str) -> None:
    with pytest.raises(ManifestError, match="write_back is off, or some of ehr, archive and fhir"):
        two_films().cards(NAME, keeping(where))
