"""What a call of a plan does, in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from tessera.runtime.arena import Memory
from tessera.runtime.bound import Bound
from tessera.runtime.rows import Opaque, Row
from tessera.runtime.steps import Laid, Sizes


def described(plan: Laid, sizes: Sizes) -> tuple[str, ...]:
    """Its runs in order: tables with their rows, library calls between them, and the block that they share."""
    bound = Bound(plan, sizes)
    return tuple(_described(bound, bound.memory()))


def _described(bound: Bound, held: Memory) -> Iterator[str]:
    for packed, steps in groupby(bound.steps, lambda step: isinstance(step, Row)):
        if packed:
            yield f"table: {', '.join(step.name for step in steps if isinstance(step, Row))}"
        else:
            yield from (f"library: {step.step.name}" for step in steps if isinstance(step, Opaque))
    yield f"block: {held.whole} bytes for {len(held.offsets)} tensors, {len(held.late)} tensors by themselves"
