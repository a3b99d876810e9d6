"""Kernels on whole tensors at their edges: what has to be as the blocks say, and what is right only in blocks."""

from __future__ import annotations

import pytest
import torch

import tessera
from tessera import ShapeError, Tensor, Tile, integer, tile
from tessera.ops import kernels as K
from tests.kernels.given import f, ints


@tessera.kernel
def looked_up(ids: Tile["N", integer], table: Tile["V", "D"], y: Tile["N", "D"]):
    for n in tile.grid(tile.context().N):
        tile.store(y[n], tile.load(table[ids[n]]))


@tessera.kernel
def first_of_a_view(x: Tile["S"], y: Tile["S"]):
    ctx = tile.context()
    top, b = x[:4], ctx.block_m
    for i in tile.grid(0, ctx.S, b):
        tile.store(y[i : i + b], tile.load(top[i : i + b], other=0.0))


@tessera.kernel
def into_a_view(x: Tile["S"], y: Tile["S"]):
    ctx = tile.context()
    top, b = y[:4], ctx.block_m
    for i in tile.grid(0, ctx.S, b):
        tile.store(top[i : i + b], tile.load(x[i : i + b]))


def test_views_of_views_end_where_they_end() -> None:
    x = torch.arange(1.0, 7.0)
    for kernel in (first_of_a_view, first_of_a_view.configure(block_m=8)):
        assert kernel(x).tolist() == [1, 2, 3, 4, 0, 0]
        assert torch.equal(kernel(x[:4].clone()), x[:4])
    y = torch.zeros(6)
    into_a_view(x, y)
    assert y.tolist() == [1, 2, 3, 4, 0, 0]


@tessera.kernel
def beyond_a_view(x: Tile["S"], y: Tile["S"]):
    head = x[:2]
    for i in tile.grid(tile.context().S):
        y[i] = tile.load(head[i])


@tessera.kernel
def shifted(ids: Tile["N", integer], table: Tile["V"], y: Tile["N"], far: Tile["N", tessera.int64]):
    for n in tile.grid(tile.context().N):
        y[n] = table[ids[n] + 100]
        far[n] = ids[n] * 1000


def test_positions_are_computed_with_64_bits() -> None:
    ids, table = torch.tensor([5, 100], dtype=torch.int8), torch.arange(2300.0)
    for found in (shifted(ids, table), shifted.check(ids, table)):
        assert found[0].tolist() == [105.0, 200.0] and found[1].tolist() == [5000, 100000]
    with pytest.raises(tessera.BoundsError):
        beyond_a_view(f(3000))
    with pytest.raises(tessera.BoundsError):
        looked_up(torch.tensor([-1, 3], dtype=torch.int8), f(2300, 2))


@tessera.kernel
def through_integers(x: Tile["S"], y: Tile["S"]):
    ctx = tile.context()
    b = ctx.block_m
    for i in tile.grid(0, ctx.S, b):
        c = tile.cast(tile.cast(tile.full(b, 0.7), tessera.int32), tessera.f32)
        tile.store(y[i : i + b], tile.load(x[i : i + b]) + c + tile.cast(tile.full(b, 0.1), tessera.bf16))


@tessera.kernel
def products_from_nothing(x: Tile["S"], y: Tile["D"]):
    ctx = tile.context()
    acc = tile.zeros(ctx.D)
    for i in tile.range(0, ctx.S, ctx.block_m):
        acc = acc * tile.sum(tile.load(x[i : i + ctx.block_m]))
    tile.store(y, acc)


def test_constants_are_what_their_dtypes_have() -> None:
    assert torch.equal(through_integers(f(5)), through_integers.check(f(5)))
    x = torch.tensor([1.0, torch.nan])
    assert products_from_nothing(x, torch.ones(3)) is None
    y = torch.ones(3)
    products_from_nothing(x, y)
    assert y.isnan().all()


@tessera.kernel
def a_checked_position(x: Tile["D"], ids: Tile["N", integer], y: Tile["D"]):
    row = tile.zeros(tile.context().D)
    row[ids[0]] = 1.0
    tile.store(y, row + tile.load(x))


def test_a_position_that_is_only_checked_is_checked() -> None:
    for wrong in (-1, 2900):
        with pytest.raises(tessera.BoundsError):
            a_checked_position(f(2900), ints(wrong))


@tessera.kernel
def column_sums(x: Tile["S", "D"], y: Tile["D"]):
    for i in tile.grid(tile.context().S):
        tile.atomic_add(y, tile.load(x[i]))


def test_sums_to_given_outputs_in_functions() -> None:
    @tessera.function(updates=("y",))
    def around(x: Tensor["S", "D"], y: Tensor["D"]) -> None:
        column_sums(x, y)

    y = torch.ones(3)
    around(f(4, 3), y)
    torch.testing.assert_close(y, f(4, 3).sum(0) + 1)


@tessera.kernel
def roots(x: Tile["N"], y: Tile["N"]):
    for n in tile.grid(tile.context().N):
        v = tile.load(x[n])
        if v > 0.0:
            y[n] = tile.sqrt(v)
        else:
            y[n] = 0.0


@tessera.kernel
def quotients(a: Tile["N", integer], b: Tile["N", integer], y: Tile["N", tessera.int64], safe: bool = True):
    for n in tile.grid(tile.context().N):
        d = b[n]
        if safe:
            if d != 0:
                y[n] = a[n] // d
            else:
                y[n] = -1
        else:
            y[n] = a[n] // d


def test_a_case_that_is_not_taken_does_nothing() -> None:
    x = torch.tensor([4.0, -1.0, 0.0], requires_grad=True)
    roots(x).sum().backward()
    assert x.grad.tolist() == [0.25, 0.0, 0.0]
    assert quotients(ints(7, 3), ints(2, 0)).tolist() == [3, -1]
    y = torch.full((3000,), 5)
    with pytest.raises(ZeroDivisionError, match=r"`quotients` at .*test_whole_edges.py:\d+"):
        quotients(ints(*[7] * 3000), ints(*[1] * 2999, 0), y, safe=False)
    assert (y == 5).all()


@tessera.kernel
def every_second(x: Tile["N"], y: Tile["N"]):
    for i in tile.range(0, tile.context().N, 2):
        y[i] = tile.load(x[i])


@tessera.kernel
def sizes_as_values(x: Tile["N"], y: Tile["N"], count: Tile[1, tessera.int64]):
    ctx = tile.context()
    count[0] = ctx.N
    tile.store(y, tile.load(x) * ctx.block_m)


def test_elements_that_nobody_writes_are_zero() -> None:
    found = every_second(torch.ones(3000))
    assert torch.equal(found[1::2], torch.zeros(1500)) and torch.equal(found[::2], torch.ones(1500))


def test_small_calls_are_looked_at_also_after_a_large_one() -> None:
    @tessera.kernel
    def races(x: Tile["N"], y: Tile[1]):
        for i in tile.grid(tile.context().N):
            y[0] = tile.load(x[i])

    races(torch.ones(3000))
    with pytest.raises(tessera.RaceError):
        races(torch.ones(3))


def test_a_long_run_is_not_looked_at_to_its_end() -> None:
    @tessera.kernel
    def slow(x: Tile[2], y: Tile[2]):
        total = tile.zeros(2)
        for _ in tile.range(2_000_000):
            total = total + tile.load(x)
        tile.store(y, total)

    assert slow(torch.ones(2)).tolist() == [2e6, 2e6]


def test_sizes_that_are_values() -> None:
    y, count = sizes_as_values.configure(block_m=8)(torch.ones(3))
    assert y.tolist() == [8.0] * 3 and count.tolist() == [3]
    _, count = sizes_as_values(torch.ones(3))
    assert count.tolist() == [3]


def test_outputs_given_under_gradients() -> None:
    x = f(3).requires_grad_()
    given = torch.empty(3)
    made = by_two(x, given)
    assert torch.equal(given, x + 1) and torch.equal(made, x + 2) and made.requires_grad
    assert by_two(x, torch.empty(3), torch.empty(3)) is None
    empty = torch.empty(0, 5, requires_grad=True)
    K.rms_norm_kernel(empty, f(5)).sum().backward()
    assert empty.grad.shape == (0, 5)


@tessera.kernel
def by_two(x: Tile["N"], y: Tile["N"], z: Tile["N"]):
    tile.store(y, tile.load(x) + 1)
    tile.store(z, tile.load(x) + 2)


def test_numbers_that_are_integers_in_torchs_compiler() -> None:
    compiled = torch.compile(lambda x, w: K.rms_norm_kernel(x, w, eps=1), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(f(3, 4), f(4)), K.rms_norm_kernel(f(3, 4), f(4), eps=1.0))


def test_arguments_that_tell_no_programs_apart() -> None:
    @tessera.kernel
    def static(x: Tile["N"], y: Tile["N"], how: tuple[int, ...] = (1, 2)):
        tile.store(y, tile.load(x) * how[0])

    assert torch.equal(static(f(3), how=(3, 1)), f(3) * 3)
    with pytest.raises(tessera.diag.CallError, match="with a list for `how`"):
        static(f(3), how=[3, 4])


def test_dims_may_have_the_names_of_loops() -> None:
    @tessera.kernel
    def same(x: Tile["i"], y: Tile["i"]):
        for i in tile.grid(tile.context().i):
            y[i] = tile.load(x[i])

    assert torch.equal(same(f(4)), f(4))
    with pytest.raises(ShapeError, match="as the name of a dim of a kernel"):

        @tessera.kernel
        def own(x: Tile["lead_0", "D"], y: Tile["lead_0", "D"]):
            tile.store(y, tile.load(x))


def test_parameters_may_have_the_names_of_dims() -> None:
    @tessera.kernel
    def doubled(N: Tile["N"], y: Tile["N"]):
        tile.store(y, tile.load(N) * 2)

    given = torch.empty(3)
    doubled(f(3), given)
    assert torch.equal(doubled(f(3)), f(3) * 2) and torch.equal(given, f(3) * 2)


def test_kernels_that_print_are_reported() -> None:
    @tessera.kernel
    def prints(x: Tile["N"], y: Tile["N"]):
        tile.debug_print("here")
        tile.store(y, tile.load(x))

    assert (prints.report(f(2)).form, str(prints.report(f(2)))) == (
        "interpreter", "prints: 0 launches, in the interpreter: it prints",
    )  # fmt: skip


# -- sizes that the arguments do not tell


@tessera.kernel
def parted(x: Tile["H*S", "D"], y: Tile["H", "S", "D"]):
    ctx = tile.context()
    tile.store(y, tile.reshape(tile.load(x), (ctx.H, ctx.S, ctx.D)))


@tessera.kernel
def parted_by(x: Tile["H*S", "D"], H: int, y: Tile["H", "S", "D"]):
    ctx = tile.context()
    tile.store(y, tile.reshape(tile.load(x), (ctx.H, ctx.S, ctx.D)))


@tessera.function
def parted_inside(x: Tensor["N", "D"], parts: int) -> Tensor["parts", "N/parts", "D"]:
    return parted_by(x, parts) * 2


def test_sizes_come_from_ints_and_from_outputs() -> None:
    x = f(6, 4)
    for parts in (2, 3, 2, 1):
        wanted = x.view(parts, -1, 4)
        for _ in range(2):
            assert torch.equal(parted_by(x, parts), wanted)
            assert torch.equal(parted_inside(x, parts), 2 * wanted)
        for kernel, more in ((parted, ()), (parted_by, (parts,))):
            out = torch.empty_like(wanted)
            kernel(x, *more, out)
            assert torch.equal(out, wanted)
    assert parted_by.report(x, 2).form == "whole"
    assert len(parted_by._programs) == 1
    assert parted_inside.cache_info().eager == 0
    with pytest.raises(ShapeError, match="nothing tells its size `H`") as caught:
        parted(x)
    assert caught.value.code == "TSR0110"
