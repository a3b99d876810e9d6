"""Kernels that are refused where they are defined, each with a comment at the place of the fault: its code and the
source that is marked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tessera import Tile, f32, int8, int32, integer, tile

READ: dict[str, Callable[..., Any]] = {}


def read(fn: Callable[..., Any]) -> Callable[..., Any]:
    READ[fn.__name__] = fn
    return fn


@read
def stores_a_matrix_to_a_row(x: Tile["S", "D"], y: Tile["S"]):
    tile.store(y, tile.load(x))  # bug: TSR0221 tile.store(y, tile.load(x))


@read
def stores_a_transposed_block(x: Tile["S", "D"], y: Tile["S", "D"]):
    tile.store(y, tile.transpose(x))  # bug: TSR0221 tile.store(y, tile.transpose(x))


@read
def stores_a_scalar_to_a_row(x: Tile["S", "D"], y: Tile["S", "D"]):
    for i in tile.grid(tile.context().S):
        tile.store(y[i], tile.sum(x[i]))  # bug: TSR0221 tile.store(y[i], tile.sum(x[i]))


@read
def multiplies_what_does_not_fit(a: Tile["M", "K"], b: Tile["N", "K"], c: Tile["M", "N"]):
    tile.store(c, tile.mma(tile.load(a), tile.load(b)))  # bug: TSR0201 tile.load(a)


@read
def adds_a_column_to_a_row(x: Tile["S", "D"], y: Tile["S", "D"]):
    rows = tile.sum(tile.load(x), axis=1)
    tile.store(y, tile.load(x) * rows)  # bug: TSR0202 tile.load(x)


@read
def changes_the_type_of_a_carry(x: Tile["S", "D"], y: Tile["D"]):
    acc = tile.zeros(tile.context().D)
    for i in tile.range(tile.context().S):
        acc = tile.load(x[i], dtype=int32)  # bug: TSR0222 acc
    tile.store(y, acc)


@read
def changes_the_shape_of_a_carry(x: Tile["S", "D"], y: Tile["D"]):
    acc = tile.zeros(tile.context().D)
    for i in tile.range(0, tile.context().S, 4):
        acc = tile.load(x[i : i + 4])  # bug: TSR0222 acc
    tile.store(y, acc)


@read
def leaves_a_grid(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        if i > 3:
            break  # bug: TSR0419 break
        y[i] = tile.load(x[i])


@read
def carries_through_a_grid(x: Tile["S"], y: Tile[1]):
    total = 0.0
    for i in tile.grid(tile.context().S):
        total = total + tile.load(x[i])  # bug: TSR0419 total
    y[0] = total


@read
def stores_floats_as_integers(x: Tile["S", f32], y: Tile["S", int8]):
    tile.store(y, tile.load(x))  # bug: TSR0301 tile.store(y, tile.load(x))


@read
def has_too_many_positions(x: Tile["S", "D"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        y[i] = tile.load(x[i, 0, 0])  # bug: TSR0212 x[i, 0, 0]


@read
def takes_a_block_of_a_size_of_the_run(n: Tile[1, integer], x: Tile["S"], y: Tile["S"]):
    count = n[0]
    v = tile.load(x[0:count])  # bug: TSR0419 x[0:count]
    tile.store(y, v)


@read
def asks_for_a_size_that_is_not_there(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(tile.context().T):  # bug: TSR0404 tile.context().T
        y[i] = tile.load(x[i])


@read
def chooses_by_a_block(x: Tile["S"], y: Tile["S"]):
    v = tile.load(x)
    if v > 0:  # bug: TSR0401 v > 0
        tile.store(y, v)


@read
def uses_what_a_loop_has_left(x: Tile["S"], y: Tile["S"]):
    for i in tile.range(tile.context().S):
        last = tile.load(x[i])
    y[0] = last  # bug: TSR0419 last


@read
def uses_what_one_case_gives(x: Tile["S"], y: Tile["S"]):
    for i in tile.grid(tile.context().S):
        if i > 2:
            v = tile.load(x[i])
        y[i] = v  # bug: TSR0419 v


@read
def opens_a_context(x: Tile["S"], y: Tile["S"]):
    with torch.no_grad():  # bug: TSR0419 with torch.no_grad():
        tile.store(y, tile.load(x))


@read
def catches(x: Tile["S"], y: Tile["S"]):
    try:  # bug: TSR0419 try:
        tile.store(y, tile.load(x))
    except ValueError:
        y[0] = 0.0


@read
def loops_while(x: Tile["S"], y: Tile["S"]):
    i = tile.reduce_max(x)
    while i > 0:  # bug: TSR0419 while i > 0:
        i = i - 1
    tile.store(y, tile.load(x))


@read
def returns_early(x: Tile["S"], y: Tile["S"]):
    if tile.reduce_max(x) > 0:
        return  # bug: TSR0419 return
    tile.store(y, tile.load(x))


@read
def returns_a_value(x: Tile["S"], y: Tile["S"]):
    tile.store(y, tile.load(x))
    return y  # bug: TSR0419 return y


@read
def prints(x: Tile["S"], y: Tile["S"]):
    print("here")  # bug: TSR0419 print("here")
    tile.store(y, tile.load(x))


@read
def computes_with_torch(x: Tile["S"], y: Tile["S"]):
    tile.store(y, torch.exp(tile.load(x)))  # bug: TSR0419 torch.exp(tile.load(x))


@read
def comprehends(x: Tile["S"], y: Tile["S"]):
    rows = [tile.load(x) for _ in range(2)]  # bug: TSR0419 [tile.load(x) for _ in range(2)]
    tile.store(y, rows[0])


@read
def defines_inside(x: Tile["S"], y: Tile["S"]):
    def double(v):  # bug: TSR0419 def double(v):
        return v * 2

    tile.store(y, double(tile.load(x)))


@read
def writes_to_a_loaded_block(x: Tile["S"], y: Tile["S"]):
    v = tile.load(x)
    v[0] = 0.0  # bug: TSR0403 v[0]
    tile.store(y, v)


@read
def writes_nothing(x: Tile["S"], y: Tile["S"]):  # bug: TSR0419 writes_nothing
    tile.load(x)


@read
def steps_in_a_slice(x: Tile["S"], y: Tile["S"]):
    tile.store(y, tile.load(x[::2]))  # bug: TSR0419 x[::2]


@read
def misspells_an_operation(x: Tile["S"], y: Tile["S"]):
    tile.store(y, tile.laod(x))  # bug: TSR0404 tile.laod


@read
def forgets_an_argument(x: Tile["S"], y: Tile["S"]):
    tile.store(y, tile.maximum(tile.load(x)))  # bug: TSR0404 tile.maximum(tile.load(x))
