"""Programs rewritten in ways that change nothing: the compiled results are the same numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import tessera

UNARY = ("tanh", "sin", "sigmoid", "abs", "neg", "square")
BINARY = ("add", "sub", "mul", "maximum", "minimum")
Rewrite = Callable[[torch.Tensor], torch.Tensor]


def dead(x: torch.Tensor) -> torch.Tensor:
    _ = (x.exp() + 3.0).sum(0)
    return x


REWRITES: Mapping[str, Rewrite] = {
    "as written": lambda x: x,
    "dead operations": dead,
    "times one": lambda x: x * 1.0,
    "transposed twice": lambda x: x.transpose(0, 1).transpose(0, 1),
    "split and joined": lambda x: torch.cat([x[:, :3], x[:, 3:]], 1),
    "flipped twice": lambda x: x.flip(1).flip(1),
    "reshaped and back": lambda x: x.reshape(-1).reshape(x.shape),
}


def program(seed: int, rewrite: Rewrite, backwards: bool = False) -> Callable[..., Any]:
    """A random graph over two inputs; ``backwards`` writes independent operations in the other order."""
    rng = random.Random(seed)
    steps = [(rng.choice(UNARY), rng.choice(BINARY), rng.random(), rng.random()) for _ in range(8)]

    def body(a, b):  # type: ignore[no-untyped-def]
        values = [a, b]
        for unary, binary, p, q in steps:
            x, y = values[int(p * len(values))], values[int(q * len(values))]
            parts = {"x": lambda x=x, u=unary: getattr(torch, u)(rewrite(x)), "y": lambda y=y: rewrite(y) * 0.5}
            made = {k: parts[k]() for k in (reversed(parts) if backwards else parts)}
            values.append(getattr(torch, binary)(made["x"], made["y"]))
        return values[-1], values[-2].sum(1), values[-3].amax(0)

    return body


@pytest.mark.parametrize("seed", range(2))
def test_rewriting_changes_no_bit(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(5, 19, generator=generator), torch.randn(5, 19, generator=generator)
    plain = tessera.function(strict=True)(program(seed, REWRITES["as written"]))(*given)
    exact = program(seed, REWRITES["as written"])(*(x.double() for x in given))
    for p, e in zip(plain, exact, strict=True):
        torch.testing.assert_close(p.double(), e, rtol=1e-5, atol=1e-5)
    forms = [(name, program(seed, r)) for name, r in REWRITES.items()]
    forms.append(("written in another order", program(seed, REWRITES["as written"], backwards=True)))
    for name, body in forms[1:]:
        found = tessera.function(strict=True)(body)(*given)
        for n, (f, p) in enumerate(zip(found, plain, strict=True)):
            # A rewrite may move a kernel's edges, and with them the order of a sum; elementwise values keep every bit.
            same = torch.allclose(f, p, rtol=1e-6, atol=1e-6) if n == 1 else torch.equal(f, p)
            assert same, f"{name}: result {n} differs by {float((f - p).abs().max())}"
