"""Kernels without a form on whole tensors inside of compiled functions: opaque steps with known shapes."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tessera
from tessera import ShapeError, Tensor, TesseraWarning, Tile, TraceError, tile
from tests.kernels.given import f
from tests.kernels.test_language import per_head


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@tessera.kernel
def added_up(x: Tile["N", "D"], w: Tile["D"] | None, y: Tile["N", "D"], total: Tile["D"], scale: float = 1.0):
    ctx = tile.context()
    acc = tile.zeros(ctx.D)
    for i in tile.range(ctx.N):
        row = tile.load(x[i]) * scale
        if w is not None:
            row = row * tile.load(w)
        acc = acc + row
        tile.store(y[i], acc)
    tile.store(total, acc)


@tessera.kernel
def running(x: Tile["N", "D"], y: Tile["N", "D"], last: Tile["D"] | None = None):
    ctx = tile.context()
    acc = tile.zeros(ctx.D)
    for i in tile.range(ctx.N):
        acc = acc + tile.load(x[i])
        tile.store(y[i], acc)
    if last is not None:
        tile.store(last, acc)


def test_a_step_has_optional_results_where_they_are_asked_for() -> None:
    @tessera.function
    def one(x: Tensor["N", "D"]) -> Tensor["N", "D"]:
        return running(x) * 2

    @tessera.function
    def both(x: Tensor["N", "D"]) -> tuple[Tensor["N", "D"], Tensor["D"]]:
        y, last = running(x, last=True)
        return y * 2, last

    x = f(5, 3)
    torch.testing.assert_close(one(x), x.cumsum(0) * 2)
    torch.testing.assert_close(both(x), (x.cumsum(0) * 2, x.sum(0)))
    assert one.cache_info().eager == both.cache_info().eager == 0


def test_a_step_keeps_its_kernel() -> None:
    """Also one that was made in the function, and whose name a function of torch has, too."""

    @tessera.kernel
    def relu(x: Tile["N", "D"], y: Tile["N", "D"]):
        acc = tile.zeros(tile.context().D)
        for i in tile.range(tile.context().N):
            acc = acc + tile.load(x[i])
            tile.store(y[i], acc)

    @tessera.function
    def applied(x: Tensor["N", "D"]) -> Tensor["N", "D"]:
        return relu.configure(block_m=16)(x) + 0

    x = -f(5, 3).abs()
    first = applied(x)
    gc.collect()
    assert torch.equal(applied(x), first)
    torch.testing.assert_close(first, x.cumsum(0))


def exact(x: Any, w: Any, scale: float) -> torch.Tensor:
    return torch.cumsum(x * scale * (1 if w is None else w), -2)


@tessera.function
def squashed(x: Tensor["B", "S", "D"], w: Tensor["D"], scale: float) -> Tensor["B", "S", "D"]:
    y, total = added_up(x - 1, w, scale=scale)
    return torch.tanh(y) + total.unsqueeze(1)


def expected(x: Any, w: Any, scale: float) -> torch.Tensor:
    y = exact(x - 1, w, scale)
    return torch.tanh(y) + y[:, -1:]


def test_a_kernel_is_a_step() -> None:
    assert squashed.check().ok
    for shape in ((2, 5, 3), (1, 4, 6), (2, 5, 3)):
        x, w = f(*shape), f(shape[-1])
        torch.testing.assert_close(squashed(x, w, 2.0), expected(x, w, 2.0))
    info = squashed.cache_info()
    assert info.eager == 0 and info.hits >= 1
    text = squashed.ir("fused", x, w, 2.0)
    assert text.count("library_call(") == 1 and "f32[B, D]" in text
    assert tessera.parse(text).name == "squashed"
    found = torch.compile(lambda x: squashed(x, w, 2.0) * 2, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(found, 2 * expected(x, w, 2.0))


def test_dims_unify_with_those_around() -> None:
    with pytest.raises(ShapeError, match="`w` of added_up has `D` in dim 0, the argument has `K`") as caught:

        @tessera.function
        def wrong(x: Tensor["S", "D"], w: Tensor["K"]) -> Tensor["S", "D"]:
            return added_up(x, w)[0]

    assert caught.value.code == "TSR0211"
    with pytest.raises(ShapeError):

        @tessera.function
        def turned(x: Tensor["S", "D"]) -> Tensor["D", "S"]:
            return added_up(x, None)[0]


@tessera.function
def heads(x: Tensor["S", "H", "D"]) -> Tensor["H", "D"]:
    return per_head(x) * 2


def test_a_kernel_that_is_read_for_each_size_is_one_too() -> None:
    for count in (1, 3):
        x = f(4, count, 5)
        torch.testing.assert_close(heads(x), 2 * x.sum(0))
    assert heads.cache_info().eager == 0 and len(heads.compiled.all()) == 1


@tessera.kernel
def repeated(x: Tile["D"], count: int, y: Tile["count", "D"], times: int = 1):
    ctx = tile.context()
    row = tile.load(x)
    for i in tile.range(ctx.count):
        tile.store(y[i], row)
        row = row * times


@tessera.function(updates="out")
def repeats(x: Tensor["D"], n: int, out: Tensor["M", "D"]) -> Tensor["n", "D"]:
    repeated(x, out.shape[0], out)
    return repeated(x + 0, n, times=2)


def test_ints_are_sizes_and_outputs_may_be_given() -> None:
    x = f(3)
    for n in (2, 4):
        out = torch.empty(n + 1, 3)
        wanted = torch.stack([x * 2**k for k in range(n)])
        torch.testing.assert_close(repeats(x, n, out), wanted)
        assert torch.equal(out, x.expand(n + 1, 3))
    assert repeats.cache_info().eager == 0


@tessera.kernel
def twice_in_order(x: Tile["N"], y: Tile["N"]):
    for i in tile.range(tile.context().N):
        y[i] = tile.load(x[i]) * 2


@tessera.function
def doubled(x: Tensor["N"]) -> Tensor["N"]:
    return twice_in_order(x + 1) * 3


def test_it_has_the_derivative_that_the_kernel_was_given() -> None:
    x = f(4).requires_grad_()
    with pytest.raises(TraceError, match="`twice_in_order` has no derivative") as caught:
        doubled(x).sum().backward()
    assert caught.value.code == "TSR0413"
    twice_in_order.defvjp(lambda x: (twice_in_order(x), None), lambda kept, g: (g * 2,))
    for _ in range(2):
        (g,) = torch.autograd.grad(doubled(x).sum(), x)
        assert g.tolist() == [6.0] * 4
    assert doubled.cache_info().eager == 0


class Counted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(f(3))

    @tessera.kernel
    def rows(self, x: Tile["N", "D"], y: Tile["N", "D"]):
        for i in tile.range(tile.context().N):
            tile.store(y[i], tile.load(x[i]) * tile.load(self.weight))

    @tessera.function
    def forward(self, x: Tensor["N", "D"]) -> Tensor["N", "D"]:
        return self.rows(x) + 1


def test_a_kernel_of_an_object_is_one_too() -> None:
    m, x = Counted(), f(2, 3)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(m.forward(x), x * m.weight + 1)
            m.weight.mul_(2)
    assert m.forward.cache_info().eager == 0


@tessera.kernel
def counted(x: Tile["N"], y: Tile["N"]):
    for i in tile.range(tile.context().N):
        y[i] = tile.load(y[i]) + tile.load(x[i])


@tessera.function(updates="y")
def counts(x: Tensor["N"], y: Tensor["N"]) -> Tensor["N"]:
    counted(x, y)
    return y * 2


def test_one_that_reads_what_it_writes_makes_the_function_run_eagerly() -> None:
    x, y = f(3), torch.zeros(3)
    with pytest.warns(TesseraWarning, match="`counted`, which reads what it is given to write"):
        found = counts(x, y)
    assert torch.equal(found, 2 * x) and torch.equal(y, x)
