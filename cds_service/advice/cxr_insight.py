"""cxr-insight: what does the newest chest film show, and what changed? Rules CX-01, CX-02 and CX-03.

Device-class: off unless the site switches imaging on, and labelled research use on every card. A final report of
the film always wins: then only CX-03 speaks, and only of change. A side and a zone stand where the networks give one.
CX-04 (disagreement with the final report) is kept for radiology and never shown, `film_quality`; what is unchanged or
improved is on no card either, `film_unchanged` (CX-05).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cds_service.advice import ordering
from cds_service.advice.chest_films import Films, Finding, read_films, read_findings
from cds_service.advice.estimates import RESEARCH, TRAINED_ON, out_of_range
from cds_service.advice.film_report import offer_report
from cds_service.advice.gate import closed
from cds_service.advice.writing import (
    Fact,
    card,
    day,
    detail,
    fitting,
    hours,
    missing_evidence,
    moment,
    override_reasons,
    probability,
    rule_line,
    rule_on,
    setting,
    shown,
    taken,
    words,
)
from cds_service.cards import Card, Suggestion, new_uuid
from cds_service.markdown import escape_markdown
from models.contract import Assessment

if TYPE_CHECKING:
    from cds_service.consult import Case

FRONTAL = frozenset({"PA", "AP", "unknown"})
ADULT = 18
TREATMENTS = (
    "macrolide",
    "fluoroquinolone",
    "cephalosporin",
    "penicillin",
    "carbapenem",
    "tetracycline",
    "glycopeptide",
    "loop_diuretic",
)
INFLAMMATION = ("crp", "wbc", "procalcitonin", "nt_probnp", "bnp", "ldh")
LABS_WINDOW = timedelta(hours=48)
REASONS = override_reasons(
    (("seen-on-image", "Already seen on image"), ("finding-wrong", "Image finding wrong")),
    without=("patient-contraindication", "patient-refuses"),
)
EVIDENCE = {"labs": "laboratory results", "meds": "medication list", "conditions": "problem list"}


def advise(case: Case) -> list[Card]:
    """At most one card."""
    assessment = case.assessment
    if closed(case) or assessment is None or case.profile != "research_imaging" or _may_be_a_child(case):
        return []
    films = read_films(case)
    if films is None or films.newest.view not in FRONTAL:
        return []
    if case.record.age_of(films.newest.at) > hours(case.service, "film_h"):
        return []
    if films.prior is not None and films.newest.at - films.prior.at < hours(case.service, "prior_at_least_h"):
        return []
    findings = read_findings(case, assessment, films)
    found = (
        _urgent(case, assessment, films, findings)
        or _unreported(case, assessment, films, findings)
        or _course(case, assessment, films, findings)
    )
    return [found] if found else []


def _may_be_a_child(case: Case) -> bool:
    """MX-2: under 18 the model has nothing to say. An unknown age is not a known minor; the card says so."""
    ages = case.record.age_years()
    return ages is not None and ages[0] < ADULT


def _high(case: Case, finding: Finding, listed: str) -> bool:
    name = finding.estimate.target.name
    return (
        name in words(case.service, listed)
        and finding.now is not None
        and finding.now >= case.service.thresholds[name]["high"]
    )


def _urgent(case: Case, assessment: Assessment, films: Films, findings: tuple[Finding, ...]) -> Card | None:
    """CX-01: no report of any status, a fresh film, and a finding that cannot wait for the worklist."""
    rule = rule_on(case.service, "CX-01")
    fresh = case.record.age_of(films.newest.at) < hours(case.service, "urgent_film_h")
    urgent = [f for f in findings if _high(case, f, "urgent_findings")]
    if rule is None or not fresh or films.reports or not urgent:
        return None
    worst = urgent[0]
    p = probability(worst.now or 0.0)
    read = ordering.task(
        case,
        "urgent-radiologist-read",
        "urgent radiologist read",
        focus=films.newest.source.reference,
        description=f"Possible {worst.title} on the chest film of {moment(films.newest.at)}, not yet read",
        priority="stat",
        owner=str(setting(case.service, "radiology_group")),
    )
    return card(
        case.service,
        "CX-01",
        uuid=new_uuid(),
        orders=(),
        deciding=(f"film {moment(films.newest.at)}", *sorted(f.title for f in urgent)),
        indicator=rule.tier,
        summary=fitting(
            f"Possible {worst.placed} ({p}) on film {moment(films.newest.at)}, not yet read by radiology.",
            f"Possible {worst.title} ({p}) on film {moment(films.newest.at)}, not yet read by radiology.",
            f"Possible urgent finding ({p}) on film {moment(films.newest.at)}, not yet read by radiology.",
        ),
        detail=_detail(
            case,
            assessment,
            films,
            urgent,
            why=f"A chest film of {moment(films.newest.at)} has no report yet.",
            advice="An urgent read by a radiologist is suggested. The estimate is no reason to treat.",
            rule="CX-01",
        ),
        suggestions=(Suggestion("Ask for an urgent radiologist read", (read,)), *offer_report(case, films)),
        reasons=REASONS,
    )


def _unreported(case: Case, assessment: Assessment, films: Films, findings: tuple[Finding, ...]) -> Card | None:
    """CX-02: no final report, and a finding that is new, worse, or has no film to compare with."""
    rule = rule_on(case.service, "CX-02")
    changed = [f for f in findings if _high(case, f, "reported_findings") and _tells(case, f)]
    if rule is None or films.final is not None or not changed:
        return None
    first = changed[0]
    p = probability(first.now or 0.0)
    state = "only a preliminary report" if films.reports else "not yet reported"
    if films.prior is None:
        whats = [f"{n} ({p}) on film {moment(films.newest.at)}, no comparison film, {state}." for n in _names(first)]
    elif first.change == "not compared":
        whats = [f"{n} ({p}) on film {moment(films.newest.at)}, not compared, {state}." for n in _names(first)]
    else:
        named = (first.placed, first.title)
        whats = [f"{first.change.capitalize()} {n} vs {day(films.prior.at)} ({p}), {state}." for n in named]
    return card(
        case.service,
        "CX-02",
        uuid=new_uuid(),
        orders=(),
        deciding=(f"film {moment(films.newest.at)}", *sorted(f.title for f in changed)),
        indicator="info",
        summary=fitting(*whats, f"Finding ({p}) on film {moment(films.newest.at)}, {state}."),
        detail=_detail(
            case,
            assessment,
            films,
            changed,
            why=f"The chest film of {moment(films.newest.at)} has no final report.",
            advice="Look at the film, and weigh this with the patient. The radiology report decides.",
            rule="CX-02",
        ),
        suggestions=offer_report(case, films),
        reasons=REASONS,
    )


def _names(finding: Finding) -> tuple[str, ...]:
    """`Right lower zone pleural effusion`, and without the place."""
    return finding.placed[:1].upper() + finding.placed[1:], finding.heading


def _tells(case: Case, finding: Finding) -> bool:
    """New, worse, or not compared. Where a network compared the films it must be sure enough of new or worse."""
    if finding.change == "not compared":
        return True
    sure = finding.changed is None or finding.changed >= float(setting(case.service, "change_at_least"))
    return finding.change in ("new", "worse") and sure


def _course(case: Case, assessment: Assessment, films: Films, findings: tuple[Finding, ...]) -> Card | None:
    """CX-03: a reported film during a treatment, another chest study being ordered, and a change to put a number on."""
    rule = rule_on(case.service, "CX-03")
    treated = [
        e
        for e in case.record.active(*TREATMENTS)
        if e.kind == "medication" and e.start is not None and e.start <= films.newest.at
    ]
    asked = any(o.imaging is not None and o.imaging.region == "chest" for o in case.record.drafts())
    moved = [
        f
        for f in findings
        if f.estimate.target.name in words(case.service, "reported_findings")
        and f.now is not None
        and f.before is not None
        and f.change in ("new", "worse", "improved", "resolved")
    ]
    if rule is None or films.final is None or films.prior is None or not (treated and asked and moved):
        return None
    first = moved[0]
    before, now = first.before or 0.0, first.now or 0.0
    # A direction of the estimate, not a word for the patient: that is the final report's.
    moves = (
        f"{'fell' if now < before else 'rose'} from {probability(before)} ({day(films.prior.at)}) to "
        f"{probability(now)} ({day(films.newest.at)}) under treatment."
    )
    return card(
        case.service,
        "CX-03",
        uuid=new_uuid(),
        deciding=(f"film {moment(films.newest.at)}", *sorted(f.title for f in moved)),
        indicator="info",
        summary=fitting(f"Estimate for {first.title} {moves}", f"Estimate for a finding {moves}"),
        detail=_detail(
            case,
            assessment,
            films,
            moved,
            why=f"A chest study was ordered during treatment ({escape_markdown(treated[0].text, 40)}).",
            advice=f"The final report of {day(films.final.at)} stands; these numbers only compare the two films.",
            rule="CX-03",
            name_change=False,
        ),
        reasons=REASONS,
    )


def _detail(
    case: Case,
    assessment: Assessment,
    films: Films,
    findings: list[Finding],
    *,
    why: str,
    advice: str,
    rule: str,
    name_change: bool = True,
) -> str:
    """The card's table (finding, now, before), what went in, and what kind of model it was."""
    header = ("Finding", "Now") if films.prior is None else ("Finding", "Now", f"Prior ({day(films.prior.at)})")
    placed = any(f.where for f in findings)
    if placed:
        header = (header[0], "Where", *header[1:])
    rows = []
    for f in findings:
        low, high = f.estimate.interval or (None, None)
        interval = f" ({probability(low)} to {probability(high)})" if low is not None and high is not None else ""
        change = f", {f.change}" if name_change else ""
        before = f"{probability(f.before)}{change}" if f.before is not None else change.removeprefix(", ")
        before = before if films.prior is not None else ""
        now = f"{probability(f.now or 0.0)}{interval}"
        rows.append(Fact(f.heading, f.where or "no one place", now, before) if placed else Fact(f.heading, now, before))
    unknown = list(missing_evidence(case.shortfalls, EVIDENCE))
    if films.prior is None:
        unknown.insert(0, "an earlier film to compare with")
    if case.record.age_years() is None:
        unknown.append("age")
    model = (
        f"{_inputs(case, films, findings)} Model {assessment.model} ({TRAINED_ON[assessment.tier]}); 90% intervals in "
        f"brackets. Model estimate, not a diagnosis. {RESEARCH}"
    )
    return detail(
        why=why,
        facts=rows,
        advice=advice,
        unknown=unknown,
        model=model,
        rule=rule_line(case.service, rule),
        header=header,
    )


def _inputs(case: Case, films: Films, findings: list[Finding]) -> str:
    """`Inputs: film 2026-03-10 13:38 (PA).` Laboratory results beside it, said to be used only when they were."""
    about = [films.newest.view] if films.newest.view != "unknown" else []
    about += ["rendered by the archive"] if films.newest.rendered else []
    about += ["lateral view not read"] if films.newest.laterals else []
    view = f" ({', '.join(about)})" if about else ""
    text = f"Inputs: film {moment(films.newest.at)}{view}"
    if films.prior is not None:
        text += f", film {moment(films.prior.at)}"
    latest = [lab for name in INFLAMMATION if (lab := case.record.latest(name, within=LABS_WINDOW)) is not None]
    latest.sort(key=lambda lab: not out_of_range(lab))
    named = ", ".join(
        f"{escape_markdown(lab.name, 40)} {escape_markdown(shown(lab), 40)} {taken(lab)}" for lab in latest[:2]
    )
    if not named:
        return f"{text}; no recent laboratory results."
    if any("labs" in f.estimate.rested_on for f in findings):
        return f"{text}, {named}."
    return f"{text}. Beside it, not used by the model: {named}."
