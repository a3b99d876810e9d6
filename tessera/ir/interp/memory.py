"""Buffers of a kernel with a memory of who wrote and who read: unwritten elements and races are errors,
not accidents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tessera.diag import BoundsError, Label, RaceError
from tessera.ir.graph import Operation
from tessera.ir.interp.convert import Array, holder, round_to, settle
from tessera.ir.types import BufferType

_NOBODY, _SEVERAL = -1, -2


@dataclass(frozen=True)
class Points:
    """Where one memory operation runs: an element offset for each active point, flattened in loop order.

    ``iteration`` is the number of the parallel iteration, ``step`` that of the point in its sweep, ``sweep``
    that of the sweep (-1 outside).
    """

    offset: Array
    iteration: Array
    step: Array
    sweep: int


@dataclass
class Memory:
    """One buffer as a flat array."""

    name: str
    type: BufferType
    data: Array
    written: Array | None
    exact: bool
    writer: Array = field(init=False)
    writer_sweep: Array = field(init=False)
    writer_step: Array = field(init=False)
    reader: Array = field(init=False)

    def __post_init__(self) -> None:
        self.begin_nest()

    @staticmethod
    def given(name: str, kind: BufferType, array: Array, exact: bool) -> Memory:
        """A buffer that arrives with contents."""
        a = settle(array, kind.dtype).reshape(-1)
        if kind.dtype.is_float and not exact:
            a = round_to(a, kind.dtype)
        return Memory(name, kind, a.copy(), None, exact)

    @staticmethod
    def fresh(name: str, kind: BufferType, count: int, exact: bool) -> Memory:
        """A buffer without contents: every element must be written before it is read."""
        return Memory(name, kind, np.zeros(count, holder(kind.dtype)), np.zeros(count, bool), exact)

    def begin_nest(self) -> None:
        """Iterations of the previous nest have all ended: what they did is no race any more."""
        if self.type.role == "in":
            return
        count = self.data.size
        self.writer = np.full(count, _NOBODY, np.int64)
        self.writer_sweep = np.full(count, _NOBODY, np.int64)
        self.writer_step = np.full(count, _NOBODY, np.int64)
        self.reader = np.full(count, _NOBODY, np.int64)

    def load(self, op: Operation, at: Points) -> Array:
        """The elements at the points. Raises BoundsError (TSR0605) and RaceError (TSR0610)."""
        self._inside(op, at.offset, "read")
        if self.type.role == "in":
            return self.data[at.offset]
        if self.written is not None and not self.written[at.offset].all():
            where = int(at.offset[~self.written[at.offset]][0])
            raise RaceError(
                f"element {where} of `{self.name}` is read before it is written", labels=labels_of(op)
            )
        writer = self.writer[at.offset]
        self._refuse(
            op,
            at,
            (writer != _NOBODY) & (writer != at.iteration),
            "is read while another iteration writes it",
        )
        same = (self.writer_sweep[at.offset] == at.sweep) & (at.sweep >= 0)
        self._refuse(
            op,
            at,
            same & (self.writer_step[at.offset] != at.step),
            "is read in the sweep that writes it elsewhere",
        )
        before = self.reader[at.offset]
        self.reader[at.offset] = at.iteration
        others = (before != _NOBODY) & (before != at.iteration) | (self.reader[at.offset] != at.iteration)
        self.reader[at.offset[others]] = _SEVERAL
        return self.data[at.offset]

    def store(self, op: Operation, at: Points, values: Array) -> None:
        """Write the elements at the points; a later point of the same iteration wins. Raises as ``load``."""
        self._inside(op, at.offset, "written")
        new = settle(values, self.type.dtype)
        if self.type.dtype.is_float and not self.exact:
            new = round_to(new, self.type.dtype)
        reader = self.reader[at.offset]
        self._refuse(
            op,
            at,
            (reader != _NOBODY) & (reader != at.iteration),
            "is written while another iteration reads it",
        )
        before = self.writer[at.offset]
        differs = ~_equal(self.data[at.offset], new)
        self._refuse(
            op, at, (before != _NOBODY) & (before != at.iteration) & differs, "is written with two values"
        )
        self.data[at.offset] = new
        self.writer[at.offset] = at.iteration
        lost = (self.writer[at.offset] != at.iteration) & ~_equal(self.data[at.offset], new)
        self._refuse(op, at, lost, "is written with two values")
        self.writer_sweep[at.offset], self.writer_step[at.offset] = at.sweep, at.step
        if self.written is not None:
            self.written[at.offset] = True

    def _inside(self, op: Operation, offset: Array, verb: str) -> None:
        bad = (offset < 0) | (offset >= self.data.size)
        if bad.any():
            where = int(offset[bad][0])
            raise BoundsError(
                f"element {where} of `{self.name}` is {verb}, which has {self.data.size}", labels=labels_of(op)
            )

    def _refuse(self, op: Operation, at: Points, bad: Array, what: str) -> None:
        if bad.any():
            raise RaceError(f"element {int(at.offset[bad][0])} of `{self.name}` {what}", labels=labels_of(op))


def _equal(a: Array, b: Array) -> Array:
    return (a == b) | ((a != a) & (b != b))


def labels_of(op: Operation) -> Sequence[Label]:
    """The place of an operation, where it has one."""
    return [Label(op.span, f"in `{op.name}`", primary=True)] if op.span is not None else []
