"""Random programs of 5 to 30 steps, forward and backward, compiled against torch in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tests.gradients.compiled import asking, derived, gradients

N, D = 6, 5
INDEX = torch.tensor([4, 0, 0, 2, 1])
#: Every one takes matrices [N, D] to one of that size, and keeps numbers small.
UNARY: dict[str, Callable[[Any], Any]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "bell": lambda x: torch.exp(-x * x),
    "softmax": lambda x: torch.softmax(x, -1),
    "columns": lambda x: torch.log_softmax(x, 0),
    "norm": lambda x: F.layer_norm(x, (D,)),
    "rms": lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3),
    "centred": lambda x: x - x.mean(0, keepdim=True),
    "share": lambda x: x / (1 + x.square().sum(-1, keepdim=True)),
    "lse": lambda x: x - x.logsumexp(-1, keepdim=True),
    "top": lambda x: x - x.amax(-1, keepdim=True),
    "best": lambda x: x * torch.tanh(x.max(0, keepdim=True).values),
    "running": lambda x: torch.cumsum(x, 0) / N,
    "turned": lambda x: x.mT.reshape(N, D),
    "flipped": lambda x: x.flip(0),
    "cut": lambda x: torch.cat((x[2:], x[:2] * 2), 0),
    "picked": lambda x: x[:, INDEX],
    "gathered": lambda x: torch.gather(x, 1, INDEX.expand(N, D)),
    "positive": lambda x: torch.where(x > 0, x, 0.1 * x),
    "held": lambda x: x * torch.sigmoid(x.detach()),
    "clamped": lambda x: x.clamp(-1.5, 1.5),
    "padded": lambda x: F.pad(x, (1, 0))[:, :D],
    "lower": lambda x: torch.tril(x) + 0.5 * x,
    "std": lambda x: x / (x.std(-1, keepdim=True) + 1),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - 0.5 * y,
    "mul": lambda x, y: torch.tanh(x) * y,
    "div": lambda x, y: x / (1 + y * y),
    "maximum": torch.maximum,
    "where": lambda x, y: torch.where(x < y, x * 2, y),
    "product": lambda x, y: (x @ y.mT) @ y / (N * D),
    "attention": lambda x, y: torch.softmax(x @ y.mT, -1) @ y,
    "rows": lambda x, y: x * y.sum(-1, keepdim=True) / D,
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
}


def program(seed: int) -> tuple[Callable[..., Any], list[str]]:
    """A function of two matrices and a weight, and the names of its steps."""
    rng = random.Random(seed)
    steps: list[tuple[str, int, int]] = []
    for made in range(3, 3 + rng.randint(5, 30)):
        name = rng.choice([*UNARY, *BINARY])
        recent = max(0, made - 4)
        steps.append((name, rng.randrange(recent, made), rng.randrange(made)))

    def run(a, b, w):
        values = [a, b, a @ w]
        for name, x, y in steps:
            values.append(UNARY[name](values[x]) if name in UNARY else BINARY[name](values[x], values[y]))
        return values[-1], values[-2].sum(), values[-3].mean(0)

    return run, [name for name, _, _ in steps]


def compare(seeds: Sequence[int]) -> None:
    for seed in seeds:
        plain, names = program(seed)
        function = tessera.function(plain, strict=True)
        generator = torch.Generator().manual_seed(seed)
        args = asking([torch.randn(s, generator=generator) for s in ((N, D), (N, D), (D, D))], torch.float64)
        with tessera.backend("c"):
            found = gradients(function, args)
        for n, (got, want) in enumerate(zip(found, gradients(plain, args), strict=True)):
            message = f"seed {seed}, gradient {n}, off by {float((got - want).abs().max()):.2g}: {names}"
            assert torch.allclose(got, want, rtol=1e-8, atol=1e-9), message
        for one in derived(function):
            for f in (one.joint.function, one.parts.forward, one.parts.backward):
                verify(f, level="full")
                assert parse(print_function(f)) == f


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_programs(seed: int) -> None:
    compare([seed])


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("group", range(10))
def test_many_random_programs(group: int) -> None:
    compare(range(100 + 20 * group, 120 + 20 * group))
