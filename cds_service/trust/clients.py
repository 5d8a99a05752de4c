"""Who may call us, and which servers belong to them: the clients file, read strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import yaml


class ClientsError(ValueError):
    """The clients file is wrong: which entry, what would be right."""


class FhirServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One FHIR server of a client and the archives beside it.

    base      e.g. https://ehr.example.org/fhir/R4; plain http only when written out, for loopback
    dicomweb  DICOMweb roots this client's studies may be read from; the first serves studies that name no endpoint
    """

    base: str
    dicomweb: tuple[str, ...] = ()


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One registered CDS client.

    issuer      the `iss` of its JWT; jwks_url or jwks_file holds its public keys; `jku` must equal jwks_url
    tenant      kept apart from every other tenant
    audience    the public base URL of ours it calls, expected in `aud` before the path
    """

    name: str
    fhir: tuple[FhirServer, ...]
    issuer: str = ""
    tenant: str = ""
    jwks_url: str = ""
    jwks_file: str = ""
    audience: str = ""


class Clients:
    def __init__(self, clients: Sequence[Client] = ()) -> None:
        self.all = tuple(clients)

    def by_issuer(self, issuer: str) -> Client | None:
        return next((c for c in self.all if c.issuer and c.issuer == issuer), None)


def load_clients(path: Path) -> Clients:
    """Read the clients file: a YAML list. A missing file is no clients, so nobody may call and nothing is read."""
    if not path.exists():
        return Clients()
    try:
        return Clients(msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")) or [], tuple[Client, ...]))
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ClientsError(f"{path}: {error}") from None
