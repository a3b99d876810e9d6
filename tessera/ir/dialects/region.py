"""Region ops of the tensor dialect: a group of operations that becomes one kernel (or one library call).

A region carries a body whose values stay visible after it: its results are values defined inside, its operands the
values it reads from outside. Nothing is renamed, so fusing is grouping and unfusing is flattening.
"""

from __future__ import annotations

from tessera.ir.record import Kind, OpRecord

REGION_OPS: tuple[OpRecord, ...] = (
    OpRecord("map", Kind.REGION, "xs: tensors",
             "One kernel with parallel axes only: any chain, any broadcast, many outputs."),
    OpRecord("row", Kind.REGION, "xs: tensors, over: sizes = None",
             "One kernel that reduces over one (merged) axis, with elementwise work before, between and after."),
    OpRecord("column", Kind.REGION, "xs: tensors, over: sizes = None",
             "One kernel that reduces over leading axes and keeps the last one, in fixed order."),
    OpRecord("stream", Kind.REGION, "xs: tensors, *, axes: any",
             "One kernel around a contraction whose result is made and used up block by block along `axes` as one, "
             "with the folds and contractions over them, and elementwise work before, between and after."),
    OpRecord("recurrence", Kind.REGION, "xs: tensors",
             "One kernel that takes an axis point by point, and holds what one step leaves for the next."),
    OpRecord("extern", Kind.REGION, "xs: tensors", "One library call, or one view of a tensor that costs nothing."),
    OpRecord("blocks", Kind.REGION, "xs: tensors, *, along: size, rows: size",
             "Regions carried out one after the other for `rows` rows at a time of all that has the size `along`, so "
             "that only so many rows of what is read inside alone exist at once. What leaves that axis is a sum over "
             "it, and added up block by block."),
)  # fmt: skip

MAP, ROW, COLUMN, STREAM, RECURRENCE, EXTERN, BLOCKS = REGION_OPS
