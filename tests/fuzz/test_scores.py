"""Random programs around a contraction against eager torch, in f64 where every digit counts and in f32."""

from __future__ import annotations

import pytest
import torch

import tessera
from tests.fuzz.scores import program

#: How far a result may be from eager, relative to its largest element.
BOUNDS = {torch.float64: 1e-9, torch.float32: 2e-4}


def check(seed: int, dtype: torch.dtype) -> str | None:
    """What is wrong with the compiled program, or None."""
    body, given = program(seed, dtype)
    got, want = tessera.function(strict=True)(body)(*given), body(*given)
    for n, (a, b) in enumerate(zip(got, want, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"result {n}: {a.dtype} {tuple(a.shape)}, not {b.dtype} {tuple(b.shape)}"
        if not b.is_floating_point():
            if dtype is torch.float64 and not torch.equal(a, b):
                return f"result {n}: {int((a != b).sum())} of {a.numel()} differ"
            continue
        finite = b[b.isfinite()].abs()
        size = max(1.0, float(finite.max())) if finite.numel() else 1.0
        if not torch.allclose(a, b, rtol=BOUNDS[dtype], atol=BOUNDS[dtype] * size, equal_nan=True):
            where = ~torch.isclose(a, b, rtol=BOUNDS[dtype], atol=BOUNDS[dtype] * size, equal_nan=True)
            at = tuple(where.nonzero()[0].tolist())
            return f"result {n}: {float(a[at])}, not {float(b[at])}, at {at}; {int(where.sum())} of {a.numel()}"
    return None


@pytest.mark.parametrize("seed", range(12))
def test_programs_in_double(seed: int) -> None:
    assert check(seed, torch.float64) is None


@pytest.mark.parametrize("seed", range(100, 104))
def test_programs_in_single(seed: int) -> None:
    assert check(seed, torch.float32) is None


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1000, 2500))
def test_many_programs(seed: int) -> None:
    assert check(seed, torch.float64) is None
