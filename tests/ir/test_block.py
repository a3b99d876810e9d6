"""Block programs as text: what the verifier refuses, and what the interpreter makes of loops, choices and windows."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.diag import BoundsError, ParseError, RaceError, ShapeError
from tessera.ir.dim import Dim
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.window import TAIL, Row, read, shape

PARAMS = "x: in f32[S, D], y: out f32[S, D]"
ROW = "at=([i, 1, S, 1], [0, D, D, 0])"
EACH = 'each(axis="i", lo=`0`, hi=`S`, step=`1`)'


def program(body: str, params: str = PARAMS) -> str:
    return f"program k({params}) {{ {body} }}"


def run(body: str, *inputs: object, params: str = PARAMS) -> list[np.ndarray]:
    f = parse(program(body, params))
    assert parse(print_function(f)) == f
    return interpret(f, inputs)  # type: ignore[arg-type]


X = np.arange(6.0).reshape(2, 3)


def test_a_grid_of_rows() -> None:
    (y,) = run(f"{EACH} {{ %v = fetch(x, {ROW}) : f32[D] %w = add(%v, 1.0) : f32[D] put(y, %w, {ROW}) }}", X)
    assert y.tolist() == (X + 1).tolist()


def test_a_loop_that_stops() -> None:
    body = """
    %s = loop(0.0, axis="i", lo=`0`, hi=`S`, step=`1`, carries=1, stops=true) : f32[] {
      ^(acc: f32[])
      %v = fetch(x, at=([i, 1, S, 1], [0, 1, D, 1])) : f32[]
      %t = add(acc, %v) : f32[]
      %done = ge(%t, 3.0) : bool[]
      yield %done, %t
    }
    put(y, %s, at=([0, 1, 1, 1],))
    """
    x = np.array([[1.0], [2.0], [100.0]])
    assert run(body, x, params="x: in f32[S, D], y: out f32[1]")[0].tolist() == [3.0]


def test_a_choice() -> None:
    body = """
    each(axis="i", lo=`0`, hi=`S`, step=`1`) {
      %n = fetch(t, at=([i, 1, S, 1],)) : int64[]
      %c = gt(%n, 1) : bool[]
      %v = choose(%c) : f32[] {
        case() { %a = cast(%n, dtype=f32) : f32[] yield %a }
        case() { yield -1.0 }
      }
      put(y, %v, at=([i, 1, S, 1],))
    }
    """
    (y,) = run(body, np.array([0, 5, 1]), params="t: in int64[S], y: out f32[S]")
    assert y.tolist() == [-1.0, 5.0, -1.0]


def test_lookups_in_windows_and_bounds() -> None:
    body = """
    each(axis="i", lo=`0`, hi=`N`, step=`1`) {
      %p = fetch(ptr, at=([i, 1, N, 1],)) : int64[]
      %v = fetch(x, %p, at=([_l0, 1, S, 1],)) : f32[]
      put(y, %v, at=([i, 1, N, 1],))
    }
    """
    params = "x: in f32[S], ptr: in int64[N], y: out f32[N]"
    assert run(body, np.arange(4.0), np.array([3, 0]), params=params)[0].tolist() == [3.0, 0.0]
    with pytest.raises(BoundsError, match="index 4 in dim 0 of `x`, which has 4"):
        run(body, np.arange(4.0), np.array([4]), params=params)


def test_a_window_that_hangs_over() -> None:
    body = "%v = fetch(x, at=([0, 4, S, 2],), other=-1.0) : f32[4] put(y, %v, at=([0, 4, 4, 0],))"
    assert run(body, np.ones(3), params="x: in f32[S], y: out f32[4]")[0].tolist() == [1.0, 1.0, 1.0, -1.0]
    plain = body.replace(", other=-1.0", "")
    with pytest.raises(BoundsError) as caught:
        run(plain, np.ones(3), params="x: in f32[S], y: out f32[4]")
    assert caught.value.code == "TSR0612"
    with pytest.raises(BoundsError, match="positions 0 to 3 of dim 0"):
        run(plain.replace("S, 2", "S, 0"), np.ones(3), params="x: in f32[S], y: out f32[4]")


def test_local_memory_and_copies() -> None:
    body = """
    %m = local() : local f32[S]
    send(x, %m, at=([0, S, S, 0],), to=([0, S, S, 0],))
    wait(pending=0)
    %v = fetch(%m, at=([0, S, S, 0],)) : f32[S]
    put(y, %v, at=([0, S, S, 0],))
    """
    params = "x: in f32[S], y: out f32[S]"
    assert run(body, np.arange(3.0), params=params)[0].tolist() == [0.0, 1.0, 2.0]
    for wrong in (body.replace("wait(pending=0)", ""), body.replace("wait(pending=0)", "wait(pending=1)")):
        with pytest.raises(RaceError) as caught:
            run(wrong, np.arange(3.0), params=params)
        assert caught.value.code == "TSR0613"


def test_iterations_of_grids_inside_each_other() -> None:
    """What an iteration of the grid around wrote may be read inside; what a sibling wrote may not."""
    inner = 'each(axis="j", lo=`0`, hi=`D`, step=`1`) { %v = fetch(y, at=([i, 1, S, 1], [0, 1, D, 1])) : f32[] %u }'
    store = "put(t, %v, at=([i, 1, S, 1], [j, 1, D, 1]))"
    params = "x: in f32[S, D], y: update f32[S, D], t: out f32[S, D]"
    body = f"{EACH} {{ put(y, 2.0, at=([i, 1, S, 1], [0, 1, D, 1])) {inner.replace('%u', store)} }}"
    _, t = run(body, X, X, params=params)
    assert (t == 2.0).all()
    with pytest.raises(RaceError, match=r"element \[0, 0\] of `y` is written by two iterations"):
        run(body.replace("put(y, 2.0, at=([i, 1, S, 1]", "put(y, 2.0, at=([0, 1, S, 1]"), X, X, params=params)


def test_grids_one_after_the_other_do_not_meet() -> None:
    one = f"{EACH} {{ %a = fetch(x, {ROW}) : f32[D] put(y, %a, {ROW}) }}"
    other = """each(axis="j", lo=`0`, hi=`S`, step=`1`) {
      %b = fetch(y, at=([S - 1 - j, 1, S, 1], [0, D, D, 0])) : f32[D]
      put(t, %b, at=([j, 1, S, 1], [0, D, D, 0]))
    }"""
    _, t = run(f"{one} {other}", X, params="x: in f32[S, D], y: out f32[S, D], t: out f32[S, D]")
    assert t.tolist() == X[::-1].tolist()


def test_steps_that_lead_nowhere() -> None:
    with pytest.raises(ShapeError, match="steps of 0"):
        run(f"{EACH.replace('step=`1`', 'step=`D - 3`')} {{ put(y, 0.0, at=([i, 1, S, 1], [0, 1, D, 1])) }}", X)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("%v = fetch(x, at=([0, S, S, 0],)) : f32[S] put(y, %v, at=([0, S, S, 0],))", "a window of 1 dims"),
        ("%v = fetch(x, at=([0, S, S], [0, D, D])) : f32[S, D]", "four sizes"),
        ("%v = fetch(x, at=([0, S, S, 3], [0, D, D, 0])) : f32[S, D]", "kind 0, 1 or 2"),
        (f"{EACH} {{ %v = fetch(x, {ROW}) : f32[S] }}", "the window f32[D]"),
        ("put(x, 1.0, at=([0, 1, S, 1], [0, 1, D, 1]))", "an input is not written"),
        ("%v = exp(x) : f32[S, D]", "is no block"),
        (f"{EACH} {{ {EACH} {{ }} }}", "an axis of its own"),
        ("case() { }", "stands outside of a choice"),
        ("%c = choose(true) : f32[] { case() { yield 1.0 } }", "two cases"),
        ("%c = choose(1.0) : f32[] { case() { yield 1.0 } case() { yield 1.0 } }", "a bool of rank 0"),
        ('%s = loop(axis="j", lo=`0`, hi=`2`, step=`1`, carries=1) : f32[] { yield 1.0 }', "as many operands"),
        ("%v = fetch(x, at=([_l0, 1, S, 1], [0, D, D, 0])) : f32[D]", "0 lookups for _l0"),
        ("%v = load(x, index=[0, 0]) : f32[]", "no place in a block program"),
        ("%m = local() : local f32[S] %n = local() : f32[S]", "role is local"),
        (
            "%n = number(1.5, of=`_l0`) : int64[] put(y, %n, 1.5, at=([_l0, 1, S, 1], [0, 1, D, 1]))",
            "integer of rank 0",
        ),
    ],
)
def test_refused(body: str, text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(program(body))
    assert text in str(caught.value)


def test_other_dialects_have_no_blocks() -> None:
    with pytest.raises(ParseError, match="no place in the tensor dialect"):
        parse(f"fn f(x: f32[S, D]) -> f32[S, D] {{ {EACH} {{ }} return x }}")


def test_windows() -> None:
    rows = (Row(Dim.of("i"), Dim.const(4), Dim.of("S"), TAIL), Row(Dim.of("j"), Dim.const(1), Dim.of("D"), 1))
    assert read(tuple(r.attr for r in rows)) == rows
    assert shape(rows) == (Dim.const(4),)
    for wrong in (3, ((1, 2),), ((Dim.of("i"), 1, 2, Dim.of("S")),)):
        with pytest.raises(ValueError, match="window"):
            read(wrong)
