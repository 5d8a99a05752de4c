"""The GPU script runs without a GPU, and what it calls a percentage of the ceiling is one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_quick_run_on_a_cpu_measures_every_part_and_says_what_it_could_not(
    tmp_path: Path, threads_as_before: None
) -> None:
    gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("gpu-*-cpu-quick.json")
    found = json.loads(path.read_text())
    assert found["quick"] is True
    assert found["parity"].startswith("not measured")
    top = found["ceilings"]["matmul_bf16_tflops"]
    assert top > 0
    names = {row["network"] for row in found["networks"]}
    assert len(names) == 6  # two attentions of one ViT; film encoder and fusion of two presets
    for row in found["networks"]:
        assert row["way"] == "eager"
        reached = row["gflop"] * 1e9 * row["batch"] / (row["ms"] / 1000) / (top * 1e12)
        assert row["percent_of_matmul"] == pytest.approx(100 * reached, rel=0.02, abs=0.02)
    assert {(row["backfill"], row["rate"]) for row in found["queue"]} == {
        (b, r) for b in (False, True) for r in (10, 20)
    }
    for row in found["queue"]:
        assert 0 <= row["unanswered"] <= row["calls"]
        if row["unanswered"] < row["calls"]:
            assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
