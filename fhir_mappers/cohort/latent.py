"""The generative model: a disease state, and everything that is observed of it.

Stated once, so that what is attainable is known. For one patient:

1. Who: age, sex, setting (ward or clinic), chronic conditions (each with its own prevalence, rising with age).
2. What is wrong now: pneumonia, decompensated heart failure, kidney injury, pneumothorax, nodule. Severities are
   Beta distributed. An AP film is likelier the sicker the patient is: a confounder, as in a hospital.
3. What is seen: each state adds its signs to the film and moves its laboratory values and vital signs.
4. What follows: `deterioration_24h` is drawn with a probability that is a stated function (`deterioration_logit`)
   of what was seen: values as reported, signs as drawn, history as coded. That probability is therefore the best
   any reader of the complete chart can do, and is returned with the label.

Patients of the oncology stratum (lung cancer on systemic treatment) are drawn differently, as a case-control
sample for the planted interaction `drug_pneumonitis`: opacity x drug tagged pulmonary_toxicity x EGFR variant are
drawn from a fixed joint table and the label from P(y | all three) = 0.85, P(y | otherwise) = 0.12. Each of the
three alone gives an AUROC of about 0.65, two of them 0.76, all three 0.86. The interaction is planted to test
fusion; it is not a medical claim. `null_control` is a fair coin: nothing can predict it.

`heart_or_gene` is planted so that no modality alone says anything: P(y) = 0.97 where exactly one of large heart (film)
and slow CYP2D6 metabolism (a fair coin) holds, 0.03 where both or neither do. It is asked of all with a large heart and
of as many without, with cancer and without. Since the gene is a fair coin of its own, films and history stand at
chance, and since half of those asked have a large heart, so does the gene.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from fhir_mappers.cohort.anatomy import Side, Zone
from fhir_mappers.cohort.films import Nodule, Opacity, Pattern, Signs

SIDES: tuple[Side, ...] = ("right", "left")
ZONES: tuple[Zone, ...] = ("upper", "mid", "lower")

INTERACTION: dict[tuple[bool, bool, bool], float] = {
    # (opacity, lung-toxic drug, EGFR variant) -> share of the oncology stratum
    (True, True, True): 0.40,
    (True, True, False): 0.16,
    (True, False, True): 0.16,
    (False, True, True): 0.16,
    (True, False, False): 0.03,
    (False, True, False): 0.03,
    (False, False, True): 0.03,
    (False, False, False): 0.03,
}
P_ALL_THREE = 0.85
P_OTHERWISE = 0.12
P_ONE_OF_TWO, P_BOTH_OR_NEITHER = 0.97, 0.03
ASKED_OF_NORMAL = {True: 0.136, False: 0.295}
"""Share of patients with a heart of normal size who are asked `heart_or_gene`, by oncology stratum: its large hearts to
the others (12.0 % there, 22.8 % elsewhere). By stratum, since tumour genes tell who is in it."""
ONCOLOGY_SHARE = 0.30
CARDIOMEGALY_CTR = 0.50
"""Cardiothoracic ratio above which the heart is enlarged on a PA film (Danzer 1919, still the usual limit)."""


@dataclass(frozen=True, slots=True)
class Latent:
    """The state behind one patient. Severities from 0 (absent) to 1.

    chronic   conditions by the name of `resources.CONDITIONS`
    opacity   of the oncology stratum, whose opacities have no stated cause and move no laboratory value
    """

    age: int
    female: bool
    inpatient: bool
    chronic: frozenset[str]
    pneumonia: float = 0.0
    decompensation: float = 0.0
    kidney_injury: float = 0.0
    pneumothorax: float = 0.0
    oncology: bool = False
    lung_toxic: bool = False
    egfr: bool = False
    opacity: float = 0.0
    ctr: float = 0.45
    signs: Signs = field(default_factory=Signs)

    @property
    def severity(self) -> float:
        return min(1.0, max(self.pneumonia, self.decompensation, self.opacity) + 0.3 * self.kidney_injury)


def draw_latent(rng: np.random.Generator) -> Latent:
    """One patient's state."""
    age = int(np.clip(rng.normal(64, 15), 19, 96))
    female = bool(rng.random() < 0.5)
    older = (age - 60) / 20.0
    chronic = {
        name
        for name, share, slope in (
            ("heart_failure", 0.16, 0.08),
            ("ckd", 0.16, 0.08),
            ("copd", 0.15, 0.04),
            ("diabetes", 0.20, 0.04),
            ("hypertension", 0.40, 0.12),
            ("atrial_fibrillation", 0.10, 0.06),
            ("coronary", 0.12, 0.05),
            ("smoking", 0.30, 0.0),
        )
        if rng.random() < np.clip(share + slope * older, 0.01, 0.9)
    }
    if rng.random() < ONCOLOGY_SHARE:
        return _oncology(rng, age, female, chronic)
    inpatient = bool(rng.random() < 0.65)
    pneumonia = float(rng.beta(2.2, 1.6)) if rng.random() < (0.34 if inpatient else 0.10) else 0.0
    failing = 0.50 if "heart_failure" in chronic else 0.05
    decompensation = float(rng.beta(2.2, 1.6)) if rng.random() < failing * (1.0 if inpatient else 0.4) else 0.0
    kidney = float(rng.beta(2, 2)) if rng.random() < (0.20 if inpatient else 0.04) else 0.0
    collapse = float(rng.uniform(0.15, 0.8)) if rng.random() < (0.14 if "copd" in chronic else 0.07) else 0.0
    state = Latent(
        age, female, inpatient, frozenset(chronic), pneumonia, decompensation, kidney, collapse, ctr=_ctr(rng, chronic)
    )
    return replace(state, signs=draw_signs(rng, state))


def _ctr(rng: np.random.Generator, chronic: set[str]) -> float:
    """Two well separated humps, so that cardiomegaly is a fact about the film and not about its last pixel."""
    large = rng.random() < (0.75 if "heart_failure" in chronic else 0.12)
    return float(rng.uniform(0.535, 0.66) if large else rng.uniform(0.40, 0.475))


def _oncology(rng: np.random.Generator, age: int, female: bool, chronic: set[str]) -> Latent:
    cells = list(INTERACTION)
    opacity, toxic, egfr = cells[int(rng.choice(len(cells), p=list(INTERACTION.values())))]
    chronic = (chronic - {"heart_failure"}) | {"lung_cancer"}
    state = Latent(
        age,
        female,
        inpatient=bool(rng.random() < 0.3),
        chronic=frozenset(chronic),
        oncology=True,
        lung_toxic=toxic,
        egfr=egfr,
        opacity=float(rng.uniform(0.45, 1.0)) if opacity else 0.0,
        ctr=_ctr(rng, chronic),
    )
    return replace(state, signs=draw_signs(rng, state))


def draw_signs(rng: np.random.Generator, state: Latent) -> Signs:
    """What this state shows on a film: every severity has its own pattern."""
    opacities: list[Opacity] = []
    effusions: dict[Side, float] = {}
    if state.pneumonia > 0:
        side = SIDES[int(rng.random() < 0.42)]
        zone = ZONES[int(rng.choice(3, p=[0.18, 0.27, 0.55]))]
        strength = 0.45 + 0.55 * state.pneumonia
        opacities.append(Opacity(side, zone, strength, 0.25 + 0.7 * state.pneumonia))
        if state.pneumonia > 0.6:
            opacities.append(Opacity(SIDES[1 - SIDES.index(side)], zone, strength * 0.8, 0.4))
        if rng.random() < 0.35:
            effusions[side] = float(rng.uniform(0.10, 0.45))
    if state.decompensation > 0:
        if state.decompensation > 0.5:
            strength = 0.35 + 0.5 * state.decompensation
            opacities += [Opacity(s, z, strength, 0.75, "ground_glass") for s in SIDES for z in ZONES[1:]]
        if rng.random() < 0.35 + 0.5 * state.decompensation:
            effusions["right"] = max(effusions.get("right", 0.0), 0.10 + 0.45 * state.decompensation)
        if rng.random() < 0.20 + 0.5 * state.decompensation:
            effusions["left"] = max(effusions.get("left", 0.0), 0.08 + 0.35 * state.decompensation)
    if state.opacity > 0:
        pattern: Pattern = "reticular" if rng.random() < 0.4 else "ground_glass"
        zones = ZONES if state.opacity > 0.75 else ZONES[1:]
        opacities += [Opacity(s, z, 0.55 + 0.45 * state.opacity, 0.6, pattern) for s in SIDES for z in zones]
    if not effusions and rng.random() < (0.22 if "lung_cancer" in state.chronic else 0.03):
        effusions[SIDES[int(rng.random() < 0.5)]] = float(rng.uniform(0.12, 0.7))
    collapse = (SIDES[int(rng.random() < 0.5)], state.pneumothorax) if state.pneumothorax > 0 else None
    if collapse:
        effusions.pop(collapse[0], None)  # a film with both on one side would need an air-fluid level
    nodule = None
    if "lung_cancer" in state.chronic and rng.random() < 0.6:
        nodule = Nodule(SIDES[int(rng.random() < 0.5)], ZONES[int(rng.random() * 2)], float(rng.uniform(7, 18)))
    return Signs(tuple(opacities), tuple(sorted(effusions.items())), collapse, nodule)


Observed = Mapping[str, float]


def draw_values(rng: np.random.Generator, state: Latent) -> dict[str, float]:
    """Laboratory values and vital signs in the tables' canonical units, as the state moves them."""

    def around(centre: float, spread: float) -> float:
        return float(rng.normal(centre, spread))

    def log_around(centre: float, spread: float) -> float:
        return float(centre * math.exp(rng.normal(0.0, spread)))

    ckd, failing = "ckd" in state.chronic, "heart_failure" in state.chronic
    p, d, k, c = state.pneumonia, state.decompensation, state.kidney_injury, state.pneumothorax
    shock = max(0.0, p - 0.55) + max(0.0, d - 0.7)
    base_creatinine = (0.75 if state.female else 0.95) * (2.1 if ckd else 1.0)
    cancer = state.oncology
    breath = 0.6 * p + 0.7 * d + 0.4 * c + (0.10 if "copd" in state.chronic else 0.0)
    return {
        "crp": log_around(3.0 + 160.0 * p + (18.0 if cancer else 0.0), 0.55),
        "procalcitonin": log_around(0.05 + 2.4 * p * p, 0.5),
        "wbc": max(0.6, around(7.2 + 8.5 * p + (0.8 if cancer else 0.0), 1.9)),
        "nt_probnp": log_around(90.0 + 6.0 * max(0, state.age - 50) + (900.0 if failing else 0.0) + 6500.0 * d, 0.5)
        * (2.0 if ckd else 1.0),
        "lactate": log_around(1.1 + 4.5 * shock, 0.28),
        "creatinine": log_around(base_creatinine * (1.0 + 2.2 * k), 0.13),
        "bun": log_around(15.0 * (1.9 if ckd else 1.0) * (1.0 + 1.2 * k), 0.2),
        "sodium": around(139.0 - 3.0 * d, 2.6),
        "potassium": max(2.6, around(4.2 + 0.7 * k, 0.35)),
        "haemoglobin": max(6.5, around((12.9 if state.female else 14.2) - (1.3 if ckd or cancer else 0.0), 1.3)),
        "platelets": max(20.0, around(245.0 + (40.0 if p > 0 else 0.0), 62.0)),
        "glucose": log_around(150.0 if "diabetes" in state.chronic else 102.0, 0.2),
        "heart_rate": float(np.clip(around(76 + 30 * p + 16 * d + 14 * c, 10), 42, 165)),
        "resp_rate": float(np.clip(around(15.5 + 11.0 * breath, 1.9), 9, 42)),
        "spo2": float(np.clip(around(97.2 - 8.5 * breath, 1.2), 72, 100)),
        "temperature": float(np.clip(around(36.8 + 1.7 * p, 0.35), 34.8, 41.0)),
        "sbp": float(np.clip(around(129 - 42.0 * shock + (8 if "hypertension" in state.chronic else 0), 14), 64, 210)),
        "dbp": float(np.clip(around(74 - 18.0 * shock, 9), 38, 120)),
    }


def opacity_zones(signs: Signs) -> int:
    """How many of the six lung zones are opaque."""
    return len({(o.side, o.zone) for o in signs.opacities})


def deterioration_logit(values: Observed, signs: Signs, chronic: frozenset[str], age: int) -> float:
    """The log odds of `deterioration_24h` from what is seen: every modality adds, and two of them interact.

    `values` are in canonical units, as reported last.
    """
    zones = opacity_zones(signs) / 6.0
    fluid = sum(volume for _, volume in signs.effusions)
    collapse = signs.pneumothorax[1] if signs.pneumothorax else 0.0
    lactate = max(0.0, values["lactate"] - 1.5)
    return (
        -4.1
        + 0.85 * lactate
        + 0.16 * (values["resp_rate"] - 17.0)
        + 0.20 * (94.0 - min(values["spo2"], 98.0))
        + 0.55 * max(0.0, values["creatinine"] - 1.2)
        + 3.0 * zones
        + 1.8 * fluid
        + 2.2 * collapse
        + 2.5 * zones * min(lactate, 2.0)
        + (1.1 if "heart_failure" in chronic else 0.0)
        + (0.9 if "copd" in chronic else 0.0)
        + (0.5 if "lung_cancer" in chronic else 0.0)
        + 0.025 * (age - 64)
    )


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


Target = Literal[
    "finding.opacity",
    "finding.effusion",
    "finding.cardiomegaly",
    "finding.pneumothorax",
    "finding.nodule",
    "deterioration_24h",
    "drug_pneumonitis",
    "heart_or_gene",
    "null_control",
]


@dataclass(frozen=True, slots=True)
class Truth:
    """label per target, and the best probability the complete chart allows for it.

    `drug_pneumonitis` is asked of the oncology stratum only and is absent for everyone else, `heart_or_gene` of a
    sample balanced by heart size. Findings are facts of the film: their optimum is the label itself.
    """

    labels: Mapping[Target, bool]
    optimal: Mapping[Target, float]


def draw_truth(rng: np.random.Generator, state: Latent, values: Observed) -> Truth:
    signs = state.signs
    findings: dict[Target, bool] = {
        "finding.opacity": bool(signs.opacities),
        "finding.effusion": bool(signs.effusions),
        "finding.cardiomegaly": state.ctr > CARDIOMEGALY_CTR,
        "finding.pneumothorax": signs.pneumothorax is not None,
        "finding.nodule": signs.nodule is not None,
    }
    optimal: dict[Target, float] = {name: float(present) for name, present in findings.items()}
    optimal["deterioration_24h"] = sigmoid(deterioration_logit(values, signs, state.chronic, state.age))
    if state.oncology:
        together = bool(signs.opacities) and state.lung_toxic and state.egfr
        optimal["drug_pneumonitis"] = P_ALL_THREE if together else P_OTHERWISE
    optimal["null_control"] = 0.5
    # One draw per possible target, always, so that a patient's label does not depend on which targets exist.
    coins = rng.random(3)
    labels = dict(findings)
    for coin, name in zip(coins, ("deterioration_24h", "drug_pneumonitis", "null_control"), strict=True):
        if name in optimal:
            labels[name] = bool(coin < optimal[name])
    return Truth(labels, optimal)


def plant_interaction(rng: np.random.Generator, truth: Truth, state: Latent, slow: bool) -> Truth:
    """The truth with `heart_or_gene` where it is asked; `rng` is its own, so that no other label moves."""
    asked, coin = rng.random(2)
    large = state.ctr > CARDIOMEGALY_CTR
    if not large and asked >= ASKED_OF_NORMAL[state.oncology]:
        return truth
    p = P_ONE_OF_TWO if large != slow else P_BOTH_OR_NEITHER
    return Truth({**truth.labels, "heart_or_gene": bool(coin < p)}, {**truth.optimal, "heart_or_gene": p})
