"""`Service`: one YAML definition, checked strictly; discovery and our own queries are both made from it.

The pair (id, hook) is the key: CDS Hooks lets one id answer several hooks and several services share one hook.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from cds_service.cards import Indicator
from cds_service.errors import UnknownService
from fhir_mappers.codes import ATC_SYSTEMS
from fhir_mappers.record import Order

HOOKS = (
    "patient-view",
    "order-select",
    "order-sign",
    "order-dispatch",
    "appointment-book",
    "encounter-start",
    "encounter-discharge",
    "medication-refill",
    "problem-list-item-create",
    "allergyintolerance-create",
)
PATIENT_TOKEN = "{{context.patientId}}"  # noqa: S105 - a prefetch token, no secret
DEFAULT_BUDGET_MS = {"order-sign": 2000}
PATIENT_PARAMETER = {"Patient": "_id"}


_ATC = re.compile(r"[A-Z](?:\d{2}(?:[A-Z](?:[A-Z](?:\d{2})?)?)?)?")
"""A whole level of the ATC classification: A, A10, A10B, A10BA, A10BA02 (WHO Collaborating Centre)."""
_PHRASE = re.compile(r"(?=.*[^\W\d_])[^\d\n\r|<>\[\]*_#`\\]{3,200}")


class ManifestError(ValueError):
    """A manifest is wrong: which file, which key, what would be right."""


class EvidenceItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key of prefetch. Exactly one of `read` and `search`.

    read      instance read, e.g. `Patient/{{context.patientId}}`
    search    type search without the patient, which is always added: `Observation?category=laboratory`
    required  without it there is no answer: 412 when it was neither sent nor reachable
    films     for ImagingStudy: how many of the newest frontal chest films to read over DICOMweb
    """

    read: str | None = None
    search: str | None = None
    required: bool = False
    films: int = 0

    def __post_init__(self) -> None:
        if (self.read is None) == (self.search is None):
            raise ValueError("write exactly one of `read` and `search`")
        if self.search is not None and "patient=" in self.search:
            raise ValueError("`search` is written without the patient; it is added to every query")

    def template(self) -> str:
        """The prefetch template, in the CDS Hooks 2.0 subset, always bound to the patient."""
        if self.read is not None:
            return self.read
        assert self.search is not None
        type_, _, query = self.search.partition("?")
        parameter = PATIENT_PARAMETER.get(type_, "patient")
        return f"{type_}?{parameter}={PATIENT_TOKEN}" + (f"&{query}" if query else "")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule as an administrator sees it: switch, tier, source, owner, when it must be reviewed.

    text     the rule in one sentence, as the evidence page shows it
    wording  phrases of the rule's cards -> the site's own; without digits, since numbers are facts
    ppv, ppv_at_least  share of its cards in silent mode that were right, as measured at this site, and the least share
             with which it may speak; until it is measured, a rule with a least share is in shadow
    """

    tier: Indicator
    citation: str
    url: str
    owner: str
    review_by: date
    version: int = 1
    on: bool = True
    text: str = ""
    wording: dict[str, str] = {}
    ppv: float | None = None
    ppv_at_least: float | None = None

    @property
    def unproven(self) -> bool:
        """Whether silent mode has still to show that the rule is right often enough."""
        return self.ppv_at_least is not None and self.ppv is None

    def __post_init__(self) -> None:
        for name, share in (("ppv", self.ppv), ("ppv_at_least", self.ppv_at_least)):
            if share is not None and not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is {share!r}; write a share from 0 to 1")
        if self.on and self.ppv is not None and self.ppv < (self.ppv_at_least or 0.0):
            raise ValueError(
                f"ppv is {self.ppv:g}, and ppv_at_least asks for {self.ppv_at_least:g}: write `on: false`, "
                "or leave ppv out to go on measuring in shadow"
            )
        for phrase in (*self.wording, *self.wording.values()):
            if _PHRASE.fullmatch(phrase) is None:
                raise ValueError(f"wording has {phrase!r}; write 3 to 200 characters of one line, no digits or markup")


class AppliesTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which draft orders concern the service. Empty: every call. A call with no such order is answered at once.

    contrast, region, modality  columns of tables/imaging_orders.csv; drug_classes of tables/drug_classes.csv
    codes                       `system|code` of any order
    atc                         beginnings of ATC codes: `J01` is every antibacterial for systemic use
    """

    contrast: tuple[str, ...] = ()
    modality: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    drug_classes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    atc: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for prefix in self.atc:
            if _ATC.fullmatch(prefix) is None:
                raise ValueError(f"atc has {prefix!r}; write the beginning of an ATC code, such as J01 or B01AC04")

    def order(self, order: Order) -> bool:
        imaging = order.imaging
        if imaging is not None and (
            imaging.contrast in self.contrast or imaging.modality in self.modality or imaging.region in self.region
        ):
            return True
        if order.concepts & frozenset(self.drug_classes):
            return True
        if self.atc and any(system in ATC_SYSTEMS and code.startswith(self.atc) for system, code in order.codes):
            return True
        return any(f"{system}|{code}" in self.codes for system, code in order.codes)

    @property
    def everything(self) -> bool:
        return not (self.contrast or self.modality or self.region or self.drug_classes or self.codes or self.atc)


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One service. See docs/operations.md for what each key means to an administrator."""

    id: str
    hooks: tuple[str, ...]
    title: str
    description: str
    advice: str
    evidence: dict[str, EvidenceItem]
    rules: dict[str, Rule]
    version: int = 1
    usage_requirements: str = ""
    device_class: bool = False
    model: str | None = None
    targets: tuple[str, ...] = ()
    applies_to: dict[str, AppliesTo] = {}
    """hook -> which drafts concern it; a hook not listed always applies"""
    budget_ms: dict[str, int] = {}
    thinking_ms: int = 150
    thresholds: dict[str, dict[str, float]] = {}
    settings: dict[str, str | int | float | bool] = {}
    remembers_h: float = 0
    """how many hours back the advice looks at what its model said of the patient; 0: not at all"""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{1,63}", self.id):
            raise ValueError(f"id is {self.id!r}; write lower-case letters, digits and dashes")
        for name, hooks in (("hooks", self.hooks), ("applies_to", self.applies_to), ("budget_ms", self.budget_ms)):
            for hook in hooks:
                if hook not in HOOKS:
                    raise ValueError(f"{name} has {hook!r}; the hooks are {', '.join(HOOKS)}")
        for hook in self.hooks:
            if self.budget_s(hook) * 1000 <= self.thinking_ms:
                raise ValueError(f"thinking_ms leaves nothing of the budget of {hook}")
        for target, levels in self.thresholds.items():
            for level, value in levels.items():
                if not 0.0 <= value <= 1.0:
                    raise ValueError(f"thresholds.{target}.{level} is {value!r}; write a probability from 0 to 1")

    def budget_s(self, hook: str) -> float:
        """Seconds for the whole answer to this hook."""
        return self.budget_ms.get(hook, DEFAULT_BUDGET_MS.get(hook, 500)) / 1000.0

    @property
    def thinking_s(self) -> float:
        return self.thinking_ms / 1000.0

    def levels(self) -> dict[str, float]:
        """Every threshold by the name an administrator sets it under: `icu_care.info`."""
        return {f"{target}.{level}": v for target, levels in self.thresholds.items() for level, v in levels.items()}

    def under(self, thresholds: Mapping[str, float]) -> Service:
        """This service with an administrator's thresholds, named as in `levels`; unknown names change nothing."""
        known = self.levels()
        if not thresholds.keys() & known.keys():
            return self
        changed = {target: dict(levels) for target, levels in self.thresholds.items()}
        for name in thresholds.keys() & known.keys():
            target, _, level = name.rpartition(".")
            changed[target][level] = thresholds[name]
        return msgspec.structs.replace(self, thresholds=changed)

    def concerns(self, hook: str, drafts: Iterable[Order]) -> bool:
        """False when none of the draft orders is this service's business: the answer is then `cards: []` at once."""
        applies = self.applies_to.get(hook)
        return applies is None or applies.everything or any(applies.order(o) for o in drafts)

    def prefetch(self) -> dict[str, str]:
        return {key: item.template() for key, item in self.evidence.items()}

    def discovery(self) -> list[dict[str, Any]]:
        """The entries of `GET /cds-services` for this service: one for each hook."""
        entries = []
        for hook in self.hooks:
            entry: dict[str, Any] = {
                "hook": hook,
                "id": self.id,
                "title": self.title,
                "description": self.description,
                "prefetch": self.prefetch(),
            }
            if self.usage_requirements:
                entry["usageRequirements"] = self.usage_requirements
            entries.append(entry)
        return entries


Profile = Literal["non_device", "research_imaging"]


class Services:
    """All services switched on under a profile, found by (id, hook)."""

    def __init__(self, services: Sequence[Service], profile: Profile = "non_device") -> None:
        self.all = tuple(services)
        self.profile = profile
        self.on = tuple(s for s in services if profile == "research_imaging" or not s.device_class)

    def named(self, id_: str) -> Service:
        for service in self.on:
            if service.id == id_:
                return service
        raise UnknownService("there is no such service here")

    def shortest_budget_s(self, id_: str) -> float:
        """The least time any hook of a service has; 0.5 for a service that is not there."""
        return next((min(map(s.budget_s, s.hooks)) for s in self.on if s.id == id_), 0.5)

    def discovery(self) -> dict[str, Any]:
        return {"services": [entry for service in self.on for entry in service.discovery()]}

    def models(self) -> tuple[str, ...]:
        return tuple(sorted({s.model for s in self.on if s.model}))


class _Yaml(yaml.SafeLoader):
    """YAML with the booleans of version 1.2 alone: `on` is the name of a rule's switch here, not a way to say true."""


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|false|False)\Z"), list("tTfF"))


def load_service(path: Path, override: Mapping[str, Any] | None = None) -> Service:
    """Read one manifest. Raises ManifestError naming the file and the key."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Yaml)  # noqa: S506 - a SafeLoader with fewer booleans
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: not valid YAML: {error}") from None
    try:
        service = msgspec.convert({**data, **(override or {})}, Service)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ManifestError(f"{path}: {error}") from None
    if path.stem != service.id:
        raise ManifestError(f"{path}: id is {service.id!r}; the file is named after it, {service.id}.yaml")
    return service


def load_services(folder: Path, profile: Profile = "non_device", model: str | None = None) -> Services:
    """Every `*.yaml` of a folder. `model` replaces the model of every service that has one (the demo uses this)."""
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ManifestError(f"{folder}: holds no service; expected files such as imaging-safety.yaml")
    services = [load_service(p) for p in paths]
    if model is not None:
        services = [msgspec.structs.replace(s, model=model) if s.model else s for s in services]
    return Services(services, profile)


def schema() -> dict[str, Any]:
    """JSON Schema of a manifest, for editors; `manifests/service.schema.json` is written from it."""
    return msgspec.json.schema(Service)
