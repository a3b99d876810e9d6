"""Updates and views against torch: single cases, and random programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.diag import TesseraError
from tessera.frontend.annotation import Tensor
from tests.frontend.harness import T, agrees, traced

X = torch.arange(24.0).reshape(2, 3, 4)


def view_sees_base(x: Tensor["A", "B", "C"]) -> Any:
    y = x * 1.0
    v = y[0]
    y += 1
    return v * 2, y


def base_sees_view(x: Tensor["A", "B", "C"]) -> Any:
    y = x.clone()
    v = y.transpose(0, 1)[1]
    v.mul_(10)
    return y, v


def views_of_one_base(x: Tensor["A", "B", "C"]) -> Any:
    y = x.clone()
    a, b = y[:, 1:], y.permute(2, 0, 1)
    a[..., 0] = 7.0
    b[1:].add_(1)
    return y, a, b


def through_reshape(x: Tensor["A", "B", "C"]) -> Any:
    y = x.clone()
    flat = y.view(-1)
    flat[::2] = 0.0
    y.unsqueeze(1).squeeze(1).neg_()
    return y, flat


def clone_is_apart(x: Tensor["A", "B", "C"]) -> Any:
    y = x.clone()
    z = y.clone()
    y.zero_()
    return y, z


def detach_shares(x: Tensor["A", "B", "C"]) -> Any:
    y = x * 1
    z = y.detach()
    y.fill_(3)
    z[0, 0, 0] = 4
    return y, z


def result_of_view_is_fresh(x: Tensor["A", "B", "C"]) -> Any:
    y = x * 1
    z = y[0] + 1
    y += 5
    return z


def masked(x: Tensor["A", "B", "C"]) -> Any:
    y = x.clone()
    y[y > 10] = -1.0
    y.masked_fill_(y < 3, 100.0)
    return y


def scattered(x: Tensor["A", "B", "C"]) -> Any:
    y = torch.zeros(3, 5)
    y.scatter_(1, torch.tensor([[0], [2], [4]]), 1.0)
    y[:, 1] = x.sum()
    return y


def inplace_function(x: Tensor["A", "B", "C"]) -> Any:
    y = x - 10
    torch.nn.functional.relu(y, inplace=True)
    torch.clamp_(y, max=3)
    torch.add(y, 1, out=y)
    return y


def copied(x: Tensor["A", "B", "C"]) -> Any:
    y = torch.zeros(2, 3, 4)
    y[0].copy_(x[1])
    y.select(0, 1)[:] = x[0]
    return y


def pieces(x: Tensor["A", "B", "C"]) -> Any:
    y = x.clone()
    a, b = y.chunk(2, dim=-1)
    a += b
    for row in y.unbind(0):
        row *= 2
    return y, a, b


def library_update(x: Tensor["A", "B", "C"]) -> Any:
    y = x + 1
    v = y[1]
    v.mvlgamma_(1)
    torch.special.zeta(y, 2.0, out=y)
    return y


CASES: tuple[Callable[..., Any], ...] = (
    view_sees_base,
    base_sees_view,
    views_of_one_base,
    through_reshape,
    clone_is_apart,
    detach_shares,
    result_of_view_is_fresh,
    masked,
    scattered,
    inplace_function,
    copied,
    pieces,
    library_update,
)


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_update_agrees_with_torch(case: Callable[..., Any]) -> None:
    agrees(case, X)


# ---- random programs -------------------------------------------------------------------------------------

Step = tuple[str, int, int]

_VIEWS: tuple[Callable[[Any], Any], ...] = (
    lambda v: v[0] if v.ndim else v,
    lambda v: v[1:] if v.ndim and v.shape[0] > 1 else v,
    lambda v: v[..., ::2] if v.ndim else v,
    lambda v: v.transpose(0, -1) if v.ndim else v,
    lambda v: v.unsqueeze(0),
    lambda v: v.squeeze(0) if v.ndim and v.shape[0] == 1 else v,
    lambda v: v.permute(*reversed(range(v.ndim))),
    lambda v: v.detach(),
    lambda v: v[..., None],
    lambda v: v.reshape(-1),
    lambda v: v.reshape(v.shape[0], -1) if v.ndim else v,
    lambda v: v.flatten(0, 1) if v.ndim > 1 else v,
    lambda v: v.contiguous(),
    lambda v: torch.dropout(v, 0.5, False),
    lambda v: v.expand(*v.shape) if v.ndim else v,
    lambda v: v.unflatten(-1, (2, -1)) if v.ndim and v.shape[-1] % 2 == 0 else v,
)
_UPDATES: tuple[Callable[[Any, Any], Any], ...] = (
    lambda v, w: v.add_(1),
    lambda v, w: v.mul_(2),
    lambda v, w: v.fill_(3),
    lambda v, w: v.__setitem__(Ellipsis, w.sum()),
    lambda v, w: v.__setitem__(0, 5.0) if v.ndim and v.shape[0] else None,
    lambda v, w: v.__isub__(w.mean()),
    lambda v, w: v.neg_(),
)
_FRESH: tuple[Callable[[Any], Any], ...] = (lambda v: v + 1, lambda v: v.clone(), lambda v: v * v)


@st.composite
def programs(draw: st.DrawFn) -> list[Step]:
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from(["view", "view", "update", "fresh"]), st.integers(0, 63), st.integers(0, 63)),
            min_size=2,
            max_size=9,
        )
    )
    return [*steps, ("update", draw(st.integers(0, 63)), draw(st.integers(0, 63)))]


def execute(program: list[Step], x: Any) -> Any:
    """Views, updates and fresh tensors over one base; gives every tensor there is at the end."""
    alive = [x.clone()]
    for kind, which, what in program:
        v = alive[which % len(alive)]
        if kind == "view" and v.ndim < 5:
            alive.append(_VIEWS[what % len(_VIEWS)](v))
        elif kind == "fresh":
            alive.append(_FRESH[what % len(_FRESH)](v))
        elif kind == "update":
            _UPDATES[what % len(_UPDATES)](v, alive[what % len(alive)])
    return tuple(alive)


@settings(max_examples=250)
@given(programs())
def test_random_programs_agree_with_torch(program: list[Step]) -> None:
    def f(x: Tensor) -> Any:
        return execute(program, x)

    agrees(f, X[:, :2])


# ---- what is refused -------------------------------------------------------------------------------------


def writes_argument(x: Tensor["A", "B"]) -> Any:
    x += 1
    return x


def writes_view_of_argument(x: Tensor["A", "B"]) -> Any:
    v = x[0]
    v.mul_(2)
    return v


def writes_expanded(x: Tensor["A", "B"]) -> Any:
    v = x.sum(0, keepdim=True).expand(4, -1)
    v += 1
    return v


def writes_float_to_ints(x: Tensor["A", "B"]) -> Any:
    y = torch.zeros(3, dtype=torch.int64)
    y += 0.5
    return y


def writes_other_shape(x: Tensor["A", "B"]) -> Any:
    y = x.sum(0)
    y += x
    return y


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [
        (writes_argument, "TSR0403", "update of argument `x`"),
        (writes_view_of_argument, "TSR0403", "update of argument `x`"),
        (writes_expanded, "TSR0403", "update of an expanded tensor"),
        (writes_float_to_ints, "TSR0301", "`f32` written to `int64` in place"),
        (writes_other_shape, "TSR0202", "update in place of [B] with [A, B]"),
    ],
)
def test_update_is_refused(case: Callable[..., Any], code: str, words: str) -> None:
    with pytest.raises(TesseraError) as caught:
        traced(case, T("A", "B"))
    assert caught.value.codes == (code,)
    assert caught.value.message == words
    assert caught.value.spans[0].file == __file__
