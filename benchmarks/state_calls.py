"""Answers written and histories read without a pause, by whichever release lies on PYTHONPATH, until stdin ends.

    PYTHONPATH=older-release python benchmarks/state_calls.py URL FOLDER < fifo > calls.json

Tells "ready" once the state is open, and then for each kind of call when it ended (monotonic seconds) and whether it
was done. A call that fails is tried again; the gap between two that were done is how long somebody was locked out.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cds_service.state.errors import StateUnavailable
from cds_service.state.records import AnswerRecord, Prediction, ShownCard
from cds_service.state.store import Store

TENANT = "north"
PAUSE_S = 0.005
PATIENCE_S = 30.0


def answer() -> AnswerRecord:
    return AnswerRecord(
        tenant=TENANT,
        hook="order-sign",
        hook_instance=str(uuid.uuid4()),
        service="imaging-safety",
        at=datetime.now(UTC),
        status=200,
        predictions=(Prediction("pneumonia", 0.31, 0.22, 0.41),),
        cards=(ShownCard(str(uuid.uuid4()), ("IS-01",), "warning"),),
    )


def calls(store: Store, stopped: threading.Event) -> dict[str, list[tuple[float, bool]]]:
    done: dict[str, list[tuple[float, bool]]] = {"write": [], "read": []}

    def repeat(kind: str, call: Callable[[], object]) -> None:
        while not stopped.wait(PAUSE_S):
            try:
                call()
            except StateUnavailable:
                done[kind].append((time.monotonic(), False))
            else:
                done[kind].append((time.monotonic(), True))

    work: dict[str, Callable[[], object]] = {
        "write": lambda: store.record_answer(answer(), timeout=PATIENCE_S),
        "read": lambda: store.seen(TENANT, ["f" * 32], "u" * 32, datetime.now(UTC), timeout=PATIENCE_S),
    }
    threads = [threading.Thread(target=repeat, args=item) for item in work.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def main() -> None:
    url, folder = sys.argv[1], Path(sys.argv[2])
    with Store.open(url, folder, outbox_bytes=0) as store:
        stopped = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
        print("ready", flush=True)
        json.dump(calls(store, stopped), sys.stdout)


if __name__ == "__main__":
    main()
