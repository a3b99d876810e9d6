"""Kernels over pieces of memory: any cuts, any alignment, and the same bits with any number of threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera
from tessera import Flat, Tensor


@tessera.function(updates=("p", "m"))
def move(p: Flat["N"], g: Flat["N"], m: Flat["N"], rate: float) -> None:
    m.copy_(0.9 * m + g)
    p -= rate * tessera.tanh(m)


@tessera.function
def totals(x: Flat["N"], y: Flat["N"]) -> tuple[Tensor[()], Tensor[()], Tensor[()]]:
    return tessera.sum(x * y), tessera.amax(x), tessera.argmin(y)


@tessera.function(updates="p")
def centred(p: Flat["N"]) -> None:
    p -= tessera.mean(p)


@tessera.function
def running(x: Flat["N"]) -> Tensor["N"]:
    return tessera.cumsum(x, 0) * 2.0


def cut(whole: torch.Tensor, counts: Sequence[int], offset: int = 0) -> list[torch.Tensor]:
    """Copies of consecutive parts, each ``offset`` elements behind an aligned address."""
    found = []
    for part in whole.split(list(counts)):
        room = torch.empty(part.numel() + offset, dtype=whole.dtype)
        room[offset:] = part
        found.append(room[offset:])
    return found


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=12).filter(lambda c: sum(c) > 1), st.integers(0, 3))
def test_any_cuts_give_what_one_piece_gives(counts: list[int], offset: int) -> None:
    torch.manual_seed(sum(counts))
    p, g, m = (torch.randn(sum(counts)) for _ in range(3))
    pieces = [cut(x, counts, offset) for x in (p, g, m)]
    move(*pieces, 0.1)
    dot, most, least = totals(pieces[0], pieces[1])
    move(p, g, m, 0.1)
    for whole, parts in zip((p, g, m), pieces, strict=True):
        assert torch.equal(whole, torch.cat(parts))
    wanted = totals(p, g)
    torch.testing.assert_close(dot, wanted[0], rtol=1e-6, atol=1e-5)
    assert torch.equal(most, wanted[1]) and torch.equal(least, wanted[2])
    torch.testing.assert_close(running(pieces[0]), torch.cumsum(p, 0) * 2.0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [(1,) * 300, (70_000, 3, 1, 40_000, 16384, 8192, 5), (200_001,)], ids=len)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_the_threads(counts: tuple[int, ...], dtype: torch.dtype, threads: None) -> None:
    torch.manual_seed(0)
    p, g, m = (torch.randn(sum(counts)).to(dtype) for _ in range(3))
    found = []
    for number in (1, 2, 3, 7):
        torch.set_num_threads(number)
        pieces = [cut(x, counts) for x in (p, g, m)]
        move(*pieces, 0.1)
        centred(pieces[1])
        found.append([torch.cat(x) for x in pieces] + list(totals(pieces[0], pieces[2])))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_every_element_is_updated_once() -> None:
    counts = (8191, 1, 8193, 16384, 31, 100_000)

    @tessera.function(updates="p")
    def count(p: Flat["N"]) -> None:
        p += 1.0

    p = [torch.zeros(n) for n in counts]
    for n in range(3):
        count(p)
        assert all(bool((x == n + 1).all()) for x in p)


def test_no_memory_is_taken_for_what_is_updated() -> None:
    pieces = [[torch.ones(300_000), torch.ones(5)] for _ in range(3)]
    move(*pieces, 0.1)
    plan = move.resolve(*pieces, 0.1).variant.plan()
    assert plan.allocs == () and plan.updates == (0, 2)
