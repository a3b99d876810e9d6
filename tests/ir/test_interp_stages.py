"""Every stage of every record's sample calls, down to the kernels: it verifies, it reads back, it computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.ir.dialects.samples import SIZES
from tessera.ir.dtype import f32, f64
from tessera.ir.graph import Function, walk
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import Array
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.record import Kind
from tessera.ir.verify import verify
from tessera.schedule.plan import Program
from tessera.schedule.schedule import schedule
from tests.fuzz.build import Case, every_sample, function_of
from tests.fuzz.programs import run_program, stages

SAMPLES = every_sample()


@pytest.mark.parametrize("name", sorted({s[0] for s in SAMPLES}))
def test_a_record_at_every_stage(name: str) -> None:
    for _, _, record, sample in [s for s in SAMPLES if s[0] == name]:
        case = function_of(record, sample)
        seen: list[Function] = []
        for _, f in stages(case.function):
            if f not in seen:
                seen.append(f)
                sound(f)
        program = schedule(f)
        for kernel in program.kernels:
            sound(kernel.function)
        same_results(case, seen, program)


def sound(f: Function) -> None:
    verify(f)
    text = print_function(f)
    assert parse(text) == f
    assert print_function(parse(text)) == print_function(f, header=False)


#: Records whose definition in f32 has a fitted polynomial, and how far that may be off where a stage is expanded.
FITTED = {"gelu": 1e-8, "bell_integral": 1e-8}


def same_results(case: Case, seen: list[Function], program: Program) -> None:
    inputs = case.inputs()
    wanted, fitted = interpret(case.function, inputs, sizes=SIZES), FITTED.get(case.record.name, 0.0)
    for f in seen[1:]:
        close(interpret(f, inputs, sizes=SIZES), wanted, max(fitted, rounding(f)))
    found = run_program(program, inputs, SIZES)
    close(found, wanted, max(fitted, *(rounding(f) for f in (case.function, *(k.function for k in program.kernels)))))


def close(found: list[Array], wanted: list[Array], rtol: float) -> None:
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        scale = float(np.max(np.abs(want), initial=0.0, where=np.isfinite(want))) if want.size else 0.0
        np.testing.assert_allclose(got, want, rtol=rtol, atol=max(rtol * scale, 1e-300))


def rounding(f: Function) -> float:
    """How far a stage may be from the function as built: by the casts in it, which round.

    A kernel computes with constants in f64 and casts to f32; and it casts to a narrow type where the tensor form has a
    narrow result without a cast.
    """
    kinds = [v.type.dtype for op in walk(f.body) for v in (*op.results, *op.inputs)]
    narrow = [t for t in kinds if t.is_float and t.bits < 32]
    if narrow:
        return 4 * max(t.eps for t in narrow)
    made = any(op.record.kind in (Kind.CREATE, Kind.RANDOM) for op in f.ops)
    return 1e-6 if made or {f32, f64} <= set(kinds) else 1e-12
