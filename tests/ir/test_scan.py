"""Scans in the IR: text and back, every rule of their form, and what the interpreter makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tessera.diag import ParseError, VerifyError
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import f32
from tessera.ir.graph import Block, Function, Operation, Value, users
from tessera.ir.interp import interpret
from tessera.ir.loop import DEEPEST, Loop, outer_values, steps, with_body
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.types import TensorType
from tessera.ir.verify import verify
from tests.ir.test_roundtrip import assert_exact

SUM = "%c2 = add(c, x_t) : f32[D]"
HEAD = "fn f(x: f32[S, D], y: f32[S], z: f32[T, D], w: f32[D], n: scalar f32) -> "


def scan(
    operands: str = "w, x", params: str = "c: f32[D], x_t: f32[D]", body: str = SUM, yields: str = "%c2, x_t",
    results: str = "%last, %all", types: str = "f32[D], f32[S, D]", attrs: str = "carries=1, dim=0, reverse=false",
) -> str:  # fmt: skip
    returned = results if results else "w"
    outs = types if results else "f32[D]"
    left = f"{results} = " if results else ""
    right = f" : {types}" if results else ""
    return (
        f"{HEAD}({outs}) {{ {left}scan({operands}, {attrs}){right} {{ ^({params}) {body} yield {yields} }} "
        f"return {returned} }}"
    )


SOUND = {
    "plain": scan(),
    "reads from outside": scan("w, x, w, n", body="%a = mul(x_t, w) : f32[D] %b = mul(%a, n) : f32[D] "
                               "%c2 = add(c, %b) : f32[D]"),
    "backwards along another dim": scan("y, x", "c: f32[S], x_t: f32[S]", "%c2 = add(c, x_t) : f32[S]",
                                        types="f32[S], f32[D, S]", attrs="carries=1, dim=1, reverse=true"),
    "no carry": scan("x", "x_t: f32[D]", "", "x_t", "%all", "f32[S, D]", "carries=0, dim=0, reverse=false"),
    "nothing stacked": scan(yields="%c2", results="%last", types="f32[D]"),
    "two scanned": scan("w, x, y", "c: f32[D], x_t: f32[D], y_t: f32[]", "%m = mul(x_t, y_t) : f32[D] "
                        "%c2 = add(c, %m) : f32[D]"),
    "the scanned tensor read as a whole": scan("w, x, x", body="%s = sum(x) over [S] : f32[D] "
                                               "%c2 = add(c, %s) : f32[D]"),
    "yields from outside": scan("w, x, w", body="", yields="w, w"),
    "a scan in a step": scan("w, x, y", body="%t = scan(x_t, y, c, carries=1, dim=0, reverse=false) : f32[D] { "
                             "^(d: f32[D], y_t: f32[]) %d2 = mul(d, y_t) : f32[D] %d3 = add(%d2, c) : f32[D] "
                             "yield %d3 } %c2 = add(c, %t) : f32[D]"),
}  # fmt: skip


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_round_trip(text: str) -> None:
    f = parse(text)
    verify(f)
    assert_exact(f)


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_a_scan_in_a_group(text: str) -> None:
    f = parse(text)
    (op,) = f.ops
    group = Operation(OPS["extern"], tuple(dict.fromkeys(op.inputs)), op.results, body=Block(f.ops))
    grouped = f.with_ops((group,))
    verify(grouped)
    assert_exact(grouped)
    sizes = {"S": 3, "D": 2, "T": 2}
    inputs = [np.random.default_rng(1).normal(size=[sizes[str(d)] for d in p.type.dims]) for p in f.params]
    for a, b in zip(interpret(grouped, inputs), interpret(f, inputs), strict=True):
        np.testing.assert_array_equal(a, b)


BROKEN = {
    "carry changes its sizes": (
        scan(yields="y, x_t", operands="w, x, y"),
        "carry 0 is f32[D] before a step and f32[S] after",
    ),
    "carry changes its dtype": (
        scan(body="%c2 = cast(x_t, dtype=f64) : f64[D]"), "carry 0 is f32[D] before a step and f64[D] after it",
    ),
    "carry begins otherwise": (scan("y, x"), "carry 0 begins as f32[S] where its block parameter is f32[D]"),
    "slice of another size": (
        scan(params="c: f32[D], x_t: f32[S]", yields="c, x_t", body=""),
        "a slice of f32[S, D] is f32[D]",
    ),
    "different numbers of steps": (
        scan("w, x, z", "c: f32[D], x_t: f32[D], z_t: f32[D]"), "`T` is scanned beside `S`",
    ),
    "no such dim": (scan(attrs="carries=1, dim=2, reverse=false"), "dim 2 of a rank-2 tensor"),
    "negative dim": (scan(attrs="carries=1, dim=-1, reverse=false"), "dim -1 of a rank-2 tensor"),
    "nothing scanned": (scan(attrs="carries=2, dim=0, reverse=false"), "2 carries among 2 block parameters"),
    "negative carries": (scan(attrs="carries=-1, dim=0, reverse=false"), "-1 carries among 2 block parameters"),
    "too few operands": (scan("w"), "2 block parameters for 1 operands"),
    "too few yields": (scan(yields="", results=""), "0 values are yielded for 1 carries"),
    "read and not listed": (
        scan(body="%c2 = mul(c, w) : f32[D]", operands="w, x"),
        "`%w` is read in the step and not an",
    ),
    "listed and not read": (scan("w, x, w"), "operand that the step does not read"),
    "listed twice": (
        scan("w, x, y, y", yields="%c2, y", types="f32[D], f32[S, S]"),
        "operand that the step does not read",
    ),
    "a number is carried": (
        scan("0.0, x", "c: f32[], x_t: f32[D]", "", "c, x_t", types="f32[], f32[S, D]"),
        "carry 0 is a scalar f32",
    ),
    "a number is stacked": (scan(yields="%c2, 1.0"), "value 1 that a step yields is a scalar f32"),
    "wrong result": (scan(types="f32[D], f32[D, S]"), "`%all` has the type `f32[D, S]` where `scan` gives `f32[S, D]`"),
    "missing result": (scan(results="%last", types="f32[D]"), "`scan` has 2 results, not 1"),
    "no attribute": (scan(attrs="carries=1, reverse=false"), "`scan` lacks the attribute `dim`"),
    "no body": (
        f"{HEAD}f32[D] {{ %a = scan(w, x, carries=1, dim=0, reverse=false) : f32[D] return %a }}",
        "`scan` has no body",
    ),
    "a value of a step outside": (
        scan(results="%last, %all").replace("return %last, %all", "return %c2, %all"),
        "read outside",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_every_rule(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert message in str(caught.value), str(caught.value)


def test_the_verifier_shows_the_line() -> None:
    f = parse(scan())
    (op,) = f.ops
    assert op.body is not None
    wrong = replace(op, body=replace(op.body, yields=(op.body.yields[1], f.params[1])))
    with pytest.raises(VerifyError, match="read in the step and not an operand"):
        verify(f.with_ops((wrong,)))


def test_steps_inside_each_other_end_somewhere() -> None:
    def nest(depth: int) -> Function:
        t, whole = TensorType(f32, (Dim.name("D"),)), TensorType(f32, (Dim.name("S"), Dim.name("D")))
        x, c = Value("x", whole), Value("w", t)
        last = Value("last", t)
        params = tuple((Value(f"c{n}", t), Value(f"x{n}", t)) for n in range(depth))
        inner = Block((), params[-1], params[-1][:1])
        for n in reversed(range(depth)):
            result = last if n == 0 else Value(f"r{n}", t)
            outer = c if n == 0 else params[n - 1][0]
            captured = outer_values(inner)
            attrs = {"carries": 1, "dim": 0, "reverse": False}
            op = Operation(OPS["scan"], (outer, x, *captured), (result,), attrs, body=inner)
            inner = Block((op,), () if n == 0 else params[n - 1], (result,))
        return Function("f", Block(inner.ops, (x, c), inner.yields))

    verify(nest(DEEPEST))
    assert_exact(nest(DEEPEST))
    with pytest.raises(VerifyError, match=f"nested deeper than {DEEPEST}"):
        verify(nest(DEEPEST + 1))


def test_the_parts_of_a_scan() -> None:
    f = parse(SOUND["a scan in a step"])
    loop = Loop.of(f.ops[0])
    assert [v.name for v in outer_values(loop.body)] == ["y"] == [v.name for v in loop.captured if isinstance(v, Value)]
    assert [v.name for v in loop.last] == ["last"] and [v.name for v in loop.stacks] == ["all"]
    assert [op.name for op in steps(f.body)] == ["scan"] and [op.name for op in steps(loop.body)] == ["scan", "add"]
    x, y, *_ = f.params
    assert users(f.body)[x] == list(f.ops) == users(f.body)[y]
    fewer = with_body(f.ops[0], replace(loop.body, ops=(), yields=(loop.slices[0], loop.carries[0])))
    assert len(fewer.operands) == 2
    verify(f.with_ops((fewer,)))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_values(dim: int, reverse: bool) -> None:
    kept = "SD"[1 - dim]
    f = parse(
        f"fn f(x: f32[S, D], w: f32[{kept}]) -> (f32[{kept}], f32[{'SD'[dim]}, {kept}]) {{ "
        f"%last, %all = scan(w, x, carries=1, dim={dim}, reverse={str(reverse).lower()}) : f32[{kept}], "
        f"f32[{'SD'[dim]}, {kept}] {{ ^(c: f32[{kept}], r: f32[{kept}]) %h = mul(c, 0.5) : f32[{kept}] "
        f"%n = add(%h, r) : f32[{kept}] yield %n, c }} return %last, %all }}"
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3))
    c = w = rng.normal(size=4 if dim else 3)
    rows = np.moveaxis(x, dim, 0)
    out = np.empty_like(rows)
    for n in reversed(range(len(rows))) if reverse else range(len(rows)):
        out[n] = c
        c = c * 0.5 + rows[n]
    last, stacked = interpret(f, [x, w])
    np.testing.assert_array_equal(last, c)
    np.testing.assert_array_equal(stacked, out)


def test_storage_rounds_in_every_step() -> None:
    f = parse(
        "fn f(x: bf16[S], c: bf16[]) -> bf16[] { %t = scan(c, x, carries=1, dim=0, reverse=false) : bf16[] "
        "{ ^(a: bf16[], b: bf16[]) %s = add(a, b) : bf16[] yield %s } return %t }"
    )
    ones = np.ones(300)
    assert interpret(f, [ones, 0.0])[0] == 300.0
    assert interpret(f, [ones, 0.0], dtype_mode="storage")[0] == 256.0


def test_the_text_of_a_long_head_is_broken() -> None:
    names = ", ".join(f"a{n}: f32[S]" for n in range(20))
    given = ", ".join(f"a{n}" for n in range(20))
    params = ", ".join(f"p{n}: f32[]" for n in range(20))
    f = parse(f"fn f({names}) -> f32[S] {{ %y = scan({given}, carries=0, dim=0, reverse=false) : f32[S] "
              f"{{ ^({params}) yield p7 }} return %y }}")  # fmt: skip
    assert max(map(len, print_function(f).splitlines())) <= 100
    assert_exact(f)
