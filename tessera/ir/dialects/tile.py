"""Tile ops: what a kernel is made of. Elementwise and reduce records are shared with the tensor dialect.

A kernel is a Function of dialect ``tile``. Its parameters are buffers (``BufferType``) and scalars; its body is a
sequence of ``nest`` ops, each completed before the next begins. Inside, values have ``TileType``: one element per
point of the axes they depend on. Index expressions are Dims over axis names and size names; a name ``_l0``, ``_l1``, …
in an index stands for the value of the op's first, second, … lookup operand (an integer read from memory, already
checked and made non-negative by ``lookup``).
"""

from __future__ import annotations

from tessera.ir.record import Kind, OpRecord

NEST = OpRecord(
    "nest", Kind.TILE, "axes: any, extents: sizes, vector: str",
    "Independent iterations over the parallel axes, in any order; `vector` is the axis whose points share a vector.",
)  # fmt: skip
SWEEP = OpRecord(
    "sweep", Kind.TILE, "axes: any, lo: sizes, hi: sizes",
    "Iterations over further axes inside a nest, row-major. Reduce ops inside fold over these axes; a later sweep over "
    "the same range may read what this one computed.",
)  # fmt: skip
LOAD = OpRecord(
    "load", Kind.TILE, "buffer: tensor, lookups: tensors, index: sizes, guard: any = None",
    "One element of a buffer per point. `guard` is a tuple of (expression, lo, hi): outside of it nothing is read and "
    "the value is 0.",
)  # fmt: skip
STORE = OpRecord("store", Kind.TILE, "buffer: tensor, value: tensor, index: sizes, guard: any = None",
                 "Write one element per point, cast to the buffer's dtype; skipped outside the guard.")  # fmt: skip
INDEX = OpRecord("position", Kind.TILE, "of: size", "The value of an index expression at each point, int64.")
LOOKUP = OpRecord(
    "lookup", Kind.TILE, "x: tensor, size: size, wraps: bool = False",
    "An index read from memory made usable: outside [0, size) is an error; with `wraps` negative ones down to -size "
    "count from the end.",
)  # fmt: skip
TILE_OPS: tuple[OpRecord, ...] = (NEST, SWEEP, LOAD, STORE, INDEX, LOOKUP)
