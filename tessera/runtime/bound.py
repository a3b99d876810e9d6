"""A plan at given sizes: what can be known before a call is, and the rest is a few calls.

Views are places in memory and no steps. Kernels and matrix products that follow each other are one call of a table,
which says where each finds its arguments. What lies between the steps shares one block of memory.
"""

from __future__ import annotations

import array
import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from tessera import config
from tessera.runtime import arena, memory
from tessera.runtime.added import added
from tessera.runtime.arena import Life, Memory
from tessera.runtime.pieces import Pieces, spanned
from tessera.runtime.place import Place
from tessera.runtime.product import product
from tessera.runtime.rows import BLOCK, FIRST, NOTHING, PACK, Argument, At, Opaque, Row, Scalar, Scratch
from tessera.runtime.steps import (
    CallStep,
    KernelStep,
    Laid,
    NoAddressError,
    Routine,
    Runner,
    Sizes,
    addressable,
    failed,
    sized,
)

#: Results of at least so many bytes are written past the caches: nobody reads them back before they would be evicted.
#: Of a call with so much memory in use that no cache has all of it, fewer are.
STREAM_FROM, CROWDED, STREAM_CROWDED = 4 << 20, 32 << 20, 1 << 20
#: A step whose loops visit at least so many points may use threads, and OpenMP must know torch's number of them.
THREADS_FROM = 16 << 10
#: A bound plan keeps a tensor to copy for each that it allocates of up to so many bytes.
COPIED = 16 << 10


@dataclass
class Bound:
    """A plan with everything that its sizes settle. Arguments that are ``within`` lie in one block of bytes, which is
    given before the others.
    """

    plan: Laid
    sizes: Sizes
    within: Mapping[int, Place] = field(default_factory=dict)
    #: Where each slot lies that is not a library's own tensor.
    places: dict[int, Place] = field(default_factory=dict)
    #: What is to be done: the number of the step, and its row or its call.
    steps: list[Row | Opaque] = field(default_factory=list)
    #: The blocks that are to be allocated.
    blocks: dict[int, Place] = field(default_factory=dict)
    #: The steps that use each block, first and last.
    lives: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan, sizes = self.plan, self.sizes
        for slot, given in enumerate(plan.given):
            if given is not None:
                self.places[slot] = Place.given(slot, given, sizes)
        self.places |= {slot: replace(place, root=plan.slots) for slot, place in self.within.items()}
        for slot, shape, dtype in sized(plan.allocs, sizes):
            self.places[slot] = self.blocks[slot] = Place.dense(slot, shape, dtype)
        used = sum(math.prod(x.shape) * x.dtype.itemsize for x in self.places.values())
        self.far = STREAM_CROWDED if used >= CROWDED else STREAM_FROM
        for n, step in enumerate(plan.steps):
            self.add(n, step)

    @property
    def arguments(self) -> list[int]:
        """The slots of the tensors that a call is given, in order."""
        rest = [slot for slot in range(self.plan.inputs) if slot not in self.within]
        return [self.plan.slots, *rest] if self.within else rest

    def memory(self, together: Collection[int] = ()) -> Memory:
        """Which blocks share one. Of those ``together`` are the slots that are results as one, where they can be."""
        plan, end = self.plan, len(self.steps)
        results = set(map(self.root, plan.outputs))
        alone = {self.root(slot) for slot in plan.outputs if slot not in together}
        for made in self.steps:
            if isinstance(made, Opaque) and not results.isdisjoint(made.step.writes):
                results.update(map(self.root, made.step.reads))
                alone.update(map(self.root, made.step.reads))
        whole = {slot for slot in together if slot in self.blocks and self.places[slot] is self.blocks[slot]} - alone
        lives = {}
        for slot, place in self.blocks.items():
            first, last = self.lives.get(slot, (end, end))
            nbytes = math.prod(place.shape) * place.dtype.itemsize
            lives[slot] = Life(nbytes, first, end if slot in results else last)
        return Memory.of(lives, results, whole)

    def root(self, slot: int) -> int:
        """The slot of the block that a slot lies in."""
        place = self.places.get(slot)
        return slot if place is None else place.root

    def add(self, n: int, step: KernelStep | CallStep) -> None:
        """The ``n``-th step: as a row, or as a call, unless it is only another look at what is there."""
        if isinstance(step, KernelStep):
            self.then(self.kernel(step), step.slots)
            return
        routine = step.at(self.sizes)
        if step.view and self.look(step, routine):
            return
        row = None
        if step.letters is not None:
            row = self.product(step)
        elif step.adds is not None:
            row = self.sums(n, step, step.adds)
        if row is None:
            for slot, x in zip(step.writes, step.dense, strict=bool(step.dense)):
                self.places[slot] = Place.given(slot, x, self.sizes)
        self.then(row or Opaque(step, routine), step.uses)

    def then(self, made: Row | Opaque, uses: Sequence[int]) -> None:
        """What is done next, and which slots it uses."""
        for slot in map(self.root, uses):
            first, _ = self.lives.get(slot, (len(self.steps), 0))
            self.lives[slot] = first, len(self.steps)
        self.steps.append(made)

    def look(self, step: CallStep, routine: Routine) -> bool:
        """Find where the result of a view lies, which may take a copy first: a view has the same values, however what
        it looks at lies. Whether that was found.
        """
        if len(step.reads) != 1 or len(step.writes) != 1 or step.reads[0] not in self.places:
            return False
        (source,), (result,) = step.reads, step.writes
        place = self.places[source]
        seen = place.seen(routine)
        if seen is None and self.plan.library is not None:
            dense = Place.dense(result, place.shape, place.dtype)
            seen = dense.seen(routine)
            if seen is not None:
                self.blocks[result] = dense
                self.places[result] = seen
                self.then(self.copy(step.name, place, dense), step.uses)
        if seen is not None:
            self.places[result] = seen
        return seen is not None

    def copy(self, name: str, place: Place, dense: Place) -> Row:
        """A row that copies a tensor to a block."""
        library, item = self.plan.library, place.dtype.itemsize
        assert library is not None
        axes = place.merged or ((1, 1),)
        arguments: list[Argument] = [At(dense.root, 0), At(place.root, place.offset), item, len(axes)]
        arguments += [x for size, step in axes for x in (size, item * step)]
        return Row(library.copy, tuple(arguments), name, 0, math.prod(place.shape) >= THREADS_FROM)

    def kernel(self, step: KernelStep) -> Row:
        sizes, mode = self.sizes, config.current().stream_stores
        stream = step.written(sizes) >= self.far if mode == "auto" else mode == "on"
        scratch = -(-step.scratch(sizes) // 64) * 64
        arguments: list[Argument] = [self.address(slot) for slot in step.slots]
        arguments += [Scratch() if scratch else 0, int(stream), *(f(sizes) for f in step.sizes)]
        arguments += [Scalar(n, real) for n, real in step.scalars]
        return Row(step.entry.address, tuple(arguments), step.name, scratch, step.work(sizes) >= THREADS_FROM)

    def address(self, slot: int) -> At:
        place = self.places.get(slot)
        return At(slot, 0) if place is None else At(place.root, place.offset)

    def product(self, step: CallStep) -> Row | None:
        """A sum of products as a row, where the BLAS computes it from what lies there; its result is a new block."""
        library, (result,) = self.plan.library, step.writes
        operands = [self.places.get(slot) for slot in step.reads]
        if len(operands) == 1:
            operands *= 2
        a, b = operands
        assert step.letters is not None
        if library is None or a is None or b is None or not library.blas.get(a.dtype) or a.dtype is not b.dtype:
            return None
        sizes = dict(zip(step.letters[0] + step.letters[1], a.shape + b.shape, strict=True))
        both = zip(step.letters[0], a.shape, strict=True)
        sizes |= {c: max(n, sizes[c]) if n and sizes[c] else 0 for c, n in both}
        made = Place.dense(result, [sizes[c] for c in step.letters[2]], a.dtype)
        addressable(made.shape, made.dtype)
        found = product(step.letters, a, b, made)
        if found is None:
            return None
        self.places[result] = self.blocks[result] = made
        factors = (b, a) if found.swapped else (a, b)
        arguments: list[Argument] = [At(x.root, x.offset) for x in (*factors, made)]
        arguments += [library.blas[a.dtype], a.dtype is torch.float64, *found.transposed, *found.sizes, *found.leading]
        arguments += [len(found.batch), *(x for axis in found.batch for x in axis)]
        return Row(library.product, tuple(arguments), step.name, 0, found.work >= THREADS_FROM)

    def sums(self, n: int, step: CallStep, axis: int) -> Row | None:
        """Rows added to those of a tensor as a row of the table, where they lie so; in the memory of that tensor where
        nobody reads it later, else in a copy of it.
        """
        library, (result,) = self.plan.library, step.writes
        to, index, rows = (self.places.get(slot) for slot in step.reads)
        if library is None or to is None or index is None or rows is None or to.dtype not in library.added:
            return None
        found = added(axis, to.shape, index, rows)
        if found is None:
            return None
        if self.is_last(n, step.reads):
            self.hand_over(to.root, result)
        else:
            made = self.places[result] = self.blocks[result] = Place.dense(result, to.shape, to.dtype)
            self.then(self.copy(step.name, to, made), (step.reads[0], result))
        arguments: list[Argument] = [At(x.root, x.offset) for x in (self.places[result], index, rows)]
        arguments += [Scratch(), *found.arguments]
        large = found.work >= THREADS_FROM
        return Row(library.added[to.dtype], tuple(arguments), step.name, 0, large, 16 * found.rows)

    def is_last(self, n: int, reads: Sequence[int]) -> bool:
        """Is the first of what the ``n``-th step reads a block of the plan that nobody else reads, then or later?"""
        slot, plan = reads[0], self.plan
        if slot not in self.blocks or self.places[slot] is not self.blocks[slot]:
            return False
        seen = [s for step in plan.steps[n + 1 :] for s in step.uses]
        # What a library was given it may have given back.
        seen += [s for made in self.steps if isinstance(made, Opaque) for s in made.step.reads]
        return slot not in {self.root(s) for s in (*seen, *plan.outputs, *reads[1:])}

    def hand_over(self, old: int, new: int) -> None:
        """The block of one slot is that of another from its beginning on: what was written to it was for that one."""
        self.blocks[new] = replace(self.blocks.pop(old), root=new)
        self.places |= {s: replace(p, root=new) for s, p in self.places.items() if p.root == old}
        self.places[new] = self.blocks[new]
        self.lives[new] = self.lives.pop(old)
        for n, made in enumerate(self.steps):
            if isinstance(made, Row):
                moved = (At(new, x.offset) if isinstance(x, At) and x.root == old else x for x in made.arguments)
                self.steps[n] = replace(made, arguments=tuple(moved))


@dataclass
class Call:
    """One call while it runs: its tensors by slot, the addresses that tables begin from, the shared block, the one that
    it gives, numbers.
    """

    slots: list[Any] | dict[int, Any]
    bases: list[int]
    block: torch.Tensor | None
    pack: torch.Tensor | None
    numbers: list[float]
    scalars: Sequence[float]


Phase = Callable[[Call], None]
Maker = Callable[[], torch.Tensor]


@dataclass
class Writer:
    """Writes the phases of a call: tables of rows, and what libraries do between them."""

    bound: Bound
    memory: Memory
    phases: list[Phase] = field(default_factory=list)
    bases: dict[int, int] = field(default_factory=dict)
    scalars: dict[Scalar, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    born: list[tuple[int, int, Maker]] = field(default_factory=list)

    def __post_init__(self) -> None:
        bound = self.bound
        made = [s for step in bound.steps if isinstance(step, Opaque) for s in step.step.writes]
        for slot in (*bound.arguments, *bound.blocks, *made):
            if self.shared(slot) is None:
                self.bases.setdefault(slot, FIRST + len(self.bases))
        for row in bound.steps:
            for x in row.arguments if isinstance(row, Row) else ():
                if isinstance(x, Scalar):
                    self.scalars.setdefault(x, len(self.scalars))

    def shared(self, root: int) -> tuple[int, int] | None:
        """The base of the block that a block lies in, and where in it; None of one that is by itself."""
        held = self.memory
        if root in held.packed:
            return PACK, held.packed[root]
        return (BLOCK, held.offsets[root]) if root in held.offsets else None

    def write(self) -> list[Phase]:
        """All phases."""
        bound, late = self.bound, self.memory.late
        first: dict[int, list[int]] = {}
        for slot in bound.blocks:
            if self.shared(slot) is not None:
                continue
            at = bound.lives[slot][0] if slot in late and slot in bound.lives else 0
            first.setdefault(at, []).append(slot)
        last: dict[int, list[int]] = {}
        kept = {bound.root(slot) for slot in bound.plan.outputs}
        for slot, (_, at) in bound.lives.items():
            if bound.plan.inputs <= slot < bound.plan.slots and slot not in kept and self.shared(slot) is None:
                last.setdefault(at, []).append(slot)
        for n, step in enumerate(bound.steps):
            if n in first:
                self.flush()
                self.bear(first.pop(n))
            if isinstance(step, Row):
                self.begin()
                self.rows.append(step)
            else:
                self.flush()
                self.phases.append(self.opaque(step))
            self.dead += last.get(n, ())
        self.flush()
        self.bear([slot for slots in first.values() for slot in slots])
        self.begin()
        return self.phases

    def bear(self, slots: Sequence[int]) -> None:
        """Allocate before what comes next."""
        for slot in slots:
            place = self.bound.blocks[slot]
            self.born.append((slot, self.bases[slot], maker(place.shape, place.dtype)))

    def start(self) -> Phase | None:
        """Free what nobody needs any more, then allocate."""
        dead, born, self.dead, self.born = tuple(self.dead), tuple(self.born), [], []
        return partial(_start, dead, born) if dead or born else None

    def begin(self) -> None:
        """What comes before the first row of a table."""
        before = None if self.rows else self.start()
        if before is not None:
            self.phases.append(before)

    def flush(self) -> None:
        """The rows that wait become a phase."""
        if self.rows:
            self.phases.append(self.table(self.rows))
            self.rows = []

    def table(self, rows: Sequence[Row]) -> Phase:
        """Rows as one call of the library."""
        library = self.bound.plan.library
        assert library is not None
        numbers = [len(rows)]
        for row in rows:
            numbers += [row.entry, len(row.arguments)]
            for x in row.arguments:
                numbers += self.argument(x)
        table, names = array.array("q", numbers).tobytes(), [row.name for row in rows]
        kinds = "".join("d" if s.real else "q" for s in self.scalars)
        pack = struct.Struct(f"={FIRST + len(self.bases)}q{kinds}").pack
        enter = library.run

        def run(call: Call) -> None:
            code = enter(table, pack(*call.bases, *call.numbers))
            if code:
                raise failed(code & 255, names[code >> 8])

        return run

    def argument(self, x: Argument) -> tuple[int, int]:
        """The number of a base, and what is added to it."""
        if isinstance(x, At):
            base, offset = self.shared(x.root) or (self.bases[x.root], 0)
            return base, offset + x.offset
        if isinstance(x, Scalar):
            return FIRST + len(self.bases) + self.scalars[x], 0
        return (BLOCK, self.memory.whole) if isinstance(x, Scratch) else (NOTHING, int(x))

    def opaque(self, made: Opaque) -> Phase:
        """A library call: tensors are made for what it reads, and its results are tensors."""
        before, step, routine = self.start(), made.step, made.routine
        reads = [self.tensor(slot) for slot in step.reads]
        writes = [(slot, self.bases[slot]) for slot in step.writes]
        dense = bool(step.dense)
        shares = any(self.bound.root(slot) in self.memory.offsets for slot in step.reads)

        def run(call: Call) -> None:
            if before is not None:
                before(call)
            found = routine([read(call) for read in reads], call.scalars)
            for (slot, base), x in zip(writes, found, strict=True):
                if shares and x.untyped_storage().data_ptr() == call.bases[BLOCK]:
                    x = x.clone()
                if dense and not x.is_contiguous():
                    x = x.contiguous()
                call.slots[slot] = x
                call.bases[base] = x.data_ptr()

        return run

    def tensor(self, slot: int) -> Callable[[Call], Any]:
        """What gives the tensor of a slot."""
        blocks, places = self.bound.blocks, self.bound.places
        place = places.get(slot)
        root = slot if place is None else place.root
        shared = self.shared(root)
        if place is None or (shared is None and place is (blocks.get(root) or places.get(root))):
            return lambda call: call.slots[root]
        if shared is None:
            return lambda call: place.of(call.slots[root])
        here = replace(place, offset=shared[1] + place.offset)
        if shared[0] == PACK:
            return lambda call: here.of(call.pack)  # type: ignore[arg-type]
        return lambda call: here.of(call.block)  # type: ignore[arg-type]


def _start(dead: Sequence[int], born: Sequence[tuple[int, int, Maker]], call: Call) -> None:
    for slot in dead:
        call.slots[slot] = None
    for slot, base, make in born:
        x = call.slots[slot] = make()
        call.bases[base] = x.data_ptr()


def maker(shape: tuple[int, ...], dtype: torch.dtype) -> Maker:
    """What allocates such a tensor. Of a small one torch parses the arguments of `empty_like` in half the time of those
    of `empty`.
    """
    if math.prod(shape) * dtype.itemsize <= COPIED:
        return partial(torch.empty_like, torch.empty(shape, dtype=dtype, device="cpu"))
    return partial(memory.empty, shape, dtype)


def runner(plan: Laid, sizes: Sizes, within: Mapping[int, Place] | None = None) -> Runner:
    """What a call of a plan at given sizes runs: from tensors and numbers to the list of outputs. Arguments that are
    ``within`` lie there in a block of bytes, which is the first tensor.
    """
    bound = Bound(plan, sizes, within or {})
    return _running(bound, bound.memory())


def packing(plan: Laid, sizes: Sizes, together: Collection[int]) -> tuple[Runner, dict[int, Place]]:
    """The same with those outputs of the numbers ``together`` in one block of bytes that can be; and where each lies in
    it. It is the last output, in the place of those.
    """
    bound = Bound(plan, sizes)
    held = bound.memory({plan.outputs[n] for n in together})
    packed = ((n, slot) for n, slot in enumerate(plan.outputs) if n in together and slot in held.packed)
    places = {n: replace(bound.places[slot], offset=held.packed[slot]) for n, slot in packed}
    return _running(bound, held), places


def _running(bound: Bound, held: Memory) -> Runner:
    plan, writer = bound.plan, Writer(bound, held)
    phases = tuple(writer.write())
    rows = [step for step in bound.steps if isinstance(step, Row)]
    large, scratch = any(row.threads for row in rows), max((row.scratch for row in rows), default=0)
    room = max((row.room for row in rows), default=0)
    outputs = [writer.tensor(slot) for slot in plan.outputs if slot not in held.packed]
    scalars = [(s.number, float if s.real else int) for s in writer.scalars]
    others = [None] * (plan.slots - plan.inputs)
    rest = [0] * (len(writer.bases) - len(bound.arguments))
    block = _bytes(held.whole) if held.offsets and not (scratch or room) else None
    pack = _bytes(held.pack) if held.packed else None
    if pack:
        outputs.append(lambda call: call.pack)
    needs: list[int] = []
    order = bound.arguments if bound.within else None

    def run(tensors: Sequence[torch.Tensor], numbers: Sequence[float]) -> list[Any]:
        if large:
            check_storage(tensors, needs)
        threads = torch.get_num_threads() if large or scratch else 1
        more = max(scratch * threads, room)
        shared = block() if block else memory.empty((held.whole + more,), torch.uint8) if more else None
        given = pack() if pack else None
        bases = [0, 0 if shared is None else shared.data_ptr(), 0 if given is None else given.data_ptr()]
        bases += [x.data_ptr() for x in tensors]
        bases += rest
        slots = [*tensors, *others] if order is None else dict(zip(order, tensors, strict=True))
        call = Call(slots, bases, shared, given, [kind(numbers[n]) for n, kind in scalars], numbers)
        for phase in phases:
            phase(call)
        return [give(call) for give in outputs]

    return run


def _bytes(count: int) -> Maker:
    """What allocates a block in which tensors lie."""
    return maker((-(-count // arena.LINE) * arena.LINE,), torch.uint8)


def check_storage(tensors: Sequence[torch.Tensor], needs: list[int]) -> None:
    """Raise NoAddressError where a storage has been shrunk (``untyped_storage().resize_``) below what its tensor spans.

    ``needs`` keeps the spans for calls with tensors of the same sizes and strides. It takes 0.1 µs a tensor, so kernels
    of few points go without, as torch's own do.
    """
    if not needs:  # of pieces nothing: they were looked at when they were put together
        needs[:] = [-1 if isinstance(x, Pieces) else spanned(x) for x in tensors]  # at once: other threads read it
    for x, need in zip(tensors, needs, strict=True):
        if need >= 0 and x.untyped_storage().nbytes() < need + x.storage_offset() * x.itemsize:
            raise NoAddressError
