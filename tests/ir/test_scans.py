"""Scans in the IR: what their fold makes of prefixes, and the rules for one inside a kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.ir.dialects import OPS, missing
from tessera.ir.dtype import f32
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import settle
from tessera.ir.interp.fold import prefixes
from tessera.ir.interp.namespace import NumpyNamespace
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.record import Kind, OpRecord, Reduction
from tessera.ir.verify import verify

SCANS = [r for r in OPS.values() if r.kind is Kind.SCAN]


def in_order(reduction: Reduction, rows: np.ndarray) -> list[np.ndarray]:
    """A scan by its definition alone: one element after the other."""
    space, kinds = NumpyNamespace(), reduction.state(f32)
    start = zip(reduction.init(f32), kinds, strict=True)
    state = tuple(np.broadcast_to(settle(s, k), rows.shape[:-1]) for s, k in start)
    out = []
    with np.errstate(all="ignore"):
        for n in range(rows.shape[-1]):
            state = reduction.step(space, state, rows[..., n], np.int64(n))
            out.append([np.asarray(r) for r in reduction.finish(space, state)])
    return [np.stack(r, -1) for r in zip(*out, strict=True)]


VALUES = st.sampled_from([0.0, 1.0, -2.0, 3.5, 3.5, 300.0, -300.0, math.nan, math.inf, -math.inf, -0.0])


@pytest.mark.parametrize("record", SCANS, ids=lambda r: r.name)
@given(data=st.data())
def test_a_scan_is_its_definition(record: OpRecord, data: st.DataObject) -> None:
    """Merging what lies ever further back, one element after the other, and the oracle: all give the same."""
    width = data.draw(st.integers(1, 9))
    rows = np.array(data.draw(st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1, max_size=3)))
    assert record.reduction is not None and record.reference is not None
    with np.errstate(all="ignore"):
        found = prefixes(record.reduction, f32, rows)
        oracle = record.reference(rows, dim=1)
    oracle = oracle if isinstance(oracle, tuple) else (oracle,)
    for got, want, known in zip(found, in_order(record.reduction, rows), oracle, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(got, known, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("record", SCANS, ids=lambda r: r.name)
def test_one_element_is_a_step_from_the_start(record: OpRecord) -> None:
    reduction = record.reduction
    assert reduction is not None
    if reduction.one is None:
        return
    space, x = NumpyNamespace(), np.array([0.0, 2.5, -300.0, math.inf, -math.inf, math.nan])
    with np.errstate(all="ignore"):
        alone = reduction.finish(space, reduction.one(space, x, np.int64(0)))
        step = reduction.finish(space, reduction.step(space, reduction.init(f32), x, np.int64(0)))
    for a, b in zip(alone, step, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_scan_needs_a_fold() -> None:
    bare = OpRecord("bare", Kind.SCAN, "x: tensor, dim: dim", "A scan of nothing.", infer=SCANS[0].infer)
    assert missing([bare]) == ["bare: no reduction", "bare: no reference"]


# -- in kernels

KERNEL = """
kernel f(x: in f32[B, D], y: out f32[B, D], at: out int64[B, D], z: out f32[B]) {{
  nest(axes=("i",), extents=[B], vector="j") {{
    sweep(axes=("j",), lo=[0], hi=[D]) {{
      %v = load(x, index=[i, j]) : f32<i, j>
      {made}
      %t = amax(%s, over=("j",), position=`j`, dtype=f32) : f32<i>
      store(y, %s, index=[i, j])
      store(at, %n, index=[i, j])
    }}
    store(z, %t, index=[i])
  }}
}}
"""
SOUND = '%s, %n = cummax(%v, over=("j",), position=`j`, dtype=f32) : f32<i, j>, int64<i, j>'


def test_a_kernel_reads_what_it_has_scanned() -> None:
    f = parse(KERNEL.format(made=SOUND))
    assert verify(f).dialect == "tile"
    assert parse(print_function(f)) == f
    x = np.array([[1.0, 3.0, 3.0, 2.0], [math.nan, 1.0, math.nan, 0.0]])
    y, at, z = interpret(f, [x])
    np.testing.assert_array_equal(y, [[1.0, 3.0, 3.0, 3.0], [math.nan] * 4])
    np.testing.assert_array_equal(at, [[0, 1, 2, 2], [0, 0, 2, 2]])
    np.testing.assert_array_equal(z, [3.0, math.nan])


BROKEN = {
    "two operands": (SOUND.replace("(%v,", "(%v, %v,"), "takes 1 operands, not 2"),
    "another axis": (SOUND.replace('over=("j",)', 'over=("i",)'), "a fold runs over the axes of a sweep around it"),
    "an outer sweep": (f'sweep(axes=("k",), lo=[0], hi=[D]) {{ {SOUND} }}', "goes along the one axis of its own sweep"),
    "no place": (SOUND.replace("position=`j`, ", ""), "a fold has the attributes dtype, over, position"),
    "the end alone": (
        "%c = load(x, index=[i, 0]) : f32<i> " + SOUND.replace("(%v", "(%c").replace(": f32<i, j>", ": f32<i>"),
        "`%s` does not depend on the axis that is scanned",
    ),
    "no row": (SOUND.replace(": f32<i, j>", ": f32<j>"), "`%s` does not depend on `i`, but its operand does"),
}


@pytest.mark.parametrize(("made", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_scans(made: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(KERNEL.format(made=made))
    assert message in str(caught.value), str(caught.value)
