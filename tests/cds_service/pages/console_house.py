"""The service with an admin console on a socket, two admins in it, and browsers that are logged in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import requests
from demo_server import served
from evidence_house import START, Clock, words_of
from flask import Flask
from vignettes import SERVICES

sys.path.insert(0, str(Path(__file__).parents[1] / "state"))

from state_cases import answer, card

from cds_service.app import create_app
from cds_service.manifest import load_services
from cds_service.pages.console_accounts import Accounts
from cds_service.settings import Settings
from cds_service.state.records import FeedbackItem, Reason
from cds_service.state.store import Store
from cds_service.trust.clients import Clients

ADMINS = {"ada": ("change", "correct horse battery"), "vic": ("view", "staple and some more")}
HOUR = timedelta(hours=1)
CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@dataclass
class ConsoleHouse:
    base: str
    app: Flask
    clock: Clock
    folder: Path

    @property
    def state(self) -> Store:
        found: Store = self.app.extensions["ordersight"].state
        return found

    def logged_in(self, name: str) -> Visitor:
        visitor = Visitor(self.base)
        answer = visitor.post("/admin/login", name=name, password=ADMINS[name][1])
        assert answer.status_code == 200, answer.text
        return visitor

    def audited(self) -> list[dict[str, Any]]:
        """What the audit chain says admins did, oldest first; the chain itself must hold."""
        assert self.state.verify_audit().ok
        rows = [orjson.loads(line) for line in self.state.export_audit("")]
        return [orjson.loads(r["details"]) | {"kind": r["kind"]} for r in rows]


class Visitor(requests.Session):
    """A browser: it keeps cookies, follows redirects, and sends the form token it last saw."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base, self.csrf = base, ""

    def see(self, path: str) -> str:
        answer = self.get(self.base + path, timeout=20)
        assert answer.status_code == 200, answer.text
        found = CSRF.search(answer.text)
        self.csrf = found[1] if found else self.csrf
        return answer.text

    def words(self, path: str) -> str:
        return words_of(self.see(path))

    def post(self, path: str, **fields: str) -> requests.Response:  # type: ignore[override]
        return super().post(self.base + path, {"csrf": self.csrf} | fields, timeout=20)


@contextmanager
def console_house(
    folder: Path,
    *,
    admins: bool = True,
    clients: Clients | None = Clients(),
    clients_file: Path | None = None,
    **settings: Any,
) -> Iterator[ConsoleHouse]:
    """`clients` None reads them from the file, as it is at every call."""
    clock = Clock()
    if clients_file is not None:
        settings["clients"] = clients_file
    usual = {"jwt": "off", "profile": "research_imaging"}
    given = Settings(state_dir=folder / "state", **(usual | settings))
    if admins:
        accounts = Accounts(given.state_dir)
        for name, (role, password) in ADMINS.items():
            accounts.add(name, role, password, datetime(2026, 3, 1, tzinfo=UTC))
        accounts.close()
    services = load_services(SERVICES, given.profile)
    app = create_app(given, services=services, clients=clients, clock=clock)
    with served(app, settings.get("port", 0)) as base:
        try:
            yield ConsoleHouse(base, app, clock, given.state_dir)
        finally:
            app.extensions["ordersight"].close()


def shown(
    house: ConsoleHouse, n: int, user: str = "u", service: str = "imaging-safety", digest: str = "ab" * 32
) -> None:
    """`n` order signings of one user, each answered with one warning of IS-01, a card id of its own."""
    for number in range(n):
        made = card(f"{user}-{number}")
        record = answer(made, at=START - HOUR, user_key=user, service=service, model_digest=digest, decisions=())
        house.state.record_answer(record, timeout=20)


def reply(house: ConsoleHouse, card_id: str, outcome: str, code: str = "") -> None:
    reasons = (Reason(code),) if code else ()
    said = FeedbackItem(card=card_id, outcome=outcome, outcome_at=START, reasons=reasons)  # type: ignore[arg-type]
    house.state.record_feedback("north", [said])
