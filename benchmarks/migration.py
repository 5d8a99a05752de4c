"""How long an upgrade of the state database locks anybody out, and whether the release before runs on what it leaves.

    python benchmarks/migration.py                       # 10^6 rows a table, SQLite and PostgreSQL; some minutes
    python benchmarks/migration.py --rows 10000 --database sqlite --revision 0001

Fills audit (a chain that holds) and predictions at an older revision, then runs `cds-service state upgrade`
while the release before writes and reads without a pause; afterwards starts that release anew on the new schema. The
longest gap between two of its calls is what a hospital would have felt. Goal: 5 s. PostgreSQL is Debian's, in a folder
of its own, with fsync. The release before is taken out of git, and needs its history.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from alembic import command
from healthy import ROOT
from rig import save
from sqlalchemy import insert
from state_calls import TENANT

from cds_service.state import schema
from cds_service.state.audit import GENESIS, row_hash
from cds_service.state.engines import maintenance_engine, read_url
from cds_service.state.store import Store
from cds_service.state.tables import audit, audit_chain, predictions

sys.path.insert(0, str(ROOT / "tests/cds_service/state"))

from postgres_cluster import cluster

RELEASE_BEFORE = "160d5936f4b8da2142bcb3a76ffe7ed1615f24a3^"
"""The last commit written for revision 0003."""
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
BATCH = 10_000
ROWS = 1_000_000
EMPTY = {"hook_instance": "", "service_version": "", "config_digest": "", "model": "", "user_key": "", "kind": "answer"}


def take_out(commit: str, folder: Path) -> Path:
    """The tree of a commit, to run its code."""
    done = subprocess.run(
        ["git", "archive", commit, "cds_service", "fhir_mappers", "models"], cwd=ROOT, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tree:
        tree.extractall(folder, filter="data")
    return folder


def rows(count: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The audit row and a prediction of each of `count` answers; the audit rows are one chain."""
    previous = GENESIS
    for seq in range(1, count + 1):
        at, id_, patient = BEGIN + timedelta(seconds=seq), f"{seq:036d}", f"{seq % 50_000:032d}"
        row: dict[str, Any] = EMPTY | {
            "tenant": TENANT,
            "seq": seq,
            "id": id_,
            "at": at,
            "hook": "order-sign",
            "service": "imaging-safety",
            "model_digest": "ab" * 32,
            "patient_key": patient,
            "encounter_key": patient,
            "status": 200,
            "inputs": '["1f1f","2e2e"]',
            "decisions": "[]",
            "cards": "[]",
            "ms": '{"model":35}',
            "details": "{}",
            "previous": previous,
        }
        row["hash"] = previous = row_hash(row)
        prediction = {
            "audit_id": id_,
            "target": "pneumonia",
            "tenant": TENANT,
            "at": at,
            "patient_key": patient,
            "probability": 0.31,
            "low": 0.22,
            "high": 0.41,
        }
        yield row, prediction


def fill(url: str, revision: str, count: int) -> None:
    """A database at `revision` with `count` rows in each of the two tables that grow with every call."""
    path = read_url(url)
    if (file := path.database) and path.get_backend_name() == "sqlite":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch(0o600)
    engine = maintenance_engine(path)
    try:
        with engine.begin() as conn:
            command.upgrade(schema.config(conn), revision)
        made, last = rows(count), GENESIS
        while batch := list(islice(made, BATCH)):
            with engine.begin() as conn:
                for table, values in zip((audit, predictions), zip(*batch, strict=True), strict=True):
                    conn.execute(insert(table), list(values))
            last = batch[-1][0]["hash"]
        with engine.begin() as conn:
            head = {"tenant": TENANT, "head_seq": count, "head_hash": last, "start_seq": 0, "start_hash": GENESIS}
            conn.execute(insert(audit_chain), head)
    finally:
        engine.dispose()


class Watcher:
    """Calls of the release at `tree`, from when they are ready until `finish`."""

    def __init__(self, tree: Path, url: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks/state_calls.py"), url, str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), os.environ.get("PYTHONPATH", "")))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit("the release did not start on this schema")

    def finish(self) -> dict[str, list[tuple[float, bool]]]:
        out, _ = self._process.communicate("")
        found: dict[str, list[tuple[float, bool]]] = json.loads(out)
        return found


def longest_gap_s(calls: Sequence[tuple[float, bool]], since: float, until: float) -> float:
    """The longest time within these bounds in which no call was done."""
    ends = [since, *(at for at, done in calls if done and since < at < until), until]
    return max(b - a for a, b in pairwise(ends))


def felt(tree: Path, url: str, folder: Path, command_line: Sequence[str], quiet_s: float) -> dict[str, Any]:
    """What callers felt while `cds-service ...` ran, beside what they feel without it."""
    watcher = Watcher(tree, url, folder)
    quiet = time.monotonic()
    time.sleep(quiet_s)
    began = time.monotonic()
    env = {**os.environ, "ORDERSIGHT_STATE_URL": url, "ORDERSIGHT_STATE_DIR": str(folder)}
    service = [sys.executable, "-P", str(Path(sys.executable).parent / "cds-service")]
    subprocess.run([*service, *command_line], env=env, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    ended = time.monotonic()
    time.sleep(1.0)
    calls = watcher.finish()
    found: dict[str, Any] = {"command_s": round(ended - began, 2)}
    for kind, made in calls.items():
        found[f"{kind}s"] = len(made)
        found[f"failed_{kind}s"] = sum(not done for _, done in made)
        found[f"longest_{kind}_gap_before_s"] = round(longest_gap_s(made, quiet, began), 3)
        found[f"longest_{kind}_gap_s"] = round(longest_gap_s(made, began, ended), 3)
    return found


def measure(url: str, folder: Path, before: Path, count: int, revision: str, quiet_s: float) -> dict[str, Any]:
    """One database from `revision` to this release's."""
    began = time.monotonic()
    fill(url, revision, count)
    found: dict[str, Any] = {"rows_per_table": count, "from": revision, "fill_s": round(time.monotonic() - began, 1)}
    found["upgrade"] = felt(before, url, folder, ["state", "upgrade"], quiet_s)
    found["to"] = schema.head()
    watcher = Watcher(before, url, folder)
    time.sleep(quiet_s)
    calls = watcher.finish()
    found["release_before_started_anew"] = {
        f"{kind}s": f"{sum(done for _, done in made)} of {len(made)} done" for kind, made in calls.items()
    }
    if read_url(url).get_backend_name() == "postgresql":
        found["isolate"] = felt(ROOT, url, folder, ["state", "isolate"], quiet_s)
    return found


def chain_holds(url: str, folder: Path) -> bool:
    """Whether this release finds the chain whole that both have written; a minute for 10^6 rows."""
    with Store.open(url, folder, outbox_bytes=0) as store:
        return store.verify_audit().ok


def main(arguments: Sequence[str] | None = None) -> Mapping[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--revision", default="0003", help="filled at; the release before knows 0003")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--quiet-s", type=float, default=5.0, help="seconds of calls before and after")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    report: dict[str, Any] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ordersight-migration-")))
        before = take_out(RELEASE_BEFORE, scratch / "before")
        for database in given.database or ("sqlite", "postgresql"):
            folder = scratch / database
            if database == "sqlite":
                url = f"sqlite:///{folder / 'state.sqlite'}"
            else:
                url = stack.enter_context(cluster(fsync="on")).new_database()
            report[database] = measure(url, folder, before, given.rows, given.revision, given.quiet_s)
            report[database]["chain_holds"] = chain_holds(url, folder)
            print(json.dumps({database: report[database]}, indent=2), flush=True)
    print(save("migration", report, ("sqlalchemy", "alembic", "psycopg"), given.out))
    return report


if __name__ == "__main__":
    main()
