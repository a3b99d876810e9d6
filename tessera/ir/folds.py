"""Operations that go along axes in order: a reduction leaves what it reached in the end, a scan all it reached."""

from __future__ import annotations

from tessera.ir.graph import Operation
from tessera.ir.record import Kind

FOLDS = frozenset({Kind.REDUCE, Kind.SCAN})


def folded_axes(op: Operation) -> tuple[int, ...]:
    """The axes of its operand that a reduction or a scan goes along."""
    dim = op.attrs["dim"]
    axes = dim if isinstance(dim, tuple) else (dim,)
    return tuple(int(a) for a in axes)  # type: ignore[arg-type]
