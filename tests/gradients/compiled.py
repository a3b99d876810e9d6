"""Gradients of a compiled function beside those of the same code run by torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

import tessera
from tessera.driver.gradient import Gradient
from tests.ops.compare import difference

Tensors = list[torch.Tensor]


def leaves(x: Any) -> Tensors:
    """The tensors among results that have a gradient."""
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, tuple | list):
        return [y for part in x for y in leaves(part)]
    return [x] if isinstance(x, torch.Tensor) and x.requires_grad else []


def asking(args: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """The arguments with their floats in a dtype, as leaves that ask for gradients."""
    return [x.detach().to(dtype).requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for x in args]  # fmt: skip


def gradients(call: Callable[..., Any], args: Sequence[Any], seed: int = 3) -> Tensors:
    """What random cotangents of all results give the arguments; zeros where nothing comes."""
    wrt = [x for x in args if isinstance(x, torch.Tensor) and x.requires_grad]
    results = leaves(call(*args))
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in results]
    back = [g.to(torch.float32).to(y.dtype) for g, y in zip(drawn, results, strict=True)]
    found = torch.autograd.grad(results, wrt, back, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(wrt, found, strict=True)]


def check(function: Any, args: Sequence[Any], eager: Callable[..., Any] | None = None, ratio: float = 1.05) -> None:
    """Equal to torch's in float64; in float32 no further from float64 than ``ratio`` times eager."""
    eager = eager or function.eager
    narrow = asking(args, torch.float32)
    wide = asking(narrow, torch.float64)
    with warnings.catch_warnings(), tessera.backend("c"):
        warnings.simplefilter("ignore", DeprecationWarning)
        exact = gradients(eager, wide)
        for got, want in zip(gradients(function, wide), exact, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9, equal_nan=True)
        kept = gradients(eager, narrow)
        for n, (got, theirs, want) in enumerate(zip(gradients(function, narrow), kept, exact, strict=True)):
            text = difference(got, theirs, want, ratio)
            assert text is None, f"gradient {n}: {text}"
    assert not function.cache_info().eager


def derived(function: Any) -> list[Gradient]:
    """The derivatives that a function has compiled."""
    return [g for v in function.compiled.all() for g in v.gradients.values()]


def forms(program: Any) -> list[str]:
    """The forms of a program's kernels, in order."""
    return [k.form for k in program.kernels]
