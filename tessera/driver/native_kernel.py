"""Hand-written kernels as C: a block program compiled once, and run on tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from tessera.backends.base import Packed
from tessera.backends.c import backend as c_backend
from tessera.backends.c.emit import PARALLEL_FROM
from tessera.backends.c.load import SharedObject
from tessera.backends.c.skeleton import known_divisors, lined
from tessera.diag import BoundsError, Label, ShapeError, TesseraError
from tessera.driver.variant import Lazy, check_ir
from tessera.frontend.kernel.program import KernelProgram
from tessera.ir.dialects.block import FETCH, PART, PUT
from tessera.ir.graph import Block, Function, Operation, Value, walk
from tessera.ir.types import BufferType
from tessera.passes.base import Row, run_pipeline
from tessera.passes.fuse import Fuse
from tessera.passes.parts import Parts
from tessera.passes.pipeline import PASSES
from tessera.runtime.cache import default_cache
from tessera.runtime.keys import content_key, environment_parts
from tessera.runtime.steps import Native, NoAddressError
from tessera.schedule.owned import own_kernels
from tessera.schedule.plan import Program

#: What is done to each part of a program.
_ROWS = (
    *(Row(PASSES[name], "as in a function") for name in ("canonicalize", "cse", "dce")),
    Row(Fuse(folds=False), "blocks are small: what is made of a product is near when it is folded"),
)


@dataclass
class NativeKernel:
    """A block program as C, compiled when it first runs or its source is asked for.

    Raises ResourceError (TSR0601, TSR0602, TSR0604) and TraceError (TSR0408) for a program that has no C.
    """

    program: KernelProgram
    _measured: tuple[tuple[int, ...], int, int] | None = field(default=None, repr=False)

    @Lazy
    def function(self) -> Function:
        """The program with its operations on blocks in parts."""
        return Parts().run(self.program.function)

    @Lazy
    def lined(self) -> frozenset[Value]:
        """The blocks that kernels read where they lie in a buffer, row by row."""
        return lined(self.function)

    @Lazy
    def parts(self) -> dict[Operation, Program]:
        """The kernels of each part."""
        found: dict[Operation, Program] = {}
        obligations = self.program.function.obligations
        for n, op in enumerate(o for o in walk(self.function.body) if o.record is PART):
            assert op.body is not None
            inputs = tuple(op.inputs)
            f = Function(f"part_{n}", Block(op.body.ops, inputs, op.results), obligations=obligations, span=op.span)
            *_, fused = run_pipeline(f, _ROWS, check_ir).values()
            found[op] = own_kernels(fused, frozenset(v.name for v in inputs if v in self.lined))
        return found

    @Lazy
    def code(self) -> c_backend.BlockCode:
        return c_backend.emit_program(self.function, self.parts, self.lined)

    @property
    def source(self) -> str:
        """The C text."""
        return self.code.program.text

    @Lazy
    def entry(self) -> Native:
        """The compiled program, or the one in the cache."""
        native, built = self.code.program, list[SharedObject]()
        key = content_key(*native.key_parts(), *environment_parts())

        def build() -> Packed:
            artifact = native.compile(key)
            built.append(artifact.load())
            return artifact.pack()

        packed = default_cache().get_or_build(key, build)
        library = built[0] if built else c_backend.CArtifact.unpack(packed).load()
        return Native.at(library.address(self.code.entry.entry))

    def prepare(self) -> None:
        """Compile, if that has not been done."""
        _ = self.entry

    @Lazy
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The parameters that are buffers, and those that are numbers."""
        params = self.program.params.items()
        buffers = tuple(name for name, v in params if isinstance(v.type, BufferType))
        return buffers, tuple(name for name, _ in params if name not in buffers)

    @Lazy
    def packed(self) -> Callable[..., bytes]:
        """The arguments of the entry as it takes them."""
        buffers, scalars = self.names
        return struct.Struct(f"={len(buffers) + 2 + len(self.code.entry.sizes)}q{len(scalars)}d").pack

    @Lazy
    def sized(self) -> tuple[Callable[[Mapping[str, int]], int], Callable[[Mapping[str, int]], int]]:
        """What ``measured`` gives of any sizes."""
        return tuple(d.evaluator(signed=True) for d in (self.code.entry.scratch, self.code.entry.work))  # type: ignore[return-value]

    def measured(self, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], int, int]:
        """The sizes as the entry takes them, the bytes that each thread needs, and the points that loops visit.

        Raises ZeroDivisionError where something is divided by a size that is none.
        """
        names = self.code.entry.sizes
        given = tuple(sizes[n] for n in names)
        found = self._measured
        if found is None or found[0] != given:
            if any(d(sizes) <= 0 for d in self.divisors):
                raise ZeroDivisionError("integer division by zero")
            scratch, work = self.sized
            found = self._measured = given, scratch(sizes), work(sizes)
        return found

    @Lazy
    def divisors(self) -> tuple[Callable[[Mapping[str, int]], int], ...]:
        """The sizes that something is divided by."""
        return tuple(d.evaluator(signed=True) for d in known_divisors(self.function))

    def run(
        self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, float], sizes: Mapping[str, int]
    ) -> None:  # fmt: skip
        """Run on dense tensors, of which those that the program writes are written to.

        Raises BoundsError (TSR0605), ShapeError (TSR0106) and ZeroDivisionError for what the kernel does wrong.
        """
        given, scratch, work = self.measured(sizes)
        threads = torch.get_num_threads() if work >= PARALLEL_FROM else 1
        room = torch.empty(threads * scratch, dtype=torch.uint8)
        buffers, scalars = self.names
        places = [tensors[name].data_ptr() for name in buffers]
        if not all(places) and any(tensors[name].numel() for name, at in zip(buffers, places, strict=True) if not at):
            raise NoAddressError(self.program.function.name)
        floats = (float(numbers[name]) for name in scalars)
        code = self.entry.call(self.packed(*places, room.data_ptr(), threads, *given, *floats))
        if code:
            raise self.failure(code)

    def failure(self, code: int) -> TesseraError | ZeroDivisionError:
        """The exception that a code stands for."""
        kind, op = code & 15, self.code.sites[(code >> 4) - 1]
        labels = [] if op.span is None else [Label(op.span, "here", True)]
        if kind & 8:
            return ShapeError("a loop in steps below 1", code="TSR0106", labels=labels)
        if kind & 2:
            verb = "written" if op.record is PUT else "read"
            where = f"outside of `{op.operands[0].name}`" if op.record in (FETCH, PUT) else "out of range"  # type: ignore[union-attr]
            return BoundsError(f"a position that is {verb} is {where}", labels=labels)
        place = "" if op.span is None else f" at {op.span.file}:{op.span.line}"
        return ZeroDivisionError(f"integer division by zero in `{self.program.function.name}`{place}")
