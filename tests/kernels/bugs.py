"""Kernels that are wrong, each with a comment at the place of the fault: its code and the source that is marked.

They are read without complaint and found by running them, with the arguments that stand there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tessera import Tile, f32, integer, tile
from tests.kernels.given import f, ints

RUN: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}


def run(*args: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def note(fn: Callable[..., Any]) -> Callable[..., Any]:
        RUN[fn.__name__] = (fn, args)
        return fn

    return note


# -- out of bounds


@run(f(5, 3))
def reads_the_row_behind(x: Tile["S", "D"], y: Tile["S", "D"]):
    for i in tile.grid(tile.context().S):
        tile.store(y[i], tile.load(x[i + 1]))  # bug: TSR0605 tile.load(x[i + 1])


@run(f(5, 3))
def reads_the_row_before(x: Tile["S", "D"], y: Tile["S", "D"]):
    for i in tile.grid(tile.context().S):
        tile.store(y[i], tile.load(x[i - 1]))  # bug: TSR0605 tile.load(x[i - 1])


@run(f(5))
def writes_behind_the_end(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        y[i + 1] = tile.load(x[i])  # bug: TSR0605 y[i + 1]


@run(ints(0, 7), f(4, 3))
def looks_up_a_row_that_is_not_there(ids: Tile["N", integer], table: Tile["V", "D"], y: Tile["N", "D", f32]):
    for n in tile.grid(tile.context().N):
        tile.store(y[n], tile.load(table[ids[n]]))  # bug: TSR0605 tile.load(table[ids[n]])


@run(ints(2, -1), f(4, 3))
def looks_up_a_negative_row(ids: Tile["N", integer], table: Tile["V", "D"], y: Tile["N", "D", f32]):
    for n in tile.grid(tile.context().N):
        at = ids[n]
        row = tile.load_vector(table[at])  # bug: TSR0605 tile.load_vector(table[at])
        tile.store_vector(y[n], row)


@run(f(9))
def windows_overlap_the_end(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        y[i] = tile.sum(tile.load(x[i : i + 4]))  # bug: TSR0605 tile.load(x[i : i + 4])


@run(f(16))
def one_block_too_many(x: Tile["S"], y: Tile["S"]):
    for b in tile.grid(tile.cdiv(tile.context().S, 8) + 1):
        v = tile.load(x[b * 8 : b * 8 + 8])  # bug: TSR0605 tile.load(x[b * 8 : b * 8 + 8])
        tile.store(y[b * 8 : b * 8 + 8], v)


@run(f(6), ints(3, 9))
def indexes_a_block_beyond_its_end(x: Tile["D"], ids: Tile["N", integer], y: Tile["N"]):
    v = tile.load(x)
    for n in tile.range(tile.context().N):
        y[n] = v[ids[n]]  # bug: TSR0605 v[ids[n]]


@run(ints(0, 6), f(4))
def copies_beyond_the_block(starts: Tile["N", integer], x: Tile[4], y: Tile["N", 8, f32]):
    for n in tile.grid(tile.context().N):
        row = tile.zeros(8)
        at = starts[n]
        tile.copy(tile.load(x), row[at : at + 4])  # bug: TSR0605 tile.copy(tile.load(x), row[at : at + 4])
        tile.store(y[n], row)


@run(f(12))
def stages_beyond_shared_memory(x: Tile["S"], y: Tile["S"]):
    shared = tile.alloc_shared(8)
    for i in tile.range(0, tile.context().S, 4):
        v = tile.load(x[i : i + 4])
        tile.copy(v, shared[i : i + 4])  # bug: TSR0605 tile.copy(v, shared[i : i + 4])
        tile.store(y[i : i + 4], tile.load(shared[i : i + 4]))


@run(f(3, 5), ints(1, 5, 0))
def takes_a_class_that_is_not_there(z: Tile["B", "C"], target: Tile["B", integer], loss: Tile["B"]):
    for b in tile.grid(tile.context().B):
        loss[b] = -tile.load(z[b, target[b]])  # bug: TSR0605 tile.load(z[b, target[b]])


# -- iterations that meet


@run(f(5))
def all_write_one_element(x: Tile["S"], y: Tile[1]):
    for i in tile.grid(tile.context().S):
        y[0] = tile.load(x[i])  # bug: TSR0610 y[0]


@run(f(5), torch.zeros(1))
def all_add_to_one_element(x: Tile["S"], y: Tile[1]):
    for i in tile.grid(tile.context().S):
        y[0] += tile.load(x[i])  # bug: TSR0610 y[0] += tile.load(x[i])


@run(f(5), torch.zeros(6))
def reads_what_the_neighbour_writes(x: Tile["S"], y: Tile["S+1"]):
    for i in tile.grid(tile.context().S):
        before = tile.load(y[i])  # bug: TSR0610 tile.load(y[i])
        y[i + 1] = before + tile.load(x[i])


@run(f(16))
def blocks_overlap(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(0, tile.context().S - 7, 4):
        v = tile.load(x[i : i + 8])
        tile.store(y[i : i + 8], v)  # bug: TSR0610 tile.store(y[i : i + 8], v)


@run(f(4, 6))
def columns_meet_in_a_row(x: Tile["S", "D"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        for j in tile.grid(tile.context().D):
            y[i] = tile.load(x[i, j])  # bug: TSR0610 y[i]


@run(f(2, 4), torch.zeros(4))
def parts_meet_in_an_output(x: Tile["D"], y: Tile["D"]):
    tile.store(y, tile.load(x))  # bug: TSR0610 tile.store(y, tile.load(x))


@run(f(6))
def shifts_in_place(x: Tile["S"]):
    for i in tile.grid(tile.context().S - 1):
        x[i] = tile.load(x[i + 1])  # bug: TSR0610 x[i]


@run(f(6))
def wraps_around(x: Tile["S"], y: Tile[4]):
    for i in tile.grid(tile.context().S):
        y[i % 4] = tile.load(x[i])  # bug: TSR0610 y[i % 4]


@run(ints(0, 1, 0), f(3, 2), torch.zeros(2, 2))
def scatters_twice_to_a_row(ids: Tile["N", integer], x: Tile["N", "D"], y: Tile["V", "D"]):
    for n in tile.grid(tile.context().N):
        tile.store(y[ids[n]], tile.load(x[n]))  # bug: TSR0610 tile.store(y[ids[n]], tile.load(x[n]))


@run(f(6, 3))
def shares_memory_between_iterations(x: Tile["S", "D"], y: Tile["S", "D"]):
    ctx = tile.context()
    shared = tile.alloc_shared(ctx.D)
    for i in tile.grid(ctx.S):
        v = tile.load(x[i])
        tile.copy(v, shared)  # bug: TSR0610 tile.copy(v, shared)
        tile.store(y[i], tile.load(shared))


# -- memory without contents


@run(f(8))
def does_not_wait(x: Tile["S"], y: Tile["S"]):
    shared = tile.alloc_shared(tile.context().S)
    tile.load_async(x, shared)
    tile.store(y, tile.load(shared))  # bug: TSR0613 tile.load(shared)


@run(f(8), f(8))
def waits_for_the_older_copy_only(x: Tile["S"], w: Tile["S"], y: Tile["S"]):
    a, b = tile.alloc_shared(tile.context().S), tile.alloc_shared(tile.context().S)
    tile.load_async(x, a)
    tile.load_async(w, b)
    tile.wait(1)
    u = tile.load(a)
    v = tile.load(b)  # bug: TSR0613 tile.load(b)
    tile.store(y, u + v)


@run(f(8))
def writes_under_a_copy(x: Tile["S"], y: Tile["S"]):
    shared = tile.alloc_shared(tile.context().S)
    tile.load_async(x, shared)
    tile.fill(shared, 0.0)  # bug: TSR0613 tile.fill(shared, 0.0)
    tile.wait()
    tile.store(y, tile.load(shared))


@run(f(8))
def copies_twice_at_once(x: Tile["S"], y: Tile["S"]):
    shared = tile.alloc_shared(tile.context().S)
    tile.load_async(x, shared)
    tile.load_async(x, shared)  # bug: TSR0613 tile.load_async(x, shared)
    tile.wait()
    tile.store(y, tile.load(shared))


@run(f(8))
def reads_shared_memory_as_it_is(x: Tile["S"], y: Tile["S"]):
    shared = tile.alloc_shared(tile.context().S)
    tile.store(y, tile.load(x) + tile.load(shared))  # bug: TSR0613 tile.load(shared)


@run(f(8))
def fills_half_of_shared_memory(x: Tile["S"], y: Tile["S"]):
    ctx = tile.context()
    shared = tile.alloc_shared(ctx.S)
    tile.copy(tile.load(x[0:4]), shared[0:4])
    tile.store(y, tile.load(shared))  # bug: TSR0613 tile.load(shared)


@run(f(4, 3))
def reads_the_other_slot(x: Tile["S", "D"], y: Tile["S", "D"]):
    ctx = tile.context()
    slots = tile.alloc_shared((2, ctx.D))
    for i in tile.range(ctx.S):
        tile.load_async(x[i], slots[i % 2])
        tile.wait()
        v = tile.load(slots[(i + 1) % 2])  # bug: TSR0613 tile.load(slots[(i + 1) % 2])
        tile.store(y[i], v)


@run(f(4))
def adds_to_an_output_without_contents(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        y[i] += tile.load(x[i])  # bug: TSR0613 y[i] += tile.load(x[i])


@run(f(4))
def forgets_the_last_element(x: Tile["S"], y: Tile["S"]):  # bug: TSR0613 forgets_the_last_element
    for i in tile.grid(tile.context().S - 1):
        y[i] = tile.load(x[i])


@run(ints(1, -1, 2))
def leaves_out_what_it_skips(x: Tile["S", integer], y: Tile["S", f32]):  # bug: TSR0613 leaves_out_what_it_skips
    for i in tile.grid(tile.context().S):
        if x[i] < 0:
            continue
        y[i] = 1.0


# -- padding


@run(-f(3, 5).abs() - 1)
def maximum_of_padding(x: Tile["S", "D"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        row = tile.load(x[i], shape=(8,))
        top = tile.reduce_max(row)  # bug: TSR0612 tile.reduce_max(row)
        y[i] = top


@run(f(3, 5))
def softmax_over_padding(x: Tile["S", "D"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        row = tile.load(x[i], shape=(8,))
        top = tile.reduce_max(tile.where(tile.arange(8) < tile.context().D, row, -1e30))
        total = tile.sum(tile.exp(row - top), axis=0)  # bug: TSR0612 tile.sum(tile.exp(row - top), axis=0)
        y[i] = total


@run(f(3, 5), f(5, 4))
def products_of_padding(a: Tile["M", "K"], b: Tile["K", "N"], c: Tile["M", "N"]):
    ctx = tile.context()
    acc = tile.zeros((ctx.M, ctx.N))
    for k in tile.range(0, ctx.K, 4):
        left = tile.exp(tile.load(a[:, k : k + 4]))
        right = tile.exp(tile.load(b[k : k + 4, :]))
        acc = tile.mma(left, right, acc)  # bug: TSR0612 tile.mma(left, right, acc)
    tile.store(c, acc)


@run(f(10))
def stores_padding(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(0, tile.context().S, 8):
        v = tile.load(x[i + 1 : i + 9])
        tile.store(y[i : i + 8], v)  # bug: TSR0612 tile.store(y[i : i + 8], v)


@run(f(2, 5).abs() + 1)
def smallest_of_padding(x: Tile["S", "D"], y: Tile["S"]):
    for i in tile.grid(0, tile.context().S, 4):
        v = tile.exp(tile.load(x[i : i + 4], shape=(4, 8)))
        tile.store(y[i : i + 4], tile.min(v - 5.0, axis=1))  # bug: TSR0612 tile.min(v - 5.0, axis=1)


@run(f(3, 5))
def mean_of_padding(x: Tile["S", "D"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        row = tile.load(x[i], shape=(8,))
        y[i] = tile.mean(row)  # bug: TSR0612 tile.mean(row)


@run(f(40))
def masks_one_column_too_few(x: Tile["S"], y: Tile[1]):
    ctx = tile.context()
    total = 0.0
    for i in tile.range(0, ctx.S, 32):
        z = tile.mask_cols(tile.load(x[i : i + 32]), i, ctx.S + 1)
        total += tile.sum(tile.exp(z))  # bug: TSR0612 tile.sum(tile.exp(z))
    y[0] = total


# -- adding


@run(f(5))
def adds_and_reads(x: Tile["S"], y: Tile["S"], total: Tile[1]):
    for i in tile.grid(tile.context().S):
        tile.atomic_add(total[0], x[i] * 2.0)  # bug: TSR0610 tile.atomic_add(total[0], x[i] * 2.0)
        y[i] = tile.load(total[0])


@run(f(5))
def adds_and_writes(x: Tile["S"], total: Tile[1]):
    for i in tile.grid(tile.context().S):
        if i == 3:
            total[0] = 0.0  # bug: TSR0610 total[0]
        else:
            tile.atomic_add(total[0], tile.load(x[i]))
