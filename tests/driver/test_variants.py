"""What `variants()` lists is what calls of a function differ by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor, f32
from tessera.diag import TraceError


def classes(f: Any) -> list[str]:
    return [str(c) for c in f.variants()]


def test_declared_tensors_differ_by_dtype_and_layout() -> None:
    @tessera.function
    def scaled(x: Tensor["B", "D"], w: Tensor["D", f32], eps: float = 1e-6) -> Tensor["B", "D"]:
        return x * w + eps

    assert classes(scaled) == ["device of the tensors", "dtype of x", "x dense or strided", "w dense or strided"]
    x, w = torch.randn(4, 6), torch.randn(6)
    scaled(x, w)
    scaled(x[:2], w, 0.5)
    assert scaled.cache_info().variants == 1
    scaled(x.double(), w)
    scaled(torch.randn(6, 4).T, w)
    assert scaled.cache_info().variants == 3
    assert str(scaled.variants()).splitlines()[0] == "4 classes, 3 compiled"


def test_open_ranks_differ_by_rank_and_sizes_of_1() -> None:
    @tessera.function
    def doubled(x: Tensor) -> Tensor:
        return x + x

    assert {"rank of x", "which sizes of x are 1"} <= set(classes(doubled))
    for shape in ((2, 3), (4, 5), (1, 3), (2,)):
        doubled(torch.randn(shape))
    assert doubled.cache_info().variants == 3


def test_other_arguments() -> None:
    @tessera.function
    def chosen(x: Tensor["N"], y: Tensor["N"] | None = None, flip: bool = False) -> Tensor["N"]:
        z = x if y is None else x + y
        return -z if flip else z

    assert {"y given or None", "value of flip"} <= set(classes(chosen))
    x = torch.randn(5)
    chosen(x)
    chosen(x, x)
    chosen(x, x, True)
    assert chosen.cache_info().variants == 3


def test_structures_and_questions_about_sizes() -> None:
    @tessera.function
    def total(parts: list[Tensor["N"]]) -> Tensor["N"]:
        s = parts[0]
        for p in parts[1:]:
            s = s + p
        return s if s.shape[0] > 8 else 2 * s

    x = torch.randn(5)
    assert {"structure of parts", "dtype, rank and layout of the tensors in parts"} <= set(classes(total))
    total([x, x])
    total([x, x, x])
    assert total.cache_info().variants == 2
    big = torch.randn(20)
    total([big, big])
    assert total.cache_info().variants == 3


def test_what_is_only_shown_is_not_compiled() -> None:
    @tessera.function(strict=True)
    def scaled(x, w):
        return torch.tanh(x * w).sum(-1)

    x, w = torch.randn(3, 4, requires_grad=True), torch.randn(4)
    shows: tuple[Callable[..., object], ...] = (
        *(lambda *a, s=stage: scaled.ir(s, *a) for stage in ("traced", "fused", "tile", "autodiff", "backward")),
        scaled.cost, scaled.lower, scaled.explain,
    )  # fmt: skip
    before = [str(show(x, w)) for show in shows]
    info = scaled.cache_info()
    assert (info.variants, info.compiles, info.from_cache) == (1, 0, 0) and scaled.variants().compiled == 0
    scaled(x, w)
    assert scaled.cache_info().variants == 1 and scaled.variants().compiled == 1
    assert [str(show(x, w)) for show in shows] == before


def test_a_refusal_holds_for_the_arguments_that_ask_for_gradients() -> None:
    @tessera.function(strict=True)
    def stepped(x, w):
        return torch.nextafter(x, x) * w

    x, w = torch.randn(3), torch.randn(3)
    for _ in range(2):
        stepped(x, w)
        with pytest.raises(TraceError, match="has no derivative"):
            stepped(x.clone().requires_grad_(), w)
        assert torch.equal(torch.autograd.grad(stepped(x, v := w.clone().requires_grad_()).sum(), v)[0], x)
