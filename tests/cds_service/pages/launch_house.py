"""A service whose caller signs its calls, an EHR that launches its evidence pages, and browsers that follow along."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import requests
from authorization import App, Authorization, authorization_server
from callers import Caller
from contrast import LOW, METFORMIN, STEADY
from contrast import NAME as CONTRAST
from contrast import chart as contrast_chart
from evidence_house import Clock
from flask import Flask
from vignettes import SERVICES

from cds_service.app import create_app
from cds_service.manifest import load_services
from cds_service.server import Server
from cds_service.settings import Settings
from cds_service.trust.clients import Client, Clients, FhirServer
from cds_service.trust.private_keys import load_keys, new_key, public_set
from cds_service.trust.registrations import Launch, Smart

CALLER = Caller("ES384", "k1")
REFRESH = re.compile(r'http-equiv="refresh" content="0;url=([^"]*)"')


class Browser(requests.Session):
    """Follows redirects, as requests does, and pages that go on by themselves."""

    def go(self, url: str) -> requests.Response:
        return self.follow(self.get(url, timeout=20))

    def follow(self, answer: requests.Response) -> requests.Response:
        while (onward := REFRESH.search(answer.text)) is not None:
            answer = self.get(requests.compat.urljoin(answer.url, html.unescape(onward[1])), timeout=20)
        return answer

    def stop_at(self, url: str, path: str) -> str:
        """Follows as far as an address with this path, which is not asked for; the address."""
        answer = self.get(url, timeout=20, allow_redirects=False)
        for _ in range(5):
            onward = REFRESH.search(answer.text)
            url = html.unescape(onward[1]) if onward else answer.headers.get("Location", "")
            if urlsplit(url).path == path:
                return url
            answer = self.get(url, timeout=20, allow_redirects=False)
        raise AssertionError(answer.text)


@dataclass
class Launching:
    """`ehr` belongs to the tenant north and `other` to the tenant south; both launch the same service."""

    base: str
    app: Flask
    clock: Clock
    ehr: Authorization
    other: Authorization

    def card(self, ehr: Authorization | None = None) -> Mapping[str, Any]:
        """A card of patient p1, for a call of this EHR."""
        ehr = ehr or self.ehr
        body = json.loads(contrast_chart(LOW, STEADY, METFORMIN).body(CONTRAST)) | {"fhirServer": ehr.fhir}
        path = f"/cds-services/{CONTRAST}"
        token = CALLER.token(self.base + path, self.clock().timestamp(), iss=ehr.fhir)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        answer = requests.post(self.base + path, json.dumps(body), headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text
        (card,) = answer.json()["cards"]
        return card  # type: ignore[no-any-return]

    def link(self, ehr: Authorization | None = None) -> Mapping[str, str]:
        return next(link for link in self.card(ehr)["links"] if link["label"] == "Evidence")

    def opens(self, ehr: Authorization, context: str | None, patient: str | None = "p1", launch: str = "l1") -> str:
        """The EHR makes a launch of a card's link; the address it opens."""
        told = {"patient": patient, "appContext": context}
        ehr.launches[launch] = {name: value for name, value in told.items() if value is not None}
        return f"{self.base}/launch?iss={ehr.fhir}&launch={launch}"

    def audited(self, tenant: str = "north") -> list[dict[str, Any]]:
        """Details of the tenant's evidence rows, oldest first; the chain itself must hold."""
        state = self.app.extensions["ordersight"].state
        assert state.verify_audit().ok
        rows = [orjson.loads(line) for line in state.export_audit(tenant)]
        return [orjson.loads(row["details"]) | {"row": row} for row in rows if row["kind"] == "evidence"]


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@contextmanager
def launch_house(
    folder: Path,
    *,
    link: str = "smart",
    confidential: bool = True,
    host: str = "127.0.0.1",
    framed_by: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    **settings: Any,
) -> Iterator[Launching]:
    """`host` is where the EHRs are; `framed_by` says of each tenant whose pages may frame ours."""
    clock = Clock()
    folder.mkdir(parents=True, exist_ok=True)
    keys, key_file = folder / "caller.json", folder / "launch.jwk"
    keys.write_text(json.dumps({"keys": [CALLER.jwk()]}))
    new_key(key_file)
    jwks = public_set(load_keys(key_file)) if confidential else None
    with ExitStack() as stack:
        ehrs = [stack.enter_context(authorization_server(host)) for _ in range(2)]
        server = stack.enter_context(Server(Settings(port=0, state_dir=folder / "state", threads=4, **settings)))
        for ehr in ehrs:
            ehr.clock = lambda: clock().timestamp()
            ehr.apps["ordersight"] = App("ordersight", f"{server.url}/launch/callback", jwks)
        registered = Launch("ordersight", str(key_file) if confidential else "", link)  # type: ignore[arg-type]
        clients = [
            Client(
                name,
                (FhirServer(ehr.fhir, smart=Smart(launch=registered)),),
                issuer=ehr.fhir,
                tenant=name,
                jwks_file=str(keys),
                framed_by=framed_by.get(name, ()),
            )
            for name, ehr in zip(("north", "south"), ehrs, strict=True)
        ]
        given = server.settings
        app = create_app(given, services=load_services(SERVICES, given.profile), clients=Clients(clients), clock=clock)
        thread = threading.Thread(target=server.run, args=(app,))
        thread.start()
        try:
            yield Launching(server.url, app, clock, *ehrs)
        finally:
            server.stop()
            thread.join()
