"""The safety check of every suggestion: one fact changed, and the drug is no longer offered."""

from __future__ import annotations

from typing import Any

import pytest
from genetics import ADULT, chart, drug_order, gene
from vignettes import SUBJECT, Resource, concept, condition, medication, observation, patient

from cds_service.advice.packs.safe_to_offer import _WORDS, Offer, judge, offers
from fhir_mappers.codes import RXNORM
from fhir_mappers.offers import limits

PRASUGREL, TICAGRELOR, ROSUVASTATIN, MORPHINE, FEBUXOSTAT, ALLOPURINOL = (
    "613391", "1116632", "301542", "7052", "73689", "519",
)  # fmt: skip
POSACONAZOLE, SERTRALINE, GRANISETRON, DOXYCYCLINE, PARACETAMOL, POTASSIUM = (
    "282446", "36437", "26237", "3640", "161", "8591",
)  # fmt: skip
CLOPIDOGREL = drug_order("32968", "clopidogrel 75 mg daily")
WEIGHT = observation("w", "29463-7", 80, "kg", "2026-03-09T08:00:00Z")
CREATININE = observation("k", "2160-0", 0.9, "mg/dL", "2026-03-09T08:00:00Z")


def offer(rxcui: str, *resources: Resource, draft: Resource = CLOPIDOGREL, who: Resource = ADULT, **more: Any) -> Offer:
    record = chart(*resources, drafts=(draft, *more.pop("others", ())), who=who).record("precision-prescribing")
    replaced = next(o for o in record.orders if o.ref == f"MedicationRequest/{draft['id']}")
    return judge(record, rxcui, replacing=replaced)


def allergy(code: str, text: str, system: str = RXNORM, **more: Any) -> Resource:
    return {
        "resourceType": "AllergyIntolerance",
        "id": "al",
        "clinicalStatus": concept("http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "active"),
        "code": concept(system, code, text),
        "patient": SUBJECT,
        **more,
    }


def test_a_drug_that_nothing_speaks_against_is_safe() -> None:
    for rxcui in (TICAGRELOR, DOXYCYCLINE, PARACETAMOL):
        assert offer(rxcui).safe, rxcui
    assert offer(PRASUGREL, WEIGHT) == Offer(PRASUGREL, "prasugrel", ())
    assert offer(ROSUVASTATIN, CREATININE) == Offer(ROSUVASTATIN, "rosuvastatin", ())


def test_a_drug_without_limits_on_file_is_never_offered() -> None:
    assert offer("8640").against == ("it cannot be checked here",)  # prednisone
    assert offer("0").against == ("it cannot be checked here",)


@pytest.mark.parametrize(
    ("rxcui", "fact", "why"),
    [
        (PRASUGREL, condition("c", "I63.9", "inactive"), "earlier stroke or TIA"),
        (PRASUGREL, condition("c", "G45.9"), "earlier stroke or TIA"),
        (PRASUGREL, condition("c", "I61.9"), "earlier bleeding in the skull"),
        (TICAGRELOR, condition("c", "I61.9", "inactive"), "earlier bleeding in the skull"),
        (ROSUVASTATIN, condition("c", "K74.60"), "liver disease"),
        (FEBUXOSTAT, condition("c", "I21.4"), "coronary disease"),
        (ALLOPURINOL, condition("c", "L51.1", "inactive"), "earlier severe skin reaction"),
        (PARACETAMOL, condition("c", "K74.60"), "liver disease"),
        (MORPHINE, condition("c", "J96.02"), "carbon dioxide retention"),
    ],
)
def test_a_condition_its_label_forbids_keeps_a_drug_off(rxcui: str, fact: Resource, why: str) -> None:
    assert why in " ".join(offer(rxcui, fact, WEIGHT, CREATININE).against)


def test_prasugrel_is_not_offered_from_75_years_nor_under_60_kg_and_an_unknown_weight_is_named() -> None:
    assert offer(PRASUGREL, WEIGHT, who=patient("male", "1951-03-09")).against == ("age 75 or over",)
    assert offer(PRASUGREL, WEIGHT, who=patient("male", "1951-03-12")).safe  # 74
    assert offer(PRASUGREL, WEIGHT, who=patient("male", "1951")).against == ("age 75 or over",)  # 74 or 75
    light = observation("w", "29463-7", 59, "kg", "2026-03-09T08:00:00Z")
    assert offer(PRASUGREL, light).against == ("weight under 60 kg",)
    assert offer(PRASUGREL).unknown == ("body weight",)


def test_a_child_is_not_offered_a_drug_for_adults_and_an_unknown_age_is_named() -> None:
    assert offer(TICAGRELOR, who=patient("male", "2012-01-01")).against == ("age under 18",)
    assert offer(DOXYCYCLINE, who=patient("male", "2019-01-01")).against == ("age under 8",)
    assert offer(DOXYCYCLINE, who=patient("male", "2012-01-01")).safe
    assert offer(TICAGRELOR, who=patient("male", None)).unknown == ("age",)


@pytest.mark.parametrize(
    ("rxcui", "given", "against"),
    [
        (TICAGRELOR, allergy(TICAGRELOR, "ticagrelor"), True),
        (TICAGRELOR, allergy("B01AC24", "ticagrelor", "http://www.whocc.no/atc"), True),
        (ROSUVASTATIN, allergy("36567", "simvastatin"), True),  # another of its class
        (TICAGRELOR, allergy("723", "amoxicillin"), False),
    ],
)
def test_an_allergy_to_the_drug_or_its_class_keeps_it_off(rxcui: str, given: Resource, against: bool) -> None:
    found = offer(rxcui, given, CREATININE)
    assert any("allergy" in a for a in found.against) is against


def test_every_condition_of_the_table_has_words_for_the_card() -> None:
    assert {group for limit in limits().values() for group in limit.conditions} <= set(_WORDS)


def test_a_refuted_allergy_is_none() -> None:
    system = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification"
    refuted = allergy(TICAGRELOR, "ticagrelor", verificationStatus=concept(system, "refuted"))
    assert offer(TICAGRELOR, refuted).safe


WOMAN = patient("female", "1990-05-05")


def pregnant(answer: str) -> Resource:
    resource = observation("p", "82810-3", "", None, "2026-03-01")
    del resource["valueString"]
    return {**resource, "valueCodeableConcept": concept("http://loinc.org", answer)}


def test_in_pregnancy_only_what_is_allowed_is_offered_and_an_unknown_state_is_named() -> None:
    assert offer(ROSUVASTATIN, pregnant("LA15173-0"), CREATININE, who=WOMAN).against == ("pregnancy",)
    assert offer(DOXYCYCLINE, pregnant("LA15173-0"), who=WOMAN).against == ("pregnancy",)
    assert offer(PARACETAMOL, pregnant("LA15173-0"), who=WOMAN).safe
    assert offer(DOXYCYCLINE, pregnant("LA26683-5"), who=WOMAN).unknown == ()
    assert offer(DOXYCYCLINE, who=WOMAN).unknown == ("pregnancy",)
    assert offer(DOXYCYCLINE, who=patient("female", "1950-05-05")).unknown == ()


def creatinine(value: float, at: str = "2026-03-10T08:00:00Z", id_: str = "k") -> Resource:
    return observation(id_, "2160-0", value, "mg/dL", at)


def test_a_weak_or_injured_kidney_keeps_a_drug_off_and_an_unknown_one_is_named() -> None:
    assert offer(MORPHINE, creatinine(3.5)).against == ("eGFR below 30",)
    assert offer(MORPHINE, creatinine(1.0)).safe
    assert offer(MORPHINE).unknown == ("kidney function",)
    rising = (creatinine(1.8), creatinine(1.0, "2026-03-08T08:00:00Z", "k2"))
    assert offer(POTASSIUM, *rising).against == ("acute kidney injury",)
    assert offer(DOXYCYCLINE, *rising).safe
    assert offer(ALLOPURINOL, condition("c", "Z99.2"), creatinine(6.0)).against == ("dialysis",)


def test_a_qt_drug_is_not_offered_with_a_long_qtc_or_beside_another() -> None:
    def qtc(value: float) -> Resource:
        return observation("q", "8636-3", value, "ms", "2026-03-09T08:00:00Z")

    assert offer(GRANISETRON, qtc(430)).safe
    assert offer(GRANISETRON, qtc(475)).against == ("long QTc",)
    assert offer(GRANISETRON).unknown == ("QTc",)
    assert offer(GRANISETRON, condition("c", "I45.81")).against == ("long QT syndrome",)
    assert offer(GRANISETRON, medication("a", "5093", "haloperidol")).against[0].startswith("it would be a second")
    ondansetron = drug_order("26225", "ondansetron")
    assert offer(GRANISETRON, qtc(430), draft=ondansetron).safe  # the one it replaces does not count
    assert offer(SERTRALINE, qtc(520)).safe


def test_what_the_patient_has_already_is_not_offered_again() -> None:
    assert offer(TICAGRELOR, medication("a", TICAGRELOR, "ticagrelor")).against == ("already ordered",)
    assert offer(TICAGRELOR, others=(drug_order(TICAGRELOR, "ticagrelor", id_="m2"),)).against == ("already ordered",)
    taken = offer(TICAGRELOR, medication("a", PRASUGREL, "prasugrel"))
    assert taken.against == ("prasugrel is already ordered",)
    assert offer(TICAGRELOR, medication("a", TICAGRELOR, "ticagrelor", "stopped")).safe
    assert offer(TICAGRELOR, medication("a", "32968", "clopidogrel")).safe  # the drug it replaces, taken already


def test_a_drug_its_label_forbids_beside_keeps_it_off() -> None:
    assert offer(FEBUXOSTAT, medication("a", "1256", "azathioprine"), creatinine(1.0)).against == (
        "interaction with azathioprine",
    )
    assert offer(POSACONAZOLE, medication("a", "36567", "simvastatin")).against == ("interaction with simvastatin",)


def test_the_patients_genes_speak_against_an_alternative_or_ask_for_care() -> None:
    assert offer(ALLOPURINOL, gene("HLA-B", genotype="*58:01 positive"), CREATININE).against == ("HLA-B*58:01 result",)
    atorvastatin = offer("83367", gene("SLCO1B1", genotype="*1/*5"))
    assert (atorvastatin.safe, atorvastatin.caution) == (True, "start at 40 mg a day or less")
    assert offer("83367", gene("SLCO1B1", genotype="*5/*5")).against == ("SLCO1B1 result",)
    assert offer("83367", gene("SLCO1B1", genotype="*1/*1")).caution == ""


def test_offers_keep_their_order_and_name_what_is_refused() -> None:
    record = chart(condition("c", "I63.9"), drafts=(CLOPIDOGREL,)).record("precision-prescribing")
    safe, refused = offers(record, [PRASUGREL, TICAGRELOR], replacing=record.drafts()[0])
    assert [o.name for o in safe] == ["ticagrelor"]
    assert [(o.name, o.against) for o in refused] == [("prasugrel", ("earlier stroke or TIA",))]
