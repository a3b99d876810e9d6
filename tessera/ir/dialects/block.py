"""Block programs: what a hand-written kernel says, before its blocks become loops over points.

A block program is a Function of dialect ``block``. Its parameters are buffers and scalars; what it computes with are
blocks, values with a TensorType that lie on the chip, and the operations on them are those of the tensor dialect. The
records here are what the tensor dialect does not have: memory, and control over when something happens.

A window says which part of a buffer is meant: for each of its dims the first position, how many there are, the position
before which it ends, and what it is: 0 for a dim of the block, 1 for a single position, 2 for a dim of the block whose
end may lie beyond the window, where nothing is read or written. Window expressions are Dims over the sizes and over the
axes of the loops around; ``_l0``, ``_l1``, … stand for the values of the lookup operands, integers of rank 0.
"""

from __future__ import annotations

from tessera.ir.record import Kind, OpRecord

EACH = OpRecord(
    "each", Kind.CONTROL, "lookups: tensors, *, axis: str, lo: size, hi: size, step: size",
    "Independent iterations, in any order or at once: the body for every position of the axis.",
)  # fmt: skip
LOOP = OpRecord(
    "loop", Kind.CONTROL,
    "xs: tensors, *, axis: str, lo: size, hi: size, step: size, carries: int, stops: bool = False",
    "Iterations one after the other. The first operands are what the carries begin as, further ones are lookups; the "
    "body yields the next carries. With `stops` it yields before them whether this iteration is the last.",
)  # fmt: skip
CHOOSE = OpRecord(
    "choose", Kind.CONTROL, "when: tensor",
    "One of two cases: the first where the condition, a bool of rank 0, is true. Gives what the case yields.",
)  # fmt: skip
CASE = OpRecord("case", Kind.CONTROL, "", "One of the two cases of a choice.")
FETCH = OpRecord(
    "fetch", Kind.TILE, "buffer: tensor, lookups: tensors, *, at: any, other: number = None",
    "A block from the window `at` of a buffer; beyond the end of the window `other`, or 0 where nothing should depend "
    "on it.",
)  # fmt: skip
PUT = OpRecord(
    "put", Kind.TILE, "buffer: tensor, value: tensor, lookups: tensors, *, at: any, adds: bool = False",
    "Write a block to the window `at` of a buffer, cast to the buffer's dtype; what lies beyond its end is dropped. "
    "With `adds` it is added to what is there, by as many iterations as there are, in any order.",
)  # fmt: skip
SEND = OpRecord(
    "send", Kind.TILE, "source: tensor, target: tensor, lookups: tensors, *, at: any, to: any",
    "Begin to copy the window `at` of one buffer to the window `to` of another; complete after a `wait`.",
)  # fmt: skip
WAIT = OpRecord("wait", Kind.TILE, "*, pending: int = 0", "Go on once at most so many copies are under way.")
NUMBER = OpRecord("number", Kind.TILE, "lookups: tensors, *, of: size", "The value of a size expression, int64.")
DEBUG_PRINT = OpRecord(
    "debug_print", Kind.TILE, "xs: tensors, *, text: str", "Print a text, with the values in the place of its braces.",
)  # fmt: skip
FILLED = OpRecord(
    "filled", Kind.TILE, "x: tensor, *, dim: dims",
    "The block itself, where what follows counts all its lanes along some axes: none of them may be padding.",
)  # fmt: skip
PART = OpRecord(
    "part", Kind.CONTROL, "xs: tensors",
    "Operations on blocks that are carried out together, with no memory between them: its operands are the values that "
    "it reads, its results those of its body that others read.",
)  # fmt: skip

BLOCK_OPS: tuple[OpRecord, ...] = (
    EACH, LOOP, CHOOSE, CASE, FETCH, PUT, SEND, WAIT, NUMBER, FILLED, DEBUG_PRINT, PART,
)  # fmt: skip
