"""Run by test_kill9: writes with all its might from four threads, and says on stdout what was acknowledged.

One line per acknowledgement: `F card minute` for a feedback item, `A id` for an answer, `T token` for a token used.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from state_cases import LATER, NOW, answer, card, item

from cds_service.state.store import Store


def main(url: str, folder: Path, loop: int) -> None:
    store = Store.open(url, folder, outbox_bytes=1 << 20)

    def work(thread: int) -> None:
        step = 0
        while True:
            step += 1
            record = answer(card())
            store.record_answer(record)
            cards = [c.card for c in record.cards]
            # A batch of three reports on this card, as an EHR that sends them later would.
            minutes = [step * 10 + n for n in range(3)]
            store.record_feedback("north", [item(cards[0], minutes=m) for m in minutes], timeout=30)
            token = f"{loop}-{thread}-{step}"
            used = store.use_jti("iss", token, LATER, NOW, timeout=30)
            said = [f"A {record.id}", *(f"F {cards[0]} {m}" for m in minutes), *([f"T {token}"] if used else [])]
            # One write below PIPE_BUF: whole or not at all.
            os.write(1, ("\n".join(said) + "\n").encode())

    for thread in range(4):
        threading.Thread(target=work, args=(thread,), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
