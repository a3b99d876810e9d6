"""Kernels of all kinds of control and memory, for what runs them."""

from __future__ import annotations

import tessera
from tessera import Tile, bf16, f32, int64, integer, tile


@tessera.kernel
def signed(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        total = 0.0
        for j in tile.range(i - 3, i + 2):
            if j >= 0 and j < tile.context().S:
                total += tile.load(x[j]) * j
        y[i] = total


@tessera.kernel
def signed_mask(x: Tile["S"], y: Tile["S"]):
    ctx = tile.context()
    v = tile.load(x)
    acc = tile.zeros(ctx.S)
    for j in tile.range(0 - 3, 4):
        acc += tile.where(tile.iota(ctx.S) + j >= 0, v, -1.0)
        acc += tile.cast(tile.iota(ctx.S) > j, f32)
    tile.store(y, acc)


@tessera.kernel
def two_outputs(x: Tile["S", "D"], y: Tile["S", "D"], m: Tile["S"], w: Tile["S", bf16]):
    ctx = tile.context()
    for i in tile.grid(0, ctx.S, ctx.block_m):
        b = tile.load(x[i : i + ctx.block_m])
        mean = tile.sum(b, axis=1)
        tile.store(m[i : i + ctx.block_m], mean)
        tile.store(y[i : i + ctx.block_m], b - tile.broadcast(mean, axis=1))
        tile.store(w[i : i + ctx.block_m], mean * 2)


@tessera.kernel
def columns(x: Tile["S", "D"], y: Tile["D", "S"]):
    ctx = tile.context()
    for j in tile.grid(ctx.D):
        tile.store(y[j], tile.load(x[:, j]))


@tessera.kernel
def columns_out(x: Tile["S", "D"], y: Tile["D", "S"]):
    ctx = tile.context()
    for j in tile.grid(ctx.S):
        tile.store(y[:, j], tile.load(x[j]))


@tessera.kernel
def swap(x: Tile["S"], n: int, y: Tile["S"], z: Tile["S"]):
    a = tile.load(x)
    b = a * 2.0
    for _i in tile.range(n):
        a, b = b, a
    tile.store(y, a)
    tile.store(z, b)


@tessera.kernel
def nested(x: Tile["A", "B", "C"], y: Tile["A"]):
    ctx = tile.context()
    for a in tile.grid(ctx.A):
        total = tile.zeros(ctx.C)
        other = tile.full(ctx.C, 1.0)
        for b in tile.range(ctx.B):
            part = tile.load(x[a, b])
            for c in tile.range(b + 1):
                total = total + part * c
                if c > 2:
                    break
                other = other * 0.5 + total
            total = total - other
        y[a] = tile.sum(total) + tile.max(other)


@tessera.kernel
def chosen(x: Tile["S", "D"], flags: Tile["S", integer], y: Tile["S", "D"]):
    ctx = tile.context()
    for i in tile.grid(ctx.S):
        v = tile.load(x[i])
        w = v * 3.0
        if flags[i] > 1:
            v = v + w
            w = v
        elif flags[i] == 1:
            v = w
        else:
            v, w = w, v
        tile.store(y[i], v - 2.0 * w)


@tessera.kernel
def grid_in_loop(x: Tile["S", "D"], y: Tile["S", "D"]):
    ctx = tile.context()
    for s in tile.range(ctx.S):
        scale = tile.sum(tile.load(x[s]))
        for d in tile.grid(ctx.D):
            y[s, d] = tile.load(x[s, d]) * scale


@tessera.kernel
def other_fill(x: Tile["S", "D"], y: Tile["S"]):
    ctx = tile.context()
    for i in tile.grid(ctx.S):
        best = tile.full((), -float("inf"))
        for j in tile.range(0, ctx.D, ctx.block_n):
            best = tile.maximum(best, tile.max(tile.load(x[i, j : j + ctx.block_n], other=-float("inf"))))
        y[i] = best


@tessera.kernel
def int_gemm(a: Tile["M", "K", int64], b: Tile["K", "N", int64], c: Tile["M", "N", int64]):
    tile.store(c, tile.mma(tile.load(a), tile.load(b)))


@tessera.kernel
def vecs(a: Tile["K"], b: Tile["K", "N"], c: Tile["N"], d: Tile[1]):
    ctx = tile.context()
    v = tile.load(a)
    r = tile.mma(tile.reshape(v, (1, ctx.K)), tile.load(b))
    tile.store(c, tile.reshape(r, (ctx.N,)))
    s = tile.mma(tile.reshape(v, (1, ctx.K)), tile.reshape(v, (ctx.K, 1)))
    tile.store(d, tile.reshape(s, (1,)))


@tessera.kernel
def histogram(ids: Tile["N", integer], y: Tile["V"]):
    ctx = tile.context()
    tile.store(y, tile.zeros(ctx.V))
    for n in tile.range(ctx.N):
        y[ids[n]] += 1.0


@tessera.kernel
def shared_tiles(x: Tile["S", "D"], y: Tile["S", "D"]):
    ctx = tile.context()
    for i in tile.grid(0, ctx.S, 4):
        buf = tile.alloc_shared((4, ctx.D), f32)
        tile.copy(tile.load(x[i : i + 4]), buf)
        acc = tile.zeros(ctx.D)
        for k in tile.range(4):
            acc += tile.load(buf[k])
        tile.store(y[i : i + 4], tile.load(buf) + acc)


@tessera.kernel
def passes_through(x: Tile["S"], y: Tile["S"], z: Tile["S"]):
    v = tile.load(x)
    tile.store(y, v)
    tile.store(z, v)


@tessera.kernel
def counts(x: Tile["S"], y: Tile["S", int64], n: int):
    for i in tile.grid(tile.context().S):
        a = 0
        b = 1
        for _k in tile.range(n):
            a, b = b, a + b
        y[i] = a


@tessera.kernel
def triangle(x: Tile["S", "S"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        total = 0.0
        for j in tile.range(i, tile.context().S, 2):
            total += tile.load(x[i, j])
        y[i] = total


@tessera.kernel
def bools(x: Tile["S", tessera.bool_], y: Tile["S", tessera.bool_], n: Tile[1, int64]):
    v = tile.load(x)
    tile.store(y, tile.where(v, False, True))
    tile.store(n, tile.reshape(tile.sum(tile.cast(v, int64)), (1,)))


@tessera.kernel
def searches(keys: Tile["N", integer], q: Tile["Q", integer], y: Tile["Q", integer]):
    ctx = tile.context()
    for i in tile.grid(ctx.Q):
        lo = 0
        hi = ctx.N
        for _step in tile.range(64):
            if lo >= hi:
                break
            mid = (lo + hi) // 2
            if keys[mid] < q[i]:
                lo = mid + 1
            else:
                hi = mid
        y[i] = lo


@tessera.kernel
def paged(q: Tile["H", "D"], pages: Tile["P", "B", "D"], table: Tile["N", integer], o: Tile["H", "D"]):
    ctx = tile.context()
    qq = tile.load(q)
    acc = tile.zeros((ctx.H, ctx.D))
    for n in tile.range(ctx.N):
        page = tile.load(pages[table[n]])
        acc = tile.mma(tile.mma(qq, tile.transpose(page)), page, acc)
    tile.store(o, acc)


@tessera.kernel
def tiles(x: Tile["S", "D"], y: Tile["S", "D"], z: Tile["D", "S"]):
    ctx = tile.context()
    bm, bn = ctx.block_m, ctx.block_n
    for i in tile.grid(0, ctx.S, bm):
        for j in tile.grid(0, ctx.D, bn):
            block = tile.load(x[i : i + bm, j : j + bn])
            tile.store(y[i : i + bm, j : j + bn], block * 1.0)
            tile.store(z[j : j + bn, i : i + bm], tile.transpose(block))
