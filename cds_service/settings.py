"""`Settings`: what operations decides, from the environment. Nothing else in the house reads it."""

# ruff: noqa: RUF009 - `_setting` is dataclasses.field with the reading of the variable beside it
from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from cds_service.manifest import Profile
from cds_service.trust.origins import read_base

PREFIX = "ORDERSIGHT_"
NOT_OURS = frozenset({"ORDERSIGHT_SHARED"})
"""Variables of the tests that begin with our prefix."""
Jwt = Literal["required", "off"]


class SettingsError(ValueError):
    """A variable has a value it cannot have: which one, what would be right."""


def _default_manifests() -> Path:
    checkout = Path(__file__).resolve().parent.parent / "manifests"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "ordersight" / "manifests"


def _default_state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ordersight"


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return int(text)

    return read


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"write {' or '.join(allowed)}")
        return text

    return read


def _metrics(text: str) -> int | str:
    try:
        return text if text in ("off", "loopback") else _whole(1, 65535)(text)
    except ValueError:
        raise ValueError("write off, loopback, or a port from 1 to 65535") from None


def _engine_url(text: str) -> str:
    if text != "off" and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
        raise ValueError("write off, or an address such as http://ray:8000/engine")
    return text


def _traces(text: str) -> str:
    if text != "off" and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
        raise ValueError("write off, or an address such as http://127.0.0.1:4318/v1/traces")
    return text


def _repository(text: str) -> str:
    return text if text == "off" else str(read_base(text))


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if text != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("write origins such as https://ehr.example.org, without a path, separated by commas")
    return text


def _origins(text: str) -> tuple[str, ...]:
    return tuple(_origin(part.strip()) for part in text.split(",") if part.strip())


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("write the public address callers use, e.g. https://cds.example.org")
    return text.rstrip("/")


def _issuer(text: str) -> str:
    parts = urlsplit(text)
    loopback = parts.hostname in ("localhost", "127.0.0.1")
    if parts.scheme != "https" and not (loopback and parts.scheme == "http"):
        raise ValueError(
            "write the issuer as its own discovery document does, e.g. https://login.example.org/realms/it"
        )
    return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _host(text: str) -> str:
    if not text or any(c.isspace() or c == "/" for c in text):
        raise ValueError("write an address to listen on, e.g. 127.0.0.1 or 0.0.0.0")
    return text


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise ValueError("write the path of a file that exists")
    return Path(text)


def _setting(read: Callable[[str], Any], help_: str, default: Any = dataclasses.MISSING, **factory: Any) -> Any:
    metadata = {"read": read, "help": help_, "shown": factory.pop("shown", None)}
    return dataclasses.field(default=default, metadata=metadata, **factory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting is the environment variable of its name: `port` is ORDERSIGHT_PORT."""

    host: str = _setting(_host, "address to listen on", "127.0.0.1")
    port: int = _setting(_whole(0, 65535), "port to listen on; 0 takes a free one", 8080)
    base_url: str = _setting(
        _base_url,
        "public base URL, compared with the audience of every caller's token and used in links",
        "",
        shown="http://HOST:PORT",
    )
    manifests: Path = _setting(
        Path, "folder with services/ and models/", default_factory=_default_manifests, shown="manifests/"
    )
    models: Path = _setting(Path, "folder with one folder per model", None, shown="MANIFESTS/models")
    clients: Path = _setting(Path, "YAML file of who may call", None, shown="MANIFESTS/clients.yaml")
    sites: Path = _setting(Path, "folder with one YAML per site, named after its tenant", None, shown="MANIFESTS/sites")
    profile: Profile = _setting(_one_of(*get_args(Profile)), "whether image-derived output is on", "non_device")
    jwt: Jwt = _setting(_one_of(*get_args(Jwt)), "`off` lets anyone call: for a demo on this machine only", "required")
    cors_origins: tuple[str, ...] = _setting(
        _origins, "browser clients that may call, comma-separated origins", (), shown="none"
    )
    max_body_bytes: int = _setting(_whole(1_000, 100_000_000), "largest request body; larger is 413", 10_000_000)
    state_dir: Path = _setting(
        Path,
        "folder for what must outlive a restart: tokens seen, cards shown, feedback",
        default_factory=_default_state,
        shown="~/.local/state/ordersight",
    )
    state_url: str = _setting(
        str,
        "database of durable state, sqlite or postgresql+psycopg",
        "",
        shown="sqlite:///STATE_DIR/state.sqlite",
        repr=False,
    )
    state_owner_url: str = _setting(
        str,
        "PostgreSQL as the role that owns the tables, where ORDERSIGHT_STATE_URL is another role's",
        "",
        shown="ORDERSIGHT_STATE_URL",
        repr=False,
    )
    audit_repository: str = _setting(
        _repository,
        "FHIR base of the audit repository, which gets every audit row as an AuditEvent (IHE ITI-20), or `off`",
        "off",
    )
    audit_token_file: Path | None = _setting(
        _file, "file with the bearer token for the audit repository", None, shown="none"
    )
    outbox_mb: int = _setting(
        _whole(1, 4096), "MiB reserved in the state folder for answers while the database takes none", 64
    )
    economy: Literal["on", "off"] = _setting(
        _one_of("on", "off"), "`off` shows every card every time, and records it: for a demo or a test", "on"
    )
    films_workers: int = _setting(
        _whole(0, 16), "threads that fetch and encode films when they arrive; 0 leaves it to other processes", 1
    )
    films_days: int = _setting(_whole(1, 365), "days an encoded film is kept", 30)
    films_mb: int = _setting(_whole(1, 100_000), "MiB of encoded films kept; beyond, the oldest go", 1024)
    ca_bundle: Path | None = _setting(
        _file, "file of certificate authorities to trust instead of the usual ones", None, shown="certifi's"
    )
    accepted_licences: tuple[str, ...] = _setting(
        _names, "licences of gated or research-only backbones that this site accepts, comma-separated", (), shown="none"
    )
    fhir_in_flight: int = _setting(_whole(1, 256), "reads under way at one FHIR server", 16)
    dicomweb_in_flight: int = _setting(_whole(1, 256), "reads under way at one DICOMweb archive", 8)
    threads: int = _setting(_whole(1, 256), "calls answered at the same time, by each worker", 32)
    workers: int = _setting(
        _whole(1, 64), "web processes on one port; from 2 on the models have a process of their own", 1
    )
    engine_url: str = _setting(
        _engine_url, "where Ray Serve answers for the models, e.g. http://ray:8000/engine; `off` has them here", "off"
    )
    client_points_per_s: int = _setting(
        _whole(1, 1_000_000), "what one client may use: order-sign costs 5, order-select 3, most hooks 1", 1000
    )
    metrics: int | str = _setting(
        _metrics, "Prometheus metrics: `off`, `loopback` (127.0.0.1, port 9464), or a port on ORDERSIGHT_HOST", "off"
    )
    traces: str = _setting(
        _traces,
        "OpenTelemetry traces: `off`, or the address of a collector, e.g. http://127.0.0.1:4318/v1/traces",
        "off",
    )
    oidc_issuer: str = _setting(
        _issuer, "OpenID provider where admins may log in to the console, by its issuer URL", "", shown="off"
    )
    oidc_client_id: str = _setting(str, "what that provider calls us", "", shown="none")
    oidc_secret_file: Path | None = _setting(
        _file,
        "file with our client secret, mode 600; without it PKCE alone shows that a code is ours",
        None,
        shown="none",
    )
    oidc_origins: tuple[str, ...] = _setting(
        _origins, "further origins the provider's discovery may name, comma-separated", (), shown="none"
    )
    oidc_scopes: str = _setting(str, "what is asked for; some providers send groups only for a scope", "openid profile")
    oidc_role_claim: str = _setting(str, "claim with the admin's groups; a path such as realm_access.roles", "groups")
    oidc_view: tuple[str, ...] = _setting(_words, "groups that may look, comma-separated", (), shown="none")
    oidc_change: tuple[str, ...] = _setting(_words, "groups that may change, comma-separated", (), shown="none")
    drain_s: int = _setting(_whole(0, 300), "seconds a stopping server gives calls under way", 25)

    def __post_init__(self) -> None:
        for name, value in (
            ("base_url", self.base_url or self.own_url),
            ("models", self.models or self.manifests / "models"),
            ("clients", self.clients or self.manifests / "clients.yaml"),
            ("sites", self.sites or self.manifests / "sites"),
            ("state_url", self.state_url or f"sqlite:///{self.state_dir.absolute() / 'state.sqlite'}"),
            ("state_owner_url", self.state_owner_url or self.state_url),
        ):
            object.__setattr__(self, name, value)
        if self.oidc_issuer and not (self.oidc_client_id and (self.oidc_view or self.oidc_change)):
            raise SettingsError(
                "ORDERSIGHT_OIDC_ISSUER needs ORDERSIGHT_OIDC_CLIENT_ID, and groups in ORDERSIGHT_OIDC_VIEW or _CHANGE"
            )

    @property
    def oidc_host(self) -> str:
        return urlsplit(self.oidc_issuer).hostname or ""

    @property
    def own_url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def on_port(self, port: int) -> Settings:
        """These settings with the port that was found; a base URL that was not set follows."""
        base_url = "" if self.base_url == self.own_url else self.base_url
        return dataclasses.replace(self, port=port, base_url=base_url)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `environ`, by default the process's. An empty variable counts as unset.

        Raises SettingsError naming the variable; a variable with our prefix that is no setting is a typing error.
        """
        environ = os.environ if environ is None else environ
        fields = {PREFIX + f.name.upper(): f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environ.items():
            if not variable.startswith(PREFIX) or variable in NOT_OURS or not text:
                continue
            if variable not in fields:
                near = get_close_matches(variable, fields, n=1)
                raise SettingsError(f"{variable} is no setting{f'; did you mean {near[0]}?' if near else ''}")
            try:
                values[fields[variable].name] = fields[variable].metadata["read"](text)
            except ValueError as error:
                raise SettingsError(f"{variable} is {text!r}; {error}") from None
        return cls(**values)


def documented() -> tuple[tuple[str, str, str], ...]:
    """Every variable with its default and meaning, for docs/operations.md."""
    return tuple(
        (PREFIX + f.name.upper(), str(f.metadata["shown"] or f.default), f.metadata["help"])
        for f in dataclasses.fields(Settings)
    )
