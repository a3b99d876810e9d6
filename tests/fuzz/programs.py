"""Every stage of a function, and a scheduled program run by the interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tessera.ir.graph import Block, Function, Value
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import Array
from tessera.ir.types import TensorType
from tessera.passes.base import Row
from tessera.passes.pipeline import PIPELINE
from tessera.schedule.plan import Call, Kernel, Program
from tessera.schedule.schedule import schedule


def stages(f: Function, rows: Sequence[Row] = PIPELINE) -> Iterator[tuple[str, Function]]:
    """The function as built and after each pass."""
    yield "built", f
    for row in rows:
        f = row.step.run(f)
        yield row.step.name, f


def fused(f: Function, rows: Sequence[Row] = PIPELINE) -> Function:
    return list(stages(f, rows))[-1][1]


def kernels(f: Function) -> list[Kernel]:
    """The kernels of a fused function."""
    return [s for s in schedule(f).steps if isinstance(s, Kernel)]


def run_program(program: Program, inputs: Sequence[Any], sizes: Mapping[str, int]) -> list[Array]:
    """A scheduled program, each kernel and each library call by the interpreter: what it returns, and behind that what
    the parameters become that it updates.
    """
    env: dict[Value, Any] = dict(zip(program.function.params, inputs, strict=True))
    for step in program.steps:
        if isinstance(step, Call):
            reads = tuple(dict.fromkeys(step.op.inputs))
            one = Function("call", Block((step.op,), reads, step.op.results))
            found = interpret(one, [env[v] for v in reads], sizes=sizes)
            env.update(zip(step.op.results, found, strict=True))
        else:
            updated = dict(step.updates)
            kept = [updated[v] for v in step.outputs if v in updated]
            given = [env[v] for v in (*step.inputs, *kept, *step.scalars)]
            found = interpret(step.function, given, sizes=sizes)
            env.update(zip(step.outputs, found, strict=True))
    outputs = Function("outputs", Block((), tuple(env), program.function.outputs))
    return interpret(outputs, list(env.values()), sizes=sizes)


def compiled(f: Function, rows: Sequence[Row] = PIPELINE) -> tuple[Function, Program]:
    done = fused(f, rows)
    return done, schedule(done)


def tensor_params(f: Function) -> list[Value]:
    return [p for p in f.params if isinstance(p.type, TensorType)]
