"""Tile IR to C: one function a kernel, every value a vector of L lanes.

The vector axis of a nest is walked L points at a time; the last, shorter step runs the same statements with partial
loads and stores. Values that do not vary along the vector axis have equal lanes. Parallel axes are one flat range,
shared out to the threads in contiguous parts, so results do not depend on how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.blocked import Blocked, is_blocked
from tessera.backends.c.body import Body
from tessera.backends.c.fold import Fold, flops_of_point, plan_fold
from tessera.backends.c.recurrent import SIDE_BY_SIDE, Recurrent, is_ordered
from tessera.backends.c.scan import scan_step
from tessera.backends.c.source import HELPERS, c_index
from tessera.backends.c.within import Within
from tessera.ir.dialects.tile import LOAD
from tessera.ir.dim import Dim, product
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Function, Literal, Operand, Operation, Value, dims_in, walk
from tessera.ir.pieces import in_pieces
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, ScalarType
from tessera.schedule.plan import ONE

#: How an index expression names the value of a lookup operand.
LOOKUP_NAME = re.compile(r"_l\d+")

#: Below this many elements the threads cost more than they save.
PARALLEL_FROM = 16384

#: A sweep of so little work does not hide the latency of its folds, unless they are sums carried in f64; so many
#: vectors at a time do. In a longer one as many are added in f32 before their sum is carried, which saves conversions.
BRIEF, SEVERAL = 4, 4

@dataclass(frozen=True)
class CSource:
    """A kernel as C text, and how to call it.

    ``sizes`` are the names passed as i64 after the buffers, ``scratch`` the bytes that each thread needs, ``work`` the
    points that its loops visit.
    The entry takes one array of i64: buffer addresses, scratch address, stream flag, sizes, scalars (f64 or i64 bits).
    The address of a buffer in pieces is that of a table: how many there are, the number of the first element of each
    and of the one behind the last, the address of each.
    """

    body: str
    entry: str
    sizes: tuple[str, ...]
    scratch: Dim
    work: Dim
    lanes: int

    @staticmethod
    def join(sources: Sequence[CSource]) -> str:
        """One translation unit with all of them and what they use."""
        body = "\n".join(s.body for s in sources)
        return "\n".join([ci.library(body, sources[0].lanes if sources else 4), HELPERS, body])


@dataclass
class Emitter(Body):
    """Writes one kernel: its entry, its loops, and what ``Body`` puts inside."""

    blocked: Blocked | Recurrent | None = None
    #: Whether a nest has taken over what others are there for, which are for few rows.
    whole: bool = False
    #: Whether what calls the kernel is shared out to the threads, and not the kernel: it is a function of its own file.
    serial: bool = False
    #: Sizes that arguments have as a rule.
    likely: Mapping[str, int] = field(default_factory=dict)
    #: The buffers that nests have read so far.
    seen: set[Operand] = field(default_factory=set)

    def run(self) -> CSource:
        f = self.function
        buffers = [p for p in f.params if isinstance(p.type, BufferType)]
        scalars = [p for p in f.params if isinstance(p.type, ScalarType)]
        sizes = size_names(f)
        out = self.lines
        out.open(f"{'static' if self.serial else ci.VISIBLE} int {self.entry}(const i64 *a)")
        for n, b in enumerate(buffers):
            assert isinstance(b.type, BufferType)
            kind = pointee(b.type)
            self.values[b] = f"buf{n}"
            if b.type.pieces:
                out.add(f"const i64 *const buf{n} = (const i64 *)a[{n}];")
            else:
                out.add(f"{kind} *restrict buf{n} = ({kind} *)a[{n}];")
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
            if b.type.role in ("in", "update") and not b.type.pieces:
                out.add(f"if (!buf{n} && {c_index(product(b.type.dims), self.names)} > 0) return 4;")
                # Lanes that a guard excludes still read element 0, whatever it is.
                out.add(f"if (!buf{n}) buf{n} = (const void *)a;")
        table = next((self.values[b] for b in buffers if in_pieces(b)), None)
        if table is not None:  # all are cut alike
            out.add(f"const i64 pieces = {table}[0], *const cuts = {table} + 1;")
        out.add("int failed = 0;")
        mark = len(out.text)
        for nest in f.ops:
            if not (self.whole and ends(nest)):
                self.nest(nest)
        out.add("return failed;")
        out.close()
        out.text.insert(mark, f"    const i64 scratch_step = ({c_index(self.scratch, self.names)} + 63) & ~63;")
        return CSource(f"{out}\n", self.entry, sizes, self.scratch, self.work, self.lanes)

    def scalar(self, s: Value, name: str, at: int) -> None:
        kind = "f64" if s.type.dtype.is_float else "i64"
        self.values[s] = name
        self.lines.add(f"const {kind} {name} = *(const {kind} *)(a + {at});")

    # -- loops -----------------------------------------------------------------------------------------------------

    def nest(self, op: Operation) -> None:
        axes, extents = op.words("axes"), op.dims("extents")
        self.axes, self.vector, self.kept, self.streams = axes, str(op.attrs["vector"]), {}, False
        self.read, self.asked, self.keeps = set(), set(), False
        assert op.body is not None
        out = self.lines
        block = self.vector in axes
        self.row = axes[-1] if axes and not block else ""
        self.blocked, self.bypass = None, not (is_ordered(op) and block)
        if is_ordered(op):
            self.blocked = Recurrent(self, SIDE_BY_SIDE) if block else Within(self, 1)
        elif is_blocked(op):
            self.blocked = Blocked.of(self, op, block)
        if self.blocked is None:
            self.plan_kept(op)
        elif isinstance(self.blocked, Blocked) and op.attrs.get("when"):
            self.whole = self.blocked.is_paired(op)
        counts = self.counts(op)
        if block:
            width = self.width(op)
            extent, walks = counts[-1], op.attrs.get("walk")
            counts[-1] = "1" if walks else f"x_cdiv({extent}, {width} * L)"
        total = " * ".join(f"({c})" for c in counts) or "1"
        out.open(self.condition(op))
        out.add(f"const i64 total = {total};")
        points = product(extents) * self.swept(op)
        self.work = self.work + points
        work = c_index(points, self.names)
        if self.blocked is not None:
            out.add("i64 next = 0;")
        self.shared_out(work)
        if self.blocked is None:
            out.add("const i64 first = total * me / threads, last = total * (me + 1) / threads;")
        out.add("int *const t_err = &failed;")
        out.add("vm t_live = ~(vm){};")
        if self.kept or self.blocked:
            out.add("char *const mine = scratch + me * scratch_step;")
        backwards = self.blocked is None and not block and len(axes) == 1 and self.reads_again(op)
        if self.blocked is None:
            self.start_axes(axes, counts, "last - 1" if backwards else "first")
            out.open("for (i64 p = first; p < last; p++)")
        else:  # iterations may differ much in their work, as threads do in speed: who is free takes the next one
            out.open("for (i64 p; (p = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < total;)")
            self.start_axes(axes, counts, "p")
        self.block = block
        if block:
            with self.walked(op, extent, width) as end:
                self.columns(op, end, width)
        else:
            self.partial = False
            self.point(op)
        if backwards:
            out.add(f"{self.names[axes[0]]}--;")
        elif self.blocked is None:
            self.step_axes(axes, counts, block)
        out.close()
        if self.streams:
            out.add("if (stream) t_fence();")
        out.close()
        out.close()

    def counts(self, nest: Operation) -> list[str]:
        """How many iterations each axis has."""
        found = [c_index(e, self.names) for e in nest.dims("extents")]
        if isinstance(self.blocked, Blocked):
            self.blocked.gather(nest, found)
        return found

    def shared_out(self, work: str) -> None:
        """Open the block that every thread carries out for its part of a nest."""
        out = self.lines
        if self.serial:
            out.open()
            out.add("const i64 threads = 1, me = 0;")
            return
        out.add(f"#pragma omp parallel if (({work}) >= {PARALLEL_FROM} && total > 1) reduction(|:failed)")
        out.open()
        out.add("const i64 threads = omp_get_num_threads(), me = omp_get_thread_num();")

    def reads_again(self, nest: Operation) -> bool:
        """Does a nest read in one sweep what an earlier one has read, so that the end of that is nearest?"""
        assert nest.body is not None
        loads = (op.operands[0] for op in walk(nest.body) if op.record is LOAD)
        read = {b for b in loads if isinstance(b.type, BufferType) and b.type.role in ("in", "update") and b.type.dims}
        again = not self.seen.isdisjoint(read)
        self.seen |= read
        return again and sum(op.body is not None for op in nest.body.ops) == 1

    def condition(self, nest: Operation) -> str:
        """What must hold for the nest to run, as the head of its block."""
        when = nest.attrs.get("when")
        if not isinstance(when, tuple) or self.whole:
            return ""
        size, low, high = (c_index(d, self.names) if isinstance(d, Dim) else "" for d in when)
        tests = [f"{size} >= {low}"] * bool(low) + [f"{size} < {high}"] * bool(high)
        return f"if ({' && '.join(tests)})" if tests else ""

    def width(self, nest: Operation) -> int:
        """How many vectors of columns go down the rows together: several, where each row has little work for one."""
        if self.blocked is not None:
            return self.blocked.width
        return SEVERAL if not self.kept and flops_of_point(nest) <= BRIEF else 1

    @contextmanager
    def walked(self, op: Operation, extent: str, width: int) -> Iterator[str]:
        """The first column of one iteration, or a loop over those that it walks; gives where the columns end."""
        out, axis, walk = self.lines, self.names[self.vector], op.attrs.get("walk")
        if not walk:
            out.add(f"i64 {axis} = {axis}_block * ({width} * L);")
            yield extent
            return
        first, stop = (c_index(d, self.names) for d in op.dims("walk"))
        begin, end = self.fresh(), self.fresh()
        out.add(f"const i64 {end} = {stop};")
        out.open(f"for (i64 {begin} = {first}; {begin} < {end}; {begin} += {width} * L)")
        out.add(f"i64 {axis} = {begin};")
        yield end
        out.close()

    def columns(self, op: Operation, extent: str, width: int) -> None:
        """The columns of one iteration: ``width`` vectors at once, or one after the other where that is less work."""
        out, axis = self.lines, self.names[self.vector]
        if width > 1:
            pays = self.blocked.together(op) if isinstance(self.blocked, Blocked) else ""
            stop, end = self.fresh(), f"{axis} + {width} * L"
            out.add(f"const i64 {stop} = x_min({end}, {extent});")
            out.open(f"if ({end} <= {extent}{pays})")
            out.add("t_live = ~(vm){};")
            self.partial = False
            self.point(op, width)
            out.close()
            out.open(f"else for (; {axis} < {stop}; {axis} += L)")
        else:
            out.open()
        out.add(f"const int n = (int)x_min(L, {extent} - {axis});")
        out.add("t_live = t_lanes(n);")
        self.partial = True
        self.point(op)
        out.close()

    def point(self, op: Operation, width: int = 1) -> None:
        """The body of a nest, for as many vectors."""
        assert op.body is not None
        self.sides = [dict(self.values) for _ in range(width)]
        if self.blocked is not None:
            self.blocked.point(op)
            return
        for inner in op.body.ops:
            if inner.body is not None:
                self.sweep(inner)
            else:
                for _ in self.each():
                    self.statement(inner)

    def each(self) -> Iterator[int]:
        """The vectors that go together: while one is visited, values and columns are its own."""
        before = self.names.get(self.vector, "")
        for n in range(len(self.sides)):
            if n:
                self.names[self.vector] = f"({before} + {n} * L)"
            self.values = self.sides[n]
            yield n
            self.sides[n] = self.values
        if len(self.sides) > 1:
            self.names[self.vector] = before

    def start_axes(self, axes: Sequence[str], counts: Sequence[str], at: str) -> None:
        """The coordinates of the point numbered ``at``."""
        out = self.lines
        out.add(f"i64 rest = {at};")
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
        """How many points one parallel iteration visits at most."""
        assert nest.body is not None
        best = ONE
        for op in nest.body.ops:
            if op.body is not None:
                spans = (self.widest(hi - lo) for lo, hi in zip(op.dims("lo"), op.dims("hi"), strict=True))
                size = product(d for d in spans if d is not None)
                best = size if best is ONE else best + size
        return best

    def sweep(self, op: Operation) -> None:
        axes, lo, hi = op.words("axes"), op.dims("lo"), op.dims("hi")
        self.span = (*lo, *hi)
        out = self.lines
        assert op.body is not None
        self.keeps = any(r in self.kept for inner in op.body.ops for r in inner.results)
        folds = [plan_fold(inner) for inner in op.body.ops if inner.record.kind in FOLDS]
        sides = [[replace(f, names=[]) for f in folds] for _ in self.sides]
        for n in self.each():
            for fold in sides[n]:
                self.declare(fold)
        for axis, start, stop in zip(axes[:-1], lo[:-1], hi[:-1], strict=True):
            self.names[axis] = f"i_{axis}"
            out.open(
                f"for (i64 i_{axis} = {c_index(start, self.names)}; i_{axis} < {c_index(stop, self.names)}; i_{axis}++)"
            )
        axis = axes[-1]
        name = self.names[axis] = f"i_{axis}"
        out.open()
        out.add(f"i64 {name} = {c_index(lo[-1], self.names)};")
        with self.pieces(op, name, c_index(hi[-1], self.names)):
            if axis == self.vector:
                self.steps(op, sides[0], name)
            else:
                out.open(f"for (; {name} < end; {name}++)")
                for n in self.each():
                    self.body(op, sides[n])
                out.close()
        out.close()
        for _ in axes[:-1]:
            out.close()
        for n in self.each():
            for fold in sides[n]:
                if fold.op.record.kind is Kind.REDUCE:
                    self.finish(fold, across=self.vector in axes)
        self.passed(op)

    @contextmanager
    def pieces(self, op: Operation, at: str, stop: str) -> Iterator[None]:
        """The loop through the pieces of memory that a sweep walks; ``end`` is where it, or the piece, ends."""
        assert op.body is not None
        out = self.lines
        walked = list(dict.fromkeys(v for inner in op.body.ops for v in inner.inputs if in_pieces(v)))
        if not walked:
            out.add(f"const i64 end = {stop};")
            yield
            return
        tables = {b: self.values[b] for b in walked}
        out.add(f"const i64 stop = {stop};")
        out.open(f"for (i64 piece = x_piece(cuts, pieces, {at}); {at} < stop; piece++)")
        out.add("const i64 end = x_min(stop, cuts[piece + 1]);")
        for b, table in tables.items():
            assert isinstance(b.type, BufferType)
            kind, size = pointee(b.type), f"(i64)sizeof({ci.storage(b.type.dtype.name)})"
            self.values[b] = f"{table}_here"
            start = f"({kind} *)({table}[2 + pieces + piece] - cuts[piece] * {size})"
            out.add(f"{kind} *restrict {table}_here = {start};")
        for side in self.sides:
            side.update({b: self.values[b] for b in walked})
        yield
        self.values.update(tables)
        for side in self.sides:
            side.update(tables)
        out.add(f"{at} = end;")
        out.close()

    def steps(self, op: Operation, folds: Sequence[Fold], name: str) -> None:
        """The whole vectors of a sweep, several at a time where a fold would wait for itself, then what is left."""
        out = self.lines
        assert op.body is not None
        brief = sum(inner.record.flops for inner in op.body.ops) <= BRIEF
        carried = all(f.carry == "f32" for f in folds)
        several = bool(folds and self.axes) and brief is not carried
        several = several and all(f.op.record.kind is Kind.REDUCE for f in folds)
        if several:
            self.several(op, folds, name, brief)
        if several and not brief:
            # Less code to compile, for at most SEVERAL vectors that need no partial step.
            out.open(f"for (; {name} < end; {name} += L)")
            out.add(f"const int n = (int)x_min(end - {name}, L);")
        else:
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

    def several(self, op: Operation, folds: Sequence[Fold], name: str, apart: bool) -> None:
        """SEVERAL vectors a step: with ``apart`` each into accumulators of its own, that are merged at the end, else
        added up before they are carried.
        """
        out, axis = self.lines, op.words("axes")[-1]
        rows = [folds, *([replace(f, names=[]) if apart else f for f in folds] for _ in range(1, SEVERAL))]
        for fold in (f for row in rows[1:] for f in row if apart):
            self.declare(fold)
        out.open(f"for (; {name} + {SEVERAL} * L <= end; {name} += {SEVERAL} * L)")
        self.partial, self.together = False, None if apart else {}
        for n, row in enumerate(rows):
            self.names[axis] = f"({name} + {n} * L)" if n else name
            self.body(op, row)
        self.names[axis] = name
        for carry, terms in (self.together or {}).items():
            while len(terms) > 1:
                terms = [f"({' + '.join(terms[n : n + 2])})" for n in range(0, len(terms), 2)]
            out.add(f"{carry} = t_carry_add_f32({carry}, {terms[0]});")
        self.together = None
        out.close()
        for row in rows[1:] if apart else ():
            for fold, other in zip(folds, row, strict=True):
                self.merge(fold, other.names)

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
            elif inner.record.kind is Kind.SCAN:
                scan_step(self, next(pending), self.vector in op.words("axes"))
            else:
                self.statement(inner)
            for r in inner.results:
                if r in self.kept:
                    self.hold(self.kept[r], r)
        self.values = outer


def pointee(kind: BufferType) -> str:
    """The C type of the elements behind a buffer's address."""
    return ("const " if kind.role == "in" else "") + ci.storage(kind.dtype.name)


def ends(nest: Operation) -> bool:
    """Is a nest only there for less than some number of rows?"""
    when = nest.attrs.get("when")
    return isinstance(when, tuple) and isinstance(when[2], Dim)


def size_names(f: Function) -> tuple[str, ...]:
    """The sizes that a kernel is given, in order: every name in its types and index expressions that is not a loop
    axis.
    """
    bound: set[str] = set()
    found: set[str] = set()
    for p in f.params:
        if isinstance(p.type, BufferType):
            for d in (*p.type.dims, *(p.type.strides or ())):
                found |= d.names()
    for op in walk(f.body):
        if op.body is not None:
            bound.update(op.words("axes"))
        for d in dims_in((*op.attrs.values(), *(x.value for x in op.operands if isinstance(x, Literal)))):
            found |= {n for n in d.names() if not LOOKUP_NAME.fullmatch(n)}
    return tuple(sorted(found - bound))
