"""Kernels in the interpreter: loops, masks, lookups; races, bounds and unwritten elements."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.diag import BoundsError, RaceError, ShapeError
from tessera.ir.interp import interpret
from tessera.ir.parser import parse

SOFTMAX = """
kernel softmax(x: in f32[B, D] strides [s, 1], y: out f32[B, D]) {
  nest(axes=("i",), extents=[B], vector="j") {
    sweep(axes=("j",), lo=[0], hi=[D]) {
      %v = load(x, index=[i*s + j]) : f32<i, j>
      %m = amax(%v, over=("j",), position=`j`, dtype=f32) : f32<i>
    }
    sweep(axes=("j",), lo=[0], hi=[D]) {
      %u = sub(%v, %m) : f32<i, j>
      %e = exp(%u) : f32<i, j>
      %s = sum(%e, over=("j",), position=`j`, dtype=f32) : f32<i>
    }
    sweep(axes=("j",), lo=[0], hi=[D]) {
      %q = div(%e, %s) : f32<i, j>
      store(y, %q, index=[i, j])
    }
  }
}
"""


def run(body: str, *inputs: object, params: str = "x: in f32[N], y: out f32[N]", **options: object) -> list[np.ndarray]:
    return interpret(parse(f"kernel k({params}) {{ {body} }}"), inputs, **options)  # type: ignore[arg-type]


def test_softmax() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5))
    (y,) = interpret(parse(SOFTMAX), [x])
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-15)
    assert interpret(parse(SOFTMAX), [np.zeros((0, 5))])[0].shape == (0, 5)


def test_bounds_that_differ_between_rows() -> None:
    """A triangular sweep: row i folds elements 0 to i."""
    text = """
    kernel k(x: in f32[N, N], y: out f32[N], a: out int64[N]) {
      nest(axes=("i",), extents=[N], vector="") {
        sweep(axes=("j",), lo=[0], hi=[i + 1]) {
          %v = load(x, index=[i, j]) : f32<i, j>
          %s = sum(%v, over=("j",), position=`j`, dtype=f32) : f32<i>
          %m = argmax(%v, over=("j",), position=`j`, dtype=int64) : int64<i>
        }
        store(y, %s, index=[i])
        store(a, %m, index=[i])
      }
    }"""
    x = np.random.default_rng(0).standard_normal((4, 4))
    y, a = interpret(parse(text), [x])
    np.testing.assert_allclose(y, np.tril(x).sum(1))
    assert a.tolist() == [int(np.argmax(x[i, : i + 1])) for i in range(4)]


def test_a_guard_reads_zero_outside() -> None:
    body = """nest(axes=("i",), extents=[N], vector="") {
      %v = load(x, index=[i + 1], guard=([i, 0, N - 1],)) : f32<i>
      store(y, %v, index=[i]) }"""
    assert run(body, np.array([1.0, 2.0, 3.0]))[0].tolist() == [2.0, 3.0, 0.0]


@pytest.mark.parametrize("wraps", [False, True])
def test_an_index_from_memory(wraps: bool) -> None:
    body = """nest(axes=("i",), extents=[N], vector="") {
      %r = load(t, index=[i]) : int64<i>
      %g = lookup(%r, size=`M`WRAPS) : int64<i>
      %v = load(x, %g, index=[_l0]) : f32<i>
      store(y, %v, index=[i]) }"""
    body = body.replace("WRAPS", ", wraps=true" if wraps else "")
    params = "x: in f32[M], t: in int64[N], y: out f32[N]"
    at = [1, -2 if wraps else 0, 0]
    assert run(body, np.array([5.0, 6.0]), np.array(at), params=params)[0].tolist() == [6.0, 5.0, 5.0]
    for wrong in (2, -3 if wraps else -1):
        with pytest.raises(BoundsError, match=f"index {wrong} in a dimension of size 2"):
            run(body, np.array([5.0, 6.0]), np.array([wrong, 0, 0]), params=params)


def test_nests_run_one_after_the_other() -> None:
    body = """
    nest(axes=("i",), extents=[N], vector="") {
      %v = load(x, index=[i]) : f32<i>
      store(t, %v, index=[i])
    }
    nest(axes=("i",), extents=[N], vector="") {
      %w = load(t, index=[N - i - 1]) : f32<i>
      store(y, %w, index=[i])
    }"""
    params = "x: in f32[N], y: out f32[N], t: temp f32[N]"
    assert run(body, np.array([1.0, 2.0, 3.0]), params=params)[0].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("store(y, %v, index=[0])", "is written with two values"),
        (
            "store(y, %v, index=[i]) %w = load(y, index=[N - i - 1]) : f32<i>",
            "is read while another iteration writes it",
        ),
        ("%w = load(y, index=[i]) : f32<i> store(y, %v, index=[i])", "is read before it is written"),
        ("store(y, %v, index=[i // 2]) store(y, 1.0, index=[i])", "is written with two values"),
    ],
)
def test_races_are_errors(inside: str, message: str) -> None:
    body = f'nest(axes=("i",), extents=[N], vector="") {{ %v = load(x, index=[i]) : f32<i> {inside} }}'
    with pytest.raises(RaceError) as caught:
        run(body, np.array([1.0, 2.0, 3.0, 4.0]))
    assert caught.value.code == "TSR0610"
    assert message in caught.value.message


def test_a_write_after_a_read_of_another_iteration() -> None:
    body = """
    nest(axes=("i",), extents=[N], vector="") {
      store(t, 0.0, index=[i])
    }
    nest(axes=("i",), extents=[N], vector="") {
      %w = load(t, index=[N - i - 1]) : f32<i>
      store(t, 1.0, index=[i])
      store(y, %w, index=[i])
    }"""
    with pytest.raises(RaceError) as caught:
        run(body, np.zeros(4), params="x: in f32[N], y: out f32[N], t: temp f32[N]")
    assert "is written while another iteration reads it" in caught.value.message


def test_a_sweep_that_reads_what_another_of_its_steps_writes() -> None:
    body = """nest(axes=("i",), extents=[1], vector="") {
      sweep(axes=("j",), lo=[0], hi=[N]) {
        %v = load(x, index=[j]) : f32<j>
        store(y, %v, index=[j])
        %w = load(y, index=[N - j - 1]) : f32<j>
      } }"""
    with pytest.raises(RaceError) as caught:
        run(body, np.zeros(4))
    assert "in the sweep that writes it elsewhere" in caught.value.message


def test_equal_values_at_one_place_are_no_race() -> None:
    body = 'nest(axes=("i",), extents=[N], vector="") { store(y, 2.0, index=[0]) }'
    assert run(body, np.zeros(3), params="x: in f32[N], y: out f32[1]")[0].tolist() == [2.0]


def test_steps_of_one_iteration_overwrite_in_order() -> None:
    body = """nest(axes=(), extents=(), vector="") {
      sweep(axes=("j",), lo=[0], hi=[N]) {
        %v = load(x, index=[j]) : f32<j>
        store(y, %v, index=[0])
      } }"""
    assert run(body, np.array([1.0, 2.0, 3.0]), params="x: in f32[N], y: out f32[1]")[0].tolist() == [3.0]


@pytest.mark.parametrize(
    ("inside", "error"),
    [
        ("%w = load(x, index=[i + 1]) : f32<i> store(y, %w, index=[i])", BoundsError),
        ("%w = load(x, index=[i - 1]) : f32<i> store(y, %w, index=[i])", BoundsError),
        ("store(y, 1.0, index=[i + 1])", BoundsError),
        ("store(y, 1.0, index=[i // 2])", ShapeError),  # half of the output is never written
    ],
)
def test_memory_is_checked(inside: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(f'nest(axes=("i",), extents=[N], vector="") {{ {inside} }}', np.zeros(4))


def test_an_index_in_several_dims_is_checked_in_each() -> None:
    body = """nest(axes=("i",), extents=[A], vector="") {
      %v = load(x, index=[0, i]) : f32<i>
      store(y, %v, index=[i]) }"""
    with pytest.raises(BoundsError):
        run(body, np.zeros((4, 3)), params="x: in f32[A, B], y: out f32[A]")
