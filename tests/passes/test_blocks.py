"""Which operations are carried out block by block of rows, and which cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.passes.blocks import Blocks
from tessera.passes.fuse import Fuse
from tessera.passes.merge import merged

SIZES = (("N", 512), ("D", 768), ("V", 32000), ("H", 4))
HEAD = """fn head(x: f32[N, D], w: f32[D, V], b: f32[V], t: int64[N]) -> (f32[N], f32[N, D], f32[D, V], f32[V]) {
  %l = matmul(x, w, accumulate_dtype=none)                               : f32[N, V]
  %c = {change}
  %m = amax(%c) over [V] keepdim                                         : f32[N, 1]
  %e = exp(%c)                                                           : f32[N, V]
  %z = sum(%e) over [V]                                                  : f32[N]
  %d = sub(%e, %m)                                                       : f32[N, V]
  %dx = contract(%d, w, equation="nv,dv->nd", accumulate_dtype=none)     : f32[N, D]
  %dw = contract(%d, x, equation="nv,nd->dv", accumulate_dtype=none)     : f32[D, V]
  %db = sum(%d) over [N]                                                 : f32[V]
  return %z, %dx, %dw, %db
}"""


def by_blocks(change: str) -> str:
    f = verify(parse(HEAD.replace("{change}", change)))
    found = verify(Blocks(SIZES).run(f))
    return print_function(Fuse().run(found)).split("\n", 1)[1] if found is not f else ""


def test_products_rows_and_sums_are_one_run() -> None:
    text = by_blocks("add(%l, b) : f32[N, V]")
    assert "blocks(x, w, b, along=`N`, rows=`max(256, ceildiv(N, 8))`) -> %z, %dx, %dw, %db" in text
    assert verify(parse(text)) == parse(text)


@pytest.mark.parametrize(
    "change",
    [
        "add(%l, b) : f32[N, V]",
        "relu(%l) : f32[N, V]",
        "cumsum(%l, dim=1) : f32[N, V]",
        "flip(%l, dims=(1,)) : f32[N, V]",
        "iota(0, 1, size=`V`, dtype=int64) : int64[V]\n  %p = unsqueeze(t, dim=1) : int64[N, 1]\n"
        "  %q = eq(%c, %p) : bool[N, V]\n  %c1 = where(%q, 0.0, %l) : f32[N, V]",
    ],
)
def test_what_takes_each_row_by_itself_is_inside(change: str) -> None:
    text = by_blocks(change) if "%c1" not in change else by_blocks_of_last(change)
    assert "blocks(" in text and "blocks(" not in text.split("blocks(", 1)[1]
    assert text.split("blocks(", 1)[0].count("matmul(") == 0


def by_blocks_of_last(change: str) -> str:
    source = HEAD.replace("amax(%c)", "amax(%c1)").replace("exp(%c)", "exp(%c1)").replace("{change}", change)
    return print_function(Fuse().run(verify(Blocks(SIZES).run(verify(parse(source))))))


@pytest.mark.parametrize(
    "change",
    [
        "cumsum(%l, dim=0) : f32[N, V]",
        "flip(%l, dims=(0,)) : f32[N, V]",
        "sub(%l, %a) : f32[N, V]",
    ],
)
def test_what_looks_at_other_rows_stays_whole(change: str) -> None:
    source = HEAD
    if "%a" in change:
        source = source.replace("  %c =", "  %a = amax(%l) over [N] keepdim : f32[1, V]\n  %c =")
    f = verify(parse(source.replace("{change}", change)))
    assert Blocks(SIZES).run(f) is f


def test_positions_of_rows_are_made_outside() -> None:
    lines = ("%i = iota(0, 1, size=`N`, dtype=int64) : int64[N]", "%j = unsqueeze(%i, dim=1) : int64[N, 1]",
             "%k = cast(%j, dtype=f32) : f32[N, 1]", "%c = add(%l, %k) : f32[N, V]")  # fmt: skip
    f = verify(parse(HEAD.replace("%c = {change}", "\n  ".join(lines))))
    before, inside = print_function(Fuse().run(Blocks(SIZES).run(f))).split("blocks(")
    assert "iota" in before and "iota" not in inside and "along=`N`" in inside


def test_leading_axes_are_merged_where_they_are_seen_as_one() -> None:
    f = verify(parse("""fn head(x: f32[B, S, D], w: f32[D, V]) -> (f32[B*S], f32[B, S, D]) {
  %l = matmul(x, w, accumulate_dtype=none)                                   : f32[B, S, V]
  %f = reshape(%l, shape=[B*S, V])                                           : f32[B*S, V]
  %m = amax(%f) over [V]                                                     : f32[B*S]
  %g = reshape(%f, shape=[B, S, V])                                          : f32[B, S, V]
  %dx = contract(%g, w, equation="Aij,kj->Aik", accumulate_dtype=none)       : f32[B, S, D]
  return %m, %dx
}"""))
    g = verify(merged(f))
    assert [op.name for op in g.ops] == ["reshape", "contract", "amax", "contract", "reshape"]
    random = np.random.default_rng(0)
    given = [random.normal(size=(2, 3, 4)), random.normal(size=(4, 5))]
    for a, b in zip(interpret(f, given), interpret(g, given), strict=True):
        np.testing.assert_allclose(a, b)
    assert merged(g) is g


def test_what_waits_for_a_sum_over_all_rows_stays_whole() -> None:
    f = verify(parse(HEAD.replace("{change}", "add(%l, b) : f32[N, V]").replace("%d = sub(%e, %m)", "%d = mul(%e, %s)")
                     .replace("  %d =", "  %s = sum(%e) over [N] keepdim : f32[1, V]\n  %d =")))  # fmt: skip
    assert Blocks(SIZES).run(f) is f


def test_small_values_and_unknown_sizes_stay_whole() -> None:
    f = verify(parse(HEAD.replace("{change}", "add(%l, b) : f32[N, V]")))
    assert Blocks(()).run(f) is f
    assert Blocks((("N", 512), ("D", 768), ("V", 64))).run(f) is f


def test_the_meaning_is_the_same() -> None:
    f = verify(parse(HEAD.replace("{change}", "add(%l, b) : f32[N, V]")))
    g = verify(Fuse().run(Blocks(SIZES).run(f)))
    random = np.random.default_rng(0)
    given = [random.normal(size=s) / 3 for s in ((6, 3), (3, 5), (5,))] + [np.zeros(6, np.int64)]
    for a, b in zip(interpret(f, given), interpret(g, given), strict=True):
        np.testing.assert_allclose(a, b)
