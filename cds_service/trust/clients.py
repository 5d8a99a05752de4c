"""Who may call us, and which servers belong to them: the clients file, read strictly."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import yaml

from cds_service.trust.origins import Base, read_base, same_base
from cds_service.trust.registrations import Smart

log = logging.getLogger(__name__)

SubscriptionName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class ClientsError(ValueError):
    """The clients file is wrong: which entry, what would be right."""


class FhirServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One FHIR server of a client and the archives beside it.

    base           e.g. https://ehr.example.org/fhir/R4; plain http is for a server on this machine only
    dicomweb       DICOMweb roots this client's studies may be read from; the first serves studies that name no endpoint
    allow_private  True where these names lead to private addresses (10.0.0.0/8 and the like), as inside a hospital
    smart          how we are registered at its authorization server, where we are
    subscriptions  name of each of its subscriptions that notify us -> sha-256, hex, of the secret it sends
    patient_ids    by DICOMweb root: system of a Patient.identifier -> IssuerOfPatientID under which that archive has
                   such identifiers, empty where it has one issuer; a patient is looked for there by no others
    """

    base: str
    dicomweb: tuple[str, ...] = ()
    allow_private: bool = False
    smart: Smart | None = None
    subscriptions: dict[SubscriptionName, Sha256] = {}
    patient_ids: dict[str, dict[str, str]] = {}

    def __post_init__(self) -> None:
        self.fhir_base()
        self.archives()
        for root in self.patient_ids:
            if root not in self.dicomweb:
                raise ValueError(f"patient_ids names {root!r}, which is none of this server's `dicomweb` roots")

    def fhir_base(self) -> Base:
        return read_base(self.base, self.allow_private)

    def archives(self) -> tuple[Base, ...]:
        return tuple(read_base(root, self.allow_private) for root in self.dicomweb)

    def issuers(self, archive: Base) -> dict[str, str]:
        """`patient_ids` of one of the archives."""
        found = (named for root, named in self.patient_ids.items() if same_base(archive, root))
        return next(found, {})


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One registered CDS client.

    issuer      the `iss` of its JWT; jwks_url or jwks_file holds its public keys; `jku` must equal jwks_url
    tenant      kept apart from every other tenant
    audience    the public base URL of ours it calls, expected in `aud` before the path
    framed_by   origins of the EHR whose pages may show our evidence pages of this tenant in a frame
    """

    name: str
    fhir: tuple[FhirServer, ...]
    issuer: str = ""
    tenant: str = ""
    jwks_url: str = ""
    jwks_file: str = ""
    audience: str = ""
    framed_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for origin in self.framed_by:
            if origin != str(read_base(origin)) or read_base(origin).path:
                raise ValueError(f"framed_by has {origin!r}; write an origin alone, e.g. https://ehr.example.org")

    def server(self, url: str) -> FhirServer | None:
        """The registered server a request's `fhirServer` names, or None: then it is not contacted."""
        return next((s for s in self.fhir if same_base(s.fhir_base(), url)), None)

    def opens_smart_links(self, url: str | None) -> bool:
        """Whether the EHR of this server launches what a card's link names, so that such links may be given."""
        server = self.server(url) if url is not None else None
        launch = server.smart.launch if server is not None and server.smart is not None else None
        return launch is not None and launch.link == "smart"


class Clients:
    def __init__(self, clients: Sequence[Client] = ()) -> None:
        self._known = tuple(clients)

    @property
    def all(self) -> tuple[Client, ...]:
        return self._known

    def framed_by(self, tenant: str | None = None) -> tuple[str, ...]:
        """Origins that may show a page of this tenant's in a frame, or without one a page that holds nobody's data."""
        those = (c for c in self.all if tenant is None or tenant == (c.tenant or c.name))
        return tuple(dict.fromkeys(origin for client in those for origin in client.framed_by))

    def by_issuer(self, issuer: str) -> Client | None:
        return next((c for c in self.all if c.issuer and c.issuer == issuer), None)


class WatchedClients(Clients):
    """The clients of a file as it is now: what is added or removed holds from the next call on.

    A file that cannot be used leaves everything as it was, and says so in the log once. Raises ClientsError at first.
    """

    def __init__(self, path: Path, check: Callable[[Sequence[Client]], None] = lambda clients: None) -> None:
        self._path = path
        self._check = check
        self._lock = threading.Lock()
        self._seen = _signature(path)
        super().__init__(load_clients(path).all)
        check(self._known)

    @property
    def all(self) -> tuple[Client, ...]:
        if _signature(self._path) != self._seen:
            with self._lock:
                found = _signature(self._path)
                if found != self._seen:
                    self._read()
                    self._seen = found
        return self._known

    def _read(self) -> None:
        try:
            clients = load_clients(self._path).all
            self._check(clients)
        except ClientsError as error:
            log.error("the clients file cannot be used; the one before holds", extra={"fields": {"why": str(error)}})
            return
        self._known = clients
        log.info("clients read", extra={"fields": {"clients": len(clients)}})


def _signature(path: Path) -> tuple[int, int, int]:
    """Changes when the file does: an edit in place its time or size, one written beside and renamed its inode."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino


def load_clients(path: Path) -> Clients:
    """Read the clients file: a YAML list. A missing file is no clients, so nobody may call and nothing is read."""
    if not path.exists():
        return Clients()
    try:
        return Clients(read_clients(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, msgspec.ValidationError, OSError, UnicodeDecodeError) as error:
        raise ClientsError(f"{path}: {error}") from None


def read_clients(text: str) -> tuple[Client, ...]:
    """Raises yaml.YAMLError or msgspec.ValidationError."""
    return msgspec.convert(yaml.safe_load(text) or [], tuple[Client, ...])
