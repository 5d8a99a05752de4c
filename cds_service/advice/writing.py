"""How a card says things: the card contract as functions, so that every service speaks alike.

Detail, in this order: why now; a table of at most six facts, the deciding one first; what we suggest and why; what
is not known; the model, if one took part; rule and version. What comes from a record is escaped here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cds_service.cards import (
    DETAIL_LIMIT,
    SUMMARY_LIMIT,
    Basis,
    Card,
    CardError,
    Coding,
    Indicator,
    Link,
    Source,
    Suggestion,
)
from cds_service.evidence import Shortfall
from cds_service.manifest import ManifestError, Rule, Service
from cds_service.markdown import escape_markdown, plain_text, table
from cds_service.wording import reworded
from fhir_mappers.record import Lab, Order

HEADER = ("Fact", "Value", "When", "Source")
MAX_FACTS = 6
MOST_DECIMALS = 4
FACT_CHARS, VALUE_CHARS, SOURCE_CHARS = 40, 70, 24

REASONS = "http://terminology.hl7.org/CodeSystem/non-adherence-reason-codes"
OWN_REASONS = "urn:cds:override-reason"
TOPIC = "urn:cds:topic"
DEFAULT_REASONS = (
    ("risk-benefit-ratio", "Benefit outweighs risk here"),
    ("action-completed", "Already done or considered"),
    ("patient-contraindication", "Suggestion not suitable for this patient"),
    ("cds-not-applicable", "Data shown is wrong or does not apply"),
    ("patient-refuses", "Patient declines"),
    ("need-more-info", "Will decide later"),
)
MAX_REASONS = 6

_UNITS = {"Cel": "°C", "[degF]": "°F", "mm[Hg]": "mmHg", "{score}": "", "{beats}/min": "/min", "{breaths}/min": "/min"}
# Our own converted value, back as the contract prints it; never where the brackets could become a link.
_CONVERTED = re.compile(r"\\\[((?:&lt;|&gt;)?=?[\d.]+ [A-Za-z0-9/^%°.]+)\\\](?![(\[:])")
_WHY_MISSING = {
    "timeout": "did not arrive in time",
    "unreachable": "the server could not be reached",
    "refused": "access was refused",
    "error": "the server gave an error",
    "bad-answer": "the answer could not be read",
    "no-access": "was not sent",
    "not-allowed": "the server is not registered here",
    "truncated": "only part of it arrived",
    "busy": "the model was busy",
    "failed": "the model failed",
    "no-time": "there was no time",
}
_STEPS = {
    # What a model in a hurry leaves out (cds_service.thinking), whatever service asked.
    "explanation": "what moved the estimate",
    "ranking": "comparison with earlier films",
    "fusion": "the sources weighed together",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of the evidence table, in plain text."""

    fact: str
    value: str
    when: str = ""
    source: str = ""


def setting(service: Service, name: str) -> str | int | float | bool:
    """A value an administrator may change. Raises ManifestError when the manifest has lost it."""
    try:
        return service.settings[name]
    except KeyError:
        raise ManifestError(
            f"{service.id}.yaml: settings.{name} is missing; the rules of this service read it"
        ) from None


def hours(service: Service, name: str) -> timedelta:
    value = setting(service, name)
    if isinstance(value, str | bool):
        raise ManifestError(f"{service.id}.yaml: settings.{name} is a number of hours, e.g. 8")
    return timedelta(hours=float(value))


def words(service: Service, name: str) -> tuple[str, ...]:
    """A setting that lists names or codes, separated by spaces."""
    return tuple(str(setting(service, name)).split())


def rule_on(service: Service, name: str) -> Rule | None:
    """The rule if the manifest has it and it is switched on."""
    rule = service.rules.get(name)
    return rule if rule is not None and rule.on else None


def number(value: float) -> str:
    """About three significant digits, never in powers of ten: 2.036 -> 2.04, 88.4 -> 88.4, 1043.2 -> 1043."""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 4
    return f"{value:.{decimals}f}"


def unit(ucum: str) -> str:
    """A UCUM unit as clinicians write it; units printed by the laboratory mostly are so already."""
    return _UNITS.get(ucum, ucum.replace("10*", "10^"))


def as_printed(lab: Lab) -> str:
    """`2.6 mg/dL`: the laboratory's own number and unit, UCUM spellings made readable.

    More decimals than any laboratory prints are what a computer left (35.7999992370605), and are rounded.
    """
    value, _, printed_unit = lab.printed.partition(" ")
    sign, _, decimals = value.lstrip("<>=").partition(".")
    if len(decimals) > MOST_DECIMALS:
        value = value[: len(value) - len(f"{sign}.{decimals}")] + number(float(f"{sign}.{decimals}"))
    return f"{value} {unit(printed_unit)}".strip()


def shown(lab: Lab) -> str:
    """The value as printed, ours in brackets where it differs (`180 umol/L [2.04 mg/dL]`), and what to know of it."""
    match = re.search(r"-?\d+(?:\.\d+)?", lab.printed)
    text = as_printed(lab)
    if match is None or abs(float(match[0]) - lab.value) > 1e-6 * max(1.0, abs(lab.value)):
        text += f" [{lab.comparator or ''}{number(lab.value)} {unit(lab.unit)}]"
    if lab.preliminary:
        text += ", preliminary"
    if lab.extreme:
        text += ", extreme value, confirm"
    return text


def in_unit_of(lab: Lab, value: float) -> str:
    """A value in canonical units as this laboratory would print it: 1.0 mg/dL beside 180 umol/L is 88.4 umol/L."""
    match = re.search(r"\d+(?:\.\d+)?", lab.printed)
    if match is None or not lab.value:
        return f"{number(value)} {unit(lab.unit)}"
    return f"{number(value * float(match[0]) / lab.value)} {as_printed(lab).partition(' ')[2]}"


def moment(at: datetime | None) -> str:
    """`2026-03-10 06:10`, in the time zone it was recorded in."""
    return "" if at is None else at.strftime("%Y-%m-%d %H:%M")


def day(at: datetime | None) -> str:
    return "" if at is None else at.strftime("%Y-%m-%d")


def taken(lab: Lab) -> str:
    return moment(lab.at) if lab.has_time else day(lab.at)


def span(length: timedelta) -> str:
    """`18 h`, `3 d`: hours up to two days, then days, rounded down."""
    total = int(length.total_seconds() // 3600)
    if total < 1:
        return f"{max(1, int(length.total_seconds() // 60))} min"
    return f"{total} h" if total < 48 else f"{total // 24} d"


def band(value: float, *limits: float) -> str:
    """Which part of a scale a value lies in, for a card's `deciding`: 22 with 15, 30, 45 is `15 to 30`."""
    below = [limit for limit in limits if limit <= value]
    above = [limit for limit in limits if limit > value]
    if not below or not above:
        return f"under {above[0]:g}" if above else f"from {below[-1]:g}"
    return f"{below[-1]:g} to {above[0]:g}"


def probability(value: float) -> str:
    """Two decimals, never a flat 0 or 1: no model is certain."""
    return f"{min(0.99, max(0.01, value)):.2f}"


def fitting(*candidates: str) -> str:
    """The first summary under the limit, longest first; the last one is cut if it must be."""
    clean = [plain_text(c, 10_000) for c in candidates]
    return next((c for c in clean if len(c) < SUMMARY_LIMIT), plain_text(clean[-1], SUMMARY_LIMIT - 1))


def missing_evidence(shortfalls: Iterable[Shortfall], names: dict[str, str]) -> tuple[str, ...]:
    """`medication list (did not arrive in time)` for each key of `names`, or step of the model, that fell short."""
    found = {s.key: s.reason for s in shortfalls}
    named = {**names, **_STEPS}
    return tuple(f"{name} ({_WHY_MISSING[found[key]]})" for key, name in named.items() if key in found)


def detail(
    *,
    why: str,
    facts: Sequence[Fact],
    advice: str,
    unknown: Sequence[str] = (),
    model: str = "",
    rule: str,
    header: Sequence[str] = HEADER,
) -> str:
    """Put a card's detail together within 1,200 characters: the last facts and unknowns go first.

    `why`, `advice` and `model` are our own sentences, with what comes from a record already escaped in them.
    """
    rows = [
        [
            escape_markdown(f.fact, FACT_CHARS),
            _CONVERTED.sub(r"[\1]", escape_markdown(f.value, VALUE_CHARS)),
            escape_markdown(f.when),
            escape_markdown(f.source, SOURCE_CHARS),
        ][: len(header)]
        for f in facts[:MAX_FACTS]
    ]
    for kept in range(len(rows), 0, -1):
        for named in dict.fromkeys((len(unknown), min(2, len(unknown)), min(1, len(unknown)))):
            parts = [why, table(rows[:kept], header), advice, _not_known(unknown, named), model, rule]
            text = "\n\n".join(filter(None, parts))
            if len(text) <= DETAIL_LIMIT:
                return text
    raise CardError(f"the sentences of {rule} leave no room for a fact")


def _not_known(unknown: Sequence[str], named: int) -> str:
    if not unknown:
        return ""
    listed = "; ".join(escape_markdown(u, 90) for u in unknown[:named])
    more = len(unknown) - named
    return f"Not known: {listed}" + (f"; and {more} more." if more else ".")


def rule_line(service: Service, *names: str) -> str:
    """`Rule IS-01+IS-03 v1`."""
    versions = [service.rules[n].version for n in names]
    if len(set(versions)) == 1:
        return f"Rule {'+'.join(names)} v{versions[0]}"
    return "Rule " + " + ".join(f"{n} v{v}" for n, v in zip(names, versions, strict=True))


def override_reasons(own: Sequence[tuple[str, str]], without: Sequence[str]) -> tuple[Coding, ...]:
    """The six default reasons with this service's own in the place of those it leaves out."""
    kept = [Coding(code, REASONS, display) for code, display in DEFAULT_REASONS if code not in without]
    return (*(Coding(code, OWN_REASONS, display) for code, display in own), *kept)[:MAX_REASONS]


def card(
    service: Service,
    *rules: str,
    uuid: str,
    indicator: Indicator,
    summary: str,
    detail: str,
    suggestions: Sequence[Suggestion] = (),
    reasons: tuple[Coding, ...] = (),
    choose: Literal["at-most-one", "any"] = "any",
    more_links: Sequence[Link] = (),
    orders: Sequence[Order] | None = None,
    deciding: Sequence[str] = (),
) -> Card:
    """A card of these rules: source, topic and guideline links come from the manifest.

    choose    `at-most-one` where the suggestions are alternatives, `any` where each stands for itself
    orders    the drafts it is about, () for none; left out: all drafts that concern the service
    deciding  the deciding facts in bands, by which the same card is known again (`cds_service.cards.Basis`)
    """
    used = [service.rules[name] for name in rules]
    citations = "; ".join(dict.fromkeys(r.citation for r in used))
    links = {r.url: Link(f"Guideline: {r.citation}", r.url, "absolute") for r in used}
    made = Card(
        summary=summary,
        indicator=indicator,
        source=Source(citations, used[0].url, topic=Coding(service.id, TOPIC, service.title)),
        detail=detail,
        suggestions=tuple(suggestions),
        selection_behavior=choose if suggestions else None,
        override_reasons=reasons,
        links=(*links.values(), *more_links),
        uuid=uuid,
        basis=Basis(rules, None if orders is None else tuple(order.ref for order in orders), tuple(deciding)),
    )
    return reworded(made, used)
