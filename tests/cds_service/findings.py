"""A house of services that always find something, and a clinician who works there; the band is in the order's note."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from contexts import bundle

from cds_service.app import create_app
from cds_service.manifest import EvidenceItem, Rule, Service, Services
from cds_service.settings import Settings
from cds_service.state.store import Store
from cds_service.trust.clients import Clients

HOOKS = ("patient-view", "order-select", "order-sign")
EVIDENCE = {"encounter": EvidenceItem(read="Encounter/{{context.encounterId}}")}
MORNING = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def service(id_: str, seconds: float = 0.0, **rules: str) -> Service:
    """`service("cxr-insight", CX_02="info")`: one rule CX-02 of that tier; its advice takes so many seconds."""
    made = {
        name.replace("_", "-"): Rule(tier, "Guideline 2026", "https://example.org/g", "the owner", date(2027, 1, 1))  # type: ignore[arg-type]
        for name, tier in rules.items()
    }
    return Service(
        *(id_, HOOKS, id_, "Of the tests.", "finding", EVIDENCE, made),
        budget_ms=dict.fromkeys(HOOKS, 5000),
        settings={"seconds": seconds},
    )


class Ward:
    """The house, its clock, and calls of one user about one patient in one encounter unless said otherwise."""

    def __init__(self, folder: Path, *services: Service, **settings: Any) -> None:
        self.now = MORNING
        given = {"jwt": "off", "state_dir": folder / "state", "outbox_mb": 1, **settings}
        self.app = create_app(Settings(**given), services=Services(services), clients=Clients(), clock=lambda: self.now)
        self.state: Store = self.app.extensions["ordersight"].state

    def close(self) -> None:
        self.app.extensions["ordersight"].close()

    def wait(self, **span: float) -> None:
        self.now += timedelta(**span)

    def call(
        self,
        service_id: str,
        hook: str = "order-sign",
        *,
        order: str = "d1",
        band: str = "mild",
        code: str = "24627-2",
        user: str = "Practitioner/u1",
        patient: str = "p1",
        encounter: str = "e1",
        setting: str = "IMP",
        instance: str = "",
    ) -> Any:
        """The response of one call; `setting` is the class of the encounter."""
        context: dict[str, Any] = {"userId": user, "patientId": patient, "encounterId": encounter}
        if hook.startswith("order-"):
            draft = {
                "resourceType": "ServiceRequest",
                "id": order,
                "status": "draft",
                "intent": "order",
                "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "subject": {"reference": f"Patient/{patient}"},
                "note": [{"text": band}],
            }
            context["draftOrders"] = bundle(draft)
        if hook == "order-select":
            context["selections"] = [f"ServiceRequest/{order}"]
        stay = {
            "resourceType": "Encounter",
            "id": encounter,
            "status": "in-progress",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": setting},
            "subject": {"reference": f"Patient/{patient}"},
        }
        body = {
            "hook": hook,
            "hookInstance": instance or str(uuid.uuid4()),
            "context": context,
            "prefetch": {"encounter": stay},
        }
        return self.app.test_client().post(f"/cds-services/{service_id}", json=body)

    def cards(self, service_id: str, hook: str = "order-sign", **members: Any) -> list[dict[str, Any]]:
        response = self.call(service_id, hook, **members)
        assert response.status_code == 200, response.get_data(as_text=True)
        cards: list[dict[str, Any]] = response.get_json()["cards"]
        return cards

    def answer(self, service_id: str, card: Mapping[str, Any], *reasons: str, accepted: bool = False) -> None:
        item: dict[str, Any] = {"card": card["uuid"], "outcomeTimestamp": self.now.isoformat()}
        if accepted:
            item |= {"outcome": "accepted", "acceptedSuggestions": [{"id": card["suggestions"][0]["uuid"]}]}
        else:
            item |= {"outcome": "overridden", "overrideReasons": [{"reason": {"code": code}} for code in reasons]}
        response = self.app.test_client().post(f"/cds-services/{service_id}/feedback", json={"feedback": [item]})
        assert response.status_code == 200, response.get_data(as_text=True)
