"""A small CDS client for tests: it discovers, resolves prefetch templates, signs its calls and fires hooks."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from joserfc import jwt
from joserfc.jwk import ECKey

ISSUER = "https://ehr.test.example"
KEY = ECKey.generate_key("P-384", {"kid": "test-key", "alg": "ES384", "use": "sig"})
_TOKEN = re.compile(r"\{\{context\.([A-Za-z]+)\}\}")
PAGES_MAX = 50


@dataclass(frozen=True)
class Answer:
    """What came back of one hook call, and how long it took."""

    status: int
    body: dict[str, Any]
    seconds: float

    @property
    def cards(self) -> list[dict[str, Any]]:
        assert self.status == 200, (self.status, self.body)
        cards: list[dict[str, Any]] = self.body["cards"]
        return cards


@dataclass
class Ehr:
    """One EHR in front of one FHIR server.

    clock         what its tokens are dated by
    access_token  what it lends the service for each call
    """

    service: str
    fhir: str
    clock: Callable[[], float] = time.time
    access_token: str = "lent-for-one-call"
    session: requests.Session = field(default_factory=requests.Session)

    def discover(self, service: str, hook: str) -> dict[str, Any]:
        services = self.session.get(f"{self.service}/cds-services", timeout=60).json()["services"]
        entry: dict[str, Any] = next(s for s in services if (s["id"], s["hook"]) == (service, hook))
        return entry

    def resolve(self, template: str, context: Mapping[str, Any]) -> Any:
        """What an EHR sends for one prefetch template: the resource, or the search with all its pages in one Bundle."""
        url = f"{self.fhir}/{_TOKEN.sub(lambda m: str(context[m[1]]), template)}"
        first = self.session.get(url, timeout=30)
        if first.status_code == 404:
            return None
        first.raise_for_status()
        found: dict[str, Any] = first.json()
        if found["resourceType"] != "Bundle":
            return found
        page = found
        for _ in range(PAGES_MAX):
            after = next((link["url"] for link in page.get("link", []) if link["relation"] == "next"), None)
            if after is None:
                break
            page = self.session.get(after, timeout=30).json()
            found["entry"] += page.get("entry", [])
        return {**found, "link": [link for link in found["link"] if link["relation"] == "self"]}

    def prefetch(self, service: str, hook: str, context: Mapping[str, Any]) -> dict[str, Any]:
        templates = self.discover(service, hook)["prefetch"]
        return {
            key: self.resolve(template, context)
            for key, template in templates.items()
            if all(name in context for name in _TOKEN.findall(template))
        }

    def call(
        self,
        service: str,
        hook: str,
        context: Mapping[str, Any],
        prefetch: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Answer:
        """Fire a hook. Without `prefetch` the service has to read everything itself."""
        url = f"{self.service}/cds-services/{service}"
        body = {
            "hook": hook,
            "hookInstance": str(uuid.uuid4()),
            "fhirServer": self.fhir,
            "fhirAuthorization": {
                "access_token": self.access_token,
                "token_type": "Bearer",
                "expires_in": 300,
                "scope": "patient/*.rs",
                "subject": "test-ehr-cds",
            },
            "context": dict(context),
            **({} if prefetch is None else {"prefetch": dict(prefetch)}),
            **more,
        }
        started = time.perf_counter()
        got = requests.post(url, json=body, headers=self._signed(url), timeout=60)
        return Answer(got.status_code, got.json(), time.perf_counter() - started)

    def feedback(self, service: str, *decisions: Mapping[str, Any]) -> int:
        """Report what the user did with cards; returns the status."""
        url = f"{self.service}/cds-services/{service}/feedback"
        return requests.post(url, json={"feedback": decisions}, headers=self._signed(url), timeout=60).status_code

    def _signed(self, url: str) -> dict[str, str]:
        now = int(self.clock())
        claims = {"iss": ISSUER, "aud": url, "iat": now, "exp": now + 300, "jti": str(uuid.uuid4())}
        token = jwt.encode({"alg": "ES384", "kid": "test-key", "typ": "JWT"}, claims, KEY, algorithms=["ES384"])
        return {"Authorization": f"Bearer {token}"}


def patient_view(patient: str) -> dict[str, Any]:
    return {"userId": "Practitioner/test", "patientId": patient}


def order_sign(patient: str, *drafts: dict[str, Any]) -> dict[str, Any]:
    entries = [{"resource": draft} for draft in drafts]
    return {**patient_view(patient), "draftOrders": {"resourceType": "Bundle", "type": "collection", "entry": entries}}


def as_text(markdown: str) -> str:
    """Markdown as its reader sees it: a backslash before punctuation only escapes it."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown)


def table_of(card: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of a card's evidence table, by the names of its columns."""
    lines = [line.strip() for line in card.get("detail", "").splitlines() if line.strip().startswith("|")]
    rows = [[as_text(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    if len(rows) < 3:
        return []
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def without_uuids(value: Any) -> Any:
    """A copy in which everything that is new in every answer is gone: uuids, and the secret address of evidence."""
    text = json.dumps(value)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[45][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", "UUID", text)
    return json.loads(re.sub(r"/evidence/[A-Za-z0-9_-]+#[A-Za-z0-9_-]+", "/evidence/SECRET", text))
