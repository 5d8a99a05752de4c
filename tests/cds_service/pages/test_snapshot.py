"""What a snapshot says a card rested on: only what the card shows, the model used, or the chart holds."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from evidence_house import advised, case_of, snapshot_of, with_record
from vignettes import Answers, Chart, concept, condition, encounter, film, observation, patient

from cds_service.cards import Card, Source
from cds_service.evidence import Shortfall
from cds_service.pages.basis import read_detail
from cds_service.pages.collect import collect
from cds_service.pages.model_card import model_view
from cds_service.pages.snapshot import Point, Snapshot, decode, encode
from fhir_mappers.record import Gap, GeneResult
from fhir_mappers.record import Source as From

FILM, FILM_PIXELS = film(1, "2026-03-10T13:38:00Z")
PRIOR, PRIOR_PIXELS = film(2, "2026-03-07T09:00:00Z", "AP")
FLUID = Answers(
    {"finding.effusion": (0.88, 0.81, 0.93), "finding.edema": (0.2, 0.1, 0.3)},
    prior={"finding.effusion": (0.06, 0.03, 0.10)},
    masked={"imaging": 0.31},
    titles={"finding.effusion": "Pleural effusion", "finding.edema": "Edema"},
    modalities=("imaging", "labs"),
)
CRP = observation("l1", "1988-5", 120, "mg/L", "2026-03-10T06:00:00Z")


def films_chart(**more: object) -> Chart:
    given = {"hook": "patient-view", "films": (FILM_PIXELS, PRIOR_PIXELS), "model": FLUID, **more}
    resources = (patient("male", "1950-02-14"), encounter("EMER"), FILM, PRIOR, CRP)
    return Chart(resources, **given)  # type: ignore[arg-type]


def points(snapshot: Snapshot, analyte: str) -> tuple[Point, ...]:
    return next(s.points for s in snapshot.series if s.analyte == analyte)


def test_the_deciding_value_is_the_one_the_card_shows_first() -> None:
    snapshot = snapshot_of(contrast_chart(LOW, STEADY, METFORMIN), CONTRAST)
    newest, earlier = points(snapshot, "creatinine")
    assert (newest.printed, newest.mark) == ("2.6 mg/dL", "deciding")
    assert (earlier.printed, earlier.mark) == ("2.5 mg/dL", "on the card")
    assert snapshot.facts[0].cells[0].startswith("eGFR ")
    assert [r.reference for r in snapshot.facts[0].refs] == ["Observation/o1"]
    metformin = next(m for m in snapshot.history if m.kind == "medication")
    assert metformin.text.startswith("metformin")


def test_a_value_the_card_does_not_show_decided_nothing() -> None:
    potassium = observation("o9", "2823-3", 4.1, "mmol/L", "2026-03-10T06:10:00Z")
    snapshot = snapshot_of(contrast_chart(LOW, STEADY, potassium), CONTRAST)
    assert {p.mark for p in points(snapshot, "potassium")} == {""}


def test_an_equal_number_of_another_minute_is_another_result() -> None:
    same = {**LOW, "id": "o3", "effectiveDateTime": "2026-03-09T06:10:00Z"}
    snapshot = snapshot_of(contrast_chart(LOW, same), CONTRAST)
    assert [p.mark for p in points(snapshot, "creatinine")] == ["deciding", "on the card"]


def test_rules_come_with_their_sentence_citation_owner_and_review_date() -> None:
    snapshot = snapshot_of(contrast_chart(LOW, STEADY, METFORMIN), CONTRAST)
    first = snapshot.rules[0]
    assert [r.id for r in snapshot.rules] == ["IS-01", "IS-03"]
    assert "eGFR below 30" in first.text
    assert (first.citation, first.owner) == ("ACR-NKF 2020", "radiology and nephrology leads of the site")
    assert first.review_by.isoformat() == "2027-10-31"


def test_every_suggestion_says_exactly_what_its_button_changes() -> None:
    case = case_of(contrast_chart(LOW, STEADY, METFORMIN), CONTRAST)
    card = advised(case)
    snapshot = collect(case, card, None, ())
    assert [c.label for c in snapshot.choices] == [s.label for s in card.suggestions]
    assert all(change.split(":")[0] in ("create", "update", "delete") for c in snapshot.choices for change in c.changes)


def test_a_result_the_answer_did_not_rest_on_is_not_called_used_by_the_model() -> None:
    """The model is given both; an answer to a film's finding has weights for the film alone."""
    for modalities, mark in ((("imaging", "labs"), "model"), (("imaging",), "")):
        snapshot = snapshot_of(films_chart(model=dataclasses.replace(FLUID, modalities=modalities)), "cxr-insight")
        assert {p.mark for p in points(snapshot, "crp")} == {mark}


def test_what_could_not_be_had_and_what_was_not_used_are_both_named() -> None:
    chart = contrast_chart(
        {**LOW, "id": "o7", "valueQuantity": {"value": 1.0, "unit": "furlongs"}},
        LOW,
        shortfalls=(Shortfall("meds", "timeout"),),
    )
    snapshot = snapshot_of(chart, CONTRAST)
    assert [m.text for m in snapshot.missing] == ["medication list (did not arrive in time)"]
    unit = next(m for m in snapshot.unused if "unit" in m.text)
    assert unit.text == "Creatinine has a unit that is not known here; a unit is never guessed"
    assert unit.ref is not None
    assert unit.ref.reference == "Observation/o7"


def test_another_patients_resource_is_named_nowhere() -> None:
    case = case_of(contrast_chart(LOW), CONTRAST)
    gaps = (Gap("other-patient", "Observation", "Observation/of-somebody-else"),)
    snapshot = collect(with_record(case, gaps=gaps), advised(case), None, ())
    assert b"somebody-else" not in encode(snapshot)
    assert snapshot.unused[0].text == "Observation belongs to another patient, and was left out"


def test_an_estimate_that_advice_kept_back_is_not_shown() -> None:
    """NEWS2 speaks here, and the estimate is for patients with COVID-19 only."""
    vitals = [
        observation(f"v{i}", code, value, unit, "2026-03-10T13:30:00Z")
        for i, (code, value, unit) in enumerate(
            [
                ("9279-1", 26, "/min"),
                ("59408-5", 90, "%"),
                ("8480-6", 88, "mm[Hg]"),
                ("8867-4", 128, "/min"),
                ("8310-5", 39.4, "Cel"),
            ]
        )
    ]
    answers = Answers({"icu_care": (0.71, 0.55, 0.82)}, modalities=("labs",))
    chart = Chart((patient(), encounter(), CRP, *vitals), hook="patient-view", model=answers)
    case = case_of(chart, "deterioration")
    assert case.assessment is not None
    snapshot = collect(case, advised(case), model_view(case.assessment, None), ())
    assert snapshot.estimates == ()
    assert snapshot.model is None
    assert {p.mark for p in points(snapshot, "crp")} == {""}


def test_a_spoken_estimate_comes_with_its_interval_its_drivers_and_the_film_before() -> None:
    snapshot = snapshot_of(films_chart(), "cxr-insight")
    effusion, edema = snapshot.estimates
    assert (effusion.title, effusion.probability, effusion.interval) == ("Pleural effusion", 0.88, (0.81, 0.93))
    assert effusion.without == (("chest film", 0.31),)
    assert effusion.prior == 0.06
    assert effusion.thresholds == (("high", 0.8), ("low", 0.1))
    assert (effusion.on_card, edema.on_card) == (True, False)
    assert points(snapshot, "crp")[0].mark == "model"


def test_genes_are_matched_to_the_row_that_names_them() -> None:
    case = case_of(contrast_chart(LOW), CONTRAST)
    at = datetime(2026, 1, 28, tzinfo=UTC)
    gene = GeneResult("CYP2C19", "phenotype", "Poor Metabolizer", "germline", at, From("Observation/g1", "3"))
    card = Card(
        summary="CYP2C19 poor metabolizer.",
        indicator="critical",
        source=Source("CPIC"),
        detail="Ordered: clopidogrel.\n\n| Fact | Value | When | Source |\n| --- | --- | --- | --- |\n"
        "| CYP2C19 | poor metabolizer, germline | 2026-01-28 | Genetic results |\n\nRule PGX-010 v1",
    )
    snapshot = collect(with_record(case, genes=(gene,)), card, None, ())
    assert snapshot.genes[0].mark == "deciding"
    assert (snapshot.facts[0].refs[0].reference, snapshot.facts[0].refs[0].version) == ("Observation/g1", "3")


@pytest.mark.parametrize(
    ("server", "reference", "url"),
    [
        ("https://ehr.example.org/fhir", "Observation/o1", "https://ehr.example.org/fhir/Observation/o1"),
        ("https://ehr.example.org/fhir/", "Observation/o1", "https://ehr.example.org/fhir/Observation/o1"),
        ("javascript:alert(1)", "Observation/o1", ""),
        (None, "Observation/o1", ""),
        ("https://ehr.example.org/fhir", "javascript:alert(1)", ""),
        ("https://ehr.example.org/fhir", "Observation/../../admin", ""),
        ("https://ehr.example.org/fhir", "urn:uuid:5f1c", ""),
        ("https://ehr.example.org/fhir", "https://elsewhere.example.org/Observation/1", ""),
    ],
)
def test_links_lead_to_resources_of_the_ehrs_own_server_only(server: str | None, reference: str, url: str) -> None:
    case = case_of(contrast_chart(LOW), CONTRAST)
    card = advised(case)
    request = dataclasses.replace(case.request, fhir_server=server)
    labs = tuple(dataclasses.replace(lab, source=From(reference, "7")) for lab in case.record.labs)
    case = with_record(dataclasses.replace(case, request=request), labs=labs)
    assert points(collect(case, card, None, ()), "creatinine")[0].ref.url == url


def test_a_draft_is_on_no_server_yet() -> None:
    case = case_of(contrast_chart(LOW), CONTRAST)
    case = dataclasses.replace(case, request=dataclasses.replace(case.request, fhir_server="https://ehr.example.org"))
    drafts = [m for m in collect(case, advised(case), None, ()).history if m.kind == "draft order"]
    assert [d.ref.url for d in drafts] == [""]


def test_what_markdown_hid_is_read_back_as_it_was_written() -> None:
    text = r"a|b \*c* <i>d</i> &amp; [e](https://example.org) www.f.org 5 < 6; 7"
    chart = contrast_chart(LOW, STEADY, {**METFORMIN, "medicationCodeableConcept": _named(text)})
    row = next(r for r in read_detail(advised(case_of(chart, CONTRAST))).rows if r[0] == "Metformin")
    assert row[1].startswith(text[:60])
    assert len(row) == 4


def _named(text: str) -> dict[str, object]:
    return concept("http://www.nlm.nih.gov/research/umls/rxnorm", "6809", text)


def test_not_known_is_taken_apart_at_its_items() -> None:
    card = Card(
        summary="s",
        indicator="info",
        source=Source("x"),
        detail="Why.\n\nNot known: a value &lt; 5; medication list (did not arrive in time).\n\nRule IS-01 v1",
    )
    assert read_detail(card).not_known == ("a value < 5", "medication list (did not arrive in time)")


def test_a_snapshot_survives_being_sealed_and_opened() -> None:
    for chart, name in ((contrast_chart(LOW, STEADY, METFORMIN), CONTRAST), (films_chart(), "cxr-insight")):
        snapshot = snapshot_of(chart, name)
        assert decode(encode(snapshot)) == snapshot


def test_history_is_newest_first_and_what_has_no_date_comes_last() -> None:
    old = condition("c1", "I10", onsetDateTime="2015-12-12")
    new = condition("c2", "E11.9", onsetDateTime="2018-09-07")
    undated = condition("c3", "N18.4")
    history = snapshot_of(contrast_chart(LOW, STEADY, undated, old, new), CONTRAST).history
    conditions = [m.ref.reference for m in history if m.kind == "condition"]
    assert conditions == ["Condition/c2", "Condition/c1", "Condition/c3"]


def test_the_age_of_the_newest_evidence_of_each_kind_is_said() -> None:
    seen = dict(snapshot_of(contrast_chart(LOW, STEADY), CONTRAST).seen)
    # 06:10 to 14:00 is seven hours and fifty minutes; whole hours are said.
    assert seen["Laboratory results"] == "2, newest 2026-03-10 06:10 (7 h before)"
    assert seen["Chest films"] == "none read"


def test_the_lifetime_is_fifteen_minutes() -> None:
    snapshot = snapshot_of(contrast_chart(LOW, STEADY), CONTRAST)
    assert snapshot.expires - snapshot.made_at == timedelta(minutes=15)
