"""Tile ops: what a kernel is made of. Elementwise and reduce records are shared with the tensor dialect.

A kernel is a Function of dialect ``tile``. Its parameters are buffers (``BufferType``) and scalars; its body is a
sequence of ``nest`` ops, each completed before the next begins. Inside, values have ``TileType``: one element per
point of the axes they depend on. Index expressions are Dims over axis names and size names; a name ``_l0``, ``_l1``, …
in an index stands for the value of the op's first, second, … lookup operand (an integer read from memory, already
checked and made non-negative by ``lookup``).

A sweep may stand inside another one. A fold (a REDUCE op or ``mma``) runs over the axes of one of the sweeps around it
and is complete when that sweep is. An implementation takes a sweep in blocks of any size, one after the other; what a
fold has reached within its own sweep is read with ``running``. A fold may take one operand more than its record says:
a factor by which what was folded before a block is multiplied when the block joins it. A scan (a SCAN op) goes along
the one axis of the sweep it stands in, whose points are then taken in order; its result at a point may be read there.

In a nest that walks its vector axis, the points of that axis follow each other in one iteration over the other axes.
What they have in common they add up in memory with ``accumulate``.

An ordered sweep takes one point after the other. What a point leaves for the next is in ``local`` memory, of which each
point of the nest has its own; a sweep inside reads and writes each of its elements at one point only.
"""

from __future__ import annotations

from tessera.ir.record import Kind, OpRecord

NEST = OpRecord(
    "nest", Kind.TILE, "axes: any, extents: sizes, vector: str, when: any = None, walk: any = None",
    "Independent iterations over the parallel axes, in any order; `vector` is the axis whose points share a vector. "
    "With `when`, a size and its bounds of which one may be none, the nest only runs for sizes within them. With "
    "`walk`, two bounds that may depend on the other axes, the points of the vector axis go from the one to the other, "
    "in their order, within one iteration.",
)  # fmt: skip
SWEEP = OpRecord(
    "sweep", Kind.TILE, "axes: any, lo: sizes, hi: sizes, alive: any = None, ordered: bool = False",
    "Iterations over further axes inside a nest, row-major. Reduce ops inside fold over these axes; a later sweep over "
    "the same range may read what this one computed. Outside of `alive`, a pair of bounds of the last axis either of "
    "which may be none, a point adds nothing to any fold and may be left out. With `ordered`, one point follows the "
    "other, and reads what that left in local memory.",
)  # fmt: skip
LOCAL = OpRecord(
    "local", Kind.TILE, "", "Memory that each point of the nest has for itself, as its type says; empty at first.",
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
MMA = OpRecord(
    "mma", Kind.TILE, "a: tensor, b: tensor, factor: tensor? = None, *, over: any, dtype: dtype",
    "The sum of the products of two values over the axes of a sweep around it, in `dtype`; for `factor` see above.",
    flops=2,
)  # fmt: skip
ACCUMULATE = OpRecord(
    "accumulate", Kind.TILE, "buffer: tensor, a: tensor, b: tensor, *, index: sizes, over: any",
    "Add to one element of a buffer the sum of the products of two values over the axis that the nest walks.", flops=2,
)  # fmt: skip
RUNNING = OpRecord(
    "running", Kind.TILE, "x: tensor, *, before: bool = False",
    "What a fold has reached inside its own sweep: after the block that is being folded, or `before` it.",
)  # fmt: skip
GATE = OpRecord(
    "gate", Kind.TILE, "alive: tensor",
    "Where this is false, a point of the sweep adds nothing to any fold: a block without a true one may be left out.",
)  # fmt: skip
TILE_OPS: tuple[OpRecord, ...] = (NEST, SWEEP, LOCAL, LOAD, STORE, INDEX, LOOKUP, MMA, ACCUMULATE, RUNNING, GATE)
