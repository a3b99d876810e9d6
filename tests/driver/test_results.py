"""The memory of results: what eager gives new memory has memory of its own, and what is asked to be dense is dense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tessera
from tessera import Tensor

F32 = torch.float32
SAME: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clone": lambda x: x.clone(),
    "torch.clone": lambda x: torch.clone(x),
    "to": lambda x: x.to(F32, copy=True),
    "cat": lambda x: torch.cat([x]),
    "stack": lambda x: torch.stack([x])[0],
    "repeat": lambda x: x.repeat(1, 1),
    "copy_": lambda x: torch.empty_like(x).copy_(x),
    "expand": lambda x: x.expand(2, -1, -1).contiguous(),
    "transposed": lambda x: x.T.contiguous(),
    "detach": lambda x: x.detach().clone(),
    "view of a clone": lambda x: x.clone().view(-1),
    "clone of a view": lambda x: x.view(-1).clone(),
}


@pytest.mark.parametrize("name", SAME)
def test_a_copy_of_an_argument_is_not_the_argument(name: str) -> None:
    make = SAME[name]

    @tessera.function
    def copied(x: Tensor["N", "D"]):  # type: ignore[no-untyped-def]
        return x, make(x)

    x = torch.randn(3, 4)
    for _ in range(3):
        same, new = copied(x)
        assert same.data_ptr() == x.data_ptr()
        kept = new.clone()
        assert torch.equal(kept, make(x))
        x.mul_(2)
        assert torch.equal(new, kept)
        assert new.is_contiguous()
    assert copied.cache_info().eager == 0


def test_a_first_momentum_is_a_copy_of_the_gradient() -> None:
    @tessera.function
    def sgd(p: Tensor["N"], g: Tensor["N"], buf: Tensor["N"] | None = None) -> tuple[Tensor["N"], Tensor["N"]]:
        buf = g.clone() if buf is None else 0.9 * buf + g
        return p - 0.1 * buf, buf

    p, g = torch.randn(8), torch.randn(8)
    want = g.clone()
    _, buf = sgd(p, g)
    g.zero_()
    assert torch.equal(buf, want)


def test_results_share_memory_with_each_other_as_in_eager() -> None:
    @tessera.function
    def several(x: Tensor["N"]):  # type: ignore[no-untyped-def]
        y = x * 2
        return y, y, y.clone(), y.view(-1), y[:], y + 0, y.detach()

    x = torch.randn(5)

    def pattern(results: tuple[torch.Tensor, ...]) -> list[list[bool]]:
        return [[a.data_ptr() == b.data_ptr() for a in results] for b in results]

    assert pattern(several(x)) == pattern(several.eager(x))


@pytest.mark.parametrize("transposed", [False, True])
def test_contiguous_gives_a_dense_block_and_copies_only_where_it_must(transposed: bool) -> None:
    @tessera.function
    def dense(x: Tensor["N", "D"]):  # type: ignore[no-untyped-def]
        y = x * 2
        return x, x.contiguous(), x.T.contiguous(), y.T.contiguous(), x[:, 1:].contiguous(), y.contiguous()

    x = torch.randn(4, 3).T if transposed else torch.randn(3, 4)
    for _ in range(2):
        same, first, *others = dense(x)
        assert same.stride() == x.stride()
        assert (first.data_ptr() == x.data_ptr()) is not transposed
        assert all(t.is_contiguous() for t in (first, *others))
        for got, want in zip((first, *others), dense.eager(x)[1:], strict=True):
            assert torch.equal(got, want)
