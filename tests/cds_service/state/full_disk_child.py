"""Run by test_faults: a store whose process may write no file beyond a size (RLIMIT_FSIZE), then none, then any.

Prints as JSON what was acknowledged.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from state_cases import answer, card, item

from cds_service.state.errors import StateUnavailable
from cds_service.state.store import Store


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def main(url: str, folder: Path) -> None:
    told: dict[str, list[str]] = {"answers": [], "feedback": []}
    counted = {"outboxed": 0, "refused_feedback": 0, "refused_answers": 0}
    store = Store.open(url, folder, outbox_bytes=1 << 16)

    def answered() -> None:
        record = answer(*(card() for _ in range(3)))
        store.record_answer(record, timeout=2)
        told["answers"].append(record.id)

    def fed_back() -> None:
        cards = [card() for _ in range(2)]
        store.record_feedback("north", [item(c.card) for c in cards])
        told["feedback"] += [c.card for c in cards]

    answered()
    fed_back()
    # The log may grow a little further; soon neither it nor the database can.
    limit(max(path.stat().st_size for path in folder.glob("state.sqlite*")) + 200_000)
    deadline = time.monotonic() + 30
    while not (counted["outboxed"] and counted["refused_feedback"]) and time.monotonic() < deadline:
        try:
            answered()
            fed_back()
        except StateUnavailable:
            counted["refused_feedback"] += 1
        counted["outboxed"] = max(counted["outboxed"], store.health().outbox)
    limit(0)
    for _ in range(3):
        try:
            answered()
        except StateUnavailable:
            counted["refused_answers"] += 1
        try:
            fed_back()
        except StateUnavailable:
            counted["refused_feedback"] += 1
    limit(resource.RLIM_INFINITY)
    while store.health().outbox and time.monotonic() < deadline + 30:
        time.sleep(0.05)
    answered()
    fed_back()
    store.close()
    sys.stdout.write(json.dumps(told | counted))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
