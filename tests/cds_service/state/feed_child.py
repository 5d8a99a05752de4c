"""Answers calls, and sends their audit to a repository, until it is killed. Prints each answer that is durable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from state_cases import answer

from cds_service.state import feed
from cds_service.state.feed import Repository
from cds_service.state.store import Store
from cds_service.trust.origins import read_base

feed.POLL_S = 0.02
url, folder, base = sys.argv[1:]
with Store.open(url, Path(folder), outbox_bytes=1 << 16, repository=Repository(read_base(base))) as store:
    while True:
        record = answer()
        store.record_answer(record, timeout=5)
        print(record.id, flush=True)
