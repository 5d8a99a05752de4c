"""The engine under an open loop of calls, alone and while films are encoded ahead beside it.

    python benchmarks/engine.py [--model chest-open] [--rates 10,20,40,...] [--seconds 8] [--films 500]

ceiling   calls a second that 16 callers who never rest get: what the rates below are a percentage of
socket    one caller, in the engine's process and over its Unix socket
rates     Poisson arrivals; milliseconds from when a call was due, so that a slow answer delays no later question
backfill  one rate, in turn without and with films encoded through the engine's own queue, as `films.ahead` does
Goal: encoding 500 films moves the p95 of orders by less than 20 %. The two cores of a small machine are shared with
whatever else runs on it: the load before and after is kept with the figures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gpu import open_loop, patient
from rich.console import Console
from rich.table import Table
from rig import ROOT, manifests_of, quantile, save

from cds_service.engine_client import EngineLink
from models.contract import EngineBusy, EngineTimeout, FusionInput
from models.serving import Engine

ROUNDS = 10
"""Of quiet and backfill in short turns: what else the machine does then touches both alike."""


def closed_loop(ask: Callable[[FusionInput], object], patients: list[FusionInput], callers: int, seconds: float) -> Any:
    until = time.perf_counter() + seconds
    took: list[float] = []

    def work(number: int) -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            ask(patients[number % len(patients)])
            took.append(time.perf_counter() - began)
            number += callers

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(work, range(callers)))
    return {
        "per_s": round(len(took) / seconds, 1),
        **{f"p{q}_ms": round(1000 * quantile(took, q / 100), 2) for q in (50, 95, 99)},
    }


def over_the_socket(engine: Engine, patients: list[FusionInput], seconds: float, folder: Path) -> dict[str, Any]:
    """One caller, here and through an engine's process as `cds-service serve` starts it."""
    name = engine.card.name
    lifeline, held = os.pipe()
    settings = {
        "MANIFESTS": manifests_of(folder / "manifests", ["deterioration"], name),
        "MODELS": ROOT / "manifests/models",
        "STATE_DIR": folder / "state",
    }
    env = {**os.environ, **{f"ORDERSIGHT_{key}": str(value) for key, value in settings.items()}}
    path = folder / "engine.sock"
    command = [sys.executable, "-P", "-m", "cds_service.engine_process", str(path), str(lifeline)]
    process = subprocess.Popen(command, env=env, pass_fds=(lifeline,), stderr=subprocess.DEVNULL)
    link = EngineLink(path)
    try:
        if not link.wait(120):
            raise SystemExit("the engine's process did not start")
        far = link[name]
        for one in patients:
            far.assess(one, timeout=120.0)
        # In short turns: both see the same machine.
        turns = [
            (
                closed_loop(lambda p: engine.assess(p, timeout=60.0), patients, 1, seconds / 6),
                closed_loop(lambda p: far.assess(p, timeout=60.0), patients, 1, seconds / 6),
            )
            for _ in range(6)
        ]
    finally:
        link.close()
        process.terminate()
        process.wait()
        os.close(held)
        os.close(lifeline)
    here, there = (float(np.median([turn[n]["p50_ms"] for turn in turns])) for n in (0, 1))
    return {"here_p50_ms": here, "socket_p50_ms": there, "hop_ms": round(there - here, 2)}


@contextmanager
def backfill(engine: Engine, films: int) -> Iterator[list[int]]:
    """Encode films one after the other through the engine's queue until the block ends; how many, at last."""
    side = engine.spec.image.size
    pixels = np.random.default_rng(0).random((films, 1, side, side), np.float32)
    ended, done = threading.Event(), [0]

    def work() -> None:
        while not ended.is_set() and done[0] < films:
            try:
                engine.encode(pixels[done[0]], timeout=60.0)
            except (EngineBusy, EngineTimeout):
                continue
            done[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        ended.set()
        thread.join()


def beside_a_backfill(
    engine: Engine, patients: list[FusionInput], rate: int, seconds: float, films: int
) -> dict[str, Any]:
    quiet, busy, encoded = [], [], 0
    for _ in range(ROUNDS):
        quiet.append(open_loop(engine, patients, rate, seconds / 2))
        with backfill(engine, films) as done:
            busy.append(open_loop(engine, patients, rate, seconds / 2))
        encoded += done[0]
    found: dict[str, Any] = {"rate": rate, "films_encoded": encoded}
    for name, rows in (("quiet", quiet), ("backfill", busy)):
        found[name] = {key: float(np.median([row[key] for row in rows])) for key in ("p50_ms", "p95_ms", "p99_ms")}
        found[name]["unanswered"] = sum(row["unanswered"] for row in rows)
    found["p95_moved_percent"] = round(100 * (found["backfill"]["p95_ms"] / found["quiet"]["p95_ms"] - 1), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chest-open")
    parser.add_argument("--rates", default="10,20,50,100,200,500,1000,2000")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--films", type=int, default=500)
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    with Engine.load(ROOT / "manifests/models" / given.model) as engine, tempfile.TemporaryDirectory() as folder:
        patients = [patient(engine.spec, seed) for seed in range(given.patients)]
        for one in patients:
            engine.assess(one, timeout=120.0)  # its films are then encoded and kept, as at order time
        ceiling = closed_loop(lambda p: engine.assess(p, timeout=60.0), patients, 16, given.seconds)
        hop = over_the_socket(engine, patients, given.seconds, Path(folder))
        rows = []
        for rate in (int(r) for r in given.rates.split(",")):
            row = open_loop(engine, patients, rate, given.seconds)
            answered = (row["calls"] - row["unanswered"]) / given.seconds
            rows.append({**row, "percent_of_ceiling": round(100 * answered / ceiling["per_s"], 1)})
            if row["unanswered"] > row["calls"] / 2:
                break  # beyond this it only sheds more
        # A third of the ceiling: an order then usually finds the engine idle, or with a film.
        beside = beside_a_backfill(engine, patients, max(1, int(ceiling["per_s"] / 3)), given.seconds, given.films)
        device = engine.device
    report = {
        "load_before": load_before,
        "model": given.model,
        "device": device,
        "ceiling": ceiling,
        "socket": hop,
        "rates": rows,
        "backfill": beside,
    }
    path = save("engine", report, ("ordersight", "torch"), given.out)
    table = Table("rate", "calls", "unanswered", "p50", "p95", "p99", "% of ceiling")
    keys = ("rate", "calls", "unanswered", "p50_ms", "p95_ms", "p99_ms", "percent_of_ceiling")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in keys))
    console = Console(width=120)
    console.print(f"ceiling: {ceiling}")
    console.print(f"socket: {hop}")
    console.print(table)
    console.print(f"beside a backfill: {beside}")
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
