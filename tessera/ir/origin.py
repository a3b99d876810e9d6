"""What the origin of an operation says beside the composite that it was written as: whose derivative it is part of, and
which region of recomputation it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from tessera.ir.graph import Operation

#: What the origin of an operation ends in that stands for the derivative of another.
GRAD = ".grad"
_REGION = re.compile(r"(checkpoint\d+)\.(.*)")


def of_gradient(op: Operation) -> str:
    """The origin of what the derivative of an operation is made of."""
    name = op.origin or op.name
    return name if name.endswith(GRAD) else name + GRAD


def region_of(op: Operation) -> str:
    """The region of recomputation that an operation stands in; empty outside of any.

    >>> from tessera.ir.parser import parse
    >>> f = parse("fn f(x: f32[B]) -> f32[B] { %y = exp(x) @checkpoint1.softmax : f32[B] return %y }")
    >>> region_of(f.ops[0]), f.ops[0].origin
    ('checkpoint1', 'checkpoint1.softmax')
    """
    found = _REGION.fullmatch(op.origin)
    return "" if found is None else found[1]


def in_region(number: int) -> Callable[[Operation], Operation]:
    """What puts operations into a region; those of an inner region belong to the outer one."""

    def mark(op: Operation) -> Operation:
        found = _REGION.fullmatch(op.origin)
        inner = op.origin if found is None else found[2]
        return replace(op, origin=f"checkpoint{number}.{inner or op.name}")

    return mark
