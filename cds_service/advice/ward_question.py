"""What every rule of deterioration starts from: the patient on the ward, the newest NEWS2, the model's estimate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cds_service.advice import ordering
from cds_service.advice.estimates import film_fact, films_used, model_line, rests_on_film, without_modalities
from cds_service.advice.packs import care
from cds_service.advice.packs.news2 import News2, news2
from cds_service.advice.packs.pregnancy import postpartum, pregnancy
from cds_service.advice.packs.quality import reading
from cds_service.advice.writing import (
    Fact,
    hours,
    missing_evidence,
    moment,
    override_reasons,
    setting,
    words,
)
from cds_service.cards import Action, Suggestion
from fhir_mappers.codes import LOINC
from fhir_mappers.record import Order, PatientRecord
from models.contract import Estimate

if TYPE_CHECKING:
    from cds_service.consult import Case

EMERGENCY, URGENT = 7, 5
"""NEWS2 thresholds (RCP 2017): emergency response from 7, urgent response from 5 or a single item of 3."""
NEWS2_AGE, MODEL_AGE = 16, 18
REASONS = override_reasons(
    (("team-at-bedside", "Team already at bedside"), ("expected", "Expected for this patient")),
    without=("patient-contraindication", "patient-refuses"),
)
EVIDENCE = {
    "vitals": "vital signs",
    "labs": "laboratory results",
    "conditions": "problem list",
    "meds": "medication list",
    "given": "doses given",
    "orders": "orders",
    "tests": "laboratory reports",
    "reports": "radiology reports",
    "studies": "imaging studies",
    "encounter": "encounter",
    "goals": "goals of care",
    "model": "model estimate",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One call about one patient.

    score     NEWS2 of the newest vital signs; None without any in time, and under 16
    target    saturation scale 2 applies: a target of 88 to 92 % or hypercapnia is recorded
    estimate  the model's answer that lies furthest above its threshold; None without one
    """

    case: Case
    score: News2 | None
    target: bool
    estimate: Estimate | None

    @property
    def record(self) -> PatientRecord:
        return self.case.record

    @property
    def scored(self) -> str:
        """The rule that the score alone calls for: DT-01, DT-02, or "" for neither."""
        if self.score is None:
            return ""
        if self.score.total >= EMERGENCY:
            return "DT-01"
        return "DT-02" if self.score.total >= URGENT or self.score.single_three else ""

    @property
    def model(self) -> str:
        """The model's line for a card that does not rest on it; "" where it has nothing to say."""
        assessment, estimate = self.case.assessment, self.estimate
        return model_line(assessment, estimate) if assessment is not None and estimate is not None else ""

    @property
    def goals_row(self) -> list[Fact]:
        if care.not_for_resuscitation(self.record):
            return [Fact("Code status", "do not resuscitate", "", "Goals of care")]
        return []

    @property
    def film_row(self) -> list[Fact]:
        """The newest film where the model's line rests on it."""
        if self.estimate is None or not rests_on_film(self.estimate):
            return []
        return [film_fact(film) for film in films_used(self.case)[:1]]

    def read(self, *keys: str) -> bool:
        """Whether this evidence was had, whole."""
        return not {s.key for s in self.case.shortfalls}.intersection(keys)

    def unknown(self, *also: str) -> tuple[str, ...]:
        found: list[str] = []
        if self.score is None:
            window = f"{hours(self.case.service, 'vitals_h') / timedelta(hours=1):g}"
            found.append(f"NEWS2 (no vital signs in {window} h)")
        else:
            found += self.score.missing
        found += also
        if self.record.age_years() is None:
            found.append("age")
        if self.estimate is not None:
            found += without_modalities(self.case, self.estimate)
        return tuple(dict.fromkeys((*found, *missing_evidence(self.case.shortfalls, EVIDENCE))))


def ask(case: Case) -> Question:
    target = bool(case.record.active("hypercapnia")) or _saturation_target(case)
    score = None
    if care.under(case.record, NEWS2_AGE) is not True:
        score = news2(case.record, hours(case.service, "vitals_h"), hypercapnia_target=target)
    return Question(case, score, target, _estimate(case))


def elsewhere(case: Case) -> bool:
    """Settings with their own watch, and patients these scores were not made for."""
    record = case.record
    outpatient = record.encounter is not None and not record.encounter.inpatient
    return (
        outpatient
        or care.in_intensive_care(record)
        or care.ventilated(record)
        or postpartum(record)
        or pregnancy(record).state == "pregnant"
    )


def already_called(case: Case) -> bool:
    """A rapid-response review was asked for within the last hours."""
    window = hours(case.service, "rapid_response_silence_h")
    return any(
        o.draft or (o.authored is not None and case.record.age_of(o.authored) <= window)
        for o in with_code(case.record, str(setting(case.service, "rapid_response_code")))
    )


def with_code(record: PatientRecord, *listed: str) -> tuple[Order, ...]:
    """Orders and drafts that carry one of these `system|code`."""
    return tuple(o for o in record.orders if any(f"{s}|{c}" in listed for s, c in o.codes))


def _saturation_target(case: Case) -> bool:
    """A recorded target saturation of 88 to 92 %: an order with one of the site's codes for it."""
    return any(not o.draft for o in with_code(case.record, *words(case.service, "spo2_target_88_92_codes")))


def _adult(case: Case) -> bool:
    """MX-2: not under 18. An unknown age is not a known minor; the card says that it is not known."""
    ages = case.record.age_years()
    return ages is None or ages[0] >= MODEL_AGE


def _estimate(case: Case) -> Estimate | None:
    """The estimate that lies furthest above its threshold, among the targets the manifest sets one for."""
    if case.assessment is None or not _adult(case):
        return None
    given = {
        name: case.assessment.estimates[name]
        for name, levels in case.service.thresholds.items()
        if name in case.assessment.estimates and "info" in levels and _trained_for(case, name)
    }

    def above(name: str) -> tuple[float, str]:
        p = given[name].probability
        return (-1.0 if p is None else p - case.service.thresholds[name]["info"]), name

    return given[max(given, key=above)] if given else None


def _trained_for(case: Case, target: str) -> bool:
    """Whether the patient is of the kind the target was trained on: a condition group the manifest asks for."""
    groups = str(case.service.settings.get(f"only_with_{target}", "")).split()
    return not groups or bool(case.record.active(*groups))


def news2_fact(score: News2, value: str = "") -> Fact:
    """The score's own row; `value` in place of how many items it has."""
    scale = ", saturation scale 2 (target 88 to 92 %)" if score.scale == 2 else ""
    at_least = "at least " if score.missing else ""
    value = value or f"{len(score.items)} of 7 items{scale}"
    return Fact(f"NEWS2 {at_least}{score.total}", value, moment(score.at), "Vital signs")


def clinician_review(case: Case) -> Action:
    code = ordering.concept(ordering.REQUEST, "urgent-clinician-review", "urgent clinician review")
    return ordering.service_request(case, code, priority="urgent")


def review(case: Case, rule: str, *, recommended: bool = False) -> Suggestion:
    """The response that NEWS2 asks for: the site's rapid-response team for DT-01, else a clinician of the ward."""
    if rule != "DT-01":
        return Suggestion("Order urgent clinician review", (clinician_review(case),))
    code = coded(str(setting(case.service, "rapid_response_code")), "rapid response review")
    call = ordering.service_request(case, code, priority="stat")
    return Suggestion("Order rapid response review", (call,), is_recommended=recommended)


def tests_missing(q: Question, *, cultures: bool) -> list[tuple[str, Action]]:
    """Lactate, and blood cultures where they are wanted, as far as they are neither there nor ordered."""
    case, record = q.case, q.record
    recent = reading(record, "lactate", hours(case.service, "lactate_recent_h")).lab
    wanted = [("lactate", ordering.LACTATE, "Lactate", ordering.LACTATE_CODES)] if recent is None else []
    if cultures:
        wanted.append(("blood cultures", ordering.BLOOD_CULTURE, "Blood culture", frozenset({ordering.BLOOD_CULTURE})))
    return [
        (name, ordering.service_request(case, ordering.concept(LOINC, code, text), priority="stat"))
        for name, code, text, codes in wanted
        if not ordering.ordered(record.orders, codes)
    ]


def coded(code: str, text: str) -> dict[str, Any]:
    """The CodeableConcept of a `system|code` from the manifest."""
    system, _, value = code.partition("|")
    return ordering.concept(system, value, text)
