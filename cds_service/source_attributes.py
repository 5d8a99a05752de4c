"""HTI-1 source attributes of a service: words from one checked file, figures from the model's own card.

45 CFR 170.315(b)(11)(iv): (B) has 31 attributes of a predictive intervention, (A) 13 of an evidence-based one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import yaml

from cds_service.manifest import ManifestError, Service
from models.card import Card, SourceCard, TargetCard
from models.metrics import Estimated

FILE = "source_attributes.yaml"
PREDICTIVE: Mapping[str, tuple[str, str]] = {
    "details.developer": ("(1)(i)", "Developer and contact"),
    "details.funding": ("(1)(ii)", "Funding of the technical implementation"),
    "details.output_value": ("(1)(iii)", "Value it outputs"),
    "details.output_type": ("(1)(iv)", "Kind of output"),
    "purpose.intended_use": ("(2)(i)", "Intended use"),
    "purpose.population": ("(2)(ii)", "Intended patients"),
    "purpose.users": ("(2)(iii)", "Intended users"),
    "purpose.decision_role": ("(2)(iv)", "Role in the decision"),
    "caution.out_of_scope": ("(3)(i)", "Out of scope"),
    "caution.risks": ("(3)(ii)", "Known risks and limits"),
    "dev.inclusion_exclusion": ("(4)(i)", "Inclusion and exclusion in the training data"),
    "dev.demographic_inputs": ("(4)(ii)", "Demographic variables used as inputs"),
    "dev.representativeness": ("(4)(iii)", "Demographic representativeness of the training data"),
    "dev.relevance": ("(4)(iv)", "Relevance of the training data to the place of use"),
    "fair.approach": ("(5)(i)", "How fair output is ensured"),
    "fair.mitigation": ("(5)(ii)", "How bias is managed"),
    "ext.source": ("(6)(i)", "External assessment: data and setting"),
    "ext.party": ("(6)(ii)", "External assessment: by whom"),
    "ext.representativeness": ("(6)(iii)", "External assessment: demographics"),
    "ext.process": ("(6)(iv)", "External assessment: process"),
    "perf.internal_validity": ("(7)(i)", "Validity, data of the same source"),
    "perf.internal_fairness": ("(7)(ii)", "Fairness, data of the same source"),
    "perf.external_validity": ("(7)(iii)", "Validity, data of another source"),
    "perf.external_fairness": ("(7)(iv)", "Fairness, data of another source"),
    "perf.outcome_refs": ("(7)(v)", "Evaluations of outcomes"),
    "maint.validity_monitoring": ("(8)(i)", "Monitoring of validity"),
    "maint.local_validity": ("(8)(ii)", "Validity in local data"),
    "maint.fairness_monitoring": ("(8)(iii)", "Monitoring of fairness"),
    "maint.local_fairness": ("(8)(iv)", "Fairness in local data"),
    "update.process": ("(9)(i)", "Updates: process and frequency"),
    "update.correction": ("(9)(ii)", "Correction when risks are found"),
}
EVIDENCE: Mapping[str, tuple[str, str]] = {
    "citation": ("(1)", "Citation"),
    "developer": ("(2)", "Developer"),
    "funding": ("(3)", "Funding"),
    "dates": ("(4)", "Release and revision"),
    "race": ("(5)", "Use of race"),
    "ethnicity": ("(6)", "Use of ethnicity"),
    "language": ("(7)", "Use of language"),
    "sexual_orientation": ("(8)", "Use of sexual orientation"),
    "gender_identity": ("(9)", "Use of gender identity"),
    "sex": ("(10)", "Use of sex"),
    "birth_date": ("(11)", "Use of date of birth"),
    "social_determinants": ("(12)", "Use of social determinants of health"),
    "health_status": ("(13)", "Use of health status assessments"),
}


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    common: dict[str, str]
    services: dict[str, dict[str, str]] = {}


class Texts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    predictive: _Part
    evidence: _Part


class Attribute(msgspec.Struct, frozen=True):
    """One attribute; `figures` are lines made from the model's card or the rules, empty where there are none."""

    key: str
    cite: str
    title: str
    text: str
    figures: tuple[str, ...] = ()


class Sheet(msgspec.Struct, frozen=True):
    """What is said of one service: `model` is "" where no card is installed, `predictive` empty without a model."""

    service: str
    version: int
    model: str
    digest: str
    predictive: tuple[Attribute, ...]
    evidence: tuple[Attribute, ...]


def load_texts(manifests: Path) -> Texts:
    """Raises ManifestError naming the file and what is wrong: an unknown key, or an attribute without words."""
    path = manifests / FILE
    try:
        texts = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Texts)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ManifestError(f"{path}: {error}") from None
    for name, part, known in (("predictive", texts.predictive, PREDICTIVE), ("evidence", texts.evidence, EVIDENCE)):
        for owner, said in {"common": part.common, **part.services}.items():
            for key, text in said.items():
                if key not in known:
                    raise ManifestError(f"{path}: {name}.{owner} has {key!r}, which is no source attribute")
                if len(text.split()) < 2 or text.strip().lower().rstrip(".") == "not applicable":
                    raise ManifestError(f"{path}: {name}.{owner}.{key} says nothing; write what is so, and why")
    return texts


def sheet(service: Service, card: Card | None, texts: Texts) -> Sheet:
    """Raises ManifestError for an attribute nobody has written of this service."""
    predictive: tuple[Attribute, ...] = ()
    if service.model is not None:
        made = {key: make(service, card) for key, make in _FIGURES.items()} if card is not None else {}
        predictive = _stated(service, texts.predictive, PREDICTIVE, made)
    rules = {
        "citation": tuple(f"{name}: {r.citation}, {r.url}" for name, r in service.rules.items()),
        "dates": tuple(f"{name}: version {r.version}, review by {r.review_by}" for name, r in service.rules.items()),
    }
    named = (card.model, card.weights.sha256) if card is not None and service.model is not None else ("", "")
    return Sheet(service.id, service.version, *named, predictive, _stated(service, texts.evidence, EVIDENCE, rules))


def _stated(
    service: Service, part: _Part, known: Mapping[str, tuple[str, str]], figures: Mapping[str, tuple[str, ...]]
) -> tuple[Attribute, ...]:
    said = part.common | part.services.get(service.id, {})
    missing = [key for key in known if key not in said]
    if missing:
        raise ManifestError(f"{FILE}: nothing is written of {service.id} for {', '.join(missing)}")
    return tuple(Attribute(k, cite, title, said[k].strip(), figures.get(k, ())) for k, (cite, title) in known.items())


def _asked(service: Service, card: Card) -> dict[str, TargetCard]:
    return {name: card.targets[name] for name in service.targets if name in card.targets}


def _outputs(service: Service, card: Card) -> tuple[str, ...]:
    titles = {t.name: t.title for t in card.spec.targets}
    lines = []
    for name in service.targets:
        found = card.targets.get(name)
        told = f"{titles[name]}, {found.standing}" if found else "not answered by the installed model"
        lines.append(f"{name}: {told}")
    return tuple(lines)


def _limits(service: Service, card: Card) -> tuple[str, ...]:
    of_others = tuple(f"{t}:" for t in card.targets if t not in service.targets)
    return tuple(text for text in card.known_limits if not text.startswith(of_others))


def _sources(service: Service, card: Card) -> tuple[str, ...]:
    ages = [f"{name}: {_ages(found)}" for name, found in _asked(service, card).items()]
    patients = [
        f"{s.title}: " + ", ".join(f"{n} patients {split}" for split, n in s.patients.items())
        for s in _used(service, card)
    ]
    return (*ages, *patients)


def _used(service: Service, card: Card) -> list[SourceCard]:
    names = {t.source for t in card.spec.targets if t.name in service.targets}
    return [s for s in card.sources if s.name in names]


def _ages(found: TargetCard) -> str:
    low, high = found.ages
    return f"{low} years and older" if high is None else f"{low} to {high} years"


def _groups(service: Service, card: Card) -> tuple[str, ...]:
    return tuple(
        f"{name}: {group}, {f.patients} of {found.figures.patients if found.figures else 0} patients"
        for name, found in _asked(service, card).items()
        for group, f in found.subgroups.items()
    )


def _notes(service: Service, card: Card) -> tuple[str, ...]:
    return tuple(f"{s.title}: {s.notes.removeprefix(f'{s.name.capitalize()}: ')}" for s in _used(service, card))


def _validity(service: Service, card: Card) -> tuple[str, ...]:
    lines = []
    for name, found in _asked(service, card).items():
        f = found.figures
        if f is None:
            lines.append(f"{name}: too few patients to judge")
            continue
        figures = (
            ("AUROC", f.auroc),
            ("AUPRC", f.auprc),
            ("Brier", f.brier),
            ("Brier skill", f.skill),
            ("reliability slope", f.slope),
            ("intercept", f.intercept),
            ("calibration error", f.ece),
        )
        said = ", ".join(f"{word} {_ci(e)}" for word, e in figures if e is not None)
        lines.append(f"{name}: {said}; {f.positives} of {f.patients} patients; {found.evaluated}")
    return tuple(lines)


def _fairness(service: Service, card: Card) -> tuple[str, ...]:
    lines = [
        f"{name}: {group} AUROC {_ci(f.auroc)}"
        for name, found in _asked(service, card).items()
        for group, f in found.subgroups.items()
        if f.auroc is not None
    ]
    return tuple(lines) or ("no subgroup had ten with and ten without the outcome",)


def _ci(e: Estimated) -> str:
    return f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"


_FIGURES: Mapping[str, Callable[[Service, Card], tuple[str, ...]]] = {
    "details.output_value": _outputs,
    "caution.risks": _limits,
    "dev.inclusion_exclusion": _sources,
    "dev.representativeness": _groups,
    "dev.relevance": _notes,
    "perf.internal_validity": _validity,
    "perf.internal_fairness": _fairness,
}
