"""Where conditions on positions can hold: every interval against all points of small loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.ir.dim import Dim
from tessera.ir.graph import Operation, Value, walk
from tessera.ir.intervals import DEPTH, Interval, holds, position
from tessera.ir.parser import parse

#: Sizes of the loops over i and j, and what else may decide.
ROWS, COLUMNS, SIZE = 4, 7, 3
Point = tuple[int, int, bool]
Truth = Callable[[int, int, bool], bool]
Number = Callable[[int, int], int]
COMPARE = {
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}  # fmt: skip
JOIN = {
    "logical_and": lambda a, b: a and b, "logical_or": lambda a, b: a or b,
    "bitwise_and": lambda a, b: a and b, "bitwise_or": lambda a, b: a or b, "logical_xor": lambda a, b: a != b,
}  # fmt: skip


@dataclass
class Text:
    """Lines of a kernel being written; ``m`` is a bool from memory."""

    lines: list[str]

    def add(self, call: str, dtype: str = "bool") -> str:
        name = f"%v{len(self.lines)}"
        self.lines.append(f"{name} = {call} : {dtype}<i, j>")
        return name

    def makers(self) -> dict[Value, Operation]:
        text = f"""
        kernel k(m: in bool[R, C], n: scalar int64, o: out bool[R, C]) {{
          nest(axes=("i",), extents=[R], vector="i") {{
            sweep(axes=("j",), lo=[0], hi=[C]) {{
              {"; ".join(self.lines)}
            }}
          }}
        }}""".replace("; ", "\n")
        return {r: op for op in walk(parse(text).body) for r in op.results}


def found(text: Text, name: str, outcome: bool = True) -> Interval:
    maker = text.makers()
    (value,) = (v for v in maker if f"%{v.name}" == name)
    return holds(value, outcome, maker, "j")


def inside(interval: Interval, i: int, j: int) -> bool:
    sizes = {"i": i, "N": SIZE, "R": ROWS, "C": COLUMNS}
    low = interval.lo is None or value_of(interval.lo, sizes) <= j
    return low and (interval.hi is None or j < value_of(interval.hi, sizes))


def value_of(e: Dim, sizes: dict[str, int]) -> int:
    """The value of an expression that may be negative, as sizes never are."""
    return (e + Dim.const(1000)).evaluate(sizes) - 1000


@st.composite
def numbers(draw: st.DrawFn, text: Text, depth: int = 0) -> tuple[str, Number]:
    """An integer made of positions, and what it is."""
    kind = draw(st.integers(0, 6 if depth < 2 else 2))
    if kind <= 1:
        a, b, n, c = (draw(st.sampled_from(s)) for s in ((0, 1, 1, -1, 2), (0, 0, 1, -1), (0, 1, -1), (-2, 0, 1, 3)))
        e = Dim.const(a) * Dim.name("j") + Dim.const(b) * Dim.name("i") + Dim.const(n) * Dim.name("N") + Dim.const(c)
        return text.add(f"position(of=`{e}`)", "int64"), lambda i, j: a * j + b * i + n * SIZE + c
    if kind == 2:
        c = draw(st.integers(-3, 8))
        return str(c), lambda i, j: c
    x, f = draw(numbers(text, depth + 1))
    y, g = draw(numbers(text, depth + 1))
    if not x.startswith("%"):
        return x, f
    if kind == 6:
        return text.add(f"abs({x})", "int64"), lambda i, j: abs(f(i, j))
    name, join = {
        3: ("add", lambda a, b: a + b), 4: ("sub", lambda a, b: a - b), 5: ("mul", lambda a, b: a * b)
    }[kind]  # fmt: skip
    return text.add(f"{name}({x}, {y})", "int64"), lambda i, j: join(f(i, j), g(i, j))


@st.composite
def conditions(draw: st.DrawFn, text: Text, depth: int = 0) -> tuple[str, Truth]:
    """A condition on positions, and when it holds."""
    kind = draw(st.integers(0, 9 if depth < 3 else 5))
    if kind <= 4:
        x, f = draw(numbers(text))
        y, g = draw(numbers(text))
        if not x.startswith("%"):
            x, f = text.add("position(of=`j`)", "int64"), lambda i, j: j
        name = draw(st.sampled_from(sorted(COMPARE)))
        return text.add(f"{name}({x}, {y})"), lambda i, j, m: COMPARE[name](f(i, j), g(i, j))
    if kind == 5:
        return text.add("load(m, index=[i, j])"), lambda i, j, m: m
    x, f1 = draw(conditions(text, depth + 1))
    if kind == 6:
        name = draw(st.sampled_from(["logical_not", "bitwise_not"]))
        return text.add(f"{name}({x})"), lambda i, j, m: not f1(i, j, m)
    y, g1 = draw(conditions(text, depth + 1))
    name = draw(st.sampled_from(sorted(JOIN)))
    return text.add(f"{name}({x}, {y})"), lambda i, j, m: JOIN[name](f1(i, j, m), g1(i, j, m))


@given(st.data(), st.booleans())
def test_no_point_where_it_holds_is_left_out(data: st.DataObject, outcome: bool) -> None:
    text = Text([])
    name, truth = data.draw(conditions(text))
    interval = found(text, name, outcome)
    for i, j, m in itertools.product(range(ROWS), range(COLUMNS), (False, True)):
        assert truth(i, j, m) is not outcome or inside(interval, i, j), (text.lines, str(interval), i, j)


EXACT = [
    ("le", "j", "i", True), ("le", "j", "i", False), ("gt", "j", "i + 1", True), ("ge", "i", "j - 2", True),
    ("lt", "i - j", "2", True), ("ge", "i - j", "2", False), ("gt", "N - j", "i", True), ("eq", "j", "i", True),
    ("eq", "j + 1", "N", True), ("lt", "i + N - j", "1", False), ("le", "2*i - j", "-1", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "left", "right", "outcome"), EXACT)
def test_one_comparison_is_exact(name: str, left: str, right: str, outcome: bool) -> None:
    text = Text([])
    x, y = (text.add(f"position(of=`{e}`)", "int64") for e in (left, right))
    interval = found(text, text.add(f"{name}({x}, {y})"), outcome)
    assert interval.exact and (interval.lo is not None or interval.hi is not None)
    for i, j in itertools.product(range(ROWS), range(COLUMNS)):
        a, b = (eval_dim(e, i, j) for e in (left, right))
        assert inside(interval, i, j) is (COMPARE[name](a, b) is outcome), (str(interval), i, j)


def eval_dim(e: str, i: int, j: int) -> int:
    """The value of an index expression at a point."""
    text = Text([])
    text.add(f"position(of=`{e}`)", "int64")
    (op,) = (op for op in text.makers().values() if op.name == "position")
    of = op.attrs["of"]
    assert isinstance(of, Dim)
    return value_of(of, {"i": i, "j": j, "N": SIZE})


def compare(text: Text, name: str, left: str, right: str) -> str:
    return text.add(f"{name}({', '.join(text.add(f'position(of=`{e}`)', 'int64') for e in (left, right))})")


def test_a_window_has_both_bounds() -> None:
    text = Text([])
    a, b = compare(text, "le", "j", "i"), compare(text, "lt", "i - j", "5")
    interval = found(text, text.add(f"bitwise_and({a}, {b})"))
    assert (str(interval.lo), str(interval.hi), interval.exact) == ("i - 4", "i + 1", True)


def test_one_of_two_is_between_the_outer_bounds() -> None:
    text = Text([])
    a, b = compare(text, "lt", "j", "i"), compare(text, "lt", "j", "N")
    interval = found(text, text.add(f"bitwise_or({a}, {b})"))
    assert interval.lo is None and interval.hi is not None
    assert all(inside(interval, i, j) is (j < max(i, SIZE)) for i in range(ROWS) for j in range(COLUMNS))


def test_what_memory_decides_is_not_exact() -> None:
    text = Text([])
    a, m = compare(text, "le", "j", "i"), text.add("load(m, index=[i, j])")
    both = found(text, text.add(f"bitwise_and({a}, {m})"))
    either = found(text, text.add(f"bitwise_or({a}, {m})"))
    assert str(both.hi) == "i + 1" and not both.exact
    assert either == Interval(exact=False)


@pytest.mark.parametrize("call", ["eq(%v0, %v1)", "ne(%v0, %v1)", "lt(%v0, %v2)", "lt(%v1, %v2)"])
def test_nothing_is_said_where_slopes_are_not_one(call: str) -> None:
    text = Text([])
    text.add("position(of=`2*j`)", "int64")
    text.add("position(of=`i`)", "int64")
    text.add("mul(%v0, %v0)", "int64")
    assert found(text, text.add(call)) == Interval(exact=False)


def test_a_condition_without_the_axis_says_nothing() -> None:
    text = Text([])
    text.lines.append("%v0 = position(of=`i`) : int64<i>")
    text.lines.append("%v1 = lt(%v0, 2) : bool<i>")
    assert found(text, "%v1") == Interval(exact=False)


def test_deep_conditions_are_given_up_not_recursed_into() -> None:
    text = Text([])
    name = compare(text, "lt", "j", "i")
    for _ in range(4 * DEPTH):
        name = text.add(f"logical_not({name})")
    assert found(text, name) == Interval(exact=False)


def test_positions_follow_sums_and_casts() -> None:
    text = Text([])
    text.add("position(of=`j`)", "int64")
    text.add("cast(%v0, dtype=int32)", "int32")
    text.add("sub(%v1, 3)", "int32")
    text.add("mul(%v2, 2)", "int32")
    text.add("add(%v3, n)", "int32")
    maker = text.makers()
    by_name = {v.name: v for v in maker}
    assert str(position(by_name["v3"], maker)) == "2*j - 6"
    assert position(by_name["v4"], maker) is None


def test_what_is_read_twice_is_looked_into_once() -> None:
    text = Text([])
    at, mask = text.add("position(of=`i`)", "int64"), compare(text, "le", "j", "i")
    for _ in range(DEPTH // 2 - 1):
        at = text.add(f"add({at}, {at})", "int64")
        mask = text.add(f"logical_and({mask}, {mask})")
    assert found(text, mask) == Interval(hi=Dim.of("i") + 1)
    maker = text.makers()
    (value,) = (v for v in maker if f"%{v.name}" == at)
    assert position(value, maker) is Dim.of("i") * 2 ** (DEPTH // 2 - 1)


def test_bounds_beyond_the_limits_of_a_dim_are_no_bounds() -> None:
    wide = Dim.of("i")
    lo = hi = Interval(lo=wide, hi=wide)
    for n in range(200):
        other = Interval(lo=Dim.of(f"n{n}") * wide, hi=Dim.of(f"m{n}") * wide)
        lo, hi = lo.both(other if n % 2 else hi.hull(other)), hi.hull(other if n % 2 else lo)
    assert not hi.exact and not lo.exact
