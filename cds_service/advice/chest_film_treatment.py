"""What film and laboratory together say of the treatment: oedema rather than pneumonia (CT-03), or the reverse (CT-06).

Device-class: only under the profile research_imaging, labelled, with no recommended default. A final report of the
film has the last word: then both are silent. They need every fact; what is missing or old silences them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cds_service.advice import ordering
from cds_service.advice.chest_films import Films, read_films, zone_of
from cds_service.advice.chest_question import REASONS, Question, goals_row, lab_row, named
from cds_service.advice.drafts import remove, touched
from cds_service.advice.estimates import RESEARCH, TRAINED_ON, answered, drivers
from cds_service.advice.packs.lung_reports import reported_since
from cds_service.advice.packs.natriuretic import rules_in_heart_failure
from cds_service.advice.packs.pneumonia import for_the_chest
from cds_service.advice.packs.quality import above, below, reading, window
from cds_service.advice.packs.safe_to_offer import judge
from cds_service.advice.writing import (
    Fact,
    as_printed,
    card,
    day,
    detail,
    fitting,
    hours,
    moment,
    probability,
    rule_line,
    rule_on,
    setting,
)
from cds_service.cards import Card, Suggestion
from cds_service.manifest import ManifestError, Service
from fhir_mappers.codes import LOINC
from fhir_mappers.record import Lab, Order
from fhir_mappers.report.terms import zone_words
from models.contract import Assessment, Estimate

FRONTAL = frozenset({"PA", "AP", "unknown"})
FEVER, PROCALCITONIN, LACTATE, LOW_SYSTOLIC = 38.0, 0.1, 2.0, 110.0
FUROSEMIDE = "4603"


@dataclass(frozen=True, slots=True)
class OnFilm:
    """Pneumonia and oedema on the newest film, both answered and each on the side of its threshold asked for."""

    films: Films
    assessment: Assessment
    pneumonia: Estimate
    oedema: Estimate
    p_pneumonia: float
    p_oedema: float


def _film(q: Question, *, high: str, low: str) -> OnFilm | None:
    """The film's reading where target `high` is at or above its upper and `low` at or below its lower threshold."""
    case = q.case
    assessment = case.assessment
    if assessment is None or case.profile != "research_imaging" or any(s.key == "reports" for s in case.shortfalls):
        return None
    films = read_films(case)
    if films is None or films.newest.view not in FRONTAL or films.final is not None:
        return None
    if reported_since(case.record, films.newest.at):
        return None
    if case.record.age_of(films.newest.at) > hours(case.service, "facts_h"):
        return None
    estimates: dict[str, tuple[Estimate, float]] = {}
    for name, side in ((high, "high"), (low, "low")):
        estimate = assessment.estimates.get(name)
        limit = _limit(case.service, name, side)
        p = answered(estimate, limit)
        if estimate is None or p is None or "imaging" not in estimate.rested_on:
            return None
        if (side == "high" and p < limit) or (side == "low" and p > limit):
            return None
        estimates[name] = (estimate, p)
    pneumonia = estimates[str(setting(case.service, "pneumonia_target"))]
    oedema = estimates[str(setting(case.service, "oedema_target"))]
    return OnFilm(films, assessment, pneumonia[0], oedema[0], pneumonia[1], oedema[1])


def _limit(service: Service, target: str, side: str) -> float:
    """Raises ManifestError for a target the settings name and the thresholds do not."""
    try:
        return service.thresholds[target][side]
    except KeyError:
        raise ManifestError(
            f"{service.id}.yaml: thresholds.{target}.{side} is missing; settings name {target}"
        ) from None


def _targets(q: Question) -> tuple[str, str]:
    return str(setting(q.case.service, "pneumonia_target")), str(setting(q.case.service, "oedema_target"))


def _within(q: Question, analyte: str) -> Lab | None:
    """A final result in the table's window, and not older than this service allows any fact of CT-03 to be."""
    limit = hours(q.case.service, "facts_h")
    own = window(q.record, analyte)
    lab = reading(q.record, analyte, limit if own is None else min(own, limit)).lab
    return None if lab is None or lab.preliminary else lab


def _facts(seen: OnFilm, first: str) -> list[Fact]:
    view = f", {seen.films.newest.view} view" if seen.films.newest.view != "unknown" else ""
    pairs = [("Pneumonia on film", seen.pneumonia), ("Oedema on film", seen.oedema)]
    pairs.sort(key=lambda pair: pair[0] != first)
    rows = []
    for name, estimate in pairs:
        text = probability(estimate.probability or 0.0)
        if estimate.interval is not None:
            text += f" ({probability(estimate.interval[0])} to {probability(estimate.interval[1])})"
        zone = zone_of(estimate.target.name, seen.assessment.reading) if name == first else None
        text += f", {zone_words(zone)}" if zone is not None else ""
        before = seen.assessment.prior.get(estimate.target.name) if seen.films.prior is not None else None
        if before is not None and before.probability is not None and seen.films.prior is not None:
            text += f"; {probability(before.probability)} on {day(seen.films.prior.at)}"
        rows.append(Fact(name, text, moment(seen.films.newest.at), f"Model{view}"))
    return rows


def _model(seen: OnFilm) -> str:
    moved = drivers(seen.oedema)
    return (
        f"Model {seen.assessment.model} ({TRAINED_ON[seen.assessment.tier]}); 90% intervals in brackets"
        + (f"; oedema moved by {moved}" if moved else "")
        + f". Model estimate, not a diagnosis. {RESEARCH}"
    )


def _unknown(q: Question, seen: OnFilm) -> tuple[str, ...]:
    earlier = () if seen.films.prior is not None else ("an earlier film to compare with",)
    return q.unknown("a final report of the film", *earlier)


# --- CT-03 -----------------------------------------------------------------------------------------------------------


def oedema_card(q: Question) -> Card | None:
    """CT-03: an antibiotic for chest signs, and film, peptide, procalcitonin, temperature, white cells say oedema."""
    service, record = q.case.service, q.record
    rule = rule_on(service, "CT-03")
    antibiotics = tuple(o for o in q.antibiotics if for_the_chest(record, o))
    if rule is None or not antibiotics or not touched(q.case, antibiotics) or septic(q):
        return None
    # On a drug that harms lungs the question is another one, and lung-precision asks it.
    if record.active("pulmonary_toxicity"):
        return None
    pneumonia, oedema = _targets(q)
    seen = _film(q, high=oedema, low=pneumonia)
    peptide = rules_in_heart_failure(record, hours(service, "facts_h"))
    procalcitonin, temperature, cells = (_within(q, a) for a in ("procalcitonin", "temperature", "wbc"))
    if seen is None or peptide is None or procalcitonin is None or temperature is None or cells is None:
        return None
    normal = cells.low is not None and cells.high is not None and not cells.comparator
    if (
        below(procalcitonin, PROCALCITONIN) is not True
        or below(temperature, FEVER) is not True
        or not (normal and (cells.low or 0.0) <= cells.value <= (cells.high or 0.0))
    ):
        return None
    name = "NT-proBNP" if peptide.lab.analyte == "nt_probnp" else "BNP"
    film = f"film {probability(seen.p_oedema)} vs {probability(seen.p_pneumonia)}"
    facts = [
        *_facts(seen, "Oedema on film"),
        lab_row(peptide.lab, f"rules in from {peptide.limit:g}"),
        lab_row(procalcitonin),
        lab_row(temperature),
        lab_row(cells, "in range"),
        *goals_row(q),
    ]
    return card(
        service,
        "CT-03",
        uuid=q.uuid,
        orders=antibiotics,
        deciding=(f"film {moment(seen.films.newest.at)}",),
        indicator="info",
        summary=fitting(
            f"Findings favour oedema over pneumonia ({name} {as_printed(peptide.lab)}, procalcitonin "
            f"{as_printed(procalcitonin)}, {film}).",
            f"Findings favour oedema over pneumonia ({film}; {name} and procalcitonin agree).",
        ),
        detail=detail(
            why=f"An antibiotic was ordered for the chest: {named(antibiotics)}.",
            facts=facts,
            advice="Film, peptide, procalcitonin, temperature and white cells point to fluid rather than infection. "
            "Both can be true: the antibiotic is yours to keep or remove.",
            unknown=_unknown(q, seen),
            model=_model(seen),
            rule=rule_line(service, "CT-03"),
        ),
        suggestions=_diuretic(q) + _remove(antibiotics),
        reasons=REASONS,
    )


def septic(q: Question) -> bool:
    """Sepsis with low blood pressure, or with a pressure that is not known to be sound."""
    pressure, mean = reading(q.record, "sbp").lab, reading(q.record, "map").lab
    low = any(lab is not None and below(lab, limit) is not False for lab, limit in ((pressure, 90.0), (mean, 65.0)))
    return low or (bool(q.record.active("sepsis")) and pressure is None)


def _diuretic(q: Question) -> tuple[Suggestion, ...]:
    """Furosemide as a draft without dose, where nothing speaks against it and none is ordered."""
    offer = judge(q.record, FUROSEMIDE)
    if not offer.safe or q.diuretics:
        return ()
    action = ordering.medication(
        q.case,
        offer,
        "Furosemide IV; dose to be entered",
        "furosemide intravenous, dose to be entered",
        dosageInstruction=[{"text": "intravenous; dose to be entered", "route": {"text": "intravenous"}}],
    )
    return (Suggestion("Add a draft of furosemide IV", (action,)),)


def _remove(orders: tuple[Order, ...]) -> tuple[Suggestion, ...]:
    actions = remove(*orders)
    plural = "s" if len(actions) > 1 else ""
    return (Suggestion(f"Remove the antibiotic draft{plural}", actions),) if actions else ()


# --- CT-06 -----------------------------------------------------------------------------------------------------------


def diuretic_card(q: Question) -> Card | None:
    """CT-06: a loop diuretic, a film that shows pneumonia and no oedema, and a circulation that may need volume."""
    service, record = q.case.service, q.record
    rule = rule_on(service, "CT-06")
    if rule is None or not q.diuretics or not touched(q.case, q.diuretics):
        return None
    pneumonia, oedema = _targets(q)
    seen = _film(q, high=pneumonia, low=oedema)
    pressure, lactate = reading(record, "sbp").lab, reading(record, "lactate").lab
    low = pressure if pressure is not None and below(pressure, LOW_SYSTOLIC) is True else None
    raised = lactate if lactate is not None and above(lactate, LACTATE) is True else None
    if seen is None or (low is None and raised is None):
        return None
    circulation = [lab for lab in (low, raised) if lab is not None]
    said = " and ".join(
        f"systolic {lab.value:.0f} mmHg" if lab is low else f"lactate {as_printed(lab)}" for lab in circulation
    )
    film = f"film {probability(seen.p_pneumonia)} vs {probability(seen.p_oedema)}"
    return card(
        service,
        "CT-06",
        uuid=q.uuid,
        orders=q.diuretics,
        deciding=(f"film {moment(seen.films.newest.at)}", *(lab.analyte for lab in circulation)),
        indicator="info",
        summary=fitting(
            f"Diuretic with {said}; findings favour pneumonia over oedema ({film}): reassess volume.",
            f"Diuretic ordered, findings favour pneumonia over oedema ({film}): reassess volume.",
        ),
        detail=detail(
            why=f"A loop diuretic was ordered: {named(q.diuretics)}.",
            facts=[*(lab_row(lab) for lab in circulation), *_facts(seen, "Pneumonia on film"), *goals_row(q)],
            advice="Fluid removal may lower the pressure of a patient with infection further. Reassess volume first; "
            "the diuretic stays as ordered.",
            unknown=_unknown(q, seen),
            model=_model(seen),
            rule=rule_line(service, "CT-06"),
        ),
        suggestions=_lactate(q),
        reasons=REASONS,
    )


def _lactate(q: Question) -> tuple[Suggestion, ...]:
    recent = reading(q.record, "lactate", timedelta(hours=2)).lab
    if recent is not None or ordering.ordered(q.record.orders, ordering.LACTATE_CODES):
        return ()
    code = ordering.concept(LOINC, ordering.LACTATE, "Lactate")
    return (Suggestion("Order lactate", (ordering.service_request(q.case, code, priority="urgent"),)),)
