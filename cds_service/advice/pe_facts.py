"""What is known of a patient suspected of pulmonary embolism: Wells and PERC items, D-dimer, pregnancy, the last film.

Charted items come from the record, bedside items from the order questions. What nobody charted or answered stays open,
and so does what could not be fetched: the rules then take its worst case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from cds_service.advice.estimates import RESEARCH, TRAINED_ON, answered, films_used
from cds_service.advice.packs.pregnancy import Pregnancy, pregnancy
from cds_service.advice.packs.quality import Reading, above, below, reading, unusable
from cds_service.advice.packs.wells import Item, Kind, Limit, Perc, Wells, age_adjusted, highest, years
from cds_service.advice.prior_studies import NOT_A_PROCEDURE_ON_THE_BODY, on_the_body, priors, says_clear
from cds_service.advice.writing import Fact, moment, probability, words
from fhir_mappers.codes import ATC_SYSTEMS, ICD10_SYSTEMS
from fhir_mappers.questions import said_yes
from fhir_mappers.record import Event, Lab, Order, PatientRecord

if TYPE_CHECKING:
    from cds_service.consult import Case

D_DIMER_VALID = timedelta(hours=24)
VITALS_VALID = timedelta(hours=8)
RECENT = timedelta(days=28)
"""Surgery, trauma and bed rest of the last four weeks count."""
LONG_STAY = timedelta(days=3)
CLEAR_FILM_VALID = timedelta(hours=48)
SURGERY = "387713003"
"""SNOMED CT: surgical procedure, the category of a Procedure."""
BED_REST = ("Z7401",)
INJURY = tuple("ST")
OESTROGEN_ATC = ("G03AA", "G03AB", "G03C", "G03F", "G03HB")
"""ATC: combined contraceptives, oestrogens, oestrogens with progestogens or antiandrogens."""
ANALYTES: tuple[tuple[Kind, str], ...] = (("feu", "ddimer_feu"), ("ddu", "ddimer_ddu"))
QUESTIONS = ("pe_most_likely", "dvt_signs", "haemoptysis", "low_suspicion")


@dataclass(frozen=True, slots=True)
class DDimer:
    """The newest valid D-dimer of the last 24 hours.

    state   below, above or open (a comparator straddles the limit) against `limit`; none; unusable: there is one whose
            unit or kind is not known, or two that contradict each other
    """

    state: Literal["below", "above", "open", "none", "unusable"]
    lab: Lab | None = None
    kind: Kind = "feu"
    limit: Limit | None = None
    history: Lab | None = None


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One patient, the scans that were ordered, and what speaks for and against embolism."""

    case: Case
    orders: tuple[Order, ...]
    wells: Wells
    perc: Perc
    low_suspicion: Item
    pregnancy: Pregnancy
    ddimer: DDimer
    heart_rate: Lab | None

    @property
    def pregnant(self) -> bool:
        return self.pregnancy.state == "pregnant"


def read_suspicion(case: Case, orders: tuple[Order, ...]) -> Suspicion:
    record = case.record
    absent = frozenset(s.key for s in case.shortfalls)
    state = pregnancy(record)
    answers = {name: _answer(case, orders, name) for name in QUESTIONS}
    heart, spo2 = (reading(record, name, VITALS_VALID).lab for name in ("heart_rate", "spo2"))
    history = not absent & {"conditions", "history"}
    previous = _previous_vte(record, history)
    leg_signs = _either(answers["dvt_signs"], record.active("dvt_current"))
    haemoptysis = _either(answers["haemoptysis"], record.active("haemoptysis"))
    surgery = _surgery(record, "procedures" not in absent)
    wells = Wells(
        leg_signs=leg_signs,
        pe_most_likely=answers["pe_most_likely"],
        fast_heart=above(heart, 100.0) if heart is not None else None,
        surgery_or_bedrest=_worse(surgery, _bed_rest(record)),
        previous_vte=previous,
        haemoptysis=haemoptysis,
        active_cancer=_charted(bool(record.active("any_cancer")), known=history),
    )
    perc = Perc(
        aged_50=_aged_50(record),
        heart_100=None if heart is None or (slower := below(heart, 100.0)) is None else not slower,
        spo2_below_95=_low_saturation(record, spo2),
        haemoptysis=haemoptysis,
        oestrogen=_oestrogen(record, "meds" not in absent),
        previous_vte=previous,
        leg_swelling=leg_signs,
        surgery_or_trauma=_worse(surgery, _trauma(record, history)),
    )
    ddimer = DDimer("unusable") if "ddimer" in absent else _ddimer(record, wells, state)
    return Suspicion(case, orders, wells, perc, answers["low_suspicion"], state, ddimer, heart)


# --- items -----------------------------------------------------------------------------------------------------------


def _answer(case: Case, orders: Iterable[Order], name: str) -> Item:
    """The answer of any of the orders, under the link ids the site gives the question; yes before no."""
    said = {
        said_yes(order.answers.get(link_id)) for order in orders for link_id in words(case.service, f"question_{name}")
    }
    return True if True in said else False if False in said else None


def _either(answer: Item, charted: Iterable[Event]) -> Item:
    """A charted finding counts as yes whatever was answered; its absence from the chart is no answer."""
    return True if tuple(charted) else answer


def _charted(present: bool, *, known: bool) -> Item:
    return True if present else False if known else None


def _worse(*items: Item) -> Item:
    return True if True in items else None if None in items else False


def _recent(record: PatientRecord, event: Event) -> bool:
    return event.start is not None and record.age_of(event.start) <= RECENT


def _previous_vte(record: PatientRecord, known: bool) -> Item:
    """A coded history, or an embolism or thrombosis that is over."""
    over = [e for e in record.ever("pe_current", "dvt_current") if not e.active]
    return _charted(bool(record.ever("vte_history") or over), known=known)


def _surgery(record: PatientRecord, known: bool) -> Item:
    """Surgery in four weeks; a procedure whose category is not said may have been one."""
    done = [e for e in record.events if e.kind == "procedure"]
    if any(SURGERY in e.category and _recent(record, e) for e in done):
        return True
    undated = any(SURGERY in e.category and e.start is None for e in done)
    unsaid = any(_recent(record, e) and on_the_body(e) and not e.category & NOT_A_PROCEDURE_ON_THE_BODY for e in done)
    return None if not known or undated or unsaid else False


def _bed_rest(record: PatientRecord) -> Item:
    """Confined to bed; after three days in hospital nobody charts whether the patient was."""
    if _icd(record, BED_REST):
        return True
    return False if long_stay(record) is False else None


def long_stay(record: PatientRecord) -> bool | None:
    """Whether the patient has been in hospital for more than three days; None for an admission without a start."""
    visit = record.encounter
    if visit is None or not visit.inpatient:
        return False
    if visit.start is None:
        return None if visit.class_ != "EMER" else False
    return record.age_of(visit.start) > LONG_STAY


def _aged_50(record: PatientRecord) -> Item:
    ages = record.age_years()
    if ages is None or ages[0] < 50 <= ages[1]:
        return None
    return ages[0] >= 50


def _low_saturation(record: PatientRecord, spo2: Lab | None) -> Item:
    """Below 95 % breathing air; on oxygen a normal saturation says nothing."""
    if spo2 is None:
        return None
    flow = reading(record, "o2_flow", VITALS_VALID).lab
    fraction = reading(record, "fio2", VITALS_VALID).lab
    if (flow is not None and flow.value > 0) or (fraction is not None and fraction.value > 21.0):
        return None
    return below(spo2, 95.0)


def _oestrogen(record: PatientRecord, known: bool) -> Item:
    active = [e for e in record.events if e.kind == "medication" and (e.active or e.status == "on-hold")]
    if any("estrogen" in e.concepts or _atc(e, OESTROGEN_ATC) for e in active):
        return True
    # A drug whose code no table knows may be a contraceptive.
    unread = any(g.subject == "MedicationRequest" and g.code == "unknown-code" for g in record.gaps)
    return None if not known or unread else False


def _trauma(record: PatientRecord, known: bool) -> Item:
    hurt = [e for e in record.events if e.kind == "condition" and _starts(e, INJURY)]
    if any(_recent(record, e) for e in hurt):
        return True
    return None if not known or any(e.active and e.start is None for e in hurt) else False


def _starts(event: Event, prefixes: tuple[str, ...]) -> bool:
    return any(s in ICD10_SYSTEMS and c.replace(".", "").upper().startswith(prefixes) for s, c in event.codes)


def _atc(event: Event, prefixes: tuple[str, ...]) -> bool:
    return any(s in ATC_SYSTEMS and c.startswith(prefixes) for s, c in event.codes)


def _icd(record: PatientRecord, prefixes: tuple[str, ...]) -> bool:
    return any(e.active and e.kind == "condition" and _starts(e, prefixes) for e in record.events)


# --- D-dimer ---------------------------------------------------------------------------------------------------------


def _ddimer(record: PatientRecord, wells: Wells, state: Pregnancy) -> DDimer:
    found: list[tuple[Kind, Reading]] = [(kind, reading(record, name, D_DIMER_VALID)) for kind, name in ANALYTES]
    history = max((r.history for _, r in found if r.history), key=lambda lab: lab.at, default=None)
    if any(r.conflict for _, r in found):
        return DDimer("unusable", history=history)
    valid = [(r.lab, kind) for kind, r in found if r.lab is not None]
    if not valid:
        refused = unusable(record, "ddimer_feu", "ddimer_ddu", "ddimer_unspecified")
        return DDimer("unusable" if refused else "none", history=history)
    lab, kind = max(valid, key=lambda pair: pair[0].at)
    limit = limit_for(record, wells, state, kind)
    if limit is None:
        return DDimer("open", lab, kind)
    # One of the day above its limit is a positive one, whatever was measured after it.
    high = any(
        below(x, rule.value) is False
        for name_kind, name in ANALYTES
        for x in record.results(name, within=D_DIMER_VALID)
        if (rule := limit_for(record, wells, state, name_kind)) is not None
    )
    lower = below(lab, limit.value)
    return DDimer("above" if high else "below" if lower else "open", lab, kind, limit)


def limit_for(record: PatientRecord, wells: Wells, state: Pregnancy, kind: Kind) -> Limit | None:
    """The limit that holds whatever is open: the youngest age, every open YEARS item present.

    In pregnancy only YEARS is validated; where pregnancy is not known, the lower of the two holds.
    """
    ages = record.age_years()
    if ages is None:
        return None
    by_years = years(wells.years[1], kind)
    if state.state == "pregnant":
        return by_years
    usual = highest((age_adjusted(ages[0], kind), by_years))
    return usual if state.state == "not_pregnant" else min(usual, by_years, key=lambda limit: limit.value)


# --- pregnancy, film, contrast ---------------------------------------------------------------------------------------


def weeks_pregnant(record: PatientRecord) -> int | None:
    """From the due date, else from the week coded on the problem list (Z3A.xx)."""
    for coded in record.coded:
        if coded.name == "edd":
            try:
                left = date.fromisoformat(coded.answer[1]) - record.as_of.date()
            except ValueError:
                continue
            return (timedelta(days=280) - left).days // 7
    for event in record.active("pregnancy_current"):
        for system, code in event.codes:
            plain = code.replace(".", "").upper()
            if system in ICD10_SYSTEMS and plain.startswith("Z3A") and plain[3:5].isdigit():
                week = int(plain[3:5])
                return week if 8 <= week <= 42 else None
    return None


@dataclass(frozen=True, slots=True)
class ClearFilm:
    """The fact for the table, how a summary calls it, and the model's line where a model said so."""

    fact: Fact
    words: str = "chest film clear"
    model: str = ""


def clear_film(case: Case) -> ClearFilm | None:
    """That the last chest film is clear: by its final report, else by a model the site lets speak (MX-2, MX-8)."""
    record = case.record
    last = next((p for p in priors(record) if p.imaging.duplicate_group == "cxr"), None)
    if last is None or last.report is None or record.age_of(last.at) > CLEAR_FILM_VALID:
        return _clear_by_model(case)
    if not last.final or not says_clear(last.conclusion):
        return None
    return ClearFilm(Fact("Chest film clear", last.conclusion, moment(last.at), "Final report"))


def _clear_by_model(case: Case) -> ClearFilm | None:
    """Every finding the manifest lists is below its low threshold, on a film of the last two days without a report."""
    films = films_used(case)[:1]
    if case.profile != "research_imaging" or case.assessment is None or not films or not case.service.thresholds:
        return None
    highest_seen = 0.0
    for name, levels in case.service.thresholds.items():
        estimate = case.assessment.estimates.get(name)
        p = answered(estimate, levels["low"])
        if estimate is None or p is None or "imaging" not in estimate.rested_on or p >= levels["low"]:
            return None
        highest_seen = max(highest_seen, p)
    at: datetime = films[0].at
    if case.record.age_of(at) > CLEAR_FILM_VALID:
        return None
    model = case.assessment
    return ClearFilm(
        Fact("Chest film", "no finding by the model, no report yet", moment(at), "Model"),
        "film clear by model",
        f"Model {model.model} ({TRAINED_ON[model.tier]}): none of {len(case.service.thresholds)} findings above "
        f"{probability(highest_seen)} on the film of {moment(at)}. Model estimate, not a diagnosis. {RESEARCH}",
    )
