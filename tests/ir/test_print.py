"""The printed form: names, alignment, folded axes, groups, kernels, breaking at a width; and the layout algebra
below.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.diag import Span
from tessera.ir.graph import Note
from tessera.ir.parser import parse
from tessera.ir.pretty import LINE, SOFT, Doc, Group, Line, Nest, bracketed, layout, separated
from tessera.ir.printer import attr_text, print_function, printed

RMS = """\
fn rms_norm(x: f32[B, S, D], weight: f32[D], eps: scalar f32) -> f32[B, S, 1]
  where `4` divides `D` guarded "vector loads",
        `S` >= `2` proved
{
  %sq  = mul(x, x)                          : f32[B, S, D]   # norms.py:7
  %sum = sum(%sq) over [D] keepdim @mean    : f32[B, S, 1]   # norms.py:7
  %m   = div(%sum, `D`) @mean               : f32[B, S, 1]   # norms.py:7
  %e   = add(%m, eps)                       : f32[B, S, 1]   # norms.py:7
  %r   = rsqrt(%e)                          : f32[B, S, 1]   # norms.py:7
  %h   = cast(%r, dtype=bf16)               : bf16[B, S, 1]
  %w   = where(true, %h, -0.0)              : bf16[B, S, 1]
  %p   = permute(%w, dims=(1, 0, 2))        : bf16[S, B, 1]
  %u   = expand(%p, shape=[S, B, 2*D + 1])  : bf16[S, B, 2*D + 1]
  return %e
}
"""

GROUPED = """\
# fuse (1.25 ms): 1 row
fn softmax(x: f32[B, D]) -> (f32[B, D], f32[B])
{
  row(x, over=[D]) -> %y, %m {   # s.py:3
    %m = amax(x) over [D]         : f32[B]
    %k = unsqueeze(%m, dim=1)     : f32[B, 1]
    %y = sub(x, %k) @softmax      : f32[B, D]
  }
  return %y, %m
}
"""


def squeezed(text: str) -> list[str]:
    """The lines without the spaces that only align."""
    return [" ".join(line.split()).replace(" {", "{") for line in text.replace("\n{", " {").splitlines()]


@pytest.mark.parametrize("text", [RMS, GROUPED])
def test_the_form(text: str) -> None:
    f = parse(text)
    if text.startswith("#"):
        f = f.with_note(Note("fuse", 0.00125, "1 row"))
    assert squeezed(print_function(f)) == squeezed(text)


def test_the_columns_of_a_block_are_aligned() -> None:
    lines = [line for line in print_function(parse(RMS)).splitlines() if line.startswith("  %")]
    assert len({line.index(" = ") for line in lines}) == 1
    assert len({line.index(" : ") for line in lines}) == 1


def test_folded_axes_are_named_where_that_is_clear() -> None:
    def suffix(dims: str, axes: str) -> str:
        f = parse(f"fn f(x: f32[{dims}]) {{ %y = sum(x) over ({axes}) keepdim : {RESULT[dims, axes]} }}")
        return print_function(f).split("over ")[1].split(" keepdim")[0]

    RESULT = {
        ("B, D", "1,"): "f32[B, 1]",
        ("B, B", "1,"): "f32[B, 1]",
        ("B, 4", "1,"): "f32[B, 1]",
        ("B, D, S", "0, 2"): "f32[1, D, 1]",
        ("B, D", ""): "f32[B, D]",
        ("B, D + 1", "1"): "f32[B, 1]",
    }
    found = {key: suffix(*key) for key in RESULT}
    assert found == {
        ("B, D", "1,"): "[D]",
        ("B, B", "1,"): "(1)",  # two axes of one size
        ("B, 4", "1,"): "(1)",  # a number would read as an axis number
        ("B, D, S", "0, 2"): "[B, S]",
        ("B, D", ""): "()",
        ("B, D + 1", "1"): "[D + 1]",
    }


def test_parameters_are_bare_and_values_are_not() -> None:
    text = print_function(parse("fn f(x: f32[B], inf: f32[B]) -> f32[B] { %y = add(%x, %inf) : f32[B] return %y }"))
    assert "add(x, %inf)" in text
    assert "return %y" in text


def test_a_long_operation_is_broken_between_operands() -> None:
    names = [f"a_rather_long_name_{n}" for n in range(12)]
    params = ", ".join(f"{n}: f32[B]" for n in names)
    f = parse(f"fn f({params}) -> f32[{'B + ' * 11}B] {{ %y = cat({', '.join(names)}, dim=0) : f32[12*B] return %y }}")
    text = print_function(f, width=60)
    assert all(len(line) <= 60 for line in text.splitlines())
    assert "    a_rather_long_name_3,\n" in text
    assert parse(text) == f
    wide = print_function(f, width=1000)
    assert len(wide.splitlines()) == 4


def test_a_kernel() -> None:
    text = """\
kernel f(x: in f32[B, D] strides [s, 1], y: out f32[B, D]) {
  nest(axes=("i",), extents=[B], vector="j") {
    sweep(axes=("j",), lo=[0], hi=[min(8, D)]) {
      %v = load(x, index=[i, j], guard=([j, 0, 4],)) : f32<i, j>
      store(y, %v, index=[i, j])   # k.py:9
    }
  }
}
"""
    assert squeezed(print_function(parse(text))) == squeezed(text)


def test_places_of_operations() -> None:
    f = parse(GROUPED)
    page = printed(f)
    lines = page.text.splitlines()
    for op, (line, start, end) in page.places.items():
        assert lines[line - 1][start:end].startswith(op.name + "(")


def test_what_comes_from_the_user_cannot_break_a_line() -> None:
    f = parse("fn f(x: f32[B]) -> f32[B] { %y = exp(x) : f32[B] return %y }")
    op = replace(f.ops[0], span=Span("a\n%z = exp(x) : f32[B]\x1b[31m.py", 3), origin='"\n}')
    g = f.with_ops((op,), f.outputs).with_note(Note("pass\n}", 0.0, "text\n}\u202e"))
    text = print_function(g)
    assert text.isascii() and "\x1b" not in text
    assert parse(text) == g
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "true"), (1.0, "1.0"), (1e22, "1e+22"), (-0.0, "-0.0"), (None, "none"), ((), "()"),
     (((1,),), "((1,),)"), ("a\u202e\x7f", '"a\\u202e\\u007f"')],
)  # fmt: skip
def test_attributes(value: object, text: str) -> None:
    assert attr_text(value) == text  # type: ignore[arg-type]


def test_an_attribute_nested_without_end() -> None:
    value: object = 1
    for _ in range(100_000):
        value = (value,)
    assert attr_text(value).startswith("(((((")  # type: ignore[arg-type]


# -- layout


def test_groups_break_from_the_outside_in() -> None:
    doc = bracketed("f(", [bracketed("g(", ["1", "2"], ")"), "x"], ")")
    assert layout(doc, 20) == "f(g(1, 2), x)"
    assert layout(doc, 12) == "f(\n    g(1, 2),\n    x\n)"
    assert layout(doc, 8).count("\n") == 6


def test_what_follows_a_group_counts() -> None:
    doc: Doc = [Group(["a", LINE, "b"]), "ccc", LINE, "d"]
    assert layout(doc, 6) == "a bccc\nd"
    assert layout(doc, 5) == "a\nbccc\nd"


def test_nothing_in_brackets() -> None:
    assert layout(bracketed("f(", [], ")")) == "f()"


docs = st.recursive(
    st.one_of(st.text("ab", max_size=5), st.just(LINE), st.just(SOFT), st.just(Line(";"))),
    lambda inner: st.one_of(st.lists(inner, max_size=4), inner.map(Group), inner.map(lambda d: Nest(d, 2))),
    max_leaves=20,
)


@given(docs, st.integers(1, 40))
def test_layout_only_chooses_line_ends(doc: Doc, width: int) -> None:
    """Whatever the width, the same letters come out; with enough room a group is one line."""
    letters = [c for c in layout(doc, width) if c in "ab"]
    assert letters == [c for c in layout(doc, 10**6) if c in "ab"]
    assert "\n" not in layout(Group(doc), 10**6)


def test_a_deep_document_needs_no_recursion() -> None:
    doc: Doc = "x"
    for _ in range(100_000):
        doc = Group(Nest([doc], 0))
    assert layout(doc) == "x"


def test_a_long_document_takes_linear_time() -> None:
    text = layout([Group(["item", LINE, "x"]) if n % 2 else LINE for n in range(20_000)], 80)
    assert text.count("\n") == 10_000
    assert layout(Group(separated(["item"] * 20_000)), 80).count("\n") == 19_999
