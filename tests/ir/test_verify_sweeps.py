"""The rules for sweeps inside sweeps, and for what reads a fold before it is complete."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.ir.verify_tile import MAX_DEPTH

KERNEL = """
kernel f(q: in f32[B, D], k: in f32[C, D], v: in f32[C, E], o: out f32[B, E], top: out f32[B], e: scalar f32) {{
  nest(axes=("i",), extents=[B], vector="i") {{
    {nest}
    sweep(axes=("j",), lo=[0], hi=[C]{alive}) {{
      {before}
      sweep(axes=("d",), lo=[0], hi=[D]) {{
        %a = load(q, index=[i, d]) : f32<i, d>
        %b = load(k, index=[j, d]) : f32<j, d>
        {product}
      }}
      {fold}
      sweep(axes=("c",), lo=[0], hi=[E]) {{
        %w = load(v, index=[j, c]) : f32<j, c>
        {total}
      }}
      {inside}
    }}
    {after}
  }}
}}
"""
PRODUCT = '%s = mma(%a, %b, over=("d",), dtype=f32) : f32<i, j>'
FOLD = '%m = amax(%s, over=("j",), position=`j`, dtype=f32) : f32<i>'
TOTAL = '%t = mma(%s, %w, over=("j",), dtype=f32) : f32<i, c>'
NOW = "%n = running(%m, before=false) : f32<i, j>"
OLD = "%u = running(%m, before=true) : f32<i, j>"
MOVED = f"{FOLD} {NOW} {OLD} %x = sub(%u, %n) : f32<i, j> %g = exp(%x) : f32<i, j>"
AFTER = 'store(top, %m, index=[i]) sweep(axes=("c",), lo=[0], hi=[E]) { store(o, %t, index=[i, c]) }'
POSITION = "%p = position(of=`j`) : int64<j> %h = lt(%p, 3) : bool<j>"


def kernel(
    nest: str = "", before: str = "", product: str = PRODUCT, fold: str = FOLD, total: str = TOTAL,
    inside: str = "", after: str = AFTER, alive: str = "",
) -> str:  # fmt: skip
    return KERNEL.format(
        nest=nest, before=before, product=product, fold=fold, total=total, inside=inside, after=after, alive=alive
    )


def factor(x: str, of: str = TOTAL) -> str:
    return of.replace(", over", f", {x}, over", 1)


SOUND = {
    "plain": kernel(),
    "alive": kernel(alive=", alive=[i, i + 3]"),
    "half alive": kernel(alive=", alive=(none, `i + 1`)"),
    "running": kernel(fold=MOVED),
    "factor of a product": kernel(fold=MOVED, total=factor("%g")),
    "factor of a sum": kernel(
        fold=f'{MOVED} %l = sum(%s, %g, over=("j",), position=`j`, dtype=f32) : f32<i>', total=factor("%g")
    ),
    "gate": kernel(before=f"{POSITION} gate(%h)"),
    "a fold over an outer sweep": kernel(total=TOTAL + ' %y = sum(%w, over=("j",), position=`j`, dtype=f32) : f32<c>'),
}


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_sound_kernels(text: str) -> None:
    f = parse(text)
    assert verify(f).dialect == "tile"
    assert parse(print_function(f)) == f


BROKEN = {
    "a fold read in its sweep": (kernel(fold=f"{FOLD} %x = exp(%m) : f32<i>"), "`%m` is read before its sweep ends"),
    "a product read in its sweep": (
        kernel(product=f"{PRODUCT} %x = exp(%s) : f32<i, j>"), "`%s` is read before its sweep ends"),
    "a total read in the outer sweep": (
        kernel(inside='sweep(axes=("c",), lo=[0], hi=[E]) { store(o, %t, index=[i, c]) }'),
        "`%t` is read before its sweep ends"),
    "running after the sweep": (kernel(after="%n = running(%m, before=false) : f32<i>"), "`running` stands in"),
    "running of what is no fold": (kernel(inside="%n = running(%s, before=false) : f32<i, j>"), "`running` stands in"),
    "running of an inner fold": (kernel(inside="%n = running(%w, before=true) : f32<i, j>"), "`%w`"),
    "a gate of a number": (kernel(inside="gate(%s)"), "a gate takes a bool inside a sweep"),
    "a gate outside": (kernel(nest="%yes = lt(e, 3) : bool<> gate(%yes)"), "a gate takes a bool inside a sweep"),
    "no sweep to fold over": (kernel(product=PRODUCT.replace('"d"', '"c"')), "runs over the axes of a sweep around it"),
    "a product that keeps its axis": (kernel(product=PRODUCT.replace("<i, j>", "<i, j, d>")), "axis that is folded"),
    "a position of a product": (
        kernel(product=PRODUCT.replace(", dtype", ", position=`d`, dtype")), "`mma` has no attribute `position`"),
    "a factor of a maximum": (
        kernel(fold=MOVED + ' %y = amax(%s, %g, over=("j",), position=`j`, dtype=f32) : f32<i>'),
        "cannot be multiplied by a factor"),
    "two factors": (kernel(fold=MOVED, total=factor("%g, %g")), "mma"),
    "an axis twice": (kernel(total='sweep(axes=("j",), lo=[0], hi=[E]) {}', after=""), "an axis is named twice"),
    "an inner axis outside": (kernel(inside="%y = exp(%w) : f32<j, c>"), "depends on `c`, which is not in scope"),
    "a product outside": (
        kernel(nest='%y = mma(e, e, over=("j",), dtype=f32) : f32<>'), "`mma` folds outside of a sweep"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_kernels(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert message in str(caught.value), str(caught.value)


def deep(levels: int) -> str:
    body = ""
    for n in range(levels):
        body = f'sweep(axes=("a{n}",), lo=[0], hi=[2]) {{ {body} }}'
    return f'kernel f(o: out f32[B]) {{ nest(axes=("i",), extents=[B], vector="i") {{ {body} }} }}'


def test_sweeps_are_only_so_deep() -> None:
    assert verify(parse(deep(MAX_DEPTH)))
    with pytest.raises(ValueError, match="more than 4 deep"):
        parse(deep(MAX_DEPTH + 1))


def test_what_the_pieces_mean() -> None:
    """Attention without the division, in the interpreter: the sums follow the maximum."""
    text = kernel(
        fold=f"{MOVED} %y = sub(%s, %n) : f32<i, j> %r = exp(%y) : f32<i, j>",
        total=factor("%g").replace("mma(%s", "mma(%r"),
    )
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2)), rng.standard_normal((5, 2)), rng.standard_normal((5, 4))
    with np.errstate(all="ignore"):
        o, m = interpret(parse(text), [q, k, v, 0.0])
    s = q @ k.T
    np.testing.assert_allclose(m, s.max(1), rtol=1e-14)
    np.testing.assert_allclose(o, np.exp(s - s.max(1, keepdims=True)) @ v, rtol=1e-13)
