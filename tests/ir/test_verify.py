"""The verifier: each invariant with a function that breaks it, built by hand where text cannot express it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tessera.diag import VerifyError
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import f32
from tessera.ir.graph import Block, Function, Literal, Obligation, Operation, Value
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import ScalarType, TensorType, TileType
from tessera.ir.verify import problems, verify

B, D, K, H = map(Dim.name, "BDKH")
BD = TensorType(f32, (B, D))


def value(name: str, type_: TensorType = BD) -> Value:
    return Value(name, type_)


def call(
    name: str, operands: tuple[object, ...], *results: Value, body: Block | None = None, **attrs: object
) -> Operation:
    return Operation(OPS[name], operands, results, attrs, body=body)  # type: ignore[arg-type]


def function(ops: tuple[Operation, ...], *outputs: Value, params: tuple[Value, ...] = ()) -> Function:
    return Function("f", Block(ops, params, outputs))


def broken(f: Function, text: str, level: str = "full") -> VerifyError:
    with pytest.raises(VerifyError) as caught:
        verify(f, level)
    assert caught.value.code == "TSR0504"
    assert text in caught.value.message, str(caught.value)
    return caught.value


x, y, z = value("x"), value("y"), value("z")


def test_a_sound_function_is_given_back() -> None:
    f = function((call("exp", (x,), y),), y, params=(x,))
    assert verify(f) is f
    assert verify(f, "cheap") is f
    assert list(problems(f)) == []


@pytest.mark.parametrize("level", ["cheap", "full"])
def test_names(level: str) -> None:
    broken(function((call("exp", (z,), y),), y, params=(x,)), "`%z` is not defined before this", level)
    broken(function((call("exp", (y,), z), call("exp", (x,), y)), z, params=(x,)), "`%y` is not defined before", level)
    broken(function((call("exp", (x,), value("x")),), x, params=(x,)), "`%x` is defined twice", level)
    broken(function((call("exp", (x,), y), call("exp", (x,), y)), y, params=(x,)), "`%y` is defined twice", level)
    broken(function((), y, params=(x,)), "`%y` is returned, not defined", level)
    for name in ("", "a b", "1a", "a" * 65, "é", "a\n"):
        broken(function((call("exp", (x,), value(name)),), x, params=(x,)), "is not a name", level)


@pytest.mark.parametrize("level", ["cheap", "full"])
def test_arity_and_attributes(level: str) -> None:
    broken(function((call("exp", (x, x), y),), y, params=(x,)), "`exp` takes 1 operands, not 2", level)
    broken(function((call("add", (x,), y),), y, params=(x,)), "`add` takes 2 operands, not 1", level)
    broken(function((call("exp", (x,), y, speed=1),), y, params=(x,)), "`exp` has no attribute `speed`", level)
    broken(function((call("cast", (x,), y),), y, params=(x,)), "`cast` lacks the attribute `dtype`", level)
    broken(function((call("cast", (x,), y, dtype="f32"),), y, params=(x,)), "is not of kind dtype", level)
    broken(function((call("sum", (x,), y, dim=(True,), keepdim=False),), y, params=(x,)), "is not of kind dims", level)
    broken(function((call("sum", (x,), y, dim=(1,), keepdim=1),), y, params=(x,)), "is not of kind bool", level)
    broken(function((call("permute", (x,), y, dims=("a",)),), y, params=(x,)), "is not of kind dim", level)


def test_types() -> None:
    wrong = value("y", TensorType(f32, (D, B)))
    error = broken(
        function((call("exp", (x,), wrong),), wrong, params=(x,)), "`%y` has the type `f32[D, B]` where `exp`"
    )
    assert error.spans[0].line == 2
    w = value("w", TensorType(f32, (K,)))
    refused = broken(function((call("add", (x, w), y),), y, params=(x, w)), "dimension `D` meets `K` in a broadcast")
    assert "add(x, w)" in str(refused)
    two = (y, z)
    broken(function((call("exp", (x,), *two),), y, params=(x,)), "`exp` has 1 results, not 2")
    broken(function((call("softmax", (x,), y, dim=1),), y, params=(x,)), "`softmax` has no place in the tensor dialect")
    tile = Value("y", TileType(f32, ("i",)))
    broken(function((call("exp", (x,), tile),), tile, params=(x,)), "which the tensor dialect does not have")
    broken(Function("f", Block((), (x,), (x,)), "tile"), "in a function of the tile dialect")
    broken(Function("f", Block((), (x,), (x,)), "other"), "no dialect `other`")


def test_equal_sizes_are_those_that_the_obligations_say() -> None:
    other = value("y", TensorType(f32, (B, H * K)))
    f = function((call("exp", (x,), other),), other, params=(x,))
    broken(f, "`%y` has the type")
    assert verify(replace(f, obligations=(Obligation("eq", H * K, D, "guarded"),)))
    half = value("y", TensorType(f32, (B, D / 2 + D / 2)))
    assert verify(function((call("exp", (x,), half),), half, params=(x,)))


def test_groups() -> None:
    inner = (call("exp", (x,), y), call("exp", (y,), z))
    group = call("map", (x,), z, body=Block(inner))
    assert verify(function((group,), z, params=(x,)))
    broken(function((group,), y, params=(x,)), "read outside the group")
    broken(function((group, call("exp", (y,), value("u"))), z, params=(x,)), "read outside the group that defines it")
    broken(function((call("map", (), z, body=Block(inner)),), z, params=(x,)), "is read inside and not an operand")
    w = value("w")
    broken(
        function((call("map", (x, w), z, body=Block(inner)),), z, params=(x, w)), "operand that nothing inside reads"
    )
    broken(function((call("map", (x,), w, body=Block(inner)),), z, params=(x, w)), "result `%w` is not defined inside")


def test_a_literal_is_no_group_operand() -> None:
    group = call("map", (Literal(1.0), x), y, body=Block((call("exp", (x,), y),)))
    broken(function((group,), y, params=(x,)), "operand that nothing inside reads")


def test_all_faults_are_shown_up_to_ten() -> None:
    ops = tuple(call("exp", (value("u"),), value(f"v{n}")) for n in range(20))
    with pytest.raises(VerifyError) as caught:
        verify(function(ops, x, params=(x,)))
    assert len(caught.value.diagnostics) == 10
    assert "v0" in str(caught.value) and "v9" in str(caught.value)


def test_the_rendering() -> None:
    f = function((call("exp", (x,), y), call("add", (y, y), value("s", TensorType(f32, (B,))))), y, params=(x,))
    shown = str(broken(f, "`%s` has the type")).splitlines()
    assert shown[0] == "error[TSR0504]: `%s` has the type `f32[B]` where `add` gives `f32[B, D]`"
    assert shown[2:] == ["3 |   %s = add(%y, %y) : f32[B]", "  |        ^^^^^^^^^^^^^^^^^^^^"]


def test_a_level_that_is_none() -> None:
    with pytest.raises(ValueError):
        list(problems(function((), x, params=(x,)), "some"))


def test_cheap_looks_at_no_types() -> None:
    wrong = value("y", TensorType(f32, (D, B)))
    assert verify(function((call("exp", (x,), wrong),), wrong, params=(x,)), "cheap")


def test_ten_thousand_operations() -> None:
    chain = [value("v0")]
    ops = [call("exp", (x,), chain[0])]
    for n in range(1, 10_000):
        chain.append(value(f"v{n}"))
        ops.append(call("exp", (chain[-2],), chain[-1]))
    f = function(tuple(ops), chain[-1], params=(x,))
    assert verify(f, "cheap")
    assert verify(f)


def test_deep_nesting_needs_no_recursion() -> None:
    inner = Block((call("exp", (x,), y),))
    for _ in range(5_000):
        inner = Block((call("map", (x,), y, body=inner),))
    assert verify(function(inner.ops, y, params=(x,)))


# -- the tile dialect


KERNEL = """
kernel f(x: in f32[B, D], y: out f32[B, D], m: out f32[B], n: temp f32[B], e: scalar f32) {{
  nest(axes=("i",), extents=[B], vector="j") {{
    {nest}
    sweep(axes=("j",), lo=[0], hi=[D]) {{
      %v = load(x, index=[i, j]) : f32<i, j>
      {sweep}
    }}
    {after}
    sweep(axes=("j",), lo=[0], hi=[{high}]) {{
      {second}
    }}
  }}
  {other}
}}
"""
FOLD = '%s = sum(%v, over=("j",), position=`j`, dtype=f32) : f32<i>'


def kernel(
    nest: str = "", sweep: str = FOLD, after: str = "", second: str = "", high: str = "D", other: str = ""
) -> str:
    return KERNEL.format(nest=nest, sweep=sweep, after=after, second=second, high=high, other=other)


SOUND = [
    kernel(),
    kernel(after="store(m, %s, index=[i])"),
    kernel(second="%t = mul(%v, %s) : f32<i, j> store(y, %t, index=[i, j])"),
    kernel(nest="%p = position(of=`i`) : int64<i>"),
    kernel(sweep="store(y, %v, index=[D*i + j])"),
    kernel(second="%w = load(x, index=[i, j], guard=([j, 0, 3],)) : f32<i, j>"),
    kernel(sweep="%t = add(%v, e) : f32<i, j>"),
]

BROKEN = [
    (kernel(sweep="%s = sum(%v, over=(\"i\",), position=`j`, dtype=f32) : f32<i>"), "the axes of a sweep around it"),
    (kernel(sweep="%s = sum(%v, over=(\"j\",), position=`j`, dtype=f32) : f32<i, j>"), "on an axis that is folded"),
    (kernel(sweep="%s = sum(%v, dim=(1,), keepdim=false) : f32<i>"), "a fold has the attributes dtype, over, position"),
    (kernel(after=FOLD, sweep=""), "depends on `j`, which is not"),
    (kernel(nest=FOLD.replace("%v", "e"), sweep=""), "folds outside of a sweep"),
    (kernel(after="%t = exp(%v) : f32<i, j>"), "depends on `j`, which is not in scope"),
    (kernel(sweep="%t = exp(%v) : f32<i>"), "`%t` does not depend on `j`, but its operand does"),
    (kernel(sweep="%t = exp(%v) : bf16<i, j>"), "`%t` is bf16 where `exp` gives f32"),
    (kernel(sweep="%t = exp(x) : f32<i, j>"), "buffer `x` is no value"),
    (kernel(sweep="store(x, %v, index=[i, j])"), "an input is not written"),
    (kernel(sweep="store(m, %v, index=[i, j])"), "2 indices into 1 dims"),
    (kernel(sweep="%t = load(e, index=[j]) : f32<j>"), "`load` needs a buffer"),
    (kernel(sweep="%t = load(x, index=[i, j]) : f32<i>"), "`%t` does not depend on `j`, but its index does"),
    (kernel(sweep="%t = load(x, index=[i, j]) : int64<i, j>"), "the buffer f32"),
    (kernel(sweep="%t = load(x, index=[i, j], guard=(`i`, 3)) : f32<i, j>"), "a guard is a tuple of"),
    (kernel(second="%t = exp(%v) : f32<i, j>", high="D - 1"), "read in a sweep of other bounds"),
    (kernel(sweep='sweep(axes=("j",), lo=[0], hi=[D]) {}'), "an axis is named twice"),
    (kernel(nest='nest(axes=("k",), extents=[D], vector="") {}'), "stands inside a nest"),
    (kernel(nest='sweep(axes=("i",), lo=[0], hi=[D]) {}'), "an axis is named twice"),
    (kernel(nest='sweep(axes=("k", "k"), lo=[0, 0], hi=[D, D]) {}'), "an axis is named twice"),
    (kernel(nest='sweep(axes=("k",), lo=[0, 0], hi=[D]) {}'), "as many lower bounds as axes"),
    (kernel(nest='sweep(axes=("k",), lo=[0], hi=[D, D]) {}'), "as many `hi` as axes"),
    (kernel(nest='sweep(axes=("a b",), lo=[0], hi=[D]) {}'), "axes are a tuple of names"),
    (kernel(nest="%t = take(e, e, dim=0) : f32<i>"), "has no place in the tile dialect"),
    (kernel(other="%t = exp(e) : f32<>"), "stands outside of every nest"),
    (kernel(other='nest(axes=("i",), extents=[B], vector="") { store(m, %s, index=[i]) }'), "belongs to another nest"),
    (
        kernel(other='nest(axes=("i",), extents=[B], vector="i") { sweep(axes=("k",), lo=[0], hi=[i]) {} }'),
        "differ in where the sweep ends",
    ),
    (kernel(other='nest(axes=("i",), extents=[B], vector="q") {}'), "vector axis `q` is no axis of the nest"),
    (kernel(nest="%t = position(of=`i`) : f32[B]"), "which the tile dialect does not have"),
]  # fmt: skip


@pytest.mark.parametrize("text", SOUND)
def test_sound_kernels(text: str) -> None:
    assert verify(parse(text)).dialect == "tile"


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_broken_kernels(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert message in str(caught.value), str(caught.value)


def test_scalars_are_values_of_a_kernel() -> None:
    f = parse(kernel(sweep="%t = add(%v, e) : f32<i, j>"))
    assert isinstance(f.params[-1].type, ScalarType)


# -- bodies with parameters and values of their own


LOOP = OpRecord("loop", Kind.CONTROL, "xs: tensors", "Repeat a body; for these tests only.")


def loop(inner: Operation, result: Value) -> Operation:
    p = value("p")
    body = Block((replace(inner, operands=(p,)),), (p,), inner.results)
    return Operation(LOOP, (x,), (result,), body=body)


def test_what_a_control_body_defines_ends_with_it() -> None:
    op = loop(call("exp", (x,), y), z)
    assert verify(function((op,), z, params=(x,)))
    broken(function((op,), y, params=(x,)), "read outside the group that defines it")
    broken(function((op, call("exp", (y,), value("u"))), z, params=(x,)), "read outside the group that defines it")
    group = call("map", (x,), z, body=Block((op,)))
    assert verify(function((group,), z, params=(x,)))


def test_a_control_body_prints_its_parameters_and_yields() -> None:
    op = loop(call("exp", (x,), y), z)
    assert print_function(function((op,), z, params=(x,))).splitlines()[1:-1] == [
        "  %z = loop(x) : f32[B, D] {",
        "    ^(p: f32[B, D])",
        "    %y = exp(p) : f32[B, D]",
        "    yield %y",
        "  }",
        "  return %z",
    ]
