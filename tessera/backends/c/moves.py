"""The straight part of a block program in C: fetches and puts, and calls of the kernels of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.emit import CSource
from tessera.backends.c.room import Room, buffer, divisors, last_uses, reads, tensor
from tessera.backends.c.source import Lines, c_index
from tessera.backends.c.windows import Window, bits, is_dense, write_copy, write_window
from tessera.diag import ResourceError
from tessera.ir.dialects.block import PART, PUT
from tessera.ir.dim import Dim, dim_max, product
from tessera.ir.graph import Block, Function, Operand, Operation, Value
from tessera.ir.types import BufferType, TensorType
from tessera.ir.window import read
from tessera.schedule.lower import stride_name
from tessera.schedule.plan import ZERO, Kernel, Program
from tessera.schedule.pull import dense_strides
from tessera.schedule.ranges import most


@dataclass
class Here:
    """The block that is written: its operations, which of them is, and the slots of the values made in it."""

    block: Block
    last: Mapping[Value, int]
    number: int = 0
    slots: dict[Value, list[int]] = field(default_factory=dict)

    def own(self, v: Value, *slots: int) -> None:
        self.slots.setdefault(v, []).extend(slots)

    def ended(self) -> list[int]:
        """The slots of what nothing reads any more, which are no longer the block's."""
        over = [v for v in self.slots if self.last.get(v, -1) <= self.number and v not in self.block.yields]
        return [n for v in over for n in self.slots.pop(v)]

    def left(self) -> list[int]:
        return [n for slots in self.slots.values() for n in slots]

    def ends_with(self, v: Value) -> bool:
        """Is the operation that is written the last to read a value of this block?"""
        return v in self.slots and self.last.get(v) == self.number and v not in self.block.yields


@dataclass
class Moves:
    """What is known while a program is written: where its values lie, and the names of sizes and axes."""

    function: Function
    programs: Mapping[Operation, Program]
    sources: Mapping[int, CSource]
    #: Blocks that kernels read where they lie in a buffer, where that is wholly inside.
    lined: Set[Value] = frozenset()
    entry: str = "tessera_program"
    lines: Lines = field(default_factory=Lines)
    names: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, tuple[Dim, Dim]] = field(default_factory=dict)
    #: Pointers to values and buffers, and the arguments that hold scalars.
    at: dict[Value, str] = field(default_factory=dict)
    scalars: dict[Value, str] = field(default_factory=dict)
    #: Where values have to be written to.
    wanted: dict[Value, str] = field(default_factory=dict)
    #: Puts whose values lie in their buffers already where their windows are wholly inside.
    direct: dict[Operation, Window] = field(default_factory=dict)
    room: Room = field(default_factory=Room)
    inner: Dim = ZERO
    here: Here = field(default_factory=lambda: Here(Block(()), {}))
    sites: list[Operation] = field(default_factory=list)
    leave: str = ""
    counter: int = 0
    times: Dim = ZERO
    work: Dim = ZERO
    jumps: set[str] = field(default_factory=set)

    def begin(self, block: Block) -> None:
        self.here = Here(block, last_uses(block.ops))

    def fresh(self, stem: str) -> str:
        self.counter += 1
        return f"{stem}{self.counter}"

    # -- memory of the thread

    def bytes(self, kind: TensorType | BufferType) -> Dim:
        """Bytes of a block, as sizes tell."""
        found = most(product(kind.dims) * kind.dtype.bytes, self.ranges)
        if found is None:
            raise ResourceError(f"a block {kind} has no size that is known beforehand", code="TSR0604")
        return found

    def slot(self, v: Value) -> tuple[str, int]:
        """A new place for a value: its pointer, and its number, which somebody has to give back."""
        assert isinstance(v.type, TensorType | BufferType)
        number, name = self.room.take(self.bytes(v.type)), self.fresh("v")
        self.lines.add(f"char *{name} = mine + o{number};")
        return name, number

    def mine(self, v: Value) -> str:
        """A new place for a value of this block."""
        name, number = self.slot(v)
        self.here.own(v, number)
        return name

    def copied(self, to: str, source: str, kind: TensorType) -> None:
        size = c_index(product(kind.dims), self.names)
        self.lines.add(f"__builtin_memcpy({to}, {source}, {kind.dtype.bytes} * ({size}));")

    def gathered(self, to: str, v: Value) -> None:
        """A copy of a block that lies in its buffer row by row."""
        dims, item = [f"({c_index(d, self.names)})" for d in v.type.dims], v.type.dtype.bytes
        steps = (*(self.names[stride_name(v.name, axis)] for axis in range(len(dims) - 1)), "1")
        w = Window("0", "", steps, tuple(dims), tuple(dims), dense=False)
        write_copy(self.lines, w, item, to, self.at[v], True)

    def begun(self, op: Operation, n: int) -> str:
        """The slot in which a carry of a loop is at first: that of what it begins with, where nothing else reads it."""
        x, r = op.operands[n], op.results[n]
        assert isinstance(x, Value) and op.body is not None
        inside = x in op.body.yields or any(x in reads(o) for o in op.body.ops)
        made = any(o.record is PART and x in o.results for o in self.here.block.ops)
        alone = made and self.here.ends_with(x) and op.operands.count(x) == 1 and not inside
        if alone and len(self.here.slots[x]) == 1 and self.bytes(tensor(x)) is self.bytes(tensor(r)):
            self.here.own(r, *self.here.slots.pop(x))
            name = self.fresh("v")
            self.lines.add(f"char *{name} = {self.at[x]};")
            return name
        name = self.mine(r)
        self.copied(name, self.at[x], tensor(r))
        return name

    def wanted_here(self, block: Block, yields: Sequence[Operand], places: Sequence[str]) -> set[Value]:
        """Ask those of a block's parts that give its yields to put them in their places; gives these."""
        made = {r for op in block.ops if op.record is PART for r in op.results}
        found = {y: to for y, to in zip(yields, places, strict=True) if isinstance(y, Value) and y in made}
        once = {y: to for y, to in found.items() if block.yields.count(y) == 1}
        self.wanted.update(once)
        return set(once)

    # -- what goes wrong

    def refuse(self, op: Operation, test: str, code: int | str) -> None:
        """Leave, with a code and the number of the operation, where a test is true."""
        if op not in self.sites:
            self.sites.append(op)
        label = self.leave or "done"
        self.jumps.add(label)
        number = f"{(self.sites.index(op) + 1) << 4} | {code}"
        self.lines.add(f"if ({test}) {{ failed = x_max(failed, {number}); goto {label}; }}")

    def divides(self, op: Operation, sizes: Iterable[Dim], names: Mapping[str, str]) -> None:
        """Leave where something is divided by a value that is known here only, and is not positive."""
        for divisor in dict.fromkeys(e for d in sizes for e in divisors(d)):
            if any(n in self.ranges or n.startswith("_l") for n in divisor.names()):
                self.refuse(op, f"{c_index(divisor, names)} <= 0", 1)

    # -- operations

    def with_lookups(self, lookups: Sequence[Value], stem: str) -> dict[str, str]:
        """The names of sizes and axes, and of the values of lookups."""
        names = dict(self.names)
        for n, x in enumerate(lookups):
            name = names[f"_l{n}"] = f"{stem}_l{n}"
            self.lines.add(f"const i64 {name} = *(const {ci.storage(x.type.dtype.name)} *){self.at[x]};")
        return names

    def window(self, op: Operation, lookups: Sequence[Operand]) -> Window:
        """The window of a fetch or put, with its bounds checked."""
        stem = self.fresh("_w")
        _, kind = buffer(op.operands[0])
        names = self.with_lookups([x for x in lookups if isinstance(x, Value)], stem)
        rows = read(op.attrs["at"])
        self.divides(op, (d for row in rows for d in row.dims), names)
        found, tests = write_window(self.lines, rows, kind, names, stem)
        for test in tests:
            self.refuse(op, test, 2)
        return found

    def fetch(self, op: Operation) -> None:
        x, kind = buffer(op.operands[0])
        w, v, item = self.window(op, op.operands[1:]), op.result, kind.dtype.bytes
        out, place = self.lines, f"{self.at[x]} + {item} * ({{}})"
        place = place.format(w.offset)
        direct = v in self.lined or (w.dense and kind.role == "in")
        if direct and not w.inside:
            name = self.at[v] = self.fresh("v")
            self.steps(v, w, "1")
            out.add(f"char *{name} = {place};")
            return
        name = self.at[v] = self.mine(v)
        if direct:
            self.steps(v, w, w.inside)
            out.add(f"if ({w.inside}) {name} = {place};")
            out.open("else")
        if w.inside:
            size = c_index(product(v.type.dims), self.names)
            fill = f"x_fill({name}, {size}, {item}, {bits(op.attrs.get('other'), kind.dtype)});"
            out.add(fill if direct else f"if (!({w.inside})) {fill}")
        write_copy(out, w, item, name, place, True)
        if direct:
            out.close()

    def steps(self, v: Value, w: Window, inside: str) -> None:
        """How far apart the elements of a block lie that is read from its buffer, or from where it was copied to."""
        if v not in self.lined:
            return
        for axis, dense in enumerate(dense_strides(v.type.dims)[:-1]):
            name = self.names[stride_name(v.name, axis)] = self.fresh("s")
            self.lines.add(f"const i64 {name} = {inside} ? {w.strides[axis]} : {c_index(dense, self.names)};")

    def put(self, op: Operation) -> None:
        x, kind = buffer(op.operands[0])
        value = op.operands[1]
        assert isinstance(value, Value)
        w = self.direct.pop(op, None)
        known = w is not None
        if w is None:
            w = self.window(op, op.operands[2:])
        elif not w.inside:
            return
        if known:
            self.lines.open(f"if (!({w.inside}))")
        place = f"{self.at[x]} + {kind.dtype.bytes} * ({w.offset})"
        write_copy(self.lines, w, kind.dtype.bytes, self.at[value], place, False)
        if known:
            self.lines.close()

    def number(self, op: Operation) -> None:
        names = self.with_lookups(tuple(op.inputs), self.fresh("x"))
        name = self.at[op.result] = self.mine(op.result)
        of = op.attrs["of"]
        assert isinstance(of, Dim | int)
        self.divides(op, (Dim.of(of),), names)
        self.lines.add(f"*(i64 *){name} = {c_index(Dim.of(of), names)};")

    def local(self, op: Operation) -> None:
        self.at[op.result] = self.mine(op.result)

    # -- parts

    def part(self, op: Operation) -> None:
        """The kernels of a part, one after the other."""
        program = self.programs[op]
        made = {v for k in program.kernels for v in k.outputs}
        places: dict[Value, str] = {}
        copies: list[tuple[Value, Operand]] = []
        for r, x in zip(op.results, program.outputs, strict=True):
            to = self.wanted.pop(r, None) or self.in_buffer(op, r) or self.mine(r)
            self.at[r] = to
            if x in made and x not in places:
                assert isinstance(x, Value)
                places[x] = to
            else:
                copies.append((r, x))
        taken: list[int] = []
        for step in program.steps:
            assert isinstance(step, Kernel)
            for v in (*step.outputs, *step.temps):
                if v not in places:
                    places[v], number = self.slot(v)
                    taken.append(number)
            self.kernel(op, step, places)
        for r, x in copies:
            assert isinstance(x, Value), "a part gives values"
            if x in self.lined:
                self.gathered(self.at[r], x)
            else:
                self.copied(self.at[r], places.get(x) or self.at[x], tensor(r))
        self.room.give(taken)

    def kernel(self, op: Operation, step: Kernel, places: Mapping[Value, str]) -> None:
        source = self.sources[id(step)]
        scratch = most(source.scratch, self.ranges)
        if scratch is None:
            raise ResourceError("a kernel needs memory of a size that is not known beforehand", code="TSR0604")
        self.inner = dim_max(self.inner, scratch)
        self.work = self.work + self.times * (most(source.work, self.ranges) or 1)
        pointers = (places.get(v) or self.at[v] for v in (*step.inputs, *step.outputs, *step.temps))
        given = [f"(i64){p}" for p in pointers]
        given += ["(i64)(mine + behind)", "0", *(self.names[n] for n in source.sizes)]
        given += [self.scalars[s] for s in step.scalars]
        name, code = self.fresh("t"), self.fresh("e")
        self.lines.add(f"const i64 {name}[] = {{{', '.join(given)}}};")
        self.lines.add(f"const int {code} = {source.entry}({name});")
        self.refuse(op, code, code)

    def in_buffer(self, op: Operation, r: Value) -> str | None:
        """Where in a buffer a result may be written at once, if a put right behind the part is all that reads it."""
        ops, seen = self.here.block.ops, set[Value]()
        for n in range(self.here.number + 1, len(ops)):
            put = ops[n]
            if put.record is not PUT or put.operands[0] in seen:
                return None
            target, kind = buffer(put.operands[0])
            seen.add(target)
            if put.operands[1] is not r:
                continue
            later = self.here.last.get(r) != n or r in self.here.block.yields
            rows = read(put.attrs["at"])
            same = r.type.dtype is kind.dtype and r.type.dims == tuple(row.extent for row in rows if row.kind != 1)
            if later or not same or any(x in op.results for x in put.operands[2:]) or not is_dense(rows, kind.dims):
                return None
            return self.place(put, r)
        return None

    def place(self, put: Operation, r: Value) -> str:
        """The window of a put where it is wholly inside, else memory of its own."""
        w = self.window(put, put.operands[2:])
        target, kind = buffer(put.operands[0])
        place = f"{self.at[target]} + {kind.dtype.bytes} * ({w.offset})"
        self.direct[put] = w
        if not w.inside:
            name = self.fresh("v")
            self.lines.add(f"char *{name} = {place};")
            return name
        name = self.mine(r)
        self.lines.add(f"if ({w.inside}) {name} = {place};")
        return name
