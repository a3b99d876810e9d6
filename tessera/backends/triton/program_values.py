"""Values of a block program as Triton text: blocks in registers, and what is worked out at positions of its own.

Every dim of a block is as long as the next power of two; what lies beyond its true length means nothing. A value is
either *whole*, a variable with one lane an element, or it is written out where it is read, at coordinates: index
expressions over the lanes of the block that is being written about, its ``frame``. Views and lookups put their
coordinates into what they read, down to the addresses of loads; a whole value is read at coordinates by a gather.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tessera.backends.triton import intrinsics
from tessera.backends.triton.fold import Trace
from tessera.backends.triton.program_frames import Coordinates, Frames, Lanes
from tessera.backends.triton.program_plan import ZERO, axis_map, mapped
from tessera.ir.dialects import OPS
from tessera.ir.dialects.block import FILLED, NUMBER
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, compute_dtype, f32, int8, int64
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.ir.record import Kind, Lookup, Piece
from tessera.ir.types import ScalarType, TensorType, TileType
from tessera.schedule.ranges import provably_ge
from tessera.schedule.tilebuild import Container, Expr, Namespace, TileBuilder, unwrap

_CAST = OPS["cast"]


@dataclass
class ProgramValues(Frames):
    """Writes values of a program: blocks in variables, and elements at coordinates."""

    # -- reading

    def text(self, x: Operand, t: DType = f32, alone: bool = False) -> str:
        if isinstance(x, Literal) and isinstance(x.value, Dim):
            value = self.dim(x.value)
            if value.is_const:
                return intrinsics.literal(value.value, t, alone)
            return f"tl.cast({self.exprs.text(value)}, {intrinsics.type_name(t)})"
        return super().text(x, t, alone)

    def block(self, x: Operand, t: TensorType) -> str:
        """An operand as a block of its own shape and dtype."""
        if isinstance(x, Value) and x in self.values:
            return self.values[x]
        scalar = isinstance(x, Value) and isinstance(x.type, ScalarType)
        text = self.cast(x, t.dtype) if scalar else self.text(x, t.dtype, alone=True)
        if not t.rank:
            return text
        return f"tl.full({self.shape(self.extents(t.dims))}, {text}, {intrinsics.type_name(t.dtype)})"

    def read(self, x: Value, at: Coordinates) -> Lanes:
        """A value at coordinates, in its own dtype."""
        if not isinstance(x.type, TensorType) or not x.type.rank:
            return Lanes(self.text(x))
        if x in self.values:
            return self.aligned(x, at) or self.gathered(x, at)
        return self.element(self.makers[x], at)

    def aligned(self, x: Value, at: Coordinates) -> Lanes | None:
        """A variable whose axes are axes of the frame; None where a coordinate is no lane."""
        own = self.extents(x.type.dims)
        axes = mapped(at, own, self.identity, self.frame)
        if axes is None:
            return None
        return self.turned(self.values[x], own, axes)

    def turned(self, text: str, own: Sequence[int], axes: Sequence[int | None]) -> Lanes:
        """A block with its axes where the frame has them."""
        kept = [a for a in axes if a is not None]
        lanes = frozenset(a for a in kept if self.padded(self.frame[a]) > 1)
        if list(axes) == list(range(len(self.frame))):
            return Lanes(text, lanes)
        if kept != sorted(kept):
            order = [n for n, a in enumerate(axes) if a is None] + [axes.index(a) for a in sorted(kept)]
            text = self.define("turned", f"tl.permute({text}, {order})")
            own, axes, kept = [own[n] for n in order], [axes[n] for n in order], sorted(kept)
            if axes == list(range(len(self.frame))):
                return Lanes(text, lanes)
        if len(kept) == len(axes) and kept:
            return Lanes(self.spread(text, kept), lanes)
        shape = [self.padded(n) if a in kept else 1 for a, n in enumerate(self.frame)]
        if not shape:
            return Lanes(self.define("only", f"tl.sum(tl.reshape({text}, [1]), axis=0)"))
        if len(own) == len(shape) and all(a is None or a == n for n, a in enumerate(axes)):
            return Lanes(text, lanes)
        return Lanes(self.define("shaped", f"tl.reshape({text}, {shape})"), lanes)

    def gathered(self, x: Value, at: Coordinates) -> Lanes:
        """A variable read at coordinates that other lanes hold: all lanes in a row, and their numbers."""
        own = [self.padded(n) for n in self.extents(x.type.dims)]
        total, flat = 1, ZERO
        for e, count in zip(reversed(at), reversed(own), strict=True):
            flat = flat + e * total
            total *= count
        axes = self.lanes_of(flat)
        shape = [self.padded(n) if a in axes else 1 for a, n in enumerate(self.frame)]
        narrow = x.type.dtype.is_bool
        row = f"tl.reshape({self.values[x]}{'.to(tl.int8)' if narrow else ''}, [{total}])"
        number = f"tl.minimum(tl.maximum({self.place(flat)}, 0), {total - 1})"
        if not axes:
            where = f"tl.arange(0, {total}) == {number}"
            zero = intrinsics.literal(0, int8 if narrow else x.type.dtype)
            text = self.define("picked", f"tl.sum(tl.where({where}, {row}, {zero}), axis=0)")
            to = intrinsics.type_name(x.type.dtype)
            return Lanes(self.define("picked", f"{text} != 0" if narrow else f"{text}.to({to})"))
        count = 1
        for n in shape:
            count *= n
        lanes = self.define("at", f"tl.reshape(({number}).to(tl.int32), [{count}])")
        text = self.define("gathered", f"tl.reshape(tl.gather({row}, {lanes}, 0), {shape})")
        return Lanes(self.define("gathered", f"{text} != 0") if narrow else text, axes)

    # -- elements

    def element(self, op: Operation, at: Coordinates) -> Lanes:
        """The result of an operation at coordinates."""
        kind = op.record.kind
        if op.record is FILLED:
            (x,) = op.operands
            assert isinstance(x, Value)
            return self.read(x, at)
        if kind is Kind.MAP:
            return self.mapped(op, at)
        if kind in (Kind.VIEW, Kind.INDEX):
            return self.viewed(op, at)
        if kind in (Kind.CREATE, Kind.RANDOM):
            return self.created(op, at)
        return self.fetched(op, at)

    def fetched(self, op: Operation, at: Coordinates) -> Lanes:
        raise self.refuse(op, f"`{op.name}`")

    def broadcast(self, x: Operand, at: Coordinates) -> Coordinates:
        """The coordinates of an operand, whose axes are the last ones; those of length 1 are repeated."""
        dims = x.type.dims
        own = at[len(at) - len(dims) :]
        return tuple(ZERO if n == 1 else e for e, n in zip(own, self.extents(dims), strict=True))

    def mapped(self, op: Operation, at: Coordinates) -> Lanes:
        to = op.result.type.dtype
        texts = [self.operand(x, at) for x in op.operands]
        axes = frozenset(a for t in texts if t is not None for a in t.axes)
        if op.record is _CAST:
            (x,), (text,) = op.operands, texts
            return Lanes(self.cast(x, to) if text is None else self.converted(text.text, x.type.dtype, to), axes)
        return Lanes(self.scalar(op, texts), axes)

    def operand(self, x: Operand, at: Coordinates) -> Lanes | None:
        """An operand of a definition at coordinates; None for numbers, which it takes as they are."""
        if isinstance(x, Literal) or isinstance(x.type, ScalarType):
            return None
        return self.read(x, self.broadcast(x, at))

    def scalar(self, op: Operation, texts: Sequence[Lanes | None]) -> str:
        """A definition over scalars, written out over lanes."""
        names = Namespace(TileBuilder(Container(), {}), op)
        made = names.apply(op.record, self.arguments(op, texts), op.attrs)
        return self.written(Trace(tuple(names.build.top.ops), (made,)), op.result.type.dtype)

    def arguments(self, op: Operation, texts: Sequence[Lanes | None]) -> tuple[Operand, ...]:
        """Operands as definitions take them, in the dtypes that they are computed in."""
        xs: list[Operand] = []
        for x, lanes in zip(op.operands, texts, strict=True):
            own = compute_dtype(x.type.dtype)
            xs.append(x if lanes is None else self.given(self.converted(lanes.text, x.type.dtype, own), own))
        return tuple(xs)

    def given(self, text: str, t: DType) -> Value:
        """A text as a value that definitions take."""
        v = Value("x", TileType(t, ()))
        self.values[v] = text
        return v

    def written(self, trace: Trace, to: DType) -> str:
        """The operations of a definition, each in a variable; gives the result in a dtype."""
        for o in trace.ops:
            self.values[o.result] = self.define(o.name, self.expression(o, o.operands))
        (made,) = trace.results
        if isinstance(made, Value) and isinstance(made.type, TileType):
            return self.converted(self.values[made], made.type.dtype, to)
        return self.cast(made, to)

    def converted(self, text: str, old: DType, new: DType) -> str:
        """A text in another dtype; narrow floats go by way of the one that they are computed in."""
        if old is new:
            return text
        wide = compute_dtype(old) if old.is_float else old
        if wide is not old:
            text = f"{_atom(text)}.to({intrinsics.type_name(wide)})"
            if wide is new:
                return self.define("wide", text)
            text = self.define("wide", text)
        return self.define("cast", intrinsics.cast(_atom(text), wide, new))

    def created(self, op: Operation, at: Coordinates) -> Lanes:
        names = Namespace(TileBuilder(Container(), {}), op)
        where = [self.given("", int64) for _ in at]
        xs = self.arguments(op, [self.operand(x, ()) for x in op.operands])
        attrs: dict[str, Any] = {k: self.dim(v) if isinstance(v, Dim) else v for k, v in op.attrs.items()}
        assert op.record.define is not None
        made = op.record.define(
            names, [Expr(names, v) for v in where], op.result.type, *(Expr(names, x) for x in xs), **attrs
        )
        trace = Trace(tuple(names.build.top.ops), (unwrap(made),))
        axes: frozenset[int] = frozenset()
        for v, e in zip(where, at, strict=True):
            if trace.reads(v):
                self.values[v] = self.define("at", f"tl.cast({self.place(e)}, tl.int64)")
                axes |= self.lanes_of(e)
        return Lanes(self.written(trace, op.result.type.dtype), axes)

    # -- views and lookups

    def viewed(self, op: Operation, at: Coordinates) -> Lanes:
        """The elements of a view: the first piece whose box holds them says where each comes from."""
        t = op.result.type
        assert op.record.pieces is not None and isinstance(t, TensorType)
        pieces = op.record.pieces(at, [x.type for x in op.operands], t, op.attrs)
        *first, last = pieces
        tests = [self.boxed(p, at) for p in first]
        known = next((n for n, test in enumerate(tests) if test is not None and not test), None)
        if known is not None:
            first, last, tests = first[:known], first[known], tests[:known]
        out = self.piece(op, last, at)
        for p, found in reversed(list(zip(first, tests, strict=True))):
            if found is None:
                continue
            axes = frozenset(a for part in found for a in part.axes)
            test = Lanes(self.define("here", " & ".join(f"({part.text})" for part in found)), axes)
            with self.only(test):
                here = self.piece(op, p, at)
            text = self.define(op.name, f"tl.where({test.text}, {here.text}, {out.text})")
            out = Lanes(text, axes | here.axes | out.axes)
        return out

    @contextmanager
    def only(self, test: Lanes) -> Iterator[None]:
        """Inside, only the elements where a test holds are wanted."""
        kept = self.alive
        self.alive = (*kept, test)
        yield
        self.alive = kept

    def boxed(self, p: Piece, at: Coordinates) -> list[Lanes] | None:
        """Tests of whether coordinates lie in the box of a piece; None where none does."""
        tests: list[Lanes] = []
        for axis, lo, hi in p.box:
            e, lo, hi = self.simple(at[axis]), self.dim(lo), self.dim(hi)
            above, below = self.within(e, lo, hi)
            low, high = self.reach(e)
            if (high is not None and provably_ge(lo, high + 1)) or (low is not None and provably_ge(low, hi)):
                return None
            axes = self.lanes_of(e)
            tests += [] if above else [Lanes(f"{self.place(e)} >= {self.exprs.inner(lo)}", axes)]
            tests += [] if below else [Lanes(f"{self.place(e)} < {self.exprs.inner(hi)}", axes)]
        return tests

    def piece(self, op: Operation, p: Piece, at: Coordinates) -> Lanes:
        if isinstance(p.operand, Literal):
            return Lanes(self.text(p.operand, op.result.type.dtype, alone=True))
        x = op.operands[p.operand]
        if not isinstance(x, Value) or isinstance(x.type, ScalarType):
            return Lanes(self.cast(x, op.result.type.dtype))
        index: list[Dim] = []
        for axis, e in enumerate(p.index):
            index.append(self.lookup(op, e, x, axis) if isinstance(e, Lookup) else self.simple(self.dim(e)))
        return self.read(x, tuple(index))

    def lookup(self, op: Operation, e: Lookup, table: Value, axis: int) -> Dim:
        """A coordinate that is the element of an operand, checked as every index read from memory."""
        x = op.operands[e.operand]
        size = self.exprs.inner(self.dim(table.type.dims[axis]))
        index = tuple(self.simple(self.dim(d)) for d in e.index)
        lanes = self.read(x, index) if isinstance(x, Value) else Lanes(self.text(x, int64, alone=True))
        text = self.converted(lanes.text, x.type.dtype, int64)
        if e.wraps:
            text = self.define("index", f"tl.where({text} < 0, {text} + {size}, {text})")
        name = f"_f{len(self.found)}"
        self.found[name] = Lanes(self.checked(text, lanes.axes, f"({text} >= 0) & ({text} < {size})"), lanes.axes)
        self.exprs.axes[name] = self.found[name].text
        return Dim.name(name)

    def checked(self, text: str, axes: frozenset[int], fits: str) -> str:
        """An index that stops the program where it does not fit and is wanted, and is 0 there."""
        self.looks_up = True
        fits = self.define("fits", fits)
        dead = "".join(f" | ~({part.text})" for part in (*self.pads(axes), *self.alive))
        self.lines.add(f'tl.device_assert({fits}{dead}, "index out of range")')
        return self.define("index", f"tl.where({fits}, {text}, 0)")

    # -- blocks

    def materialise(self, op: Operation) -> None:
        """The result of an operation as a variable."""
        v = op.result
        t = v.type
        assert isinstance(t, TensorType)
        with self.framed(self.extents(t.dims)):
            axes = axis_map(op, self.static)
            x = op.operands[0] if op.operands else None
            if axes is not None and isinstance(x, Value) and x in self.values:
                made = self.turned(self.values[x], self.extents(x.type.dims), axes)
            else:
                made = self.element(op, self.identity)
            if (axes is not None or op.record in (_CAST, FILLED)) and x in self.zeroed:
                self.zeroed.add(v)
            self.values[v] = self.full(op, made)

    def full(self, op: Operation, made: Lanes) -> str:
        """A variable with all lanes of the frame."""
        lanes = frozenset(n for n, size in enumerate(self.frame) if self.padded(size) > 1)
        total = 1
        for n in self.frame:
            total *= self.padded(n)
        if total > 1 << 20:
            raise self.refuse(op, f"a block of {total} elements", "TSR0608")
        if self.frame and (made.axes != lanes or not lanes):
            self.zeroed.discard(op.result)
            return self.define(op.name, f"tl.broadcast_to({made.text}, {self.shape(self.frame)})")
        return made.text if made.text.isidentifier() else self.define(op.name, made.text)

    def number(self, op: Operation) -> None:
        """The value of a size."""
        assert op.record is NUMBER
        e = self.looked(self.dim(op.attrs["of"]), op.operands)
        self.values[op.result] = self.define("number", self.text(Literal(e), int64, alone=True))


def _atom(text: str) -> str:
    """A text to which a method can be applied."""
    return text if text.isidentifier() or (text.endswith("]") and " " not in text) else f"({text})"


__all__ = ["ProgramValues"]
