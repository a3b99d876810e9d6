"""Kernels on whole tensors: what they compute, what they become, where they may stand, and which have no such form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import ShapeError, Tensor, Tile, TraceError, integer, tile
from tessera.ops import kernels as K
from tessera.passes.whole import Partial, whole
from tests.kernels.given import f, ints

CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "rms_norm": (K.rms_norm_kernel, (f(2, 35, 13), f(13)), {}),
    "rms_norm bf16": (K.rms_norm_kernel, (f(7, 13).bfloat16(), f(13)), {"eps": 0.5}),
    "rope": (K.rotary_embedding_kernel, (f(2, 33, 3, 8), f(33, 4), f(33, 4)), {}),
    "swiglu": (K.swiglu_fused_kernel, (f(5, 7), f(7, 40), f(7, 40), f(40, 7)), {"beta": 0.5}),
    "embedding": (K.casted_embedding_kernel, (ints(0, 3, 3), f(4, 5).half()), {"scale": 2.0}),
    "int8": (
        K.int8_linear_kernel, (f(5, 40).mul(50).char(), f(3, 40).mul(50).char(), f(3)),
        {"x_scale": 0.1, "w_scale": f(3).abs()},
    ),
    "cross_entropy": (K.stable_cross_entropy_kernel, (f(5, 37), ints(0, -100, 36, 3, -100)), {}),
    "cross_entropy of some columns": (K.stable_cross_entropy_kernel, (f(3, 37), ints(0, 2, 9)), {"vocab_size": 10}),
    "softmax_cross_entropy": (K.fused_softmax_cross_entropy_kernel, (f(5, 37), ints(0, 1, 36, 3, 3)), {}),
    "flash": (K.flash_attention_kernel, (f(2, 33, 8), f(2, 40, 8), f(2, 40, 8)), {}),
    "flash causal": (K.flash_attention_kernel, (f(2, 33, 8), f(2, 40, 8), f(2, 40, 8)), {"is_causal": True}),
    "flash dropped": (
        K.flash_attention_kernel, (f(2, 33, 8), f(2, 40, 8), f(2, 40, 8)),
        {"dropout_p": 0.3, "dropout_seed": torch.tensor([5])},
    ),
    "flash masked": (
        K.flash_attention_kernel, (f(2, 9, 8), f(2, 12, 8), f(2, 12, 8)),
        {"mask": torch.arange(12) < torch.arange(9)[:, None], "scale": 0.3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_they_compute_what_the_blocks_do(name: str) -> None:
    kernel, args, kwargs = CASES[name]
    wanted = kernel.check(*args, **kwargs)
    found = kernel(*args, **kwargs)
    assert found.dtype is wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    given = torch.full_like(wanted, math.nan) if wanted.is_floating_point() else torch.zeros_like(wanted)
    assert kernel(*args, **kwargs, **{kernel.outputs[0]: given}) is None
    assert torch.equal(given, found), "a given output gets the same bits"


@tessera.kernel
def by_heads(x: Tile["S", "H", "D"], group: Tile["G", "S", "D"], y: Tile["H", "S", "D"]):
    """Single positions in another order than that of the dims, and such that are computed."""
    ctx = tile.context()
    for h in tile.grid(ctx.H):
        for i in tile.grid(0, ctx.S, ctx.block_m):
            rows = tile.load(x[i : i + ctx.block_m, h])
            tile.store(y[h, i : i + ctx.block_m], rows * tile.load(group[h // 2, i : i + ctx.block_m]) + h)


@tessera.kernel
def pairs(x: Tile["N", "D"], y: Tile["N", "N"]):
    """Blocks of two axes of iterations meet."""
    ctx = tile.context()
    for i in tile.grid(ctx.N):
        a = tile.load(x[i])
        for j in tile.grid(ctx.N):
            b = tile.load(x[j])
            y[i, j] = tile.where(tile.sum(a * b) > 0.0, tile.reduce_max(a - b), -1.0)


@tessera.kernel
def moved(x: Tile["N", "A", "B"], y: Tile["N", "B", 2, "A"]):
    """Views of blocks in front of which there is an axis."""
    ctx = tile.context()
    for n in tile.grid(ctx.N):
        t = tile.transpose(tile.load(x[n]))
        both = tile.concat([tile.reshape(t, (ctx.B, 1, ctx.A)), tile.reshape(t, (ctx.B, 1, ctx.A)) * 2], axis=1)
        tile.store(y[n], both)


def test_positions_axes_and_views() -> None:
    x, group = f(5, 4, 3), f(2, 5, 3)
    wanted = x.permute(1, 0, 2) * group.repeat_interleave(2, 0) + torch.arange(4)[:, None, None]
    torch.testing.assert_close(by_heads(x, group), wanted)
    torch.testing.assert_close(by_heads.check(x, group), wanted)
    z = f(6, 3)
    torch.testing.assert_close(pairs(z), pairs.check(z))
    m = f(3, 4, 5)
    assert torch.equal(moved(m), moved.check(m))


def test_what_they_become() -> None:
    """The online forms collapse to what they are, and that is fused as if it had been written so."""
    for name, forms in (("flash causal", ["stream"]), ("rms_norm", ["row"]), ("cross_entropy", ["row"])):
        kernel, args, kwargs = CASES[name]
        kernel(*args, **kwargs)
        made = next(m for _, m in kernel._ways._whole.values() if m is not None)
        assert [op.name for op in made.compiled.all()[0].fused.ops] == forms, name


# -- in programs around them


@tessera.function
def layer(x: Tensor["B", "S", "D"], w: Tensor["D"], g: Tensor["D", "F"]) -> Tensor["B", "S", "F"]:
    return F.silu(K.rms_norm_kernel(x, w, eps=1e-6) @ g)


def test_inside_a_function() -> None:
    x, w, g = f(2, 5, 8), f(8), f(8, 3)
    torch.testing.assert_close(layer(x, w, g), F.silu(F.rms_norm(x, (8,), w, 1e-6) @ g), rtol=1e-5, atol=1e-5)
    assert "rsqrt" in layer.ir("fuse", x, w, g)


def test_sizes_are_unified_with_those_of_the_function() -> None:
    with pytest.raises(ShapeError, match="`K` of flash_attention_kernel has `D` in dim 2, the argument has `E`"):

        @tessera.function
        def wrong(q: Tensor["N", "S", "D"], k: Tensor["N", "T", "E"]) -> Tensor["N", "S", "D"]:
            return K.flash_attention_kernel(q, k, k)


def test_in_torchs_compiler_and_transforms() -> None:
    x, w = f(2, 5, 8), f(8)
    plain = K.rms_norm_kernel(x, w)
    whole_graph = torch.compile(lambda x, w: K.rms_norm_kernel(x, w) * 2, backend="eager", fullgraph=True)
    assert torch.equal(whole_graph(x, w), plain * 2)
    apart = torch.compile(lambda x: running(x) * 2, backend="eager")
    torch.testing.assert_close(apart(x[0]), x[0].cumsum(0) * 2)
    torch.testing.assert_close(torch.func.vmap(lambda a: K.rms_norm_kernel(a, w))(x), plain)
    slope = torch.func.grad(lambda a: K.rms_norm_kernel(a, w).sum())(x)
    leaf = x.clone().requires_grad_()
    K.rms_norm_kernel(leaf, w).sum().backward()
    torch.testing.assert_close(leaf.grad, slope)


@pytest.mark.parametrize("name", ["rms_norm", "rope", "swiglu", "flash causal"])
def test_derivatives(name: str) -> None:
    kernel, args, kwargs = CASES[name]
    small = [a[..., :5, :, :] if name == "rope" and a.ndim == 4 else a for a in args]
    small = [a[:5] if name == "rope" and a.ndim == 2 else a for a in small]
    given = [a.double().requires_grad_() if a.is_floating_point() else a for a in small]
    assert torch.autograd.gradcheck(lambda *xs: kernel(*xs, **kwargs), given, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *xs: kernel(*xs, **kwargs), given, fast_mode=True)


# -- without such a form


@tessera.kernel
def running(x: Tile["S", "D"], y: Tile["S", "D"]):
    total = tile.zeros(tile.context().D)
    for i in tile.range(tile.context().S):
        total = total + tile.load(x[i])
        tile.store(y[i], total)


@tessera.kernel
def by_16(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(0, tile.context().S, 16):
        tile.store(y[i : i + 16], tile.load(x[i : i + 16]))


@tessera.kernel
def in_halves(x: Tile["S", "D"], y: Tile["S", "2*D"]):
    ctx = tile.context()
    tile.store(y[:, : ctx.D], tile.load(x))
    tile.store(y[:, ctx.D :], tile.load(x))


@tessera.kernel
def shared(x: Tile["S"], y: Tile["S"]):
    buffer = tile.alloc_shared(tile.context().S)
    tile.copy(tile.load(x), buffer)
    tile.store(y, tile.load(buffer))


@tessera.kernel
def two_extents(x: Tile["S"], y: Tile["T"], z: Tile["S", "T"]):
    ctx = tile.context()
    b = ctx.block_m
    for i in tile.grid(0, ctx.S, b):
        for j in tile.grid(0, ctx.T, b):
            left = tile.broadcast(tile.load(x[i : i + b]), axis=1)
            tile.store(z[i : i + b, j : j + b], left * tile.load(y[j : j + b]))


@pytest.mark.parametrize(("kernel", "why"), [
    (running, "iterations that follow one another"), (by_16, "in steps of `16`"),
    (in_halves, "a part of `y` is written"), (shared, "belongs to blocks"),
    (two_extents, "`block_m` is the step of loops of `S` and of `T`"), (K.sparse_embedding_kernel, "known when the"),
])  # fmt: skip
def test_programs_that_have_no_such_form(kernel: Any, why: str) -> None:
    program = kernel.checked[0]
    with pytest.raises(Partial, match=why) as caught:
        whole(program.function, frozenset(program.blocks))
    assert caught.value.at.span is not None


def test_they_run_as_they_are_written() -> None:
    x, y = f(37), f(5)
    assert torch.equal(by_16(x), x) and torch.equal(shared(x), x)
    assert torch.equal(two_extents(x, y), x[:, None] * y)
    assert torch.equal(in_halves(f(3, 4)), torch.cat([f(3, 4), f(3, 4)], 1))


def test_given_block_sizes_are_kept() -> None:
    """A sum in blocks is rounded as the blocks say."""
    kernel = K.fused_softmax_cross_entropy_kernel.configure(block_n=4)
    x, t = f(5, 37), ints(0, 1, 36, 3, 3)
    assert torch.equal(kernel(x, t), kernel.check(x, t))
    assert all(made is None for _, made in kernel._ways._whole.values())


def test_sizes_for_which_the_whole_is_not_right() -> None:
    """More than there is, and nothing at all: as with other blocks."""
    with pytest.raises(ShapeError, match="no more classes than columns"):
        K.stable_cross_entropy_kernel(f(3, 37), ints(0, 2, 9), vocab_size=64)
    none = K.flash_attention_kernel(f(2, 3, 4), torch.empty(2, 0, 4), torch.empty(2, 0, 4))
    assert torch.equal(none, torch.zeros(2, 3, 4))


@tessera.kernel
def looked_up(ids: Tile["N", integer], table: Tile["V", "D"], y: Tile["N", "D"]):
    for n in tile.grid(tile.context().N):
        tile.store(y[n], tile.load(table[ids[n]]))


def test_a_position_outside_is_found_in_large_calls_and_nothing_is_written() -> None:
    table = f(1000, 8)
    for wrong in (-1, 1000):
        ids = ints(*range(512), wrong)
        out = torch.full((513, 8), 7.0)
        with pytest.raises(tessera.BoundsError) as caught:
            looked_up(ids, table, out)
        assert caught.value.code == "TSR0605" and "table[ids[n]]" in str(caught.value)
        assert (out == 7.0).all()


# -- looking at them


def test_sources_and_launches() -> None:
    x, w = f(5, 8), f(8)
    assert "int tessera_0(const i64 *a)" in K.rms_norm_kernel.source("c", x, w)
    assert "tl.load" in K.rms_norm_kernel.source("triton", x, w)
    assert K.rms_norm_kernel.launches() == K.flash_attention_kernel.launches() == 1
    assert K.swiglu_fused_kernel.report().form == "whole"
    report = running.report()
    assert (report.form, report.launches, report.reason) == ("blocks", 1, "iterations that follow one another")
    assert "in its own blocks: iterations that follow" in str(report)
    assert "omp parallel" in by_16.source("c")
    assert "@triton.jit" in by_16.source("triton", f(40))


def test_a_fused_kernel_has_such_a_form() -> None:
    with pytest.raises(TraceError, match="no form on whole tensors: iterations that follow") as caught:
        tessera.kernel.fused(running.fn)
    assert caught.value.code == "TSR0419" and "tile.range" in str(caught.value)
    assert tessera.kernel.fused(moved).launches() == 1
