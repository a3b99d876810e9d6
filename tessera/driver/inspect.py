"""Looking into a function: its variants, its IR, its kernels, its cost, and what every pass did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch

from tessera.backends.base import Stage, Target
from tessera.backends.c import backend as c_backend
from tessera.backends.c.host import host_target
from tessera.backends.triton.aot import available as triton_available
from tessera.backends.triton.aot import compile_aot
from tessera.backends.triton.describe import launches
from tessera.backends.triton.emit import emit as triton_emit
from tessera.diag import ConfigError, ResourceError, ShapeError
from tessera.driver.devices import ACCELERATORS
from tessera.driver.gradient import Gradient, latest
from tessera.driver.peak import peak
from tessera.driver.variant import Variant
from tessera.ir.dialects.tile import STORE
from tessera.ir.dim import Dim, ceildiv, dim_min
from tessera.ir.flops import nbytes, op_flops
from tessera.ir.graph import Function, Note, Operand, Operation, Value, walk
from tessera.ir.loop import Loop
from tessera.ir.printer import print_function
from tessera.ir.record import Kind
from tessera.ir.types import TensorType
from tessera.runtime import dispatch
from tessera.runtime.report import described
from tessera.schedule.plan import ZERO, Added, Blocks, Call, Kernel, Program, Step, Unschedulable

Json = Any


@dataclass(frozen=True)
class LoweredKernel:
    """One kernel for one target: ``source`` text, ``ir`` of the loops, ``stages`` by name, ``resources`` where a
    compiler ran. ``flops`` and ``bytes`` are what it computes and moves, as polynomials in the dims.
    """

    name: str
    form: str
    source: str
    ir: str
    stages: tuple[Stage, ...] = ()
    resources: Mapping[str, Json] = field(default_factory=dict)
    launches: int = 1
    flops: Dim = ZERO
    bytes: Dim = ZERO

    def intensity(self, sizes: Mapping[str, int]) -> float:
        """Operations per byte of memory traffic, its place on the horizontal axis of a roofline plot (Williams,
        Waterman and Patterson 2009). A kernel is limited by memory where this is less than what the machine computes
        while it moves a byte. Raises ShapeError when ``sizes`` lacks a name.
        """
        return self.flops.evaluate(sizes) / max(self.bytes.evaluate(sizes), 1)

    def __str__(self) -> str:
        return self.source


@dataclass(frozen=True)
class Lowered:
    """A function lowered for a target: kernels in order, and the library calls between them by name."""

    target: Target
    backend: str
    kernels: tuple[LoweredKernel, ...]
    calls: tuple[str, ...] = ()
    #: What ``runs`` asks.
    described: Callable[[], tuple[str, ...]] = field(default=tuple, repr=False, compare=False)

    @property
    def runs(self) -> tuple[str, ...]:
        """What a call with the given arguments does. On a CPU, on this machine, for which it is compiled: the tables of
        kernels and matrix products that are entered at once, what libraries do between them, and the block of memory
        that they share. On a GPU each launch: programs, their blocks, how they read, and what limits them.
        """
        return self.described()

    def __str__(self) -> str:
        head = f"# {self.backend} for {self.target.name}: {len(self.kernels)} kernels, {len(self.calls)} library calls"
        return "\n\n".join([head, *(k.source for k in self.kernels)])


@dataclass(frozen=True)
class PartCost:
    """Bytes, arithmetic and peak memory of one way to run a function, as polynomials in its dims."""

    bytes: Dim
    flops: Dim
    peak: Dim
    kernels: int

    def at(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The numbers for given sizes."""
        return {
            "bytes": self.bytes.evaluate(sizes), "flops": self.flops.evaluate(sizes), "peak": self.peak.evaluate(sizes),
            "kernels": self.kernels,
        }  # fmt: skip


@dataclass(frozen=True)
class CostReport:
    """What a function costs fused and op by op. ``least`` is the lower bound of bytes: inputs once, outputs once.
    ``saved`` are the bytes that a call keeps for its derivative, beside arguments and results, and ``backward`` is what
    that derivative costs; both are there once a gradient was asked for.
    """

    name: str
    fused: PartCost
    eager: PartCost
    least: Dim
    saved: Dim = ZERO
    backward: PartCost | None = None

    def __str__(self) -> str:
        rows = [("", "fused", "eager")]
        rows += [
            (what, str(getattr(self.fused, what)), str(getattr(self.eager, what)))
            for what in ("bytes", "flops", "peak", "kernels")
        ]
        widths = [max(len(r[n]) for r in rows) for n in range(3)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        if self.backward is not None:
            b = self.backward
            lines.append(f"backward: {b.bytes} bytes, {b.flops} flops, {b.kernels} kernels; saved for it: {self.saved}")
        return "\n".join([f"cost of {self.name}; bytes at least {self.least}", *lines])


def cost(variant: Variant, name: str) -> CostReport:
    """The analytic cost of a variant."""
    f = variant.traced.function
    inputs = [p for p in f.params if isinstance(p.type, TensorType)]
    program = variant.program
    least = sum((nbytes(v.type) for v in (*_read(program, inputs), *_written(program))), ZERO)
    one_by_one = _tally(f.ops)
    resident = sum((nbytes(v.type) for v in inputs), ZERO)
    eager = PartCost(one_by_one.moved, one_by_one.flops, resident + one_by_one.made, one_by_one.count)
    report = CostReport(name, part_cost(program), eager, least)
    gradient = latest(variant)
    if gradient is None:
        return report
    return replace(report, saved=gradient.parts.bytes(), backward=part_cost(gradient.backward.program))


def part_cost(program: Program) -> PartCost:
    """What the kernels and library calls of a program cost together."""
    inputs = [p for p in program.function.params if isinstance(p.type, TensorType)]
    resident = sum((nbytes(v.type) for v in inputs), ZERO)
    total = _of_steps(program)
    return PartCost(total.moved, total.flops, resident + peak(program), total.count)


def _of_steps(program: Program) -> _Tally:
    """What the steps of a program cost, those of blocks as often as there are blocks."""
    total = _tally([s.op for s in program.steps if isinstance(s, Call) and not _is_view(s)])
    for step in program.steps:
        if isinstance(step, Kernel):
            part = _Tally(step.cost.moved, step.cost.flops, count=1)
        elif isinstance(step, Blocks):
            part = _of_blocks(step)
        else:
            continue
        total = total.plus(part)
    return total


def _of_blocks(step: Blocks) -> _Tally:
    """As many times what one block costs, and what it leaves of that: what is added up is read and written each time.
    """
    rows = dim_min(step.rows, step.along)
    count = ceildiv(step.along, rows)
    one = _of_steps(step.program)
    for part in step.parts:
        if isinstance(part, Added):
            last = _tally([part.product] if part.product is not None else [])
            one = one.plus(replace(last, moved=last.moved + nbytes(part.value.type)))
    moved, flops = (d.substitute({step.block: rows}) for d in (one.moved, one.flops))
    return _Tally(count * moved, count * flops, count=one.count)


@dataclass(frozen=True)
class _Tally:
    """Bytes moved, arithmetic, bytes of results, and the number of different calls."""

    moved: Dim = ZERO
    flops: Dim = ZERO
    made: Dim = ZERO
    count: int = 0

    def plus(self, other: _Tally) -> _Tally:
        """Both together."""
        return _Tally(
            self.moved + other.moved, self.flops + other.flops, self.made + other.made, self.count + other.count
        )


def _tally(ops: Sequence[Operation]) -> _Tally:
    """Op by op: each reads its operands and writes its result; every result stays until the end. The steps of a loop
    are counted with their number; what one step makes is gone after it, but for the rows that are stacked in the end.
    """
    total = _Tally()
    for op in ops:
        total = replace(total, flops=total.flops + op_flops(op))
        if op.record.kind is Kind.VIEW and len(op.operands) == 1:
            continue
        out = sum((nbytes(r.type) for r in op.results), ZERO)
        if op.record.kind is Kind.CONTROL and op.body is not None:
            loop, inner = Loop.of(op), _tally(op.body.ops)
            rows = sum((nbytes(r.type) for r in loop.stacks), ZERO)
            moved, made, count = loop.count * inner.moved + rows + rows, inner.made + rows + out, inner.count
        else:
            read = sum((nbytes(v.type) for v in op.inputs if isinstance(v.type, TensorType)), ZERO)
            moved, made, count = out + read, out, 1
        total = total.plus(_Tally(moved, ZERO, made, count))
    return total


def _is_view(step: Call) -> bool:
    return step.op.record.kind is Kind.VIEW


def _read(program: Program, inputs: Sequence[Any]) -> Iterator[Any]:
    used = {v for s in program.steps for v in s.inputs}
    return (v for v in inputs if v in used)


def _written(program: Program) -> Iterator[Any]:
    made = {v for s in program.steps for v in s.outputs}
    return (v for v in dict.fromkeys(program.outputs) if v in made)


def ir(variant: Variant, stage: str) -> str:
    """The text of a stage: ``traced``, a pass by name, ``fused`` (the last), or ``tile`` for the kernels' loops; of the
    derivative ``autodiff`` (function and derivative in one), ``forward`` and ``backward``, fused.
    """
    if stage == "tile":
        return "\n\n".join(print_function(k.function) for k in variant.program.kernels)
    stages = {**variant.stages, "fused": variant.fused}
    if stage in _DERIVED:
        found = latest(variant) or Gradient.of(variant)
        return print_function(_DERIVED[stage](found))
    if stage not in stages:
        known = [*stages, "tile", *_DERIVED]
        close = get_close_matches(stage, known, 1)
        raise ConfigError(
            f"no stage `{stage}`; there are {', '.join(known)}", helps=[f"`{close[0]}` is close"] if close else []
        )
    return print_function(stages[stage])


#: Stages of the derivative.
_DERIVED: Mapping[str, Callable[[Gradient], Function]] = {
    "autodiff": lambda g: g.joint.function,
    "forward": lambda g: g.forward.fused,
    "backward": lambda g: g.backward.fused,
}


def lower(
    variant: Variant, backend: str | None, target: Target | None, sizes: Mapping[str, int] | None = None
) -> Lowered:
    """The kernels of a variant for a backend and target; those it was made for, where they are left out.

    With ``sizes`` they are compiled too, where a compiler for the target is installed.
    """
    there = ACCELERATORS.get(variant.device.type)
    if target is None and there is not None and backend in (None, "triton"):
        target = there.target(variant.device)
    if backend is None:
        backend = "triton" if target is not None and target.kind != "cpu" else "c"
    if backend == "triton" and there is None:
        variant = variant.on(torch.device("cuda"))
    program = variant.program
    calls = tuple(s.op.name for s in program.calls)
    if backend == "eager":
        return Lowered(target or host_target(), backend, (), tuple(op.name for op in variant.traced.function.ops))
    if backend == "c":
        found = _lower_c(program.kernels, target or host_target(), calls)
        here = target is None and there is None and sizes is not None and not variant.layout.strided
        return replace(found, described=partial(_runs, variant, sizes)) if here and sizes is not None else found
    if backend == "triton":
        return _lower_triton(program.kernels, target or Target("cuda", "90"), calls, sizes)
    raise ResourceError(f"no backend `{backend}`", code="TSR0607", helps=["there are c, triton and eager"])


def _runs(variant: Variant, sizes: Mapping[str, int]) -> tuple[str, ...]:
    plan = variant.plan()
    return described(plan, sizes) if isinstance(plan, dispatch.Plan) else ()


def _lower_c(kernels: Sequence[Kernel], target: Target, calls: tuple[str, ...]) -> Lowered:
    made = []
    for kernel in kernels:
        program = c_backend.emit([kernel], target)
        stages = (Stage("c", program.text),)
        made.append(
            LoweredKernel(
                kernel.name,
                kernel.form,
                program.kernels[0].body,
                print_function(kernel.function),
                stages,
                flops=kernel.cost.flops,
                bytes=kernel.cost.moved,
            )
        )
    return Lowered(target, "c", tuple(made), calls)


def _lower_triton(
    kernels: Sequence[Kernel], target: Target, calls: tuple[str, ...], sizes: Mapping[str, int] | None
) -> Lowered:
    """Triton source; with sizes, and where Triton is installed, compiled for the target as well."""
    made, texts = [], list[str]()
    for kernel in kernels:
        try:
            source = triton_emit(kernel, target)
            bound = None if sizes is None else source.bind(sizes)
            texts += [] if sizes is None else (f"{kernel.name}: {line}" for line in launches(source, sizes))
        except Unschedulable as e:
            message = f"kernel `{kernel.name}` cannot be made for {target.name}: {e}"
            raise ResourceError(message, code="TSR0607") from e
        stages: tuple[Stage, ...] = (Stage("triton", source.text),)
        resources: Mapping[str, Json] = {}
        if bound is not None and triton_available():
            artifact = compile_aot(source, target.name, bound)
            stages, resources = artifact.sources, artifact.resources
        made.append(
            LoweredKernel(
                kernel.name,
                kernel.form,
                source.text,
                print_function(kernel.function),
                stages,
                resources,
                len(source.nests if bound is None else bound),
                kernel.cost.flops,
                kernel.cost.moved,
            )
        )
    told = tuple(texts)
    return Lowered(target, "triton", tuple(made), calls, lambda: told)


@dataclass(frozen=True)
class Explanation:
    """What was done to a function, pass by pass, and what its kernels are. Prints as text."""

    name: str
    notes: tuple[Note, ...]
    program: Program
    layout: str
    extra: tuple[str, ...] = ()
    gradient: Gradient | None = None

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.layout})"]
        for n in self.notes:
            lines.append(f"  {n.stage:<13} {n.seconds * 1e3:6.2f} ms  {n.text}")
            lines += [f"      {d}" for d in n.details]
        lines += [f"  {text}" for text in self.extra]
        lines += [f"  {cut}" for cut in self.program.cuts]
        lines += ["steps:", *_steps(self.program)]
        if self.gradient is not None:
            lines += _explained(self.gradient)
        return "\n".join(lines)


def _steps(program: Program) -> Iterator[str]:
    """One line for each kernel and library call, and for what is copied around them."""
    if program.joined:
        yield f"  join   {', '.join(sorted(program.joined))}, which no kernel walks piece by piece"
    for step in program.steps:
        yield from _step(step)
    if program.copied:
        yield f"  copy   to {', '.join(p.name for p, _ in program.copied)}, not written in place"


def _step(step: Step) -> Iterator[str]:
    if isinstance(step, Kernel):
        c = step.cost
        temps = f", {len(step.temps)} temporaries" if step.temps else ""
        yield (f"  kernel {step.name} ({step.form}, {len(step.function.ops)} nests{temps}): "
               f"{c.moved} bytes of at least {c.least}, {c.flops} flops")  # fmt: skip
        yield from (f"    nest {n} -> {names} where {text}" for n, names, text in _conditions(step))
    elif isinstance(step, Blocks):
        yield f"  blocks of {step.block} = {step.rows} along {step.along} -> {_listed(step.outputs)}"
        yield from (f"  {line}" for line in _steps(step.program))
        for v, part in zip(step.outputs, step.parts, strict=True):
            if isinstance(part, Added):
                name = "the block" if part.product is None else part.product.name
                yield f"    add    {name} to %{v.name}"
    else:
        yield f"  call   {step.op.name} -> {_listed(step.outputs)}"


def _listed(values: Iterable[Operand]) -> str:
    return ", ".join(f"%{v.name}" for v in values if isinstance(v, Value))


def _explained(gradient: Gradient) -> Iterator[str]:
    """What a call keeps for its derivative, and what the two run."""
    parts = gradient.parts
    kept = ", ".join(f"{v.name} ({v.type})" for v in parts.kept) or "nothing"
    yield f"derivative by {', '.join(gradient.wrt)}: keeps {kept} beside arguments and results, {parts.bytes()} bytes"
    yield "steps with gradients:"
    yield from _steps(gradient.forward.program)
    yield "steps of the derivative:"
    yield from _steps(gradient.backward.program)
    if gradient.last is not None:
        names = _listed(gradient.last.traced.function.updates)
        yield f"unless the graph is retained, these become cotangents where they are: {names}"


def _conditions(kernel: Kernel) -> Iterator[tuple[int, str, str]]:
    """For which sizes the nests of a kernel run, of those that do not always, and what they write."""
    for n, nest in enumerate(kernel.function.ops):
        when = nest.attrs.get("when")
        if isinstance(when, tuple):
            size, low, high = when
            assert nest.body is not None
            stores = dict.fromkeys(o.operands[0] for o in walk(nest.body) if o.record is STORE)
            least, most = f"{low} <= " if low is not None else "", f" < {high}" if high is not None else ""
            yield n, _listed(stores), f"{least}{size}{most}"


def explain(variant: Variant, name: str, extra: Sequence[str] = ()) -> Explanation:
    """The notes of all passes, the steps, and what tracing had to settle (sizes that Python asked for)."""
    t = variant.traced
    settled = [
        f"specialised on {what} = {value}" + (f" at {span.file}:{span.line}" if span else "")
        for what, (value, span) in t.specialised.items()
    ]
    settled += [f"assumes {c}" for c in t.choices]
    said = (*t.notes, *settled, *extra)
    return Explanation(name, variant.fused.notes, variant.program, str(variant.layout), said, latest(variant))


@dataclass(frozen=True)
class VariantClass:
    """One kind of call that needs a variant of its own, known before anything runs."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class VariantList:
    """The classes by which variants differ. Sizes are never among them."""

    classes: tuple[VariantClass, ...]
    compiled: int

    def __iter__(self) -> Iterator[VariantClass]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def __str__(self) -> str:
        return "\n".join([f"{len(self.classes)} classes, {self.compiled} compiled", *(f"  {c}" for c in self.classes)])


__all__ = [
    "CostReport", "Explanation", "Lowered", "LoweredKernel", "ShapeError", "VariantClass", "VariantList", "cost",
    "explain", "ir", "lower",
]  # fmt: skip
