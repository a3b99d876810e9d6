"""Recurrences as people write them: state space models, gated and corrected attention, recurrent networks, filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor

#: Programs by name, and the shapes of their arguments.
PROGRAMS: dict[str, tuple[Any, tuple[str, ...]]] = {}
SIZES = {"B": 2, "H": 2, "S": 13, "D": 9, "E": 21, "C": 19, "N": 6}


def program(*shapes: str) -> Callable[[Any], Any]:
    def keep(function: Any) -> Any:
        PROGRAMS[function.__name__] = (function, shapes)
        return function

    return keep


def arguments(name: str, sizes: dict[str, int] = SIZES, seed: int = 0) -> list[torch.Tensor]:
    """Tensors of the shapes: letters are sizes, `M` is four times `N`. ``i`` marks integers."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape in PROGRAMS[name][1]:
        letters = shape.removeprefix("i")
        dims = [4 * sizes["N"] if c == "M" else int(c) if c.isdigit() else sizes[c] for c in letters]
        if shape.startswith("i"):
            made.append(torch.randint(0, 2, dims, generator=generator))
        else:
            made.append(torch.randn(dims, generator=generator) * max(dims[-1], 1) ** -0.5)
    return made


@program("BHSD", "BHSD", "BHSE")
def linear(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "E"]) -> Any:
    def step(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h + k[..., :, None] * v[..., None, :]
        return h, torch.einsum("bhd,bhde->bhe", q, h)

    h = torch.zeros((*q.shape[:2], q.shape[3], v.shape[3]), dtype=q.dtype)
    return tessera.scan(step, h, (q, k, v), dim=2)[1].movedim(0, 2)


@program("BHSD", "BHSD", "BHSE", "BHSD")
def gated(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "E"],
    g: Tensor["B", "H", "S", "D"],
) -> Any:  # fmt: skip
    def step(h: Any, x: Any) -> Any:
        h = h * x["g"].exp()[..., None] + x["k"][..., :, None] * x["v"][..., None, :]
        return h, (x["q"][..., None] * h).sum(-2)

    h = torch.zeros((*q.shape[:2], q.shape[3], v.shape[3]), dtype=q.dtype)
    return tessera.scan(step, h, {"q": q, "k": k, "v": v, "g": F.logsigmoid(g)}, dim=2)


@program("BHSD", "BHSD", "BHSE", "BHS", "BHS")
def gated_delta(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "E"],
    beta: Tensor["B", "H", "S"], g: Tensor["B", "H", "S"],
) -> Any:  # fmt: skip
    def step(h: Any, x: Any) -> Any:
        q, k, v, b, g = x
        h = h * g.exp()[..., None, None]
        u = b.sigmoid()[..., None] * (v - (k[..., None, :] @ h)[..., 0, :])
        h = h + k[..., :, None] * u[..., None, :]
        return h, (q[..., None, :] @ h)[..., 0, :]

    h = torch.zeros((*q.shape[:2], q.shape[3], v.shape[3]), dtype=q.dtype)
    return tessera.scan(step, h, (q, k, v, beta, -g.abs()), dim=2)


@program("BSC", "BSC", "CN", "BSN", "BSN")
def selective(
    x: Tensor["B", "S", "C"], dt: Tensor["B", "S", "C"], a: Tensor["C", "N"], b: Tensor["B", "S", "N"],
    c: Tensor["B", "S", "N"],
) -> Any:  # fmt: skip
    def step(h: Any, z: Any) -> Any:
        x, dt, b, c = z
        h = torch.exp(-dt[..., None] * a.exp()) * h + (dt * x)[..., None] * b[:, None, :]
        return h, (h * c[:, None, :]).sum(-1)

    h = torch.zeros((x.shape[0], x.shape[2], a.shape[1]), dtype=x.dtype)
    return tessera.scan(step, h, (x, F.softplus(dt), b, c), dim=1)


@program("BHSD", "BHSD", "BHSE", "BHS", "BHS")
def normalised(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "E"],
    i: Tensor["B", "H", "S"], f: Tensor["B", "H", "S"],
) -> Any:  # fmt: skip
    """A matrix, a vector and a number are carried."""

    def step(carry: Any, x: Any) -> Any:
        c, n, m = carry
        q, k, v, i, f = x
        top = torch.maximum(f + m, i)
        keep, add = torch.exp(f + m - top), torch.exp(i - top)
        c = keep[..., None, None] * c + add[..., None, None] * k[..., :, None] * v[..., None, :]
        n = keep[..., None] * n + add[..., None] * k
        scale = torch.maximum((q * n).sum(-1).abs(), torch.exp(-top))
        return (c, n, top), (q[..., None] * c).sum(-2) / scale[..., None]

    lead, d, e = q.shape[:2], q.shape[3], v.shape[3]
    c, n = torch.zeros((*lead, d, e), dtype=q.dtype), torch.zeros((*lead, d), dtype=q.dtype)
    m = torch.full(lead, -1e30, dtype=q.dtype)
    return tessera.scan(step, (c, n, m), (q, k, v, i, F.logsigmoid(f)), dim=2)


@program("BSM", "NM")
def lstm(x: Tensor["B", "S", "4*N"], u: Tensor["N", "4*N"]) -> Any:
    def step(carry: Any, x: Any) -> Any:
        h, c = carry
        i, f, g, o = (x + h @ u).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (h, c), h

    zero = torch.zeros((x.shape[0], u.shape[0]), dtype=x.dtype)
    return tessera.scan(step, (zero, zero), x, dim=1)


@program("BSN", "NN", "N")
def elman(x: Tensor["B", "S", "N"], u: Tensor["N", "N"], b: Tensor["N"]) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = torch.tanh(x + h @ u + b)
        return h, h

    return tessera.scan(step, torch.zeros((x.shape[0], u.shape[0]), dtype=x.dtype), x, dim=1)


@program("BSC", "C")
def average(x: Tensor["B", "S", "C"], a: Tensor["C"]) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = a.sigmoid() * h + (1 - a.sigmoid()) * x
        return h, h

    return tessera.scan(step, torch.zeros((x.shape[0], x.shape[2]), dtype=x.dtype), x, dim=1)


@program("SC")
def backwards(x: Tensor["S", "C"]) -> Any:
    def step(h: Any, x: Any) -> Any:
        return torch.maximum(h, x) * 0.9, h + 1

    return tessera.scan(step, torch.zeros(x.shape[1], dtype=x.dtype), x, reverse=True)


@program("BSC")
def covariance(x: Tensor["B", "S", "C"]) -> Any:
    """The matrix before the step is read after the one of the step is known."""

    def step(p: Any, x: Any) -> Any:
        new = 0.9 * p + 0.1 * x[:, :, None] * x[:, None, :]
        return new, (p @ x[:, :, None])[:, :, 0]

    return tessera.scan(step, torch.zeros((x.shape[0], x.shape[2], x.shape[2]), dtype=x.dtype), x, dim=1)


@program("BSC", "4C")
def window(x: Tensor["B", "S", "C"], w: Tensor[4, "C"]) -> Any:
    """A short convolution: the carry moves on by one place."""

    def step(s: Any, x: Any) -> Any:
        s = torch.cat([s[:, 1:], x[:, None]], 1)
        return s, (s * w).sum(1)

    return tessera.scan(step, torch.zeros((x.shape[0], 4, x.shape[2]), dtype=x.dtype), x, dim=1)


@program("S")
def alone(x: Tensor["S"]) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = torch.where(x > 0, h + x, h * 0.5)
        return h, h * 2

    return tessera.scan(step, torch.zeros((), dtype=x.dtype), x)


@program("BSN", "NN")
def best_path(e: Tensor["B", "S", "N"], t: Tensor["N", "N"]) -> Any:
    def step(a: Any, e: Any) -> Any:
        m, i = (a[:, :, None] + t).max(1)
        return m + e, (m + e, i)

    return tessera.scan(step, torch.zeros((e.shape[0], e.shape[2]), dtype=e.dtype), e, dim=1)


@program("BSC")
def counted(x: Tensor["B", "S", "C"]) -> Any:
    def step(carry: Any, x: Any) -> Any:
        n, s = carry[0] + 1, carry[1] + x.sum(-1)
        return (n, s), s / n

    first = torch.zeros((), dtype=torch.int64), torch.zeros(x.shape[0], dtype=x.dtype)
    return tessera.scan(step, first, x, dim=1)


@program("BSC", "iBS")
def segments(x: Tensor["B", "S", "C"], d: Tensor["B", "S", tessera.int64]) -> Any:
    """A number that is carried decides whether the sum begins anew."""

    def step(carry: Any, z: Any) -> Any:
        h, last = carry
        x, d = z
        h = torch.where((d == last)[:, None], h, torch.zeros_like(h)) + x
        return (h, d), h

    first = torch.zeros((x.shape[0], x.shape[2]), dtype=x.dtype), torch.zeros(x.shape[0], dtype=torch.int64)
    return tessera.scan(step, first, (x, d), dim=1)


@program("BSC", "BSC")
def switched(x: Tensor["B", "S", "C"], y: Tensor["B", "S", "C"]) -> Any:
    """A bool is carried, and two values change places."""

    def step(carry: Any, z: Any) -> Any:
        on, a, b = carry
        x, y = z
        on = (x > y) ^ on
        return (on, b + x, a * 0.5), (torch.where(on, a, b), on)

    zero = torch.zeros((x.shape[0], x.shape[2]), dtype=x.dtype)
    return tessera.scan(step, (zero > 0, zero, zero + 1), (x, y), dim=1)
