"""Random programs of reductions, views and elementwise work at the sizes where loops are cut: chunks, vectors, ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import tessera
from tests.ops.compare import difference

#: Around vectors (4 to 64 lanes), chunks of rows (64), and pieces of maps and sums (8192, 16384).
SIZES = (1, 1, 1, 1, 2, 3, 7, 16, 31, 64, 65, 129, 200, 1000, 8193, 16385, 40000)
MOST = 150_000
UNARY: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (
    torch.tanh, torch.sigmoid, torch.neg, torch.abs, lambda x: x * 0.5, lambda x: x + 1, torch.square, torch.relu,
)  # fmt: skip
BINARY = (torch.add, torch.sub, torch.mul, torch.maximum, lambda x, y: torch.where(x > y, x, y * 0.5))
FOLDS: Sequence[Callable[..., torch.Tensor]] = (
    torch.sum, torch.mean, torch.amax, torch.amin, torch.var, torch.logsumexp,
    lambda x, dim, keepdim: torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim),
)  # fmt: skip
ROWS: Sequence[Callable[[torch.Tensor, int], torch.Tensor]] = (
    torch.softmax, torch.log_softmax, lambda x, dim: x - x.mean(dim, keepdim=True),
    lambda x, dim: x / (1e-3 + x.square().mean(dim, keepdim=True)).sqrt(),
    lambda x, dim: torch.nn.functional.normalize(x, dim=dim),
)  # fmt: skip


def shape_of(rng: random.Random) -> tuple[int, ...]:
    while True:
        shape = tuple(rng.choice(SIZES) for _ in range(rng.choice((1, 2, 2, 3))))
        if math.prod(shape) <= MOST:
            return shape


def step(rng: random.Random, values: list[torch.Tensor]) -> torch.Tensor:
    """One more value from those there are. What is drawn depends on shapes alone."""
    x = rng.choice(values[-3:]) if rng.random() < 0.5 else rng.choice(values)
    kind, dim = rng.random(), rng.randrange(max(x.ndim, 1))
    if x.ndim == 0 or kind < 0.25:
        return rng.choice(UNARY)(x)
    if kind < 0.45:
        fits = [v for v in values if v.shape == x.shape or v.ndim == 0 or v.shape == x.shape[-v.ndim :]]
        return rng.choice(BINARY)(x, rng.choice(fits))
    if kind < 0.70:
        dims = (0,) if rng.random() < 0.4 else tuple(sorted(rng.sample(range(x.ndim), rng.randint(1, x.ndim))))
        fold, keepdim = rng.choice(FOLDS), rng.random() < 0.4
        if fold is torch.var and math.prod(x.shape[d] for d in dims) < 2:
            fold = torch.sum
        return fold(x, dim=dims, keepdim=keepdim)
    if kind < 0.80:
        return rng.choice(ROWS)(x, dim)
    if kind < 0.85:
        return x.transpose(dim, rng.randrange(x.ndim))
    if kind < 0.90:
        return x.narrow(dim, x.shape[dim] // 3, x.shape[dim] - x.shape[dim] // 3)
    if kind < 0.94:
        return x.flatten() if rng.random() < 0.5 else x.unsqueeze(dim)
    return torch.cat([x, x * 2.0], dim) if x.numel() <= MOST else x.flip(dim)


def program(seed: int) -> tuple[Callable[..., tuple[torch.Tensor, ...]], list[torch.Tensor]]:
    """A random function and its arguments."""
    rng = random.Random(seed)
    shape = shape_of(rng)
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape, shape, shape[rng.randrange(len(shape)) :]]
    given = [torch.randn(s, generator=generator) for s in shapes]
    length, state = rng.randint(3, 9), rng.getstate()

    def body(*args):  # type: ignore[no-untyped-def]
        again = random.Random()
        again.setstate(state)
        values: list[Any] = list(args)
        for _ in range(length):
            values.append(step(again, values))
        return tuple(values[-3:])

    return body, given


def check(seed: int) -> str | None:
    """What is wrong with the compiled program, or None."""
    body, given = program(seed)
    got = tessera.function(strict=True)(body)(*given)
    eager, exact = body(*given), body(*(x.double() for x in given))
    for n, (g, e, x) in enumerate(zip(got, eager, exact, strict=True)):
        found = difference(g, e, x)
        if found is not None and (g - x).norm() > 1e-5 * x.norm():
            return f"seed {seed}, result {n} of shapes {[tuple(t.shape) for t in given]}: {found}"
    return None


@pytest.mark.parametrize("group", range(8))
def test_random_programs_agree_with_eager_at_any_size(group: int) -> None:
    found = [check(seed) for seed in range(8 * group, 8 * group + 8)]
    assert not any(found), "\n".join(filter(None, found))
