"""What products read, and what comes of them, through the tensor memory accelerator of newer NVIDIA GPUs: rectangles of
matrices, which it copies between memory and shared memory by itself. Beyond the ends it reads zeros and writes nothing.

A matrix can be described when neighbours along one of its sides are neighbours in memory, and when its address and the
distance between its rows are multiples of 16 bytes. The address is known at the launch alone, so what reads this way
stands beside what reads element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tessera.backends.base import Target
from tessera.backends.triton.blocks import BEYOND, COLS, NARROW, ROWS, Blocks, Side, every
from tessera.backends.triton.statements import dim
from tessera.ir.dialects.tile import LOAD, STORE
from tessera.ir.dim import Dim
from tessera.ir.dim_range import coefficient
from tessera.ir.graph import Operation, Value
from tessera.schedule.plan import ONE, ZERO

#: Addresses and distances of rows are multiples of so many bytes.
BYTES = 16


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A matrix as a descriptor has it: its buffer, the element at which it begins, the sides from row to row and along
    a row, and the distance of rows in elements.
    """

    buffer: Value
    base: Dim
    rows: Side
    cols: Side
    stride: Dim

    @property
    def finished(self) -> bool:
        """Has the matrix an element for each sum?"""
        return (self.rows.block, self.cols.block) == (ROWS, COLS)

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Can the matrix be read so at these sizes, if its buffer begins at a multiple of 16 bytes?"""
        width = self.buffer.type.dtype.bytes
        base, stride = (e.evaluate(sizes, signed=True) * width for e in (self.base, self.stride))
        return stride > 0 and stride % BYTES == 0 and base % BYTES == 0


def has_descriptors(target: Target) -> bool:
    """Has a target such an accelerator?"""
    return target.kind == "cuda" and target.arch.isdigit() and int(target.arch) >= 90


def descriptors(t: Blocks) -> Mapping[Operation, Descriptor]:
    """How each matrix that is read for products of tiles can be described; nothing where one of them cannot."""
    if t.walks or not t.products or not has_descriptors(t.target) or not {ROWS, COLS} <= t.by_block.keys():
        return {}
    found: dict[Operation, Descriptor] = {}
    inside = [o for o in every((t.swept,)) if o.body is not None and o is not t.swept]
    for op in (o for sweep in inside for o in every((sweep,)) if o.record is LOAD):
        made = _descriptor(t, op)
        if made is not None and made.buffer.type.dtype.name in NARROW:
            found[op] = made
        elif len({t.home[n].block for n in dim(op.attrs["index"]).names() & t.home.keys()}) > 1:
            return {}
    for op in beside(t) if found else ():
        made = _descriptor(t, op)
        if made is not None and made.finished:
            found[op] = made
    return found


def beside(t: Blocks) -> list[Operation]:
    """The accesses to what has an element for each sum: what is written, and what is read with it."""
    assert t.swept.body is not None
    flat = [o for o in t.swept.body.ops if o.record in (LOAD, STORE)]
    return [o for o in flat if {ROWS, COLS} <= {t.home[n].block for n in dim(o.attrs["index"]).names() & t.home.keys()}]


def _descriptor(t: Blocks, op: Operation) -> Descriptor | None:
    e = dim(op.attrs["index"])
    axes = sorted(e.names() & t.home.keys())
    sides = {t.home[a] for a in axes}
    taken = 2 if op.record is STORE else 1
    if len(op.operands) > taken or op.attrs.get("guard") or len(sides) != 2 or any(len(s.axes) > 1 for s in sides):
        return None
    buffer = op.operands[0]
    slopes = {a: coefficient(e, a) for a in axes}
    base = e.substitute(dict.fromkeys(axes, ZERO))
    if not isinstance(buffer, Value) or buffer.type.dtype.name not in (*NARROW, "f32"):
        return None
    known = [s for s in slopes.values() if s is not None]
    if len(known) < 2 or any(d.names() & t.scope for d in (*known, base)) or ONE not in known:
        return None
    cols = next(a for a, s in slopes.items() if s is ONE)
    (rows,) = (a for a in axes if a != cols)
    stride = slopes[rows]
    assert stride is not None
    return Descriptor(buffer, base, t.home[rows], t.home[cols], stride)


def end(t: Blocks, s: Side) -> Dim:
    """Where a matrix ends along a side, whose pieces are all parts of it."""
    return s.extent if s.lo[0] is ZERO else s.hi[0].substitute(dict.fromkeys(t.single, Dim.const(BEYOND)))


def described(t: Blocks, sizes: Mapping[str, int], held: Mapping[str, int]) -> bool:
    """Do all matrices of a nest fit a descriptor at these sizes, pieces of sums a number of blocks, and blocks what is
    written by addresses?
    """
    found, pieces = descriptors(t), [s for s in t.inner if s.lo[0] is not ZERO]
    if any(o not in found for o in beside(t)) and any(t.extents_of(s, sizes)[0] % held[s.block] for s in t.tiled):
        return False  # bounds would have to be kept in registers from one tile to the next
    whole = all(t.extents_of(s, sizes)[0] % held[s.block] == 0 for s in pieces)
    return bool(found) and whole and all(d.fits(sizes) for d in found.values())
