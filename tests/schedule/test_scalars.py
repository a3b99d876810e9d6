"""Ops all of whose operands are numbers: they compute as Python does, whatever the dtype of their result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tessera
from tessera import Tensor
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


def test_what_numbers_alone_give_is_not_rounded_between_steps() -> None:
    @tessera.function
    def step(g: Tensor["N"], b: float, t: float) -> tuple[Tensor["N"], torch.Tensor, torch.Tensor]:
        left = 1 - b**t
        return g / left, torch.full_like(g, 1.0) * left, (g * 0 + left).sum(0)

    g = torch.randn(100, generator=torch.Generator().manual_seed(1))
    left = 1 - 0.999**2.0
    quotient, ones, total = step(g, 0.999, 2.0)
    torch.testing.assert_close(quotient.double(), g.double() / left, rtol=1.2e-7, atol=0.0)
    torch.testing.assert_close(ones.double(), torch.full((100,), left, dtype=torch.float64), rtol=6e-8, atol=0.0)
    torch.testing.assert_close(total.double(), torch.tensor(100 * left, dtype=torch.float64), rtol=1.2e-7, atol=0.0)


def test_numbers_meet_tensors_in_their_dtype() -> None:
    @tessera.function
    def f(x: Tensor["N", tessera.bf16], y: Tensor["N", tessera.f64], a: float) -> object:
        b = a * a - 2.0
        return x * b, y * b, b * 2.0, (x + b).sum(), torch.where(x > b, x, b)

    x, y = torch.linspace(-2, 2, 33).bfloat16(), torch.linspace(-2, 2, 33, dtype=torch.float64)
    found, wanted = f(x, y, 1.5), f.eager(x, y, 1.5)
    for got, eager in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.as_tensor(got).double(), torch.as_tensor(eager).double(), rtol=1e-2, atol=1e-2)
    assert found[0].dtype is torch.bfloat16 and found[1].dtype is torch.float64
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-15, atol=0.0)
