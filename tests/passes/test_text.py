"""Every pass on text: what it makes of a function, and that it leaves a note exactly when it did something."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.diag import ShapeError
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.passes.base import apply, run_pipeline
from tessera.passes.defer import Defer
from tessera.passes.pipeline import PASSES, PIPELINE
from tests.passes.cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_text_in_text_out(case: Case) -> None:
    f = parse(case.before)
    for name in case.passes:
        f = apply(PASSES[name], f, verify)
    expected = parse(case.after)
    assert print_function(f, spans=False, header=False) == print_function(expected, spans=False, header=False)
    assert f == expected
    assert (not f.notes[-1].text.startswith("nothing to do")) is case.fired


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_whole_pipeline_keeps_the_meaning(case: Case) -> None:
    f = parse(case.before)
    sizes = {n: size for size, n in enumerate(sorted({n for p in f.params for d in p.type.dims for n in d.names()}), 2)}
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-3, 3, [d.evaluate(sizes) for d in p.type.dims]).astype("float64") for p in f.params]
    inputs = [x.astype("int64") if p.type.dtype.is_int else x for x, p in zip(inputs, f.params, strict=True)]
    want = interpret(f, inputs)
    for stage in run_pipeline(f, PIPELINE, verify).values():
        assert parse(print_function(stage)) == stage
        for a, b in zip(interpret(stage, inputs), want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_shapes_keeps_guards_once_and_drops_what_is_proved() -> None:
    f = parse("""
fn f(x: f32[A], y: f32[B*C]) -> f32[A]
  where `A` == `B*C` open
{
  %a = neg(x) : f32[A]
  return %a
}""")
    out = apply(PASSES["shapes"], f, verify)
    assert [str(o) for o in out.obligations] == ["A == B*C"]
    assert "guarded" in " ".join(out.notes[-1].details)


def test_every_row_of_the_table_says_why() -> None:
    assert [row.step.name for row in PIPELINE] == ["shapes", "canonicalize", "chunk", "cse", "dce", "blocks", "fuse"]
    assert all(len(row.reason) > 20 for row in PIPELINE)


def test_refuted_obligations_are_errors() -> None:
    f = parse("""
fn f(x: f32[A], y: f32[B]) -> f32[A]
  where `A` == `B` open
{
  %a = neg(x) : f32[A]
  return %a
}""")
    with pytest.raises(ShapeError) as caught:
        PASSES["shapes"].run(f)
    assert caught.value.code == "TSR0202"


def test_what_needs_no_late_parameter_is_put_before_who_needs_it() -> None:
    f = parse(
        "fn f(x: f32[N], d: f32[N]) -> (f32[N], f32[N]) { %a = exp(x) : f32[N] %b = tanh(x) : f32[N] "
        "%c = neg(d) : f32[N] %e = mul(%c, %b) : f32[N] %g = mul(%e, %a) : f32[N] return %e, %g }"
    )
    made = apply(Defer(late=("d",)), f, verify)
    assert [r.name for op in made.ops for r in op.results] == ["c", "b", "e", "a", "g"]
    assert made.notes[-1].text.startswith("2 where they are first needed")
