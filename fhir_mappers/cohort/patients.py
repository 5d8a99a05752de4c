"""`generate`: any number of patients from a seed, each with a chart, films and the truth behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from fhir_mappers.codes import lab_codes
from fhir_mappers.cohort.anatomy import Build, Pose
from fhir_mappers.cohort.exposure import Exposure
from fhir_mappers.cohort.facts import (
    AllergyFact,
    ConditionFact,
    DrugFact,
    FilmFact,
    GeneFact,
    GeneratedPatient,
    LabFact,
    OrderFact,
)
from fhir_mappers.cohort.films import Signs
from fhir_mappers.cohort.latent import (
    Latent,
    Target,
    draw_latent,
    draw_signs,
    draw_truth,
    draw_values,
    plant_interaction,
)
from fhir_mappers.cohort.reports import write_report

AS_OF = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
FILM_PX = 256

# analyte -> (LOINC code, unit as printed, decimals): laboratories differ, and the LOINC property must fit the unit.
PRINTED: dict[str, tuple[tuple[str, str, int], ...]] = {
    "crp": (("1988-5", "mg/L", 1), ("1988-5", "mg/dL", 2)),
    "procalcitonin": (("33959-8", "ng/mL", 2), ("33959-8", "ug/L", 2)),
    "wbc": (("6690-2", "10*3/uL", 1), ("6690-2", "10*9/L", 1)),
    "nt_probnp": (("33762-6", "pg/mL", 0), ("33762-6", "ng/L", 0)),
    "lactate": (("2524-7", "mmol/L", 1), ("32693-4", "mmol/L", 1)),
    "creatinine": (("2160-0", "mg/dL", 2), ("14682-9", "umol/L", 0)),
    "bun": (("3094-0", "mg/dL", 0), ("14937-7", "mmol/L", 1)),
    "sodium": (("2951-2", "mmol/L", 0), ("2951-2", "meq/L", 0)),
    "potassium": (("2823-3", "mmol/L", 1), ("2823-3", "meq/L", 1)),
    "haemoglobin": (("718-7", "g/dL", 1), ("718-7", "g/L", 0)),
    "platelets": (("777-3", "10*3/uL", 0), ("777-3", "10*9/L", 0)),
    "glucose": (("2345-7", "mg/dL", 0), ("14749-6", "mmol/L", 1)),
    "heart_rate": (("8867-4", "/min", 0),),
    "resp_rate": (("9279-1", "/min", 0),),
    "spo2": (("59408-5", "%", 0),),
    "temperature": (("8310-5", "Cel", 1), ("8310-5", "[degF]", 1)),
    "sbp": (("8480-6", "mm[Hg]", 0),),
    "dbp": (("8462-4", "mm[Hg]", 0),),
}
MEASURED = {"procalcitonin": 0.55, "nt_probnp": 0.65, "lactate": 0.90, "bun": 0.8, "glucose": 0.8}
"""Share of panels that hold the analyte; those not listed are in every panel."""
DECIDING: dict[Target, frozenset[str]] = {
    "deterioration_24h": frozenset({"lactate", "resp_rate", "spo2", "creatinine"})
}

LUNG_TOXIC = (
    ("osimertinib", "80 mg once daily"),
    ("pembrolizumab", "200 mg every 3 weeks"),
    ("everolimus", "10 mg once daily"),
    ("brigatinib", "180 mg once daily"),
)
NOT_LUNG_TOXIC = (
    ("carboplatin", "AUC 5 every 3 weeks"),
    ("pemetrexed", "500 mg/m2 every 3 weeks"),
    ("bevacizumab", "15 mg/kg every 3 weeks"),
)
USUAL: dict[str, tuple[tuple[str, str], ...]] = {
    "heart_failure": (("furosemide", "40 mg once daily"), ("bisoprolol", "5 mg once daily")),
    "diabetes": (("metformin", "1000 mg twice daily"),),
    "atrial_fibrillation": (("apixaban", "5 mg twice daily"),),
    "hypertension": (("lisinopril", "10 mg once daily"),),
    "coronary": (("aspirin", "100 mg once daily"), ("atorvastatin", "40 mg once daily")),
    "copd": (("tiotropium", "18 ug once daily"),),
}
RISK_VARIANTS = ("p.Leu858Arg", "p.Glu746_Ala750del")
OTHER_VARIANTS = (("KRAS", "p.Gly12Cys"), ("BRAF", "p.Val600Glu"), ("TP53", "p.Arg175His"))
CYP2C19 = ("Poor Metabolizer", "Intermediate Metabolizer", "Normal Metabolizer", "Rapid Metabolizer")


def generate(
    n: int, seed: int, *, start: int = 0, as_of: datetime = AS_OF, film_px: int = FILM_PX
) -> Iterator[GeneratedPatient]:
    """Patients `start` .. `start + n - 1` of the cohort of this seed.

    A patient depends on the seed and its number only, so a split by number is stable and any part can be made alone.
    """
    for number in range(start, start + n):
        yield generate_patient(number, seed, as_of=as_of, film_px=film_px)


def generate_patient(number: int, seed: int, *, as_of: datetime = AS_OF, film_px: int = FILM_PX) -> GeneratedPatient:
    rng = np.random.default_rng((seed, number))
    state = draw_latent(rng)
    values = draw_values(rng, state)
    labs, latest = _labs(rng, state, values, as_of)
    truth = draw_truth(rng, state, latest)
    films = _films(rng, state, as_of, film_px)
    germline = np.random.default_rng((seed, number, 2))
    slow = bool(germline.random() < 0.5)
    truth = plant_interaction(germline, truth, state, slow)
    genes = (*_genes(rng, state, as_of), _cyp2d6(germline, slow, as_of))
    allergies, orders, films = _paperwork(np.random.default_rng((seed, number, 1)), state, films, as_of)
    # A modality may be missing altogether, as in a hospital; the truth does not change, only what is seen of it.
    no_film, no_labs, no_genes, no_history = rng.random(4) < (0.07, 0.06, 0.06, 0.04)
    if no_labs:
        labs = ()
    seen = {x.code.analyte for x in labs}
    whole = not (no_film or no_history)
    complete: set[Target] = {"null_control"}
    complete.update(t for t in truth.labels if t.startswith("finding.") and not no_film)
    if whole and DECIDING["deterioration_24h"] <= seen:
        complete.add("deterioration_24h")
    if whole and not no_genes:
        complete.update(t for t in truth.labels if t == "drug_pneumonitis")
    if not (no_film or no_genes):
        complete.update(t for t in truth.labels if t == "heart_or_gene")
    born = (as_of - timedelta(days=365.25 * state.age + 40 + float(rng.uniform(0, 300)))).date()
    return GeneratedPatient(
        id=f"gen-{seed}-{number}",
        family="Generated",
        given=f"Number {number}",
        female=state.female,
        born=born,
        as_of=as_of,
        inpatient=state.inpatient,
        unit="ward" if state.inpatient else "clinic",
        labs=labs,
        conditions=() if no_history else _conditions(rng, state, as_of),
        drugs=() if no_history else _drugs(rng, state, as_of),
        genes=() if no_genes else genes,
        allergies=allergies,
        films=() if no_film else films,
        admitted=as_of - timedelta(days=3) if state.inpatient else as_of,
        truth=truth,
        complete=frozenset(complete),
        state=state,
        ordered=orders,
    )


def _paperwork(
    rng: np.random.Generator, state: Latent, films: tuple[FilmFact, ...], as_of: datetime
) -> tuple[tuple[AllergyFact, ...], tuple[OrderFact, ...], tuple[FilmFact, ...]]:
    """What is in a chart beside what the truth rests on: allergies, standing orders, what radiology has read.

    A generator of its own, so that none of it can tell anything about a label.
    """
    since = _minute(as_of, 24.0 * float(rng.uniform(100, 4000)))
    allergies = (AllergyFact("amoxicillin", "723", "Rash", False, since),) if rng.random() < 0.12 else ()
    follow_up = OrderFact("30745-4", "XR Chest Views", _minute(as_of, float(rng.uniform(0.5, 12))))
    orders = (follow_up,) if state.inpatient and rng.random() < 0.2 else ()
    # An older film has been read; of the newest, two in five.
    read = [index > 0 or rng.random() < 0.4 for index in range(len(films))]
    reported = tuple(
        replace(f, report=write_report(f.signs, state.ctr)) if is_read else f
        for f, is_read in zip(films, read, strict=True)
    )
    return allergies, orders, reported


def printed(analyte: str, value: float, at: datetime, choice: int = 0) -> LabFact:
    """A canonical value as a laboratory prints it; `choice` picks one of the analyte's codes and units."""
    options = PRINTED[analyte]
    loinc, unit, decimals = options[choice % len(options)]
    row = lab_codes()[loinc]
    factor = row.to_canonical(1.0, unit) - row.to_canonical(0.0, unit)
    reported = round((value - row.to_canonical(0.0, unit)) / factor, decimals)
    reported = max(reported, 10.0**-decimals)
    return LabFact(loinc, reported if decimals else int(reported), unit, at)


def _labs(
    rng: np.random.Generator, state: Latent, values: Mapping[str, float], as_of: datetime
) -> tuple[tuple[LabFact, ...], dict[str, float]]:
    """Results newest first, and the newest canonical value of every analyte as reported, measured or not."""
    facts: list[LabFact] = []
    latest: dict[str, float] = {}
    site = int(rng.integers(0, 2))
    panels = int(rng.integers(1, 4)) if state.inpatient else 1
    first_h = float(rng.uniform(1, 8)) if state.inpatient else float(rng.uniform(24, 300))
    for analyte, value in values.items():
        vital = lab_codes()[PRINTED[analyte][0][0]].kind == "vital"
        age_h = float(rng.uniform(0.2, 4.0)) if vital else first_h
        gap_h = 4.0 if vital else 24.0
        measured = rng.random() < MEASURED.get(analyte, 1.0)
        newest = printed(analyte, value, _minute(as_of, age_h), site)
        latest[analyte] = newest.canonical
        if not measured:
            continue
        facts.append(newest)
        for back in range(1, panels):
            older = value * math.exp(rng.normal(0.0, 0.02 if vital else 0.10))
            older = min(older, 100.0) if analyte == "spo2" else older
            facts.append(printed(analyte, older, _minute(as_of, age_h + back * gap_h), site))
    return tuple(sorted(facts, key=lambda x: x.at, reverse=True)), latest


def _minute(as_of: datetime, hours: float) -> datetime:
    return (as_of - timedelta(hours=hours)).replace(second=0, microsecond=0)


def _conditions(rng: np.random.Generator, state: Latent, as_of: datetime) -> tuple[ConditionFact, ...]:
    return tuple(
        ConditionFact(name, _minute(as_of, 24.0 * float(rng.uniform(60, 3000)))) for name in sorted(state.chronic)
    )


def _drugs(rng: np.random.Generator, state: Latent, as_of: datetime) -> tuple[DrugFact, ...]:
    chosen: list[tuple[str, str]] = []
    for name in sorted(state.chronic):
        chosen += [d for d in USUAL.get(name, ()) if rng.random() < 0.8]
    if not state.oncology and "atrial_fibrillation" in state.chronic and rng.random() < 0.2:
        chosen.append(("amiodarone", "200 mg once daily"))
    if state.oncology:
        options = LUNG_TOXIC if state.lung_toxic else NOT_LUNG_TOXIC
        chosen.append(options[int(rng.integers(len(options)))])
    return tuple(DrugFact(name, dose, _minute(as_of, 24.0 * float(rng.uniform(20, 400)))) for name, dose in chosen)


def _genes(rng: np.random.Generator, state: Latent, as_of: datetime) -> tuple[GeneFact, ...]:
    facts: list[GeneFact] = []
    at = _minute(as_of, 24.0 * float(rng.uniform(20, 500)))
    if state.oncology:
        if state.egfr:
            facts.append(GeneFact("EGFR", "variant", RISK_VARIANTS[int(rng.integers(2))], at))
        else:
            gene, change = OTHER_VARIANTS[int(rng.integers(3))]
            facts.append(GeneFact(gene, "variant", change, at))
    if rng.random() < 0.3:
        facts.append(GeneFact("CYP2C19", "phenotype", str(rng.choice(CYP2C19, p=[0.03, 0.27, 0.43, 0.27])), at))
    if rng.random() < 0.15:
        poor = rng.random() < 0.08
        facts.append(GeneFact("DPYD", "phenotype", "Intermediate Metabolizer" if poor else "Normal Metabolizer", at))
    return tuple(facts)


def _cyp2d6(rng: np.random.Generator, slow: bool, as_of: datetime) -> GeneFact:
    phenotype = "Intermediate Metabolizer" if slow else "Normal Metabolizer"
    return GeneFact("CYP2D6", "phenotype", phenotype, _minute(as_of, 24.0 * float(rng.uniform(20, 500))))


def _films(rng: np.random.Generator, state: Latent, as_of: datetime, size: int) -> tuple[FilmFact, ...]:
    build = draw_build(rng, state.female, state.ctr)
    # The sicker the patient, the likelier a portable film: the view then predicts severity without being a sign.
    portable = bool(rng.random() < (0.12 + 0.6 * state.severity if state.inpatient else 0.03))
    films = [_film(rng, state.signs, build, portable, size=size, at=_minute(as_of, float(rng.uniform(0.5, 20))))]
    if rng.random() < 0.45:
        earlier = state.signs if rng.random() < 0.3 else draw_signs(rng, _earlier(rng, state))
        at = _minute(as_of, 24 * float(rng.uniform(2, 60)))
        films.append(_film(rng, earlier, build, bool(rng.random() < 0.2), size=size, at=at))
    return tuple(films)


def _earlier(rng: np.random.Generator, state: Latent) -> Latent:
    share = float(rng.uniform(0.0, 1.0))
    return replace(
        state,
        pneumonia=state.pneumonia * share if rng.random() < 0.5 else 0.0,
        decompensation=state.decompensation * share,
        opacity=0.0 if rng.random() < 0.7 else state.opacity * share,
        pneumothorax=0.0,
    )


def draw_build(rng: np.random.Generator, female: bool, ctr: float) -> Build:
    return Build(
        width=float(rng.normal(0.94 if female else 1.0, 0.035)),
        height=float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.10)),
        ctr=ctr,
        ribs=float(rng.uniform(0.122, 0.150)),
        female=female,
        texture=int(rng.integers(2**31)),
    )


def draw_pose(rng: np.random.Generator, portable: bool) -> Pose:
    wobble = 1.7 if portable else 1.0
    return Pose(
        view="AP" if portable else "PA",
        rotation_deg=float(rng.normal(0.0, 1.6 * wobble)),
        scale=float(rng.uniform(0.92, 1.08)),
        shift=(float(rng.normal(0.0, 0.025 * wobble)), float(rng.normal(0.0, 0.03 * wobble))),
        inspiration=float(rng.uniform(0.0, 0.05 * wobble)),
    )


def draw_exposure(rng: np.random.Generator, portable: bool) -> Exposure:
    marker = None
    if rng.random() < 0.6:
        marker = ("R" if rng.random() < 0.7 else "L") + (" AP" if portable and rng.random() < 0.5 else "")
    return Exposure(
        gamma=float(rng.uniform(0.78, 1.30)),
        noise=float(rng.uniform(0.006, 0.022)),
        marker=marker,
        leads=bool(portable and rng.random() < 0.7),
        collimation=float(rng.uniform(0.01, 0.05)) if rng.random() < 0.3 else 0.0,
        seed=int(rng.integers(2**31)),
    )


def _film(rng: np.random.Generator, signs: Signs, build: Build, portable: bool, *, size: int, at: datetime) -> FilmFact:
    return FilmFact(signs, build, draw_pose(rng, portable), draw_exposure(rng, portable), at, size)
