"""Scenarios of kidneys, contrast media, allergy and pharmacogenes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from fhir_mappers.cohort.facts import AllergyFact, GeneratedPatient
from fhir_mappers.cohort.films import Signs
from fhir_mappers.cohort.writing import (
    CLEAR,
    CT_ABDOMEN,
    CT_CONTRAST,
    VIEW,
    Writer,
    born,
    imaging,
    order_drug,
    select,
    sign,
)


def _alder(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 1, female=False)
    return GeneratedPatient(
        id="demo-alder",
        family="Demo",
        given="Alder",
        female=False,
        born=born(as_of, 67),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=3),
        title="Contrast CT, eGFR 26, on metformin",
        story="Advanced kidney disease and diabetes; a contrast CT is about to be signed.",
        labs=(
            *w.panel(8, creatinine=2.6, bun=48, potassium=4.9, haemoglobin=11.2, glucose=168),
            w.lab("creatinine", 2.5, "mg/dL", days=2.3),
        ),
        conditions=(w.problem("ckd4", 900), w.problem("diabetes", 3000), w.problem("hypertension", 4000)),
        drugs=(w.drug("metformin", "1000 mg twice daily", 700), w.drug("lisinopril", "10 mg once daily", 900)),
        films=(w.film(20, Signs(), report=CLEAR),),
        occasions=(*imaging("demo-alder", as_of, CT_CONTRAST, "Weight loss"), VIEW),
    )


def _birch(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 2, female=True)
    return GeneratedPatient(
        id="demo-birch",
        family="Demo",
        given="Birch",
        female=True,
        born=born(as_of, 74),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=4),
        title="Acute kidney injury, contrast CT",
        story="Creatinine has doubled in two days; an eGFR would not be valid.",
        labs=(
            *w.panel(5, creatinine=2.0, bun=44, potassium=5.2, lactate=1.4, crp=62),
            w.lab("creatinine", 1.4, "mg/dL", 29),
            w.lab("creatinine", 0.9, "mg/dL", days=2.1),
            w.lab("creatinine", 0.9, "mg/dL", days=5),
        ),
        conditions=(w.problem("hypertension", 5000),),
        drugs=(w.drug("lisinopril", "20 mg once daily", 800), w.drug("ibuprofen", "400 mg three times daily", 4)),
        occasions=imaging("demo-birch", as_of, CT_ABDOMEN, "Abdominal pain"),
    )


def _cedar(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 3, female=False, ctr=0.56)
    return GeneratedPatient(
        id="demo-cedar",
        family="Demo",
        given="Cedar",
        female=False,
        born=born(as_of, 58),
        as_of=as_of,
        inpatient=False,
        title="Maintenance dialysis, contrast CT",
        story="Creatinine is high because the kidneys are gone; contrast needs no prophylaxis. Silence is right.",
        labs=w.panel(26, creatinine=7.1, potassium=5.0, haemoglobin=10.4),
        conditions=(w.problem("esrd", 1500), w.problem("dialysis", 1400), w.problem("hypertension", 6000)),
        films=(w.film(26, Signs(), report="Cardiomegaly. Lungs clear."),),
        occasions=imaging("demo-cedar", as_of, CT_CONTRAST, "Staging"),
    )


def _elm(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 4, female=True)
    return GeneratedPatient(
        id="demo-elm",
        family="Demo",
        given="Elm",
        female=True,
        born=born(as_of, 70),
        as_of=as_of,
        inpatient=False,
        title="Kidney disease, no usable creatinine",
        story="The last creatinine is more than a year old.",
        labs=(w.lab("creatinine", 1.6, "mg/dL", days=402),),
        conditions=(w.problem("ckd", 1200),),
        occasions=imaging("demo-elm", as_of, CT_CONTRAST, "Cough for eight weeks"),
    )


def _fir(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 5, female=True)
    return GeneratedPatient(
        id="demo-fir",
        family="Demo",
        given="Fir",
        female=True,
        born=born(as_of, 71),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=2),
        title="Creatinine reported in umol/L only",
        story="240 umol/L is 2.71 mg/dL: read as mg/dL it would be impossible, guessed it would be dangerous.",
        labs=(w.lab("creatinine", 240, "umol/L", 6), w.lab("creatinine", 236, "umol/L", days=3)),
        conditions=(w.problem("ckd4", 600),),
        occasions=imaging("demo-fir", as_of, CT_CONTRAST, "Haemoptysis"),
    )


def _hazel(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 6, female=True)
    return GeneratedPatient(
        id="demo-hazel",
        family="Demo",
        given="Hazel",
        female=True,
        born=born(as_of, 45),
        as_of=as_of,
        inpatient=False,
        title="Normal kidneys, contrast CT",
        story="Nothing stands against the order. Silence is right.",
        labs=w.panel(50, creatinine=0.8, potassium=4.2, haemoglobin=13.1),
        occasions=imaging("demo-hazel", as_of, CT_CONTRAST, "Nodule follow-up"),
    )


def _myrtle(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 7, female=True)
    return GeneratedPatient(
        id="demo-myrtle",
        family="Demo",
        given="Myrtle",
        female=True,
        born=born(as_of, 52),
        as_of=as_of,
        inpatient=False,
        title="Anaphylaxis to contrast, contrast CT",
        story="A severe reaction to iohexol is on the allergy list; kidneys are normal.",
        labs=w.panel(30, creatinine=0.7),
        allergies=(AllergyFact("iohexol", "5956", "Anaphylaxis", True, w.ago(days=1100)),),
        occasions=imaging("demo-myrtle", as_of, CT_CONTRAST, "Staging"),
    )


def _aspen(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 20, female=False)
    order = order_drug("demo-aspen", "clopidogrel", "75 mg once daily", as_of)
    return GeneratedPatient(
        id="demo-aspen",
        family="Demo",
        given="Aspen",
        female=False,
        born=born(as_of, 63),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=1),
        title="Clopidogrel for a CYP2C19 poor metaboliser",
        story="A new coronary stent, and a genotype that cannot activate clopidogrel.",
        labs=w.panel(7, creatinine=0.9, haemoglobin=14.0, platelets=231),
        conditions=(w.problem("stent", 1), w.problem("coronary", 400)),
        drugs=(w.drug("aspirin", "100 mg once daily", 400), w.drug("atorvastatin", "40 mg once daily", 400)),
        genes=(w.phenotype("CYP2C19", "Poor Metabolizer", 300),),
        occasions=(sign("clopidogrel", order), select("clopidogrel", order)),
    )


def _beech(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 21, female=True)
    order = order_drug("demo-beech", "capecitabine", "1250 mg/m2 twice daily, days 1-14", as_of)
    return GeneratedPatient(
        id="demo-beech",
        family="Demo",
        given="Beech",
        female=True,
        born=born(as_of, 59),
        as_of=as_of,
        inpatient=False,
        title="Capecitabine with reduced DPYD activity",
        story="Full-dose capecitabine in an intermediate metaboliser.",
        labs=w.panel(28, creatinine=0.8, haemoglobin=12.1, platelets=262, wbc=6.4),
        conditions=(w.problem("colon_cancer", 40),),
        genes=(w.phenotype("DPYD", "Intermediate Metabolizer", 12),),
        occasions=(sign("capecitabine", order), select("capecitabine", order)),
    )


KIDNEY: tuple[Callable[[datetime], GeneratedPatient], ...] = (_alder, _birch, _cedar, _elm, _fir, _hazel, _myrtle)
GENES: tuple[Callable[[datetime], GeneratedPatient], ...] = (_aspen, _beech)
