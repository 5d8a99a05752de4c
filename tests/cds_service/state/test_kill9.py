"""kill -9 at any moment: nothing acknowledged is lost, no chain breaks, no used token comes back."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import orjson
import pytest
from state_cases import LATER, NOW, answer, card, until

from cds_service.state.store import Store

HERE = Path(__file__).parent
KILLS = 20
ITEMS = 2_000


def test_of_2000_acknowledged_feedback_items_over_20_kills_none_is_lost(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    acknowledged: list[str] = []
    started = time.monotonic()
    for loop in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, HERE / "kill9_child.py", url, folder, str(loop)], stdout=subprocess.PIPE, bufsize=0
        )
        assert child.stdout is not None
        enough, seen = ITEMS // KILLS + 5, 0
        while seen < enough:
            line = child.stdout.readline()
            assert line, f"the child ended by itself (seed {seed})"
            acknowledged.append(line.decode())
            seen += line.startswith(b"F")
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        acknowledged += child.stdout.read().decode().splitlines(keepends=True)
        child.wait()
    said = [line.split() for line in acknowledged if line.endswith("\n")]
    feedback = {(words[1], int(words[2])) for words in said if words[0] == "F"}
    assert len(feedback) >= ITEMS
    with Store.open(url, folder, outbox_bytes=1 << 20) as store:
        until(lambda: store.health().outbox == 0)
        stored = {
            (row["card"], round((datetime.fromisoformat(row["outcome_at"]) - NOW) / timedelta(minutes=1)))
            for row in store.export_feedback()
        }
        audited = {orjson.loads(line)["id"] for line in store.export_audit()}
        answers = {words[1] for words in said if words[0] == "A"}
        tokens = [words[1] for words in said if words[0] == "T"]
        assert feedback - stored == set(), f"seed {seed}"
        assert answers - audited == set(), f"seed {seed}"
        assert store.verify_audit().ok, f"seed {seed}"
        sample = tokens if len(tokens) < 100 else moments.sample(tokens, 100)
        assert not any(store.use_jti("iss", token, LATER, NOW) for token in sample)
    with capsys.disabled():
        print(
            f"\n{store._engines.url.get_backend_name()}: {len(feedback)} feedback items, {len(answers)} answers, "
            f"{len(tokens)} tokens "
            f"acknowledged over {KILLS} kill -9, none lost, {time.monotonic() - started:.0f} s (seed {seed})"
        )


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_sqlite_syncs_at_least_once_per_sequential_acknowledgement(sqlite_url: str, folder: Path) -> None:
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        store.record_answer(answer(card("c1")))
    code = (
        "import sys, os\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "from state_cases import item\n"
        "from cds_service.state.store import Store\n"
        "from pathlib import Path\n"
        "store = Store.open(sys.argv[1], Path(sys.argv[2]), outbox_bytes=0)\n"
        "os.write(2, b'MARK begin')\n"
        "for n in range(50): store.record_feedback('north', [item('c1', minutes=n)])\n"
        "os.write(2, b'MARK end')\n"
    )
    log = folder / "strace"
    subprocess.run(
        [
            "strace",
            "-f",
            "-e",
            "trace=fsync,fdatasync,write",
            "-o",
            log,
            sys.executable,
            "-c",
            code,
            sqlite_url,
            folder,
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    between = log.read_text().split("MARK begin")[1].split("MARK end")[0]
    assert len(re.findall(r"\bf(?:data)?sync\(", between)) >= 50
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        assert len(list(store.export_feedback())) == 50
