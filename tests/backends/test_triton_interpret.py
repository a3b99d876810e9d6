"""Generated Triton kernels, interpreted and compared with the float64 interpreter; bounds and races checked
on all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.backends.base import Target
from tessera.backends.triton.aot import available
from tessera.backends.triton.emit import emit
from tessera.backends.triton.source import Bound, TritonSource
from tessera.backends.triton.tiling import laid_out, power
from tessera.ir.dtype import DType
from tessera.ir.graph import Block, Function, Value
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import round_to
from tessera.ir.types import BufferType, TensorType
from tessera.schedule.plan import Kernel
from tests.backends.triton_cases import CASES, Case

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")

HERE = Path(__file__).parent
ROUNDING = {
    "f64": 1e-12,
    "f32": 4e-6,
    "bf16": 2.0**-8,
    "f16": 2.0**-10,
    "fp8_e4m3": 2.0**-3,
    "fp8_e5m2": 2.0**-2,
}


@dataclass
class Run:
    """One kernel at one size in one mode: what goes to the worker and what should come back."""

    label: str
    job: dict[str, Any]
    wanted: dict[int, tuple[np.ndarray, DType]]


def drawn(case: Case, p: Value, shape: tuple[int, ...], rng: np.random.Generator, classes: int) -> np.ndarray:
    """Values for one parameter; integers are indices into ``classes`` unless the case says otherwise."""
    t, given = p.type.dtype, case.values.get(p.name)
    if isinstance(given, list):
        return round_to(np.asarray(given), t) if t.is_float else np.asarray(given)
    if t.is_float:
        return round_to(rng.uniform(*given, shape) if given else rng.standard_normal(shape), t)
    if given:
        return rng.integers(*given, shape)
    if t.is_bool:
        return rng.random(shape) < 0.6
    return rng.integers(-classes, classes, shape)


def reference(f: Function, inputs: list[Any], wanted: list[Value], sizes: Mapping[str, int]) -> dict[Value, np.ndarray]:
    """Every value that a kernel reads or writes, from the function before fusion."""
    whole = Function(f.name, Block(f.ops, f.params, tuple(wanted)))
    return dict(zip(wanted, interpret(whole, inputs, sizes=sizes), strict=True))


def runs(case: Case) -> Iterator[tuple[Run, dict[str, np.ndarray]]]:
    """The runs of a case; arrays are named by run and buffer when they are collected."""
    before, _, program = case.stages
    rng = np.random.default_rng(7)
    for sizes in case.sizes:
        inputs: list[Any] = []
        for p in before.params:
            if isinstance(p.type, TensorType):
                shape = tuple(d.evaluate(sizes) for d in p.type.dims)
                inputs.append(drawn(case, p, shape, rng, sizes.get("V", 4)))
            else:
                inputs.append(float(np.float32(rng.random() + 0.5)))
        values = [v for k in program.kernels for v in (*k.inputs, *k.outputs)]
        known = reference(before, inputs, list(dict.fromkeys(values)), sizes)
        scalars = dict(zip(before.params, inputs, strict=True))
        for kernel in program.kernels:
            source = emit(kernel, Target("cuda", "90"))
            for mode in ("chosen", "loop"):
                yield from one(case, kernel, source, sizes, known, scalars, mode)


def one(
    case: Case,
    kernel: Kernel,
    source: TritonSource,
    sizes: Mapping[str, int],
    known: Mapping[Value, np.ndarray],
    scalars: Mapping[Value, Any],
    mode: str,
) -> Iterator[tuple[Run, dict[str, np.ndarray]]]:
    every = dict(sizes)
    arrays: dict[str, np.ndarray] = {}
    buffers: list[dict[str, Any]] = []
    wanted: dict[int, tuple[np.ndarray, DType]] = {}
    params = [p for p in kernel.function.params if isinstance(p.type, BufferType)]
    meant = (*kernel.inputs, *kernel.outputs, *(None for _ in kernel.temps))
    for n, (p, v) in enumerate(zip(params, meant, strict=True)):
        shape = tuple(d.evaluate(sizes) for d in p.type.dims)
        strides = None
        if p.type.strides is not None:
            strides = padded_strides(shape)
            every |= {str(s): k for s, k in zip(p.type.strides, strides, strict=True)}
        if p.type.role == "in":
            assert v is not None
            arrays[str(n)] = known[v]
        elif p.type.role == "out":
            assert v is not None
            wanted[n] = (known[v], p.type.dtype)
        buffers.append(
            {
                "array": str(n) if p.type.role == "in" else None,
                "dtype": p.type.dtype.name,
                "shape": shape,
                "strides": strides,
            }
        )
    bound = source.bind(every) if mode == "chosen" else looped(source, every)
    if bound is None:
        return
    job = {
        "text": source.text,
        "buffers": buffers,
        "scalars": [scalars[s] for s in kernel.scalars],
        "launches": [launch(b) for b in bound],
    }
    yield Run(f"{case.name} {dict(sizes)} {mode}", job, wanted), arrays


def padded_strides(shape: tuple[int, ...]) -> list[int]:
    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n + 3)
    return strides


def looped(source: TritonSource, sizes: Mapping[str, int]) -> tuple[Bound, ...] | None:
    """Every nest that can loop does, over blocks much shorter than its sweeps; None when none can."""
    if not any("loop" in n.functions for n in source.nests):
        return None
    out = []
    for nest, usual in zip(source.nests, source.bind(sizes), strict=True):
        if "loop" in nest.functions:
            points = power(nest.tiling.points.evaluate(sizes))
            config = laid_out(nest.tiling, sizes, "loop", 16, min(points, 4))
            function = nest.functions["loop"]
            values = tuple(a.dim.evaluate(sizes, signed=True) for a in function.arguments if a.dim is not None)
            usual = Bound(function, config, values)
        out.append(usual)
    return tuple(out)


def launch(b: Bound) -> dict[str, Any]:
    sizes = iter(b.sizes)
    args = [[a.kind[0], a.number] if a.kind != "size" else ["n", next(sizes)] for a in b.function.arguments]
    blocks = {name: value for name, value in b.constants.items() if name in b.function.blocks}
    return {"function": b.function.name, "grid": b.config.grid, "args": args, "constants": blocks}


PLANTED = """import triton
import triton.language as tl


@triton.jit
def outside(b0, n0, COLS: tl.constexpr):
    i = tl.program_id(0) * COLS + tl.arange(0, COLS)
    tl.store(b0 + i, 1.0)


@triton.jit
def twice(b0, n0, COLS: tl.constexpr):
    i = tl.arange(0, COLS)
    tl.store(b0 + i, 1.0, mask=i < n0)


@triton.jit
def neighbours(b0, n0, COLS: tl.constexpr):
    i = tl.program_id(0) * COLS + tl.arange(0, COLS)
    x = tl.load(b0 + (i + COLS) % n0, mask=i < n0, other=0.0)
    tl.store(b0 + i, x, mask=i < n0)
"""
_FAULTS = {"outside": "outside of every buffer", "twice": "by two programs", "neighbours": "after another"}


def planted_job(name: str) -> dict[str, Any]:
    """A job whose kernel has a fault that the checker must see."""
    return {
        "text": PLANTED, "scalars": [],
        "buffers": [{"array": None, "dtype": "f32", "shape": [20], "strides": None}],
        "launches": [{"function": name, "grid": 2, "args": [["b", 0], ["n", 20]], "constants": {"COLS": 16}}],
    }  # fmt: skip


def off_the_end() -> dict[str, Any]:
    """A lookup of row 7 of 7."""
    kernel = next(c for c in CASES if c.name == "index_rows").stages[2].kernels[0]
    source = emit(kernel, Target("cuda", "90"))
    sizes = {"B": 5, "V": 7, "D": 9}
    shapes = [
        [d.evaluate(sizes) for d in p.type.dims] for p in kernel.function.params if isinstance(p.type, BufferType)
    ]
    kinds = [p.type.dtype.name for p in kernel.function.params]
    fill = {"bf16": "table", "int64": "wrong"}
    buffers = [
        {"array": fill[k] if p.type.role == "in" else None, "dtype": k, "shape": s, "strides": None}
        for p, k, s in zip(kernel.function.params, kinds, shapes, strict=True)
    ]
    return {"text": source.text, "scalars": [], "buffers": buffers, "launches": [launch(b) for b in source.bind(sizes)]}


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[tuple[Run, list[str], dict[int, np.ndarray]]]]:
    """All runs of all cases in one process, by case."""
    folder = tmp_path_factory.mktemp("triton")
    planned: list[tuple[str, Run]] = []
    arrays: dict[str, np.ndarray] = {}
    for case in CASES:
        for r, mine in runs(case):
            number = len(planned)
            for b in r.job["buffers"]:
                b["array"] = None if b["array"] is None else f"{number}_{b['array']}"
            arrays |= {f"{number}_{name}": a for name, a in mine.items()}
            planned.append((case.name, r))
    faults = {**{name: planted_job(name) for name in _FAULTS}, "lookup": off_the_end()}
    planned += [("faults", Run(name, job, {})) for name, job in faults.items()]
    arrays |= {"table": np.ones((7, 9)), "wrong": np.array([0, 1, 7, -7, 2])}
    np.savez(folder / "in.npz", **arrays)
    (folder / "job.json").write_text(json.dumps([r.job for _, r in planned]))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, str(HERE / "triton_worker.py"), str(folder)],
        env=environment,
        check=True,
        timeout=280,
    )
    said = json.loads((folder / "out.json").read_text())
    found: dict[str, list[tuple[Run, list[str], dict[int, np.ndarray]]]] = {}
    with np.load(folder / "out.npz") as outs:
        for number, (name, r) in enumerate(planned):
            mine = {n: outs[f"{number}_{n}"] for n in r.wanted if f"{number}_{n}" in outs}
            found.setdefault(name, []).append((r, said[number], mine))
    return found


@pytest.mark.parametrize("name", [c.name for c in CASES])
def test_kernels_compute_what_the_interpreter_computes(name: str, results: Any) -> None:
    case = next(c for c in CASES if c.name == name)
    for run, complaints, outs in results[name]:
        assert not complaints, f"{run.label}: {complaints}"
        for n, (wanted, t) in run.wanted.items():
            got = outs[n]
            assert got.shape == wanted.shape, run.label
            if not t.is_float:
                assert (got == wanted).all(), f"{run.label}: {got} for {wanted}"
                continue
            wanted = np.where(np.isfinite(wanted), round_to(wanted, t), wanted)
            with np.errstate(all="ignore"):
                typical = np.abs(wanted[np.isfinite(wanted)]).mean() if np.isfinite(wanted).any() else 1.0
                scale = np.maximum(np.abs(wanted), typical if case.smooth else 0.0)
                error = np.abs(got - wanted) / np.where(scale == 0, 1.0, scale)
            same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
            wrong = ~(same | (error <= 2 * ROUNDING[t.name]))
            assert not wrong.any(), f"{run.label}, output {n}: {got[wrong][:4]} for {wanted[wrong][:4]}"


def test_the_checker_sees_what_is_wrong(results: Any) -> None:
    said = {run.label: complaints for run, complaints, _ in results["faults"]}
    for name, what in _FAULTS.items():
        assert any(what in line for line in said[name]), (name, said[name])


def test_an_index_outside_stops_the_program(results: Any) -> None:
    (said,) = (complaints for run, complaints, _ in results["faults"] if run.label == "lookup")
    assert any("index out of range" in line for line in said)
