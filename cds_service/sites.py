"""`Site`: what one hospital sets for itself: its local codes, what its staff's roles mean, who owns which topic.

One YAML per tenant of the clients file, named after it; the table of codes is a CSV beside it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec
import yaml

from cds_service.cards import Card
from cds_service.manifest import EvidenceItem, ManifestError, Service, Services
from fhir_mappers import code_map
from fhir_mappers.code_map import CodeMap, CodeMapError, read_code_map
from fhir_mappers.pgx import pgx_rows

StaffRole = Literal["prescriber", "nurse", "pharmacist", "technologist", "viewer"]
NO_CODES = CodeMap()
STAFF_EVIDENCE = {
    "staff_role": EvidenceItem(read="PractitionerRole/{{userPractitionerRoleId}}"),
    "staff_roles": EvidenceItem(read="PractitionerRole?practitioner={{userPractitionerId}}&_count=50"),
}
"""What is asked for where a site says what roles mean: whichever of the two `userId` can fill."""
_TOKEN = re.compile(r".+\|.+")


class SiteFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The YAML. `codes` names the CSV; keys of `roles` and values of `owners` are `system|code`.

    roles   codes of PractitionerRole.code -> what such a person sees; nobody's role is asked for without them
    owners  rule -> specialties (PractitionerRole.specialty) that own its topic and hear it one tier lower
    """

    codes: str = ""
    roles: dict[str, StaffRole] = {}
    owners: dict[str, tuple[str, ...]] = {}

    def __post_init__(self) -> None:
        if self.codes and (Path(self.codes).name != self.codes or not self.codes.endswith(".csv")):
            raise ValueError(f"codes is {self.codes!r}; write the name of a .csv file beside this one")
        for token in (*self.roles, *(t for tokens in self.owners.values() for t in tokens)):
            if _TOKEN.fullmatch(token) is None:
                raise ValueError(f"{token!r} is no code; write system|code, as http://snomed.info/sct|224535009")
        if self.owners and not self.roles:
            raise ValueError("owners needs roles: without them nobody's PractitionerRole is read")


@dataclass(frozen=True, slots=True)
class Site:
    """One site as it is used; the default says nothing and changes nothing."""

    codes: CodeMap = NO_CODES
    roles: Mapping[str, StaffRole] = field(default_factory=dict)
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ANY_SITE = Site()


@dataclass(frozen=True, slots=True)
class Sites:
    """The sites of this installation by tenant."""

    by_tenant: Mapping[str, Site] = field(default_factory=dict)

    def of(self, tenant: str) -> Site:
        return self.by_tenant.get(tenant, ANY_SITE)

    def asked_of(self, services: Services) -> Services:
        """The services with what the sites need asked for: their own codes in searches by code, and staff's roles.

        Discovery is one for all callers, so every site's codes stand in it.
        """
        sites = tuple(self.by_tenant.values())
        staff = STAFF_EVIDENCE if any(site.roles for site in sites) else {}
        maps = [site.codes for site in sites if site.codes.targets]
        if not staff and not maps:
            return services
        return Services([_asking(service, maps, staff) for service in services.all], services.profile)


def _asking(service: Service, maps: Iterable[CodeMap], staff: Mapping[str, EvidenceItem]) -> Service:
    evidence = {key: _searching(item, maps) for key, item in service.evidence.items()}
    return msgspec.structs.replace(service, evidence={**evidence, **staff})


def _searching(item: EvidenceItem, maps: Iterable[CodeMap]) -> EvidenceItem:
    if item.search is None:
        return item
    type_, mark, query = item.search.partition("?")
    parts = []
    for part in query.split("&"):
        name, equals, tokens = part.partition("=")
        if name == "code":
            split = [token.partition("|") for token in tokens.split(",")]
            local = [c for codes in maps for system, _, code in split for c in codes.local((system, code))]
            tokens = ",".join([tokens, *dict.fromkeys(_search_token(*c) for c in local)])
        parts.append(f"{name}{equals}{tokens}")
    return msgspec.structs.replace(item, search=type_ + mark + "&".join(parts))


def _search_token(system: str, code: str) -> str:
    """`system|code` in a search, with FHIR's own escapes (R4 search, 3.1.1.4.0.1) and the URL's."""
    escaped = re.sub(r"([\\,|$])", r"\\\1", code)
    return f"{quote(system, safe=':/.-_~')}|{quote(escaped, safe='-._~')}"


def load_sites(folder: Path, rules: Collection[str]) -> Sites:
    """Every `*.yaml` of the folder; a folder that is not there is no sites. `rules` are those that may have owners.

    Raises ManifestError naming the file, and the line for a row of codes.
    """
    paths = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    return Sites({path.stem: _load(path, rules) for path in paths})


def _load(path: Path, rules: Collection[str]) -> Site:
    try:
        found = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, SiteFile)
    except (yaml.YAMLError, msgspec.ValidationError, OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: {error}") from None
    unknown = sorted(found.owners.keys() - set(rules))
    if unknown:
        raise ManifestError(f"{path}: owners has {unknown[0]!r}, which is no rule of any service here")
    if not found.codes:
        return Site(roles=found.roles, owners=found.owners)
    table = path.with_name(found.codes)
    try:
        codes = read_code_map(table.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{table}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    except CodeMapError as error:
        raise ManifestError(f"{table}: {error}") from None
    return Site(codes, found.roles, found.owners)


def rule_names(services: Services) -> frozenset[str]:
    """Every rule a card may rest on: those of the manifests and the rows of the gene-drug table."""
    return frozenset({rule for service in services.all for rule in service.rules} | {r.row_id for r in pgx_rows()})


def as_sent(card: Card) -> Card:
    """The card with resources as the EHR wrote them: a coding that a site's map added is not for sending back."""
    replace = msgspec.structs.replace
    suggestions = [
        replace(s, actions=tuple(replace(a, resource=code_map.as_sent(a.resource)) for a in s.actions))
        for s in card.suggestions
    ]
    return replace(card, suggestions=tuple(suggestions))
