"""``tessera.scan`` from Python to the IR and back: what it computes, what it refuses, and how the IR looks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import tessera
from tessera import BoundsError, DTypeError, ShapeError, Tensor, TesseraError, TraceError, bf16, f32, function, int64
from tessera.backends.eager import run_function
from tessera.diag import CallError
from tessera.frontend.tree import flatten
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tests.frontend.harness import T, agrees, only, traced
from tests.frontend.scan_programs import RECURRENCES, Recurrence

X = Tensor["S", "D", f32]
every = pytest.mark.parametrize("case", RECURRENCES, ids=lambda c: c.name)


def leaves(x: Any) -> list[Any]:
    return flatten(x, lambda y: isinstance(y, torch.Tensor))[0]


@every
def test_the_interpreter_and_the_loop_agree(case: Recurrence) -> None:
    agrees(case.function, *case.inputs())


@every
def test_compiled_functions_agree_with_the_loop(case: Recurrence) -> None:
    f = function(strict=True)(case.function)
    assert f.check().ok
    given = case.inputs()
    want, have = f.eager(*given), f(*given)
    assert f.cache_info().eager == 0
    assert type(want) is type(have)
    for a, b in zip(leaves(want), leaves(have), strict=True):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            torch.testing.assert_close(b, a, rtol=2e-5, atol=2e-5)
        else:
            assert a is b is None
    for stage in ("traced", "canonicalize", "cse", "dce", "fused"):
        assert parse(print_function(parse(f.ir(stage)))) == parse(f.ir(stage))


@every
def test_what_describes_a_function_does(case: Recurrence) -> None:
    f = function(case.function)
    given = case.inputs()
    assert "scan" in str(f.explain(*given))
    cost = f.cost(*given)
    assert str(cost.eager.flops) and str(f.lower(*given))


def test_comparing() -> None:
    case = RECURRENCES[1]
    found = tessera.compare(function(case.function), *case.inputs())
    assert len(found.outputs) == 1 and found.outputs[0].fused <= 1e-6


def test_cost_counts_every_step() -> None:
    @function
    def total(x: X, w: Tensor["D", f32]) -> tuple[Tensor["D"], Tensor["S", "D"]]:
        def step(c: Any, row: Any) -> Any:
            c = c + row * w
            return c, c

        return tessera.scan(step, w, x)

    cost = total.cost()
    sizes = {"S": 10, "D": 4}
    # Two operations a step over D elements; each reads two rows and writes one. Then 10 rows are read and stacked.
    assert cost.eager.flops.evaluate(sizes) == 2 * 10 * 4
    assert cost.eager.bytes.evaluate(sizes) == 10 * 2 * 3 * 16 + 2 * 10 * 16
    assert cost.least.evaluate(sizes) == (40 + 4 + 4 + 40) * 4


def test_the_text() -> None:
    def gated(k: Tensor["S", "D", f32], g: Tensor["S", f32], w: Tensor["D", f32]) -> Any:
        def step(state: Any, now: Any) -> Any:
            k_t, g_t = now
            state = state * g_t + k_t * w
            return state, state.sum()

        last, sums = tessera.scan(step, w, (k, g), reverse=True)
        return last, sums

    f = traced(gated, T("S", "D"), T("S"), T("D")).function
    assert print_function(f, spans=False, header=False).splitlines() == [
        "fn gated(k: f32[S, D], g: f32[S], w: f32[D]) -> (f32[D], f32[S]) {",
        "  %last, %sums = scan(w, k, g, w, carries=1, dim=0, reverse=true) : f32[D], f32[S] {",
        "    ^(state: f32[D], k_t: f32[D], g_t: f32[])",
        "    %mul     = mul(state, g_t)        : f32[D]",
        "    %mul_1   = mul(k_t, w)            : f32[D]",
        "    %state_1 = add(%mul, %mul_1)      : f32[D]",
        "    %sum     = sum(%state_1) over [D] : f32[]",
        "    yield %state_1, %sum",
        "  }",
        "  return %last, %sums",
        "}",
    ]


def test_the_step_is_traced_once() -> None:
    calls = []

    def counted(x: X) -> Any:
        def step(c: Any, row: Any) -> Any:
            calls.append(1)
            return c + row, row

        return tessera.scan(step, x[0], x)

    traced(counted, T("S", "D"))
    assert len(calls) == 1


class Cell(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = torch.nn.Linear(3, 3)

    def forward(self, h: torch.Tensor, x: torch.Tensor) -> Any:
        h = torch.tanh(self.mix(h) + x)
        return h, h

    def method(self, scale: float, h: torch.Tensor, x: torch.Tensor) -> Any:
        return h * scale + x, None


def test_modules_methods_and_partial_calls_are_steps() -> None:
    cell = Cell().requires_grad_(False)

    def module(x: X) -> Any:
        return tessera.scan(cell, x[0], x)

    def method(x: X) -> Any:
        return tessera.scan(partial(cell.method, 0.5), x[0], x)[0]

    agrees(module, torch.randn(4, 3))
    agrees(method, torch.randn(4, 3))


def test_captured_tensors_are_hidden_arguments() -> None:
    w = torch.randn(3)

    @function
    def weighted(x: X) -> Tensor["S", "D"]:
        return tessera.scan(lambda c, row: (c + row * w, c * w), w, x)[1]

    x = torch.randn(4, 3)
    torch.testing.assert_close(weighted(x), weighted.eager(x))


def test_a_stale_view_is_read_in_the_step_and_after_it() -> None:
    """A view of memory that was written is derived again outside of the step, so that it is there behind it."""

    def both(x: X) -> Any:
        table = x * 2.0
        row = table[0]
        table[0] = 1.0
        _, out = tessera.scan(lambda c, r: (c, r + row), x[0], x)
        return out + row

    agrees(both, torch.randn(4, 3))


# ---- on tensors ----------------------------------------------------------------------------------------------------


def test_a_loop_over_tensors() -> None:
    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    last, rows = tessera.scan(lambda c, r: (c + r, c * r), torch.ones(2), x)
    assert last.tolist() == [7.0, 10.0] and rows.tolist() == [[0.0, 1.0], [2.0, 6.0], [12.0, 25.0]]
    rows.sum().backward()
    assert x.grad is not None
    with pytest.raises(ShapeError) as caught:
        tessera.scan(lambda c, r: (c[:1], r), torch.ones(2), x)
    assert caught.value.code == "TSR0219" and "f32[2] before a step and f32[1] after it" in str(caught.value)


@pytest.mark.parametrize("reverse", [False, True])
def test_no_slices(reverse: bool) -> None:
    def step(state: Any, row: Any) -> Any:
        return {"h": state["h"] + row.sum()}, (row * 2, None, 1)

    @function
    def f(x: Tensor["B", "S", "D"]) -> Any:
        return tessera.scan(step, {"h": 2.0}, x, dim=1, reverse=reverse)

    for run in (f, f.eager):
        last, (rows, nothing, ones) = run(torch.zeros(2, 0, 2))
        assert nothing is None and rows.shape == (0, 2, 2) and ones.shape == (0,) and ones.dtype == torch.int64
        assert last["h"].shape == () and last["h"] == 2.0


def test_no_slices_in_the_ir() -> None:
    def f(x: X) -> Any:
        return tessera.scan(lambda c, row: (c + row, row.sum()), x.sum(0), x)

    found = traced(f, T("S", "D")).function
    exact = interpret(found, [np.zeros((0, 3))])
    assert [a.shape for a in exact] == [(3,), (0,)]
    assert [tuple(a.shape) for a in run_function(found, [torch.zeros(0, 3)])] == [(3,), (0,)]


def test_results_have_memory_of_their_own() -> None:
    @function
    def kept(x: X, w: Tensor["D", f32]) -> Any:
        return tessera.scan(lambda c, row: (c, None), (w, w), x)[0]

    w = torch.ones(3)
    a, b = kept(torch.zeros(2, 3), w)
    assert len({t.data_ptr() for t in (a, b, w)}) == 3


def test_an_index_out_of_range_in_a_step_is_named() -> None:
    @function(strict=True)
    def looked_up(table: Tensor["V", "D", f32], i: Tensor["S", int64]) -> Tensor["S", "D"]:
        def step(c: Any, n: Any) -> Any:
            row = table.index_select(0, n.reshape(1))[0]
            return c + row, row

        return tessera.scan(step, table[0], i)[1]

    table = torch.randn(4, 3)
    good = torch.tensor([0, 3])
    torch.testing.assert_close(looked_up(table, good), looked_up.eager(table, good))
    with pytest.raises(BoundsError) as caught:
        looked_up(table, torch.tensor([0, 4]))
    assert "index 4" in str(caught.value)
    assert [span.text() for span in caught.value.spans] == ["table.index_select(0, n.reshape(1))"]


# ---- what is refused -----------------------------------------------------------------------------------------------


def other_steps(x: X, y: Tensor["T", "D", f32]) -> Any:
    return tessera.scan(lambda c, z: (c, z), x[0], (x, y))


def other_sizes(x: X, w: Tensor["D", "E", f32]) -> Any:
    def step(c: Any, row: Any) -> Any:
        new = c @ w
        return new, row

    return tessera.scan(step, x[0], x)


def other_dtype(x: X) -> Any:
    first = x[0].to(torch.bfloat16)

    def step(c: Any, row: Any) -> Any:
        return (c[0] + row, c[1]), None

    return tessera.scan(step, (first, 0), x)


def other_structure(x: X) -> Any:
    return tessera.scan(lambda c, row: ({"h": c["h"]}, row), {"h": x[0], "n": 0}, x)


def promoted_count(x: X) -> Any:
    return tessera.scan(lambda n, row: (n + 0.5, row), 0, x)


def no_pair(x: X) -> Any:
    return tessera.scan(lambda c, row: c + row, x[0], x)


def no_step(x: X) -> Any:
    return tessera.scan(x, x[0], x)  # type: ignore[arg-type]


def no_tensors(x: X) -> Any:
    return tessera.scan(lambda c, row: (c, row), x[0], ())


def number_scanned(x: X) -> Any:
    return tessera.scan(lambda c, row: (c, row[0]), x[0], (x, 3))


def text_kept(x: X) -> Any:
    return tessera.scan(lambda c, row: (c, "row"), x[0], x)


def text_carried(x: X) -> Any:
    return tessera.scan(lambda c, row: (c, row), (x[0], "c"), x)


def dim_beyond(x: X) -> Any:
    return tessera.scan(lambda c, row: (c, row), x[0], x, dim=2)


def rank_zero(x: X) -> Any:
    return tessera.scan(lambda c, row: (c, row), x[0], x.sum())


def named_dim(x: X) -> Any:
    return tessera.scan(lambda c, row: (c, row), x[0], x, dim="S")  # type: ignore[arg-type]


def two_axes(x: X) -> Any:
    return tessera.scan(lambda c, z: (c, z[0]), x[:, 0], (x, x[..., None]), dim=-1)


def kept_outside(x: X) -> Any:
    seen: list[Any] = []

    def step(c: Any, row: Any) -> Any:
        seen.append(row)
        return c, None

    tessera.scan(step, x[0], x)
    return seen[0] + 1


def returned_outside(x: X) -> Any:
    seen: list[Any] = []
    tessera.scan(lambda c, row: (seen.append(row) or c, None), x[0], x)
    return seen[0]


def writes_outside(x: X) -> Any:
    total = torch.zeros(x.shape[1])

    def step(c: Any, row: Any) -> Any:
        total.add_(row)
        return c, None

    tessera.scan(step, x[0], x)
    return total


def writes_to_a_view(x: X) -> Any:
    total = torch.zeros(x.shape[1])

    def step(c: Any, row: Any) -> Any:
        total[:1] = 1.0
        return c, None

    return tessera.scan(step, x[0], x)


def writes_to_the_carry(x: X) -> Any:
    def step(c: Any, row: Any) -> Any:
        c += row
        return c, None

    return tessera.scan(step, x[0], x)


def draws(x: X) -> Any:
    return tessera.scan(lambda c, row: (c + torch.rand_like(row), None), x[0], x)


def wrong_inside(x: X) -> Any:
    return tessera.scan(lambda c, row: (c + row[1:], None), x[0], x)


REFUSED: dict[Callable[..., Any], tuple[type[TesseraError], str, str, str]] = {
    other_steps: (ShapeError, "TSR0218", "(x, y)", "`x` has `S` steps in dim 0, `y` has `T`"),
    other_sizes: (ShapeError, "TSR0219", "new", "the carry `c` is f32[D] before a step and f32[E] after it"),
    other_dtype: (
        DTypeError, "TSR0307", "(c[0] + row, c[1])", "the carry `c[0]` is bf16[D] before a step and f32[D] after it",
    ),
    other_structure: (
        ShapeError, "TSR0219", '{"h": c["h"]}', "the carry `c` is a dict of 'h', 'n' before a step and a dict of 'h' "
        "after it",
    ),
    promoted_count: (DTypeError, "TSR0307", "n + 0.5", "the carry `n` is int64[] before a step and f32[] after it"),
    no_pair: (CallError, "TSR0112", "c + row", "the step of a scan returns a tensor, not a pair"),
    no_step: (CallError, "TSR0112", "x", "the step of a scan is a tensor, not a function"),
    no_tensors: (CallError, "TSR0112", "()", "a scan over no tensor has no number of steps"),
    number_scanned: (CallError, "TSR0112", "(x, 3)", "`3` of a scan is an int, not a tensor"),
    text_kept: (CallError, "TSR0112", '"row"', "`y` of a scan is a str, not a tensor"),
    text_carried: (CallError, "TSR0112", '(x[0], "c")', '`"c"` of a scan is a str, not a tensor'),
    dim_beyond: (ShapeError, "TSR0203", "x", "dim 2 of a rank-2 tensor"),
    rank_zero: (ShapeError, "TSR0203", "x.sum()", "dim 0 of a rank-0 tensor"),
    named_dim: (CallError, "TSR0112", '"S"', "`dim` of a scan is a str, not an int"),
    two_axes: (CallError, "TSR0112", "(x, x[..., None])", "dim -1 is dim 1 of `x` and dim 2 of `x[..., None]`"),
    kept_outside: (TraceError, "TSR0411", "seen[0] + 1", "`x_t` of a scan's step is used outside of the step"),
    returned_outside: (TraceError, "TSR0411", "", "`x_t` of a scan's step is used outside of the step"),
    writes_outside: (
        TraceError, "TSR0412", "total.add_(row)", "update of `total`, which is from outside the step of a scan",
    ),
    writes_to_a_view: (
        TraceError, "TSR0412", "total[:1]", "update of `total`, which is from outside the step of a scan",
    ),
    writes_to_the_carry: (TraceError, "TSR0403", "c += row", "update of `c`, the carry of a scan"),
    draws: (
        TraceError, "TSR0412", "torch.rand_like(row)", "random numbers drawn in the step of a scan: the same ones in "
        "every step",
    ),
    wrong_inside: (ShapeError, "TSR0202", "c", "dimension `D` meets `D - 1` in a broadcast"),
}  # fmt: skip


@pytest.mark.parametrize("f", REFUSED, ids=lambda f: f.__name__)
def test_what_is_refused(f: Callable[..., Any]) -> None:
    error, code, place, message = REFUSED[f]
    found = only(f)
    assert (found.code, found.message) == (code, message)
    assert found.primary is not None
    if place:
        assert found.primary.span.text() == place
    with pytest.raises(error):
        function(f)


def test_both_sides_are_labelled() -> None:
    found = only(other_sizes)
    assert [(label.span.text(), label.text) for label in found.labels] == [
        ("new", "`c` after a step is f32[E]"), ("x[0]", "`c` begins as f32[D]"),
    ]  # fmt: skip
    assert [n.text.split(" comes from ")[0] for n in found.notes] == ["`D`", "`E`"]


def test_the_repair_of_a_dtype_is_named() -> None:
    assert [h.text for h in only(other_dtype).helps] == ["begin with f32, or return it with `.to(bf16)`"]
    assert bf16.name == "bf16"


@pytest.mark.parametrize(
    "act",
    [
        lambda x: tessera.scan(lambda c, z: (c, None), x[0], (x, x[1:])),
        lambda x: tessera.scan(lambda c, z: (c.double(), None), x[0], x),
        lambda x: tessera.scan(lambda c, z: ((c, c), None), x[0], x),
        lambda x: tessera.scan(lambda c, z: c, x[0], x),
        lambda x: tessera.scan(3, x[0], x),
        lambda x: tessera.scan(lambda c, z: (c, z), x[0], []),
        lambda x: tessera.scan(lambda c, z: (c, z), None, x),
        lambda x: tessera.scan(lambda c, z: (c, z), x[0], x, dim=5),
        lambda x: tessera.scan(lambda c, z: (c, z), x[0], x, reverse=1),
    ],
)
def test_errors_on_tensors_are_typed(act: Callable[[Any], Any]) -> None:
    with pytest.raises(TesseraError) as caught:
        act(torch.ones(3, 2))
    assert caught.value.code in ("TSR0112", "TSR0203", "TSR0218", "TSR0219", "TSR0307")
    assert caught.value.spans
