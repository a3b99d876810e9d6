"""Generated functions through the whole pipeline: every stage verifies, reads back and computes what was written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, reject, settings

from tessera.diag import BoundsError, ShapeError
from tessera.ir.graph import Function
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import Array
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.schedule.schedule import schedule
from tests.fuzz.programs import run_program, stages
from tests.fuzz.strategies import SIZES, functions, inputs_for


def reference(f: Function) -> list[Array]:
    """What the function computes; sizes or indices that it refuses are no test."""
    try:
        return interpret(f, inputs_for(f), sizes=SIZES)
    except BoundsError:
        reject()
    except ShapeError as error:
        assert "does not hold" in error.message
        reject()


def check(f: Function) -> None:
    wanted = reference(f)
    last = f
    for _, last in stages(f):
        verify(last)
        assert parse(print_function(last)) == last
        close(interpret(last, inputs_for(f), sizes=SIZES), wanted, f)
    program = schedule(last)
    for kernel in program.kernels:
        verify(kernel.function)
        assert parse(print_function(kernel.function)) == kernel.function
    close(run_program(program, inputs_for(f), SIZES), wanted, f)


def close(found: list[Array], wanted: list[Array], f: Function) -> None:
    """Equal up to rounding; a narrow float that is cast shows its rounding in a kernel, and errors then add up."""
    kinds = [v.type.dtype for op in f.ops for v in (*op.results, *op.inputs)]
    narrow = any(t.is_float and t.bits < 32 for t in kinds)
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape and got.dtype.kind == want.dtype.kind
        if not narrow:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(functions(max_ops=6, dressed=False))
def test_generated_functions(f: Function) -> None:
    check(f)


@pytest.mark.nightly
@settings(max_examples=3000)
@given(functions(max_ops=14, dressed=False))
def test_generated_functions_for_long(f: Function) -> None:
    check(f)
