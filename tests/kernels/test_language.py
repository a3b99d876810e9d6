"""What kernels may say: loops, choices, views, memory, and what their results are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import tessera
import tessera.ops
from tessera import DTypeError, ShapeError, Tile, TraceError, bf16, f32, int8, integer, tile
from tessera.diag import CallError
from tessera.ir.parser import parse
from tessera.ops.kernels import rms_norm_kernel
from tests.kernels.given import f, ints


@tessera.kernel
def add(x: Tile["N"], y: Tile["N"], z: Tile["N"]):
    ctx = tile.context()
    for i in tile.grid(0, ctx.N, ctx.block_m):
        stop = i + ctx.block_m
        tile.store(z[i:stop], tile.load(x[i:stop]) + tile.load(y[i:stop]))


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64])
def test_vector_add(n: int) -> None:
    x, y = f(n), f(n) * 2
    assert torch.equal(add(x, y), x + y)
    given = torch.full((n,), 7.0)
    assert add(x, y, given) is None
    assert torch.equal(given, x + y)
    assert torch.equal(add.configure(block_m=5)(x, y), x + y)


def test_views_that_are_not_dense() -> None:
    x, y = f(6, 4).T, f(4, 6)
    out = torch.zeros(6, 4).T
    add(x, y, out)
    assert torch.equal(out, x + y)
    assert torch.equal(add(x[0].expand(3, 6), y[:3]), x[0] + y[:3])


@tessera.kernel
def prefix(x: Tile["S", "D"], y: Tile["S", "D"]):
    ctx = tile.context()
    total = tile.zeros(ctx.D)
    for i in tile.range(ctx.S):
        total += tile.load(x[i])
        tile.store(y[i], total)


def test_a_loop_carries_what_changes() -> None:
    x = f(5, 3)
    torch.testing.assert_close(prefix(x), x.cumsum(0))
    assert "carries=1" in prefix.ir()


@tessera.kernel
def first_above(x: Tile["S", "D"], limit: float, at: Tile["S", integer]):
    ctx = tile.context()
    for i in tile.grid(ctx.S):
        found = -1
        for j in tile.range(ctx.D):
            if tile.load(x[i, j]) <= limit:
                continue
            if found < 0:
                found = j
            if j > 1:
                break
        at[i] = found


def test_break_and_continue() -> None:
    x = torch.tensor([[0.0, 5.0, 1.0, 9.0], [0.0, 0.0, 0.0, 0.0], [7.0, 0.0, 0.0, 1.0]])
    at = torch.zeros(3, dtype=torch.int64)
    first_above(x, 0.5, at)
    assert at.tolist() == [1, -1, 0]


@tessera.kernel
def masked(x: Tile["S", "D"], y: Tile["S"], mask: Tile["S", "D"] | None = None, mean: bool = False):
    ctx = tile.context()
    for i in tile.grid(ctx.S):
        row = tile.load(x[i])
        if mask is not None:
            row = tile.where(tile.load(mask[i]), row, 0.0)
        y[i] = tile.reduce_mean(row) if mean else tile.reduce_sum(row)


def test_static_choices() -> None:
    x, mask = f(3, 4), f(3, 4) > 0
    torch.testing.assert_close(masked(x), x.sum(1))
    torch.testing.assert_close(masked(x, mask=mask, mean=True), (x * mask).mean(1))
    assert "choose" not in masked.ir(x, mask=mask)


def power(x: Any, n: int) -> Any:
    found = x
    for _ in range(n - 1):
        found = found * x
    return found


@tessera.kernel
def cube(x: Tile["N"], y: Tile["N"]):
    tile.store(y, power(tile.load(x), 3))


def test_functions_are_inlined_and_python_loops_unrolled() -> None:
    x = f(7)
    torch.testing.assert_close(cube(x), x**3)
    assert cube.ir().count(" mul(") == 2


@tessera.kernel
def per_head(x: Tile["S", "H", "D"], y: Tile["H", "D"]):
    ctx = tile.context()
    for h in range(ctx.H):
        tile.store(view=y[h], value=tile.sum(tile.load(x[:, h]), axis=0))


def test_a_python_loop_over_a_size_is_read_for_that_size() -> None:
    for heads in (1, 3):
        x = f(4, heads, 5)
        torch.testing.assert_close(per_head(x), x.sum(0))


@tessera.kernel
def total_of_segments(ptr: Tile["N+1", integer], x: Tile["S"], y: Tile["N"]):
    for n in tile.grid(tile.context().N):
        total = 0.0
        for p in tile.range(ptr[n], ptr[n + 1]):
            total += tile.load(x[p])
        y[n] = total


def test_bounds_that_are_read_from_memory() -> None:
    x = f(6)
    y = torch.zeros(3)
    total_of_segments(ints(0, 2, 2, 6), x, y)
    torch.testing.assert_close(y, torch.stack([x[:2].sum(), torch.tensor(0.0), x[2:].sum()]))


@tessera.kernel
def staged(x: Tile["S", "D"], y: Tile["S", "D"]):
    ctx = tile.context()
    slots = tile.alloc_shared((2, ctx.D), f32)
    tile.load_async(x[0], slots[0])
    for i in tile.range(ctx.S):
        if i + 1 < ctx.S:
            tile.load_async(x[i + 1], slots[(i + 1) % 2])
            tile.wait(1)
        else:
            tile.wait()
        tile.store(y[i], tile.load(slots[i % 2]) * 2)


def test_double_buffering() -> None:
    x = f(5, 3)
    assert torch.equal(staged(x), x * 2)


@tessera.kernel
def reversed_rows(x: Tile["S", "D"], y: Tile["S", "D"]):
    ctx = tile.context()
    row = tile.zeros(ctx.D)
    copy = row
    for i in tile.range(ctx.S):
        values = tile.load(x[i])
        for j in tile.range(ctx.D):
            row[j] = values[ctx.D - 1 - j]
        tile.store(y[i], copy)


def test_blocks_that_are_written_to_keep_all_their_names() -> None:
    x = f(3, 4)
    assert torch.equal(reversed_rows(x), x.flip(1))


@tessera.kernel
def doubled_in_place(x: Tile["S"]):
    for i in tile.grid(tile.context().S):
        x[i] *= 2.0


def test_a_parameter_that_is_read_and_written() -> None:
    x = f(4)
    before = x.clone()
    doubled_in_place(x)
    assert torch.equal(x, before * 2)


@tessera.kernel
def narrow(x: Tile["N"], y: Tile["N", bf16], q: Tile["N", int8]):
    v = tile.load(x)
    tile.store(y, v)
    tile.store(q, tile.cast(v, int8))


def test_stores_cast_and_casts_saturate() -> None:
    x = torch.tensor([1.00390625, 300.7, -300.0, float("nan"), -1.9])
    y, q = narrow(x)
    assert torch.equal(y.isnan(), x.bfloat16().isnan()) and torch.equal(y.nan_to_num(), x.bfloat16().nan_to_num())
    assert q.tolist() == [1, 127, -128, 0, -1]


@tessera.kernel
def matmul(a: Tile["M", "K"], b: Tile["K", "N"], c: Tile["M", "N"]):
    ctx = tile.context()
    bm, bn, bk = ctx.block_m, ctx.block_n, ctx.block_k
    for i in tile.grid(0, ctx.M, bm):
        for j in tile.grid(0, ctx.N, bn):
            acc = tile.zeros((bm, bn))
            for k in tile.range(0, ctx.K, bk):
                acc = tile.mma(a[i : i + bm, k : k + bk], b[k : k + bk, j : j + bn], acc)
            tile.store(c[i : i + bm, j : j + bn], acc)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 33, 5), (40, 16, 35)])
def test_matmul_with_tails(sizes: tuple[int, int, int]) -> None:
    m, k, n = sizes
    a, b = f(m, k), f(k, n)
    torch.testing.assert_close(matmul.configure(block_m=16, block_n=8, block_k=4)(a, b), a @ b)
    low = matmul(a.bfloat16(), b.bfloat16())
    torch.testing.assert_close(low.float(), a.bfloat16().float() @ b.bfloat16().float(), rtol=2**-8, atol=1e-5)


def test_what_an_mma_of_two_widths_is() -> None:
    """The wider operand is rounded to the narrower."""
    a, b = f(4, 4), f(4, 4).bfloat16()
    c = torch.zeros(4, 4)
    matmul(a, b, c)
    torch.testing.assert_close(c, a.bfloat16().float() @ b.float())


@tessera.kernel
def scaled(x: Tile["S", "D"], by: Tile["S"], y: Tile["S", "D"]):
    tile.store(y, tile.load(x) * tile.load_broadcast(by))


@tessera.kernel
def scaled_in_f32(x: Tile["S", "D"], by: Tile["S"], y: Tile["S", "D"]):
    tile.store(y, tile.load(x) * tile.cast(tile.load_broadcast(by), f32) * 2)


def test_what_is_made_of_aligned_blocks_is_aligned() -> None:
    x, by = f(3, 5), f(3).bfloat16()
    assert torch.equal(scaled_in_f32(x, by), x * by.float()[:, None] * 2)


def test_alignment_by_the_names_of_dims() -> None:
    x, by = f(3, 5), f(3)
    assert torch.equal(scaled(x, by), x * by[:, None])


def test_dims_in_front_become_a_grid() -> None:
    x, by = f(2, 4, 3, 5), f(3)
    assert torch.equal(scaled(x, by), x * by[:, None])
    assert torch.equal(scaled(x, f(2, 4, 3)), x * f(2, 4, 3)[..., None])
    with pytest.raises(ShapeError, match="before its declared dims"):
        scaled(x, f(4, 2, 3))


def test_calls_that_do_not_fit() -> None:
    x, y = f(4), f(5)
    with pytest.raises(ShapeError) as wrong:
        add(x, y)
    assert wrong.value.code == "TSR0107"
    with pytest.raises(CallError, match="without `y`"):
        add(x)
    with pytest.raises(CallError, match="unknown `w`"):
        add(x, x, w=x)
    with pytest.raises(CallError, match="a list for `y`"):
        add(x, [1.0])
    with pytest.raises(TraceError) as shared:
        add(x, y[:4], x)
    assert shared.value.code == "TSR0417"
    with pytest.raises(DTypeError) as kind:
        total_of_segments(f(3), x, f(2))
    assert kind.value.code == "TSR0108"


def test_settings_that_are_not_there() -> None:
    with pytest.raises(TraceError, match="no setting"):
        add.configure(block_q=3)
    with pytest.raises(ShapeError):
        add.configure(block_m=0)
    assert repr(add.configure(block_m=8)) == "<tessera.kernel add, block_m=8>"


def test_a_kernel_that_goes_step_by_step_has_no_derivative() -> None:
    x = f(4, 3).requires_grad_()
    y = prefix(x)
    with pytest.raises(TraceError, match="`prefix` has no derivative"):
        y.sum().backward()


def test_a_kernel_whose_blocks_are_free_has_one() -> None:
    x, y = f(4).requires_grad_(), f(4).requires_grad_()
    add(x, y).square().sum().backward()
    assert torch.equal(x.grad, 2 * (x + y)) and torch.equal(y.grad, x.grad)


def test_the_reference_is_float64() -> None:
    x = f(6)
    found = cube.reference(x)["y"]
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, x.double() ** 3, rtol=1e-15, atol=0)


def test_programs_are_text() -> None:
    for kernel in (add, prefix, first_above, masked, staged, reversed_rows, matmul, scaled, total_of_segments):
        for program in kernel.checked:
            assert parse(kernel.ir()) == kernel.checked[0].function
            assert program.outputs


def test_scalars_of_the_run_and_of_the_call() -> None:
    @tessera.kernel
    def scores(x: Tile["S", "D"], y: Tile["S"], scale: float | None = None):
        ctx = tile.context()
        by = 1.0 / math.sqrt(ctx.D) if scale is None else scale
        for i in tile.grid(ctx.S):
            y[i] = tile.sum(x[i]) * by

    x = f(3, 4)
    torch.testing.assert_close(scores(x), x.sum(1) / 2)
    torch.testing.assert_close(scores(x, scale=3.0), x.sum(1) * 3)


def test_operations_outside_of_a_kernel() -> None:
    with pytest.raises(TraceError) as caught:
        tile.load(f(3))
    assert caught.value.code == "TSR0419"
    assert torch.equal(tile(f(2), (2,)), f(2).repeat(2))
    assert "load" in dir(tile) and "reduce_max" in dir(tile.warp)
    with pytest.raises(AttributeError):
        tile.nothing  # noqa: B018


@tessera.kernel
def halves(x: Tile["S", "D"], y: Tile["S", "D"]):
    ctx = tile.context()
    assert ctx.D % 2 == 0, "the width is even"
    assert ctx.S < 9
    tile.store(y, tile.load(x))


def test_what_is_asserted_of_sizes_is_checked_at_the_call() -> None:
    assert torch.equal(halves(f(3, 4)), f(3, 4))
    with pytest.raises(ShapeError, match="does not hold with D=5"):
        halves(f(3, 5))
    with pytest.raises(ShapeError, match="S=9"):
        halves(f(9, 4))


@tessera.kernel
def square(x: Tile["N"], y: Tile["N"]):
    v = tile.load(x)
    tile.store(y, v * v)


@tessera.kernel
def square_backward(x: Tile["N"], g: Tile["N"], dx: Tile["N"]):
    tile.store(dx, tile.load(x) * tile.load(g) * 2.0)


def test_a_derivative_that_is_given() -> None:
    derived = square.configure(block_m=8).defvjp(
        lambda x: (square(x), x), lambda x, g: (square_backward(x, g.contiguous()),)
    )
    x = f(5).double().requires_grad_()
    assert torch.autograd.gradcheck(derived, (x,))
    with pytest.raises(TraceError, match="with an output that is given"):
        derived(x, torch.zeros(5).double())


@tessera.kernel
def dropped(x: Tile["S", "D"], y: Tile["S", "D"], p: float, seed: int):
    ctx = tile.context()
    for i in tile.grid(0, ctx.S, ctx.block_m):
        block = tile.load(x[i : i + ctx.block_m])
        tile.store(y[i : i + ctx.block_m], tile.dropout(block, p, seed, (i, 0)))


def test_dropout_is_a_function_of_seed_and_position() -> None:
    x = torch.ones(50, 40)
    y = dropped(x, p=0.25, seed=7)
    assert torch.equal(y, dropped.configure(block_m=7)(x, p=0.25, seed=7))
    assert not torch.equal(y, dropped(x, p=0.25, seed=8))
    assert abs((y == 0).float().mean() - 0.25) < 0.03
    assert torch.equal(y[y != 0], torch.full_like(y[y != 0], 1 / 0.75))
    assert torch.equal(dropped(x, p=0.0, seed=7), x)


def test_dropout_draws_what_flash_attention_draws() -> None:
    """With equal scores, weights dropped by the position of query and key."""
    q, k, v = torch.zeros(1, 1, 6, 4), torch.zeros(1, 1, 9, 4), torch.eye(9)[None, None]
    weights = tessera.ops.flash_attention(q, k, v, dropout_p=0.5, dropout_seed=3)[0, 0]
    torch.testing.assert_close(dropped(torch.full((6, 9), 1 / 9), p=0.5, seed=3), weights)


def test_names_may_come_in_any_order() -> None:
    x, weight = torch.randn(3, 8), torch.rand(8)
    assert torch.equal(rms_norm_kernel(weight=weight, x=x), rms_norm_kernel(x, weight))


# -- adding, writing in place, printing


@tessera.kernel
def weight_gradient(g: Tile["S", "D"], x: Tile["S", "D"], dw: Tile["D"], count: Tile[1]):
    ctx = tile.context()
    for i in tile.grid(0, ctx.S, ctx.block_m):
        part = tile.load(g[i : i + ctx.block_m]) * tile.load(x[i : i + ctx.block_m])
        tile.atomic_add(dw, tile.sum(part, axis=0))
    for i in tile.grid(ctx.S):
        if tile.sum(tile.load(x[i])) > 0.0:
            tile.atomic_add(count[0], 1.0)


@tessera.kernel
def histogram(ids: Tile["N", integer], y: Tile["V", integer], size: Tile["V"]):
    for n in tile.grid(tile.context().N):
        tile.atomic_add(y[ids[n]], 1)
    tile.store(size, tile.load(size))


def test_iterations_add_up() -> None:
    g, x = f(35, 5), f(35, 5) + 0.1
    wanted = (g * x).sum(0), (x.sum(1) > 0).sum()[None].float()
    for found in (weight_gradient(g, x), weight_gradient.check(g, x), weight_gradient.configure(block_m=4)(g, x)):
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    dw, count = torch.ones(5), torch.full((1,), 10.0)
    weight_gradient(g, x, dw, count)
    torch.testing.assert_close(dw, wanted[0] + 1, rtol=1e-5, atol=1e-5)
    assert count == wanted[1] + 10
    y = torch.zeros(4, dtype=torch.int64)
    histogram(ints(0, 3, 3, 1, 3), y, torch.zeros(4))
    assert y.tolist() == [1, 1, 0, 3]


@tessera.kernel
def scaled_there(x: Tile["S"], y: Tile["S"]):
    tile.inplace(y, x)
    b = tile.context().block_m
    for i in tile.grid(0, tile.context().S, b):
        tile.store(y[i : i + b], tile.load(x[i : i + b]) * 2)


def test_an_output_in_the_place_of_an_input() -> None:
    for kernel in (scaled_there, scaled_there.configure(block_m=4)):
        x = f(9)
        kernel(x, x)
        assert torch.equal(x, f(9) * 2)
    with pytest.raises(TraceError, match="shares memory"):
        scaled_there(x[1:], x[:-1])
    with pytest.raises(TraceError, match="shares memory"):
        add(x, f(9), x)


@tessera.kernel
def told(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        v = tile.load(x[i])
        tile.debug_print("{at}", i, "is", v, x[i])
        y[i] = v


def test_printing(capsys: pytest.CaptureFixture[str]) -> None:
    told(torch.tensor([1.0, 2.5]))
    assert capsys.readouterr().out == "{at} 0 is 1.0 1.0\n{at} 1 is 2.5 2.5\n"
