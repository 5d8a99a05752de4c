"""`read_record`: whose, which version, when; and that one bad resource costs itself alone."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from charts import CHART, PATIENT, SUBJECT, lab
from films import element, film, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhir_mappers.codes import LOINC
from fhir_mappers.read import flatten, read_record, read_studies
from fhir_mappers.record import PatientRecord

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)


def read(*resources: Any, patient_id: str = "p1", **more: Any) -> PatientRecord:
    return read_record(resources, as_of=AS_OF, patient_id=patient_id, **more)


def said(record: PatientRecord) -> list[tuple[str, str, str]]:
    return [(g.code, g.subject, g.reference) for g in record.gaps]


def test_a_chart_is_read_newest_first_with_every_item_s_source() -> None:
    record = read(*CHART)
    assert [x.value for x in record.labs] == [2.6, 2.5, 1.4]
    assert [x.source.reference for x in record.labs] == ["Observation/o1", "Observation/o2", "Observation/o3"]
    assert [e.source.reference for e in record.active("metformin", "diabetes")] == [
        "Condition/c1",
        "MedicationRequest/m1",
    ]
    assert record.person.sex == "female"
    assert record.encounter is not None
    assert record.encounter.unit == "ward"
    assert record.gaps == ()


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_resources_means_nothing(shuffler: random.Random) -> None:
    shuffled = [*CHART, lab("o1", 9.9, meta={"versionId": "0"})]
    expected = read(*shuffled)
    shuffler.shuffle(shuffled)
    assert read(*shuffled) == expected


@pytest.mark.parametrize(
    "reference",
    ["Patient/p1", "https://ehr.example/fhir/Patient/p1", "urn:uuid:p1", "Patient/p1/_history/3"],
)
def test_relative_absolute_versioned_and_urn_references_mean_the_same_patient(reference: str) -> None:
    assert len(read(lab("o1", subject={"reference": reference})).labs) == 1


@pytest.mark.parametrize(
    "subject",
    [
        {"reference": "Patient/p2"},
        {"reference": "https://ehr.example/fhir/Patient/p2"},
        {"reference": "Group/p1"},
        {"reference": "p1"},
        {"reference": "#p1"},
        {"reference": "Patient/p11"},
        {"display": "p1"},
        {"identifier": {"value": "p1"}},
        "Patient/p1",
        None,
    ],
)
def test_a_resource_that_does_not_name_this_patient_changes_nothing_but_one_gap(subject: Any) -> None:
    stray = lab("o9", 8.8, subject=subject)
    record, plain = read(*CHART, stray), read(*CHART)
    assert replace(record, gaps=()) == replace(plain, gaps=())
    assert said(record) == [("other-patient", "Observation", "Observation/o9")]


def test_another_patient_s_patient_resource_does_not_become_ours() -> None:
    record = read({**PATIENT, "id": "p2", "gender": "male"}, lab("o1"))
    assert record.person.sex == "unknown"
    assert ("no-patient", "Patient", "Patient/p1") in said(record)
    assert ("other-patient", "Patient", "Patient/p2") in said(record)


def test_an_id_of_more_than_64_characters_is_an_id() -> None:
    long = "e" + "x" * 120
    record = read(lab("o1", subject={"reference": f"Patient/{long}"}), {**PATIENT, "id": long}, patient_id=long)
    assert (len(record.labs), record.person.sex) == (1, "female")


def test_the_patient_id_may_come_as_a_reference() -> None:
    assert len(read(*CHART, patient_id="Patient/p1").labs) == 3


def test_of_two_versions_the_higher_number_is_read_and_ten_is_more_than_nine() -> None:
    nine, ten = lab("o1", 1.0, meta={"versionId": "9"}), lab("o1", 2.0, meta={"versionId": "10"})
    for pair in ((nine, ten), (ten, nine)):
        record = read(PATIENT, *pair)
        assert [(x.value, x.source.version) for x in record.labs] == [(2.0, "10")]
        assert said(record) == [("superseded", "Observation", "Observation/o1")]


def test_of_two_versions_without_a_number_the_later_is_read() -> None:
    old = lab("o1", 1.0, meta={"lastUpdated": "2026-03-10T06:00:00Z"})
    new = lab("o1", 2.0, meta={"lastUpdated": "2026-03-10T07:00:00Z"})
    assert [x.value for x in read(PATIENT, new, old).labs] == [2.0]


def test_a_correction_that_withdraws_a_result_takes_it_away() -> None:
    wrong = lab("o1", 9.0, meta={"versionId": "1"})
    gone = lab("o1", 9.0, meta={"versionId": "2"}, status="entered-in-error")
    assert read(PATIENT, wrong, gone).labs == ()


def test_the_same_resource_twice_is_read_once() -> None:
    assert len(read(PATIENT, lab("o1"), lab("o1")).labs) == 1
    nameless = lab("x")
    del nameless["id"]
    assert len(read(PATIENT, nameless, dict(nameless)).labs) == 1


def test_a_resource_from_the_future_changes_nothing_but_one_gap() -> None:
    record = read(*CHART, lab("o9", 8.8, "2026-03-10T14:11:00Z"))
    assert replace(record, gaps=()) == replace(read(*CHART), gaps=())
    assert said(record) == [("future", "creatinine", "Observation/o9")]


@pytest.mark.parametrize(
    "broken",
    [
        lab("o9", valueQuantity=[1, 2]),
        lab("o9", effectiveDateTime={"a": 1}),
        lab("o9", status=7),
        lab("o9", component="x"),
        lab("o9", note="x"),
    ],
)
def test_a_broken_resource_adds_one_gap_and_nothing_else(broken: dict[str, Any]) -> None:
    record = read(*CHART, broken)
    assert replace(record, gaps=()) == replace(read(*CHART), gaps=())
    assert said(record) == [("malformed", "Observation", "Observation/o9")]


@pytest.mark.parametrize("thing", [None, 1, "x", [], {}, {"resourceType": 3}, {"resourceType": ""}])
def test_what_is_no_resource_at_all_is_passed_over(thing: Any) -> None:
    record = read(*CHART, thing)
    assert replace(record, gaps=()) == replace(read(*CHART), gaps=())


def test_types_that_nothing_reads_are_named() -> None:
    record = read(
        *CHART,
        {"resourceType": "CarePlan", "id": "x", "subject": SUBJECT},
        {"resourceType": "Practitioner", "id": "y"},
        {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "processing"}]},
    )
    assert said(record) == [
        ("not-read", "CarePlan", "CarePlan/x"),
        ("not-read", "OperationOutcome", "OperationOutcome"),
        ("not-read", "Practitioner", "Practitioner/y"),
    ]


def test_a_bundle_among_the_resources_is_opened() -> None:
    bundle = {"resourceType": "Bundle", "entry": [{"resource": lab("o1")}, {"search": {}}, "x", {"resource": None}]}
    assert [r["id"] for r in flatten([bundle, PATIENT])] == ["o1", "p1"]
    assert len(read(PATIENT, bundle).labs) == 1


def test_observations_contained_in_a_report_are_read_for_the_report_s_patient() -> None:
    inside, other = lab("", 1.5), lab("", 7.7, subject={"reference": "Patient/p2"})
    del inside["subject"]
    report = {"resourceType": "DiagnosticReport", "id": "r", "status": "final", "subject": SUBJECT}
    record = read(PATIENT, report | {"contained": [inside, other]})
    assert [(x.value, x.source.reference) for x in record.labs] == [(1.5, "Observation/r#0")]
    assert said(record) == [("other-patient", "Observation", "Observation/r#1")]


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        read_record([], as_of=datetime(2026, 3, 10), patient_id="p1")


def test_no_patient_resource_is_a_gap_and_the_rest_is_read() -> None:
    record = read(lab("o1"))
    assert (len(record.labs), record.person.id, record.age_years()) == (1, "p1", None)
    assert said(record) == [("no-patient", "Patient", "Patient/p1")]


def test_nothing_of_a_gap_is_text_from_the_record() -> None:
    record = read(
        PATIENT, lab("o1", code={"coding": [{"system": LOINC, "code": "9-9", "display": "SECRET"}], "text": "SECRET"})
    )
    assert "SECRET" not in repr(record.gaps)


def test_studies_can_be_read_alone_to_choose_films() -> None:
    study = {
        "resourceType": "ImagingStudy",
        "id": "s1",
        "status": "available",
        "subject": SUBJECT,
        "started": "2026-03-10T08:00:00Z",
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
    }
    stray = study | {"id": "s2", "subject": {"reference": "Patient/p2"}}
    assert [s.uid for s in read_studies([study, stray, *CHART], as_of=AS_OF, patient_id="p1")] == ["1.2.3"]


STUDY = next(r for r in CHART if r["resourceType"] == "ImagingStudy")


def test_a_film_of_this_patient_s_study_is_decoded_and_another_study_s_is_not() -> None:
    record = read(PATIENT, STUDY, dicom=[film(picture(8))])
    assert [(i.study_uid, i.view) for i in record.images] == [("1.2.3", "PA")]
    stray = read(PATIENT, dicom=[film(picture(8))])
    assert stray.images == ()
    assert said(stray) == [("other-patient", "film", "ImagingStudy/s1")]


def test_a_film_whose_patient_id_is_none_of_this_patient_s_identifiers_is_left_out() -> None:
    named = film(picture(8), tags={"00100020": element("LO", "MRN2")})
    record = read(PATIENT | {"identifier": [{"value": "MRN1"}]}, STUDY, dicom=[named])
    assert said(record) == [("other-patient", "film", "ImagingStudy/s1")]
    assert len(read(PATIENT | {"identifier": [{"value": "MRN2"}]}, STUDY, dicom=[named]).images) == 1
    assert len(read(PATIENT, STUDY, dicom=[named]).images) == 1  # the EHR named no identifier to compare with


def test_a_film_taken_after_the_moment_in_a_study_begun_before_it_is_from_the_future() -> None:
    taken = {"0008002A": element("DT", "20260310150000"), "00080201": element("SH", "+0000")}
    record = read(PATIENT, STUDY, dicom=[film(picture(8), tags=taken)])
    assert said(record) == [("future", "film", "ImagingStudy/s1")]


# --- any damage at all -------------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in inner for p in places(item, (*path, key)))]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_no_damage_to_a_resource_raises_or_reaches_the_other_resources(data: st.DataObject) -> None:
    victim = data.draw(st.integers(1, len(CHART) - 1))
    chart = [copy.deepcopy(r) for r in CHART]
    path = data.draw(st.sampled_from([p for p in places(chart[victim]) if p and p != ("id",)]))
    target: Any = chart[victim]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(JUNK)
    drafts = [chart[victim]]
    read(*CHART, drafts=drafts)
    record, others = read(*chart), read(*(r for i, r in enumerate(CHART) if i != victim))
    about_victim = {f"{CHART[victim]['resourceType']}/{CHART[victim]['id']}"}
    # what a victim is read for belongs to it: a drug, an archive's address, a variant's significance
    about_victim |= {"Medication/drug": {"MedicationRequest/m1"}, "Endpoint/pacs": {"ImagingStudy/s1"}}.get(
        min(about_victim), {"Observation/g1"} if about_victim == {"Observation/g2"} else set()
    )
    for name in ("labs", "coded", "events", "allergies", "orders", "studies", "reports", "genes"):
        kept, untouched = (
            [x for x in getattr(r, name) if x.source.reference not in about_victim] for r in (record, others)
        )
        assert kept == untouched
