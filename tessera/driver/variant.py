"""One compiled form of a function: traced, rewritten, scheduled, compiled, and laid out as a plan for the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from tessera import config
from tessera.backends.c import backend as c_backend
from tessera.backends.eager.run import run_op
from tessera.backends.eager.table import TorchTable
from tessera.frontend.trace import Traced
from tessera.ir.dim import Dim
from tessera.ir.graph import Function, Literal, Operand, Value
from tessera.ir.types import ScalarType, TensorType
from tessera.ir.verify import verify
from tessera.passes.base import run_pipeline
from tessera.passes.pipeline import PIPELINE
from tessera.runtime import dispatch
from tessera.runtime.cache import default_cache
from tessera.runtime.keys import content_key, environment_parts
from tessera.schedule.lower import stride_name
from tessera.schedule.plan import Call, Kernel, Program
from tessera.schedule.schedule import schedule

TABLE = TorchTable()
Sizes = Mapping[str, int]


def check_ir(f: Function) -> None:
    """The verifier at the level that the configuration asks for: cheap invariants always, all of them on request."""
    verify(f, level="full" if config.current().verify else "cheap")


@dataclass(frozen=True)
class Layout:
    """What a compiled form may assume of its tensor arguments: the names of those that are not dense row-major."""

    strided: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return "all dense" if not self.strided else f"strided: {', '.join(sorted(self.strided))}"


@dataclass
class Variant:
    """A compiled form. The stages are made when first asked for, so that inspecting one costs no compilation."""

    traced: Traced
    layout: Layout = Layout()
    calls: int = 0
    seconds: float = 0.0
    from_cache: bool = False
    _plan: dispatch.Plan | None = field(default=None, repr=False)

    @cached_property
    def stages(self) -> dict[str, Function]:
        """The function after each pass, by name, in order."""
        check_ir(self.traced.function)
        return run_pipeline(self.traced.function, PIPELINE, check_ir)

    @cached_property
    def fused(self) -> Function:
        return list(self.stages.values())[-1]

    @cached_property
    def program(self) -> Program:
        program = schedule(self.fused, self.layout.strided)
        for kernel in program.kernels:
            check_ir(kernel.function)
        return program

    @cached_property
    def native(self) -> c_backend.CProgram:
        """The kernels as C."""
        return c_backend.emit(self.program.kernels)

    def plan(self) -> dispatch.Plan:
        """Compile, or load from the cache, and lay out. Raises ResourceError (TSR0601, TSR0602)."""
        if self._plan is None:
            entries: list[Callable[[bytes], int]] = []
            if self.program.kernels:
                native = self.native
                key = content_key(*native.key_parts(), *environment_parts())
                built: list[bool] = []

                def build() -> Any:
                    built.append(True)
                    return c_backend.CArtifact(key, native.text, native.compile().library).pack()

                packed = default_cache().get_or_build(key, build)
                self.from_cache = not built
                library = c_backend.CArtifact.unpack(packed).load()
                entries = [dispatch.native(library.address(k.entry)) for k in native.kernels]
            self._plan = lay_out(self.program, self.native.kernels if entries else (), entries)
        return self._plan

    def sizes(self, named: Sizes, tensors: Sequence[torch.Tensor]) -> Sizes:
        """The sizes of a call with the strides that strided kernels read."""
        if not self.layout.strided:
            return named
        found = dict(named)
        for value, tensor in zip(self.tensor_params, tensors, strict=True):
            if value.name in self.layout.strided:
                for axis, step in enumerate(tensor.stride()):
                    found[stride_name(value.name, axis)] = step
        return found

    @cached_property
    def tensor_params(self) -> tuple[Value, ...]:
        return tuple(p for p in self.traced.function.params if isinstance(p.type, TensorType))


def torch_dtype(value: Value) -> torch.dtype:
    """The torch dtype of a value in memory."""
    found = TABLE.from_dtype(value.type.dtype)
    assert isinstance(found, torch.dtype), f"{value!r} has no torch dtype"
    return found


def lay_out(
    program: Program, sources: Sequence[c_backend.CSource], entries: Sequence[Callable[[bytes], int]]
) -> dispatch.Plan:
    """Slots for every tensor, allocations for what kernels write, and the steps in order."""
    params = program.function.params
    slots = {v: n for n, v in enumerate(p for p in params if isinstance(p.type, TensorType))}
    scalars = {v: n for n, v in enumerate(p for p in params if isinstance(p.type, ScalarType))}
    inputs = len(slots)
    allocs: list[dispatch.Alloc] = []
    steps: list[dispatch.KernelStep | dispatch.CallStep] = []
    native = iter(zip(sources, entries, strict=True))
    for step in program.steps:
        if isinstance(step, Call):
            for v in step.outputs:
                slots[v] = len(slots)
            steps.append(_call_step(step, slots, scalars))
            continue
        for v in (*step.outputs, *step.temps):
            slots[v] = len(slots)
            shape = tuple(_evaluator(d) for d in v.type.dims)
            allocs.append(dispatch.Alloc(slots[v], shape, torch_dtype(v)))
        source, entry = next(native)
        steps.append(_kernel_step(step, source, entry, slots, scalars))
    outputs: list[int] = []
    for x in program.outputs:
        if isinstance(x, Value) and x in slots:
            outputs.append(slots[x])
        else:
            outputs.append(len(slots))
            slots[Value("constant", ScalarType(x.type.dtype))] = len(slots)
            steps.append(_constant(x, outputs[-1], scalars))
    return dispatch.Plan(inputs, len(slots), tuple(allocs), tuple(steps), tuple(outputs))


def _evaluator(d: Dim) -> Callable[[Sizes], int]:
    return d.evaluator()


def _kernel_step(
    step: Kernel, source: c_backend.CSource, entry: Callable[[bytes], int], slots: Mapping[Value, int],
    scalars: Mapping[Value, int],
) -> dispatch.KernelStep:  # fmt: skip
    return dispatch.KernelStep(
        entry,
        tuple(slots[v] for v in (*step.inputs, *step.outputs, *step.temps)),
        tuple(Dim.name(n).evaluator(signed=True) for n in source.sizes),
        tuple((scalars[v], v.type.dtype.is_float) for v in step.scalars),
        _evaluator(source.scratch),
        _evaluator(step.cost.written),
        step.name,
    )


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


def _call_step(step: Call, slots: Mapping[Value, int], scalars: Mapping[Value, int]) -> dispatch.CallStep:
    op = step.op
    reads = tuple(dict.fromkeys(slots[v] for v in op.inputs if v in slots))
    local = {v: reads.index(slots[v]) for v in op.inputs if v in slots}
    getters = [_operand(x, local, scalars) for x in op.operands]

    def run(tensors: Sequence[torch.Tensor], numbers: Sequence[float], sizes: Sizes) -> Sequence[torch.Tensor]:
        return run_op(op, [g(tensors, numbers, sizes) for g in getters], sizes)

    return dispatch.CallStep(run, reads, tuple(slots[v] for v in op.results))


def _constant(x: Operand, slot: int, scalars: Mapping[Value, int]) -> dispatch.CallStep:
    """A number that the function returns, as a tensor of rank 0."""
    getter = _operand(x, {}, scalars)
    dtype = TABLE.from_dtype(x.type.dtype)
    return dispatch.CallStep(lambda t, n, s: (torch.tensor(getter(t, n, s), dtype=dtype),), (), (slot,))  # type: ignore[arg-type]
