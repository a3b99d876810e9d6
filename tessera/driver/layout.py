"""From a scheduled program to a plan's slots: a place for every tensor, what is allocated, the steps in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch

from tessera.backends.c import runner
from tessera.backends.c.backend import added_dtypes
from tessera.backends.c.emit import CSource
from tessera.backends.c.load import SharedObject
from tessera.backends.eager.dtypes import to_torch_dtype
from tessera.backends.eager.run import ORDERED
from tessera.backends.eager.table import TorchTable
from tessera.driver import bounds
from tessera.driver.devices import CPU
from tessera.frontend.trace import Traced
from tessera.ir.dialects.contract import contracted_dtype, letters
from tessera.ir.dim import Dim
from tessera.ir.dtype import DTYPES, bool_
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.ir.record import Kind
from tessera.ir.types import ScalarType, TensorType
from tessera.runtime import dispatch
from tessera.runtime.blocks import Add, ByBlocks
from tessera.runtime.dispatch import Sizes
from tessera.runtime.pieces import Pieces
from tessera.runtime.steps import Routine
from tessera.schedule.lower import stride_name
from tessera.schedule.plan import Added, Blocks, Call, Kernel, Program, part_values

TABLE = TorchTable()
S = TypeVar("S")
Copy = Callable[[Any], torch.Tensor]


@dataclass
class Places(Generic[S]):
    """A program laid out for one device. ``kernel`` makes the step of a kernel once its buffers have their slots;
    ``copied`` has, for each output that cannot be given as it is, what makes the tensor that is given.
    """

    program: Program
    device: torch.device
    kernel: Callable[[Kernel, Places[S]], S]
    copied: Mapping[int, Copy] = field(default_factory=dict)
    library: dispatch.Library | None = None
    slots: dict[Value, int] = field(default_factory=dict)
    scalars: dict[Value, int] = field(default_factory=dict)
    allocs: list[dispatch.Alloc] = field(default_factory=list)
    steps: list[S | dispatch.CallStep] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    updates: tuple[int, ...] = ()
    inputs: int = 0

    def __post_init__(self) -> None:
        params = self.program.function.params
        self.slots.update({v: n for n, v in enumerate(p for p in params if isinstance(p.type, TensorType))})
        self.scalars.update({v: n for n, v in enumerate(p for p in params if isinstance(p.type, ScalarType))})
        self.inputs = len(self.slots)
        arguments = dict(self.slots)
        for p in params:
            if p.name in self.program.joined:
                self.slots[p] = self.make(Pieces.joined, self.slots[p])
        for step in self.program.steps:
            self.add(step)
        for number, x in enumerate(self.program.outputs):
            self.give(x)
            if number in self.copied:
                self.outputs[-1] = self.make(self.copied[number], self.outputs[-1])
        self.write(arguments)

    def add(self, step: Kernel | Call | Blocks) -> None:
        if isinstance(step, Blocks):
            self.blocks(step)
            return
        if isinstance(step, Call):
            for v in step.outputs:
                self.slots[v] = len(self.slots)
            self.steps.append(self.call(step))
            return
        updated = dict(step.updates)
        for v in (*step.outputs, *step.temps):
            if v in updated:
                self.slots[v] = self.slots[updated[v]]
                continue
            self.allocate(v)
        self.steps.append(self.kernel(step, self))

    def allocate(self, v: Value) -> None:
        """A slot for a value, with memory."""
        self.slots[v] = len(self.slots)
        shape = tuple(d.evaluator() for d in v.type.dims)
        self.allocs.append(dispatch.Alloc(self.slots[v], shape, torch_dtype(v)))

    def plan(self, given: tuple[dispatch.Given | None, ...]) -> dispatch.Plan:
        """The plan on the CPU, where the arguments lie as ``given``."""
        slots, steps = len(self.slots), tuple(self.steps)
        return dispatch.Plan(
            self.inputs, slots, tuple(self.allocs), steps, tuple(self.outputs), self.updates, given, self.library,  # type: ignore[arg-type]
        )  # fmt: skip

    def blocks(self, step: Blocks) -> None:
        """Steps that are laid out for themselves, and where what they make of a block goes."""
        inside = Places(step.program, self.device, self.kernel, library=self.library)
        tensors = [v for v in step.inputs if isinstance(v.type, TensorType)]
        params = [p for p in step.program.function.params if isinstance(p.type, TensorType)]
        given = tuple(_given(p, v.name, self.program) for p, v in zip(params, tensors, strict=True))
        plan = inside.plan(given)
        at = {v: n for n, v in enumerate(step.program.outputs)}
        parts = tuple((tuple(at[v] for v in part_values(part)), _adder(part, inside)) for part in step.parts)
        numbers = tuple(self.scalars[v] for v in step.inputs if isinstance(v.type, ScalarType))
        dense = frozenset(n for n, v in enumerate(tensors) if v.name not in self.program.strided)
        cut, results = frozenset(n for n, v in enumerate(tensors) if v in step.cut), tuple(map(_dense, step.outputs))
        along, rows = step.along.evaluator(), step.rows.evaluator()
        by = ByBlocks(plan, dense, cut, numbers, results, parts, step.block, along, rows)
        reads = tuple(self.slots[v] for v in tensors)
        for v in step.outputs:
            self.slots[v] = len(self.slots)
        writes = tuple(self.slots[v] for v in step.outputs)
        self.steps.append(dispatch.CallStep(by.at, reads, writes, step.op.name, dense=results))

    def give(self, x: Operand) -> None:
        """One output: a tensor that has a slot, or a number that becomes a tensor of rank 0."""
        if not (isinstance(x, Value) and x in self.slots):
            slot = len(self.slots)
            self.slots[Value("constant", ScalarType(x.type.dtype))] = slot
            self.steps.append(self.constant(x, slot))
            self.outputs.append(slot)
        else:
            self.outputs.append(self.slots[x])

    def write(self, arguments: Mapping[Value, int]) -> None:
        """Bring into the memory of parameters what no kernel wrote there; who returned it gets the parameter."""
        self.updates = tuple(arguments[p] for p in self.program.function.updates)
        views = [s.op for s in self.program.steps if isinstance(s, Call)]
        pending: list[tuple[int, int]] = []
        for p, x in self.program.copied:
            self.give(x)
            new = self.outputs.pop()
            if root_of(x, views) in self.program.function.updates:  # which may be written to before
                new = self.make(torch.clone, new)
            pending.append((arguments[p], new))
        for place, new in pending:
            self.steps.append(_step(_written, (place, new), ()))
            if place in self.whole:
                self.outputs = [place if o == new else o for o in self.outputs]

    @property
    def whole(self) -> frozenset[int]:
        """The numbers of the arguments that are no pieces."""
        tensors = [p for p in self.program.function.params if isinstance(p.type, TensorType)]
        return frozenset(n for n, p in enumerate(tensors) if p.name not in self.program.pieces)

    def make(self, make: Copy, slot: int) -> int:
        """The slot of what ``make`` makes of a tensor."""
        new = len(self.slots)
        self.slots[Value("copy", ScalarType(bool_))] = new
        self.steps.append(_step(lambda tensors, numbers, sizes: (make(tensors[0]),), (slot,), (new,)))
        return new

    def buffers(self, step: Kernel) -> tuple[int, ...]:
        """The slots of a kernel's buffers, in its order."""
        return tuple(self.slots[v] for v in (*step.inputs, *step.outputs, *step.temps))

    def numbers(self, step: Kernel) -> tuple[tuple[int, bool], ...]:
        """Which of the call's numbers a kernel takes, and whether each is a float."""
        return tuple((self.scalars[v], v.type.dtype.is_float) for v in step.scalars)

    def call(self, step: Call) -> dispatch.CallStep:
        op = step.op
        reads = tuple(dict.fromkeys(self.slots[v] for v in op.inputs if v in self.slots))
        local = {v: reads.index(self.slots[v]) for v in op.inputs if v in self.slots}
        getters = [_operand(x, local, self.scalars) for x in op.operands]
        kind = self.device.type

        def at(sizes: Sizes) -> Routine:
            go = bounds.checked(op, sizes)

            def run(tensors: Sequence[torch.Tensor], numbers: Sequence[float]) -> Sequence[torch.Tensor]:
                operands = [g(tensors, numbers, sizes) for g in getters]
                if torch.is_autocast_enabled(kind):  # the dtypes in the graph are settled
                    with torch.autocast(kind, enabled=False):
                        return go(operands)
                return go(operands)

            return run

        def elsewhere(sizes: Sizes) -> Routine:
            run = at(sizes)

            def make(tensors: Sequence[torch.Tensor], numbers: Sequence[float]) -> Sequence[torch.Tensor]:
                with self.device:
                    return run(tensors, numbers)

            return make

        # With a tensor among the operands torch knows the device by itself; a step may make tensors of none.
        anew = self.device != CPU and (not reads or op.body is not None)
        view = op.record.kind is Kind.VIEW and not any(v in self.scalars for v in op.inputs)
        dense = tuple(_dense(v) for v in op.results) if op.record.kind in ORDERED else ()
        writes = tuple(self.slots[v] for v in op.results)
        return dispatch.CallStep(
            elsewhere if anew else at, reads, writes, op.name, view, _letters(op), dense, _adds(op)
        )

    def constant(self, x: Operand, slot: int) -> dispatch.CallStep:
        getter = _operand(x, {}, self.scalars)
        dtype = torch_dtype(x)
        if self.device == CPU:
            return _step(lambda t, n, s: (torch.tensor(getter(t, n, s), dtype=dtype),), (), (slot,))
        # Filled there: a copy from the CPU would wait for the device.
        return _step(lambda t, n, s: (torch.full((), getter(t, n, s), dtype=dtype, device=self.device),), (), (slot,))


def _step(
    run: Callable[[Sequence[Any], Sequence[float], Sizes], Sequence[torch.Tensor]], reads: tuple[int, ...],
    writes: tuple[int, ...],
) -> dispatch.CallStep:  # fmt: skip
    """A step that has nothing to prepare."""
    return dispatch.CallStep(lambda sizes: lambda tensors, numbers: run(tensors, numbers, sizes), reads, writes)


def _letters(op: Operation) -> tuple[str, str, str] | None:
    """The axes of a sum of products that is summed in its own dtype; None for what is none."""
    if op.record.kind is not Kind.CONTRACT or contracted_dtype(op) is not op.results[0].type.dtype:
        return None
    return letters(op)


def _adds(op: Operation) -> int | None:
    """The axis along which an operation adds one tensor to another, where these and the positions are three tensors."""
    adds = op.record.adds
    tensors = {v for v in op.inputs if isinstance(v.type, TensorType)}
    return None if adds is None or len(tensors) < len(op.operands) else adds(op.attrs)


def copies(traced: Traced, program: Program) -> dict[int, Copy]:
    """What makes the outputs that cannot be given as they are, by number. Some are equal to an argument or to an
    earlier output though the code makes new ones: given as they are, a later write to one would change the other. Some
    are views, or arguments, of which the code asks for a dense block.
    """
    views = [s.op for s in program.steps if isinstance(s, Call)]
    params = {p: n for n, p in enumerate(program.function.params)}
    for p, new in reversed(program.function.written):
        if isinstance(new, Value) and new not in params:
            params[new] = params[p]
    found: dict[int, Copy] = {}
    memory: dict[Value, int] = {}
    for o in traced.outputs:
        if o.kind != "tensor":
            continue
        x = program.outputs[o.place]
        root = root_of(x, views)
        if not isinstance(root, Value):
            continue
        if memory.setdefault(root, params.get(root, o.memory)) != o.memory:
            found[o.place] = _anew
        elif o.dense and (root is not x or root in params):
            found[o.place] = torch.Tensor.contiguous
    return found


def _anew(x: torch.Tensor) -> torch.Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _written(tensors: Sequence[Any], numbers: Sequence[float], sizes: Sizes) -> Sequence[torch.Tensor]:
    place, new = tensors
    if isinstance(place, Pieces):
        place.write(new)
    else:
        place.copy_(new)
    return ()


def root_of(x: Operand, ops: Sequence[Operation]) -> Operand:
    """What a value is a view of; itself when it is none."""
    makers = {r: op for op in ops if op.record.kind is Kind.VIEW for r in op.results}
    while isinstance(x, Value) and x in makers and isinstance(makers[x].operands[0], Value):
        x = makers[x].operands[0]
    return x


def torch_dtype(x: Operand) -> torch.dtype:
    """The torch dtype of a value in memory."""
    found = TABLE.from_dtype(x.type.dtype)
    assert isinstance(found, torch.dtype), f"{x!r} has no torch dtype"
    return found


def lay_out(
    program: Program,
    sources: Sequence[CSource],
    library: SharedObject | None,
    copied: Mapping[int, Copy] | None = None,
) -> dispatch.Plan:
    """The plan of a program on the CPU, from the C text of its kernels and the library that they are in."""
    natives = iter(sources)

    def kernel(step: Kernel, places: Places[dispatch.KernelStep]) -> dispatch.KernelStep:
        source = next(natives)
        assert library is not None
        return dispatch.KernelStep(
            dispatch.Native.at(library.address(source.entry)),
            places.buffers(step),
            tuple(Dim.name(n).evaluator(signed=True) for n in source.sizes),
            places.numbers(step),
            source.scratch.evaluator(),
            step.cost.written.evaluator(),
            source.work.evaluator(),
            step.name,
        )

    shared = None if library is None else _shared(library, added_dtypes(program))
    given = tuple(_given(p, p.name, program) for p in program.function.params if isinstance(p.type, TensorType))
    return Places(program, CPU, kernel, copied or {}, shared).plan(given)


def _given(p: Value, name: str, program: Program) -> dispatch.Given | None:
    """How an argument of this name lies; None for one in pieces."""
    if name in program.pieces:
        return None
    if name not in program.strided:
        return _dense(p)
    strides = tuple(Dim.name(stride_name(name, n)).evaluator(signed=True) for n in range(p.type.rank))
    return replace(_dense(p), strides=strides)


def _dense(v: Value) -> dispatch.Given:
    return dispatch.Given(tuple(d.evaluator() for d in v.type.dims), torch_dtype(v))


def _shared(library: SharedObject, added: Sequence[str]) -> dispatch.Library:
    blas = {torch.float32: runner.blas("sgemm_"), torch.float64: runner.blas("dgemm_")}
    run, product, copy = map(library.address, (runner.RUN, runner.PRODUCT, runner.COPY))
    rows = {to_torch_dtype(DTYPES[dtype]): library.address(runner.adder(dtype)) for dtype in added}
    return dispatch.Library.at(run, product, copy, blas, rows)


def _adder(part: Value | Added, inside: Places[Any]) -> Add | None:
    """What adds a part of a block to a sum; None for what is no sum."""
    if not isinstance(part, Added):
        return None
    if part.product is None:
        return lambda total, given, numbers, sizes, first: _add(total, given[0], first)
    call = product_into(part.product, inside.device.type)
    if call is not None:
        return call
    inside.slots.setdefault(part.value, len(inside.slots))  # which the plan of a block does not have
    step = inside.call(Call(part.product))
    order = [next(n for n, v in enumerate(part_values(part)) if inside.slots[v] == slot) for slot in step.reads]

    def product(
        total: torch.Tensor, given: Sequence[torch.Tensor], numbers: Sequence[float], sizes: Sizes, first: bool
    ) -> None:
        _add(total, step.at(sizes)([given[n] for n in order], numbers)[0], first)

    return product


def _add(total: torch.Tensor, x: torch.Tensor, first: bool) -> None:
    total.copy_(x) if first else total.add_(x)


def product_into(op: Operation, device: str) -> Add | None:
    """What adds a product of two matrices to a sum without memory of its own; None for any other contraction."""
    left, right, result = letters(op)
    summed = [c for c in left if c not in result]
    if not len(left) == len(right) == len(result) == 2 or len(summed) != 1 or op.attrs.get("accumulate_dtype"):
        return None
    (k,), swapped = summed, result[0] in right
    if k not in right or {*left, *right} != {k, *result} or left == right:
        return None
    turned = left[1 if swapped else 0] == k, right[0 if swapped else 1] == k
    same = op.operands[0] is op.operands[1]

    def add(
        total: torch.Tensor, given: Sequence[torch.Tensor], numbers: Sequence[float], sizes: Sizes, first: bool
    ) -> None:
        a, b = (x.t() if turn else x for x, turn in zip((given[0], given[0 if same else 1]), turned, strict=True))
        a, b = (b, a) if swapped else (a, b)
        with torch.autocast(device, enabled=False):
            torch.mm(a, b, out=total) if first else total.addmm_(a, b)

    return add


def _operand(x: Operand, slots: Mapping[Value, int], scalars: Mapping[Value, int]) -> Callable[..., Any]:
    """How a library call gets one operand from the slots, the scalars and the sizes."""
    if isinstance(x, Literal):
        value = x.value
        if isinstance(value, Dim):
            size = value.evaluator(signed=True)
            return lambda tensors, numbers, sizes: size(sizes)
        return lambda tensors, numbers, sizes: value
    if x in scalars:
        number = scalars[x]
        return lambda tensors, numbers, sizes: numbers[number]
    slot = slots[x]
    return lambda tensors, numbers, sizes: tensors[slot]
