"""What clinicians call wrong and what reports contradict reaches the console's queue over HTTP, and is closed there."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from console_house import ADMINS, HOUR, ConsoleHouse, Visitor, console_house, reply, shown
from evidence_house import FINDINGS, Evidence, evidence_house, link_of, words_of
from film_charts import film_reading
from film_charts import report as film_report
from vignettes import Answers

from cds_service.demo.fire import Ehr
from cds_service.pages.console_accounts import Accounts
from cds_service.state.quality import queue
from cds_service.state.records import FeedbackItem

NAME = "cxr-insight"
SYSTEM = "urn:cds:override-reason"
CLEAR = {f"finding.{name}": (0.05, 0.02, 0.08) for name in FINDINGS}
NEW = film_reading(None, "new", finding="effusion")
TWO = Answers(
    {**CLEAR, "finding.effusion": (0.88, 0.81, 0.93), "finding.edema": (0.90, 0.85, 0.94)},
    prior={**CLEAR, "finding.edema": (0.91, 0.86, 0.95)},
    titles={"finding.effusion": "Pleural effusion", "finding.edema": "Pulmonary oedema"},
    modalities=("imaging",),
    reading=dataclasses.replace(NEW, changes={**NEW.changes, **film_reading(None, "stable", finding="edema").changes}),
)
"""An effusion that is new, and oedema as before."""
ONLY_OLD = dataclasses.replace(TWO, given={**CLEAR, "finding.edema": (0.90, 0.85, 0.94)})


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ConsoleHouse]:
    with console_house(tmp_path) as made:
        yield made


def test_cards_overridden_as_wrong_are_in_the_queue_and_others_are_not(house: ConsoleHouse) -> None:
    shown(house, 4)
    reply(house, "u-0", "overridden", "finding-wrong")
    reply(house, "u-1", "overridden", "cds-not-applicable")
    reply(house, "u-2", "overridden", "risk-benefit-ratio")
    page = house.logged_in("vic").words("/admin/quality")
    assert "2 open items" in page
    assert "Clinician: image finding wrong IS-01 imaging-safety" in page
    assert "Clinician: data shown is wrong or does not apply IS-01 imaging-safety" in page


def test_an_answer_that_is_taken_back_takes_its_item_along(house: ConsoleHouse) -> None:
    shown(house, 1)
    reply(house, "u-0", "overridden", "finding-wrong")
    house.clock.forward(minutes=1)
    later = FeedbackItem(card="u-0", outcome="accepted", outcome_at=house.clock() + HOUR, suggestions=("s",))
    house.state.record_feedback("north", [later])
    assert "Nothing is open" in house.logged_in("vic").words("/admin/quality")


def test_closing_an_item_needs_a_finding_and_the_role_to_change_and_is_audited(house: ConsoleHouse) -> None:
    shown(house, 1)
    reply(house, "u-0", "overridden", "finding-wrong")
    (item,) = queue(house.state, house.clock() - timedelta(days=1), house.clock() + HOUR)
    vic, ada = house.logged_in("vic"), house.logged_in("ada")
    vic.see("/admin/quality")
    assert vic.post("/admin/quality", item=item.id, why="seen").status_code == 403
    ada.see("/admin/quality")
    assert ada.post("/admin/quality", item=item.id, why="").status_code == 400
    assert ada.post("/admin/quality", item="unknown", why="seen").status_code == 404
    assert ada.post("/admin/quality", item=item.id, why="Skin fold; radiology agrees").ok
    page = ada.words("/admin/quality")
    assert "Nothing is open" in page
    assert "Skin fold; radiology agrees" in page
    (note,) = [row for row in house.audited() if row.get("did") == "quality item closed"]
    assert (note["who"], note["item"]) == ("ada", item.id)


# --- the whole way: a call, a card, its feedback ---------------------------------------------------------------------


@pytest.fixture
def imaging(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Evidence]:
    accounts = Accounts(tmp_path / "state")
    for name, (role, password) in ADMINS.items():
        accounts.add(name, role, password, datetime(2026, 3, 1, tzinfo=UTC))
    accounts.close()
    with evidence_house(tmp_path, request.param) as made:
        yield made


def opened(house: Evidence, patient: str) -> tuple[Mapping[str, Any], ...]:
    """The cards of cxr-insight when this patient's chart is opened in the demo EHR."""
    ehr = Ehr(house.base)
    ehr.discover()
    return next(o.cards for o in ehr.fire(patient, "patient-view", with_prefetch=True) if o.service == NAME)


def reported(house: Evidence, patient: str) -> list[Any]:
    """The same, when radiology's final report of the newest film says that there is no pneumothorax."""
    fhir = f"{house.base}/demo/fhir"
    studies = requests.get(f"{fhir}/ImagingStudy?patient={patient}&_sort=-started", timeout=60).json()["entry"]
    newest = next(e["resource"] for e in studies if e["resource"]["resourceType"] == "ImagingStudy")
    final = {**film_report("final", study=newest["id"], at=newest["started"]), "subject": newest["subject"]}
    context = {"patientId": patient, "userId": "Practitioner/u1"}
    call = {"hook": "patient-view", "hookInstance": str(uuid.uuid4()), "fhirServer": fhir, "context": context}
    sent = {"reports": {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": final}]}}
    answer = requests.post(f"{house.base}/cds-services/{NAME}", json={**call, "prefetch": sent}, timeout=60)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["cards"])


def decisions(house: Evidence) -> list[tuple[str, str]]:
    rows = [orjson.loads(line) for line in house.app.extensions["ordersight"].state.export_audit()]
    *_, row = (r for r in rows if r["kind"] == "answer" and r["service"] == NAME)
    return [(d["rule"], d["cause"]) for d in orjson.loads(row["decisions"])]


def logged_in(house: Evidence) -> Visitor:
    visitor = Visitor(house.base)
    assert visitor.post("/admin/login", name="vic", password=ADMINS["vic"][1]).ok
    return visitor


@pytest.mark.parametrize("imaging", [TWO], indirect=True)
def test_what_is_unchanged_is_on_the_page_behind_the_card_and_not_on_it(imaging: Evidence) -> None:
    (card,) = opened(imaging, "demo-juniper")
    assert "effusion" in card["summary"].lower()
    assert "oedema" not in f"{card['summary']}{card['detail']}".lower()
    assert ("CX-05", "unchanged or improved: edema") in decisions(imaging)
    link = link_of(card)
    page = words_of(imaging.opened(link).get(link, timeout=60).text)
    assert "Pulmonary oedema consistent with no one place stable 0.90 (0.85 to 0.94) before 0.91" in page


@pytest.mark.parametrize("imaging", [ONLY_OLD], indirect=True)
def test_with_nothing_new_there_is_no_card_and_the_record_says_why(imaging: Evidence) -> None:
    assert opened(imaging, "demo-juniper") == ()
    assert decisions(imaging) == [("CX-05", "unchanged or improved: edema")]


@pytest.mark.parametrize("imaging", [TWO], indirect=True)
def test_image_finding_wrong_reaches_the_queue_as_the_ehr_sends_it(imaging: Evidence) -> None:
    (card,) = opened(imaging, "demo-juniper")
    assert {"code": "finding-wrong", "system": SYSTEM, "display": "Image finding wrong"} in card["overrideReasons"]
    said = {
        "card": card["uuid"],
        "outcome": "overridden",
        "outcomeTimestamp": "2026-03-10T14:05:00Z",
        "overrideReason": {"reason": {"code": "finding-wrong", "system": SYSTEM}, "userComment": "skin fold of bed 4"},
    }
    answer = requests.post(f"{imaging.base}/cds-services/{NAME}/feedback", json={"feedback": [said]}, timeout=60)
    assert answer.status_code == 200
    page = logged_in(imaging).words("/admin/quality")
    assert "1 open item" in page
    assert "Clinician: image finding wrong CX-02 cxr-insight chest-open@1" in page
    assert "skin fold" not in page  # comments are health data


DENIED = Answers({**CLEAR, "finding.pneumothorax": (0.94, 0.90, 0.97)}, modalities=("imaging",))


@pytest.mark.parametrize("imaging", [DENIED], indirect=True)
def test_a_finding_the_final_report_denies_reaches_the_queue_once_however_often_the_chart_is_opened(
    imaging: Evidence,
) -> None:
    for _ in range(2):
        assert reported(imaging, "demo-juniper") == []
    assert ("CX-04", "model and final report disagree: pneumothorax") in decisions(imaging)
    page = logged_in(imaging).words("/admin/quality")
    assert "1 open item" in page
    assert "Model and final report disagree in 2 calls pneumothorax cxr-insight" in page
