"""What one accelerator can do, and how much of that we reach: ten minutes on a GPU, one on a CPU with --quick.

    python benchmarks/gpu.py [--device cuda] [--quick] [--out benchmarks/results]

ceilings  bfloat16 matrix product and memory copy: what everything below is a percentage of
networks  ViT-B/14 at 518 pixels (random weights), with fused and unfused attention, and the film encoder and fusion of
          our presets: eager, compiled, as CUDA graphs, by batch
parity    the film preparation and the logits of one patient, on the CPU and on the device
queue     the engine under an open loop of Poisson arrivals, alone and beside a backfill of films

Times are medians of synchronised runs after a warm-up; latencies count from the moment a call was due, so that a slow
answer delays no later question. On a GPU a training run of the small preset is `cds-service train ... --device cuda`.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.answers import Answerer
from models.backbones.extras import extra
from models.backbones.manifest import Backbone, Licence, Preprocessing
from models.backbones.trunk import prepare
from models.checkpoint import Stored, load_checkpoint
from models.contract import EngineBusy, EngineTimeout, FusionInput, Signal, collate, empty_signal
from models.encoders import to_batch
from models.serving import Engine

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = {"small": "chest-open", "tiny": "chest-generated"}
"""The committed model of each preset."""
DEADLINE_S = 0.45
BACKFILL = 12
"""Films in one piece of a backfill: about 10 ms of ViT-B/14 on an H200, so that an order does not wait for more."""


@dataclass(frozen=True)
class Size:
    """What is measured: full on a GPU, small where the answer is only that it runs."""

    matmul: int
    copy_mb: int
    runs: int
    batches: tuple[int, ...]
    vit: dict[str, int]
    rates: tuple[int, ...]
    seconds: float
    patients: int


VIT_B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 518, "patch_size": 14}
VIT_QUICK = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 70, "patch_size": 14}
FULL = Size(8192, 2048, 20, (1, 2, 4, 8, 16, 32, 64, 128), VIT_B, (10, 30, 100, 300, 1000, 2000), 8.0, 16)
QUICK = Size(256, 16, 2, (1, 2), VIT_QUICK, (10, 20), 0.5, 2)


def synchronised(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def median_s(run: Callable[[], object], device: str, runs: int) -> float:
    for _ in range(2):
        run()
    times = []
    for _ in range(runs):
        synchronised(device)
        begun = time.perf_counter()
        run()
        synchronised(device)
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def ceilings(device: str, size: Size) -> dict[str, float]:
    """TFLOP/s of a square bfloat16 product; TB/s read and written by a copy."""
    a = torch.randn((size.matmul, size.matmul), device=device, dtype=torch.bfloat16)
    product = 2 * size.matmul**3 / median_s(lambda: a @ a, device, size.runs)
    source = torch.zeros(size.copy_mb << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() / median_s(lambda: target.copy_(source), device, size.runs)
    return {"matmul_bf16_tflops": round(product / 1e12, 6), "copy_tbs": round(copied / 1e12, 6)}


@contextmanager
def _bf16(device: str) -> Iterator[None]:
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        yield


def graphed(net: Callable[[Tensor], object], example: Tensor) -> Callable[[], object]:
    """The network on one input as a CUDA graph: launched once instead of once a kernel."""
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):
            net(example)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        net(example)
    return graph.replay


def forwards(
    name: str, net: Callable[[Tensor], Any], example: Callable[[int], Tensor], device: str, size: Size, tflops: float
) -> Iterator[dict[str, Any]]:
    """One row for each way to run the network and each batch."""
    with FlopCounterMode(display=False) as counter:
        net(example(1))
    flops = counter.get_total_flops()
    ways = ("eager", "compiled", "graph") if device == "cuda" else ("eager",)
    for way in ways:
        run = torch.compile(net, dynamic=False) if way == "compiled" else net
        for batch in size.batches:
            films = example(batch)
            try:
                with _bf16(device):
                    once = graphed(run, films) if way == "graph" else lambda run=run, films=films: run(films)
                    seconds = median_s(once, device, size.runs)
            except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
                yield {"network": name, "way": way, "batch": batch, "failed": type(error).__name__}
                continue
            yield {
                "network": name,
                "way": way,
                "batch": batch,
                "ms": round(1000 * seconds, 3),
                "per_s": round(batch / seconds, 1),
                "gflop": round(flops / 1e9, 6),
                "percent_of_matmul": round(100 * flops * batch / seconds / (tflops * 1e12), 2),
            }


def networks(device: str, size: Size, tflops: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    transformers = extra("transformers")
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = transformers.Dinov2Config(**size.vit, attn_implementation=attention)
        net = transformers.Dinov2Model(config).to(device).eval().requires_grad_(False)
        side = size.vit["image_size"]
        name = (
            f"ViT {size.vit['hidden_size']} wide, {side} px, {'fused' if attention == 'sdpa' else 'unfused'} attention"
        )
        rows += forwards(
            name,
            lambda films, net=net: net(pixel_values=films).last_hidden_state,
            lambda batch, side=side: torch.rand((batch, 3, side, side), device=device),
            device,
            size,
            tflops,
        )
    for preset, folder in CHECKPOINTS.items():
        model = load_checkpoint(ROOT / "manifests" / "models" / folder).model.to(device).requires_grad_(False)
        encoder = model.image_encoder()
        assert encoder is not None
        side = model.spec.image.size
        rows += forwards(
            f"film encoder, preset {preset}, {side} px",
            encoder.films,
            lambda batch, side=side: torch.rand((batch, 1, side, side), device=device),
            device,
            size,
            tflops,
        )
        rows += forwards(f"fusion, preset {preset}", _fusion(model, device), torch.zeros, device, size, tflops)
    return rows


def _fusion(model: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """From encodings to logits, for as many patients as the argument has rows."""
    batches: dict[int, Any] = {}
    with torch.no_grad():
        one = model.encode(to_batch(collate([patient(model.spec, 1)]), device))  # type: ignore[operator, arg-type]

    def run(rows: Tensor) -> Tensor:
        if len(rows) not in batches:
            index = torch.zeros(len(rows), dtype=torch.int64, device=device)
            batches[len(rows)] = {name: e.rows(index) for name, e in one.items()}
        total: Tensor = model.fuse(batches[len(rows)]).total  # type: ignore[operator]
        return total

    return run


def patient(spec: Any, seed: int) -> FusionInput:
    """A made-up patient with all that the spec has room for in an ordinary chart: two films, sixty results."""
    rng = np.random.default_rng(seed)
    slots = {"imaging": spec.image.films, "labs": 60, "history": 8, "genomics": 2, "context": 1}
    known = {"imaging": len(spec.image.views), "labs": len(spec.labs), "history": len(spec.history)}
    known |= {"genomics": len(spec.genomics), "context": 1}
    signals = {}
    for name, n in slots.items():
        empty = empty_signal(spec, name, n)
        seen = np.full(n, known[name] > 0)
        code = rng.integers(1, max(known[name], 1) + 1, n) * seen
        if name == "imaging":
            code = np.full(n, 1 + spec.image.views.index("PA"))
        values = rng.random(empty.values.shape, np.float32)
        if name == "context":
            values = np.array([[6.0, 1.0, 0.0]], np.float32)
        signals[name] = Signal(code, values, rng.random(n, np.float32) * 24, seen)
    return FusionInput(signals)


def parity(device: str) -> dict[str, float] | str:
    """Greatest difference between the CPU and the device: grey levels of a prepared film (of 256), and logits."""
    if device == "cpu":
        return "not measured: there is no other device than the CPU here"
    said = Preprocessing(518, (0.0,), (1.0,))
    like = Backbone(1, "", "dinov2", {}, said, Licence("", "commercial_ok"), 0, "")
    film = torch.rand((1, 1, 2544, 3056), generator=torch.Generator().manual_seed(1))
    square = nn.functional.pad(film, (0, 0, 256, 256))
    greys = 255 * float((prepare(square, like) - prepare(square.to(device), like).cpu()).abs().max())
    model = load_checkpoint(ROOT / "manifests" / "models" / CHECKPOINTS["small"]).model
    inputs = collate([patient(model.spec, seed) for seed in range(8)])
    with torch.inference_mode():
        here = model(to_batch(inputs)).total
        there = model.to(device)(to_batch(inputs, device)).total.cpu()
    return {"film_grey_levels": round(greys, 4), "logits": float((here - there).abs().max())}


def queue(device: str, size: Size) -> list[dict[str, Any]]:
    rows = []
    stored = load_checkpoint(ROOT / "manifests" / "models" / CHECKPOINTS["small"])
    with Engine(Answerer(stored, device=device)) as engine:
        patients = [patient(stored.card.spec, seed) for seed in range(size.patients)]
        for one in patients:
            engine.assess(one, timeout=60.0)  # its films are then encoded and kept, as at order time
        for backfill in (False, True):
            for rate in size.rates:
                with _backfill(stored, device) if backfill else nullcontext():
                    rows.append({"backfill": backfill, **open_loop(engine, patients, rate, size.seconds)})
    return rows


@contextmanager
def _backfill(stored: Stored, device: str) -> Iterator[None]:
    """Films encoded beside the orders, a piece at a time, until the block ends."""
    encoder = stored.model.image_encoder()
    assert encoder is not None
    side = stored.card.spec.image.size
    films = torch.rand((BACKFILL, 1, side, side), device=device)
    ended = threading.Event()

    def work() -> None:
        with torch.inference_mode():
            while not ended.is_set():
                encoder.films(films)
                synchronised(device)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def open_loop(engine: Engine, patients: Sequence[FusionInput], rate: int, seconds: float) -> dict[str, Any]:
    """Poisson arrivals at `rate` a second; milliseconds from when a call was due, and the calls that got no answer."""
    rng = np.random.default_rng(rate)
    due = np.cumsum(rng.exponential(1.0 / rate, max(1, int(rate * seconds))))
    begun = time.perf_counter() + 0.05

    def call(number: int) -> float | None:
        left = begun + due[number] + DEADLINE_S - time.perf_counter()
        try:
            engine.assess(patients[number % len(patients)], timeout=left)
        except (EngineBusy, EngineTimeout):
            return None
        return time.perf_counter() - begun - float(due[number])

    waiting: list[Future[float | None]] = []
    with ThreadPoolExecutor(256) as pool:
        for number in range(len(due)):
            time.sleep(max(0.0, begun + due[number] - time.perf_counter()))
            waiting.append(pool.submit(call, number))
        found = [future.result() for future in waiting]
    answered = 1000 * np.array([s for s in found if s is not None])
    row: dict[str, Any] = {"rate": rate, "calls": len(found), "unanswered": len(found) - len(answered)}
    if len(answered):
        row |= {f"p{q}_ms": round(float(np.percentile(answered, q)), 2) for q in (50, 95, 99)}
    return row


def show(console: Console, title: str, rows: Sequence[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not what is reached")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args(arguments)
    if given.quick:
        torch.set_num_threads(1)  # small products on two busy cores wait for each other longer than they work
    device, size, console = given.device, QUICK if given.quick else FULL, Console()
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    begun = datetime.now(UTC)
    top = ceilings(device, size)
    show(console, f"Ceilings, {name}", [top])
    found = networks(device, size, top["matmul_bf16_tflops"])
    show(console, "Networks", found)
    same = parity(device)
    console.print(f"CPU and device: {same}")
    waited = queue(device, size)
    show(console, f"Engine, open loop, {size.seconds} s a rate", waited)
    result = {
        "date": begun.isoformat(timespec="seconds"),
        "device": name,
        "torch": torch.__version__,
        "quick": given.quick,
        "ceilings": top,
        "networks": found,
        "parity": same,
        "queue": waited,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    kind = name.split(",")[0].replace(" ", "-").lower()
    path = given.out / f"gpu-{begun:%Y-%m-%d}-{kind}{'-quick' if given.quick else ''}.json"
    path.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    console.print(f"kept in {path}")


if __name__ == "__main__":
    main()
