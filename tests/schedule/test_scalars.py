"""Ops all of whose operands are numbers: they compute as Python does, whatever the dtype of their result."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.schedule.plan import Call
from tests.fuzz.programs import compiled

_OPS = ["silu(a)", 'gelu(a, approximate="none")', "hardshrink(a, 0.5)", "relu(a)", "logit(0.5, a)"]


@pytest.mark.parametrize("a", [-3.0, -0.25, 0.0, 0.75, 40.0])
@pytest.mark.parametrize("op", _OPS)
def test_comparisons_of_numbers_are_not_made_between_bools(op: str, a: float) -> None:
    f = parse(f"fn f(a: scalar f32) -> f32[] {{ %y = {op} : f32[] return %y }}")
    _, program = compiled(f)
    (step,) = program.steps
    assert not isinstance(step, Call)
    (wanted,) = interpret(f, [np.float64(a)])
    (found,) = interpret(step.function, [np.float64(a)])
    assert found == pytest.approx(wanted, rel=1e-12, nan_ok=True)
