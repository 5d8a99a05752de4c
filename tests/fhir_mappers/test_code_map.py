"""A site's own codes and units become the tables'; what a map cannot mean is refused with its line."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from charts import PATIENT, SUBJECT, lab

from fhir_mappers.code_map import COLUMNS, CodeMapError, as_sent, read_code_map
from fhir_mappers.codes import RXNORM, UCUM
from fhir_mappers.read import read_orders, read_record

AS_OF = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
LAB = "https://lab.example.org/codes"
HEADER = ",".join(COLUMNS)
CREATININE = f"{LAB},CREA,http://loinc.org|2160-0"


def mapped(*rows: str) -> Any:
    return read_code_map("\n".join((HEADER, *rows)) + "\n")


def local(value: float = 180, unit: str | None = "umol/L", code: str = "CREA", system: str | None = LAB) -> Any:
    coding = {"code": code, **({"system": system} if system else {})}
    quantity = {"value": value, **({"unit": unit} if unit else {})}
    return lab("o1") | {"code": {"coding": [coding]}, "valueQuantity": quantity}


def creatinine(resource: Any, *rows: str) -> tuple[list[tuple[float, str]], list[str]]:
    """(value in mg/dL, as printed) of each result, and the codes of the gaps."""
    record = read_record([PATIENT, resource], as_of=AS_OF, patient_id="p1", local=mapped(*rows))
    return [(round(x.value, 3), x.printed) for x in record.labs if x.analyte == "creatinine"], [
        gap.code for gap in record.gaps
    ]


def test_a_local_creatinine_is_unknown_without_a_map_and_read_with_one() -> None:
    """180 umol/L is 180 / 88.4 = 2.036 mg/dL."""
    assert creatinine(local()) == ([], ["unknown-code"])
    assert creatinine(local(), f"{CREATININE},,") == ([(2.036, "180 umol/L")], [])


def test_another_system_with_the_same_code_is_not_mapped() -> None:
    assert creatinine(local(system="https://other.example.org"), f"{CREATININE},,") == ([], ["unknown-code"])
    assert creatinine(local(system=None), f"{CREATININE},,") == ([], ["unknown-code"])


def test_a_code_without_a_system_is_mapped_by_a_row_without_one() -> None:
    assert creatinine(local(system=None), ",CREA,http://loinc.org|2160-0,,") == ([(2.036, "180 umol/L")], [])


def test_a_result_without_a_unit_has_the_unit_of_its_row_and_no_other() -> None:
    """The same 180 is 180 mg/dL in another laboratory, which is outside physiology."""
    assert creatinine(local(unit=None), f"{CREATININE},,") == ([], ["no-unit"])
    assert creatinine(local(unit=None), f"{CREATININE},umol/L,") == ([(2.036, "180 umol/L")], [])
    assert creatinine(local(unit=None), f"{CREATININE},mg/dL,") == ([], ["out-of-limits"])


def test_a_unit_the_laboratory_writes_its_own_way_is_the_one_its_row_says() -> None:
    rows = (f"{CREATININE},umol/L,", f"{CREATININE},mg/dL,MG%")
    assert creatinine(local(2.0, "MG%"), *rows) == ([(2.0, "2.0 MG%")], [])
    assert creatinine(local(2.0, "MG%"), rows[0]) == ([], ["unknown-unit"])


def test_a_unit_that_a_result_states_is_never_overruled() -> None:
    assert creatinine(local(2.0, "mg/dL"), f"{CREATININE},umol/L,") == ([(2.0, "2.0 mg/dL")], [])
    stated = local(2.0, "MG%")
    stated["valueQuantity"] |= {"code": "umol/L", "system": UCUM}
    rows = (f"{CREATININE},mg/dL,MG%",)
    assert creatinine(stated, *rows) == ([], ["out-of-limits"])  # 2 umol/L is 0.02 mg/dL


def test_a_known_code_may_be_given_the_unit_it_comes_without() -> None:
    loinc = local(180, None, "2160-0", "http://loinc.org")
    assert creatinine(loinc) == ([], ["no-unit"])
    assert creatinine(loinc, "http://loinc.org,2160-0,http://loinc.org|2160-0,umol/L,") == ([(2.036, "180 umol/L")], [])


def test_the_printed_range_is_in_the_units_of_the_row_too() -> None:
    """62 to 106 umol/L is 0.70 to 1.20 mg/dL."""
    ranged = local(unit=None) | {"referenceRange": [{"low": {"value": 62}, "high": {"value": 106}}]}
    record = read_record([PATIENT, ranged], as_of=AS_OF, patient_id="p1", local=mapped(f"{CREATININE},umol/L,"))
    (result,) = record.labs
    assert (result.low, result.high) == (pytest.approx(0.7014, abs=1e-4), pytest.approx(1.1991, abs=1e-4))


def test_what_the_ehr_says_in_a_known_code_is_not_said_otherwise_by_the_map() -> None:
    """The laboratory's CREA beside LOINC's sodium: the EHR's own LOINC code stands alone."""
    both = local()
    both["code"]["coding"].insert(0, {"system": "http://loinc.org", "code": "2951-2"})
    read = mapped(f"{CREATININE},,").read(both)
    assert [coding["code"] for coding in read["code"]["coding"]] == ["2951-2", "CREA"]


def test_components_of_a_panel_are_mapped_one_by_one() -> None:
    part = {"code": {"coding": [{"system": LAB, "code": "CREA"}]}, "valueQuantity": {"value": 180}}
    panel = lab("o1") | {"code": {"coding": [{"system": LAB, "code": "RENAL"}]}, "component": [part]}
    del panel["valueQuantity"]
    assert creatinine(panel, f"{CREATININE},umol/L,") == ([(2.036, "180 umol/L")], [])


def test_a_product_becomes_its_ingredients_and_a_local_study_the_study_it_is() -> None:
    product = {"resourceType": "MedicationRequest", "id": "m1", "status": "active", "intent": "order"} | {
        "subject": SUBJECT,
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "861007"}]},
    }
    metformin = f"{RXNORM},861007,{RXNORM}|6809,,"
    record = read_record([PATIENT, product], as_of=AS_OF, patient_id="p1", local=mapped(metformin))
    (event,) = record.events
    assert event.concepts == {"metformin"}
    study = {"resourceType": "ServiceRequest", "id": "d1", "status": "draft", "intent": "order", "subject": SUBJECT}
    study |= {"code": {"coding": [{"code": "CTCHW"}]}}
    (order,) = read_orders([study], AS_OF, local=mapped(",CTCHW,http://loinc.org|24628-0,,"))
    assert order.imaging is not None
    assert (order.imaging.modality, order.imaging.contrast) == ("CT", "iodinated_iv")


def test_a_drug_of_two_ingredients_has_two_rows() -> None:
    both = mapped(f"{LAB},COMBO,{RXNORM}|6809,,", f"{LAB},COMBO,{RXNORM}|5487,,")
    assert len(both.targets[LAB, "COMBO"]) == 2


def test_what_a_map_added_does_not_go_back_to_the_ehr_and_what_was_sent_stays() -> None:
    sent = {"resourceType": "ServiceRequest", "code": {"coding": [{"code": "CTCHW"}], "text": "CT"}}
    known = mapped(",CTCHW,http://loinc.org|24628-0,,")
    read = known.read(sent)
    assert read["code"]["coding"][1] == {"system": "http://loinc.org", "code": "24628-0"}
    assert as_sent(copy.deepcopy(read)) == sent
    assert known.read(as_sent(read)) == read
    both = {"code": {"coding": [{"code": "CTCHW"}, {"system": "http://loinc.org", "code": "24628-0"}]}}
    assert known.read(both) is both
    assert as_sent(both) is both


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (f"{LAB},A,http://loinc.org|99999-9,,", "no table here knows the target"),
        (f"{LAB},A,2160-0,,", "no table here knows the target"),
        (f"{LAB},A,http://loinc.org|2160-0,furlong,", "has no unit 'furlong'"),
        (f"{LAB},A,http://loinc.org|2160-0,,MG%", "needs the UCUM `unit`"),
        (f"{LAB},A,http://loinc.org|2160-0,umol/L,mg/dL", "'mg/dL' is known here already"),
        (f"{LAB},A,http://loinc.org|24628-0,mg/dL,", "has no unit 'mg/dL'"),
        ("http://loinc.org,2160-0,http://loinc.org|2345-7,,", "has a meaning here already"),
        ("http://loinc.org,2160-0,http://loinc.org|2160-0,,", "mapped for its unit alone"),
        (f"{LAB},,http://loinc.org|2160-0,,", "there is no code"),
        (f"{LAB},CREA,http://loinc.org|2345-7,,", "has another target already"),
        (f"{LAB},CREA,http://loinc.org|2160-0,,", "is mapped already"),
        (f"{LAB},CREA,http://loinc.org|2160-0", "write 5 columns"),
        (f"{LAB},CREA,http://loinc.org|2160-0,,,", "write 5 columns"),
    ],
)
def test_a_row_that_cannot_mean_anything_is_refused_with_its_line(row: str, why: str) -> None:
    with pytest.raises(CodeMapError, match=r"^line 3: ") as refused:
        mapped(f"{CREATININE},,", row)
    assert why in str(refused.value)


def test_other_columns_are_refused_in_the_first_line() -> None:
    with pytest.raises(CodeMapError, match="line 1: the columns are system,code,target,unit,written"):
        read_code_map("code,target\nA,B\n")
