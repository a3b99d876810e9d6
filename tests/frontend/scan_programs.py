"""Recurrences as users write them, with sizes to run them at. Each function takes plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

import tessera
from tessera import Tensor, f32, function


@dataclass(frozen=True)
class Recurrence:
    """A function and the shapes of its arguments; those are drawn from a standard normal distribution."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        return self.function.__name__

    def inputs(self) -> list[torch.Tensor]:
        g = torch.Generator().manual_seed(len(self.shapes))
        return [torch.randn(shape, generator=g) for shape in self.shapes]


Queries = Tensor["B", "H", "S", "D"]
Values = Tensor["B", "H", "S", "E"]
Rates = Tensor["B", "H", "S"]


def start(q: Any, v: Any) -> Any:
    B, H, _, D = q.shape
    return torch.zeros(B, H, D, v.shape[-1])


def linear_attention(q: Queries, k: Queries, v: Values) -> tuple[Values, Tensor["B", "H", "D", "E"]]:
    def step(state: Any, now: Any) -> Any:
        q_t, k_t, v_t = now
        state = state + k_t[..., None] * v_t[..., None, :]
        return state, (q_t[..., None] * state).sum(-2)

    state, out = tessera.scan(step, start(q, v), (q, k, v), dim=2)
    return out.permute(1, 2, 0, 3), state


def gated_linear_attention(q: Queries, k: Queries, v: Values, gate: Queries) -> Values:
    scale = q.shape[-1] ** -0.5

    def step(state: Any, now: Any) -> Any:
        q_t, k_t, v_t, g_t = now
        state = torch.sigmoid(g_t)[..., None] * state + torch.einsum("bhd,bhe->bhde", k_t, v_t)
        return state, torch.einsum("bhd,bhde->bhe", q_t * scale, state)

    _, out = tessera.scan(step, start(q, v), (q, k, v, gate), dim=2)
    return out.permute(1, 2, 0, 3)


def delta_rule(q: Queries, k: Queries, v: Values, beta: Rates) -> tuple[Values, Tensor["B", "H", "D", "E"]]:
    k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()

    def step(state: Any, now: Any) -> Any:
        q_t, k_t, v_t, b_t = now
        error = v_t - (k_t[..., None] * state).sum(-2)
        state = state + k_t[..., None] * (torch.sigmoid(b_t)[..., None] * error)[..., None, :]
        return state, (q_t[..., None] * state).sum(-2)

    state, out = tessera.scan(step, start(q, v), (q, k, v, beta), dim=2)
    return out.movedim(0, 2), state


def gated_delta_rule(q: Queries, k: Queries, v: Values, gate: Rates, beta: Rates) -> Values:
    k = torch.nn.functional.normalize(k, dim=-1)

    def step(state: Any, now: dict[str, Any]) -> Any:
        state = state * torch.exp(-now["gate"].abs())[..., None, None]
        seen = torch.einsum("bhd,bhde->bhe", now["k"], state)
        update = (now["v"] - seen) * torch.sigmoid(now["beta"])[..., None]
        state = state + torch.einsum("bhd,bhe->bhde", now["k"], update)
        return state, torch.einsum("bhd,bhde->bhe", now["q"], state)

    xs = {"q": q, "k": k, "v": v, "gate": gate, "beta": beta}
    return tessera.scan(step, start(q, v), xs, dim=2)[1].permute(1, 2, 0, 3)


def lstm(x: Tensor["S", "B", "I"], w: Tensor["4*K", "I"], u: Tensor["4*K", "K"], b: Tensor["4*K"]) -> Any:
    B, K = x.shape[1], u.shape[1]

    def cell(state: tuple[Any, Any], x_t: Any) -> Any:
        h, c = state
        i, f, g, o = (x_t @ w.T + h @ u.T + b).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h

    (h, c), out = tessera.scan(cell, (torch.zeros(B, K), torch.zeros(B, K)), x)
    return out, h, c


def bidirectional(x: Tensor["B", "S", "D"], w: Tensor["D", "D"]) -> Tensor["B", "S", "2*D"]:
    def cell(h: Any, x_t: Any) -> Any:
        h = torch.tanh(x_t + h @ w)
        return h, h

    first = x[:, 0] * 0.0
    _, there = tessera.scan(cell, first, x, dim=1)
    _, back = tessera.scan(cell, first, x, dim=1, reverse=True)
    return torch.cat([there, back], -1).transpose(0, 1)


def selective_scan(
    x: Tensor["B", "S", "D"], dt: Tensor["B", "S", "D"], a: Tensor["D", "N"], b: Tensor["B", "S", "N"],
    c: Tensor["B", "S", "N"], skip: Tensor["D"],
) -> Tensor["B", "S", "D"]:  # fmt: skip
    def step(h: Any, now: Any) -> Any:
        x_t, dt_t, b_t, c_t = now
        dt_t = torch.nn.functional.softplus(dt_t)
        h = torch.exp(dt_t[..., None] * -a.exp()) * h + (dt_t * x_t)[..., None] * b_t[:, None, :]
        return h, (h * c_t[:, None, :]).sum(-1) + skip * x_t

    B, _, D = x.shape
    _, y = tessera.scan(step, torch.zeros(B, D, a.shape[1]), (x, dt, b, c), dim=1)
    return y.transpose(0, 1)


def cumsum(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    def step(total: Any, x_t: Any) -> Any:
        total = total + x_t
        return total, total

    return tessera.scan(step, x[:, 0] * 0, x, dim=-1)[1].T


def running_average(x: Tensor["S", "D"], rate: float = 0.9) -> tuple[Tensor["D"], Tensor["S", "D"]]:
    def step(mean: Any, x_t: Any) -> Any:
        mean = torch.lerp(x_t, mean, rate)
        return mean, mean

    return tessera.scan(step, x[0], x)


class State(NamedTuple):
    count: Any
    sums: dict[str, Any]


def nested_trees(x: Tensor["S", "D"], y: Tensor["S"]) -> Any:
    def step(state: State, now: list[Any]) -> Any:
        row, (one,) = now
        sums = {"low": state.sums["low"] + one, "high": torch.maximum(state.sums["high"], row)}
        kept = {"row": row * one, "nothing": None, "pair": (state.count, [sums["low"]])}
        return State(state.count + 1, sums), kept

    return tessera.scan(step, State(0, {"low": 0.5, "high": x[0]}), [x, (y,)])


def scan_in_scan(x: Tensor["S", "D"], w: Tensor["D"]) -> tuple[Tensor["S", "D"], Tensor[()]]:
    def outer(total: Any, row: Any) -> Any:
        def inner(carry: Any, pair: Any) -> Any:
            a, b = pair
            carry = carry * 0.5 + a * b + total
            return carry, carry

        last, prefix = tessera.scan(inner, 0.0, (row, w))
        return total + last, prefix * total

    total, rows = tessera.scan(outer, 0.0, x)
    return rows, total


@function
def mixed(h: Tensor["K", f32], x: Tensor["K", f32], w: Tensor["K", "K"]) -> Tensor["K"]:
    return torch.tanh(h @ w + x)


def calls_a_function(x: Tensor["S", "D", f32], w: Tensor["D", "D", f32]) -> Tensor["S", "D"]:
    def step(h: Any, row: Any) -> Any:
        h = mixed(h, row, w)
        return h, h

    return tessera.scan(step, x[0] * 0.0, x)[1]


def writes_inside(x: Tensor["S", "D"], shift: Tensor["D"]) -> Any:
    table = torch.zeros(x.shape[1])
    table += shift
    view = table[1:]
    table[:1] = 3.0

    def step(carry: Any, row: Any) -> Any:
        new = carry.clone()
        new[1:] += row[1:] * view
        new.mul_(0.5)
        return new, new[:1] + table[0]

    return tessera.scan(step, x[0], x, reverse=True)


def no_outputs(x: Tensor["S", "D"], w: Tensor["D"]) -> Tensor["D"]:
    last, nothing = tessera.scan(lambda c, row: (c * w + row, None), w * 0.0, x)
    assert nothing is None
    return last


def no_carry(x: Tensor["S", "D"]) -> Any:
    return tessera.scan(lambda none, row: (none, row.sum()), (), x)


def unchanged(x: Tensor["S", "D"], w: Tensor["D"]) -> Any:
    return tessera.scan(lambda c, row: (c, w), x[0], x)


def sizes_and_views(x: Tensor["B", "S", "2*D"]) -> Any:
    B, S, D = x.shape[0], x.shape[1], x.shape[2] // 2

    def step(carry: Any, row: Any) -> Any:
        left, right = row.split(D, dim=-1)
        return carry + S, left.reshape(B * D) + right.reshape(-1) * carry

    return tessera.scan(step, S, x, dim=1)


def exchanged(x: Tensor["S", "D"]) -> Any:
    def step(pair: Any, row: Any) -> Any:
        a, b = pair
        return (b, a + row), a - b

    return tessera.scan(step, (x[0], x[1]), x)


HEADS = ((2, 3, 7, 4), (2, 3, 7, 4), (2, 3, 7, 5))
RECURRENCES = (
    Recurrence(linear_attention, HEADS),
    Recurrence(gated_linear_attention, (*HEADS, (2, 3, 7, 4))),
    Recurrence(delta_rule, (*HEADS, (2, 3, 7))),
    Recurrence(gated_delta_rule, (*HEADS, (2, 3, 7), (2, 3, 7))),
    Recurrence(lstm, ((6, 2, 3), (20, 3), (20, 5), (20,))),
    Recurrence(bidirectional, ((2, 6, 3), (3, 3))),
    Recurrence(selective_scan, ((2, 6, 3), (2, 6, 3), (3, 4), (2, 6, 4), (2, 6, 4), (3,))),
    Recurrence(cumsum, ((3, 9),)),
    Recurrence(running_average, ((8, 3),)),
    Recurrence(nested_trees, ((5, 3), (5,))),
    Recurrence(scan_in_scan, ((4, 3), (3,))),
    Recurrence(calls_a_function, ((4, 3), (3, 3))),
    Recurrence(writes_inside, ((4, 3), (3,))),
    Recurrence(no_outputs, ((4, 3), (3,))),
    Recurrence(no_carry, ((4, 3),)),
    Recurrence(unchanged, ((4, 3), (3,))),
    Recurrence(sizes_and_views, ((2, 5, 6),)),
    Recurrence(exchanged, ((4, 3),)),
)
