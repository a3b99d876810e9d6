"""What the scheduler hands to a backend: kernels, the library calls between them, and the memory that both need."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dim import Dim
from tessera.ir.graph import Function, Operand, Operation, Value
from tessera.ir.infer import ONE


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts as polynomials in the dims: bytes read and written, the fewest possible, and arithmetic operations."""

    read: Dim
    written: Dim
    least: Dim
    flops: Dim

    @property
    def moved(self) -> Dim:
        return self.read + self.written


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: a tile function, and which tensor values its buffers stand for.

    ``function.params`` are, in this order: one buffer for each of ``inputs``, ``outputs`` and ``temps``, then
    ``scalars``. ``updates`` are outputs that are written to the memory of a parameter, with that parameter; it is none
    of the ``inputs`` then.
    """

    function: Function
    form: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    temps: tuple[Value, ...]
    scalars: tuple[Value, ...]
    cost: Cost
    region: Operation
    updates: tuple[tuple[Value, Value], ...] = ()

    @property
    def name(self) -> str:
        return self.function.name


@dataclass(frozen=True, slots=True)
class Call:
    """A step that a library carries out: an op on whole tensors, or a view."""

    op: Operation

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(self.op.inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.op.results


@dataclass(frozen=True, slots=True)
class Added:
    """What a block gives for a result that is summed up over the blocks: a value, or the operands of a contraction that
    is added to the sum at once. A result that is put together from its blocks is no such.
    """

    value: Value
    product: Operation | None = None


def part_values(part: Value | Added) -> tuple[Value, ...]:
    """What one block must compute for a part."""
    if not isinstance(part, Added):
        return (part,)
    return (part.value,) if part.product is None else tuple(part.product.inputs)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Steps that are carried out for one block of rows after the other: ``rows`` of ``along`` at a time, the last time
    what is left. ``program`` are those of one block, in which ``block`` is the name of the number of its rows. Its
    parameters stand for ``inputs``; of those in ``cut`` it gets the rows of the block. Its outputs are for each of
    ``outputs`` the block, or what is added up.
    """

    op: Operation
    program: Program
    inputs: tuple[Value, ...]
    cut: frozenset[Value]
    outputs: tuple[Value, ...]
    parts: tuple[Value | Added, ...]
    block: str
    along: Dim
    rows: Dim


Step = Kernel | Call | Blocks


@dataclass(frozen=True, slots=True)
class Cut:
    """A region that could not become one kernel and was taken apart into its operations, and why."""

    region: Operation
    reason: str

    def __str__(self) -> str:
        results = ", ".join(f"%{r.name}" for r in self.region.results)
        return f"{self.region.name} {results} taken apart: {self.reason}"


@dataclass(frozen=True, slots=True)
class Layouts:
    """How parameters lie in memory, by name: ``strided`` ones are not dense, of which those in ``lined`` are so along
    their last dim, and those in ``pieces`` are several blocks.
    """

    strided: frozenset[str] = frozenset()
    pieces: frozenset[str] = frozenset()
    lined: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Program:
    """A scheduled function: its steps in order. ``outputs`` may name parameters and literals.

    ``pieces`` names the parameters that lie in several blocks of memory, ``joined`` those of them that are brought
    into one block before the first step.
    """

    function: Function
    steps: tuple[Step, ...]
    outputs: tuple[Operand, ...]
    strided: frozenset[str] = frozenset()
    cuts: tuple[Cut, ...] = ()
    pieces: frozenset[str] = frozenset()
    joined: frozenset[str] = frozenset()

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All kernels in order, those of blocks included."""
        inside = ((s,) if isinstance(s, Kernel) else s.program.kernels for s in self.steps if not isinstance(s, Call))
        return tuple(k for kernels in inside for k in kernels)

    @property
    def calls(self) -> tuple[Call, ...]:
        """All library calls in order, those of blocks included."""
        inside = ((s,) if isinstance(s, Call) else s.program.calls for s in self.steps if not isinstance(s, Kernel))
        return tuple(c for calls in inside for c in calls)

    @property
    def copied(self) -> tuple[tuple[Value, Operand], ...]:
        """The parameters to be updated with what no kernel writes to their memory, each with that."""
        direct = {p for k in self.steps if isinstance(k, Kernel) for _, p in k.updates}
        return tuple((p, x) for p, x in self.function.written if p not in direct)


class Unschedulable(Exception):
    """A region cannot become a kernel; the message says why."""


ZERO = Dim.const(0)
__all__ = [
    "ONE", "ZERO", "Added", "Blocks", "Call", "Cost", "Cut", "Kernel", "Layouts", "Program", "Step", "Unschedulable",
    "part_values",
]  # fmt: skip
