"""Kernels that the Triton tests run, beside those of models and of the language: what is hard to lay over lanes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import tessera
from tessera import Tile, f32, tile
from tessera.driver.kernel import Kernel
from tessera.ops import kernels as K
from tests.kernels import test_language as L
from tests.kernels import test_tile_ops as T
from tests.kernels.given import f, ints
from tests.kernels.test_models import blocks

Call = tuple[str, Kernel, tuple[Any, ...], dict[str, Any]]
SMALL = {"block_m": 16, "block_n": 16, "block_k": 16}


@tessera.kernel
def pairs(x: Tile["S", "D"], c: Tile["S", "D/2"], s: Tile["S", "D/2"], y: Tile["S", "D"]):
    tile.store(y, tile.apply_rope(tile.load(x), c, s, interleaved=True))


@tessera.kernel
def halves_of_products(x: Tile["S", "D"], y: Tile["S", "D"]):
    """Halves of what only exists in registers, put together again."""
    v = tile.load(x)
    v = v / tile.broadcast(tile.sum(v * v, axis=1), axis=1)
    a, b = tile.split(v, 2, axis=1)
    p, q = tile.split(tile.mma(v, tile.mma(tile.transpose(v), v)), 2, axis=1)
    tile.store(y, tile.concat([q, p], axis=1) + tile.concat([b, a], axis=1))


@tessera.kernel
def reversed_blocks(x: Tile["S", "D"], y: Tile["S", "D"]):
    """Rows of a block back to front, by way of memory on the chip."""
    ctx = tile.context()
    for i in tile.grid(0, ctx.S, 4):
        rows = tile.alloc_shared((4, ctx.D), f32)
        tile.store(rows[0:4], tile.load(x[i : i + 4]))
        for j in tile.range(4):
            tile.store(y[i + j], tile.load(rows[3 - j]))


@tessera.kernel
def staged_products(a: Tile["M", "K"], b: Tile["K", "N"], c: Tile["M", "N"]):
    """Blocks that are copied to memory on the chip before they are multiplied."""
    ctx = tile.context()
    bm, bn, bk = ctx.block_m, ctx.block_n, ctx.block_k
    for i in tile.grid(0, ctx.M, bm):
        for j in tile.grid(0, ctx.N, bn):
            left, right = tile.alloc_shared((bm, bk), f32), tile.alloc_shared((bk, bn), a.dtype)
            acc = tile.zeros((bm, bn))
            for k in tile.range(0, ctx.K, bk):
                tile.load_async(a[i : i + bm, k : k + bk], left)
                tile.load_async(b[k : k + bk, j : j + bn], right)
                tile.wait()
                acc = tile.mma(tile.load(left), tile.load(right), acc)
            tile.store(c[i : i + bm, j : j + bn], acc)


@tessera.kernel
def remembered(x: Tile["S", "D"], y: Tile["S", "D"]):
    """Memory that holds what the iteration before has left."""
    ctx = tile.context()
    row = tile.alloc_shared((ctx.D,), f32)
    tile.store(row, tile.load(x[0]))
    for i in tile.range(ctx.S):
        tile.store(y[i], tile.load(row))
        tile.store(row, tile.load(x[i]) * 2.0)


@tessera.kernel
def twice(x: Tile["S"], y: Tile["S"], z: Tile["S"]):
    """Two grids, one after the other; the second reads what the first wrote."""
    ctx = tile.context()
    for i in tile.grid(ctx.S):
        y[i] = tile.load(x[i]) * 2.0
    for i in tile.grid(ctx.S):
        z[i] = tile.load(y[i]) * 3.0


@tessera.kernel
def shared_total(x: Tile["S", "D"], y: Tile["S"]):
    """What stands before a grid is known in it; a choice gives a block."""
    ctx = tile.context()
    total = tile.sum(tile.load(x))
    for i in tile.grid(ctx.S):
        row = tile.load(x[i])
        best = tile.max(row, axis=0)
        if best > 1.0:
            row = row * total
        y[i] = tile.sum(row, axis=0)


@tessera.kernel
def grids_in_loops(x: Tile["S", "D"], y: Tile["S", "D"]):
    """A grid in a loop is carried out in order; carries change places."""
    ctx = tile.context()
    a, b = tile.zeros(ctx.D), tile.full(ctx.D, 1.0)
    for i in tile.range(ctx.S):
        for j in tile.grid(0, ctx.D, 2):
            tile.store(y[i, j : j + 2], tile.load(x[i, j : j + 2]) + tile.sum(a))
        a, b = b, a + tile.load(x[i])


@tessera.kernel
def growing(x: Tile["S"], y: Tile["S"]):
    """A loop that ends at a condition on what it has summed."""
    ctx = tile.context()
    for i in tile.grid(ctx.S):
        total = 0.0
        for j in tile.range(ctx.S):
            total += tile.load(x[j]) * tile.load(x[j])
            if total > 2.0:
                break
        y[i] = total + tile.load(x[i])


def _models() -> Iterator[Call]:
    for s, d in ((1, 1), (33, 13), (16, 16)):
        yield f"rms {s} {d}", K.rms_norm_kernel.configure(block_m=16), (f(s, d), f(d)), {}
    yield "rms bf16", K.rms_norm_kernel.configure(block_m=16), (f(2, 3, 16).bfloat16(), f(16)), {"padded": True}
    yield "rms f16 odd block", K.rms_norm_kernel.configure(block_m=5), (f(7, 5).half(), f(5)), {}
    for s, h, d in ((1, 1, 2), (5, 3, 6), (5, 3, 8)):
        x, angle = f(2, s, h, d), f(s, d // 2) * 3
        for t, padded in ((torch.float32, False), (torch.bfloat16, True)):
            call = x.to(t), angle.cos(), angle.sin()
            yield f"rotary {s} {h} {d} {t}", K.rotary_embedding_kernel.configure(block_m=2), call, {"padded": padded}
    for t in (torch.float32, torch.bfloat16, torch.float8_e4m3fn):
        yield f"embedding {t}", K.casted_embedding_kernel, (ints(0, 10, 3, 3), f(11, 7).to(t), torch.empty(4, 7)), {}
    for size in (1, 4):
        stored = blocks(12, 16, size)[1]
        yield f"sparse {size}", K.sparse_embedding_kernel, (ints(0, 11, 5, 5, 7), *stored, torch.empty(5, 16)), {}
    yield from _products()
    yield from _fused()
    for t in (torch.float32, torch.bfloat16):
        z = (f(4, 33) * 20).to(t)
        yield f"stable loss {t}", K.stable_cross_entropy_kernel.configure(block_n=16), (z, ints(3, -100, 0, 5)), {}
        yield f"loss {t}", K.fused_softmax_cross_entropy_kernel.configure(block_n=16), (z, ints(3, 1, 0, 32)), {}


def _products() -> Iterator[Call]:
    g = torch.Generator().manual_seed(0)
    for n, k, o in ((1, 1, 1), (17, 40, 37)):
        x, w = (torch.randint(-128, 128, shape, dtype=torch.int8, generator=g) for shape in ((n, k), (o, k)))
        linear = K.int8_linear_kernel.configure(**SMALL)
        yield f"int8 {n}", linear, (x, w, None, torch.empty(n, o), 0.01, f(o)), {}
        yield f"int8 to int8 {n}", linear, (x, w, f(o), torch.empty(n, o).to(torch.int8), 0.01, f(o), 2.0), {}
    for s, d, h in ((1, 1, 1), (17, 13, 37), (17, 16, 33)):
        given = f(s, d), f(d, h), f(d, h).flip(0), f(h, d)
        yield f"swiglu {s} {d}", K.swiglu_fused_kernel.configure(**SMALL), given, {"beta": 1.5}
        low = tuple(x.bfloat16() for x in given)
        yield f"swiglu bf16 {s} {d}", K.swiglu_fused_kernel.configure(**SMALL), low, {"padded": True}
    attention = K.flash_attention_kernel.configure(**SMALL)
    for s, t, d in ((1, 1, 4), (17, 37, 8)):
        q, k, v = f(2, s, d), f(2, t, d), f(2, t, d).flip(1) + 1
        ways: tuple[dict[str, Any], ...] = (
            {}, {"mask": f(s, t) > 0}, {"mask": f(s, t), "scale": 0.3}, {"is_causal": True, "padded": True},
            {"is_causal": True, "mask": f(s, t) > -1}, {"dropout_p": 0.5, "dropout_seed": torch.tensor([7])},
            {"is_causal": True, "lse": True, "padded": True},
        )  # fmt: skip
        for n, more in enumerate(ways):
            yield f"attention {s} {n}", attention, (q, k, v), more
        low = tuple(x.bfloat16() for x in (q, k, v))
        yield f"attention bf16 {s}", attention, low, {"is_causal": True}


def _fused() -> Iterator[Call]:
    for s, d, hidden in ((1, 1, 1), (9, 12, 20)):
        given = f(s, d), f(d), f(d, hidden) / 3, f(d, hidden).flip(0) / 3, f(hidden, d) / 4
        yield f"mlp block {s}", K.fused_mlp_block_kernel, given, {}
        yield f"mlp block bf16 {s}", K.fused_mlp_block_kernel, tuple(x.bfloat16() for x in given), {"padded": True}
    for s, heads, few in ((1, 1, 1), (7, 2, 1), (5, 2, 2)):
        width, d = 6, 6 * heads
        angle, wide = f(s, width // 2) * 3, (f(2 * s, d), f(d), f(d, d + 2 * few * width) / 3, f(d, d) / 3)
        ways: tuple[dict[str, Any], ...] = (
            {}, {"is_causal": False, "mask": f(s, s) > -1}, {"mask": f(s, s), "padded": True},
        )  # fmt: skip
        for n, more in enumerate(ways):
            yield (
                f"attention block {s} {few} {n}",
                K.fused_attention_block_kernel,
                (*wide, angle.cos(), angle.sin()),
                more,
            )
        low = (*(x.bfloat16() for x in wide), angle.cos(), angle.sin())
        yield f"attention block bf16 {s} {few}", K.fused_attention_block_kernel, low, {}


def _language() -> Iterator[Call]:
    yield "add", L.add.configure(block_m=16), (f(33), f(33) * 2), {}
    yield "add nothing", L.add, (f(0), f(0)), {}
    yield "add odd blocks", L.add.configure(block_m=5), (f(33), f(33) * 2), {}
    yield "prefix", L.prefix, (f(5, 3),), {}
    rows = torch.tensor([[0.0, 5.0, 1.0, 9.0], [0.0, 0.0, 0.0, 0.0], [7.0, 0.0, 0.0, 1.0]])
    yield "first above", L.first_above, (rows, 0.5, torch.zeros(3, dtype=torch.int64)), {}
    yield "masked", L.masked, (f(3, 4),), {"mask": f(3, 4) > 0, "mean": True}
    yield "per head", L.per_head, (f(4, 3, 5),), {}
    yield "segments", L.total_of_segments, (ints(0, 2, 2, 6), f(6), torch.zeros(3)), {}
    yield "staged", L.staged, (f(5, 3),), {}
    yield "reversed", L.reversed_rows, (f(3, 4),), {}
    yield "in place", L.doubled_in_place, (f(4),), {}
    yield "narrow", L.narrow, (torch.tensor([1.00390625, 300.7, -300.0, float("nan"), -1.9]),), {}
    for m, k, n in ((1, 1, 1), (7, 33, 5), (40, 16, 35)):
        yield f"matmul {m}", L.matmul.configure(block_m=16, block_n=8, block_k=4), (f(m, k), f(k, n)), {}
        low = f(m, k).half(), f(k, n).half()
        yield f"matmul f16 {m}", L.matmul.configure(**SMALL), low, {"padded": True}
    yield "two widths", L.matmul, (f(4, 4), f(4, 4).bfloat16(), torch.zeros(4, 4)), {}
    yield "leads", L.scaled, (f(2, 4, 3, 5), f(3)), {}
    yield "aligned", L.scaled_in_f32, (f(3, 5), f(3).bfloat16()), {}
    yield "dropout", L.dropped, (torch.ones(50, 40),), {"p": 0.25, "seed": 7}
    for s, d in ((3, 4), (4, 8)):
        yield f"shapes {s}", T.shapes, (f(s, d),), {}
    yield "positions", T.positions, (f(4, 5),), {"n": 4}
    yield "integers", T.integers, (torch.arange(-18, 18, dtype=torch.int8), _table(5, 36)), {}
    yield "clamped", T.several, (f(6, 4),), {}


def _table(n: int, k: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.randint(-128, 128, (n, k), dtype=torch.int8, generator=g)


def _own() -> Iterator[Call]:
    yield "pairs", pairs, (f(3, 6), f(3, 3), f(3, 3) * 2), {}
    yield "halves of products", halves_of_products, (f(5, 6),), {}
    yield "reversed blocks", reversed_blocks, (f(8, 6),), {}
    yield "staged products", staged_products.configure(**SMALL), (f(17, 20), f(20, 5)), {}
    yield "remembered", remembered, (f(4, 6),), {}
    yield "two grids", twice, (f(5),), {}
    yield "shared total", shared_total, (f(5, 7),), {}
    yield "grids in loops", grids_in_loops, (f(3, 6),), {}
    yield "growing", growing, (f(5),), {}


CALLS: tuple[Call, ...] = (*_models(), *_language(), *_own())
