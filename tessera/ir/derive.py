"""What the derivative of an operation is given, and how most of them are put together.

A derivative takes the cotangents of an operation's results (the derivatives of some number by them) and gives those of
its operands. It is written with the same records as user code, so that what it emits is ordinary IR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tessera.ir.graph import Attr, Operation
from tessera.ir.infer import ONE
from tessera.ir.types import TensorType


class Undifferentiable(Exception):
    """An operation, or one operand of it, has no derivative. ``operand`` is its number, or None."""

    def __init__(self, op: Operation, operand: int | None = None) -> None:
        super().__init__(op.name)
        self.op, self.operand = op, operand


@dataclass(frozen=True, slots=True)
class Point:
    """Where a derivative is taken. ``t`` has every record as a function; ``inputs`` are symbolic tensors or numbers,
    ``outputs`` symbolic tensors, ``cotangents`` one for each result or None where it is 0, ``needs`` says for which
    operands a cotangent is wanted.
    """

    t: Any
    op: Operation
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    cotangents: tuple[Any, ...]
    needs: tuple[bool, ...]

    @property
    def attrs(self) -> Mapping[str, Attr]:
        return self.op.attrs

    @property
    def g(self) -> Any:
        """The cotangent of the first result."""
        return self.cotangents[0]

    def zeros(self, operand: int) -> Any:
        """Zeros like an operand."""
        return self.t.zeros_like(self.inputs[operand])


#: The cotangents of the operands, in order; None where one is 0 everywhere.
Derivative = Callable[[Point], tuple[Any, ...]]
#: The cotangent of one operand of an elementwise operation: ``part(t, g, y, *operands, **attrs)``.
Part = Callable[..., Any]


def zero(p: Point) -> tuple[Any, ...]:
    """The derivative of what is constant almost everywhere."""
    return (None,) * len(p.inputs)


def cut(p: Point) -> tuple[Any, ...]:
    """The derivative of what asks for no gradient, whatever its operands do."""
    return (None,) * len(p.inputs)


def parts(*given: Part | None) -> Derivative:
    """An elementwise derivative from one function for each operand; None stands for 0. Operands beyond the functions
    have no derivative.
    """

    def derivative(p: Point) -> tuple[Any, ...]:
        found: list[Any] = []
        for n, needed in enumerate(p.needs):
            if not needed:
                found.append(None)
                continue
            if n >= len(given):
                raise Undifferentiable(p.op, n)
            part = given[n]
            found.append(None if part is None else part(p.t, p.g, p.outputs[0], *p.inputs, **p.attrs))
        return tuple(found)

    return derivative


def like(t: Any, g: Any, kind: TensorType) -> Any:
    """A cotangent with the shape and the dtype of what it belongs to: summed over the axes along which that was
    repeated.
    """
    dims = t.dims(g)
    lead = len(dims) - kind.rank
    repeated = [lead + n for n, d in enumerate(kind.dims) if d is ONE and dims[lead + n] is not ONE]
    if repeated:
        g = t.sum(g, tuple(repeated), True)
    if lead:
        g = t.sum(g, tuple(range(lead)))
    return t.cast(g, kind.dtype)
