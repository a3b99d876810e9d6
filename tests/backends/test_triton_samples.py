"""Every sample call of every op, through the whole compiler to Triton, interpreted and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tessera.backends.triton.aot import available
from tessera.ir.dialects.samples import SIZES
from tessera.ir.graph import Function
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import round_to
from tessera.passes.pipeline import pipeline
from tessera.schedule.plan import Call
from tests.backends.triton_runs import Run, execute, judge, kernel_runs
from tests.fuzz.build import every_sample, function_of
from tests.fuzz.programs import compiled
from tests.fuzz.strategies import SIZES as RANDOM_SIZES
from tests.fuzz.strategies import functions, inputs_for

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")


def steps(label: str, f: Function, inputs: list[Any], sizes: Mapping[str, int]) -> Iterator[Run]:
    """The kernels of a function, each with inputs that the reference computed."""
    _, program = compiled(f, pipeline(integers=False))
    env: dict[Any, Any] = dict(zip(f.params, inputs, strict=True))
    for step in program.steps:
        if isinstance(step, Call):
            reads = tuple(dict.fromkeys(step.op.inputs))
            one = Function("call", type(f.body)((step.op,), reads, step.op.results))
            env.update(zip(step.op.results, interpret(one, [env[v] for v in reads], sizes=sizes), strict=True))
            continue
        given = [stored(env[v], v) for v in step.inputs]
        scalars = [env[s] for s in step.scalars]
        found = interpret(step.function, [*given, *scalars], sizes=sizes)
        numbers = [int(s) if np.asarray(s).dtype.kind in "iub" else float(s) for s in scalars]
        rounded = interpret(step.function, [*given, *scalars], sizes=sizes, dtype_mode="storage")
        yield from kernel_runs(label, step, given, numbers, found, sizes, rounded)
        env.update(zip(step.outputs, found, strict=True))


def stored(x: Any, v: Any) -> Any:
    """What memory would hold."""
    return round_to(np.asarray(x), v.type.dtype) if v.type.dtype.is_float else x


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Runs whose kernels differ: the first of each text."""
    return list({r.job["text"] + r.label.rpartition(" ")[2]: r for r in reversed(list(runs))}.values())


def test_every_sample_of_every_op(tmp_path: Path) -> None:
    runs: list[Run] = []
    for name, number, record, sample in every_sample():
        case = function_of(record, sample)
        runs += steps(f"{name}-{number}", case.function, case.inputs(), SIZES)
    runs = distinct(runs)
    assert len(runs) > 300
    execute(runs, tmp_path)
    for run in runs:
        judge(run, slack=20.0)


def test_random_functions(tmp_path: Path) -> None:
    runs: list[Run] = []

    @given(functions(dressed=False))
    def grow(f: Function) -> None:
        runs.extend(steps(f"random {len(runs)}", f, inputs_for(f), RANDOM_SIZES))

    grow()
    runs = distinct(runs)
    assert runs
    execute(runs, tmp_path)
    for run in runs:
        judge(run, slack=20.0)
