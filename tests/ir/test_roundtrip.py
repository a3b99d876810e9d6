"""`parse(print(f)) == f`, for generated functions, every kind of attribute, constant and name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.diag import Span
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DTYPES, f32
from tessera.ir.graph import Block, Function, Literal, Note, Operation, Value, attr_key
from tessera.ir.parser import _Reader, parse, parse_all
from tessera.ir.printer import attr_text, print_function
from tessera.ir.syntax import Source
from tessera.ir.types import TensorType
from tessera.ir.verify import verify
from tests.fuzz.strategies import functions, texts


def assert_exact(f: Function) -> str:
    """The text gives the function back, and that function gives the text back; at any width, with and without spans."""
    text = print_function(f)
    back = parse(text)
    assert back == f
    assert print_function(replace(back, notes=f.notes)) == text
    assert parse(print_function(f, width=20)) == f
    assert parse(print_function(f, spans=False, header=False, width=10**6)) == f
    return text


@settings(max_examples=150)
@given(functions())
def test_generated_functions(f: Function) -> None:
    verify(f)
    assert_exact(f)


X = Value("x", TensorType(f32, (Dim.name("B"),)))


def one_op(**attrs: object) -> Function:
    """A function whose single operation carries arbitrary attributes; it prints, but does not verify."""
    op = Operation(OPS["exp"], (X,), (Value("y", X.type),), attrs)  # type: ignore[arg-type]
    return Function("f", Block((op,), (X,), op.results))


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), texts,
    st.sampled_from(sorted(DTYPES.values(), key=str)), st.sampled_from([Dim.name("B"), Dim.name("B") // 2 + 1]),
)  # fmt: skip
attributes = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=8)


@given(attributes)
def test_attributes(value: object) -> None:
    """The text of any attribute reads back to the same attribute, types of numbers included."""
    f = one_op(guard=value)
    text = print_function(f)
    # Only the syntax is at stake here, so the reader is used below its checks.
    source = Source(text)
    node = source.statements()[0]
    reader = _Reader(source, node)
    (keyword,) = [a for a in node.body.statements[0].args if hasattr(a, "value") and hasattr(a, "name")]
    assert attr_key(reader._attr(keyword.value)) == attr_key(value)  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize(
    "value",
    [
        0.1,
        1e-6,
        1e300,
        5e-324,
        -0.0,
        0.0,
        float("inf"),
        -float("inf"),
        float("nan"),
        1,
        -(2**63),
        2**63 - 1,
        True,
        False,
    ],
)
def test_literals(value: float) -> None:
    f = parse("fn f(x: f32[B]) -> f32[B] { %y = where(true, x, 0) : f32[B] return %y }")
    op = replace(f.ops[0], operands=(f.ops[0].operands[0], f.params[0], Literal(value)))
    kind = "bool" if isinstance(value, bool) else None
    assert kind is None or attr_text(value) in ("true", "false")
    assert_exact(f.with_ops((op,), op.results))


def test_sizes_as_operands() -> None:
    text = "fn f(x: f32[B, D]) -> f32[B, D] {\n  %y = div(x, `(B*D + 1)/2`) : f32[B, D]\n  return %y\n}\n"
    f = parse(text)
    (size,) = [x for x in f.ops[0].operands if isinstance(x, Literal)]
    assert str(size.value) == "(B*D + 1)/2"
    assert print_function(f) == text


@given(texts)
def test_origins_and_function_names(text: str) -> None:
    f = parse("fn f(x: f32[B]) -> f32[B] { %y = exp(x) : f32[B] return %y }")
    assert_exact(replace(f, name=text))
    assert_exact(f.with_ops((replace(f.ops[0], origin=text),), f.outputs))


def test_spans_and_the_header_survive_as_text() -> None:
    f = parse("fn f(x: f32[B]) -> f32[B] { %y = exp(x) : f32[B]   # norms.py:7\nreturn %y }")
    assert f.ops[0].span == Span("norms.py", 7)
    noted = f.with_note(Note("fuse", 0.0003, "1 map\nand a line"))
    text = print_function(noted)
    assert text.splitlines()[0] == "# fuse (0.30 ms): 1 map\\nand a line"
    assert "# norms.py:7" in text
    assert parse(text) == noted


def test_a_name_of_every_reserved_word() -> None:
    for word in (
        "inf",
        "nan",
        "true",
        "false",
        "none",
        "over",
        "keepdim",
        "fn",
        "kernel",
        "return",
        "yield",
        "where",
        "f32",
    ):
        f = parse(f"fn f(x: f32[B]) -> f32[B] {{ %{word} = exp(x) : f32[B] return %{word} }}")
        assert_exact(f)
        g = parse(f"fn f({word}: f32[B]) -> f32[B] {{ %y = exp(%{word}) : f32[B] return %y }}")
        assert_exact(g)


def test_several_functions_of_one_text() -> None:
    one = "fn f(x: f32[B]) -> f32[B] {\n  return x\n}\n"
    first, second = parse_all(one + "# between\n" + one.replace(" f(", " g("))
    assert (first.name, second.name) == ("f", "g")


def test_sizes_longer_than_people_write() -> None:
    """Joining 300 tensors of different sizes gives a sum of 300 names, and that is still text."""
    params = ", ".join(f"x{n}: f32[S{n}]" for n in range(300))
    total = " + ".join(f"S{n}" for n in range(300))
    inputs = ", ".join(f"x{n}" for n in range(300))
    f = parse(f"fn f({params}) -> f32[{total}] {{ %y = cat({inputs}, dim=0) : f32[{total}] return %y }}")
    assert len(str(f.outputs[0].type)) > 1000
    assert_exact(f)
