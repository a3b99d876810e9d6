"""Contractions with the folds over them as Triton kernels: interpreted and compared with float64, compiled and read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tessera.backends.triton.aot import available
from tessera.ir.graph import Block, Function
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import round_to
from tessera.ir.types import TensorType
from tests.backends.stream_cases import CASES, Stream
from tests.backends.triton_runs import Run, execute, judge, kernel_runs

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")


def inputs(case: Stream, before: Function, sizes: dict[str, int], rng: np.random.Generator) -> Iterator[Any]:
    for p in before.params:
        if not isinstance(p.type, TensorType):
            yield case.numbers.get(p.name, 5)
            continue
        shape = tuple(d.evaluate(sizes) for d in p.type.dims)
        if p.type.dtype.is_int:
            yield rng.integers(*case.integers[p.name], shape)
        else:
            yield round_to(rng.standard_normal(shape), p.type.dtype)


def planned(case: Stream) -> Iterator[Run]:
    before, program = case.stages
    rng = np.random.default_rng(7)
    for size in case.sizes:
        sizes = dict(size)
        given = list(inputs(case, before, sizes, rng))
        values = list(dict.fromkeys(v for k in program.kernels for v in (*k.inputs, *k.outputs)))
        whole = Function(before.name, Block(before.ops, before.params, tuple(values)))
        known = dict(zip(values, interpret(whole, given, sizes=sizes), strict=True))
        near = dict(zip(values, interpret(whole, given, sizes=sizes, dtype_mode="storage"), strict=True))
        scalars = dict(zip(before.params, given, strict=True))
        for k in program.kernels:
            reads, wanted = ([known[v] for v in vs] for vs in (k.inputs, k.outputs))
            yield from kernel_runs(
                case.name, k, reads, [scalars[s] for s in k.scalars], wanted, sizes, [near[v] for v in k.outputs]
            )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """All runs of all cases in one process, by case."""
    found = {case.name: list(planned(case)) for case in CASES}
    execute([r for runs in found.values() for r in runs], tmp_path_factory.mktemp("triton"))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_streams_compute_what_the_interpreter_computes(case: Stream, results: dict[str, list[Run]]) -> None:
    assert sum(k.form == "stream" for k in case.stages[1].kernels) == case.streams
    for run in results[case.name]:
        judge(run)
