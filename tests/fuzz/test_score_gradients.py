"""Gradients of random programs around a contraction, compiled, against torch's in f64."""

from __future__ import annotations

import pytest
import torch

import tessera
from tests.fuzz.scores import program
from tests.gradients.compiled import gradients, leaves

#: How far an element may be from torch's, relative to it and to the largest of its gradient; some programs divide by
#: small differences.
BOUND = 1e-7


def given(x: torch.Tensor) -> torch.Tensor:
    """An argument as it lies, asking for gradients; what is repeated in memory is copied."""
    if not x.is_floating_point():
        return x
    laid = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x) if all(x.stride()) else x.clone()
    return laid.requires_grad_()


def check(seed: int) -> str | None:
    """What is wrong with the gradients of the compiled program, or None."""
    body, drawn = program(seed, torch.float64)
    args = [given(x) for x in drawn]
    results = body(*args)
    if not leaves(results):
        return None
    dead = any(bool(y.isnan().any()) for y in results if y.is_floating_point())
    function = tessera.function(strict=True)(body)
    with tessera.backend("c"):
        pairs = list(zip(gradients(function, args), gradients(body, args), strict=True))
    for n, (got, want) in enumerate(pairs):
        # A masked point of a row without any other gives nothing to sums; torch's weights are NaN there.
        want = torch.where(want.isnan() & ~got.isnan(), got, want) if dead else want
        finite = want[want.isfinite()].abs()
        size = max(1.0, float(finite.max())) if finite.numel() else 1.0
        same = torch.isclose(got, want, rtol=BOUND, atol=BOUND * size, equal_nan=True)
        if not bool(same.all()):
            at = tuple((~same).nonzero()[0].tolist())
            return f"gradient {n}: {float(got[at])}, not {float(want[at])}, at {at}; {int((~same).sum())} of them"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("seed", [40, pytest.param(62, marks=pytest.mark.nightly)])
def test_programs(seed: int) -> None:
    """An equality with the largest score, which another kernel computes again, and a condition on scores."""
    assert check(seed) is None


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("group", range(30))
def test_many_programs(group: int) -> None:
    found = {seed: text for seed in range(50 * group, 50 * group + 50) if (text := check(seed))}
    assert not found
