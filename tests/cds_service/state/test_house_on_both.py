"""The service over HTTP on either database: one morning with its answers, switches and report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from findings import Ward, service
from state_cases import until

Make = Callable[[], Ward]


@pytest.fixture
def ward(plugin: Path, url: str, tmp_path: Path) -> Iterator[Make]:
    made: list[Ward] = []

    def make() -> Ward:
        services = [service("one", A_01="warning"), *(service(f"s{n}", 0.3, X_01="info") for n in range(4))]
        made.append(Ward(tmp_path, *services, state_url=url))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_morning_is_remembered_on_either_database_and_after_a_restart(ward: Make) -> None:
    w = ward()
    w.cards("one", patient="p0")  # the first statements of a process take longest to prepare
    (card,) = w.cards("one", "order-select")
    w.wait(minutes=1)
    (again,) = w.cards("one", "order-sign")
    assert again["uuid"] == card["uuid"]
    w.answer("one", again, "cds-not-applicable")
    w.wait(hours=1)
    assert w.cards("one", order="d2", user="Practitioner/u2") == []
    w.wait(minutes=1)
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda n: len(w.cards(f"s{n}", patient="p2")), range(4)))
    assert sum(said) == 2
    w.state.switch("rule", "A-01", "shadow", who="the committee", why="watched")
    assert w.cards("one", patient="p3") == []
    w.close()

    other = ward()
    other.now = w.now
    until(lambda: other.state.health().outbox == 0)
    assert other.state.verify_audit().ok
    report = other.state.feedback_report(w.now.replace(year=2025), w.now.replace(year=2027))
    (row,) = [r for r in report.rows if r.rule == "A-01"]
    assert (row.shown, row.overridden, row.suppressed, row.shadow) == (2, 1, {"overridden": 1}, 1)
    assert sum(r.capped.get("two per event", 0) for r in report.rows) == 2
    assert report.calls == {"order-select": 1, "order-sign": 8}
    assert report.interruptions == 2
