"""A scan of the tensor dialect, taken apart: its first carries, what it walks along, what it reads besides, its step.

The operands of the operation are the first carries, the tensors that are scanned, and every value from outside that
the body reads by its own name. Block parameters are the carries and one slice of each scanned tensor; the body yields
the new carries and what is stacked; results are the last carries and the stacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tessera.ir.dim import Dim, ceildiv
from tessera.ir.graph import Block, Operand, Operation, Value, walk

#: Control operations inside each other beyond this are refused, so that what walks them may call itself.
DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Loop:
    """The parts of one scan.

    >>> from tessera.ir.parser import parse
    >>> f = parse('''fn total(x: f32[S, D], s: f32[D]) -> f32[D] {
    ...   %last = scan(s, x, carries=1, dim=0, reverse=false) : f32[D] {
    ...     ^(c: f32[D], row: f32[D])
    ...     %sum = add(c, row) : f32[D]
    ...     yield %sum
    ...   }
    ...   return %last
    ... }''')
    >>> loop = Loop.of(f.ops[0])
    >>> str(loop.size), [p.name for p in loop.carries], [p.name for p in loop.slices], loop.captured
    ('S', ['c'], ['row'], ())
    """

    op: Operation
    body: Block
    dim: int
    reverse: bool
    #: How many slices a step takes, along an axis of their own; 0 for one without that axis.
    rows: int
    init: tuple[Operand, ...]
    xs: tuple[Operand, ...]
    captured: tuple[Operand, ...]
    carries: tuple[Value, ...]
    slices: tuple[Value, ...]
    next: tuple[Operand, ...]
    ys: tuple[Operand, ...]
    last: tuple[Value, ...]
    stacks: tuple[Value, ...]

    @staticmethod
    def of(op: Operation) -> Loop:
        """The parts of a scan that the verifier has found to be one."""
        body, at, dim = op.body, op.attrs["carries"], op.attrs["dim"]
        assert body is not None and isinstance(at, int) and isinstance(dim, int)
        end, rows = len(body.params), op.attrs.get("rows", 0)
        assert isinstance(rows, int)
        return Loop(
            op, body, dim, bool(op.attrs["reverse"]), rows, op.operands[:at], op.operands[at:end], op.operands[end:],
            body.params[:at], body.params[at:], body.yields[:at], body.yields[at:], op.results[:at], op.results[at:],
        )  # fmt: skip

    @property
    def size(self) -> Dim:
        """How many slices there are."""
        return self.xs[0].type.dims[self.dim]

    @property
    def count(self) -> Dim:
        """How many steps there are."""
        return ceildiv(self.size, Dim.const(self.rows)) if self.rows else self.size

    def position(self, step: Dim, row: Dim) -> Dim:
        """The slice that is a row of a step."""
        at = step * max(self.rows, 1) + row
        return self.size - 1 - at if self.reverse else at


def outer_values(block: Block) -> tuple[Value, ...]:
    """What a block reads from outside of itself, in the order of reading. An operation with a body lists the reads of
    that among its operands.
    """
    inside = set(block.params)
    for op in block.ops:
        inside.update(op.results)
    read: dict[Value, None] = {}
    for op in block.ops:
        read.update(dict.fromkeys(v for v in op.inputs if v not in inside))
    read.update(dict.fromkeys(v for v in block.yields if isinstance(v, Value) and v not in inside))
    return tuple(read)


def with_body(op: Operation, body: Block, given: tuple[Operand, ...] | None = None) -> Operation:
    """A scan with another step; ``given`` are its carries and scanned tensors, where these change too."""
    first = op.operands[: len(body.params)] if given is None else given
    return replace(op, operands=(*first, *outer_values(body)), body=body)


def steps(block: Block) -> Iterator[Operation]:
    """The operations of a block as they are carried out: groups are opened, the body of a control operation is not."""
    return (op for op in walk(block, steps=False) if op.body is None or op.body.params)
