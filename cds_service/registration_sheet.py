"""`registration_sheet`: what is handed to whoever registers us at an EHR, and what we need to hear back.

sheet = registration_sheet(settings, services, "epic")      # the console prints it, `cds-service register` as well

What a vendor does differently is from its own public documents as far as there are any; each note says from when.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

from cds_service.advice.writing import DEFAULT_REASONS
from cds_service.manifest import Services
from cds_service.prefetch import template_type
from cds_service.settings import Settings
from cds_service.trust.keys import ALGORITHMS

Ehr = Literal["generic", "epic", "oracle-health", "medplum"]
EHRS: tuple[Ehr, ...] = get_args(Ehr)
TITLES: Mapping[Ehr, str] = {
    "generic": "Any CDS Hooks 2.0 client",
    "epic": "Epic",
    "oracle-health": "Oracle Health (Cerner Millennium)",
    "medplum": "Medplum",
}
HOOKS_OF: Mapping[Ehr, frozenset[str] | None] = {
    "generic": None,
    "epic": frozenset({"patient-view", "order-select", "order-sign"}),
    "oracle-health": frozenset({"patient-view"}),
    "medplum": None,
}
NOTES: Mapping[Ehr, tuple[str, ...]] = {
    "generic": (
        "The client reads our discovery and sends the prefetch we name; a key it does not send we read from its "
        "fhirServer with the token of the call.",
    ),
    "epic": (
        "Epic never reads discovery: type each prefetch key and query of this sheet into the LGL record.",
        "The endpoint must be the URL on the client id exactly; otherwise the call comes without its data.",
        "Each service has one audience: type its URL as `aud`. Tokens are RS384, `iss` is your FHIR base, `jku` is "
        "your organisation's.",
        "Feedback may be sent at once or in batches; both are taken.",
        "Source: Epic's public CDS Hooks tutorial (state of 2024).",
    ),
    "oracle-health": (
        "Only patient-view is documented; the order hooks are announced in prose. Ask which your domain has.",
        "Links are removed from cards unless their addresses are listed at registration: list those of this sheet.",
        "`appContext` is not supported: register our launch as absolute links.",
        "`iss` is https://cds-hooks.cerner.com; keys are found by https://authorization.cerner.com/jwk.",
        "Source: a draft of 2021 in the vendor's documentation repository, never merged; confirm with the vendor.",
    ),
    "medplum": (
        "Medplum has calls in its SDK that invoke CDS services; what it sends as identity depends on the project.",
        "FHIR reads need an access token of the project: register a client application with the scopes below.",
        "Source: the project's public repository.",
    ),
}
OF_NO_PATIENT = frozenset({"PractitionerRole"})
"""Types that no patient's scope reaches (FHIR R4, compartment of Patient)."""
NEEDED = (
    "The FHIR R4 base URL of each environment",
    "`iss` of the tokens that you sign, and the URL of your public keys (jku)",
    "The client id you gave us, where you gave one, and its scopes",
    "The DICOMweb root of your archive, where films may be read",
    "The address ranges you call from, where our firewall has to know them",
)


class ServiceSheet(msgspec.Struct, frozen=True):
    """`audience` is what `aud` of a call's token must be, exactly; feedback has its own."""

    id: str
    title: str
    hooks: tuple[str, ...]
    hooks_not_sent: tuple[str, ...]
    url: str
    audience: str
    feedback: str
    budget_s: Mapping[str, float]
    prefetch: Mapping[str, str]
    required: tuple[str, ...]


class RegistrationSheet(msgspec.Struct, frozen=True):
    """`scopes` are those for reads with the token of a hook; `backend_scopes` those for reads outside any hook."""

    ehr: Ehr
    title: str
    discovery: str
    jwks: str
    launch: str
    redirect_uri: str
    algorithms: tuple[str, ...]
    longest_body_bytes: int
    scopes: tuple[str, ...]
    backend_scopes: tuple[str, ...]
    services: tuple[ServiceSheet, ...]
    override_reasons: Mapping[str, str]
    links: tuple[str, ...]
    notes: tuple[str, ...]
    needed: tuple[str, ...]


def registration_sheet(settings: Settings, services: Services, ehr: Ehr) -> RegistrationSheet:
    base = settings.base_url.rstrip("/")
    sent = HOOKS_OF[ehr]
    sheets = []
    for service in services.on:
        url = f"{base}/cds-services/{service.id}"
        here = tuple(hook for hook in service.hooks if sent is None or hook in sent)
        sheets.append(
            ServiceSheet(
                id=service.id,
                title=service.title,
                hooks=here,
                hooks_not_sent=tuple(hook for hook in service.hooks if hook not in here),
                url=url,
                audience=url,
                feedback=f"{url}/feedback",
                budget_s={hook: service.budget_s(hook) for hook in here},
                prefetch=service.prefetch(),
                required=tuple(key for key, item in service.evidence.items() if item.required),
            )
        )
    types = _types(services)
    return RegistrationSheet(
        ehr=ehr,
        title=TITLES[ehr],
        discovery=f"{base}/cds-services",
        jwks=f"{base}/.well-known/jwks.json",
        launch=f"{base}/launch",
        redirect_uri=f"{base}/launch/callback",
        algorithms=tuple(sorted({name for names in ALGORITHMS.values() for name in names})),
        longest_body_bytes=settings.max_body_bytes,
        scopes=tuple(f"{'user' if type_ in OF_NO_PATIENT else 'patient'}/{type_}.rs" for type_ in types),
        backend_scopes=tuple(f"system/{type_}.rs" for type_ in types),
        services=tuple(sheets),
        override_reasons=dict(DEFAULT_REASONS),
        links=(f"{base}/launch", f"{base}/evidence/"),
        notes=NOTES[ehr],
        needed=NEEDED,
    )


def _types(services: Services) -> tuple[str, ...]:
    """Every resource type that a prefetch template asks for, those it includes among them."""
    found = set()
    for service in services.on:
        for template in service.prefetch().values():
            if (type_ := template_type(template)) is not None:
                found.add(type_)
            if "_include=ImagingStudy:endpoint" in template:
                found.add("Endpoint")
            if re.search(r"_include=Medication(?:Request|Administration):medication", template):
                found.add("Medication")
    return tuple(sorted(found))
