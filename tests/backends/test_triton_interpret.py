"""Generated Triton kernels, interpreted and compared with the float64 interpreter; bounds and races checked on all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from tessera.backends.base import Target
from tessera.backends.triton.aot import available
from tessera.backends.triton.emit import emit
from tessera.ir.graph import Block, Function, Value
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import round_to
from tessera.ir.types import BufferType, TensorType
from tests.backends.triton_cases import CASES, Case
from tests.backends.triton_runs import Run, execute, judge, kernel_runs, launch

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")


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
    return rng.integers(0, classes, shape)


def reference(f: Function, inputs: list[Any], wanted: list[Value], sizes: Mapping[str, int]) -> dict[Value, Any]:
    """Every value that a kernel reads or writes, from the function before fusion."""
    whole = Function(f.name, Block(f.ops, f.params, tuple(wanted)))
    return dict(zip(wanted, interpret(whole, inputs, sizes=sizes), strict=True))


def planned(case: Case) -> Iterator[Run]:
    """The runs of a case."""
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
        for k in program.kernels:
            given, wanted = ([known[v] for v in vs] for vs in (k.inputs, k.outputs))
            yield from kernel_runs(case.name, k, given, [scalars[s] for s in k.scalars], wanted, sizes)


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


def planted(name: str) -> dict[str, Any]:
    """A job whose kernel has a fault that the checker must see."""
    return {
        "text": PLANTED, "scalars": [],
        "buffers": [{"array": None, "dtype": "f32", "shape": [20], "strides": None}],
        "launches": [{"function": name, "grid": 2, "args": [["b", 0], ["n", 20]], "constants": {"COLS": 16}}],
    }  # fmt: skip


#: A case, and a row that its table of 7 does not have.
_OUTSIDE = (("index_rows", 7), ("index_rows", -1), ("wrapped_rows", 7), ("wrapped_rows", -8))


def off_the_end(case: str, row: int) -> Run:
    """A lookup of that row among others."""
    kernel = next(c for c in CASES if c.name == case).stages[2].kernels[0]
    source = emit(kernel, Target("cuda", "90"))
    sizes = {"B": 5, "V": 7, "D": 9}
    buffers = [
        {"array": str(n) if p.type.role == "in" else None, "dtype": p.type.dtype.name, "strides": None,
         "shape": [d.evaluate(sizes) for d in p.type.dims]}
        for n, p in enumerate(kernel.function.params)
        if isinstance(p.type, BufferType)
    ]  # fmt: skip
    job = {"text": source.text, "scalars": [], "buffers": buffers, "launches": [launch(b) for b in source.bind(sizes)]}
    table, at = np.ones((7, 9)), np.array([0, 1, row, 6, 2])
    arrays = {str(n): at if v.type.dtype.is_int else table for n, v in enumerate(kernel.inputs)}
    return Run(f"{case} {row}", job, arrays)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """All runs of all cases in one process, by case."""
    found = {case.name: list(planned(case)) for case in CASES}
    found["faults"] = [*(off_the_end(*o) for o in _OUTSIDE), *(Run(name, planted(name)) for name in _FAULTS)]
    execute([r for runs in found.values() for r in runs], tmp_path_factory.mktemp("triton"))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_kernels_compute_what_the_interpreter_computes(case: Case, results: dict[str, list[Run]]) -> None:
    for run in results[case.name]:
        judge(run, case.smooth)


def test_the_checker_sees_what_is_wrong(results: dict[str, list[Run]]) -> None:
    said = {run.label: run.complaints for run in results["faults"]}
    for name, what in _FAULTS.items():
        assert any(what in line for line in said[name]), (name, said[name])


@pytest.mark.parametrize(("case", "row"), _OUTSIDE)
def test_an_index_outside_stops_the_program(case: str, row: int, results: dict[str, list[Run]]) -> None:
    (run,) = (r for r in results["faults"] if r.label == f"{case} {row}")
    assert any("index out of range" in line for line in run.complaints)
