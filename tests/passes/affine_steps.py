"""Recurrences whose steps may be taken many at a time, and some that look like it and may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import tessera
from tessera import Tensor
from tests.backends.recurrence_cases import outer, times

B, H, S, D, E = "B", "H", "S", "D", "E"
Keys, Values, State = Tensor[B, H, S, D], Tensor[B, H, S, E], Tensor[B, H, D, E]
Gates = Tensor[B, H, S]
#: Functions by name: those with a form in chunks, and near misses with the reason why they have none.
STEPS: dict[str, Callable[..., Any]] = {}
MISSES: dict[str, tuple[Callable[..., Any], str]] = {}


def step(function: Callable[..., Any]) -> Callable[..., Any]:
    STEPS[function.__name__] = tessera.function(function)
    return function


def miss(reason: str) -> Callable[[Any], Any]:
    def keep(function: Callable[..., Any]) -> Callable[..., Any]:
        MISSES[function.__name__] = tessera.function(function), reason
        return function

    return keep


@step
def retention(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    """One decay for all steps."""

    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        h = 0.9 * h + outer(k, v)
        return h, times(q, h)

    return tessera.scan(one, h0, (q, k, v), dim=2)


@step
def before_and_after(q: Keys, k: Keys, v: Values, g: Gates, h0: State) -> Any:
    """Two reads, one of the carry as the step found it."""

    def one(h: Any, x: Any) -> Any:
        q, k, v, g = x
        new = h * g.sigmoid()[..., None, None] + outer(k, v)
        return new, (times(q, h), torch.einsum("bhd,bhde->bhe", k, new).tanh())

    return tessera.scan(one, h0, (q, k, v, g), dim=2)


@step
def corrected(q: Keys, k: Keys, v: Values, b: Gates, g: Keys, h0: State) -> Any:
    """The delta rule with a decay of each row, and the key made one of length 1 in the step."""

    def one(h: Any, x: Any) -> Any:
        q, k, v, b, g = x
        k = k / torch.sqrt((k * k).sum(-1, keepdim=True) + 1e-6)
        h = h * g.sigmoid()[..., None]
        h = h + outer(k, (v - times(k, h)) * b.sigmoid()[..., None])
        return h, times(q, h)

    return tessera.scan(one, h0, (q, k, v, b, g), dim=2)


@step
def bent(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    """What is written depends on a read in a way that is not linear, and is taken away."""

    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h - outer(k, torch.tanh(times(k, h)) - v.relu())
        return h, times(q, h).square()

    return tessera.scan(one, h0, (q, k, v), dim=2)


@step
def twice(q: Keys, k: Keys, v: Values, w: Values, h0: State) -> Any:
    """Two corrections after one another, of which the second reads what the first has written."""

    def one(h: Any, x: Any) -> Any:
        q, k, v, w = x
        h = h + outer(k, 0.5 * (v - times(k, h)))
        h = h + outer(q, 0.25 * (w - times(q, h)))
        return h, times(k + q, h)

    return tessera.scan(one, h0, (q, k, v, w), dim=2)


@step
def normalised(q: Keys, k: Keys, v: Values, f: Gates, h0: State, n0: Tensor[B, H, D]) -> Any:
    """A matrix and a vector that it is divided by."""

    def one(carry: Any, x: Any) -> Any:
        (h, n), (q, k, v, f) = carry, x
        f = f.sigmoid()
        h = h * f[..., None, None] + outer(k, v)
        n = n * f[..., None] + k
        scale = torch.clamp((q * n).sum(-1).abs(), min=1.0)
        return (h, n), times(q, h) / scale[..., None]

    return tessera.scan(one, (h0, n0), (q, k, v, f), dim=2)


@step
def backwards(q: Keys, k: Keys, v: Values, g: Keys, h0: State) -> Any:
    def one(h: Any, x: Any) -> Any:
        q, k, v, g = x
        h = h * g.sigmoid()[..., None] + outer(k, v)
        return h, times(q, h)

    return tessera.scan(one, h0, (q, k, v, g), dim=2, reverse=True)


@step
def turned(q: Keys, k: Keys, v: Values, h0: Tensor[B, H, E, D]) -> Any:
    """The axes of the carry the other way round, and read through a view."""

    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h * 0.5 + outer(v, k)
        return h, times(q, h.mT)

    return tessera.scan(one, h0, (q, k, v), dim=2)


@step
def forgotten(q: Keys, k: Keys, v: Values, g: Gates, h0: State) -> Any:
    """Factors of 0: nothing may be divided by them."""

    def one(h: Any, x: Any) -> Any:
        q, k, v, g = x
        h = torch.where(g > 0, 1.0, 0.0)[..., None, None] * h + outer(k, v)
        return h, times(q, h)

    return tessera.scan(one, h0, (q, k, v, g), dim=2)


@miss("a factor depends on what is carried")
def own_factor(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h * times(q, h).sum(-1).sigmoid()[..., None, None] + outer(k, v)
        return h, times(q, h)

    return tessera.scan(one, h0, (q, k, v), dim=2)


@miss("`tanh` of what is carried")
def bent_carry(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        h = torch.tanh(h) + outer(k, v)
        return h, times(q, h)

    return tessera.scan(one, h0, (q, k, v), dim=2)


@miss("no outer product")
def full(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h + (outer(k, v)).tanh()
        return h, times(q, h)

    return tessera.scan(one, h0, (q, k, v), dim=2)


@miss("of two values that are carried")
def squared(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h + outer(k, v)
        return h, times(q, h * h)

    return tessera.scan(one, h0, (q, k, v), dim=2)


@miss("becomes something else")
def replaced(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        return outer(k, v), times(q, h)

    return tessera.scan(one, h0, (q, k, v), dim=2)


@miss("kept at every step")
def kept(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h + outer(k, v)
        return h, (times(q, h), h)

    return tessera.scan(one, h0, (q, k, v), dim=2)


@miss("a factor depends on what is carried")
def own_key(q: Keys, k: Keys, v: Values, h0: State) -> Any:
    def one(h: Any, x: Any) -> Any:
        q, k, v = x
        read = times(q, h)
        h = h + outer(k, v)
        return h, torch.einsum("bhd,bhde->bhe", k * read.sum(-1, keepdim=True), h)

    return tessera.scan(one, h0, (q, k, v), dim=2)


def arguments(function: Any, sizes: dict[str, int], seed: int = 0) -> list[torch.Tensor]:
    """Tensors for the parameters of a function."""
    generator = torch.Generator().manual_seed(seed)
    f = function.ir("canonicalize")
    head = f[f.index("(") + 1 :].split(") ->")[0].replace("\n", " ")
    shapes = [part.split("[")[1] for part in head.split("]") if "[" in part]
    dims = [[sizes[c.strip()] for c in shape.split(",")] for shape in shapes]
    return [torch.randn(d, generator=generator) * max(d[-1], 1) ** -0.5 for d in dims]
