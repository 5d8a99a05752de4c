"""The service of deterioration, served with its store, at a moment that tests put forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import requests
from demo_server import served
from vignettes import Answers, Chart
from ward_charts import NAME, NOW

from cds_service import ledger
from cds_service.app import create_app
from cds_service.manifest import Service, Services
from cds_service.settings import Settings
from cds_service.trust.clients import Clients

START = datetime.fromisoformat(NOW)


class Ward:
    def __init__(self) -> None:
        self.now = START
        self.base = ""
        self.app: Any = None

    def open_chart(self, about: Chart, user: str = "Practitioner/u1", **prefetch: Any) -> list[Mapping[str, Any]]:
        """The cards of one call; `prefetch` replaces keys, and `...` leaves one out."""
        body = {**orjson.loads(about.body(NAME)), "hookInstance": f"call-{self.now.timestamp():.0f}"}
        body["context"]["userId"] = user
        body["prefetch"] = {k: v for k, v in {**body["prefetch"], **prefetch}.items() if v is not ...}
        return self.post(body)

    def post(self, body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        answer = requests.post(f"{self.base}/cds-services/{NAME}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["cards"])

    def later(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)

    def decisions(self) -> list[tuple[str, str, str]]:
        """What became of each rule in the newest call."""
        *_, row = (r for r in map(orjson.loads, self.app.state.export_audit()) if r["kind"] == "answer")
        return [(d["rule"], d["outcome"], d["cause"]) for d in orjson.loads(row["decisions"])]


@contextmanager
def ward(folder: Path, manifest: Service, model: Answers) -> Iterator[Ward]:
    """No call is late: these tests are not about time."""
    made = Ward()
    unhurried = msgspec.structs.replace(manifest, budget_ms=dict.fromkeys(manifest.hooks, 60_000))
    app = create_app(
        Settings(jwt="off", state_dir=folder, profile="research_imaging", outbox_mb=1),
        services=Services([unhurried], "research_imaging"),
        engines={"chest-open": model},
        clients=Clients(),
        clock=lambda: made.now,
    )
    made.app = app.extensions["ordersight"]
    with pytest.MonkeyPatch.context() as patch, served(app) as base:
        for patience in ("HISTORY_S", "KEEP_S"):
            patch.setattr(ledger, patience, 30.0)
        made.base = base
        try:
            yield made
        finally:
            made.app.close()
