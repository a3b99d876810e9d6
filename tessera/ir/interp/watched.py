"""Memory that remembers: which iteration read and wrote each element, what has contents, which copies are under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tessera.diag import BoundsError, Label, RaceError
from tessera.ir.graph import Operation
from tessera.ir.interp.convert import Array, round_to, settle
from tessera.ir.interp.memory import labels_of
from tessera.ir.types import BufferType
from tessera.ir.window import SINGLE, TAIL, Row

_NOBODY = -1
Env = Mapping[str, int]


@dataclass
class Iterations:
    """Numbers for the iterations of grids: ``around`` are those that run now, the outermost first."""

    around: list[int] = field(default_factory=lambda: [0])
    count: int = 1
    #: Values of the axes of the grids around, for messages.
    at: dict[str, int] = field(default_factory=dict)

    def begin(self, axis: str, value: int) -> None:
        self.around.append(self.count)
        self.count += 1
        self.at[axis] = value

    def end(self, axis: str) -> None:
        self.around.pop()
        del self.at[axis]

    def __str__(self) -> str:
        return ", ".join(f"{axis} = {n}" for axis, n in self.at.items()) or "outside of every grid"


@dataclass(frozen=True)
class Place:
    """The part of a buffer that a window means: ``key`` selects what lies inside of it, ``inner`` that part of the
    block, whose shape is ``shape`` and, with the single positions as axes of length 1, ``full``.
    """

    key: tuple[slice, ...]
    inner: tuple[slice, ...]
    full: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def whole(self) -> bool:
        return all(k.stop - k.start == n for k, n in zip(self.inner, self.full, strict=True))


def place(op: Operation, rows: Sequence[Row], name: str, sizes: Sequence[int], env: Env) -> Place:
    """Where a window lies. Raises BoundsError (TSR0605) where it leaves the buffer, but for a partial last block."""
    key, inner, full, shape = [], [], [], []
    for axis, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        start = row.start.evaluate(env, signed=True)
        count = row.extent.evaluate(env, signed=True)
        end = min(row.end.evaluate(env, signed=True), size)
        stop = start + count
        inside = start >= 0 and (stop <= end or count == 0)
        if row.kind == TAIL and 0 <= start < max(end, 1):
            inside = True
        if not inside:
            raise _outside(op, row, name, axis, (start, stop, end))
        last = max(min(stop, end), start)
        key.append(slice(start, last))
        inner.append(slice(0, last - start))
        full.append(count)
        if row.kind != SINGLE:
            shape.append(count)
    return Place(tuple(key), tuple(inner), tuple(full), tuple(shape))


def _outside(op: Operation, row: Row, name: str, axis: int, at: tuple[int, int, int]) -> BoundsError:
    start, stop, end = at
    verb = "written" if op.name == "put" else "read"
    if row.kind == SINGLE:
        text, helps = f"index {start} in dim {axis} of `{name}`, which has {end}", []
    else:
        text = f"positions {start} to {stop - 1} of dim {axis} of `{name}` are {verb}, which has {end}"
        helps = ["only the last block of steps as large as the block may be a partial one"]
    labels = [Label(label.span, text.split(" of `")[0], True) for label in labels_of(op)]
    return BoundsError(text, labels=labels, helps=helps)


@dataclass
class Watched:
    """One buffer. ``data`` has its shape; ``written`` is None where everything has contents."""

    name: str
    type: BufferType
    data: Array
    written: Array | None
    exact: bool
    iterations: Iterations
    writer: Array | None = field(init=False, default=None)
    reader: Array | None = field(init=False, default=None)
    adder: Array | None = field(init=False, default=None)
    busy: Array | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.type.role == "local":
            self.busy = np.zeros(self.data.shape, np.int32)
        if self.type.role != "in":
            self.writer = np.full(self.data.shape, _NOBODY, np.int64)
            self.reader = np.full(self.data.shape, _NOBODY, np.int64)
            self.adder = np.full(self.data.shape, _NOBODY, np.int64)

    def load(self, op: Operation, at: Place) -> Array:
        """The elements of the place that lie inside. Raises RaceError (TSR0610, TSR0613)."""
        if self.written is not None and not self.written[at.key].all():
            self._refuse(op, at, ~self.written[at.key], "is read and has no contents", "TSR0613")
        self._idle(op, at, "is read")
        if self.writer is not None:
            writer = self.writer[at.key]
            self._refuse(op, at, self._foreign(writer), "is read here and written by another iteration")
            self._refuse(op, at, self._shared(self.adder, at), "is read here and added to by another iteration")
            self._mark(self.reader, at)
        return self.data[at.key]

    def store(self, op: Operation, at: Place, values: Array) -> None:
        """Write the elements that lie inside. Raises RaceError (TSR0610, TSR0613)."""
        self._idle(op, at, "is written")
        if self.writer is not None and self.reader is not None:
            self._refuse(op, at, self._foreign(self.writer[at.key]), "is written by two iterations")
            self._refuse(op, at, self._shared(self.reader, at), "is written here and read by another iteration")
            self._refuse(op, at, self._shared(self.adder, at), "is written here and added to by another iteration")
            self.writer[at.key] = self.iterations.around[-1]
        self.put(at, values)

    def add(self, op: Operation, at: Place, values: Array) -> None:
        """Add to the elements that lie inside, as others may at the same time. Raises RaceError (TSR0610, TSR0613)."""
        if self.written is not None and not self.written[at.key].all():
            self._refuse(op, at, ~self.written[at.key], "is added to and has no contents", "TSR0613")
        self._idle(op, at, "is written")
        if self.writer is not None:
            foreign = self._foreign(self.writer[at.key])
            self._refuse(op, at, foreign, "is added to here and written by another iteration")
            self._refuse(op, at, self._shared(self.reader, at), "is added to here and read by another iteration")
            self._mark(self.adder, at)
        self.put(at, self.data[at.key] + values)

    def put(self, at: Place, values: Array) -> None:
        """The contents alone, cast to the dtype of the buffer."""
        new = settle(values, self.type.dtype)
        if self.type.dtype.is_float and (not self.exact or self.type.dtype.bits < 32):
            new = round_to(new, self.type.dtype)
        self.data[at.key] = new
        if self.written is not None:
            self.written[at.key] = True

    def begin_copy(self, op: Operation, at: Place) -> None:
        """A copy to this place is under way from here on."""
        assert self.busy is not None
        self._idle(op, at, "is written")
        self.busy[at.key] += 1

    def end_copy(self, at: Place, values: Array) -> None:
        assert self.busy is not None
        self.busy[at.key] -= 1
        self.put(at, values)

    def merge(self, first: int, owner: int) -> None:
        """The iterations from ``first`` on have ended: what they did, the ``owner`` of their grid has done."""
        for marks in (self.writer, self.reader, self.adder):
            if marks is not None:
                marks[(marks >= first) | (marks == -(owner + 2))] = owner

    def _idle(self, op: Operation, at: Place, verb: str) -> None:
        if self.busy is not None and self.busy[at.key].any():
            help_ = "`tile.wait()` stands before what reads the copy"
            self._refuse(op, at, self.busy[at.key] > 0, f"{verb} while a copy to it is under way", "TSR0613", help_)

    def _foreign(self, marks: Array) -> Array:
        """Where a mark is that of an iteration which may run at the same time as this one."""
        found = marks >= 0
        for n in self.iterations.around:
            found &= marks != n
        return found

    def _shared(self, marks: Array | None, at: Place) -> Array:
        """Where marks that several iterations may leave are not of this one alone."""
        assert marks is not None
        found: Array = self._foreign(marks[at.key]) | (marks[at.key] < _NOBODY)
        return found

    def _mark(self, marks: Array | None, at: Place) -> None:
        assert marks is not None
        before = marks[at.key]
        foreign = self._foreign(before)
        several = before < _NOBODY
        marks[at.key] = np.where(several, before, self.iterations.around[-1])
        if foreign.any():
            # Several iterations of one grid did it; the grid is that of the iteration around the last of these.
            owner = max(n for n in self.iterations.around[:-1] if n <= int(before[foreign].min()))
            marks[at.key][foreign & ~several] = -(owner + 2)

    def _refuse(self, op: Operation, at: Place, bad: Array, what: str, code: str = "TSR0610", help_: str = "") -> None:
        if not bad.any():
            return
        first = np.argwhere(bad)[0]
        index = [int(n) + k.start for n, k in zip(first, at.key, strict=True)]
        text = f"element [{', '.join(map(str, index))}] of `{self.name}` {what}"
        labels = [Label(label.span, what, True) for label in labels_of(op)]
        notes = [f"in the iteration {self.iterations}"] if self.iterations.at else []
        raise RaceError(text, code=code, labels=labels, notes=notes, helps=[help_] if help_ else [])
