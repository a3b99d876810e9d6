"""The benchmark for GPUs without one: all of its logic at tiny sizes, in the interpreter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import facts, gpu, gpu_bars
from benchmarks.gpu_cases import EVERY, GPU_CASES, GpuCase
from tessera.backends.triton.aot import available

#: Cases that differ from others only at their own sizes.
_LONGER = {f"flash_{kind}_{length}k" for kind in ("full", "causal") for length in (4, 8, 16)}


#: A case of each kind: who takes part in the others, and how they are judged, is the same.
_SOME = ("rms_norm", "flash_causal_2k", "attention_dropped", "linear_gelu", "gated_recurrence")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not available(), reason="Triton is not installed")
@pytest.mark.parametrize("names", [
    pytest.param([n for n in GPU_CASES if n in _SOME], id="some"),
    pytest.param([n for n in GPU_CASES if n not in _LONGER], id="all", marks=pytest.mark.nightly),
])  # fmt: skip
def test_a_dry_run(names: list[str], tmp_path: Path) -> None:
    target = tmp_path / "gpu.json"
    chosen = [part for name in names for part in ("--only", name)]
    assert gpu.main(["--dry", "--rounds", "1", "--output", str(target), *chosen]) == 0
    doc = json.loads(target.read_text(encoding="utf-8"))
    assert doc["failures"] == [] and doc["quick"]
    assert [row["case"] for row in doc["speed"]] == names
    assert all(row["compiled"] for row in doc["errors"])
    assert {row["case"] for row in doc["errors"] if row["ratio"] is None} == {"attention_dropped"}
    assert {bar["verdict"] for bar in doc["bars"]} == {"not judged"}
    taking_part = {row["case"]: set(row["ms"]) for row in doc["speed"]}
    assert taking_part["flash_causal_2k"] == {"tessera", "eager", "compile", "flex", "sdpa"}
    assert taking_part["linear_gelu"] >= {"cublas", "product alone"} and "copy" in taking_part["rms_norm"]
    assert all("spills" in part for row in doc["kernels"] for part in row.values() if isinstance(part, dict))


@pytest.mark.parametrize("name", [n for n, c in GPU_CASES.items() if c.compared and n not in _LONGER])
def test_the_part_that_is_compared_is_a_part_of_the_whole(name: str) -> None:
    case = GPU_CASES[name]
    sizes = {
        n: 4 * EVERY if n == "M" else 16 if n == "H" and "attention" in name else size for n, size in case.dry.items()
    }
    arguments = facts.widened(case.make("cpu", sizes))
    wholes = facts.tensors(case.eager(*arguments))
    parts = facts.tensors(case.eager(*case.narrow(arguments)))
    for whole, part in zip(wholes, parts, strict=True):
        torch.testing.assert_close(case.part(whole) if whole.dim() else whole, part, rtol=1e-9, atol=1e-9)


def test_a_row_of_each_bar_is_judged() -> None:
    speed = [
        {"case": "flash_full_2k", "ratio": {"flex": 1.2}, "tflop_per_s": 500.0},
        {"case": "attention_alibi", "ratio": {"flex": 0.9}, "tflop_per_s": 300.0},
        {"case": "linear_gelu", "ratio": {"cublas": 0.95}, "tflop_per_s": 600.0},
        {"case": "softmax", "ratio": {"copy": 0.85}, "tflop_per_s": None},
    ]
    errors = [{"ratio": 1.0}, {"ratio": None}]
    kernels = [{"case": "softmax", "kernel": "k", "nest0_hold": {"spills": 0}, "launches": 1}]
    doc = {"quick": False, "speed": speed, "errors": errors, "kernels": kernels}
    assert [row["verdict"] for row in gpu_bars.bar_rows(doc)] == ["PASS", "short", "PASS", "short", "PASS", "PASS"]
    kernels[0]["nest0_hold"] = {"spills": 8}
    assert gpu_bars.bar_rows(doc)[-1]["verdict"] == "short"


def test_a_peer_that_computes_something_else_is_named() -> None:
    case: GpuCase = GPU_CASES["softmax"]
    arguments = case.make("cpu", case.dry)
    calls = {"tessera": lambda: case.function(*arguments), "other": lambda: torch.ones_like(arguments[0])}
    assert set(gpu.disagreeing(case, arguments, calls)) == {"other"}


def test_rounds_are_fewer_where_they_take_long() -> None:
    def clock(milliseconds: float) -> dict[str, list[float]]:
        found: dict[str, list[float]] = gpu.interleave({"tessera": int}, 20, lambda call, n: milliseconds * n)
        return found

    assert clock(1.0) == {"tessera": [1.0] * 20}
    assert len(clock(5000.0)["tessera"]) == gpu.LEAST_ROUNDS
