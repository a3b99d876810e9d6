"""Ordered sweeps and local memory: what the verifier refuses, and what the interpreter makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.diag import BoundsError, ParseError, RaceError
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify

KERNEL = """
kernel f(x: in f32[B, S, D], y: out f32[B, S, D]) {{
  nest(axes=("b",), extents=[B], vector="b") {{
    %h = local() : {memory}
    %zero = cast(0, dtype=f32) : f32<>
    {before}
    sweep(axes=("t",), lo=[0], hi=[S], ordered=true) {{
      {first}
      sweep(axes=("k",), lo=[0], hi=[D]) {{
        %old = load(%h, index=[{read}]) : f32<b, t, k>
        %v = load(x, index=[b, t, k]) : f32<b, t, k>
        %new = add(%old, %v) : f32<b, t, k>
        store(%h, %new, index=[k])
        {last}
        store(y, %new, index=[b, t, k])
      }}
    }}
    {after}
  }}
  {other}
}}
"""
CLEAR = 'sweep(axes=("k",), lo=[0], hi=[D]) { store(%h, %zero, index=[k]) }'


def kernel(**parts: str) -> str:
    plain = {"memory": "local f32[D]", "before": CLEAR, "first": "", "read": "k", "last": "", "after": "", "other": ""}
    return KERNEL.format(**{**plain, **parts})


def test_a_sum_of_all_that_came() -> None:
    f = parse(kernel())
    verify(f)
    assert parse(print_function(f)) == f
    x = np.random.default_rng(0).normal(size=(3, 5, 4))
    (y,) = interpret(f, [x])
    np.testing.assert_allclose(y, np.cumsum(x, 1))


BROKEN = {
    "memory of another nest": (
        kernel(other='nest(axes=("b",), extents=[B], vector="b") { %q = load(%h, index=[0]) : f32<b> }'),
        "belongs to another nest",
    ),
    "memory of a sweep": (kernel(first="%g = local() : local f32[D]"), "belongs to the nest"),
    "another role": (kernel(memory="in f32[D]"), "whose role is local"),
    "not as large for all": (kernel(memory="local f32[b]"), "as large for every point"),
    "a fold": (
        kernel(
            first="%c = load(x, index=[b, t, 0]) : f32<b, t> "
            '%s = sum(%c, over=("t",), position=`t`, dtype=f32) : f32<b>'
        ),
        "has no folds",
    ),
    "read after it": (
        kernel(first="%c = load(%h, index=[0]) : f32<b>", after="store(y, %c, index=[b, 0, 0])"),
        "gone with the ordered sweep",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules(name: str) -> None:
    text, wanted = BROKEN[name]
    with pytest.raises(ParseError, match=wanted):
        parse(text)


def test_local_memory_is_empty_at_first() -> None:
    with pytest.raises(RaceError, match="is read before it is written"):
        interpret(parse(kernel(before="")), [np.ones((2, 3, 4))])


def test_local_memory_ends_where_its_type_says() -> None:
    with pytest.raises(BoundsError, match="element -1 of `h` is read"):
        interpret(parse(kernel(read="k + 1")), [np.ones((2, 3, 4))])


def test_each_element_is_written_and_read_at_one_point_of_a_sweep() -> None:
    last = "%far = load(%h, index=[D - 1 - k]) : f32<b, t, k> %u = add(%far, %v) : f32<b, t, k>"
    with pytest.raises(RaceError, match="is read in the sweep that writes it elsewhere"):
        interpret(parse(kernel(last=last)), [np.ones((2, 3, 4))])
