"""Scenarios of films, vital signs and lung cancer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from fhir_mappers.cohort.facts import GeneratedPatient
from fhir_mappers.cohort.films import Nodule, Opacity, Signs
from fhir_mappers.cohort.writing import (
    CHEST_FILM,
    CLEAR,
    CT_PLAIN,
    VIEW,
    Writer,
    born,
    consciousness,
    imaging,
    order_drug,
    select,
    with_coded,
)

LOWER_ZONE = Signs(opacities=(Opacity("right", "lower", 1.0, 0.85),))
BILATERAL = tuple(
    Opacity(s, z, 0.95, 0.7, "ground_glass") for s in ("right", "left") for z in ("upper", "mid", "lower")
)
BOTH_BASES = Signs(effusions=(("left", 0.2), ("right", 0.35)))
TUMOUR = Nodule("right", "upper", 15)


def _juniper(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 8, female=False)
    antibiotic = order_drug("demo-juniper", "ceftriaxone", "2 g once daily", as_of)
    patient = GeneratedPatient(
        id="demo-juniper",
        family="Demo",
        given="Juniper",
        female=False,
        born=born(as_of, 61),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=1),
        title="New right lower zone opacity, not yet reported",
        story="Fever since yesterday; the film before was clear.",
        labs=(
            *w.panel(4, crp=168, procalcitonin=1.9, wbc=15.8, creatinine=1.0, lactate=1.6, sodium=136),
            *w.panel(28, crp=71, wbc=12.1, creatinine=1.0),
            *w.vitals(0.7, rr=21, spo2=94, o2=0, sbp=124, hr=98, temp=38.4),
        ),
        conditions=(w.problem("hypertension", 2000), w.problem("smoking", 3000)),
        drugs=(w.drug("lisinopril", "10 mg once daily", 900),),
        films=(w.film(3, LOWER_ZONE), w.film(24 * 8, Signs(), report=CLEAR)),
        occasions=(VIEW, select("ceftriaxone", antibiotic)),
    )
    return with_coded(patient, consciousness(w, 0.7))


def _larch(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 9, female=True, ctr=0.57)
    patient = GeneratedPatient(
        id="demo-larch",
        family="Demo",
        given="Larch",
        female=True,
        born=born(as_of, 79),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=5),
        title="Large effusion, clearly smaller than before",
        story="Heart failure treated for four days. Improvement needs no interruption.",
        labs=(
            *w.panel(6, nt_probnp=2950, creatinine=1.2, sodium=134, potassium=3.9, crp=8),
            *w.panel(24 * 4, nt_probnp=9800, creatinine=1.3, sodium=131),
            *w.vitals(0.9, rr=17, spo2=96, o2=0, sbp=132, hr=78, temp=36.7),
        ),
        conditions=(w.problem("heart_failure", 700), w.problem("atrial_fibrillation", 900)),
        drugs=(w.drug("furosemide", "80 mg twice daily", 4), w.drug("apixaban", "5 mg twice daily", 900)),
        films=(
            w.film(5, Signs(effusions=(("right", 0.18),))),
            w.film(24 * 4, Signs(effusions=(("left", 0.30), ("right", 0.75))), report="Large right pleural effusion."),
        ),
        occasions=(VIEW, *imaging("demo-larch", as_of, CHEST_FILM, "Effusion follow-up")),
    )
    return with_coded(patient, consciousness(w, 0.9))


def _maple(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 10, female=False)
    patient = GeneratedPatient(
        id="demo-maple",
        family="Demo",
        given="Maple",
        female=False,
        born=born(as_of, 66),
        as_of=as_of,
        inpatient=True,
        unit="ed",
        admitted=w.ago(2),
        title="Pneumothorax on a film nobody has read",
        story="Sudden breathlessness in COPD; the film is 40 minutes old.",
        labs=(
            *w.panel(1.2, creatinine=0.9, wbc=9.1, crp=4, lactate=1.3),
            *w.vitals(0.5, rr=22, spo2=92, o2=2, sbp=138, hr=104, temp=36.8),
        ),
        conditions=(w.problem("copd", 2500), w.problem("smoking", 2500)),
        drugs=(w.drug("tiotropium", "18 ug once daily", 1500),),
        films=(w.film(0.67, Signs(pneumothorax=("right", 0.62))), w.film(24 * 200, Signs(), report=CLEAR)),
        occasions=(VIEW, *imaging("demo-maple", as_of, CT_PLAIN, "Dyspnoea")),
    )
    return with_coded(patient, consciousness(w, 0.5))


def _oak(as_of: datetime) -> GeneratedPatient:
    """NEWS2 8: rate 24 (2), SpO2 93 (2), oxygen (2), systolic 108 (1), pulse 96 (1), temperature 37.9 and alert (0)."""
    w = Writer(as_of, 11, female=False)
    patient = GeneratedPatient(
        id="demo-oak",
        family="Demo",
        given="Oak",
        female=False,
        born=born(as_of, 72),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=2),
        title="Ward patient with NEWS2 8",
        story="Pneumonia under treatment, getting worse since the morning.",
        labs=(
            *w.vitals(0.4, rr=24, spo2=93, o2=2, sbp=108, hr=96, temp=37.9),
            *w.vitals(6.4, rr=20, spo2=96, o2=0, sbp=122, hr=88, temp=37.6),
            *w.panel(3, lactate=2.9, crp=231, procalcitonin=4.2, wbc=17.2, creatinine=1.6, platelets=148),
            *w.panel(27, lactate=1.5, crp=190, wbc=14.9, creatinine=1.1, platelets=201),
        ),
        conditions=(w.problem("pneumonia", 2), w.problem("copd", 1800)),
        drugs=(w.drug("ceftriaxone", "2 g once daily", 2), w.drug("clarithromycin", "500 mg twice daily", 2)),
        films=(
            w.film(4, Signs(opacities=(*LOWER_ZONE.opacities, Opacity("left", "lower", 0.9, 0.7))), view="AP"),
            w.film(50, LOWER_ZONE, report="Right lower zone consolidation."),
        ),
        occasions=(VIEW,),
    )
    return with_coded(patient, consciousness(w, 0.4))


def _pine(as_of: datetime) -> GeneratedPatient:
    """NEWS2 5: rate 22 (2), SpO2 95 (1), pulse 112 (2), the rest 0."""
    w = Writer(as_of, 12, female=True)
    patient = GeneratedPatient(
        id="demo-pine",
        family="Demo",
        given="Pine",
        female=True,
        born=born(as_of, 55),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=1),
        title="Ward patient with NEWS2 5",
        story="Urgent review by a clinician is what the score asks for. Temperature is charted in Fahrenheit.",
        labs=(
            *(x for x in w.vitals(0.6, rr=22, spo2=95, o2=0, sbp=118, hr=112, temp=37.0) if x.loinc != "8310-5"),
            w.lab("temperature", 99.5, "[degF]", 0.6),
            *w.panel(5, lactate=1.6, crp=44, wbc=11.6, creatinine=0.8),
        ),
        conditions=(w.problem("dyspnoea", 1),),
        films=(w.film(10, Signs(), report=CLEAR),),
        occasions=(VIEW,),
    )
    return with_coded(patient, consciousness(w, 0.6))


def _rowan(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 13, female=True)
    return GeneratedPatient(
        id="demo-rowan",
        family="Demo",
        given="Rowan",
        female=True,
        born=born(as_of, 34),
        as_of=as_of,
        inpatient=False,
        title="Healthy, in the clinic",
        story="A check-up. Silence is right.",
        labs=(*w.panel(40, creatinine=0.7, haemoglobin=13.4, wbc=6.1, crp=1),),
        conditions=(w.problem("hay_fever", 4000),),
        films=(w.film(44, Signs(), report=CLEAR),),
        occasions=(VIEW, *imaging("demo-rowan", as_of, CHEST_FILM, "Pre-employment check")),
    )


def _spruce(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 14, female=True)
    patient = GeneratedPatient(
        id="demo-spruce",
        family="Demo",
        given="Spruce",
        female=True,
        born=born(as_of, 64),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(12),
        title="New bilateral opacity on osimertinib, EGFR p.Leu858Arg",
        story="Breathless for a week, no fever, little inflammation: the drug, not an infection?",
        labs=(
            *w.panel(5, crp=38, procalcitonin=0.08, wbc=7.4, creatinine=0.8, lactate=1.2, haemoglobin=11.9),
            *w.vitals(0.8, rr=21, spo2=93, o2=0, sbp=126, hr=92, temp=36.9),
        ),
        conditions=(w.problem("lung_cancer", 160), w.problem("dyspnoea", 7)),
        drugs=(w.drug("osimertinib", "80 mg once daily", 74),),
        genes=(w.variant("EGFR", "p.Leu858Arg", 150),),
        films=(
            w.film(5, Signs(opacities=BILATERAL, nodule=TUMOUR)),
            w.film(24 * 35, Signs(nodule=TUMOUR), report="Known right upper zone mass. Lungs otherwise clear."),
        ),
        occasions=(VIEW, *imaging("demo-spruce", as_of, CT_PLAIN, "New opacities")),
    )
    return with_coded(patient, consciousness(w, 0.8))


def _sumac(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 15, female=False)
    patient = GeneratedPatient(
        id="demo-sumac",
        family="Demo",
        given="Sumac",
        female=False,
        born=born(as_of, 69),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=1),
        title="Film named in the chart, not in the archive",
        story="The study is listed, its pixels are not to be had: the answer has to say so.",
        labs=(
            *w.panel(4, crp=96, wbc=13.0, creatinine=1.1, lactate=1.8, procalcitonin=0.7),
            *w.vitals(0.5, rr=21, spo2=94, o2=2, sbp=119, hr=99, temp=38.2),
        ),
        conditions=(w.problem("copd", 1000), w.problem("pneumonia", 1)),
        drugs=(w.drug("ceftriaxone", "2 g once daily", 1),),
        films=(w.film(3, LOWER_ZONE, archived=False),),
        occasions=(VIEW,),
    )
    return with_coded(patient, consciousness(w, 0.5))


def _willow(as_of: datetime) -> GeneratedPatient:
    w = Writer(as_of, 16, female=True)
    return GeneratedPatient(
        id="demo-willow",
        family="Demo",
        given="Willow",
        female=True,
        born=born(as_of, 76),
        as_of=as_of,
        inpatient=True,
        unit="ed",
        admitted=w.ago(1.5),
        title="No laboratory results yet",
        story="Just arrived: a film and three vital signs, nothing else.",
        labs=w.panel(0.6, resp_rate=20, heart_rate=94, spo2=95),
        conditions=(w.problem("heart_failure", 300),),
        films=(w.film(1, Signs(opacities=LOWER_ZONE.opacities, effusions=(("right", 0.2),)), view="AP"),),
        occasions=(VIEW, *imaging("demo-willow", as_of, CT_PLAIN, "Cough and fever")),
    )


def _yew(as_of: datetime) -> GeneratedPatient:
    """NEWS2 8: rate 23 (2), SpO2 92 (2), oxygen (2), systolic 104 (1), pulse 101 (1), the rest 0."""
    w = Writer(as_of, 17, female=False, ctr=0.55)
    patient = GeneratedPatient(
        id="demo-yew",
        family="Demo",
        given="Yew",
        female=False,
        born=born(as_of, 88),
        as_of=as_of,
        inpatient=True,
        unit="ward",
        admitted=w.ago(days=6),
        title="Not for resuscitation, NEWS2 8",
        story="Full treatment on the ward is wanted; nothing beyond the recorded ceiling may be suggested.",
        labs=(
            *w.vitals(0.5, rr=23, spo2=92, o2=3, sbp=104, hr=101, temp=36.4),
            *w.panel(6, creatinine=1.5, nt_probnp=7400, sodium=132, lactate=1.9, crp=22),
        ),
        conditions=(w.problem("dnr", 6), w.problem("heart_failure", 2000), w.problem("ckd", 1500)),
        drugs=(w.drug("furosemide", "40 mg twice daily", 6),),
        films=(
            w.film(8, Signs(effusions=(("left", 0.2), ("right", 0.35))), report="Bilateral effusions. Cardiomegaly."),
        ),
        occasions=(VIEW,),
    )
    return with_coded(patient, consciousness(w, 0.5))


CHEST: tuple[Callable[[datetime], GeneratedPatient], ...] = (
    _juniper,
    _larch,
    _maple,
    _oak,
    _pine,
    _rowan,
    _spruce,
    _sumac,
    _willow,
    _yew,
)
