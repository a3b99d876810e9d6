"""Regions around a contraction: what is taken in, what is not, and what moves behind sums."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.ir.graph import Function
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.passes.base import apply
from tessera.passes.hoist import hoist
from tessera.passes.pipeline import PASSES
from tests.passes.cases import Case
from tests.passes.stream_cases import APART, CASES

SIZES = {"S": 3, "T": 5, "D": 2, "E": 4}


def inputs_of(f: Function, sizes: dict[str, int] | None = None) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [[d.evaluate(sizes or SIZES) for d in p.type.dims] for p in f.params]
    pairs = zip(shapes, f.params, strict=True)
    return [rng.standard_normal(s) > 0 if p.type.dtype.is_bool else rng.standard_normal(s) for s, p in pairs]


def same(f: Function, g: Function, sizes: dict[str, int] | None = None) -> None:
    with np.errstate(all="ignore"):
        found = [interpret(x, inputs_of(f, sizes)) for x in (f, g)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_text_in_text_out(case: Case) -> None:
    f, expected = parse(case.before), parse(case.after)
    found = f
    for name in case.passes:
        found = apply(PASSES[name], found, verify)
    assert print_function(found, spans=False, header=False) == print_function(expected, spans=False, header=False)
    assert found == expected
    assert PASSES["fuse"].run(found) == found
    same(f, found)


def around(body: str, result: str = "f32[S]") -> Function:
    return parse(f"""
fn f(q: f32[S, D], k: f32[D, T], v: f32[T, E], g: f32[S, 1], b: f32[S, T], c: bool[S, T]) -> {result} {{
  %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
  {body}
  return %o
}}""")


@pytest.mark.parametrize("body", APART.values(), ids=APART)
def test_folds_that_are_no_single_stream(body: str) -> None:
    f = around(body)
    found = apply(PASSES["fuse"], f, verify)
    assert [op.name for op in found.ops] != ["stream"]
    same(f, found)


def test_scores_that_are_given_back_stay_outside_of_streams_with_folds() -> None:
    f = parse("""
fn f(q: f32[S, D], k: f32[D, T]) -> (f32[S, T], f32[S]) {
  %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
  %a = amax(%s) over [T] : f32[S]
  return %s, %a
}""")
    found = apply(PASSES["fuse"], f, verify)
    same(f, found)


def test_a_first_part_of_what_a_stream_gives_is_made_outside() -> None:
    """It begins where the whole does, and ends before it."""
    f = parse("""
fn f(q: f32[S, 8], k: f32[8, T], v: f32[T, 8], c: f32[S, 4]) -> (f32[S, 8], f32[S, 4]) {
  %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
  %p = exp(%s) : f32[S, T]
  %o = matmul(%p, v, accumulate_dtype=none) : f32[S, 8]
  %h = slice(%o, dim=1, start=`0`, stop=`4`, step=`1`) : f32[S, 4]
  %r = mul(%h, c) : f32[S, 4]
  return %o, %r
}""")
    found = apply(PASSES["fuse"], f, verify)
    assert [[v.name for v in op.results] for op in found.ops if op.name == "stream"] == [["o"]]
    same(f, found)


# -- factors behind sums

KEPT = "%l = sum(%s) over [T] keepdim : f32[S, 1]"
TOTAL = "%o = sum(%w) over [T] keepdim : f32[S, 1]"
PRODUCT = "%o = matmul(%w, v, accumulate_dtype=none) : f32[S, E]"


def hoisted(*lines: str, result: str = "f32[S, 1]") -> list[str]:
    """The operations that come with hoisting, in order, without those that nothing reads; the meaning stays."""
    f = around("\n  ".join(lines), result)
    ops = hoist(f.ops, 1)
    needed, out = set(f.outputs), []
    for op in reversed(ops):
        if any(r in needed for r in op.results):
            needed.update(op.inputs)
            out.append(op)
    g = verify(f.with_ops(tuple(reversed(out))))
    same(f, g)
    empty = {**SIZES, "T": 0}
    same(f, g, empty)
    return [op.name for op in reversed(out)]


MOVES = {
    "a quotient": ((KEPT, "%w = div(%s, %l) : f32[S, T]", TOTAL), ["matmul", "sum", "sum"]),
    "a factor on the right": ((KEPT, "%w = mul(%s, %l) : f32[S, T]", TOTAL), ["matmul", "sum", "sum", "mul"]),
    "a factor on the left": ((KEPT, "%w = mul(%l, %s) : f32[S, T]", TOTAL), ["matmul", "sum", "sum", "mul"]),
    "through a product": (
        (KEPT, "%a = mul(%s, %l) : f32[S, T]", "%w = mul(%a, b) : f32[S, T]", TOTAL),
        ["matmul", "sum", "mul", "sum", "mul"],
    ),
}


@pytest.mark.parametrize(("lines", "names"), MOVES.values(), ids=MOVES)
def test_what_moves_behind_a_sum(lines: tuple[str, ...], names: list[str]) -> None:
    found = hoisted(*lines)
    assert found[: len(names)] == names


STAYS = {
    "a sum with what is kept": (KEPT, "%w = add(%s, %l) : f32[S, T]", TOTAL),
    "a divisor of its own": ("%w = div(%s, b) : f32[S, T]", TOTAL),
    "what divides": (KEPT, "%w = div(%l, %s) : f32[S, T]", TOTAL),
    "no sum": (KEPT, "%w = div(%s, %l) : f32[S, T]", "%o = amax(%w) over [T] keepdim : f32[S, 1]"),
    "behind an exponential": (KEPT, "%a = div(%s, %l) : f32[S, T]", "%w = exp(%a) : f32[S, T]", TOTAL),
    "a choice between two that count": (
        KEPT, "%a = div(%s, %l) : f32[S, T]", "%w = where(c, %a, 1.0) : f32[S, T]", TOTAL),
}  # fmt: skip


@pytest.mark.parametrize("lines", STAYS.values(), ids=STAYS)
def test_what_stays_in_front(lines: tuple[str, ...]) -> None:
    before = [op.name for op in around("\n  ".join(lines), "f32[S, 1]").ops]
    assert hoisted(*lines) == before


@pytest.mark.parametrize(
    "line",
    [
        "%w = div(%s, %l) : f32[S, T]",
        "%a = div(%s, %l) : f32[S, T] %w = where(c, %a, 0.0) : f32[S, T]",
        "%a = div(%s, %l) : f32[S, T] %x = mul(%a, b) : f32[S, T] %w = where(c, 0.0, %x) : f32[S, T]",
        "%a = mul(%s, %l) : f32[S, T] %w = mul(%a, %a) : f32[S, T]",
        "%a = div(%s, %l) : f32[S, T] %e = exp(%l) : f32[S, 1] %w = mul(%a, %e) : f32[S, T]",
    ],
)
def test_hoisting_keeps_the_meaning_of_contractions(line: str) -> None:
    hoisted(KEPT, line, PRODUCT, result="f32[S, E]")


def test_a_narrow_product_is_divided_in_its_own_type() -> None:
    f = parse("""
fn f(q: bf16[S, D], k: bf16[D, T]) -> bf16[S, 1] {
  %s = matmul(q, k, accumulate_dtype=none) : bf16[S, T]
  %l = sum(%s) over [T] keepdim : bf16[S, 1]
  %w = div(%s, %l) : bf16[S, T]
  %x = cast(%w, dtype=f32) : f32[S, T]
  %y = cast(%x, dtype=bf16) : bf16[S, T]
  %o = sum(%y) over [T] keepdim : bf16[S, 1]
  return %o
}""")
    g = f.with_ops(tuple(hoist(f.ops, 1)))
    assert verify(g).ops[-1].results == f.ops[-1].results


def test_a_long_chain_is_followed_only_so_far() -> None:
    lines, last = [KEPT, "%x0 = div(%s, %l) : f32[S, T]"], "x0"
    for n in range(1, 400):
        lines.append(f"%x{n} = mul(%{last}, b) : f32[S, T]")
        last = f"x{n}"
    lines.append(f"%o = sum(%{last}) over [T] keepdim : f32[S, 1]")
    f = around("\n  ".join(lines), "f32[S, 1]")
    assert len(hoist(f.ops, 1)) < 2 * len(f.ops)
