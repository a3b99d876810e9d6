"""The control of a block program in C: loops, choices and memory around kernels that are functions of the same file.

One entry with the calling convention of a kernel, but for the number of threads that there is scratch memory for in
the place of the stream flag. The outermost grids are shared out to the threads; each iteration is
carried out by one of them, so that results do not depend on how many there are. What one kernel leaves for another
lies in the thread's part of the scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.emit import LOOKUP_NAME, PARALLEL_FROM, CSource
from tessera.backends.c.moves import Moves
from tessera.backends.c.room import buffer, divisors, tensor
from tessera.backends.c.source import c_index
from tessera.backends.c.windows import is_dense
from tessera.ir.dialects.block import CHOOSE, EACH, FETCH, LOOP, NUMBER, PART, PUT
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import Dim, ceildiv, dim_max
from tessera.ir.graph import Attr, Block, Function, Literal, Operation, Value, dims_in, walk
from tessera.ir.types import BufferType, ScalarType
from tessera.ir.window import SINGLE, read
from tessera.schedule.plan import ONE, ZERO
from tessera.schedule.ranges import most

#: Iterations that a loop is taken to have where its bounds are read from memory.
SOME = Dim.const(8)


def size_names(f: Function) -> tuple[str, ...]:
    """The sizes that a block program is given, in order."""
    axes = {str(op.attrs["axis"]) for op in walk(f.body) if "axis" in op.attrs}
    found = {n for d in every_size(f) for n in d.names()}
    return tuple(sorted(n for n in found - axes if not LOOKUP_NAME.fullmatch(n)))


def every_size(f: Function) -> Iterator[Dim]:
    """The size expressions of a block program."""
    yield from (d for p in f.params for d in p.type.dims)
    for op in walk(f.body):
        yield from dims_in(op.attrs.values())
        yield from (x.value for x in op.operands if isinstance(x, Literal) and isinstance(x.value, Dim))
        yield from (d for r in op.results for d in r.type.dims)


def lined(f: Function) -> frozenset[Value]:
    """The blocks that parts alone read, and that lie in inputs row by row: these are not copied before."""
    ops, parted = list(walk(f.body)), {r for op in walk(f.body) if op.record is PART for r in _inner(op)}
    others = {v for op in ops if op.record is not PART and op not in parted for v in op.inputs}
    bodies = (f.body, *(op.body for op in ops if op.body is not None))
    others |= {y for body in bodies for y in body.yields if isinstance(y, Value)}
    found: set[Value] = set()
    for op in ops:
        if op.record is FETCH and op.result not in others:
            _, kind = buffer(op.operands[0])
            rows = read(op.attrs["at"])
            if kind.role == "in" and rows and rows[-1].kind != SINGLE and not is_dense(rows, kind.dims):
                found.add(op.result)
    return frozenset(found)


def _inner(op: Operation) -> tuple[Operation, ...]:
    return () if op.body is None else op.body.ops


def known_divisors(f: Function) -> tuple[Dim, ...]:
    """What a block program divides by that its sizes tell: all of it must be positive."""
    sizes = set(size_names(f))
    found = dict.fromkeys(e for d in every_size(f) for e in divisors(d))
    return tuple(d for d in found if d.names() <= sizes)


@dataclass
class Skeleton(Moves):
    """Writes the entry of one program."""

    #: How often what is written now is carried out, as far as sizes tell, and the work of it so far.
    times: Dim = ONE
    work: Dim = ZERO
    #: Grids are carried out in order: inside of one that the threads share, or where their order is seen.
    serially: bool = False
    stops: int = 0

    def run(self) -> CSource:
        f, out = self.function, self.lines
        buffers = [p for p in f.params if isinstance(p.type, BufferType)]
        scalars = [p for p in f.params if isinstance(p.type, ScalarType)]
        sizes = size_names(f)
        out.open(f"{ci.VISIBLE} int {self.entry}(const i64 *a)")
        for n, b in enumerate(buffers):
            self.at[b] = f"b{n}"
            out.add(f"char *const b{n} = (char *)a[{n}];")
        at = len(buffers)
        for n, name in enumerate(sizes):
            self.names[name] = f"n{n}"
            out.add(f"const i64 n{n} = a[{at + 2 + n}];")
        for n, s in enumerate(scalars):
            self.scalars[s] = f"a[{at + 2 + len(sizes) + n}]"
        out.add(f"char *const scratch = (char *)((a[{at}] + 63) & ~(i64)63), *const mine = scratch;")
        out.add(f"const int allowed = (int)a[{at + 1}];")
        out.add("int failed = 0;")
        mark = len(out.text)
        # What is added up is added in one order, whatever the number of threads.
        self.serially = any(op.attrs.get("adds") for op in walk(f.body))
        self.room.give(self.block(f.body))
        out.add("done: __attribute__((unused));")
        out.add("return failed;")
        out.close()
        inner = c_index(self.inner, self.names)
        head = [*self.room.offsets(self.names), f"const i64 scratch_step = behind + (({inner} + 63) & ~(i64)63);"]
        out.text[mark:mark] = [f"    {line}" for line in head]
        scratch = self.room.total + self.inner + 128
        return CSource(f"{out}\n", self.entry, sizes, scratch, self.work, 0)

    # -- blocks

    def block(self, block: Block) -> list[int]:
        """The operations of a block. Gives the slots that its yields lie in, which are its caller's to take back."""
        outer = self.here
        self.begin(block)
        for n, op in enumerate(block.ops):
            self.here.number = n
            _WRITE[op.record.name](self, op)
            self.room.give(self.here.ended())
        left = self.here.left()
        self.here = outer
        return left

    # -- control

    def bounds(self, op: Operation, lookups: Sequence[Value]) -> tuple[str, str, str]:
        """The C names of where a loop begins, ends, and how far it steps."""
        out, stem = self.lines, self.fresh("x")
        names = self.with_lookups(lookups, stem)
        sizes = [_size(op.attrs[key]) for key in ("lo", "hi", "step")]
        self.divides(op, sizes, names)
        lo, hi, step = (c_index(d, names) for d in sizes)
        out.add(f"const i64 {stem}_lo = {lo}, {stem}_hi = {hi}, {stem}_step = {step};")
        if not sizes[2].is_const or sizes[2].value < 1:
            self.refuse(op, f"{stem}_step <= 0", 8)
        return f"{stem}_lo", f"{stem}_hi", f"{stem}_step"

    def trips(self, op: Operation) -> Dim:
        lo, hi, step = (_size(op.attrs[key]) for key in ("lo", "hi", "step"))
        found = most(ceildiv(hi - lo, dim_max(step, 1)), self.ranges)
        return SOME if found is None else dim_max(found, 0)

    def inside(self, op: Operation, axis: str) -> None:
        """The range of a loop's axis, for what is in it."""
        lo, hi = _size(op.attrs["lo"]), _size(op.attrs["hi"])
        if not any(LOOKUP_NAME.fullmatch(n) for d in (lo, hi) for n in d.names()):
            self.ranges[axis] = (lo, hi)
        else:
            self.ranges[axis] = (Dim.name("_l0"), Dim.name("_l0"))
        self.times = self.times * self.trips(op)

    def each(self, op: Operation) -> None:
        if self.serially:
            return self.serial(op)
        nest, axes = _nest(op), list[str]()
        out, times, work = self.lines, self.times, self.work
        out.open()
        counts: list[tuple[str, str, str]] = []
        for one in nest:
            lo, hi, step = self.bounds(one, tuple(one.inputs))
            count = self.fresh("c")
            out.add(f"const i64 {count} = {hi} > {lo} ? x_cdiv({hi} - {lo}, {step}) : 0;")
            counts.append((lo, step, count))
        for one in nest:
            axis = str(one.attrs["axis"])
            axes.append(axis)
            self.names[axis] = self.fresh("i")
            self.inside(one, axis)
        out.add(f"const i64 total = {' * '.join(c for *_, c in counts)};")
        mark, self.work = len(out.text), ZERO
        self.shared_out(nest, counts)
        inside = most(self.work, self.ranges)
        many = PARALLEL_FROM if inside is None else f"({c_index(inside, self.names)})"
        shared = f"if ({many} >= {PARALLEL_FROM} && total > 1) num_threads(allowed)"
        pragma = f"#pragma omp parallel {shared} reduction(max:failed)"
        out.text.insert(mark, "    " * out.depth + pragma)
        for axis in axes:
            del self.names[axis], self.ranges[axis]
        self.times, self.work = times, work + self.work
        if not self.leave:
            out.add("if (failed > 0) return failed;")
        out.close()

    def shared_out(self, nest: Sequence[Operation], counts: Sequence[tuple[str, str, str]]) -> None:
        """The iterations of a grid, each carried out by one of the threads."""
        out, body = self.lines, nest[-1].body
        assert body is not None
        out.open()
        out.add("const i64 threads = omp_get_num_threads(), me = omp_get_thread_num();")
        out.add("char *const mine = scratch + me * scratch_step;")
        if _uneven(nest):
            out.open("for (i64 p = me; p < total; p += threads)")
        else:
            out.add("const i64 last = total * (me + 1) / threads;")
            out.open("for (i64 p = total * me / threads; p < last; p++)")
        out.add("if (failed > 0) continue;")
        rest = "p"
        for n in reversed(range(len(nest))):
            lo, step, count = counts[n]
            here = rest if n == 0 else f"{rest} % {count}"
            out.add(f"const i64 {self.names[str(nest[n].attrs['axis'])]} = {lo} + ({here}) * {step};")
            rest = f"({rest} / {count})"
        self.stops += 1
        label, before = f"stop{self.stops}", self.leave
        self.leave, self.serially = label, True
        self.room.give(self.block(body))
        self.leave, self.serially = before, False
        if label in self.jumps:
            out.add(f"{label}:;")
        out.close()
        out.close()

    def serial(self, op: Operation) -> None:
        """A grid inside of another one, one iteration after the other."""
        assert op.body is not None
        with_times = self.times
        self.lines.open()
        axis = str(op.attrs["axis"])
        lo, hi, step = self.bounds(op, tuple(op.inputs))
        self.names[axis] = name = self.fresh("i")
        self.inside(op, axis)
        self.lines.open(f"for (i64 {name} = {lo}; {name} < {hi}; {name} += {step})")
        self.room.give(self.block(op.body))
        self.lines.close()
        self.lines.close()
        del self.names[axis], self.ranges[axis]
        self.times = with_times

    def loop(self, op: Operation) -> None:
        """An ordered loop: each carry lies in one of two slots, which change places at the end of an iteration."""
        out, body, count = self.lines, op.body, len(op.results)
        assert body is not None
        times, stops = self.times, bool(op.attrs.get("stops"))
        now = [self.begun(op, n) for n in range(count)]
        after = [self.mine(r) for r in op.results]
        out.open()
        axis = str(op.attrs["axis"])
        lookups = tuple(x for x in op.operands[count:] if isinstance(x, Value))
        lo, hi, step = self.bounds(op, lookups)
        self.names[axis] = name = self.fresh("i")
        self.inside(op, axis)
        out.open(f"for (i64 {name} = {lo}; {name} < {hi}; {name} += {step})")
        self.at.update(zip(body.params, now, strict=True))
        yields = body.yields[stops:]
        direct = self.wanted_here(body, yields, after)
        left = self.block(body)
        for y, p, to in zip(yields, body.params, after, strict=True):
            assert isinstance(y, Value)
            if y not in direct:
                self.copied(to, self.at[y], tensor(p))
        if stops:
            assert isinstance(body.yields[0], Value)
            out.add(f"const int stopped = *(const unsigned char *){self.at[body.yields[0]]};")
        self.room.give(left)
        for a, b in zip(now, after, strict=True):
            out.add(f"{{ char *const was = {a}; {a} = {b}; {b} = was; }}")
        if stops:
            out.add("if (stopped) break;")
        out.close()
        out.close()
        self.at.update(zip(op.results, now, strict=True))
        del self.names[axis], self.ranges[axis]
        self.times = times

    def choose(self, op: Operation) -> None:
        out = self.lines
        assert op.body is not None
        (condition,) = op.inputs
        places = []
        for r in op.results:
            place, number = self.slot(r)
            self.here.own(r, number)
            places.append(place)
        for n, case in enumerate(op.body.ops):
            assert case.body is not None
            out.open("else" if n else f"if (*(const unsigned char *){self.at[condition]})")
            direct = self.wanted_here(case.body, case.body.yields, places)
            left = self.block(case.body)
            for y, r, to in zip(case.body.yields, op.results, places, strict=True):
                assert isinstance(y, Value)
                if y not in direct:
                    self.copied(to, self.at[y], tensor(r))
            self.room.give(left)
            out.close()
        self.at.update(zip(op.results, places, strict=True))


def _size(a: Attr) -> Dim:
    assert isinstance(a, Dim | int)
    return Dim.of(a)


def _nest(op: Operation) -> list[Operation]:
    """A grid and those right inside of it whose bounds do not depend on it."""
    found, axes = [op], {str(op.attrs["axis"])}
    while found[-1].body is not None and len(found[-1].body.ops) == 1:
        (inner,) = found[-1].body.ops
        if inner.record is not EACH or inner.operands or _names(inner) & axes:
            break
        found.append(inner)
        axes.add(str(inner.attrs["axis"]))
    return found


def _names(op: Operation) -> set[str]:
    """The names in the bounds of a loop."""
    return {n for key in ("lo", "hi", "step") for n in _size(op.attrs[key]).names()}


def _uneven(nest: Sequence[Operation]) -> bool:
    """May the iterations of a grid differ in their work?"""
    body = nest[-1].body
    assert body is not None
    inside = list(walk(body))
    axes = {str(op.attrs["axis"]) for op in (*nest, *inside) if "axis" in op.attrs}
    return any(
        op.attrs.get("stops") or any(n in axes or LOOKUP_NAME.fullmatch(n) for n in _names(op))
        for op in inside
        if op.record in (EACH, LOOP)
    )


_WRITE: Mapping[str, Callable[[Skeleton, Operation], None]] = {
    EACH.name: Skeleton.each, LOOP.name: Skeleton.loop, CHOOSE.name: Skeleton.choose, FETCH.name: Skeleton.fetch,
    PUT.name: Skeleton.put, NUMBER.name: Skeleton.number, LOCAL.name: Skeleton.local, PART.name: Skeleton.part,
}  # fmt: skip
__all__ = ["Skeleton", "size_names"]
