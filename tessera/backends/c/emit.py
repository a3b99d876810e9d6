"""Tile IR to C: one function a kernel, every value a vector of L lanes.

The vector axis of a nest is walked L points at a time; the last, shorter step runs the same statements with partial loads
and stores. Values that do not vary along the vector axis have equal lanes. Parallel axes are one flat range, shared out to
the threads in contiguous parts, so results do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.fold import Fold, Piece, plan_fold
from tessera.backends.c.source import HELPERS, Lines, c_index
from tessera.ir.dialects.tile import LOAD
from tessera.ir.dim import Dim, dim_min, product
from tessera.ir.dim_range import coefficient
from tessera.ir.dtype import DType, f32, int64
from tessera.ir.graph import Attr, Function, Literal, Operand, Operation, Value, walk
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, ScalarType, TileType
from tessera.schedule.plan import ONE, ZERO
from tessera.schedule.tilebuild import literal_dtype

#: Below this many elements the threads cost more than they save.
PARALLEL_FROM = 16384


@dataclass(frozen=True)
class CSource:
    """A kernel as C text, and how to call it.

    ``sizes`` are the names passed as i64 after the buffers, ``scratch`` the bytes that each thread needs.
    The entry takes one array of i64: buffer addresses, scratch address, stream flag, sizes, scalars (f64 or i64 bits).
    """

    body: str
    entry: str
    sizes: tuple[str, ...]
    scratch: Dim
    lanes: int

    @staticmethod
    def join(sources: Sequence[CSource]) -> str:
        """One translation unit with all of them and what they use."""
        body = "\n".join(s.body for s in sources)
        return "\n".join([ci.library(body, sources[0].lanes if sources else 4), HELPERS, body])


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
class Emitter:
    """The state of emitting one kernel."""

    function: Function
    lanes: int
    entry: str = "tessera_kernel"
    lines: Lines = field(default_factory=Lines)
    names: dict[str, str] = field(default_factory=dict)
    values: dict[Value, str] = field(default_factory=dict)
    counter: int = 0
    kept: dict[Value, Kept] = field(default_factory=dict)
    scratch: Dim = ZERO
    axes: tuple[str, ...] = ()
    vector: str = ""
    block: bool = False
    partial: bool = False
    streams: bool = False

    def run(self) -> CSource:
        f = self.function
        buffers = [p for p in f.params if isinstance(p.type, BufferType)]
        scalars = [p for p in f.params if isinstance(p.type, ScalarType)]
        sizes = size_names(f)
        out = self.lines
        out.open(f'__attribute__((visibility("default"))) int {self.entry}(const i64 *a)')
        for n, b in enumerate(buffers):
            assert isinstance(b.type, BufferType)
            kind = ("const " if b.type.role == "in" else "") + ci.storage(b.type.dtype.name)
            self.values[b] = f"b{n}"
            out.add(f"{kind} *restrict b{n} = ({kind} *)a[{n}];")
        at = len(buffers)
        out.add(f"char *const scratch = (char *)a[{at}];")
        out.add(f"const i64 stream = a[{at + 1}];")
        for n, name in enumerate(sizes):
            self.names[name] = f"n{n}"
            out.add(f"const i64 n{n} = a[{at + 2 + n}];")
        for n, s in enumerate(scalars):
            self.scalar(s, f"s{n}", at + 2 + len(sizes) + n)
        for n, b in enumerate(buffers):
            assert isinstance(b.type, BufferType)
            if b.type.role == "in":
                out.add(f"if (!b{n} && {c_index(product(b.type.dims), self.names)} > 0) return 4;")
        out.add("int failed = 0;")
        mark = len(out.text)
        for nest in f.ops:
            self.nest(nest)
        out.add("return failed;")
        out.close()
        out.text.insert(mark, f"    const i64 scratch_step = {c_index(self.scratch, self.names)};")
        return CSource(f"{out}\n", self.entry, sizes, self.scratch, self.lanes)

    def scalar(self, s: Value, name: str, at: int) -> None:
        kind = "f64" if s.type.dtype.is_float else "i64"  # type: ignore[union-attr]
        self.values[s] = name
        self.lines.add(f"const {kind} {name} = *(const {kind} *)(a + {at});")

    def fresh(self) -> str:
        self.counter += 1
        return f"v{self.counter}"

    # -- loops -----------------------------------------------------------------------------------------------------

    def nest(self, op: Operation) -> None:
        axes, extents = names_of(op.attrs["axes"]), dims_of(op.attrs["extents"])
        self.axes, self.vector, self.kept, self.streams = axes, str(op.attrs["vector"]), {}, False
        assert op.body is not None
        self.plan_kept(op)
        out = self.lines
        block = self.vector in axes
        counts = [c_index(e, self.names) for e in extents]
        if block:
            counts[-1] = f"x_cdiv({counts[-1]}, L)"
        total = " * ".join(f"({c})" for c in counts) or "1"
        out.open()
        out.add(f"const i64 total = {total};")
        work = c_index(product(extents) * self.swept(op), self.names)
        out.add(f"#pragma omp parallel if (({work}) >= {PARALLEL_FROM} && total > 1) reduction(|:failed)")
        out.open()
        out.add("const i64 threads = omp_get_num_threads(), me = omp_get_thread_num();")
        out.add("const i64 first = total * me / threads, last = total * (me + 1) / threads;")
        out.add("int *const t_err = &failed;")
        out.add("vm t_live = ~(vm){};")
        if self.kept:
            out.add("char *const mine = scratch + me * scratch_step;")
        self.start_axes(axes, counts)
        out.open("for (i64 p = first; p < last; p++)")
        if block:
            axis = self.names[axes[-1]]
            out.add(f"const i64 {axis} = {axis}_block * L;")
            out.add(f"const int n = (int)x_min(L, ({c_index(extents[-1], self.names)}) - {axis});")
            out.add("t_live = t_lanes(n);")
        self.block = self.partial = block
        for inner in op.body.ops:
            if inner.body is not None:
                self.sweep(inner)
            else:
                self.statement(inner)
        self.step_axes(axes, counts, block)
        out.close()
        if self.streams:
            out.add("if (stream) t_fence();")
        out.close()
        out.close()

    def start_axes(self, axes: Sequence[str], counts: Sequence[str]) -> None:
        """Coordinates of the first point of this thread; later ones follow by counting up."""
        out = self.lines
        out.add("i64 rest = first;")
        for n in reversed(range(len(axes))):
            name = f"i_{axes[n]}"
            self.names[axes[n]] = name
            store = f"{name}_block" if axes[n] == self.vector else name
            if n == 0:
                out.add(f"i64 {store} = rest;")
            else:
                out.add(f"i64 {store} = rest % x_max({counts[n]}, 1); rest /= x_max({counts[n]}, 1);")

    def step_axes(self, axes: Sequence[str], counts: Sequence[str], block: bool) -> None:
        out = self.lines
        for n in reversed(range(len(axes))):
            name = f"i_{axes[n]}_block" if block and axes[n] == self.vector else f"i_{axes[n]}"
            if n == 0:
                out.add(f"{name}++;")
            else:
                out.open(f"if (++{name} == {counts[n]})")
                out.add(f"{name} = 0;")
        for _ in axes[1:]:
            out.close()

    def swept(self, nest: Operation) -> Dim:
        """How many points one parallel iteration visits."""
        assert nest.body is not None
        best = ONE
        for op in nest.body.ops:
            if op.body is not None:
                spans = [hi - lo for lo, hi in zip(dims_of(op.attrs["lo"]), dims_of(op.attrs["hi"]), strict=True)]
                size = product(d for d in spans if not d.names() & set(names_of(nest.attrs["axes"])))
                best = size if best is ONE else best + size
        return best

    def sweep(self, op: Operation) -> None:
        axes, lo, hi = names_of(op.attrs["axes"]), dims_of(op.attrs["lo"]), dims_of(op.attrs["hi"])
        out = self.lines
        assert op.body is not None
        folds = [plan_fold(inner) for inner in op.body.ops if inner.record.kind is Kind.REDUCE]
        for fold in folds:
            self.declare(fold)
        for axis, start, stop in zip(axes[:-1], lo[:-1], hi[:-1], strict=True):
            self.names[axis] = f"i_{axis}"
            out.open(f"for (i64 i_{axis} = {c_index(start, self.names)}; i_{axis} < {c_index(stop, self.names)}; i_{axis}++)")
        axis = axes[-1]
        name = self.names[axis] = f"i_{axis}"
        out.open()
        out.add(f"i64 {name} = {c_index(lo[-1], self.names)};")
        out.add(f"const i64 end = {c_index(hi[-1], self.names)};")
        if axis == self.vector:
            self.steps(op, folds, name)
        else:
            out.open(f"for (; {name} < end; {name}++)")
            self.body(op, folds)
            out.close()
        out.close()
        for _ in axes[:-1]:
            out.close()
        for fold in folds:
            self.finish(fold, across=self.vector in axes)

    def steps(self, op: Operation, folds: Sequence[Fold], name: str) -> None:
        """The whole vectors of a sweep, then what is left."""
        out = self.lines
        out.open(f"for (; {name} + L <= end; {name} += L)")
        self.partial = False
        self.body(op, folds)
        out.close()
        out.open(f"if ({name} < end)")
        out.add(f"const int n = (int)(end - {name});")
        out.add("t_live = t_lanes(n);")
        self.partial = True
        self.body(op, folds)
        out.add("t_live = ~(vm){};")
        out.close()
        self.partial = False

    def body(self, op: Operation, folds: Sequence[Fold]) -> None:
        assert op.body is not None
        outer = dict(self.values)
        pending = iter(folds)
        inside = {v for inner in op.body.ops for v in inner.inputs}
        mine = {r for inner in op.body.ops for r in inner.results}
        for v in self.kept:
            if v in inside and v not in mine:
                self.take(self.kept[v])
        for inner in op.body.ops:
            if inner.record.kind is Kind.REDUCE:
                self.step(next(pending))
            else:
                self.statement(inner)
            for r in inner.results:
                if r in self.kept:
                    self.hold(self.kept[r], r)
        self.values = outer

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
        return ci.expression(op.name, dtype.name, args)

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

    def address(self, op: Operation) -> tuple[str, str, bool]:
        """Offset, lane step (``"0"``, ``"1"``, an expression, or ``""`` when every lane must be asked), and guardedness."""
        (offset,) = dims_of(op.attrs["index"])
        guard = op.attrs.get("guard")
        by_lane = False
        for n, x in enumerate(op.operands[1:] if op.record is LOAD else ()):
            assert isinstance(x, Value) and isinstance(x.type, TileType)
            varies = self.vector in x.type.axes
            by_lane = by_lane or varies
            self.names[f"_l{n}"] = f"{self.values[x]}[{'i' if varies else 0}]"
        step = coefficient(offset, self.vector) if self.vector else ZERO
        if by_lane or guard or step is None:
            return self.by_lane(offset), "", bool(guard)
        return c_index(offset, self.names), c_index(step, self.names), False

    def by_lane(self, e: Dim) -> str:
        """An index expression for lane ``i``."""
        if self.vector not in self.names:
            return c_index(e, self.names)
        return c_index(e, {**self.names, self.vector: f"({self.names[self.vector]} + i)"})

    def live(self, op: Operation) -> str:
        """The lanes that a guarded access may touch, as a mask."""
        guard = op.attrs.get("guard") or ()
        tests = [
            f"{self.by_lane(e)} >= {self.by_lane(lo)} && {self.by_lane(e)} < {self.by_lane(hi)}"
            for e, lo, hi in guard  # type: ignore[union-attr, misc]
        ]
        if not tests:
            return "t_live"
        name = self.fresh()
        self.lines.add(f"vm {name} = t_live;")
        self.lines.add(f"T_LANES {name}[i] = {name}[i] && {' && '.join(tests)} ? -1 : 0;")
        return name

    def load(self, op: Operation) -> None:
        buffer, kind = self.buffer(op)
        offset, step, _ = self.address(op)
        if step == "":
            index = self.fresh()
            live = self.live(op)
            self.lines.add(f"vi64 {index} = {{}};")
            self.lines.add(f"T_LANES if ({live}[i]) {index}[i] = {offset};")
            self.define(op.result, f"t_gather_{kind}({buffer}, {index}, {live})")
        elif step == "0":
            lane = ci.lane(dtype_of(op.result))
            whole = f"t_splat_{lane}({buffer}[{offset}])" if lane == kind else f"t_load_step_{kind}({buffer} + {offset}, 0)"
            self.define(op.result, whole)
        else:
            how, extra = ("", "") if step == "1" else ("_step", f", {step}")
            part, count = ("_part", ", n") if self.partial else ("", "")
            self.define(op.result, f"t_load{how}{part}_{kind}({buffer} + {offset}{extra}{count})")

    def store(self, op: Operation) -> None:
        buffer, kind = self.buffer(op)
        target = op.operands[0].type
        assert isinstance(target, BufferType)
        x = self.operand(op.operands[1], target.dtype)
        offset, step, _ = self.address(op)
        if step == "":
            index = self.fresh()
            live = self.live(op)
            self.lines.add(f"vi64 {index} = {{}};")
            self.lines.add(f"T_LANES if ({live}[i]) {index}[i] = {offset};")
            self.lines.add(f"t_scatter_{kind}({buffer}, {index}, {live}, {x});")
        elif step == "0":
            self.lines.add(f"t_store_part_{kind}({buffer} + {offset}, 1, {x});")
        elif step == "1":
            self.store_row(f"{buffer} + {offset}", kind, x, target.role == "out")
        else:
            self.lines.add(f"t_store_step_part_{kind}({buffer} + {offset}, {step}, {'n' if self.partial else 'L'}, {x});")

    def store_row(self, pointer: str, kind: str, x: str, streams: bool) -> None:
        if self.partial:
            self.lines.add(f"t_store_part_{kind}({pointer}, n, {x});")
            return
        if not streams:
            self.lines.add(f"t_store_{kind}({pointer}, {x});")
            return
        self.streams = True
        self.lines.add(f"if (stream && ((i64)({pointer}) & (L * sizeof({kind}) - 1)) == 0) t_stream_{kind}({pointer}, {x});")
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
        self.lines.add(f"const vi64 {raw} = t_where_i64(t_lt_i64({x}, {zero}), {x} + {total}, {x});")
        self.lines.add(f"const vm {bad} = (t_lt_i64({raw}, {zero}) | t_ge_i64({raw}, {total})) & t_live;")
        self.lines.add(f"if (t_any({bad})) failed |= 2;")
        self.define(op.result, f"t_where_i64({bad} | ~t_live, {zero}, {raw})")

    # -- folds and rows that are kept ------------------------------------------------------------------------------

    def declare(self, fold: Fold) -> None:
        if fold.wide:
            fold.names.append(self.fresh())
            self.lines.add(f"t_carry {fold.names[0]} = {{}};")
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
        if fold.wide:
            x = self.operand(fold.op.operands[0], f32)
            x = ci.expression("where", "f32", ["t_live", x, "(vf32){}"]) if masked else x
            self.lines.add(f"{fold.names[0]} = t_carry_add({fold.names[0]}, {x});")
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

    def finish(self, fold: Fold, across: bool) -> None:
        out = self.lines
        if fold.wide:
            total = f"t_carry_{'total' if across else 'lanes'}({fold.names[0]})"
            name = self.fresh()
            out.add(f"const vf32 {name} = {total};")
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
                    out.add(f"const {ci.vector_type(dtype.name)} {name} = t_turn_{'i32' if lane == 'm' else lane}({old}, {k});")
                merged = self.piece(fold.merge, fold.state, [*fold.names, *turned])
                names = [self.fresh() for _ in merged]
                for name, dtype, text in zip(names, fold.state, merged, strict=True):
                    out.add(f"const {ci.vector_type(dtype.name)} {name} = {text};")
                for old, name in zip(fold.names, names, strict=True):
                    out.add(f"{old} = {name};")
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
        lo, hi = dims_of(sweep.attrs["lo"]), dims_of(sweep.attrs["hi"])
        spans = tuple(b - a for a, b in zip(lo, hi, strict=True))
        lane = ci.lane(dtype_of(v))
        width = 8 if lane in ("f64", "i64", "u64") else 4
        kept = Kept(v, names_of(sweep.attrs["axes"]), lo, spans, self.scratch, "i32" if lane == "m" else lane)
        total = ONE
        for size in spans:
            total = total * self.widest(size)
        points = total if self.vector in kept.axes else total * self.lanes
        self.scratch = self.scratch + (points + self.lanes) * width
        return kept

    def widest(self, span: Dim) -> Dim:
        """A bound of a span that does not depend on parallel axes: a chunked sweep is at most one chunk long."""
        if not span.names() & set(self.axes):
            return span
        for atom in span.atoms():
            if atom.op == "min":
                for arg in atom.args:
                    rest = span - dim_min(*atom.args) + arg
                    if not rest.names() & set(self.axes):
                        return rest
        raise AssertionError(f"no bound for `{span}`")

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


def is_mask(x: Operand) -> bool:
    return isinstance(x, Value) and x.type.dtype.is_bool


def dtype_of(v: Value) -> str:
    return v.type.dtype.name


def intrinsic_dtype(op: Operation) -> DType:
    """The dtype in which an intrinsic computes: that of its first operand that is no mask, else of its result."""
    return literal_dtype(op.operands, op.result.type.dtype)


def names_of(a: Attr) -> tuple[str, ...]:
    assert isinstance(a, tuple)
    return tuple(str(x) for x in a)


def dims_of(a: Attr) -> tuple[Dim, ...]:
    assert isinstance(a, tuple)
    return tuple(x if isinstance(x, Dim) else Dim.const(int(x)) for x in a)  # type: ignore[arg-type]


def size_names(f: Function) -> tuple[str, ...]:
    """The sizes that a kernel is given, in order: every name in its types and index expressions that is not a loop axis."""
    bound: set[str] = set()
    found: set[str] = set()
    for p in f.params:
        if isinstance(p.type, BufferType):
            for d in (*p.type.dims, *(p.type.strides or ())):
                found |= d.names()
    for op in walk(f.body):
        if op.body is not None:
            bound.update(names_of(op.attrs["axes"]))
        for value in (*op.attrs.values(), *(x.value for x in op.operands if isinstance(x, Literal))):
            for d in every_dim(value):
                found |= {n for n in d.names() if not n.startswith("_l")}
    return tuple(sorted(found - bound))


def every_dim(a: object) -> Iterator[Dim]:
    if isinstance(a, Dim):
        yield a
    elif isinstance(a, tuple):
        for x in a:
            yield from every_dim(x)
