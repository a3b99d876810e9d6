"""Mechanical repairs for a refused operation. Each is tried out with the operation's own rule before it is
offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tessera.diag import Help, TesseraError
from tessera.frontend.handles import Dropped
from tessera.frontend.session import Call, InnerRefused, Session
from tessera.ir.dim import Dim
from tessera.ir.graph import Operand, Value
from tessera.ir.infer import Refused
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType, Type

if TYPE_CHECKING:
    from tessera.frontend.blame import Place

#: Refusals about sizes and ranks that a repair of an operand's shape may cure.
_CURABLE = frozenset({"TSR0201", "TSR0202", "TSR0204", "TSR0206"})


def suggestions(
    session: Session,
    call: Call,
    refused: Refused,
    operands: Sequence[Operand],
    inner: InnerRefused | None,
    places: Sequence[Place],
) -> tuple[str, list[Help]]:
    """A better code where there is one (TSR0217), and the repairs that pass the rule, most likely first."""
    if inner is None or inner.record.infer is None or refused.code not in _CURABLE:
        return "", []
    types = [x.type for x in operands]
    fits = _tester(session, inner)
    by_value = {place.handle._value: place for place in places}
    found: list[Help] = []
    for number, operand in enumerate(operands):
        place = by_value.get(operand) if isinstance(operand, Value) else None
        if place is None or not isinstance(types[number], TensorType):
            continue
        dropped = place.handle._dropped
        if (
            dropped is not None
            and (kept := _kept(types[number], dropped)) is not None
            and fits(_with(types, number, kept))
        ):
            return "TSR0217", [_keepdim_help(dropped)]
        widest = max(len(t.dims) for t in types if isinstance(t, TensorType))
        for text, new in _reshaped(place.name, types[number]):
            if new.rank <= widest and fits(_with(types, number, new)) is not None:
                found.append(Help(f"`{text}` has type {new} and fits"))
                break
    if inner.record.kind is Kind.CONTRACT and len(types) == 2 and fits([types[1], types[0]]) is not None:
        found.append(Help("the arguments fit in the other order"))
    return "", found[:3]


def _with(types: Sequence[Type], number: int, new: Type) -> list[Type]:
    return [new if n == number else t for n, t in enumerate(types)]


def _tester(session: Session, inner: InnerRefused) -> Callable[[Sequence[Type]], tuple[TensorType, ...] | None]:
    """Whether the refused operation takes these operand types; its attributes are kept."""
    record: OpRecord = inner.record
    attrs = inner.attrs

    def fits(types: Sequence[Type]) -> tuple[TensorType, ...] | None:
        assert record.infer is not None
        try:
            return record.infer(session.context.scratch(), tuple(types), attrs)
        except (Refused, TesseraError, IndexError, ValueError):
            return None

    return fits


def _kept(t: Type, dropped: Dropped) -> TensorType | None:
    """The type that the reduction would have given with ``keepdim=True``."""
    if not isinstance(t, TensorType):
        return None
    dims = list(t.dims)
    for axis in dropped.axes:
        if axis > len(dims):
            return None
        dims.insert(axis, Dim.const(1))
    return t.with_dims(dims)


def _keepdim_help(dropped: Dropped) -> Help:
    axes = ", ".join(map(str, dropped.axes))
    return Help(f"`{dropped.name}` dropped dim {axes}; with `keepdim=True` it stays as size 1 and broadcasts")


def _reshaped(name: str, t: Any) -> Iterator[tuple[str, TensorType]]:
    """Ways to give a tensor another shape without changing what it holds."""
    shown = name if name.isidentifier() or not name else f"({name})"
    if t.rank >= 2:
        *lead, a, b = t.dims
        yield f"{shown}.{'T' if t.rank == 2 else 'mT'}", t.with_dims((*lead, b, a))
    if t.rank >= 1:
        yield f"{shown}.unsqueeze(-1)", t.with_dims((*t.dims, Dim.const(1)))
    if t.rank >= 2:
        yield f"{shown}.unsqueeze(-2)", t.with_dims((*t.dims[:-1], Dim.const(1), t.dims[-1]))
