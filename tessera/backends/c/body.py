"""The statements of a kernel: values, loads and stores, folds, and rows that one sweep keeps for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.fold import Fold, Piece
from tessera.backends.c.source import Lines, c_index
from tessera.ir.dialects.tile import LOAD
from tessera.ir.dim import Dim, dim_max, dim_min
from tessera.ir.dim_range import coefficient
from tessera.ir.dtype import DType, int64
from tessera.ir.graph import Function, Literal, Operand, Operation, Value
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, ScalarType, TileType
from tessera.schedule.plan import ONE, ZERO
from tessera.schedule.tilebuild import literal_dtype

#: Bytes that a contiguous load asks for ahead of itself.
AHEAD = 1024

#: Bytes of a row up to which the next row is asked for while this one is read again: both fit the nearer caches.
NEXT_ROW = 1 << 18


#: The buffer and offset of an access, and what its sweep runs over.
Place = tuple[Operand, Dim, tuple[Dim, ...]]


@dataclass(frozen=True)
class Kept:
    """A value that a sweep leaves for later ones: a row of scratch memory, ``offset`` bytes into the thread's part."""

    value: Value
    axes: tuple[str, ...]
    lo: tuple[Dim, ...]
    spans: tuple[Dim, ...]
    offset: Dim
    lane: str


@dataclass
class Body:
    """What is known while statements are written: names of values and axes, and where in the loops we are."""

    function: Function
    lanes: int
    entry: str = "tessera_kernel"
    #: Whether the processor has an instruction for products of pairs.
    pairs: bool = False
    lines: Lines = field(default_factory=Lines)
    names: dict[str, str] = field(default_factory=dict)
    values: dict[Value, str] = field(default_factory=dict)
    counter: int = 0
    kept: dict[Value, Kept] = field(default_factory=dict)
    scratch: Dim = ZERO
    work: Dim = ZERO
    axes: tuple[str, ...] = ()
    vector: str = ""
    #: What the values are called in each of the vectors of columns that go down the rows together.
    sides: list[dict[Value, str]] = field(default_factory=list)
    block: bool = False
    partial: bool = False
    streams: bool = False
    #: Whether whole vectors of results may go past the caches.
    bypass: bool = True
    keeps: bool = False
    together: dict[str, list[str]] | None = None
    #: The axis along which rows follow each other, if one does.
    row: str = ""
    span: tuple[Dim, ...] = ()
    read: set[Place] = field(default_factory=set)
    asked: set[Place] = field(default_factory=set)

    def fresh(self) -> str:
        self.counter += 1
        return f"v{self.counter}"

    # -- statements ------------------------------------------------------------------------------------------------

    def statement(self, op: Operation) -> None:
        handler = {"load": self.load, "store": self.store, "position": self.position, "lookup": self.lookup}
        if op.record.kind is Kind.TILE:
            handler[op.name](op)
        else:
            self.define(op.result, self.expression(op))

    def define(self, value: Value, text: str) -> None:
        if text.isidentifier():
            self.values[value] = text
            return
        name = self.fresh()
        self.values[value] = name
        self.lines.add(f"const {ci.vector_type(dtype_of(value))} {name} = {text};")

    def expression(self, op: Operation) -> str:
        """A MAP op as one C expression."""
        if "dtype" in op.attrs:
            return self.operand(op.operands[0], op.result.type.dtype)
        dtype = intrinsic_dtype(op)
        args = [self.operand(x, x.type.dtype if is_mask(x) else dtype) for x in op.operands]
        number = op.operands[-1].value if isinstance(op.operands[-1], Literal) else None
        return ci.expression(op.name, dtype.name, args, isinstance(number, int | float) and number == number)

    def operand(self, x: Operand, dtype: DType) -> str:
        """The C text of an operand, converted to ``dtype``."""
        if isinstance(x, Literal):
            if isinstance(x.value, Dim):
                return ci.cast("int64", dtype.name, f"t_splat_i64({c_index(x.value, self.names)})")
            return ci.constant(x.value, dtype.name)
        if isinstance(x.type, ScalarType):
            kind = "f64" if x.type.dtype.is_float else "int64"
            return ci.cast(kind, dtype.name, f"t_splat_{ci.lane(kind)}({self.values[x]})")
        return ci.cast(dtype_of(x), dtype.name, self.values[x])

    # -- memory ----------------------------------------------------------------------------------------------------

    def address(self, op: Operation) -> tuple[str, str, str]:
        """Offset, lane step (``"0"``, ``"1"``, an expression, or ``""`` when every lane must be asked), and what must
        hold for all lanes.
        """
        (offset,) = op.dims("index")
        guard = op.attrs.get("guard")
        by_lane = False
        for n, x in enumerate(op.operands[1:] if op.record is LOAD else ()):
            assert isinstance(x, Value) and isinstance(x.type, TileType)
            varies = self.vector in x.type.axes
            by_lane = by_lane or varies
            self.names[f"_l{n}"] = f"{self.values[x]}[{'i' if varies else 0}]"
        step = coefficient(offset, self.vector) if self.vector else ZERO
        names = {n for part in guard_of(op) for e in part for n in e.names()} if guard else set()
        apart = any(n == self.vector or n.startswith("_l") for n in names)
        if by_lane or apart or step is None:
            return self.by_lane(offset), "", ""
        return c_index(offset, self.names), c_index(step, self.names), self.tests(op)

    def by_lane(self, e: Dim) -> str:
        """An index expression for lane ``i``."""
        if self.vector not in self.names:
            return c_index(e, self.names)
        return c_index(e, {**self.names, self.vector: f"({self.names[self.vector]} + i)"})

    def tests(self, op: Operation) -> str:
        """What its guard asks of lane ``i``; nothing where there is none."""
        return " && ".join(
            f"{self.by_lane(e)} >= {self.by_lane(lo)} && {self.by_lane(e)} < {self.by_lane(hi)}"
            for e, lo, hi in guard_of(op)
        )

    def live(self, op: Operation) -> str:
        """The lanes that a guarded access may touch, as a mask."""
        tests = self.tests(op)
        if not tests:
            return "t_live"
        name = self.fresh()
        self.lines.add(f"vm {name} = t_live;")
        self.lines.add(f"T_LANES {name}[i] = {name}[i] && {tests} ? -1 : 0;")
        return name

    def load(self, op: Operation) -> None:
        buffer, kind = self.buffer(op)
        bounds = within(op, self.vector) if len(op.operands) == 1 and op.attrs.get("guard") else None
        if bounds and coefficient(place(op)[1], self.vector) is ONE:
            lo, hi = c_index(dim_max(*bounds[0]), self.names), c_index(dim_min(*bounds[1]), self.names)
            hi = f"x_min({hi}, n)" if self.partial else hi
            pointer = f"{buffer} + {c_index(place(op)[1], self.names)}"
            self.define(op.result, f"t_load_within_{kind}({pointer}, {lo}, {hi})")
            return
        offset, step, tests = self.address(op)
        if step == "":
            index = self.fresh()
            live = self.live(op)
            self.lines.add(f"vi64 {index} = {{}};")
            self.lines.add(f"T_LANES if ({live}[i]) {index}[i] = {offset};")
            self.define(op.result, f"t_gather_{kind}({buffer}, {index}, {live})")
            return
        lane = ci.lane(dtype_of(op.result))
        if step == "0":
            plain = lane == kind or lane == "i32"  # C widens integers
            text = f"t_splat_{lane}({buffer}[{offset}])" if plain else f"t_load_step_{kind}({buffer} + {offset}, 0)"
        else:
            how, extra = ("", "") if step == "1" else ("_step", f", {step}")
            part, count = ("_part", ", n") if self.partial else ("", "")
            text = f"t_load{how}{part}_{kind}({buffer} + {offset}{extra}{count})"
        self.define(op.result, f"(({tests}) ? {text} : ({ci.vector_type(dtype_of(op.result))}){{}})" if tests else text)
        far = op.operands[0].type.role != "local"  # type: ignore[union-attr]
        if step == "1" and far and not tests and not self.partial and (self.row or not self.block):
            self.ask(op, f"{buffer} + {offset}", kind)

    def ask(self, op: Operation, pointer: str, kind: str) -> None:
        """Prefetch for a contiguous load.

        Work as long as an exponential leaves the processor too few loads in flight to hide memory. A row that an
        earlier sweep has read is near: while it is read again, memory can bring the next one.
        """
        ahead = f"t_prefetch({pointer} + {AHEAD} / (i64)sizeof({kind}));"
        here = (*place(op), self.span)
        step = coefficient(here[1], self.row) if here in self.read and self.row else None
        if step is None:
            self.lines.add(ahead)
        elif here not in self.asked and step != ZERO:
            row = c_index(step, self.names)
            # What this sweep keeps should not be pushed out of the nearest cache.
            how = "t_prefetch_far" if self.keeps else "t_prefetch"
            self.lines.add(f"if ({row} * (i64)sizeof({kind}) <= {NEXT_ROW}) {how}({pointer} + {row});")
            self.lines.add(f"else {ahead}")

    def passed(self, sweep: Operation) -> None:
        """A sweep has been written: what it reads is near."""
        assert sweep.body is not None
        found = {(*place(inner), self.span) for inner in sweep.body.ops if inner.record is LOAD}
        self.asked |= self.read & found
        self.read |= found

    def store(self, op: Operation) -> None:
        buffer, kind = self.buffer(op)
        target = op.operands[0].type
        assert isinstance(target, BufferType)
        x = self.operand(op.operands[1], target.dtype)
        offset, step, tests = self.address(op)
        if tests:
            self.lines.open(f"if ({tests})")
        if step == "":
            index = self.fresh()
            live = self.live(op)
            self.lines.add(f"vi64 {index} = {{}};")
            self.lines.add(f"T_LANES if ({live}[i]) {index}[i] = {offset};")
            self.lines.add(f"t_scatter_{kind}({buffer}, {index}, {live}, {x});")
        elif step == "0":
            self.lines.add(f"t_store_part_{kind}({buffer} + {offset}, 1, {x});")
        elif step == "1":
            self.store_row(f"{buffer} + {offset}", kind, x, self.bypass and target.role == "out")
        else:
            self.lines.add(
                f"t_store_step_part_{kind}({buffer} + {offset}, {step}, {'n' if self.partial else 'L'}, {x});"
            )
        if tests:
            self.lines.close()

    def store_row(self, pointer: str, kind: str, x: str, streams: bool) -> None:
        if self.partial:
            self.lines.add(f"t_store_part_{kind}({pointer}, n, {x});")
            return
        if not streams:
            self.lines.add(f"t_store_{kind}({pointer}, {x});")
            return
        self.streams = True
        self.lines.add(
            f"if (stream && ((i64)({pointer}) & (L * sizeof({kind}) - 1)) == 0) t_stream_{kind}({pointer}, {x});"
        )
        self.lines.add(f"else t_store_{kind}({pointer}, {x});")

    def buffer(self, op: Operation) -> tuple[str, str]:
        b = op.operands[0]
        assert isinstance(b, Value)
        return self.values[b], ci.storage(b.type.dtype.name)

    def position(self, op: Operation) -> None:
        e = op.attrs["of"]
        assert isinstance(e, Dim)
        self.define(op.result, self.positions(e))

    def positions(self, e: Dim) -> str:
        """The int64 vector of an index expression."""
        if not self.vector or self.vector not in e.names():
            return f"t_splat_i64({c_index(e, self.names)})"
        step = coefficient(e, self.vector)
        if step is not None:
            return f"(t_splat_i64({c_index(e, self.names)}) + t_i64_of_i32(T_IOTA) * ({c_index(step, self.names)}))"
        name = self.fresh()
        self.lines.add(f"vi64 {name};")
        self.lines.add(f"T_LANES {name}[i] = {self.by_lane(e)};")
        return name

    def lookup(self, op: Operation) -> None:
        size = op.attrs["size"]
        assert isinstance(size, Dim)
        x, raw, bad = self.operand(op.operands[0], int64), self.fresh(), self.fresh()
        total = f"t_splat_i64({c_index(size, self.names)})"
        zero = "t_splat_i64(0)"
        at = f"t_where_i64(t_lt_i64({x}, {zero}), {x} + {total}, {x})" if op.attrs.get("wraps") else x
        self.lines.add(f"const vi64 {raw} = {at};")
        self.lines.add(f"const vm {bad} = (t_lt_i64({raw}, {zero}) | t_ge_i64({raw}, {total})) & t_live;")
        self.lines.add(f"if (t_any({bad})) failed |= 2;")
        self.define(op.result, f"t_where_i64({bad} | ~t_live, {zero}, {raw})")

    # -- folds and rows that are kept ------------------------------------------------------------------------------

    def declare(self, fold: Fold) -> None:
        if fold.carry:
            fold.names.append(self.fresh())
            self.lines.add(f"t_carry_{fold.carry} {fold.names[0]} = {{}};")
            return
        for dtype, init in zip(fold.state, fold.init, strict=True):
            name = self.fresh()
            fold.names.append(name)
            self.lines.add(f"{ci.vector_type(dtype.name)} {name} = {ci.constant(init, dtype.name)};")

    def piece(self, piece: Piece, dtypes: Sequence[DType], texts: Sequence[str]) -> list[str]:
        """Emit a piece of a fold on the given C texts; gives back those of its results."""
        for v, text in zip(piece.inputs, texts, strict=True):
            self.values[v] = text
        for op in piece.ops:
            self.statement(op)
        return [self.operand(r, d) for r, d in zip(piece.results, dtypes, strict=True)]

    def step(self, fold: Fold) -> None:
        x = self.operand(fold.op.operands[0], fold.op.operands[0].type.dtype)
        masked = self.partial and not self.block
        if fold.carry:
            x = self.operand(fold.op.operands[0], fold.state[0])
            x = ci.expression("where", fold.carry, ["t_live", x, f"(v{fold.carry}){{}}"]) if masked else x
            if self.together is not None:
                self.together.setdefault(fold.names[0], []).append(x)
                return
            self.lines.add(f"{fold.names[0]} = t_carry_add_{fold.carry}({fold.names[0]}, {x});")
            return
        needed = {v for op in fold.step.ops for v in op.inputs} | {r for r in fold.step.results if isinstance(r, Value)}
        index = self.positions(fold.position) if fold.step.inputs[-1] in needed else "t_splat_i64(0)"
        new = self.piece(fold.step, fold.state, [*fold.names, x, index])
        names = [self.fresh() for _ in new]
        for name, dtype, text in zip(names, fold.state, new, strict=True):
            self.lines.add(f"const {ci.vector_type(dtype.name)} {name} = {text};")
        for old, name, dtype in zip(fold.names, names, fold.state, strict=True):
            text = ci.expression("where", dtype.name, ["t_live", name, old]) if masked else name
            self.lines.add(f"{old} = {text};")

    def merge(self, fold: Fold, others: Sequence[str]) -> None:
        """Fold another accumulator into the one that ``fold`` names."""
        out = self.lines
        if fold.carry:
            out.add(f"{fold.names[0]} = t_carry_merge_{fold.carry}({fold.names[0]}, {others[0]});")
            return
        merged = self.piece(fold.merge, fold.state, [*fold.names, *others])
        names = [self.fresh() for _ in merged]
        for name, dtype, text in zip(names, fold.state, merged, strict=True):
            out.add(f"const {ci.vector_type(dtype.name)} {name} = {text};")
        for old, name in zip(fold.names, names, strict=True):
            out.add(f"{old} = {name};")

    def finish(self, fold: Fold, across: bool) -> None:
        out = self.lines
        if fold.carry:
            kind = fold.finish.inputs[0].type.dtype.name
            name = self.fresh()
            read = f"t_carry_{'total' if across else 'lanes'}_{fold.carry}_{kind}"
            out.add(f"const v{kind} {name} = {read}({fold.names[0]});")
            (result,) = self.piece(fold.finish, [r.type.dtype for r in fold.op.results], [name])
            self.define(fold.op.results[0], result)
            return
        if across:
            k = self.lanes // 2
            while k:
                out.open()
                turned = []
                for old, dtype in zip(fold.names, fold.state, strict=True):
                    name, lane = self.fresh(), ci.lane(dtype.name)
                    turned.append(name)
                    lane = "i32" if lane == "m" else lane
                    out.add(f"const {ci.vector_type(dtype.name)} {name} = t_turn_{lane}({old}, {k});")
                self.merge(fold, turned)
                out.close()
                k //= 2
        dtypes = [r.type.dtype for r in fold.op.results]
        for r, text in zip(fold.op.results, self.piece(fold.finish, dtypes, fold.names), strict=True):
            self.define(r, text)

    def plan_kept(self, nest: Operation) -> None:
        """Find values that one sweep leaves for another, and give each a row of scratch memory."""
        assert nest.body is not None
        home: dict[Value, Operation] = {}
        for sweep in nest.body.ops:
            if sweep.body is None:
                continue
            for op in sweep.body.ops:
                for v in op.inputs:
                    if v in home and home[v] is not sweep and op_makes_lanes(v):
                        self.kept.setdefault(v, self.keep(v, home[v]))
                if op.record.kind is not Kind.REDUCE:
                    home.update(dict.fromkeys(op.results, sweep))

    def keep(self, v: Value, sweep: Operation) -> Kept:
        lo, hi = sweep.dims("lo"), sweep.dims("hi")
        spans = tuple(b - a for a, b in zip(lo, hi, strict=True))
        lane = ci.lane(dtype_of(v))
        width = 8 if lane in ("f64", "i64", "u64") else 4
        kept = Kept(v, sweep.words("axes"), lo, spans, self.scratch, "i32" if lane == "m" else lane)
        total = ONE
        for size in spans:
            bound = self.widest(size)
            assert bound is not None, f"no bound for `{size}`"
            total = total * bound
        points = total if self.vector in kept.axes else total * self.lanes
        self.scratch = self.scratch + (points + self.lanes) * width
        return kept

    def widest(self, span: Dim) -> Dim | None:
        """A bound of a span that does not depend on parallel axes: a chunked sweep is at most one chunk long."""
        if not span.names() & set(self.axes):
            return span
        for atom in span.atoms.values():
            if atom.kind == "min":
                for arg in atom.args:
                    rest = span - dim_min(*atom.args) + arg
                    if not rest.names() & set(self.axes):
                        return rest
        return None

    def slot(self, kept: Kept) -> str:
        position = ZERO
        for axis, lo, size in zip(kept.axes, kept.lo, kept.spans, strict=True):
            position = position * size + (Dim.name(axis) - lo)
        if self.vector not in kept.axes:  # then every point has a vector of its own
            position = position * self.lanes
        return f"({kept.lane} *)(mine + {c_index(kept.offset, self.names)}) + {c_index(position, self.names)}"

    def hold(self, kept: Kept, v: Value) -> None:
        self.lines.add(f"t_store_{kept.lane}({self.slot(kept)}, {self.values[v]});")

    def take(self, kept: Kept) -> None:
        name = self.fresh()
        self.values[kept.value] = name
        self.lines.add(f"const {ci.vector_type(dtype_of(kept.value))} {name} = t_load_{kept.lane}({self.slot(kept)});")


def op_makes_lanes(v: Value) -> bool:
    """Is ``v`` a value per point, as opposed to a buffer or a scalar?"""
    return isinstance(v.type, TileType)


def place(op: Operation) -> tuple[Operand, Dim]:
    """The buffer and offset of a load or store."""
    (offset,) = op.dims("index")
    return op.operands[0], offset


def is_mask(x: Operand) -> bool:
    """Is ``x`` a bool per point?"""
    return isinstance(x, Value) and x.type.dtype.is_bool


def dtype_of(v: Value) -> str:
    """The name of a value's dtype."""
    return v.type.dtype.name


def intrinsic_dtype(op: Operation) -> DType:
    """The dtype in which an intrinsic computes: that of its first operand that is no mask, else of its result."""
    return literal_dtype(op.operands, op.result.type.dtype)


def guard_of(op: Operation) -> Iterator[tuple[Dim, Dim, Dim]]:
    """The (expression, lo, hi) triples outside of which an access touches nothing."""
    found = op.attrs.get("guard") or ()
    assert isinstance(found, tuple)
    for triple in found:
        assert isinstance(triple, tuple)
        e, lo, hi = (x for x in triple if isinstance(x, Dim))
        yield e, lo, hi


def within(op: Operation, axis: str, vector: str = "") -> tuple[list[Dim], list[Dim]] | None:
    """How many points of ``axis`` further on a guarded load first touches memory, and no longer does: the most of the
    first and the least of the second. None where that is another number for each point, or for other lanes.
    """
    first, end = list[Dim](), list[Dim]()
    for e, lo, hi in guard_of(op):
        first.append(lo - e)
        end.append(hi - e)
        fixed = lo.names() | hi.names()
        apart = vector in e.names() | fixed or any(n.startswith("_l") for n in e.names() | fixed)
        if apart or axis in fixed or coefficient(e, axis) is not ONE:
            return None
    return first, end
