"""Functions that update parameters, and kernels over buffers in pieces: as text, verified, interpreted."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.diag import ParseError, VerifyError
from tessera.ir.graph import Function, Value
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tests.fuzz.programs import compiled, run_program

STEP = """fn step(p: f32[N], g: f32[N], rate: scalar f32) -> (f32[], f32[N]) {
  %sum  = sum(g) over [N] : f32[]
  %move = mul(g, rate)    : f32[N]
  %new  = sub(p, %move)   : f32[N]
  return %sum, p = %new
}
"""
KERNEL = """kernel twice(x: update f32[N] in pieces) {
  nest(axes=("c",), extents=[ceildiv(N, 64)], vector="i") {
    sweep(axes=("i",), lo=[64*c], hi=[min(N, 64*c + 64)]) {
      %a = load(x, index=[i])     : f32<i>
      %b = add(%a, %a)            : f32<i>
           store(x, %b, index=[i])
    }
  }
}
"""


def test_updates_read_back_as_they_are_printed() -> None:
    f = parse(STEP)
    assert [p.name for p in f.updates] == ["p"] and len(f.returned) == 1
    assert [(p.name, getattr(x, "name", "")) for p, x in f.written] == [("p", "new")]
    assert parse(print_function(f)) == f
    assert f != parse(STEP.replace("p = %new", "%new"))


@pytest.mark.parametrize(
    "text",
    [
        STEP.replace("%sum, p = %new", "p = %new, %sum").replace("(f32[], f32[N])", "(f32[N], f32[])"),
        STEP.replace("p = %new", "p = %sum").replace("(f32[], f32[N])", "(f32[], f32[])"),
        STEP.replace("p = %new", "rate = %new"),
        STEP.replace("p = %new", "q = %new"),
        STEP.replace("p = %new", "p = %new, p = %new").replace("f32[N])", "f32[N], f32[N])"),
        STEP.replace("p: f32[N]", "p: f32[N] in pieces"),
    ],
    ids=["order", "type", "scalar", "unknown", "twice", "tensor"],
)
def test_updates_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text)


def test_updates_are_outputs_to_every_pass_and_to_the_interpreter() -> None:
    f = parse(STEP)
    p, g = np.arange(5.0), np.ones(5)
    total, new = interpret(f, [p, g, 0.5])
    assert total == 5.0 and new.tolist() == (p - 0.5).tolist()
    fused, program = compiled(f)
    assert fused.updates == f.updates and [k.updates[0][1].name for k in program.kernels] == ["p"]
    total, new = run_program(program, [p, g, 0.5], {"N": 5})
    assert total == 5.0 and new.tolist() == (p - 0.5).tolist()
    assert p.tolist() == np.arange(5.0).tolist()


def test_a_kernel_in_pieces_reads_back_and_computes() -> None:
    f = verify(parse(KERNEL))
    assert parse(print_function(f)) == f
    (x,) = f.params
    assert "in pieces" in str(x.type)
    assert interpret(f, [np.arange(100.0)])[0].tolist() == (2 * np.arange(100.0)).tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        KERNEL.replace("load(x, index=[i])", "load(x, index=[i + 1])"),
        KERNEL.replace("index=[i])     :", "index=[i], guard=((`i`, `0`, `N`),)) :"),
        KERNEL.replace('extents=[ceildiv(N, 64)], vector="i"', 'extents=[ceildiv(N, 64)], vector=""').replace(
            "    sweep", "    %z = load(x, index=[c]) : f32<c>\n    sweep"
        ),
    ],
    ids=["beside", "guarded", "outside"],
)
def test_pieces_are_only_walked(wrong: str) -> None:
    assert wrong != KERNEL
    with pytest.raises(ParseError, match="lies in pieces"):
        parse(wrong)


def test_a_kernel_updates_no_parameters() -> None:
    f = parse(KERNEL)
    broken = Function(f.name, f.body, "tile", updates=f.params)
    with pytest.raises(VerifyError, match="updates buffers"):
        verify(broken)
    assert isinstance(f.params[0], Value)
