"""Calls between functions: unified at the boundary, with both sides named, scopes apart, results checked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tessera.diag import TraceError
from tessera.driver import function
from tessera.frontend.annotation import Tensor
from tessera.frontend.inline import inline_call
from tessera.frontend.session import current
from tessera.frontend.spec import FunctionSpec
from tessera.ir.dtype import f32, int64
from tests.frontend.harness import T, agrees, checked, only, traced


class Inlined:
    """A function as the decorator makes it, as far as calls inside a trace go."""

    def __init__(self, f: Any) -> None:
        self.f, self.spec = f, FunctionSpec.of(f)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.f(*args, **kwargs) if current() is None else inline_call(self.spec, args, kwargs)


@function
def norm(x: Tensor["B", "S", "D"], w: Tensor["D"], eps: float = 1e-6) -> Tensor["B", "S", "D"]:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * w


@function
def halves(x: Tensor["N", "D/2"]) -> Tensor["N", "D"]:
    return torch.cat([x, x], -1)


@function
def rows(x: Tensor["...", "D"]) -> Tensor["...", "D"]:
    return x.softmax(-1)


@function
def table(t: Tensor["V", "D", f32], i: Tensor["S", int64]) -> Tensor["S", "D"]:
    return t[i]


@function
def sized(n: int, x: Tensor["n", "D"]) -> Tensor["n", "n"]:
    return x @ x.T


def good(q: Tensor["A", "T", "E"], g: Tensor["E"], h: Tensor["T", "K"], D: Tensor["V", "E"]) -> Any:
    y = norm(q, g) + norm(norm(q, w=g, eps=1e-3), g)
    z = halves(h)
    s = rows(h) + rows(y)[0, :, :1]
    return y, z, s, table(D, torch.tensor([0, 1])), sized(q.shape[1], q[0])


def test_inlined_calls_mean_the_same() -> None:
    g = torch.Generator().manual_seed(0)
    agrees(good, *(torch.randn(shape, generator=g) for shape in ((2, 3, 4), (4,), (3, 5), (6, 4))))
    assert checked(good).ok


def swapped(q: Tensor["A", "T", "E"], g: Tensor["E"]) -> Any:
    return norm(g, q)


def other_size(q: Tensor["A", "T", "E"], g: Tensor["T"]) -> Any:
    return norm(q, g)


def other_rank(q: Tensor["A", "T", "E"], g: Tensor["E"]) -> Any:
    y = norm(q[0], g)
    return y


def other_dtype(t: Tensor["V", "E", f32], i: Tensor["S", f32]) -> Any:
    return table(t, i)


def odd(h: Tensor["T", 7]) -> Tensor["T", 13]:
    return halves(h)


def test_both_sides_are_named() -> None:
    found = only(other_size)
    assert found.code == "TSR0211"
    assert found.message == "`D` of norm is `E` and `T`"
    assert [(label.span.text(), label.text) for label in found.labels] == [
        ("g", "a f32[T]"), ('Tensor["D"]', 'declared Tensor["D"]'),
    ]  # fmt: skip
    origin = 'comes from q: Tensor["A", "T", "E"]'
    assert [n.text for n in found.notes] == [f"`E` {origin}", f"`T` {origin}"]


def test_rank_and_dtype() -> None:
    found = only(other_rank)
    assert (found.code, found.message) == ("TSR0211", "`x` of norm takes 3 dims, not 2")
    assert found.labels[0].span.text() == "q[0]"
    found = only(other_dtype)
    assert (found.code, found.message) == ("TSR0108", "`i` of table takes int64, not f32")


def test_swapped_arguments_are_recognised() -> None:
    found = checked(swapped).diagnostics
    assert {d.code for d in found} == {"TSR0211"}
    assert "the arguments for `x` and `w` fit in the other order" in [h.text for d in found for h in d.helps]


def test_each_call_has_its_own_names() -> None:
    @function
    def rename(S: Tensor["B"], B: Tensor["S"]) -> Tensor["S", "B"]:
        return B[:, None] * S

    def caller(x: Tensor["S"], y: Tensor["B"]) -> Tensor["B", "S"]:
        return rename(x, y)

    assert checked(caller).verdict == "proved"


def test_the_result_of_a_call_is_checked() -> None:
    def wrong(x: Tensor["B", "D"]) -> Tensor["D", "B"]:
        return x * 1

    inner = Inlined(wrong)

    def caller(x: Tensor["B", "D"]) -> Any:
        return inner(x)

    found = only(caller)
    assert found.code == "TSR0210" and found.labels[0].span.text() == 'Tensor["D", "B"]'


def test_a_fault_in_a_called_function_points_into_it() -> None:
    @Inlined
    def inner(x: Tensor["B", "D"], y: Tensor["D", "B"]) -> Any:
        return x + y

    def caller(x: Tensor["P", "Q"], y: Tensor["Q", "P"]) -> Any:
        return inner(x, y)

    found = only(caller)
    assert found.code == "TSR0202" and found.primary is not None
    assert (found.primary.span.source_line() or "").strip() == "return x + y"


def test_endless_recursion_is_an_error() -> None:
    def recursive(x: Tensor["B"]) -> Any:
        return again(x) + 1

    again = Inlined(recursive)
    with pytest.raises(TraceError, match="calls itself without end"):
        traced(recursive, T("B"))


def test_helpers_that_are_not_decorated_are_just_python() -> None:
    def helper(a: Any, b: Any) -> Any:
        return a @ b

    def caller(x: Tensor["B", "D"], w: Tensor["F", "D"]) -> Any:
        return helper(x, w)

    found = only(caller)
    assert found.primary is not None and (found.primary.span.source_line() or "").strip() == "return a @ b"
